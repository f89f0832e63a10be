//! What the operator sees of a real daemon that watches real Go services.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use common::http::{Answer, ask, get, post, try_ask};
use common::pages::{Page, Pages};
use common::{GoVersion, Idle, MIB, Memtrap, Svc, debian_program, manifest, repo, run};
use rustix::process::Signal;

const LISTEN: &str = "listen = \"127.0.0.1:0\"\n";

/// A target of this process, with what a test sets of it.
fn target(svc: &Svc, keys: &str) -> String {
    format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nskip = [\"profile\"]\n{keys}\n", svc.pid(), svc.pprof())
}

fn instance(address: &str) -> serde_json::Value {
    get(address, "/api/targets").json()["instances"][0].clone()
}

fn wait_for_state(memtrap: &Memtrap, address: &str, state: &str) {
    memtrap.wait_until(30, &format!("the instance is {state}"), |_| instance(address)["state"] == state);
}

/// What promtool says of these metrics; nothing where it cannot be had.
fn promtool_complains(exposition: &[u8]) -> Option<String> {
    let promtool = debian_program("prometheus", "usr/bin/promtool", "the exposition, by promtool")?;
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(exposition).unwrap();
    let output = child.wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn an_incident_is_seen_on_the_page_in_the_api_and_in_the_metrics() {
    let svc = Svc::start(GoVersion::Newest, &["-leak", "20971520", "-max", "209715200"]);
    let memtrap = Memtrap::start_with(LISTEN, &target(&svc, "threshold = \"100MiB\"\nfor = \"0s\""));
    let at = memtrap.address();
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    let id = format!("svc/{}", bundle.file_name().unwrap().to_str().unwrap());
    wait_for_state(&memtrap, &at, "open");
    memtrap.wait_until(10, "the bundle is listed", |_| instance(&at)["last_bundle"] == id.as_str());

    let i = instance(&at);
    assert_eq!((i["target"].as_str(), i["pid"].as_u64()), (Some("svc"), Some(u64::from(svc.pid()))));
    assert!(i["reason"].as_str().unwrap().starts_with("captured; over once RSS falls below 90.0MiB"), "{i:#}");
    assert!(i["rss_bytes"].as_u64().unwrap() > 100 * MIB && i["limit_source"].is_string(), "{i:#}");
    assert_eq!((i["threshold_bytes"][0].as_u64(), i["last_verdict"]["cause"].as_str()), (Some(100 * MIB), Some("live_heap")), "{i:#}");

    let bundles = get(&at, "/api/bundles").json();
    assert_eq!((bundles["bundles"][0]["id"].as_str(), bundles["bundles"][0]["trigger"].as_str()), (Some(id.as_str()), Some("threshold")));

    let page = get(&at, "/");
    let text = page.text();
    for shown in ["Watching 1 instance of 1 target; 1 incident<", ">open<", "threshold 100MiB", "live heap · high", "<polyline", &id] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    let policy = page.header("content-security-policy");
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    assert!(!text.contains("<style") && !text.contains("style=\"") && !text.contains("<script>"), "nothing is inline: {text}");
    for (path, kind) in [("/status.css", "text/css"), ("/status.js", "text/javascript"), ("/live", "text/html")] {
        let part = get(&at, path);
        assert!(part.status == 200 && part.header("content-type").starts_with(kind), "{path}: {part:?}");
    }

    let scraped = get(&at, "/metrics");
    let metrics = scraped.text();
    for line in [
        "memtrap_captures_total{target=\"svc\",trigger=\"threshold\",outcome=\"complete\"} 1".to_owned(),
        format!("memtrap_target_state{{target=\"svc\",target_instance=\"pid {}\",state=\"open\"}} 1.0", svc.pid()),
        "memtrap_bundles{target=\"svc\"} 1.0".to_owned(),
        "memtrap_capture_duration_seconds_count 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
    }
    for name in ["memtrap_target_rss_bytes", "memtrap_target_limit_bytes", "memtrap_bundle_bytes", "memtrap_poll_duration_seconds_sum"] {
        assert!(metrics.lines().any(|l| l.starts_with(name)), "{name} in\n{metrics}");
    }
    if let Some(said) = promtool_complains(&scraped.body) {
        assert!(!said.contains("error while linting"), "{said}");
    }
}

#[test]
fn a_bundles_files_are_served_and_nothing_else() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let memtrap = Memtrap::start_with(LISTEN, &target(&svc, "threshold = \"5MiB\"\nfor = \"0s\""));
    let at = memtrap.address();
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    let base = format!("/bundles/svc/{}", bundle.file_name().unwrap().to_str().unwrap());
    let file = |name: &str| get(&at, &format!("{base}/{name}"));

    let heap = file("heap_gc.pb.gz");
    assert_eq!((heap.status, &heap.body), (200, &fs::read(bundle.join("heap_gc.pb.gz")).unwrap()));
    assert_eq!(heap.header("content-disposition"), "attachment; filename=\"heap_gc.pb.gz\"");
    assert_eq!(heap.header("x-content-type-options"), "nosniff");
    assert_eq!(file("proc/status").body, fs::read(bundle.join("proc/status")).unwrap());

    let report = file("report.html");
    assert!(report.header("content-type").starts_with("text/html") && report.text().contains("Where the"), "{report:?}");
    let policy = report.header("content-security-policy");
    assert!(policy.contains("sandbox") && policy.contains("default-src 'none'") && !policy.contains("script-src"), "{policy}");

    fs::write(bundle.join("unlisted"), "x").unwrap();
    for name in ["unlisted", "..%2f..%2f..%2fmemtrap.toml", "%2e%2e/manifest.json", "nothing", "proc/../proc/status"] {
        assert_eq!(file(name).status, 404, "{name}");
    }
    fs::remove_file(bundle.join("unlisted")).unwrap();

    let contents = get(&at, &format!("{base}/")).text();
    assert!(contents.contains("heap_gc.pb.gz") && contents.contains("href=\"proc/smaps\""), "{contents}");
    assert_eq!(get(&at, &base).header("location"), format!("{base}/"));

    let archive = get(&at, &format!("{base}.tar.gz"));
    assert_eq!((archive.status, archive.header("content-type")), (200, "application/gzip"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.tar.gz");
    fs::write(&path, &archive.body).unwrap();
    assert!(Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(dir.path()).status().unwrap().success());
    let unpacked = dir.path().join("svc").join(bundle.file_name().unwrap());
    assert_eq!(fs::read(unpacked.join("manifest.json")).unwrap(), fs::read(bundle.join("manifest.json")).unwrap());
}

#[test]
fn a_target_whose_pprof_does_not_answer_says_so_before_it_matters() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let good = target(&svc, "threshold = \"9GiB\"\n");
    let from_memory = good.replace(&svc.pprof(), "http://127.0.0.1:1/debug/pprof");
    let bad = format!("{from_memory}read_memory = \"off\"\n");
    let memtrap = Memtrap::start_with(LISTEN, &bad);
    let at = memtrap.address();
    let evidence = || instance(&at)["evidence"].as_str().unwrap_or_default().to_owned();
    memtrap.wait_until(30, "its evidence was tried", |_| !evidence().is_empty());
    let said = evidence();
    assert!(said.starts_with("http://127.0.0.1:1/debug/pprof/cmdline: ") && said.contains(", since 20"), "{said}");
    wait_for_state(&memtrap, &at, "armed");
    let page = get(&at, "/").text();
    assert!(page.contains("Watching 1 instance of 1 target; the evidence of 1 could not be had"), "{page}");
    assert!(page.contains("http://127.0.0.1:1/debug/pprof/cmdline: ") && !page.contains("nothing is wrong"), "{page}");
    let metric = |value: &str| {
        let line = format!("memtrap_target_evidence_ok{{target=\"svc\",target_instance=\"pid {}\"}} {value}", svc.pid());
        get(&at, "/metrics").text().lines().any(|l| l == line)
    };
    assert!(metric("0.0"));
    let status = run(&["status", "--url", &format!("http://{at}")]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("evidence: http://127.0.0.1:1/debug/pprof/cmdline: "), "{status:?}");

    // what its memory gives is evidence
    memtrap.configure(LISTEN, &from_memory);
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(30, "its evidence can be had", |_| evidence() == "ok");
    assert!(metric("1.0") && get(&at, "/").text().contains("nothing is wrong"));
    for once in ["its evidence could not be had now", "its evidence can be had again"] {
        assert_eq!(memtrap.log().matches(once).count(), 1, "{once}");
    }
}

#[test]
fn a_capture_can_be_asked_for_and_the_rules_stay_armed() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let config = target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\n").replace("skip = [\"profile\"]", "cpu_seconds = 4");
    let memtrap = Memtrap::start_with(&format!("{LISTEN}max_captures_per_hour = 1\n"), &config);
    let at = memtrap.address();
    wait_for_state(&memtrap, &at, "armed");

    assert_eq!(post(&at, "/api/capture/nobody", "").status, 404);
    let other = post(&at, "/api/capture/svc?instance=pid%201", "");
    assert!(other.status == 404 && other.text().contains(&format!("pid {}", svc.pid())), "{other:?}");
    let begun = post(&at, &format!("/api/capture/svc?instance=pid%20{}", svc.pid()), "");
    assert_eq!((begun.status, begun.json()["action"].as_str()), (202, Some("capturing")), "{begun:?}");
    let busy = post(&at, "/api/capture/svc", "");
    assert_eq!((busy.status, busy.json()["reason"].as_str()), (409, Some("capturing")), "{busy:?}");

    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    assert_eq!(manifest(&bundle)["trigger"]["trigger"], "manual");
    wait_for_state(&memtrap, &at, "armed");
    svc.tell("grow?bytes=104857600");
    let bundles = memtrap.wait_for_bundles(60, 2);
    assert!(bundles.iter().any(|b| manifest(b)["trigger"]["trigger"] == "threshold"), "{bundles:?}");

    wait_for_state(&memtrap, &at, "open");
    let spent = post(&at, "/api/capture/svc", "");
    assert_eq!(spent.status, 429, "{spent:?}");
    assert!(spent.text().contains("max_captures_per_hour") && !spent.header("retry-after").is_empty(), "{spent:?}");
    let form = ask(&at, "POST", "/api/capture/svc", &[("Accept", "text/html")], "");
    assert!(form.status == 429 && form.text().contains("Back to the status page"), "{form:?}");
}

#[test]
fn a_manual_capture_that_was_killed_with_memtrap_opens_no_incident() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let config = target(&svc, "threshold = \"80MiB\"\nfor = \"0s\"\n").replace("skip = [\"profile\"]", "cpu_seconds = 30");
    let mut memtrap = Memtrap::start_with(LISTEN, &config);
    let at = memtrap.address();
    wait_for_state(&memtrap, &at, "armed");
    assert_eq!(post(&at, "/api/capture/svc", "").status, 202);
    memtrap.wait_until(20, "the capture is on its way", |m| m.log().contains("heap_gc.pb.gz"));
    memtrap.stop(Signal::KILL);
    memtrap.start_again();
    let at = memtrap.address();
    wait_for_state(&memtrap, &at, "armed");
    assert_eq!(manifest(&memtrap.wait_for_bundles(10, 1)[0])["outcome"], "interrupted");
}

#[test]
fn a_firing_alert_captures_its_target_once() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let memtrap = Memtrap::start_with(LISTEN, &target(&svc, "threshold = \"1GiB\""));
    let at = memtrap.address();
    wait_for_state(&memtrap, &at, "armed");
    let payload = serde_json::json!({
        "version": "4", "groupKey": "{}:{}", "status": "firing", "receiver": "memtrap", "externalURL": "http://am",
        "groupLabels": {}, "commonLabels": {}, "commonAnnotations": {}, "truncatedAlerts": 0,
        "alerts": [
            { "status": "firing", "labels": { "alertname": "HighMemory", "job": "svc", "instance": "10.0.0.1:9100" },
              "annotations": {}, "startsAt": "2026-11-23T08:13:36Z", "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "f1" },
            { "status": "resolved", "labels": { "alertname": "HighMemory", "job": "svc" }, "fingerprint": "f2" },
            { "status": "firing", "labels": { "alertname": "Other", "memtrap_target": "nobody" }, "fingerprint": "f3" }
        ]
    })
    .to_string();
    let told = post(&at, "/hooks/alertmanager", &payload);
    assert_eq!(told.status, 200, "{told:?}");
    let actions: Vec<String> = told.json()["alerts"].as_array().unwrap().iter().map(|a| a["action"].as_str().unwrap().to_owned()).collect();
    assert_eq!(actions, ["capturing", "nothing", "nothing"], "{}", told.text());
    let bundle = memtrap.wait_for_bundles(40, 1).remove(0);
    let fired = &manifest(&bundle)["trigger"];
    assert_eq!(fired["trigger"], "alert");
    assert!(fired["reason"].as_str().unwrap().starts_with("alert HighMemory is firing"), "{fired}");
    wait_for_state(&memtrap, &at, "open");
    let again = post(&at, "/hooks/alertmanager", &payload).json();
    assert_eq!(again["alerts"][0]["action"], "nothing");
    assert!(again["alerts"][0]["reason"].as_str().unwrap().contains("is open and has its bundle"), "{again}");
    assert_eq!(memtrap.bundles().len(), 1);
    assert_eq!(post(&at, "/hooks/alertmanager", "{").status, 400);
    assert_eq!(post(&at, "/hooks/alertmanager", &" ".repeat(300 << 10)).status, 413);
}

#[test]
fn beyond_loopback_nothing_starts_without_a_token_and_nothing_is_told_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("memtrap.toml");
    let daemon = format!("[daemon]\nstate_dir = \"{0}/s\"\nbundle_dir = \"{0}/b\"\nlisten = \"0.0.0.0:0\"\n", dir.path().display());
    let rest = "[[target]]\nname = \"t\"\nprocess = { pid = 1 }\npprof = \"off\"\nthreshold = \"1GiB\"\n";
    fs::write(&file, format!("{daemon}{rest}")).unwrap();
    let refused = run(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs a token: set token_file"), "{refused:?}");
    fs::write(dir.path().join("token"), "short").unwrap();
    fs::write(&file, format!("{daemon}token_file = \"{}/token\"\n{rest}", dir.path().display())).unwrap();
    let refused = run(&["run", "-c", file.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("too short"), "{refused:?}");

    fs::write(dir.path().join("token"), "s3cr3t-token-of-16\n").unwrap();
    let keys = format!("listen = \"0.0.0.0:0\"\ntoken_file = \"{}/token\"\n", dir.path().display());
    let memtrap = Memtrap::start_with(&keys, rest);
    let at = memtrap.address().replace("0.0.0.0", "127.0.0.1");
    let with = |token: &str, path: &str| ask(&at, "GET", path, &[("Authorization", token), ("Host", "memtrap.internal")], "");
    for path in ["/", "/api/targets", "/api/bundles", "/metrics", "/live", "/bundles/a/b/c"] {
        let refused = get(&at, path);
        assert_eq!(refused.status, 401, "{path}");
        assert!(!refused.text().contains("s3cr3t"), "{refused:?}");
    }
    assert_eq!(post(&at, "/api/capture/t", "").status, 401);
    assert_eq!(with("Bearer s3cr3t-token-of-16", "/api/targets").status, 200);
    assert_eq!(with("Basic b3BzOnMzY3IzdC10b2tlbi1vZi0xNg==", "/").status, 200);
    assert_eq!(with("Bearer s3cr3t-token-of-1", "/").status, 401);
    assert_eq!(get(&at, "/healthz").status, 200, "a load balancer has no token");

    fs::write(dir.path().join("token"), "another-token-of-16\n").unwrap();
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(10, "a reload changes the token", |_| with("Bearer another-token-of-16", "/").status == 200);
    assert_eq!(with("Bearer s3cr3t-token-of-16", "/").status, 401);
    assert!(!memtrap.log().contains("token-of-16"));
}

#[test]
fn a_page_of_another_site_can_neither_read_nor_trigger() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let memtrap = Memtrap::start_with(LISTEN, &target(&svc, "threshold = \"1GiB\""));
    let at = memtrap.address();
    wait_for_state(&memtrap, &at, "armed");
    let rebound = ask(&at, "GET", "/api/targets", &[("Host", "evil.example")], "");
    assert!(rebound.status == 421 && !rebound.text().contains("svc"), "{rebound:?}");
    let own = format!("http://{at}");
    for (headers, status) in [
        (vec![("Origin", "http://evil.example")], 403),
        (vec![("Origin", "null")], 403),
        (vec![("Sec-Fetch-Site", "cross-site")], 403),
        (vec![("Origin", own.as_str()), ("Sec-Fetch-Site", "same-origin")], 404),
    ] {
        assert_eq!(ask(&at, "POST", "/api/capture/nobody", &headers, "").status, status, "{headers:?}");
    }
    let read = get(&at, "/api/targets");
    assert_eq!((read.header("access-control-allow-origin"), read.header("cross-origin-resource-policy")), ("", "same-origin"));
    assert!(memtrap.bundles().is_empty());
}

#[test]
fn strangers_that_say_nothing_keep_no_health_check_out() {
    let idle = Idle::start(1);
    let memtrap =
        Memtrap::start_with(LISTEN, &format!("[[target]]\nname = \"t\"\nprocess = {{ pid = {} }}\nthreshold = \"1TiB\"\n", idle.pid()));
    let at = memtrap.address();
    let open = |said: &str| {
        let mut stream = TcpStream::connect(&at).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream
    };
    // not a byte, half a head, and bodies that do not come: all of them three times over
    let body = format!("POST /hooks/alertmanager HTTP/1.1\r\nHost: {at}\r\nContent-Length: 100\r\n\r\n{{");
    let half = format!("GET / HTTP/1.1\r\nHost: {at}\r\n");
    let held: Vec<TcpStream> =
        (0..200).map(|_| open(&body)).chain((0..200).map(|_| open(&half))).chain((0..200).map(|_| open(""))).collect();
    for _ in 0..20 {
        let health = get(&at, "/healthz");
        assert_eq!((health.status, health.text().as_str()), (200, "ok\n"));
    }
    drop(held);
}

#[test]
fn a_flood_of_alerts_is_one_line_a_request_and_a_count() {
    let idle = Idle::start(2);
    let memtrap =
        Memtrap::start_with(LISTEN, &format!("[[target]]\nname = \"t\"\nprocess = {{ pid = {} }}\nthreshold = \"1TiB\"\n", idle.pid()));
    let at = memtrap.address();
    let alert = serde_json::json!({ "status": "firing", "labels": { "alertname": "A\u{202e}\u{1b}[2J", "job": "nobody" } });
    let payload = serde_json::json!({ "version": "4", "alerts": vec![alert; 1_000] }).to_string();
    let before = memtrap.log().len();
    for _ in 0..5 {
        assert_eq!(post(&at, "/hooks/alertmanager", &payload).json()["alerts"].as_array().unwrap().len(), 1_000);
    }
    let log = memtrap.log();
    // what else happens meanwhile is no alert's
    let added: String = log.get(before..).unwrap().lines().filter(|l| l.contains("alert")).map(|l| format!("{l}\n")).collect();
    assert!(added.lines().count() <= 5, "{added}");
    assert!(added.contains("more=999") && !added.contains(['\u{202e}', '\u{1b}']), "{added:?}");
    assert!(get(&at, "/metrics").text().contains("memtrap_alerts_total{action=\"nothing\"} 5000\n"));
}

#[test]
fn slow_and_idle_clients_are_bounded_and_delay_nothing() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let memtrap = Memtrap::start_with(LISTEN, &target(&svc, "threshold = \"80MiB\"\nfor = \"0s\""));
    let at = memtrap.address();
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&at).unwrap();
            // the rest never comes; some are hung up on to make room
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: ");
            stream
        })
        .collect();
    assert_eq!(get(&at, "/").status, 200, "they make room");
    svc.tell("grow?bytes=104857600");
    memtrap.wait_for_bundles(30, 1);
    drop(slow);
    let long = format!("/{}", "x".repeat(60_000));
    assert!(matches!(try_ask(&at, "GET", &long, &[], ""), Err(_) | Ok(Answer { status: 400..=499, .. })));
}

#[test]
fn hostile_labels_stay_text() {
    let pages = Pages::start();
    let evil = "\"><script>alert(1)</script>\n# TYPE evil counter\nevil 1";
    let answer = serde_json::json!({ "status": "success", "data": { "resultType": "vector", "result": [
        { "metric": { "instance": evil, "job": "shop" }, "value": [1_795_421_616.0, "104857600"] }
    ] } });
    pages.set("/api/v1/query", Page::Text(answer.to_string()));
    let memtrap = Memtrap::start_with(
        LISTEN,
        &format!(
            "[[target]]\nname = \"shop\"\nprometheus = {{ url = \"{}\", query = 'rss', started = \"off\" }}\nthreshold = \"1GiB\"\n",
            pages.url("")
        ),
    );
    let at = memtrap.address();
    memtrap.wait_until(20, "it is watched", |_| instance(&at)["rss_bytes"] == 100 * MIB);
    let page = get(&at, "/").text();
    assert!(!page.contains("<script>alert") && page.contains("script"), "{page}");
    let metrics = get(&at, "/metrics");
    assert!(!metrics.text().lines().any(|l| l.starts_with("evil")), "{}", metrics.text());
    if let Some(said) = promtool_complains(&metrics.body) {
        assert!(!said.contains("error while linting"), "{said}");
    }
}

#[test]
fn status_asks_the_daemon_over_tcp_and_over_a_socket() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("memtrap.sock");
    let keys = format!("listen = \"unix:{}\"\n", socket.display());
    let config = target(&svc, "threshold = \"1GiB\"");
    let mut memtrap = Memtrap::start_with(&keys, &config);
    let file = memtrap.config_path();
    let status = |more: &[&str]| {
        let output = run(&[&["status", "-c", file.to_str().unwrap()], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    memtrap.wait_until(20, "it is armed", |_| status(&[]).1.contains("armed"));
    let (code, table, _) = status(&[]);
    assert_eq!(code, Some(0));
    assert!(table.starts_with("TARGET") && table.contains(&format!("pid {}", svc.pid())), "{table}");
    assert!(table.contains("% of the threshold of 1.00GiB") && table.contains("next capture: any time"), "{table}");
    assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
    let json: serde_json::Value = serde_json::from_str(&status(&["--json"]).1).unwrap();
    assert_eq!((json["schema"].as_u64(), json["instances"][0]["state"].as_str()), (Some(1), Some("armed")));
    assert_eq!(status(&["--watch"]).0, Some(2), "there is no terminal");

    memtrap.configure(LISTEN, &config);
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(10, "it listens elsewhere", |m| m.log().contains("address=127.0.0.1:"));
    assert!(!socket.exists());
    let url = format!("http://{}", memtrap.address());
    let output = run(&["status", "--url", &url]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("svc"), "{output:?}");

    memtrap.configure("", &config);
    memtrap.signal(Signal::HUP);
    memtrap.wait_until(10, "it listens no more", |_| run(&["status", "--url", &url]).status.code() == Some(1));
    let (code, _, said) = status(&[]);
    assert!(code == Some(1) && said.contains("does not listen anywhere; add listen ="), "{said}");
    memtrap.stop(Signal::TERM);
    let said = String::from_utf8_lossy(&run(&["status", "--url", &url]).stderr).into_owned();
    assert!(said.contains("is memtrap running?"), "{said}");
}

#[test]
fn a_reload_that_fails_is_told_everywhere_until_one_succeeds() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let config = target(&svc, "threshold = \"1GiB\"");
    let memtrap = Memtrap::start_with(LISTEN, &config);
    let at = memtrap.address();
    let value = |name: &str| -> f64 {
        let metrics = get(&at, "/metrics").text();
        metrics.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in\n{metrics}"))
    };
    let successful = || value("memtrap_config_last_reload_successful ");
    let since = || value("memtrap_config_last_reload_success_timestamp_seconds ");
    let (started, reload) = (since(), |keys: &str, config: &str| {
        memtrap.configure(keys, config);
        memtrap.signal(Signal::HUP);
    });
    assert_eq!((successful(), started > 1.7e9), (1.0, true));
    let status = || String::from_utf8_lossy(&run(&["status", "--url", &format!("http://{at}")]).stdout).into_owned();
    let told = "the running configuration is not the file";
    assert!(!status().contains(told) && !get(&at, "/").text().contains(told));

    reload(LISTEN, &target(&svc, "threshold = 7"));
    memtrap.wait_until(10, "a file with mistakes is told of", |_| successful() == 0.0);
    let (table, page) = (status(), get(&at, "/").text());
    assert!(table.starts_with(told) && table.contains("memtrap.toml:"), "{table}");
    assert!(page.contains(told) && page.contains("memtrap.toml:"), "{page}");
    assert_eq!((since(), get(&at, "/healthz").status), (started, 200), "it watches as before");

    reload(LISTEN, &config);
    memtrap.wait_until(10, "it is mended", |_| successful() == 1.0);
    assert!(since() > started && !status().contains(told) && !get(&at, "/").text().contains(told));

    reload(&format!("listen = \"unix:{}/none/memtrap.sock\"\n", memtrap.dir().display()), &config);
    memtrap.wait_until(10, "an address that cannot be had is told of", |_| successful() == 0.0);
    assert!(status().contains("/none/memtrap.sock"), "{}", status());
}

/// Names of memtrap's metrics in a text, without the endings of a histogram's parts.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|w| w.starts_with("memtrap_") || w.starts_with("process_"));
    let base = |w: &str| ["_bucket", "_count", "_sum"].iter().find_map(|end| w.strip_suffix(end)).unwrap_or(w).to_owned();
    ours.map(base).collect()
}

#[test]
fn the_shipped_alerts_and_dashboard_name_metrics_that_there_are() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "10485760"]);
    let receiver = "[[notify]]\nkind = \"exec\"\ncommand = [\"/bin/true\"]\n";
    let memtrap = Memtrap::start_with(LISTEN, &(receiver.to_owned() + &target(&svc, "threshold = \"5MiB\"\nfor = \"0s\"")));
    let at = memtrap.address();
    memtrap.wait_for_bundles(40, 1);
    // a counter of what has not happened yet is not there yet
    assert_eq!(post(&at, "/api/capture/nobody", "").status, 404);
    for told in ["memtrap_captures_total{", "memtrap_target_evidence_ok{"] {
        memtrap.wait_until(30, told, |_| get(&at, "/metrics").text().contains(told));
    }
    let there = metric_names(&get(&at, "/metrics").text());
    let not_metrics = ["memtrap_target", "memtrap_instance"].map(String::from);
    for file in ["config/alerts.yml", "config/grafana-dashboard.json"] {
        let named = metric_names(&fs::read_to_string(repo().join(file)).unwrap());
        let missing: Vec<&String> = named.iter().filter(|n| !there.contains(*n) && !not_metrics.contains(n)).collect();
        assert!(named.len() > 5 && missing.is_empty(), "{file}: {missing:?} are not among {there:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_slice(&fs::read(repo().join("config/grafana-dashboard.json")).unwrap()).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 6);
}

#[test]
fn the_shipped_alerts_are_right_by_promtool() {
    let Some(promtool) = debian_program("prometheus", "usr/bin/promtool", "config/alerts.yml, by promtool") else { return };
    let check = |args: &[&str]| {
        let output = Command::new(&promtool).args(args).current_dir(repo()).output().unwrap();
        assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    };
    check(&["check", "rules", "config/alerts.yml"]);
    check(&["test", "rules", "tests/data/alerts_test.yml"]);
}
