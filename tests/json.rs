//! One shape for all JSON: an object with a `schema`, names in snake_case, sizes as whole numbers, times in RFC 3339, errors as `error`.

mod common;

use common::http::{ask, get};
use common::{GoVersion, Memtrap, Svc, run};
use serde_json::Value;
use tempfile::TempDir;

/// What is not of that shape, by its path.
fn faults(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let at = format!("{path}.{key}");
                // names of labels and variables are others' words
                let is_ours = ![".env", ".labels", ".settings"].iter().any(|of| path.ends_with(of));
                if is_ours && !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                    into.push(format!("{at}: not snake_case"));
                }
                if (key == "bytes" || key.ends_with("_bytes"))
                    && !value.is_array()
                    && !(value.is_u64() || value.is_i64() || value.is_null())
                {
                    into.push(format!("{at}: no whole number: {value}"));
                }
                let is_time = ["time", "started", "finished", "since"].contains(&key.as_str());
                if is_time && value.as_str().is_none_or(|t| humantime::parse_rfc3339(t).is_err()) {
                    into.push(format!("{at}: no time of RFC 3339: {value}"));
                }
                faults(value, &at, into);
            }
        }
        Value::Array(all) => all.iter().enumerate().for_each(|(i, one)| faults(one, &format!("{path}[{i}]"), into)),
        _ => {}
    }
}

fn check(what: &str, text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{what}: {e}: {text}"));
    let mut wrong = Vec::new();
    faults(&value, what, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    value
}

fn check_data(what: &str, text: &str) -> Value {
    let value = check(what, text);
    assert_eq!(value["schema"], 1, "{what}: {value}");
    value
}

#[test]
fn every_command_and_every_answer_has_one_shape() {
    let svc = Svc::start(GoVersion::Newest, &["-grow", "104857600"]);
    let config = format!(
        "[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\npprof = \"{}\"\nthreshold = \"80MiB\"\nfor = \"0s\"\ncpu_seconds = 0\n",
        svc.pid(),
        svc.pprof()
    );
    let memtrap = Memtrap::start_with("listen = \"127.0.0.1:0\"", &config);
    let bundle = memtrap.wait_for_bundles(60, 1).remove(0);
    let (at, dir) = (memtrap.address(), memtrap.bundle_dir().to_str().unwrap().to_owned());
    let (path, series) = (bundle.to_str().unwrap(), bundle.join("timeline.csv").to_str().unwrap().to_owned());
    let url = format!("http://{}", at.trim_start_matches("http://"));
    let commands: [&[&str]; 5] = [
        &["bundles", "list", "--json", "--dir", &dir],
        &["bundles", "show", "threshold", "--json", "--dir", &dir],
        &["analyze", path, "--format", "json"],
        &["replay", &series, "--threshold", "80MiB", "--json"],
        &["status", "--json", "--url", &url],
    ];
    for args in commands {
        let done = run(args);
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        check_data(args[0], &String::from_utf8_lossy(&done.stdout));
    }
    let at = at.trim_start_matches("http://");
    // the daemon's list of bundles and the command's are the same, but for where the files are
    memtrap
        .wait_until(20, "the page has the bundle", |_| check_data("bundles", &get(at, "/api/bundles").text())["bundles"].get(0).is_some());
    let theirs = check_data("/api/bundles", &get(at, "/api/bundles").text())["bundles"][0].clone();
    let ours: Value = serde_json::from_slice(&run(commands[0]).stdout).unwrap();
    for (key, value) in theirs.as_object().unwrap().iter().filter(|(key, _)| *key != "report" && *key != "verdict") {
        assert_eq!(&ours["bundles"][0][key], value, "{key}");
    }
    check_data("/api/targets", &get(at, "/api/targets").text());
    for name in ["manifest.json", "verdict.json"] {
        check_data(name, &std::fs::read_to_string(bundle.join(name)).unwrap());
    }
    check("process.json", &std::fs::read_to_string(bundle.join("proc/process.json")).unwrap());
}

#[test]
fn what_is_refused_over_http_is_an_error_that_says_what_is_allowed() {
    let dir = TempDir::new().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cr3t-t0ken-of-ops").unwrap();
    let target = "[[target]]\nname = \"t\"\nprocess = { name = \"no-such-process\" }\nthreshold = \"1TiB\"\n";
    let open = Memtrap::start_with("listen = \"127.0.0.1:0\"", target);
    let at = open.address().trim_start_matches("http://").to_owned();
    let cases = [
        ("GET", "/api/targets?target=a&target=b", 400, "`?target=a&target=b` is not understood; allowed: target=NAME"),
        ("GET", "/live?page=abc", 400, "`?page=abc` is not understood; allowed: target=NAME, state=STATE, page=NUMBER"),
        ("GET", "/live?state=fine", 400, "state=STATE"),
        ("POST", "/api/targets", 405, "method"),
        ("GET", "/api/nothing", 404, "nothing here"),
        ("POST", "/api/capture/nobody", 404, "no target has this name"),
        ("POST", "/hooks/alertmanager", 400, "Alertmanager"),
    ];
    for (method, path, status, word) in cases {
        let answer = ask(&at, method, path, &[], "");
        let said = check(path, &answer.text());
        assert_eq!(answer.status, status, "{path}: {said}");
        assert!(said["error"].as_str().is_some_and(|why| why.contains(word)), "{path}: {said}");
        assert!(!said.to_string().contains("invalid digit"), "{path}: {said}");
    }
    let page = ask(&at, "GET", "/?page=abc", &[], "");
    assert!(page.status == 400 && page.text().contains("page=NUMBER") && page.text().contains("<"), "a person gets a page: {page:?}");
    let closed = Memtrap::start_with(&format!("listen = \"127.0.0.1:0\"\ntoken_file = \"{}\"", token.display()), target);
    let at = closed.address().trim_start_matches("http://").to_owned();
    let refused = get(&at, "/api/targets");
    assert_eq!(refused.status, 401);
    assert!(check("401", &refused.text())["error"].as_str().is_some_and(|why| why.contains("token")), "{refused:?}");
}

/// Also where a library would have said it in its own words.
#[test]
fn what_is_typed_wrong_is_told_with_what_is_expected() {
    let cases: [(&[&str], &str); 12] = [
        (&["capture", "--pid", "abc"], "'abc' for '--pid <PID>': not a whole number from 1 to 4194304 such as 4821"),
        (&["capture", "--pid", "-1"], "'-1' for '--pid <PID>': not a whole number from 1"),
        (&["capture", "--pid", "1", "--cpu-seconds", "1.5"], "not a whole number from 0 to 300 such as 30"),
        (&["capture", "--pid", "1", "--cpu-seconds", "301"], "not a whole number from 0 to 300 such as 30"),
        (&["top", "-n", "all", "x"], "'all' for '--nodecount <N>': not a whole number from 0"),
        (&["top", "--pid", ""], "not a whole number"),
        (&["watch", "--pid", "1", "--eta", "soon"], "'soon' for '--eta <TIME>': not a time from "),
        (&["watch", "--pid", "1", "--interval", "5"], "such as 500ms, 5s or 10m"),
        (&["watch", "--pid", "1", "--slope", "20MiB/zz"], "`zz` is not a time such as 30s or 10m"),
        (&["replay", "x.csv", "--age", "old"], "'old' for '--age <TIME>': not a time from 0s"),
        (&["watch", "--pid", "1", "--pprof", "localhost:6060"], "write a URL such as http://127.0.0.1:6060/debug/pprof"),
        (&["capture", "--pid", "1", "--pprof", "x"], "it begins with neither http:// nor https://"),
    ];
    for (args, wanted) in cases {
        let done = run(args);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(wanted), "{args:?}: {said}");
        for library in ["invalid digit", "expected number at", "relative URL", "fit in target type", "cannot parse"] {
            assert!(!said.contains(library), "{args:?}: {said}");
        }
    }
}
