//! Who is told of a bundle: webhooks, chats, a real Alertmanager, and programs.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use common::inbox::{Inbox, Letter};
use common::{DebianServer, GoVersion, Memtrap, Svc, bundles_in, run, wait_until};
use rustix::process::Signal;

fn leaking() -> Svc {
    Svc::start(GoVersion::Newest, &["-leak", "41943040", "-max", "104857600"])
}

fn target(svc: &Svc) -> String {
    format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\ncpu_seconds = 0\nthreshold = \"60MiB\"\nfor = \"0s\"\n",
        svc.pid(),
        svc.pprof()
    )
}

fn verdict(bundle: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap()
}

/// A script that may be run.
fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn every_kind_of_receiver_is_told_the_verdict_once() {
    let Some(alertmanager) = DebianServer::alertmanager() else { return };
    let (webhook, chat) = (Inbox::start(200), Inbox::start(200));
    let dir = tempfile::tempdir().unwrap();
    let (hook, facts) = (dir.path().join("hook"), dir.path().join("facts"));
    script(&hook, &format!("env | sort > {}.new && mv {0}.new {0}", facts.display()));
    fs::write(dir.path().join("chat.url"), format!("{}\n", chat.url("/services/T0/s3cret"))).unwrap();
    fs::write(dir.path().join("token"), "t0ps3cret\n").unwrap();
    let svc = leaking();
    let d = dir.path().display();
    let memtrap = Memtrap::start_with(
        "external_url = \"https://memtrap.test\"",
        &format!(
            "[[notify]]\nkind = \"webhook\"\nurl = \"{}\"\nauth = {{ bearer_file = \"{d}/token\" }}\n\
             [[notify]]\nkind = \"slack\"\nurl_file = \"{d}/chat.url\"\nmessage = \"<{{target}}> {{cause}}: {{summary}}\"\n\
             [[notify]]\nkind = \"alertmanager\"\nurl = \"{}\"\nlabels = {{ severity = \"page\" }}\n\
             [[notify]]\nkind = \"exec\"\ncommand = [\"{}\"]\n{}",
            webhook.url("/memtrap"),
            alertmanager.url(),
            hook.display(),
            target(&svc)
        ),
    );
    let bundle = memtrap.wait_for_bundles(30, 1).remove(0);
    memtrap.wait_until(20, "all four are told", |m| m.log().matches("notified receiver=").count() == 4);
    let verdict = verdict(&bundle);
    let (summary, cause) = (verdict["summary"].as_str().unwrap(), verdict["cause"].as_str().unwrap());
    let id = format!("svc/{}", bundle.file_name().unwrap().to_str().unwrap());
    let link = format!("https://memtrap.test/bundles/{id}/report.html");

    let [letter]: [Letter; 1] = webhook.letters().try_into().unwrap();
    let body = letter.json();
    assert_eq!((letter.path.as_str(), letter.headers["authorization"].as_str()), ("/memtrap", "Bearer t0ps3cret"));
    assert_eq!(letter.headers["idempotency-key"], body["key"].as_str().unwrap());
    assert_eq!((&body["schema"], body["bundle"].as_str(), body["link"].as_str()), (&1.into(), Some(&*id), Some(&*link)));
    assert_eq!((body["verdict"]["summary"].as_str(), body["trigger"]["trigger"].as_str()), (Some(summary), Some("threshold")));
    assert!(body["message"].as_str().unwrap().ends_with(&format!("{summary}\n{link}")), "{body:#}");

    let [letter]: [Letter; 1] = chat.letters().try_into().unwrap();
    assert_eq!((letter.path.as_str(), &letter.json()["text"]), ("/services/T0/s3cret", &format!("&lt;svc&gt; {cause}: {summary}").into()));

    let alerts = get(&format!("{}/api/v2/alerts", alertmanager.url()));
    let alerts: serde_json::Value = serde_json::from_str(&alerts).unwrap();
    assert_eq!(alerts.as_array().unwrap().len(), 1, "{alerts:#}");
    let (labels, annotations) = (&alerts[0]["labels"], &alerts[0]["annotations"]);
    assert_eq!((labels["alertname"].as_str(), labels["severity"].as_str()), (Some("MemtrapIncident"), Some("page")));
    assert_eq!((labels["target"].as_str(), labels["cause"].as_str()), (Some("svc"), Some(cause)));
    assert_eq!((annotations["summary"].as_str(), alerts[0]["generatorURL"].as_str()), (Some(summary), Some(&*link)));

    let facts = fs::read_to_string(facts).unwrap();
    for fact in [
        "MEMTRAP_TARGET=svc".to_owned(),
        format!("MEMTRAP_PID={}", svc.pid()),
        format!("MEMTRAP_BUNDLE_PATH={}", bundle.display()),
        format!("MEMTRAP_SUMMARY={summary}"),
        format!("MEMTRAP_CAUSE={cause}"),
        format!("MEMTRAP_LINK={link}"),
    ] {
        assert!(facts.lines().any(|line| line == fact), "{fact} is not in\n{facts}");
    }
    assert!(!facts.contains("CARGO"), "nothing of memtrap's own environment:\n{facts}");
    let log = memtrap.log();
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn a_receiver_that_is_down_is_told_later_though_memtrap_was_killed_meanwhile() {
    let (down, well) = (Inbox::start(503), Inbox::start(204));
    let svc = leaking();
    let receivers = format!(
        "[[notify]]\nname = \"down\"\nkind = \"webhook\"\nurl = \"{}\"\n[[notify]]\nname = \"well\"\nkind = \"webhook\"\nurl = \"{}\"\n",
        down.url("/d"),
        well.url("/w")
    );
    let mut memtrap = Memtrap::start(&(receivers + &target(&svc)));
    memtrap.wait_until(30, "it has failed", |m| {
        let log = m.log();
        log.contains("not notified; it is tried again") && log.contains("notified receiver=\"well\"")
    });
    assert!(memtrap.log().contains("HTTP 503 `sorry`"), "{}", memtrap.log());
    memtrap.stop(Signal::KILL);
    down.answer(200);
    let before = down.letters().len();
    memtrap.start_again();
    memtrap.wait_until(30, "it is told", |m| m.log().matches("notified receiver=\"down\"").count() == 1);
    let keys: Vec<String> = down.letters().iter().map(|l| l.headers["idempotency-key"].clone()).collect();
    assert!(keys.len() > before && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(well.letters().len(), 1, "who was told is not told again");
}

#[test]
fn a_bundle_of_which_nobody_was_told_before_a_kill_is_told_of_at_the_next_start() {
    let inbox = Inbox::start(200);
    let svc = leaking();
    let receiver = format!("[[notify]]\nkind = \"webhook\"\nurl = \"{}\"\n", inbox.url("/"));
    let mut memtrap = Memtrap::start(&(receiver.clone() + &target(&svc)));
    // and noted: a stop between the two would have it told once more
    let noted = |m: &Memtrap| m.log().matches("notified receiver=").count();
    memtrap.wait_until(30, "told", |m| noted(m) == 1);
    memtrap.stop(Signal::TERM);
    // as a kill between the bundle and its notice leaves it
    let queue = memtrap.dir().join("state/egress/notify");
    let notes: Vec<_> =
        fs::read_dir(&queue).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "done")).collect();
    assert_eq!(notes.len(), 1);
    fs::remove_file(&notes[0]).unwrap();
    memtrap.start_again();
    memtrap.wait_until(30, "told again", |m| noted(m) == 2);
    let [one, other] = [0, 1].map(|i| inbox.letters()[i].headers["idempotency-key"].clone());
    assert_eq!(one, other);

    // a receiver that is new is told of what is new
    let newcomer = Inbox::start(200);
    let second = format!("[[notify]]\nname = \"new\"\nkind = \"webhook\"\nurl = \"{}\"\n", newcomer.url("/"));
    memtrap.stop(Signal::TERM);
    memtrap.configure("", &(receiver + &second + &target(&svc)));
    memtrap.start_again();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((newcomer.letters().len(), inbox.letters().len()), (0, 2));
}

#[test]
fn receivers_that_hang_delay_neither_a_capture_nor_one_another() {
    let (hangs, well) = (Inbox::start(0), Inbox::start(200));
    let dir = tempfile::tempdir().unwrap();
    let (hook, child) = (dir.path().join("hook"), dir.path().join("child"));
    script(&hook, &format!("sleep 600 & echo $! > {}\nwait", child.display()));
    let (one, other) = (leaking(), leaking());
    let config = format!(
        "[[notify]]\nname = \"hangs\"\nkind = \"webhook\"\nurl = \"{}\"\ntimeout = \"2s\"\n\
         [[notify]]\nname = \"hook\"\nkind = \"exec\"\ncommand = [\"{}\"]\ntimeout = \"2s\"\n\
         [[notify]]\nname = \"well\"\nkind = \"webhook\"\nurl = \"{}\"\n{}{}",
        hangs.url("/"),
        hook.display(),
        well.url("/"),
        target(&one),
        target(&other).replace("\"svc\"", "\"other\"")
    );
    let memtrap = Memtrap::start(&config);
    memtrap.wait_until(30, "the well is told of both", |_| well.letters().len() == 2);
    assert_eq!(bundles_in(&memtrap.bundle_dir()).len(), 2);
    memtrap.wait_until(30, "both are given up for now", |m| {
        let log = m.log();
        ["hangs", "hook"].iter().all(|name| log.contains(&format!("receiver=\"{name}\"")) && log.matches("no end within 2s").count() >= 2)
    });
    let started: u32 = fs::read_to_string(child).unwrap().trim().parse().unwrap();
    wait_until(Duration::from_secs(10), "what the hook has started is gone", || !is_alive(started));
}

#[test]
fn a_hook_that_fails_is_told_in_its_own_words_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (hook, tries) = (dir.path().join("hook"), dir.path().join("tries"));
    script(
        &hook,
        &format!(
            "echo x >> {0}\n[ $(wc -l < {0}) -ge 2 ] && exit 0\nyes 'pager not reachable' | head -c 1000000 >&2\nexit 3",
            tries.display()
        ),
    );
    let svc = leaking();
    let memtrap = Memtrap::start(&format!("[[notify]]\nkind = \"exec\"\ncommand = [\"{}\"]\n{}", hook.display(), target(&svc)));
    memtrap.wait_until(40, "told in the end", |m| m.log().contains("notified receiver=\"exec\""));
    let log = memtrap.log();
    assert!(log.contains("ended with exit status: 3, and said `pager not reachable"), "{log}");
    assert_eq!(fs::read_to_string(tries).unwrap(), "x\nx\n");
}

#[test]
fn check_tells_each_receiver_that_this_is_a_test() {
    let (well, ill) = (Inbox::start(200), Inbox::start(500));
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("memtrap.toml");
    let text = format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = 1 }}\nthreshold = \"1GiB\"\n\
         [[notify]]\nname = \"well\"\nkind = \"webhook\"\nurl = \"{}\"\n[[notify]]\nname = \"ill\"\nkind = \"slack\"\nurl = \"{}\"\n",
        well.url("/"),
        ill.url("/")
    );
    fs::write(&config, text).unwrap();
    let output = run(&["check", "--test-notify", "-c", config.to_str().unwrap()]);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("well") && said.contains("ill") && said.contains("HTTP 500 `sorry`"), "{said}");
    assert!(well.letters()[0].json()["message"].as_str().unwrap().contains("test"), "{:?}", well.letters());
    assert!(ill.letters()[0].json()["text"].as_str().unwrap().contains("test"));
}

fn is_alive(pid: u32) -> bool {
    // a zombie is gone too
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn get(url: &str) -> String {
    memtrap::capture::install_tls_provider();
    let job = async { reqwest::get(url).await.unwrap().text().await.unwrap() };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(job)
}
