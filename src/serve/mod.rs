//! What the operator sees: the status page, the JSON API, `/metrics`, `/healthz`, and captures on request.
//!
//! ```text
//!  client ──> connections ──> guard ──> routes ──> view ──Command──> watcher
//!             (bounded)     (who may)     │          └──> index (bundle directory)
//!                                         └──> page, files, metrics, hook
//! ```
//!
//! It runs on the daemon's runtime, beside the captures; what blocks runs elsewhere. It reads, and orders captures; it changes nothing else. Not
//! here: TLS (a proxy's business), and any right to delete.

mod connections;
mod files;
mod guard;
mod hook;
mod index;
mod metrics;
mod process_metrics;
mod page;
mod plot;
mod routes;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinHandle;

use self::connections::Listener;
use self::guard::{Guard, Refusal, Token};
use self::view::View;
use crate::aside::{NoAnswer, Threads};
use crate::config::{self, Listen};

pub use index::{Answer, Caught};
pub(crate) use page::{clock_words, word, words_of_eta, words_of_slope};
pub use routes::{Instance, Targets};
pub use view::{NotReloaded, Seen};

/// For the disks of the token and of a socket.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);
const MAX_TOKEN_FILE: u64 = 4096;
/// Shorter ones can be guessed.
const MIN_TOKEN: usize = 16;

/// Why memtrap cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {listen}; see that the address is free and memtrap may use it, or set `listen` to another")]
    Bind { listen: Listen, source: io::Error },
    #[error("cannot read token_file {path}; create it, and let memtrap's user read it")]
    Token { path: PathBuf, source: io::Error },
    #[error("token_file {path} {why}; write one line of 16 characters or more there, such as `openssl rand -hex 32` makes")]
    BadToken { path: PathBuf, why: &'static str },
}

/// The server of a daemon, whether it listens or not. Stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    view: Arc<View>,
    running: Option<Running>,
    /// For the token's file and the socket's.
    threads: Threads,
}

#[derive(Debug)]
struct Running {
    listen: Listen,
    app: Arc<App>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One that does not listen yet.
    pub fn new(seen: Seen) -> Server {
        Server { view: Arc::new(View::new(seen)), running: None, threads: Threads::new("listen", 2) }
    }

    /// Listens where `daemon` says, with the token that its file holds now; on an error, all stays as it was.
    pub async fn configure(&mut self, daemon: &config::Daemon) -> Result<(), ServeError> {
        self.view.set_lang(daemon.lang);
        let Some(listen) = &daemon.listen else {
            self.running = None;
            return Ok(());
        };
        let token = match daemon.token_file.clone() {
            Some(file) => {
                let path = file.clone();
                let late = |why: NoAnswer| ServeError::Token { path, source: io::Error::new(io::ErrorKind::TimedOut, why.to_string()) };
                Some(self.threads.run(PATIENCE, move || read_token(&file)).await.unwrap_or_else(|why| Err(late(why)))?)
            }
            None => None,
        };
        if let Some(running) = self.running.as_ref().filter(|r| r.listen == *listen) {
            running.app.guard.write().unwrap_or_else(PoisonError::into_inner).token = token;
            return Ok(());
        }
        let bound = self.bind(listen).await.map_err(|source| ServeError::Bind { listen: listen.clone(), source })?;
        let guard = Guard { token, is_tcp: bound.is_tcp() };
        match bound.address() {
            Some(address) => tracing::info!(%address, "listening: status page, API and metrics"),
            None => tracing::info!(address = %listen, "listening: status page, API and metrics"),
        }
        let app = Arc::new(App { guard: RwLock::new(guard), router: routes::router(self.view.clone()) });
        let task = tokio::spawn(connections::answer(bound, app.clone()));
        self.running = Some(Running { listen: listen.clone(), app, task });
        Ok(())
    }

    /// Tells of a reload; `Err` says why the configuration in force is not the file's.
    pub fn reloaded(&self, result: Result<(), String>) {
        self.view.reloaded(result);
    }

    /// Before the old socket is closed, unless that is what stands in the way: then it is opened again if the new one cannot be.
    async fn bind(&mut self, listen: &Listen) -> io::Result<Listener> {
        let first = Listener::bind(listen, &self.threads).await;
        let is_in_use = first.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse);
        let Some(mut old) = self.running.take_if(|_| is_in_use) else { return first };
        old.task.abort();
        // it ends at once, and its socket with it
        let _ = (&mut old.task).await;
        let second = Listener::bind(listen, &self.threads).await;
        if second.is_err()
            && let Ok(again) = Listener::bind(&old.listen, &self.threads).await
        {
            old.task = tokio::spawn(connections::answer(again, old.app.clone()));
            self.running = Some(old);
        }
        second
    }
}

/// Whether memtrap could listen there now; `AddrInUse` if somebody does. Leaves nothing behind.
pub async fn probe(listen: &Listen) -> Result<(), ServeError> {
    Listener::probe(listen).await.map_err(|source| ServeError::Bind { listen: listen.clone(), source })
}

/// Whether the token that `daemon` wants can be read now. Blocks on the disk.
pub fn check_token(daemon: &config::Daemon) -> Result<(), ServeError> {
    daemon.token_file.as_deref().map_or(Ok(()), |path| read_token(path).map(drop))
}

fn read_token(path: &Path) -> Result<Token, ServeError> {
    let unreadable = |source| ServeError::Token { path: path.into(), source };
    let bad = |why| ServeError::BadToken { path: path.into(), why };
    let mut bytes = Vec::new();
    crate::credential::open_secret(path).and_then(|f| f.take(MAX_TOKEN_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("is no plain text"))?.trim_end_matches(['\r', '\n']);
    if bytes.len() as u64 > MAX_TOKEN_FILE || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("holds more than one word"));
    }
    if text.len() < MIN_TOKEN { Err(bad("holds too short a token")) } else { Ok(Token::new(text)) }
}

/// What answers requests.
#[derive(Debug)]
struct App {
    guard: RwLock<Guard>,
    router: Router,
}

const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

impl App {
    async fn answer(&self, request: Request<Body>) -> Response {
        // programs are answered in their own way
        let is_api = ["/api/", "/hooks/"].iter().any(|of| request.uri().path().starts_with(of));
        let refusal = {
            let guard = self.guard.read().unwrap_or_else(PoisonError::into_inner);
            let open = request.uri().path() == routes::HEALTH;
            guard.admit(request.method(), request.uri(), request.headers(), open).err()
        };
        let mut response = match refusal {
            Some(refusal) => {
                let mut response = match is_api {
                    true => routes::problem(refusal.status(), refusal),
                    false => (refusal.status(), format!("memtrap: {refusal}\n")).into_response(),
                };
                if refusal == Refusal::Token {
                    // the second is what browsers ask a person for
                    response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"memtrap\""));
                    response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"memtrap\", charset=\"UTF-8\""));
                }
                response
            }
            None => match TowerToHyperService::new(self.router.clone()).call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        let headers = response.headers_mut();
        for (name, value) in
            [(X_CONTENT_TYPE_OPTIONS, "nosniff"), (REFERRER_POLICY, "no-referrer"), (RESOURCE_POLICY, "same-origin"), (ROBOTS, "noindex")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        // unless a route knows better
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"));
        response
    }
}
