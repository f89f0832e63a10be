//! Credentials go to the service and nowhere else.

use super::service::{Reply, Service, healthy};
use super::*;
use crate::config::{Basic, HeaderValue};

const TOKEN: &str = "s3cr3t-t0ken-of-ops";

fn with_token(trial: Trial) -> Trial {
    let file = trial.dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let auth = Auth { bearer_file: Some(file), ..Auth::default() };
    Trial { target: Target { auth, ..trial.target.clone() }, ..trial }
}

fn assert_secret(caught: &Caught, secret: &str) {
    for (name, bytes) in contents(&caught.captured.path) {
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{name} holds the secret");
    }
}

#[tokio::test]
async fn a_token_is_sent_and_never_shown() {
    let service = Service::start(|path| match path {
        "/debug/pprof/heap" => Reply::Head("401 Unauthorized\r\n", format!("bad token {TOKEN}\n").into()),
        "/debug/pprof/allocs" => Reply::Ok(format!("<html>you sent Bearer {TOKEN}").into()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = with_token(Trial::of(service.pprof())).run().await;
    assert!(service.seen().iter().all(|head| head.contains(&format!("authorization: Bearer {TOKEN}"))));
    let expected = "HTTP 401 `bad token [secret]`: the service wants credentials; check `auth` in the configuration";
    assert_eq!((caught.reason("heap"), caught.entry("heap").attempts), (expected, 1));
    assert_eq!(caught.read("allocs.pb.gz.rejected"), "<html>you sent Bearer [secret]");
    assert_secret(&caught, TOKEN);
}

#[tokio::test]
async fn a_redirect_elsewhere_is_not_followed() {
    let other = Service::start(healthy).await;
    let location = format!("302 Found\r\nLocation: http://{}/debug/pprof/heap?key=abcdef\r\n", other.addr);
    let location: &'static str = location.leak();
    let service = Service::start(move |path| match path {
        "/debug/pprof/heap" => Reply::Head(location, Vec::new()),
        "/debug/pprof/allocs" => Reply::Head("302 Found\r\nLocation: /debug/pprof/mutex\r\n", Vec::new()),
        path => healthy(path),
    });
    let service = service.await;
    let caught = with_token(Trial::of(service.pprof())).run().await;
    assert_eq!(other.seen(), [] as [&str; 0]);
    let expected = format!("redirected to http://{}, which is not followed: set `pprof` to the final address", other.addr);
    assert_eq!(caught.reason("heap"), expected);
    // the same service may say where on it
    assert_eq!(caught.status("allocs"), Status::Ok);
}

#[tokio::test]
async fn passwords_and_own_headers_are_sent_and_never_shown() {
    let service = Service::start(healthy).await;
    let trial = Trial::of(service.pprof());
    let password_file = trial.dir.path().join("password");
    std::fs::write(&password_file, "hunter22").unwrap();
    let basic = Some(Basic { username: "ops".into(), password_file });
    let headers = vec![("X-Api-Key".into(), HeaderValue::Inline("k3y-of-ops".into()))];
    let trial = Trial { target: Target { auth: Auth { basic, headers, ..Auth::default() }, ..trial.target.clone() }, ..trial };
    let caught = trial.run().await;
    assert!(
        service.seen().iter().all(|head| head.contains("authorization: Basic b3BzOmh1bnRlcjIy") && head.contains("x-api-key: k3y-of-ops"))
    );
    for secret in ["hunter22", "b3BzOmh1bnRlcjIy", "k3y-of-ops"] {
        assert_secret(&caught, secret);
    }
}

#[tokio::test]
async fn a_missing_token_file_is_told_and_nothing_is_asked_without_it() {
    let service = Service::start(healthy).await;
    let mut trial = Trial::of(service.pprof());
    trial.target.auth.bearer_file = Some("/nonexistent/token".into());
    let caught = trial.run().await;
    assert!(caught.reason("heap").starts_with("cannot read /nonexistent/token"), "{}", caught.reason("heap"));
    assert_eq!(service.seen(), [] as [&str; 0]);
}
