use proptest::prelude::*;

use super::*;

const SHIPPED: &str = include_str!("../../config/memtrap.toml");

/// A valid target, for tests about something else.
const TARGET: &str = "[[target]]\nname = \"t\"\nprocess = { pid = 1 }\nthreshold = \"80%\"\n";

fn good(text: &str) -> (Config, Vec<String>) {
    let (config, warnings) = parse(text, "f").unwrap_or_else(|e| panic!("{e}\n--- in ---\n{text}"));
    (config, warnings.iter().map(Warning::to_string).collect())
}

/// The only target of a file.
fn target(text: &str) -> Target {
    let (mut config, _) = good(text);
    assert_eq!(config.targets.len(), 1);
    Arc::unwrap_or_clone(config.targets.remove(0))
}

fn mistakes(text: &str) -> Vec<String> {
    match parse(text, "f") {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(Problem::to_string).collect(),
    }
}

/// The mistakes of a target that is otherwise right; its keys begin on line 5.
fn target_mistakes(keys: &str) -> Vec<String> {
    mistakes(&format!("{TARGET}{keys}"))
}

fn default_mistakes(keys: &str) -> Vec<String> {
    mistakes(&format!("[defaults]\n{keys}\n{TARGET}"))
}

#[test]
fn what_is_not_written_has_its_default() {
    let t = target("[[target]]\nname = \"checkout\"\nprocess = { unit = \"checkout.service\" }\neta = \"5m\"");
    let mut expected = Target::with_defaults("checkout".into(), Selector::Unit("checkout.service".into()));
    expected.rules.eta = Some(Duration::from_secs(300));
    expected.pprof = Some(Pprof::Auto);
    assert_eq!(t, expected);
    assert_eq!(target(&format!("{TARGET}pprof = \"off\"")).pprof, None);
    assert_eq!(target(METRICS).pprof, None, "nothing is known of its sockets");
    let (config, warnings) = good(TARGET);
    assert_eq!((config.daemon, config.retention), (Daemon::default(), Retention::default()));
    assert_eq!(warnings, [""; 0]);
}

#[cfg(feature = "upload")]
#[test]
fn every_key_reaches_its_field() {
    let (config, warnings) = good(
        r#"
        [daemon]
        state_dir = "/s"
        bundle_dir = "/b"
        listen = "[::1]:9709"
        token_file = "/t"
        external_url = "https://memtrap.internal/"
        lang = "zh"
        max_concurrent_captures = 3
        max_captures_per_hour = 40
        [retention]
        max_bundles_per_target = 5
        max_total_size = "3GB"
        max_age = "2d"
        min_free_disk = "0"
        [[notify]]
        name = "oncall"
        kind = "alertmanager"
        url = "http://127.0.0.1:9093"
        labels = { severity = "page" }
        targets = ["shop"]
        message = "{target}: {summary} {{}}"
        timeout = "3s"
        [[notify]]
        kind = "exec"
        command = ["/bin/page", "--now"]
        [upload]
        url = "s3://evidence/go/memtrap/"
        endpoint = "https://minio.internal:9000/"
        region = "eu-central-1"
        allow_http = true
        ca_file = "/ca.pem"
        proxy = "http://proxy:3128"
        access_key_id_file = "/id"
        secret_access_key_file = "/secret"
        session_token_file = "/token"
        delete_after_upload = true
        claim = true
        [[target]]
        name = "shop"
        process = { cmdline = "shop --prod" }
        pprof = "https://h:6060/debug/pprof/"
        interval = "500ms"
        max_interval = "2s"
        threshold = ["75%", "2GiB"]
        slope = "10%/10m"
        eta = "4m"
        gc = "45%/20s"
        leak = "10%/14d"
        for = "1s"
        warmup = "2m"
        cooldown = "1h"
        rearm = "80%"
        escalate = true
        cpu_seconds = 0
        connect_timeout = "2s"
        step_timeout = "20s"
        retries = 0
        retry_delay = "250ms"
        max_goroutines_debug2 = 99
        read_memory = "always"
        charge = "off"
        holders = "off"
        brake = "on"
        max_file_size = "64MiB"
        extra_profiles = ["trace?seconds=5", "fgprof"]
        skip = ["mutex", "heap_gc"]
        auth.basic = { username = "u", password_file = "/p" }
        auth.headers = { X-A = "v", X-B = { file = "/f" } }
        auth.ca_file = "/ca"
        auth.client_cert_file = "/cert"
        auth.client_key_file = "/key"
        "#,
    );
    assert_eq!(warnings, [""; 0]);
    let secs = Duration::from_secs;
    assert_eq!(
        config,
        Config {
            daemon: Daemon {
                state_dir: "/s".into(),
                bundle_dir: "/b".into(),
                listen: Some(Listen::Tcp("[::1]:9709".parse().unwrap())),
                token_file: Some("/t".into()),
                external_url: Some("https://memtrap.internal".into()),
                lang: Lang::Zh,
                max_concurrent_captures: 3,
                max_captures_per_hour: 40,
            },
            retention: Retention {
                max_bundles_per_target: 5,
                max_total_size: ByteSize(3_000_000_000),
                max_age: secs(2 * 86_400),
                min_free_disk: ByteSize(0),
            },
            upload: Some(Upload {
                to: Destination::S3 { bucket: "evidence".into() },
                prefix: "go/memtrap".into(),
                endpoint: Some("https://minio.internal:9000".into()),
                region: Some("eu-central-1".into()),
                allow_http: true,
                ca_file: Some("/ca.pem".into()),
                proxy: Some("http://proxy:3128".into()),
                user: None,
                secrets: StoreSecrets {
                    access_key_id: Some("/id".into()),
                    secret_access_key: Some("/secret".into()),
                    session_token: Some("/token".into()),
                    ..StoreSecrets::default()
                },
                delete_after_upload: true,
                claim: true,
            }),
            notify: vec![
                Notify {
                    name: "oncall".into(),
                    how: Channel::Alertmanager(
                        Receiver { url: ReceiverUrl::Inline("http://127.0.0.1:9093/".into()), auth: Auth::default(), user: None },
                        vec![("severity".into(), "page".into())],
                    ),
                    targets: Some(vec!["shop".into()]),
                    message: "{target}: {summary} {{}}".parse().unwrap(),
                    timeout: secs(3),
                },
                Notify {
                    name: "exec".into(),
                    how: Channel::Exec(vec!["/bin/page".into(), "--now".into()]),
                    targets: None,
                    message: Message::default(),
                    timeout: secs(10),
                },
            ],
            targets: vec![Arc::new(Target {
                baseline: Some(Duration::from_secs(6 * 3600)),
                name: "shop".into(),
                source: Selector::Cmdline("shop --prod".into()).into(),
                pprof: Some(Pprof::Http("https://h:6060/debug/pprof".into())),
                auth: Auth {
                    basic: Some(Basic { username: "u".into(), password_file: "/p".into() }),
                    bearer_file: None,
                    headers: vec![("X-A".into(), HeaderValue::Inline("v".into())), ("X-B".into(), HeaderValue::File("/f".into()))],
                    ca_file: Some("/ca".into()),
                    client_cert_file: Some("/cert".into()),
                    client_key_file: Some("/key".into()),
                },
                interval: Duration::from_millis(500),
                max_interval: Duration::from_secs(2),
                rules: Rules {
                    threshold: vec!["75%".parse().unwrap(), "2GiB".parse().unwrap()],
                    slope: Some("10%/10m".parse().unwrap()),
                    eta: Some(secs(240)),
                    gc: Some("45%/20s".parse().unwrap()),
                    leak: Some("10%/14d".parse().unwrap()),
                    hold: secs(1),
                    warmup: secs(120),
                    cooldown: secs(3_600),
                    rearm: "80%".parse().unwrap(),
                    escalate: true,
                    charge: false,
                },
                capture: Capture {
                    cpu_seconds: 0,
                    connect_timeout: secs(2),
                    step_timeout: secs(20),
                    retries: 0,
                    retry_delay: Duration::from_millis(250),
                    max_goroutines_debug2: 99,
                    read_memory: ReadMemory::Always,
                    holders: false,
                    brake: true,
                    max_file_size: ByteSize::mib(64),
                    extra_profiles: vec!["trace?seconds=5".into(), "fgprof".into()],
                    skip: vec!["mutex".into(), "heap_gc".into()],
                },
            })],
        }
    );
}

#[cfg(feature = "upload")]
#[test]
fn bundles_go_to_one_of_four_kinds_of_store() {
    let read = |keys: &str| good(&format!("[upload]\n{keys}\n{TARGET}")).0.upload.unwrap();
    let bucket = || "b.1-x".to_owned();
    for (url, to, prefix) in [
        ("s3://b.1-x", Destination::S3 { bucket: bucket() }, ""),
        ("s3://b.1-x/a/b=c/", Destination::S3 { bucket: bucket() }, "a/b=c"),
        ("gs://b.1-x/p", Destination::Gcs { bucket: bucket() }, "p"),
        ("az://b.1-x/p", Destination::Azure { container: bucket() }, "p"),
        ("file:///mnt/evidence/", Destination::Directory("/mnt/evidence".into()), ""),
    ] {
        let upload = read(&format!("url = \"{url}\""));
        assert_eq!((upload.to, upload.prefix.as_str()), (to, prefix), "{url}");
        assert!(!upload.claim && !upload.delete_after_upload && !upload.allow_http);
    }
    let gcs = read("url = \"gs://b\"\nservice_account_file = \"/sa.json\"").secrets;
    assert_eq!(gcs.service_account, Some("/sa.json".into()));
    let azure = read("url = \"az://c\"\naccount = \"acme\"\naccount_key_file = \"/key\"").secrets;
    assert_eq!((azure.account.as_deref(), azure.account_key), (Some("acme"), Some("/key".into())));
    assert_eq!(good(TARGET).0.upload, None);
}

#[cfg(feature = "upload")]
#[test]
fn a_store_that_cannot_be_meant_is_refused() {
    for (keys, message) in [
        (
            "claim = true",
            "1:1: upload.url: missing; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY",
        ),
        ("url = \"s3://\"", "2:7: upload.url: there is no usable bucket in it; write s3:"),
        ("url = \"s3://b/a//b\"", "2:7: upload.url: the prefix may hold A-Z"),
        ("url = \"s3://b/../b\"", "2:7: upload.url: the prefix may hold A-Z"),
        ("url = \"ftp://b/p\"", "2:7: upload.url: no such kind of store"),
        ("url = \"b/p\"", "2:7: upload.url: not a URL"),
        ("url = \"s3://key:s3cr3t@b/p\"", "2:7: upload.url: a URL with credentials"),
        ("url = \"file://relative\"", "2:7: upload.url: the directory must be an absolute path"),
        ("url = \"file:///a/../b\"", "2:7: upload.url: the directory must be an absolute path"),
        ("url = \"gs://b\"\nregion = \"x\"", "3:10: upload.region: has no effect for a gs:// url"),
        ("url = \"file:///d\"\nendpoint = \"https://h\"", "3:12: upload.endpoint: has no effect for a file:// url"),
        ("url = \"s3://b\"\naccount = \"x\"", "3:11: upload.account: has no effect for a s3:// url"),
        ("url = \"s3://b\"\naccess_key_id_file = \"/k\"", "1:1: upload.secret_access_key_file: missing"),
        ("url = \"s3://b\"\nsession_token_file = \"/k\"", "3:22: upload.session_token_file: has no effect without"),
        ("url = \"s3://b\"\nendpoint = \"http://h:9000\"", "3:12: upload.endpoint: plain http would send bundles in the clear"),
        ("url = \"s3://b\"\nendpoint = \"https://u:s3cr3t@h\"", "3:12: upload.endpoint: a URL with credentials"),
        ("url = \"s3://b\"\nregion = \"eu west\"", "3:10: upload.region: expected a region"),
        ("url = \"s3://b\"\nregoin = \"x\"", "3:1: upload.regoin: unknown key; did you mean `region`?"),
    ] {
        let found = mistakes(&format!("[upload]\n{keys}\n{TARGET}"));
        assert!(found.len() == 1 && found[0].starts_with(&format!("f:{message}")), "{keys}: {found:?}");
        assert!(!found[0].contains("s3cr3t"), "{found:?}");
    }
    assert_eq!(mistakes(&format!("upload = 3\n{TARGET}")).len(), 1);
    let in_clear = "url = \"s3://b\"\nallow_http = true\nendpoint = \"http://HOST:9000\"";
    let warnings = |host: &str| good(&format!("[upload]\n{}\n{TARGET}", in_clear.replace("HOST", host))).1;
    assert_eq!(warnings("127.0.0.1"), [""; 0]);
    assert_eq!(warnings("minio"), ["f:4:12: warning: upload.endpoint: bundles are sent over the network without TLS; use an https URL"]);
}

#[test]
fn a_process_may_be_meant_only_as_a_users() {
    let t = target("[[target]]\nname = \"t\"\neta = \"5m\"\nprocess = { name = \"checkout\", user = \"shop\" }");
    let process =
        Process { which: Selector::Name("checkout".into()), user: Some(User::Name("shop".into())), exclude: Vec::new(), limit: None };
    assert_eq!(t.source, Source::Process(process));
}

#[test]
fn each_kind_of_process_is_named_by_one_key() {
    for (written, selector) in [
        (r#"unit = "checkout""#, Selector::Unit("checkout".into())),
        ("pid = 42", Selector::Pid(42)),
        (r#"pid_file = "/run/c.pid""#, Selector::PidFile("/run/c.pid".into())),
        (r#"name = "checkout""#, Selector::Name("checkout".into())),
        (r#"exe = "/usr/bin/checkout""#, Selector::Exe("/usr/bin/checkout".into())),
        (r#"listen = ":6060""#, Selector::Listen("0.0.0.0:6060".parse().unwrap())),
    ] {
        assert_eq!(target(&format!("[[target]]\nname = \"t\"\neta = \"5m\"\n[target.process]\n{written}")).source, selector.into());
    }
}

#[test]
fn a_target_overrides_what_it_inherits_and_can_switch_a_rule_off() {
    let defaults = "[defaults]\ninterval = \"5s\"\nthreshold = \"50%\"\nslope = \"1GiB/1h\"\ncpu_seconds = 7\n";
    let t = target(&format!("{defaults}[[target]]\nname = \"t\"\nprocess = {{ pid = 1 }}\nslope = \"off\"\ncpu_seconds = 8"));
    assert_eq!((t.interval, t.capture.cpu_seconds), (Duration::from_secs(5), 8));
    assert_eq!((t.rules.threshold, t.rules.slope), (vec!["50%".parse().unwrap()], None));
}

#[test]
fn every_mistake_of_a_file_is_told_in_one_run() {
    let text = r#"interval = "1s"
[daemon]
listn = "127.0.0.1:9709"
max_concurrent_captures = "2"
state_dir = "var/lib"
[retention]
max_age = "5 lightyears"
[defaults]
process = { pid = 1 }
rearm = "120%"
[[target]]
name = "checkout"
process = { unit = "checkout.service", pid = 2 }
threshold = ["80%", 90]
skip = ["mutx", 3]
[[target]]
name = "checkout"
process = "search"
cpu_seconds = 301
[[notify]]
url = "http://127.0.0.1"
kind = "teams"
"#;
    insta::assert_snapshot!(parse(text, "memtrap.toml").unwrap_err(), @r#"
    memtrap.toml:1:1: interval: unknown key; it belongs in [[target]] or [defaults] (allowed here: daemon, retention, upload, defaults, target, notify)
    memtrap.toml:3:1: daemon.listn: unknown key; did you mean `listen`? (allowed here: state_dir, bundle_dir, listen, token_file, external_url, lang, max_concurrent_captures, max_captures_per_hour)
    memtrap.toml:4:27: daemon.max_concurrent_captures: expected a whole number from 1 to 64, found a string
    memtrap.toml:5:13: daemon.state_dir: the path must be absolute: begin it with `/`
    memtrap.toml:7:11: retention.max_age: `5 lightyears` is not a duration from 1m to 10years such as "500ms", "5s" or "10m"
    memtrap.toml:9:1: defaults.process: unknown key; it belongs in [[target]] (allowed here: interval, max_interval, threshold, slope, eta, gc, leak, for, warmup, cooldown, rearm, escalate, charge, baseline, cpu_seconds, connect_timeout, step_timeout, retries, retry_delay, max_goroutines_debug2, read_memory, holders, brake, max_file_size, extra_profiles, skip)
    memtrap.toml:10:9: defaults.rearm: `120%` is not a percentage above 0% and up to 100%
    memtrap.toml:13:11: target "checkout": process: 2 keys; exactly one of unit, pid, pid_file, name, exe, cmdline, listen, go, container, cgroup says which process is meant
    memtrap.toml:14:21: target "checkout": threshold: expected a size such as "1.5GiB", or a percentage of the limit such as "80%", found an integer
    memtrap.toml:15:9: target "checkout": skip: no such step; steps are heap, memstats, goroutine, threadcreate, allocs, heap_gc, goroutine_text, holders, goroutineleak, mutex, block, profile, heap_gc_after
    memtrap.toml:15:17: target "checkout": skip: expected the name of a step, found an integer
    memtrap.toml:16:1: target "checkout": it has no rule and could never fire: set threshold, slope, eta, gc or leak, here or in [defaults]
    memtrap.toml:17:8: target "checkout": name: taken by the target of line 12; names must differ
    memtrap.toml:18:11: target "checkout": process: expected a table such as { unit = "checkout.service" }, found a string
    memtrap.toml:19:15: target "checkout": cpu_seconds: out of range: expected a whole number from 0 to 300
    memtrap.toml:22:8: notify #1: kind: expected one of "webhook", "slack", "alertmanager", "exec"
    "#);
}

#[test]
fn syntax_errors_do_not_hide_one_another_nor_the_rest() {
    let text = r#"[daemon]
listen "127.0.0.1:9709"
state_dir = /var/lib/memtrap
max_captures_per_hour = 0
[[target]]
name = "a"
name = "b"
interval = 5 s
process = { pid = 1 }
thresold = "80%"
[retention
max_age = "1x"
"#;
    insta::assert_snapshot!(parse(text, "memtrap.toml").unwrap_err(), @"
    memtrap.toml:2:8: key with no value, expected `=`
    memtrap.toml:3:13: string values must be quoted
    memtrap.toml:4:25: daemon.max_captures_per_hour: out of range: expected a whole number from 1 to 3600
    memtrap.toml:7:1: duplicate key
    memtrap.toml:8:12: string values must be quoted
    memtrap.toml:10:1: target \"a\": thresold: unknown key; did you mean `threshold`? (allowed here: name, process, metrics, prometheus, pprof, limit, auth, interval, max_interval, threshold, slope, eta, gc, leak, for, warmup, cooldown, rearm, escalate, charge, baseline, cpu_seconds, connect_timeout, step_timeout, retries, retry_delay, max_goroutines_debug2, read_memory, holders, brake, max_file_size, extra_profiles, skip)
    memtrap.toml:11:11: unclosed table, expected `]`
    ");
}

#[test]
fn an_unclosed_bracket_is_one_mistake() {
    for value in ["[\"80%\",\n\"90%\"", "{ unit = \"x\""] {
        let text = format!("[[target]]\nname = \"t\"\ncpu_seconds = 999\npprof = {value}\nprocess = {{ pid = 1 }}\n[daemon]\nlisten = 3\n");
        let found = mistakes(&text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("f:3:15: target \"t\": cpu_seconds: out of range"), "{found:?}");
        assert!(found[1].ends_with("a list or table that begins above is not closed, or lacks a comma here"), "{found:?}");
    }
}

#[test]
fn a_header_that_is_not_closed_takes_no_other_section_along() {
    assert_eq!(
        mistakes("[daemon\nlisten = 3\n[retention]\nmax_age = 3\n"),
        [
            "f:1:8: unclosed table, expected `]`",
            "f:4:11: retention.max_age: expected a duration from 1m to 10years such as \"500ms\", \"5s\" or \"10m\", found an integer",
        ]
    );
}

#[test]
fn a_file_of_garbage_is_told_in_bounded_space() {
    let errors = parse(&"key with no value\n".repeat(5_000), "f").unwrap_err();
    assert_eq!(errors.iter().count(), 100);
    assert!(errors.to_string().ends_with("\nf: and 4900 more"));
    let errors = parse(&(0..5_000).map(|i| format!("k{i} = 1\n")).collect::<String>(), "f").unwrap_err();
    assert_eq!(errors.iter().count(), 100);
    assert!(errors.to_string().ends_with("\nf: and 4901 more"), "{errors}");
}

/// What stands after `f:LINE:COL: defaults.`
#[test]
fn values_that_may_be_inherited_have_kinds_and_ranges() {
    for (keys, message) in [
        ("interval = 5", r#"12: interval: expected a duration from 100ms to 1h such as "500ms", "5s" or "10m", found an integer"#),
        (r#"interval = "5""#, r#"12: interval: `5` is not a duration from 100ms to 1h such as "500ms", "5s" or "10m""#),
        (r#"interval = "99ms""#, "12: interval: `99ms` is out of range: 100ms to 1h"),
        (r#"interval = "61m""#, "12: interval: `61m` is out of range: 100ms to 1h"),
        (r#"interval = """#, r#"12: interval: empty; expected a duration from 100ms to 1h such as "500ms", "5s" or "10m""#),
        (
            "threshold = 80",
            r#"13: threshold: expected a size such as "1.5GiB", or a percentage of the limit such as "80%", found an integer"#,
        ),
        (r#"threshold = "80""#, "13: threshold: 80B is below 1.00MiB and would always fire; write a unit, or % for a share of the limit"),
        (r#"threshold = "101%""#, "13: threshold: `101%` is not a percentage above 0% and up to 100%"),
        (
            r#"threshold = "12 parsecs""#,
            "13: threshold: `12 parsecs` is neither a size such as 512MiB, 1.5GiB or 2GB nor a percentage of the limit such as 80%",
        ),
        ("threshold = []", r#"13: threshold: an empty list; to switch an inherited threshold off, write threshold = "off""#),
        (r#"threshold = ["80%", "1GiB", "80%"]"#, "13: threshold: the same stage twice"),
        (r#"threshold = ["1%","2%","3%","4%","5%","6%","7%","8%","9%"]"#, "13: threshold: at most 8 elements"),
        (r#"slope = "200MiB""#, "9: slope: `200MiB` is not a rise per window such as 200MiB/10m or 10%/10m"),
        (r#"slope = "200/10m""#, "9: slope: a rise of 200B is within the kernel's own inexactness: at least 64.0KiB, with its unit"),
        (r#"slope = "1GiB/2days""#, "9: slope: its window, 2days, is too long: at most 1day"),
        (r#"slope = "1GiB/4s""#, "9: slope: its window, 4s, is too short: at least 5 intervals of 1s"),
        (r#"gc = "40%""#, "6: gc: `40%` is not a share of a window such as 40%/30s"),
        (r#"gc = "3%/30s""#, "6: gc: 3% of the CPU is what collections cost a healthy process: at least 5%"),
        (r#"gc = "40%/2h""#, "6: gc: its window, 2h, must be from 5s to 1h"),
        (r#"gc = 40"#, "6: gc: expected a share of the CPU per window such as \"40%/30s\", found an integer"),
        (r#"leak = "1GiB/12h""#, "8: leak: its window, 12h, is too short: at least 1day; for less there is slope"),
        (r#"leak = "1GiB/90d""#, "8: leak: its window, 2months 29days, is too long: at most 30days"),
        (r#"leak = "64KiB/7d""#, "8: leak: a rise of 64.0KiB over days is noise: at least 1.00MiB, with its unit"),
        (r#"eta = "500ms""#, "7: eta: `500ms` is out of range: 1s to 30days"),
        (r#"rearm = "0%""#, "9: rearm: `0%` is not a percentage above 0% and up to 100%"),
        (r#"rearm = "1GiB""#, "9: rearm: `1GiB` is not a percentage above 0% and up to 100%"),
        (r#"escalate = "yes""#, "12: escalate: expected true or false, without quotes, found a string"),
        ("cpu_seconds = 301", "15: cpu_seconds: out of range: expected a whole number from 0 to 300"),
        ("cpu_seconds = -1", "15: cpu_seconds: out of range: expected a whole number from 0 to 300"),
        ("cpu_seconds = 99999999999999999999", "15: cpu_seconds: out of range: expected a whole number from 0 to 300"),
        ("cpu_seconds = 1.5", "15: cpu_seconds: expected a whole number from 0 to 300, found a float"),
        (r#"step_timeout = "2s""#, "16: step_timeout: 2s is less than connect_timeout, 3s, which is a part of it"),
        (r#"max_file_size = "1KiB""#, "17: max_file_size: 1.00KiB is too small: at least 1.00MiB"),
        ("max_file_size = 1000000", r#"17: max_file_size: expected a size in quotes such as "512MiB" or "2GB", found an integer"#),
        (r#"skip = "mutex""#, r#"8: skip: expected a list of steps such as ["mutex", "block"], found a string"#),
        (
            r#"extra_profiles = ["../../etc/x"]"#,
            r#"19: extra_profiles: expected a profile below the pprof path such as "trace?seconds=5"; the name is 1 to 64 of A-Z a-z 0-9 . _ - with no dot at the beginning"#,
        ),
        (
            r#"extra_profiles = ["trace?a b"]"#,
            "19: extra_profiles: the query after `?` may hold up to 256 of A-Z a-z 0-9 = & . , : ; _ ~ % + / -",
        ),
        (r#"extra_profiles = ["heap?gc=1"]"#, "19: extra_profiles: heap is in every bundle's plan already, or is a name that bundles use"),
        (r#"extra_profiles = ["trace?seconds=5", "trace"]"#, "18: extra_profiles: trace twice: each name becomes one file"),
        ("for = 2026-11-23", r#"7: for: expected a duration from 0s to 1h such as "500ms", "5s" or "10m", found a date or time"#),
    ] {
        let (column, message) = message.split_once(": ").unwrap();
        assert_eq!(default_mistakes(keys), [format!("f:2:{column}: defaults.{message}")], "{keys}");
    }
}

#[test]
fn a_targets_own_keys_have_kinds_and_ranges() {
    let with =
        |name: &str, process: &str, rest: &str| mistakes(&format!("[[target]]\nname = {name}\nprocess = {process}\neta = \"5m\"\n{rest}"));
    let pprof = r#"pprof = "https://h/debug/pprof""#;
    for (found, expected) in [
        (
            with("\"a/b\"", "{ pid = 1 }", ""),
            "f:2:8: target #1: name: allowed are 1 to 64 of A-Z a-z 0-9 . _ - with no dot at the beginning: it names a directory",
        ),
        (with("3", "{ pid = 1 }", ""), "f:2:8: target #1: name: expected a name such as \"checkout\", found an integer"),
        (with("\"t\"", "{}", ""), "f:3:11: target \"t\": process: empty; write for example process = { unit = \"checkout.service\" }"),
        (with("\"t\"", "{ pid = 0 }", ""), "f:3:19: target \"t\": process.pid: out of range: expected a whole number from 1 to 4194304"),
        (with("\"t\"", "{ exe = \"checkout\" }", ""), "f:3:19: target \"t\": process.exe: the path must be absolute: begin it with `/`"),
        (
            with("\"t\"", "{ unit = \"a/b\" }", ""),
            "f:3:20: target \"t\": process.unit: not the name of a systemd unit, such as checkout.service",
        ),
        (with("\"t\"", "{ listen = \":0\" }", ""), "f:3:22: target \"t\": process.listen: nothing listens on port 0"),
        (
            with("\"t\"", "{ user = \"shop\" }", ""),
            "f:3:11: target \"t\": process: user says whose processes are meant, not which; write for example { name = \"checkout\", user = \"checkout\" }",
        ),
        (
            with("\"t\"", "{ name = \"x\", user = \"a:b\" }", ""),
            "f:3:32: target \"t\": process.user: not a user: write a name such as \"checkout\", or a number such as \"1001\"",
        ),
        (
            with("\"t\"", "{ cmdline = \"a(\" }", ""),
            "f:3:23: target \"t\": process.cmdline: not a regular expression: found open group without closing ')'",
        ),
        (
            with("\"t\"", "{ units = \"a\" }", ""),
            "f:3:13: target \"t\": process.units: unknown key; did you mean `unit`? (allowed here: unit, pid, pid_file, name, exe, cmdline, listen, go, container, cgroup, user, exclude)",
        ),
        (
            with("\"t\"", "{ pid = 1 }", "pprof = \"http://u:p@h/\""),
            "f:5:9: target \"t\": pprof: a URL with a user or password in it would end up in logs and bundles: use auth = { basic = { … } }",
        ),
        (
            with("\"t\"", "{ pid = 1 }", &format!("{pprof}\nauth = {{}}")),
            "f:6:8: target \"t\": auth: empty; write for example auth = { bearer_file = \"/etc/memtrap/token\" }, or remove it",
        ),
        (
            with("\"t\"", "{ pid = 1 }", "auth = { bearer_file = \"/t\" }"),
            "f:5:8: target \"t\": auth: without a pprof address there is nothing to authenticate to: add pprof, or remove auth",
        ),
        (
            with(
                "\"t\"",
                "{ pid = 1 }",
                &format!("{pprof}\nauth = {{ bearer_file = \"/t\", basic = {{ username = \"u\", password_file = \"/p\" }} }}"),
            ),
            "f:6:38: target \"t\": auth.basic: conflicts with bearer_file: both set the Authorization header; keep one",
        ),
        (
            with("\"t\"", "{ pid = 1 }", &format!("{pprof}\nauth = {{ client_key_file = \"/t\" }}")),
            "f:6:8: target \"t\": auth.client_cert_file: missing; client_key_file needs it",
        ),
        (
            with("\"t\"", "{ pid = 1 }", &format!("{pprof}\nauth.basic = {{ password = \"x\", username = \"u\" }}")),
            "f:6:14: target \"t\": auth.basic.password_file: missing\nf:6:16: target \"t\": auth.basic.password: unknown key; \
             did you mean `password_file`? (allowed here: username, password_file)",
        ),
        (
            with("\"t\"", "{ pid = 1 }", "pprof = \"http://127.0.0.1:6060\"\nauth = { ca_file = \"/ca\" }"),
            "f:6:20: target \"t\": auth.ca_file: has no effect, because pprof is not an https URL; remove it, or use https",
        ),
        (
            with("\"t\"", "{ pid = 1 }", &format!("{pprof}\nauth.headers = {{ Host = \"x\", \"a b\" = \"y\", X-A = \"1\", x-a = 2 }}")),
            "f:6:18: target \"t\": auth.headers.Host: memtrap sets this header itself\n\
             f:6:30: target \"t\": auth.headers.a b: not the name of an HTTP header: letters, digits and - are allowed\n\
             f:6:54: target \"t\": auth.headers.x-a: twice: the names of HTTP headers do not depend on case",
        ),
        (
            with("\"t\"", "{ pid = 1 }", &format!("{pprof}\nauth.headers.X-A = {{ path = \"x\" }}")),
            "f:6:14: target \"t\": auth.headers.X-A.file: missing\n\
             f:6:22: target \"t\": auth.headers.X-A.path: unknown key (allowed here: file)",
        ),
    ] {
        assert_eq!(found.join("\n"), expected);
    }
}

#[test]
fn what_a_target_needs_is_asked_for_at_its_header() {
    assert_eq!(
        mistakes("\n  [[target]]\n"),
        [
            "f:2:3: target #1: it has no rule and could never fire: set threshold, slope, eta, gc or leak, here or in [defaults]",
            "f:2:3: target #1: name: missing; write for example name = \"checkout\"",
            "f:2:3: target #1: process: missing; write for example process = { unit = \"checkout.service\" }, or watch by metrics or prometheus",
        ]
    );
    for text in ["", "[daemon]\n", "# all else is lost"] {
        let found = mistakes(text);
        assert!(found.len() == 1 && found[0].contains(":1: target: none; add at least one [[target]]"), "{text}: {found:?}");
    }
}

#[test]
fn a_section_of_the_wrong_kind_says_how_to_write_it() {
    assert_eq!(
        mistakes(&format!("{TARGET}[[daemon]]\nlisten = \":1\"")),
        ["f:5:1: daemon: this is a table: write [daemon] on a line of its own, once"]
    );
    assert_eq!(mistakes("[target]\nname = \"t\""), ["f:1:1: target: write [[target]], with two brackets: there may be several"]);
}

#[test]
fn beyond_loopback_a_token_is_wanted() {
    assert_eq!(
        mistakes(&format!("[daemon]\nlisten = \":9709\"\n{TARGET}")),
        [
            "f:2:10: daemon.listen: http://0.0.0.0:9709 can be reached from other hosts and needs a token: set token_file, or listen on loopback such as 127.0.0.1:9709"
        ]
    );
}

#[test]
fn a_receiver_that_cannot_be_told_is_a_mistake() {
    let says = |keys: &str, why: &str| {
        let found = mistakes(&format!("{TARGET}[[notify]]\n{keys}"));
        assert!(found.iter().any(|m| m.contains(why)), "{keys}: {found:#?}");
    };
    says("url = \"http://h\"", "f:5:1: notify #1: kind: missing; one of \"webhook\", \"slack\"");
    says("kind = \"pager\"", "notify #1: kind: expected one of \"webhook\"");
    says("name = \"upload\"\nkind = \"slack\"", "name: taken: in /metrics it is the receiver of uploads");
    says("kind = \"slack\"", "url: missing; or url_file");
    says("kind = \"slack\"\nurl = \"ftp://h\"", "url: not an http or https URL");
    says("kind = \"slack\"\nurl = \"https://a:s3cret@h/\"", "use auth = { basic");
    says("kind = \"slack\"\nurl = \"http://h\"\nurl_file = \"/f\"", "url_file: conflicts with url");
    says("kind = \"slack\"\nurl_file = \"f\"", "url_file: the path must be absolute");
    says("kind = \"slack\"\nurl = \"http://h\"\nlabels = { a = \"b\" }", "labels: has no effect for kind = \"slack\"");
    says("kind = \"webhook\"\nurl = \"http://h\"\ncommand = [\"/b\"]", "command: has no effect for kind = \"webhook\"");
    says("kind = \"exec\"", "command: missing");
    says("kind = \"exec\"\ncommand = [\"page\"]", "the program must be an absolute path");
    says("kind = \"exec\"\ncommand = []", "empty; name a program");
    says("kind = \"exec\"\ncommand = [\"/b\"]\nurl = \"http://h\"", "url: has no effect for kind = \"exec\"");
    says("kind = \"webhook\"\nurl = \"http://h\"\ntargets = [\"nope\"]", "targets: there is no target of this name");
    says("kind = \"webhook\"\nurl = \"http://h\"\ntargets = []", "nobody would be told");
    says("kind = \"webhook\"\nurl = \"http://h\"\nmessage = \"{sumary}\"", "a message can name {target}, {instance}");
    says("kind = \"webhook\"\nurl = \"http://h\"\nmessage = \"{target\"", "a message can name");
    says("kind = \"webhook\"\nurl = \"http://h\"\nmessage = \"}\"", "}} for braces");
    says("kind = \"alertmanager\"\nurl = \"http://h\"\nlabels = { target = \"x\" }", "labels.target: memtrap sets this label itself");
    says("kind = \"alertmanager\"\nurl = \"http://h\"\nlabels = { \"a-b\" = \"x\" }", "a-b: not the name of a label");
    says("kind = \"webhook\"\nurl = \"http://h\"\n[[notify]]\nkind = \"webhook\"\nurl = \"http://h\"", "name: taken by the one of line 5");
    says(
        "kind = \"webhook\"\nurl = \"http://h\"\nauth = { ca_file = \"/ca\" }",
        "auth.ca_file: has no effect, because url is not an https URL",
    );
    says("to = \"slack\"", "to: unknown key");
    let (_, warnings) = good(&format!("{TARGET}[[notify]]\nkind = \"webhook\"\nurl = \"http://h/\"\nauth = {{ bearer_file = \"/t\" }}"));
    assert!(warnings[0].contains("secrets are sent over the network without TLS"), "{warnings:?}");
}

#[test]
fn a_receivers_url_is_a_secret() {
    let (config, _) = good(&format!("{TARGET}[[notify]]\nkind = \"slack\"\nurl = \"https://hooks.test/T0/s3cret\""));
    assert!(!format!("{config:?}").contains("s3cret"));
}

const METRICS: &str = "[[target]]\nname = \"m\"\nthreshold = \"1GiB\"\nmetrics = { url = \"http://h:1/metrics\" }\n";
const FLEET: &str = "[[target]]\nname = \"p\"\nthreshold = \"1GiB\"\nprometheus = { url = \"http://h:9090\", query = 'rss' }\n";

#[test]
fn an_exposition_is_read_for_rss_unless_it_says_otherwise() {
    let m = |written: &str| match target(&METRICS.replace("{ url = \"http://h:1/metrics\" }", written)).source {
        Source::Metrics(metrics) => metrics,
        other => panic!("{other:?}"),
    };
    let plain = m("{ url = \"http://h:1/metrics?format=text\" }");
    assert_eq!((plain.url.as_str(), plain.rss.metric.as_str()), ("http://h:1/metrics?format=text", "process_resident_memory_bytes"));
    assert_eq!((plain.rss.labels, plain.limit), (vec![], None));
    let other = m("{ url = \"https://h/m\", metric = \"a:rss\", labels = { pod = \"b\\\"}\", job = \"\" } }\nlimit = { metric = \"max\" }");
    assert_eq!(other.rss.to_string(), r#"a:rss{job="",pod="b\"}"}"#);
    assert_eq!(other.limit.unwrap(), MetricLimit::Metric(crate::metrics::Pick { metric: "max".into(), labels: vec![] }));
    assert_eq!(m("{ url = \"http://h\" }\nlimit = \"2GiB\"").limit, Some(MetricLimit::Fixed(ByteSize::gib(2))));
}

#[test]
fn a_fleet_has_a_query_start_times_and_an_address_for_each() {
    let text = "[[target]]\nname = \"p\"\nthreshold = \"75%\"\npprof = \"http://{instance}/debug/pprof\"\n\
                prometheus = { url = \"https://h/prom/\", query = ' process_resident_memory_bytes{job=\"a\"} ', auth = { bearer_file = \"/t\" } }\n\
                limit = { query = 'max', by = [\"instance\", \"pod\"] }\n";
    let (config, warnings) = good(text);
    assert_eq!(warnings, [""; 0]);
    let t = &config.targets[0];
    assert!(matches!(&t.pprof, Some(Pprof::Template(_))));
    let own = target(&format!("{TARGET}pprof = \"http://{{address}}:6060/debug/pprof\"\n"));
    assert!(matches!(&own.pprof, Some(Pprof::Template(template)) if template.labels().eq([ADDRESS])));
    assert_eq!(t.auth, Auth::default(), "the server's token is not for the instances");
    let Source::Prometheus(p) = &t.source else { panic!("{:?}", t.source) };
    assert_eq!((p.url.as_str(), p.query.as_str()), ("https://h/prom", r#"process_resident_memory_bytes{job="a"}"#));
    assert_eq!(p.started.as_deref(), Some(r#"process_start_time_seconds{job="a"}"#));
    assert_eq!(p.auth.bearer_file.as_deref(), Some(Path::new("/t")));
    assert_eq!(p.limit, Some(QueryLimit::Query { query: "max".into(), by: vec!["instance".into(), "pod".into()] }));
    for (started, expected) in [("", None), (", started = 'x'", Some("x")), (", started = \"off\"", None)] {
        let t = target(&FLEET.replace("'rss' ", &format!("'rss'{started} ")));
        let Source::Prometheus(p) = t.source else { panic!() };
        assert_eq!(p.started.as_deref(), expected);
    }
}

#[test]
fn what_does_not_fit_a_source_is_told() {
    for (text, message) in [
        (
            format!("{TARGET}metrics = {{ url = \"http://h\" }}"),
            "5:11: target \"t\": metrics: there is process already; exactly one of process, metrics, prometheus says what is watched",
        ),
        (
            format!("{METRICS}pprof = \"auto\""),
            "5:9: target \"m\": pprof: \"auto\" looks at the sockets of a process on this host, and needs `process`; write the address",
        ),
        (
            format!("{METRICS}pprof = \"http://{{instance}}/p\""),
            "5:9: target \"m\": pprof: {label} is filled in from the labels of series, which only `prometheus` gives; write the address",
        ),
        (
            format!("{TARGET}pprof = \"http://{{address}}:6060/{{pod}}\""),
            "5:9: target \"t\": pprof: {pod}: of a process only {address} is known, its own; labels are those of series, which only `prometheus` gives",
        ),
        (
            format!("{FLEET}pprof = \"http://{{instance/p\""),
            "5:9: target \"p\": pprof: a brace is not closed; write for example http://{instance}/debug/pprof",
        ),
        (
            format!("{TARGET}limit = {{ metric = \"x\" }}"),
            "5:9: target \"t\": limit: of a process, write a size or { env = \"MEMORY_LIMIT\" }; its cgroups' and the host's count besides",
        ),
        (
            format!("{METRICS}limit = {{ query = 'x', by = [\"a\"] }}"),
            "5:9: target \"m\": limit: a query needs `prometheus`; with `metrics` write a size or { metric = \"…\" }",
        ),
        (
            format!("{FLEET}limit = {{ metric = \"x\" }}"),
            "5:9: target \"p\": limit: a metric is read from a page; with `prometheus` write a size or { query = '…', by = [\"instance\"] }",
        ),
        (
            format!("{FLEET}limit = {{ query = 'x' }}"),
            "5:9: target \"p\": limit.by: missing; the labels that tell whose limit it is, such as by = [\"instance\"]",
        ),
        (
            format!("{FLEET}limit = {{ query = 'x', by = [\"__name__\"] }}"),
            "5:30: target \"p\": limit.by: the name of the metric is no label to match by: the two queries have different ones",
        ),
        (
            format!("{FLEET}limit = 3"),
            "5:9: target \"p\": limit: expected a size such as \"4GiB\", { metric = \"…\" }, or { query = '…', by = [\"instance\"] }, found an integer",
        ),
        (format!("{FLEET}limit = \"3\""), "5:9: target \"p\": limit: 3B is too small: at least 1.00MiB"),
        (
            FLEET.replace("\"1GiB\"", "\"80%\""),
            "1:1: target \"p\": it could never fire: nothing says what the limit is, which a rule of it needs (a percentage, or eta): set limit",
        ),
        (
            FLEET.replace("http://h:9090", "http://joe:s3cr3t@h"),
            "4:22: target \"p\": prometheus.url: a URL with a user or password in it would end up in logs and bundles: use auth = { basic = { … } }; write the server's URL such as \"http://prometheus:9090\"",
        ),
        (
            FLEET.replace("http://h:9090", "http://h/api/v1/query"),
            "4:22: target \"p\": prometheus.url: leave /api/v1/query out; write the server's URL such as \"http://prometheus:9090\"",
        ),
        (
            FLEET.replace(", query = 'rss'", ""),
            "4:14: target \"p\": prometheus.query: missing; write for example prometheus = { url = \"http://prometheus:9090\", query = 'process_resident_memory_bytes{job=\"shop\"}' }",
        ),
        (
            METRICS.replace("url = \"http://h:1/metrics\"", "metric = \"a{b=1}\", url = \"http://h\""),
            "4:22: target \"m\": metrics.metric: a name only: labels are written as labels = { job = \"search\" }",
        ),
        (
            METRICS.replace("http://h:1/metrics", "h:1/metrics"),
            "4:19: target \"m\": metrics.url: not an http or https URL; write an exposition's URL such as \"http://search:6060/metrics\"",
        ),
        (
            format!("{METRICS}auth = {{ ca_file = \"/ca\" }}"),
            "5:20: target \"m\": auth.ca_file: has no effect, because metrics is not an https URL; remove it, or use https",
        ),
        (
            format!("{FLEET}auth = {{ bearer_file = \"/t\" }}"),
            "5:8: target \"p\": auth: without a pprof address there is nothing to authenticate to: add pprof, or remove auth",
        ),
    ] {
        assert_eq!(mistakes(&text), [format!("f:{message}")], "{text}");
    }
    for (text, warning) in [
        (
            format!("{FLEET}pprof = \"http://h/debug/pprof\""),
            "5:9: warning: target \"p\": pprof: the same for every instance that the query gives; name a label, as in http://{instance}/debug/pprof",
        ),
        (
            format!("{METRICS}eta = \"5m\""),
            "1:1: warning: target \"m\": nothing says what the limit is, which a rule of it needs (a percentage, or eta): set limit",
        ),
        (
            format!("{METRICS}auth = {{ bearer_file = \"/t\" }}"),
            "5:8: warning: target \"m\": auth: secrets are sent over the network without TLS; use an https URL for metrics",
        ),
    ] {
        assert_eq!(good(&text).1, [format!("f:{warning}")], "{text}");
    }
}

#[test]
fn a_mistake_in_defaults_is_told_once() {
    let two = format!("{TARGET}[[target]]\nname = \"u\"\nprocess = {{ pid = 2 }}\n");
    assert_eq!(mistakes(&format!("[defaults]\nslope = \"1GiB/4s\"\nthreshold = \"1GiB\"\n{two}")).len(), 1);
    // a wrong rule is a rule that was meant
    assert_eq!(mistakes(&format!("[defaults]\nthreshold = \"1 GeB\"\n{two}")).len(), 1);
    // here the second target is what makes it too short
    assert_eq!(
        mistakes(&format!("[defaults]\nslope = \"1GiB/1m\"\n{two}interval = \"20s\"")),
        ["f:10:12: target \"u\": slope: its window, 1m, is too short: at least 5 intervals of 20s"]
    );
}

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    for (keys, warning) in [
        (
            "leak = \"1GiB/1d\"",
            "5:8: warning: target \"t\": leak: two days and some hours must be seen before anything is judged, whatever its window is (1day)",
        ),
        (
            "gc = \"40%/30s\"\nread_memory = \"off\"",
            "5:6: warning: target \"t\": gc: has no effect with read_memory = \"off\": what collections take stands in the process's memory",
        ),
        ("escalate = true", "5:12: warning: target \"t\": escalate: has no effect, because threshold has fewer than two stages"),
        (
            "pprof = \"http://10.0.0.1:6060\"\nauth.bearer_file = \"/t\"",
            "6:1: warning: target \"t\": auth: secrets are sent over the network without TLS; use an https URL for pprof",
        ),
    ] {
        assert_eq!(good(&format!("{TARGET}{keys}")).1, [format!("f:{warning}")]);
    }
    assert_eq!(
        good(&TARGET.replace("\"80%\"", "[\"80%\", \"90%\"]")).1,
        [
            "f:4:13: warning: target \"t\": threshold: only the lowest stage of an incident leaves a bundle; for the others set escalate = true"
        ]
    );
    for keys in [
        "pprof = \"http://[::1]:6060\"\nauth.bearer_file = \"/t\"",
        "pprof = \"http://127.0.0.2\"\nauth.bearer_file = \"/t\"",
        "escalate = false",
    ] {
        assert_eq!(good(&format!("{TARGET}{keys}")).1, [""; 0], "{keys}");
    }
}

#[test]
fn columns_count_characters() {
    assert_eq!(target_mistakes("\"é→\" = 1")[0].split(" (").next(), Some("f:5:1: target \"t\": é→: unknown key"));
    let found = target_mistakes("auth = { headers = { \"é→\" = \"1\" }, ca_file = \"ca\" }\npprof = \"auto\"");
    assert!(found[1].starts_with("f:5:46: target \"t\": auth.ca_file: the path must be absolute"), "{found:?}");
    assert!(mistakes("\u{feff}x = 1")[0].starts_with("f:1:1: "));
    assert!(mistakes("\r\nx = 1\r\ny = 1\r\n")[2].starts_with("f:3:1: "));
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let found = target_mistakes("rearm = \"\\u001b[31m\"\n\"\\u0007\" = 1").join("\n");
    assert!(found.contains(r"`\u{1b}[31m`") && !found.contains(['\u{1b}', '\u{7}']), "{found}");
}

#[test]
fn a_huge_value_is_not_quoted() {
    for keys in [
        format!("threshold = \"{}\"", "9".repeat(100_000)),
        format!("for = \"{}\"", "9".repeat(100_000)),
        format!("{} = 1", "k".repeat(100_000)),
    ] {
        assert!(target_mistakes(&keys).join("").len() < 1_000);
    }
}

#[test]
fn secrets_are_in_no_message_and_no_debug_text() {
    let text = r#"
        [[target]]
        name = "t"
        process = { pid = 1 }
        eta = "5m"
        pprof = "https://h"
        auth.headers = { X-Key = "s3cr3t" }
    "#;
    let (config, _) = good(text);
    assert!(!format!("{config:?}").contains("s3cr3t"));
    for broken in [
        text.replace("https://h", "https://joe:s3cr3t@h"),
        text.replace("https://h", "https://h/?token=s3cr3t"),
        text.replace("https://h", "s3cr3t@h"),
        text.replace("\"s3cr3t\"", "\"s3cr3t\\n\""),
        text.replace("\"s3cr3t\"", "[\"s3cr3t\"]"),
        text.replace("\"s3cr3t\"", "{ file = \"s3cr3t\" }"),
        text.replace("\"s3cr3t\"", "s3cr3t"),
        text.replace("headers", "header"),
        text.replace("headers = { X-Key = \"s3cr3t\" }", "bearer_token = \"s3cr3t\""),
        text.replace("headers = { X-Key = \"s3cr3t\" }", "basic = { username = \"u\", password = \"s3cr3t\" }"),
        text.replace("headers = { X-Key = \"s3cr3t\" }", "bearer_file = \"s3cr3t\""),
    ] {
        let errors = parse(&broken, "f").unwrap_err();
        assert!(!format!("{errors} {errors:?}").contains("s3cr3t"), "{errors}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("memtrap.toml");
    let shown = file.display();
    let load_error = || load(&file).unwrap_err().to_string();
    let missing = load_error();
    assert!(missing.starts_with(&format!("{shown}: the configuration cannot be read: No such file")), "{missing}");
    assert!(missing.ends_with("create it, or name another with -c FILE"), "{missing}");
    std::fs::write(&file, b"# \xc3\xa9\n# caf\xe9\n").unwrap();
    assert_eq!(load_error(), format!("{shown}:2:6: not UTF-8: save the file as UTF-8 text"));
    std::fs::write(&file, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    assert_eq!(load_error(), format!("{shown}: larger than 4.00MiB: this is no configuration"));
    std::fs::write(&file, TARGET).unwrap();
    assert_eq!(load(&file).unwrap().0.targets.len(), 1);
}

#[test]
fn nothing_is_watched_only_where_that_is_written() {
    let (config, warnings) = good("target = []");
    assert_eq!(config.targets, []);
    assert_eq!(warnings, ["f:1:10: warning: target: none, so nothing is watched; add a [[target]] in its place"]);
}

#[test]
fn an_unprepared_host_is_watched_by_the_memory_of_its_go_processes_and_nothing_is_asked_of_them() {
    let (config, warnings) = good(UNPREPARED);
    assert_eq!(warnings, Vec::<String>::new());
    let [target] = config.targets.as_slice() else { panic!("{:?}", config.targets) };
    assert_eq!(target.source.process().unwrap().which, Selector::Go);
    assert_eq!((&target.pprof, target.capture.read_memory), (&None, ReadMemory::Always));
    assert!(target.rules.eta.is_some() && target.rules.leak.is_some() && !target.rules.threshold.is_empty());
    assert!(config.daemon.listen.unwrap().is_local());
}

#[test]
fn one_target_may_mean_many_services() {
    let process = |text: &str| target(&TARGET.replace("process = { pid = 1 }", &format!("process = {text}"))).source;
    let many = |which, exclude: &[&str]| {
        Source::Process(Process { which, user: None, exclude: exclude.iter().map(|s| (*s).into()).collect(), limit: None })
    };
    assert_eq!(process("{ go = true }"), many(Selector::Go, &[]));
    assert_eq!(process(r#"{ go = true, exclude = ["^backup", "kube-system/"] }"#), many(Selector::Go, &["^backup", "kube-system/"]));
    assert_eq!(process(r#"{ container = "^shop/" }"#), many(Selector::Container("^shop/".into()), &[]));
    assert_eq!(
        process(r#"{ cgroup = "/system.slice/shop-*.service" }"#),
        many(Selector::Cgroup("/system.slice/shop-*.service".into()), &[])
    );
}

#[test]
fn a_secret_may_be_a_credential_of_the_unit() {
    let auth = |file: &str| format!("pprof = \"https://h/debug/pprof\"\nauth = {{ bearer_file = \"{file}\" }}");
    let t = target(&format!("{TARGET}{}", auth("credential:search-token")));
    assert_eq!(t.auth.bearer_file, Some("credential:search-token".into()));
    for bad in ["credential:", "credential:../../etc/shadow", "credential:a/b", "token"] {
        assert_eq!(target_mistakes(&auth(bad)).len(), 1, "{bad}");
    }
}

#[test]
fn every_shipped_file_is_right() {
    let mut seen = 0;
    let dir = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config")).unwrap();
    for path in dir.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "toml")) {
        let (_, warnings) = load(&path).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(warnings, [], "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 2);
}

/// The keys of each section, as the parser itself lists them.
fn known_keys() -> Vec<(&'static str, Vec<String>)> {
    let text = "x=1\n[daemon]\nx=1\n[retention]\nx=1\n[upload]\nurl=\"file:///d\"\nx=1\n[defaults]\nx=1\n[[target]]\nx=1\n[target.process]\nx=1\n\
                [target.auth]\nx=1\n[target.auth.basic]\nx=1\n\
                [[target]]\nname=\"m\"\n[target.metrics]\nx=1\n[target.limit]\nx=1\n[[target]]\nname=\"p\"\n[target.prometheus]\nx=1\n[[notify]]\nkind=\"exec\"\nx=1";
    let sections = [
        "",
        "[daemon]",
        "[retention]",
        "[upload]",
        "[defaults]",
        "[[target]]",
        "process = {",
        "[target.auth]",
        "basic = {",
        "metrics = {",
        "limit = {",
        "prometheus = {",
        "[[notify]]",
    ];
    let found = mistakes(text);
    let lists = found.iter().filter_map(|m| m.split_once("(allowed here: ")).map(|(_, keys)| keys.trim_end_matches(')'));
    let lists: Vec<Vec<String>> = lists.map(|keys| keys.split(", ").map(str::to_owned).collect()).collect();
    assert_eq!(lists.len(), sections.len(), "{found:?}");
    sections.into_iter().zip(lists).collect()
}

#[test]
fn the_annotated_file_shows_every_key() {
    for (section, keys) in known_keys() {
        for key in keys {
            let shown = |line: &str| line.trim_start_matches('#').starts_with(&format!("{key} = "));
            let found = match section {
                "" => SHIPPED.contains(&format!("[{key}]")),
                s if s.ends_with('{') => SHIPPED.lines().any(|l| l.contains(s) && l.contains(&format!(" {key} = "))),
                // what can be inherited is explained in [defaults]
                "[[target]]" => SHIPPED.lines().any(shown) || SHIPPED.contains(&format!("[target.{key}]")),
                "[upload]" => commented("#[upload]").iter().any(|l| shown(l)),
                "[[notify]]" => commented("#[[notify]]").iter().any(|l| shown(l)),
                s => {
                    let body = SHIPPED.split_once(&format!("\n{s}\n")).unwrap_or_else(|| panic!("no {s}")).1;
                    body.lines().take_while(|l| !l.starts_with('[')).any(shown)
                }
            };
            assert!(found, "{section} {key} is not in memtrap.toml");
        }
    }
}

#[test]
fn the_annotated_file_tells_the_true_defaults() {
    let (config, _) = good(SHIPPED);
    assert_eq!((config.daemon, config.retention), (Daemon::default(), Retention::default()));
    let search = config.targets.iter().find(|t| t.name == "search").unwrap();
    let inherited = Target::with_defaults("search".into(), search.source.clone());
    assert_eq!((search.interval, search.capture.clone()), (inherited.interval, inherited.capture));
    assert_eq!(Rules { threshold: Vec::new(), ..search.rules.clone() }, inherited.rules);
}

/// Each line that is switched off, switched on in place of the line that it is the alternative to.
#[test]
fn every_setting_that_is_switched_off_in_the_annotated_file_works() {
    let lines: Vec<&str> = SHIPPED.lines().collect();
    let off = |line: &str| line.starts_with('#') && line[1..].starts_with(|c: char| c.is_ascii_lowercase());
    let mut tried = 0;
    // sections that are off as a whole have tests of their own
    let of_a_section = |line: &&str| commented("#[upload]").contains(line) || commented("#[[notify]]").contains(line);
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| off(line) && !of_a_section(line)) {
        let key = line[1..].split(" = ").next().unwrap();
        let section_start = lines[..at].iter().rposition(|l| l.starts_with('[')).unwrap();
        let section_end = lines[at..].iter().position(|l| l.starts_with('[')).map_or(lines.len(), |n| at + n);
        let gives_way = |other: &str| match key {
            "basic" => other == "bearer_file",
            _ => other == key,
        };
        let text: Vec<&str> = lines
            .iter()
            .enumerate()
            .map(|(i, l)| match l {
                _ if i == at => &l[1..],
                l if key.starts_with("client_") && l.starts_with("#client_") => &l[1..],
                l if (section_start..section_end).contains(&i) && l.split_once(" = ").is_some_and(|(k, _)| gives_way(k)) => "",
                l => l,
            })
            .collect();
        if let Err(errors) = parse(&text.join("\n"), "f") {
            panic!("{line}: {errors}");
        }
        tried += 1;
    }
    assert!(tried >= 15, "{tried}");
}

/// The lines of `[upload]`, which is switched off as a whole.
/// The lines of a section that is off.
fn commented(header: &str) -> Vec<&'static str> {
    SHIPPED.lines().skip_while(|l| *l != header).skip(1).take_while(|l| !l.starts_with('[') && !l.starts_with("#[")).collect()
}

#[test]
fn the_notify_of_the_annotated_file_works_for_each_kind_and_tells_its_defaults() {
    let setting = |line: &'static str| line.strip_prefix('#').and_then(|l| l.split_once(" = "));
    let settings: Vec<(&str, &str)> =
        commented("#[[notify]]").into_iter().filter_map(setting).filter(|(k, _)| !k.starts_with(' ')).collect();
    let with = |kind: &str, keys: &[&str]| {
        let chosen = settings.iter().filter(|(k, _)| keys.contains(k)).map(|(k, v)| format!("{k} = {v}\n"));
        let target = TARGET.replace("name = \"t\"", "name = \"checkout\"");
        good(&format!("{target}[[notify]]\nkind = \"{kind}\"\n{}", chosen.collect::<String>())).0.notify.remove(0)
    };
    let all = with("slack", &["name", "url_file", "auth", "targets", "message", "timeout"]);
    let plain = Notify { name: "oncall".into(), targets: all.targets.clone(), how: all.how.clone(), ..with("slack", &["url"]) };
    assert_eq!(all, plain, "message and timeout are the defaults");
    assert!(matches!(with("alertmanager", &["url", "labels"]).how, Channel::Alertmanager(_, labels) if !labels.is_empty()));
    assert!(matches!(with("exec", &["command"]).how, Channel::Exec(command) if command.len() == 2));
}

#[cfg(feature = "upload")]
#[test]
fn the_upload_of_the_annotated_file_works_for_each_store_and_tells_its_defaults() {
    let setting = |line: &'static str| line.strip_prefix('#').and_then(|l| l.split_once(" = "));
    let settings: Vec<(&str, &str)> = commented("#[upload]").into_iter().filter_map(setting).filter(|(k, _)| !k.starts_with(' ')).collect();
    let with = |url: &str, keys: &[&str]| {
        let chosen = settings.iter().filter(|(k, _)| keys.contains(k)).map(|(k, v)| format!("{k} = {v}\n"));
        good(&format!("[upload]\nurl = {url}\n{}{TARGET}", chosen.collect::<String>())).0.upload.unwrap()
    };
    let mut tried = 0;
    for (_, url) in settings.iter().filter(|(k, _)| *k == "url") {
        assert_eq!(with(url, &["delete_after_upload", "claim"]), with(url, &[]), "{url}: what is shown is the default");
        let own: &[&str] = match &url[1..5] {
            "s3:/" => {
                &["endpoint", "allow_http", "ca_file", "region", "access_key_id_file", "secret_access_key_file", "session_token_file"]
            }
            "gs:/" => &["endpoint", "ca_file", "service_account_file"],
            "az:/" => &["endpoint", "ca_file", "account", "account_key_file"],
            _ => &[],
        };
        assert!(own.is_empty() || with(url, own) != with(url, &[]));
        tried += own.len();
    }
    assert_eq!(tried, 14);
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in r#"([a-z.]{0,4}|[\[\]{}=,"'#%\\\n\r]|\[\[target\]\]|\PC){0,60}"#) {
        let _ = parse(&text, "f").map_err(|e| e.to_string());
    }

    /// Cuts, doubles and swaps pieces of the annotated file.
    #[test]
    fn a_mangled_file_is_read_without_panic(
        cuts in proptest::collection::vec((0..SHIPPED.len(), 0..80usize, 0..4u8, 0..SHIPPED.len()), 1..6)
    ) {
        let mut text: Vec<char> = SHIPPED.chars().collect();
        for (at, len, how, from) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            match how {
                0 => drop(text.drain(at..end)),
                1 => { let piece: Vec<char> = text[at..end].to_vec(); text.splice(at..at, piece); }
                2 => { let from = from.min(text.len()); let piece: Vec<char> = text[from..(from + len).min(text.len())].to_vec(); text.splice(at..end, piece); }
                _ => text.insert(at, ['[', ']', '{', '}', '"', '=', '\n', '#', ',', 'é'][len % 10]),
            }
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = parse(&text, "f") {
            prop_assert!(errors.iter().all(|p| p.place.is_some_and(|p| p.line <= text.lines().count() + 1)));
            let places: Vec<_> = errors.iter().filter_map(|p| p.place.map(|p| (p.line, p.column))).collect();
            prop_assert!(places.is_sorted());
        }
    }
}

#[test]
fn a_process_whose_cgroup_cannot_be_seen_is_told_its_limit() {
    let limit = |text: &str| target(&format!("{TARGET}limit = {text}")).source.process().unwrap().limit.clone();
    assert_eq!(limit("\"2GiB\""), Some(ProcessLimit::Fixed(ByteSize::gib(2))));
    assert_eq!(limit("{ env = \"MEMORY_LIMIT\" }"), Some(ProcessLimit::Env("MEMORY_LIMIT".into())));
    for bad in ["{ env = \"\" }", "{ env = \"A=B\" }", "{ env = 5 }", "{ env = \"A\", metric = \"m\" }"] {
        assert_eq!(target_mistakes(&format!("limit = {bad}")).len(), 1, "{bad}");
    }
}
