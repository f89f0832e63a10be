//! The room as a whole, with a watcher that answers what it is told to.

use std::sync::mpsc::channel;
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::*;
use crate::clock::Mono;
use crate::host::ProcFs;
use crate::incident::State;
use crate::lang::Lang;
use crate::meters::Meters;
use crate::poll::{Command, History, InstanceStatus, NotGranted};
use crate::series::Sample;

/// An instance with 100 MiB of 1 GiB.
pub(super) fn status(target: &str, state: State) -> InstanceStatus {
    InstanceStatus {
        target: target.into(),
        slot: 0,
        pid: Some(7),
        instance: Some("pid 7".into()),
        workload: None,
        container: None,
        state,
        reason: "RSS is 50% of the threshold of 200MiB".into(),
        rss_bytes: Some(100 << 20),
        charge_bytes: None,
        charge_limit_bytes: None,
        charge_cgroup: None,
        limit_bytes: Some(1 << 30),
        limit_source: Some("memory.max".into()),
        threshold_bytes: vec![200 << 20],
        slope_bytes_per_second: Some(0.0),
        seconds_to_limit: None,
        cooldown_seconds: None,
        next_capture: "any time".into(),
        incident: None,
        evidence: None,
        last_bundle: None,
        last_end: None,
    }
}

/// What answers requests, over a watcher that knows these instances; it ends with what is returned.
fn app(instances: Vec<InstanceStatus>) -> (App, tempfile::TempDir, Meters) {
    app_in(Lang::En, instances)
}

fn app_in(lang: Lang, instances: Vec<InstanceStatus>) -> (App, tempfile::TempDir, Meters) {
    let (commands, heard) = channel();
    std::thread::spawn(move || {
        for command in heard {
            match command {
                Command::Status(reply) => drop(reply.send(instances.clone())),
                Command::History(wanted, reply) => {
                    let now = Mono::now();
                    let ramp = || (0..60).map(|i| Sample { at: now - Duration::from_secs(60 - i), rss: (100 + i) << 20 }).collect();
                    let histories = wanted.into_iter().map(|(target, slot)| History { target, slot, samples: ramp() }).collect();
                    let _ = reply.send(histories);
                }
                Command::Capture(_, reply) => drop(reply.send(Err(NotGranted::NoTarget))),
                _ => {}
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let meters = Meters::default();
    meters.beat(Mono::now());
    let seen = Seen { commands, meters: meters.clone(), bundle_dir: dir.path().into(), procfs: ProcFs::host(), host: "host".into() };
    let guard = Guard { token: None, is_tcp: true };
    let view = View::new(seen);
    view.set_lang(lang);
    (App { guard: RwLock::new(guard), router: routes::router(Arc::new(view)) }, dir, meters)
}

async fn ask(app: &App, method: Method, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Body::empty()).unwrap();
    let response = app.answer(request).await;
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_thousand_instances_make_a_bounded_page_the_most_alarming_first() {
    let mut instances: Vec<InstanceStatus> = (0..1000).map(|i| InstanceStatus { slot: i, ..status("fleet", State::Armed) }).collect();
    instances[700].state = State::Open;
    instances[800].rss_bytes = Some(190 << 20);
    let (app, _dir, _) = app(instances);
    let (code, page) = ask(&app, Method::GET, "/").await;
    assert_eq!(code, StatusCode::OK);
    assert!(page.len() < 400_000, "{} bytes", page.len());
    assert_eq!(page.matches("<article").count(), 48);
    let first = |what: &str| page.find(what).unwrap_or_else(|| panic!("{what}"));
    assert!(first("id=\"i-fleet-700\"") < first("id=\"i-fleet-800\"") && first("id=\"i-fleet-800\"") < first("id=\"i-fleet-0\""));
    assert!(page.contains("page 1 of 21, 1000 instances"));
    let (_, last) = ask(&app, Method::GET, "/live?page=21").await;
    assert_eq!(last.matches("<article").count(), 1000 - 20 * 48);
    let (_, open) = ask(&app, Method::GET, "/live?state=open").await;
    assert_eq!(open.matches("<article").count(), 1);
}

#[tokio::test]
async fn the_page_is_chinese_where_that_is_configured_and_names_stay() {
    let (app, _dir, _meters) = app_in(Lang::Zh, vec![status("shop", State::Open), status("cart", State::Blind)]);
    let (_, page) = ask(&app, Method::GET, "/").await;
    for words in [
        "<html lang=\"zh-CN\">",
        "正在监视 2 个目标的 2 个实例；1 起事件，1 个读不到",
        "未恢复 open",
        "下次采集",
        "立即采集",
        "采集到的证据包",
    ] {
        assert!(page.contains(words), "{words} is not in\n{page}");
    }
    for words in ["Watching", "Capture now", "next capture", "Bundles", "highest", "None yet", "Also here"] {
        assert!(!page.contains(words), "{words}");
    }
    let (_, api) = ask(&app, Method::GET, "/api/targets").await;
    assert!(api.contains("\"state\":\"open\""), "{api}");
}

#[tokio::test]
async fn a_capture_that_a_person_asked_for_is_no_incident() {
    let by_hand = status("shop", State::Capturing);
    let by_rule = InstanceStatus { incident: Some("cart-1".into()), ..status("cart", State::Capturing) };
    let (app_by_hand, _dir, _) = app(vec![by_hand.clone()]);
    let (_, page) = ask(&app_by_hand, Method::GET, "/").await;
    assert!(page.contains("Watching 1 instance of 1 target; nothing is wrong"), "{page}");
    let (both, _dir, _) = app(vec![by_hand, by_rule]);
    let (_, page) = ask(&both, Method::GET, "/").await;
    assert!(page.contains("Watching 2 instances of 2 targets; 1 incident<"), "{page}");
}

#[tokio::test]
async fn nothing_from_outside_becomes_markup() {
    let evil = "<script>alert(1)</script>\"'";
    let mut hostile = status("t", State::Blind);
    (hostile.instance, hostile.reason, hostile.limit_source) = (Some(evil.into()), evil.into(), Some(evil.into()));
    let (app, _dir, _) = app(vec![hostile]);
    for path in ["/", "/live", "/live?target=%3Cscript%3E"] {
        let (code, page) = ask(&app, Method::GET, path).await;
        assert_eq!(code, StatusCode::OK);
        assert!(!page.contains("<script>") && !page.contains("style=\"") && !page.contains("onclick"), "{page}");
    }
}

#[tokio::test]
async fn health_follows_the_pulse() {
    let (app, _dir, meters) = app(Vec::new());
    assert_eq!(ask(&app, Method::GET, "/healthz").await, (StatusCode::OK, "ok\n".into()));
    meters.beat(Mono::now() - Duration::from_secs(45));
    let (code, said) = ask(&app, Method::GET, "/healthz").await;
    assert_eq!((code, said.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "the polling loop has not turned for 45s\n"));
}

#[tokio::test]
async fn a_watcher_that_is_gone_is_told() {
    let (commands, heard) = channel();
    drop(heard);
    let dir = tempfile::tempdir().unwrap();
    let seen = Seen { commands, meters: Meters::default(), bundle_dir: dir.path().into(), procfs: ProcFs::host(), host: String::new() };
    let app = App { guard: RwLock::new(Guard { token: None, is_tcp: true }), router: routes::router(Arc::new(View::new(seen))) };
    for path in ["/", "/api/targets"] {
        let (code, said) = ask(&app, Method::GET, path).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert!(said.contains("the watcher does not answer"), "{said}");
    }
}

#[tokio::test]
async fn paths_lead_nowhere_else() {
    let (app, dir, _) = app(Vec::new());
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    for path in [
        "/bundles/../secret",
        "/bundles/%2e%2e/secret/manifest.json",
        "/bundles/a/b/%2e%2e%2f%2e%2e%2fsecret",
        "/bundles/a/b/",
        "/bundles/a/b.tar.gz",
        "/nothing",
    ] {
        assert_eq!(ask(&app, Method::GET, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(ask(&app, Method::GET, "/api/capture/x").await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(&app, Method::POST, "/api/capture/x").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_reload_may_move_the_address_and_a_failed_one_leaves_all_as_it_was() {
    let free = |ip: &str| std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
    let (commands, _heard) = channel();
    let dir = tempfile::tempdir().unwrap();
    let seen = Seen { commands, meters: Meters::default(), bundle_dir: dir.path().into(), procfs: ProcFs::host(), host: String::new() };
    let mut server = Server::new(seen);
    let at = free("127.0.0.1");
    let listen = |address: std::net::SocketAddr| config::Daemon { listen: Some(Listen::Tcp(address)), ..Default::default() };
    let answers = |address: std::net::SocketAddr| async move { tokio::net::TcpStream::connect(address).await.is_ok() };
    server.configure(&listen(at)).await.unwrap();
    assert!(answers(at).await);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = server.configure(&listen(taken.local_addr().unwrap())).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on http://127.0.0.1:"), "{error}");
    assert!(answers(at).await, "the old address is served still");

    // the same port on every address: the old socket stands in the way
    server.configure(&listen(([0, 0, 0, 0], at.port()).into())).await.unwrap();
    assert!(answers(([127, 0, 0, 2], at.port()).into()).await);
    server.configure(&config::Daemon::default()).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!answers(at).await);
}

#[test]
fn a_token_file_is_one_long_word() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("token");
        std::fs::write(&path, text).unwrap();
        read_token(&path)
    };
    assert_eq!(file("0123456789abcdef\n").unwrap(), Token::new("0123456789abcdef"));
    for (text, said) in [
        ("", "too short"),
        ("short\n", "too short"),
        ("two words that are long\n", "more than one word"),
        ("0123456789abcdef\nx", "one word"),
    ] {
        let error = file(text).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("0123456789abcdef"), "{error}");
    }
    assert!(read_token(&dir.path().join("none")).unwrap_err().to_string().contains("cannot read token_file"));
    // nobody writes to it, and a reload does not wait for somebody
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(read_token(&fifo).unwrap_err().to_string().contains("too short"));
}
