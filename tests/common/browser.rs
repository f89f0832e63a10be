//! A Chromium that runs the pages' scripts, driven over the WebDriver protocol. Its only network is loopback.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{ask, try_ask};
use super::{fetched, repo, wait_until};

/// A screen that pages are looked at on.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub name: &'static str,
    pub width: u32,
    pub height: u32,
    pub is_dark: bool,
    pub is_phone: bool,
}

/// A desktop and a phone, light and dark.
pub const SCREENS: [Screen; 4] = [
    Screen { name: "desktop-light", width: 1280, height: 900, is_dark: false, is_phone: false },
    Screen { name: "desktop-dark", width: 1280, height: 900, is_dark: true, is_phone: false },
    Screen { name: "phone-light", width: 390, height: 844, is_dark: false, is_phone: true },
    Screen { name: "phone-dark", width: 390, height: 844, is_dark: true, is_phone: true },
];

/// Ends with its owner: the driver's standard input closes even if the test is killed, and that ends the driver and its Chromium.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: TempDir,
}

/// The paths of Chromium and its driver; `None`, said loudly, where they cannot be had.
fn programs(what: &str) -> Option<(PathBuf, PathBuf)> {
    let paths = fetched("browser", &[], what)?;
    let (browser, driver) = paths.split_once('\n').unwrap();
    Some((browser.into(), driver.into()))
}

/// Of the process's standard input, by the shell: closing it ends the driver, and the Chromium with this profile, which would outlive it.
const UNTIL_STDIN_CLOSES: &str = "\"$0\" --port=0 & trap 'kill $!; pkill -f -- \"--user-data-dir=$1\"' EXIT; read -r _ || :";

impl Browser {
    /// `None`, said loudly, where there is none; then `what` is not checked.
    pub fn start(what: &str) -> Option<Browser> {
        let (chromium, chromedriver) = programs(what)?;
        let profile = TempDir::new().unwrap();
        let mut driver = Command::new("sh");
        driver
            .args(["-c", UNTIL_STDIN_CLOSES])
            .arg(chromedriver)
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut driver = driver.spawn().unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines
            .find_map(|l| Some(l.split_once("successfully on port ")?.1.trim_end_matches('.').to_owned()))
            .expect("chromedriver names its port");
        // it goes on speaking, and must not meet a closed pipe
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Browser { driver, address: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            &profile,
        ];
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let session = browser.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(browser)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let answer = ask(&self.address, method, &format!("{}{path}", self.session), &[("Content-Type", "application/json")], &body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.json()["value"].take()
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// What is shown from now on is shown on such a screen.
    pub fn look_on(&self, screen: Screen) {
        let Screen { width, height, is_dark, is_phone, .. } = screen;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
        self.devtools("Emulation.setTouchEmulationEnabled", json!({ "enabled": is_phone }));
        let scheme = if is_dark { "dark" } else { "light" };
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }));
    }

    /// Returns once the page and what it is made of are loaded.
    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url }));
    }

    /// What this body of a function returns in the page.
    pub fn run(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap().to_owned()
    }

    pub fn wait_until(&self, seconds: u64, what: &str, script: &str) {
        wait_until(Duration::from_secs(seconds), what, || self.run(script) == true);
    }

    /// Presses a key where the focus is; special ones are of WebDriver's private range, such as `\u{e004}` for the tabulator.
    pub fn press(&self, key: &str) {
        let pressed = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.ask("POST", "/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": pressed }] }));
    }

    /// What went wrong in the page since this was last asked: errors of scripts, what its policy refused, files that are not there.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.ask("POST", "/se/log", &json!({ "type": "browser" }));
        let grave = log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE");
        grave.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Elements that reach beyond the page's right edge, and by how much the page can be scrolled sideways.
    pub fn too_wide(&self) -> Value {
        self.run(
            "const wide = document.documentElement.clientWidth, over = document.documentElement.scrollWidth - wide;\
             const tell = (e) => `${e.tagName}.${e.getAttribute('class')} ${Math.round(e.getBoundingClientRect().right)}`;\
             return over > 0 ? [over, [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > wide + 1)\
             .slice(0, 8).map(tell)] : null;",
        )
    }

    /// A picture of the whole page below `target/screens`, for a person to look at.
    pub fn picture(&self, name: &str) {
        let shot = self.devtools("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let dir = repo().join("target/screens");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{name}.png")), base64(shot["data"].as_str().unwrap())).unwrap();
    }
}

/// The bytes that this text stands for.
fn base64(text: &str) -> Vec<u8> {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for sign in text.bytes().filter_map(|b| SIGNS.iter().position(|s| *s == b)) {
        (bits, held) = ((bits << 6) | sign as u32, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium goes with its session; where that fails, with the shell
        let _ = try_ask(&self.address, "DELETE", &self.session, &[], "");
        drop(self.driver.stdin.take());
        let _ = self.driver.wait();
    }
}
