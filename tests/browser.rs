//! The pages in a browser that runs their scripts, on a desktop and a phone, light and dark, while a real service gets into trouble.

mod common;

use common::browser::{Browser, SCREENS};
use common::{GoVersion, Memtrap, Svc};

const LISTEN: &str = "listen = \"127.0.0.1:0\"\n";

/// On no screen may the page be wider than the screen, say what only a program says, or have a script that fails.
fn look_at(browser: &Browser, name: &str) {
    for screen in SCREENS {
        browser.look_on(screen);
        assert_eq!(browser.too_wide(), serde_json::Value::Null, "{name} on {}", screen.name);
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)");
        let ground: u64 = ground.as_array().unwrap().iter().map(|c| c.as_u64().unwrap()).sum();
        assert_eq!(ground < 3 * 128, screen.is_dark, "{name} on {}: a ground of {ground}", screen.name);
        browser.picture(&format!("{name}-{}", screen.name));
    }
    assert_no_nonsense(browser, name);
}

fn assert_no_nonsense(browser: &Browser, name: &str) {
    let text = browser.text();
    for word in ["undefined", "null", "NaN", "[object"] {
        assert!(!text.contains(word), "{name} says {word}:\n{text}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new(), "{name}");
}

/// Waits for the page to have renewed itself twice, without being loaded again.
fn wait_for_renewals(browser: &Browser) {
    browser.run("window.before = document.querySelector('.time').textContent; return null");
    for _ in 0..2 {
        browser.wait_until(30, "the page renews itself", "return document.querySelector('.time').textContent !== window.before");
        browser.run("window.before = document.querySelector('.time').textContent; return null");
    }
}

#[test]
fn the_status_page_renews_itself_through_an_incident_and_says_nothing_but_what_the_server_says() {
    let Some(browser) = Browser::start("the status page, in a browser") else { return };
    let svc = Svc::start(GoVersion::Newest, &[]);
    let keys = "threshold = \"150MiB\"\nfor = \"0s\"\ncpu_seconds = 3\n";
    let config = format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\n{keys}", svc.pid(), svc.pprof());
    let memtrap = Memtrap::start_with(LISTEN, &config);
    browser.open(&format!("http://{}/", memtrap.address()));
    browser.wait_until(30, "the instance is armed", "return !!document.querySelector('.card.armed')");
    wait_for_renewals(&browser);
    look_at(&browser, "status-armed");

    browser.run("document.querySelector('.card button').focus(); window.card = document.querySelector('.card'); return null");
    svc.tell("grow?bytes=209715200");
    browser.wait_until(60, "the incident is seen", "return !!document.querySelector('.card.capturing, .card.open')");
    assert_no_nonsense(&browser, "the page of a capture");
    browser.wait_until(60, "its bundle is listed", "return !!document.querySelector('.bundles li a.report')");
    wait_for_renewals(&browser);
    look_at(&browser, "status-open");
    let told = browser.run("return [document.querySelector('.headline').textContent, document.querySelectorAll('.bundles li').length]");
    assert_eq!(told, serde_json::json!(["Watching 1 instance of 1 target; 1 incident", 1]));
}

#[test]
fn who_works_with_the_keyboard_keeps_the_focus_while_the_page_renews_itself() {
    let Some(browser) = Browser::start("the focus on the status page") else { return };
    let svc = Svc::start(GoVersion::Newest, &[]);
    let config = format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\nthreshold = \"9GiB\"\nwarmup = \"4s\"\n", svc.pid());
    let memtrap = Memtrap::start_with(LISTEN, &config);
    browser.open(&format!("http://{}/", memtrap.address()));
    browser.run("document.querySelector('.card h2 a').focus(); return null");
    let shown = || browser.run("return document.querySelector('.time').textContent");
    let before = shown();
    wait_for_renewals(&browser);
    assert_ne!(shown(), before, "a part with the focus in it is renewed like the others");
    assert_eq!(browser.run("return document.activeElement.textContent"), "svc");
}

#[test]
fn a_page_whose_memtrap_is_gone_says_so_and_keeps_what_it_knew() {
    let Some(browser) = Browser::start("the status page without its server") else { return };
    let svc = Svc::start(GoVersion::Newest, &[]);
    let config = format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\nthreshold = \"9GiB\"\n", svc.pid());
    let mut memtrap = Memtrap::start_with(LISTEN, &config);
    browser.open(&format!("http://{}/", memtrap.address()));
    memtrap.stop(rustix::process::Signal::TERM);
    browser.wait_until(60, "the page says that nobody answers", "return !document.getElementById('said').hidden");
    let text = browser.text();
    assert!(text.contains("memtrap does not answer; what is shown is of") && text.contains("svc"), "{text}");
}

#[test]
fn a_report_and_its_files_fit_on_a_phone_and_are_read_by_touch_and_keyboard() {
    let Some(browser) = Browser::start("the report, in a browser") else { return };
    let svc = Svc::start(GoVersion::Newest, &[]);
    let keys = "threshold = \"150MiB\"\nfor = \"0s\"\ncpu_seconds = 2\n";
    let config = format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\n{keys}", svc.pid(), svc.pprof());
    let memtrap = Memtrap::start_with(LISTEN, &config);
    svc.tell("goroutines?n=300");
    svc.tell("grow?bytes=209715200");
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    let base = format!("http://{}/bundles/svc/{}", memtrap.address(), bundle.file_name().unwrap().to_str().unwrap());

    browser.open(&format!("{base}/report.html"));
    browser.run("document.querySelectorAll('details').forEach((d) => d.open = true); return null");
    look_at(&browser, "report");
    // the last screen is a phone: what is about the cause comes before the bar, the curve, and what is folded
    let order = browser.run("return [...document.querySelectorAll('main h2')].map((h) => h.textContent)");
    let order: Vec<&str> = order.as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
    assert_eq!(order[0], "What holds it");
    assert!(order[1].starts_with("Where the ") && order[2] == "RSS over time", "{order:?}");
    let shown = |what: &str| browser.run(&format!("return getComputedStyle(document.querySelector('{what}')).display !== 'none'"));
    assert_eq!((shown(".paths"), shown(".flame")), (true.into(), false.into()), "a list where a picture would be too narrow");
    browser.look_on(SCREENS[0]);
    assert_eq!((shown(".paths"), shown(".flame")), (false.into(), true.into()));
    browser.run("document.querySelector('.flame i[tabindex]').focus(); return null");
    browser.press("\u{e004}");
    let said = browser.run("return getComputedStyle(document.activeElement, '::after').content");
    assert!(said.as_str().unwrap().contains("MiB"), "the frame that has the focus says what it is: {said}");

    browser.open(&format!("{base}/"));
    look_at(&browser, "files");
}
