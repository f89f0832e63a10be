//! Credentials go to the service and nowhere else.

use super::service::{Reply, Service, healthy};
use super::*;
use crate::config::{Basic, HeaderValue, Process};
use crate::host::fake::as_user;

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

/// Nobody's number on this host.
const EVE: u32 = 54_321;

/// A socket that another user has made, held by this very process: as after a handover.
fn of_eve() -> Option<tokio::net::TcpListener> {
    let listener = as_user(EVE, || std::net::TcpListener::bind("127.0.0.1:0").unwrap())?;
    listener.set_nonblocking(true).unwrap();
    Some(tokio::net::TcpListener::from_std(listener).unwrap())
}

#[tokio::test]
async fn another_users_socket_is_shown_no_credentials_and_the_bundle_names_the_cure() {
    let Some(listener) = of_eve() else { return };
    let service = Service::on(listener, healthy);
    for pprof in [service.pprof(), Some(Pprof::Http(format!("http://localhost:{}/debug/pprof", service.addr.port())))] {
        let caught = with_token(Trial::of(pprof)).run().await;
        assert_eq!(service.seen(), [] as [&str; 0]);
        let why = format!(
            "credentials are not sent there: the socket at {} is of user {EVE}; if that is the service's, say so with `user`",
            service.addr
        );
        assert!(caught.reason("heap").starts_with(&why), "{}", caught.reason("heap"));
        assert!(caught.captured.warnings.iter().any(|w| w.starts_with(&why)), "{:?}", caught.captured.warnings);
        assert_eq!(caught.status("status"), Status::Ok);
    }
}

#[test]
fn auto_shows_no_credentials_to_another_users_socket_either() {
    alone("capture::tests::secrets::auto_shows_no_credentials_to_another_users_socket_either", || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let Some(listener) = of_eve() else { return };
            let service = Service::on(listener, healthy);
            with_token(Trial::of(Some(Pprof::Auto))).run().await;
            assert_eq!(service.seen(), [] as [&str; 0]);
        });
    });
}

#[tokio::test]
async fn the_user_that_the_configuration_names_is_shown_them() {
    let Some(listener) = of_eve() else { return };
    let service = Service::on(listener, healthy);
    let mut trial = with_token(Trial::of(service.pprof()));
    trial.target.source =
        Process { which: Selector::Pid(1), user: Some(EVE.to_string().parse().unwrap()), exclude: Vec::new(), limit: None }.into();
    let caught = trial.run().await;
    assert_eq!(caught.status("heap"), Status::Ok);
    assert!(service.seen().iter().all(|head| head.contains(TOKEN)));
}

#[tokio::test]
async fn without_credentials_another_users_socket_is_asked_as_before() {
    let Some(listener) = of_eve() else { return };
    let service = Service::on(listener, healthy);
    let caught = Trial::of(service.pprof()).run().await;
    assert_eq!(caught.status("heap"), Status::Ok);
}

#[tokio::test]
async fn another_users_unix_socket_is_shown_no_credentials() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let path = dir.path().join("x.sock");
    let Some(listener) = as_user(EVE, || std::os::unix::net::UnixListener::bind(&path).unwrap()) else { return };
    listener.set_nonblocking(true).unwrap();
    let seen = Service::on_unix(tokio::net::UnixListener::from_std(listener).unwrap(), healthy);
    let pprof = || Some(Pprof::Unix { socket: path.clone(), path: "/debug/pprof".into() });
    let caught = with_token(Trial::of(pprof())).run().await;
    assert_eq!(*seen.lock().unwrap(), [] as [&str; 0]);
    assert!(caught.reason("heap").contains(&format!("is of user {EVE}")), "{}", caught.reason("heap"));
    let mut trial = with_token(Trial::of(pprof()));
    trial.target.source =
        Process { which: Selector::Pid(1), user: Some(EVE.to_string().parse().unwrap()), exclude: Vec::new(), limit: None }.into();
    assert_eq!(trial.run().await.status("heap"), Status::Ok);
    assert!(seen.lock().unwrap().iter().all(|head| head.contains(TOKEN)));
}
