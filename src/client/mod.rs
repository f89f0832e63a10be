//! HTTP clients and credentials, made from what the configuration and its secret files say now.
//!
//! For captures, sources, uploads and notifications. No proxies, no redirects to elsewhere, one TLS client per distinct set of options. Not here: what is
//! asked, and how long to wait for it.

mod cause;
mod direct;
mod gate;
mod names;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Url};
#[cfg(feature = "remote-store")]
use reqwest::{NoProxy, Proxy};

use self::names::Names;
use crate::aside::{Threads, may_block};
use crate::config::{self, Auth};
use crate::credential;
use crate::host::netns::Door;
use crate::host::peer::Peer;
use crate::text::one_line;
use direct::Direct;
use gate::Gate;

pub(crate) use self::cause::{Cause, USE_HTTPS, root_cause, says_in_the_clear, withheld};

/// Tokens, certificates and keys are far smaller.
const MAX_SECRET: u64 = 64 << 10;
const MAX_CA: u64 = 4 << 20;
const MAX_CACHED: usize = 32;
const MAX_REDIRECTS: usize = 3;
/// What requests say they come from.
const AGENT: &str = concat!("memtrap/", env!("CARGO_PKG_VERSION"));
/// After a capture its connection is of no use to anyone.
const IDLE: Duration = Duration::from_secs(5);

/// Why no request could be made at all: a sentence without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SetupError(String);

/// The clients that are worth keeping: those for `https`, since each loads the system's roots, which takes milliseconds and 100 kB,
/// and those of sources, which thousands of endpoints share. Others are cheap, and made anew for each capture.
#[derive(Clone)]
pub struct Clients {
    cached: Arc<Mutex<Vec<(Key, Client)>>>,
    /// Thousands of sources must not keep the threads that a capture needs.
    for_captures: Names,
    for_others: Names,
    /// Who answers is looked up here before credentials are sent.
    looks: Threads,
    connects: Threads,
}

/// Who sends requests.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    Pooled(Client),
    Direct(Direct),
}

/// Why a request brought no answer.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// Credentials were held back: a sentence.
    Withheld(String),
    Connect(Cause),
    /// It was sent, or begun, and its time ran out.
    TimedOut,
    Unanswered(Cause),
}

impl Asker {
    /// Sends a GET; the response's head. If the future is dropped, the request is given up.
    pub async fn get(&self, url: Url, headers: &HeaderMap) -> Result<Response, Unsent> {
        match self {
            Asker::Pooled(client) => client.get(url).headers(headers.clone()).send().await.map_err(|e| Unsent::of(&e)),
            Asker::Direct(direct) => direct.get(url, headers).await,
        }
    }
}

impl Unsent {
    fn of(error: &reqwest::Error) -> Unsent {
        if let Some(why) = withheld(error) {
            Unsent::Withheld(why)
        } else if error.is_connect() {
            Unsent::Connect(if error.is_timeout() { Cause::passing("connection timed out") } else { Cause::of(error) })
        } else if error.is_timeout() {
            Unsent::TimedOut
        } else {
            Unsent::Unanswered(Cause::of(error))
        }
    }
}

impl Default for Clients {
    fn default() -> Clients {
        Clients {
            cached: Arc::default(),
            for_captures: Names::default(),
            for_others: Names::default(),
            looks: gate::threads(),
            connects: direct::threads(),
        }
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clients")
    }
}

/// TLS options (`None`: none are needed), the patience with a connection, and what for.
type Key = (Option<Vec<u8>>, Patience, Use);

/// How long a client waits until it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience {
    connect: Duration,
    /// Before that, for an address.
    name: Duration,
}

impl Patience {
    fn with(base: &Url, connect: Duration) -> Patience {
        Patience { connect, name: if names::is_plain(base) { Duration::ZERO } else { connect.min(names::PATIENCE) } }
    }
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Several requests, one after the other, to one service. Redirects within it are followed.
    Capture,
    /// One request now and then to each of many services: no connection is kept, no redirect followed.
    Scrape,
    /// Signed requests, each for one address only.
    #[cfg(feature = "remote-store")]
    Upload,
}

/// Makes ring the process's TLS provider. Without one, making a client panics; to call it again does nothing.
pub fn install_tls_provider() {
    // an error says that one is installed already
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What is sent along with each request, and what must not be shown of it.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub headers: HeaderMap,
    tls: Tls,
    secrets: Arc<Vec<String>>,
}

#[derive(Clone, Default)]
struct Tls {
    ca: Option<Vec<u8>>,
    /// Certificate chain and key, one PEM.
    identity: Option<Vec<u8>>,
}

impl Credentials {
    /// Reads the secret files. Blocks on the disk.
    pub fn load(auth: &Auth) -> Result<Credentials, SetupError> {
        if *auth != Auth::default() {
            may_block();
        }
        let mut made = Credentials::default();
        let mut secrets = Vec::new();
        if let Some(basic) = &auth.basic {
            let password = secret(&basic.password_file)?;
            let value = basic_value(&basic.username, &password)?;
            secrets.extend(value.to_str().ok().and_then(|v| v.strip_prefix("Basic ")).map(str::to_owned));
            secrets.push(password);
            made.headers.insert(AUTHORIZATION, value);
        }
        if let Some(file) = &auth.bearer_file {
            let token = secret(file)?;
            made.headers.insert(AUTHORIZATION, sensitive(&format!("Bearer {token}"), || file.display().to_string())?);
            secrets.push(token);
        }
        for (name, value) in &auth.headers {
            let value = match value {
                config::HeaderValue::Inline(text) => text.clone(),
                config::HeaderValue::File(file) => secret(file)?,
            };
            let shown = || format!("header {}", one_line(name, 60));
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| SetupError(format!("{} is no valid header name", shown())))?;
            made.headers.insert(key, sensitive(&value, shown)?);
            // `Authorization: Bearer X` is often echoed as X
            secrets.extend(value.split_whitespace().map(str::to_owned));
            secrets.push(value);
        }
        made.tls.ca = auth.ca_file.as_deref().map(|file| read(file, MAX_CA)).transpose()?;
        if let (Some(cert), Some(key)) = (&auth.client_cert_file, &auth.client_key_file) {
            let mut pem = read(cert, MAX_SECRET)?;
            pem.push(b'\n');
            pem.extend(read(key, MAX_SECRET)?);
            made.tls.identity = Some(pem);
        }
        // too short to be a secret, and its removal would ruin the text
        secrets.retain(|s| s.len() >= 4);
        // the longest first: one may be part of another
        secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
        made.secrets = Arc::new(secrets);
        Ok(made)
    }

    /// Whether something is sent that only the service may see.
    pub fn are_sent(&self) -> bool {
        !self.headers.is_empty() || self.tls.identity.is_some()
    }

    /// Text from the server, without the secrets that it may have echoed.
    pub fn redact(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[secret]"))
    }

    /// The same for bytes.
    pub fn redact_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.secrets.iter().fold(bytes, |bytes, secret| {
            let secret = secret.as_bytes();
            let mut out = Vec::with_capacity(bytes.len());
            let mut rest = bytes.as_slice();
            while let Some(at) = rest.windows(secret.len()).position(|w| w == secret) {
                let (before, from) = rest.split_at(at);
                out.extend_from_slice(before);
                out.extend_from_slice(b"[secret]");
                rest = from.get(secret.len()..).unwrap_or_default();
            }
            out.extend_from_slice(rest);
            out
        })
    }
}

/// reqwest knows the encoding; no request is sent.
fn basic_value(username: &str, password: &str) -> Result<HeaderValue, SetupError> {
    install_tls_provider();
    let client = Client::builder().no_proxy().tls_certs_only([]).build();
    let request = client.and_then(|c| c.get("http://localhost/").basic_auth(username, Some(password)).build());
    let value = request.ok().and_then(|r| r.headers().get(AUTHORIZATION).cloned());
    value.ok_or_else(|| SetupError("basic auth: user name and password make no valid header".into()))
}

fn sensitive(value: &str, what: impl Fn() -> String) -> Result<HeaderValue, SetupError> {
    let mut value =
        HeaderValue::from_str(value).map_err(|_| SetupError(format!("{}: the value has characters that no header may have", what())))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A secret of one line: its file without the line break at the end.
fn secret(file: &Path) -> Result<String, SetupError> {
    let text = String::from_utf8(read(file, MAX_SECRET)?)
        .map_err(|_| SetupError(format!("{} is not UTF-8; write the secret there as plain text", file.display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(SetupError(format!("{} is empty; write the secret there", file.display())));
    }
    Ok(text.to_owned())
}

pub(crate) fn read(file: &Path, max: u64) -> Result<Vec<u8>, SetupError> {
    let mut bytes = Vec::new();
    let done = credential::open_secret(file).and_then(|f| f.take(max + 1).read_to_end(&mut bytes));
    match done {
        Ok(n) if n as u64 > max => Err(SetupError(format!("{} is larger than {max} bytes; is it the right file?", file.display()))),
        Ok(_) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Err(SetupError(format!(
            "cannot read {}: {e}; let memtrap's user read it, or hand it over with `LoadCredential=` in a drop-in and write `credential:NAME`",
            file.display()
        ))),
        Err(e) => Err(SetupError(format!("cannot read {}: {e}; see that memtrap may read it", file.display()))),
    }
}

impl Clients {
    /// A client that asks who answers at `peer` before it sends anything there. The others are those of [`Clients::client`].
    pub(crate) fn guarded(
        &self,
        base: &Url,
        socket: Option<PathBuf>,
        credentials: &Credentials,
        connect: Duration,
        purpose: Use,
        peer: Arc<Peer>,
    ) -> Result<Client, SetupError> {
        install_tls_provider();
        let (patience, names) = (Patience::with(base, connect), self.names(purpose));
        let builder = match base.scheme() {
            "https" => credentials.tls.apply(common(patience, purpose, names))?,
            _ => plain(patience, purpose, names),
        };
        over(builder, socket).connector_layer(Gate { peer, threads: self.looks.clone() }).build().map_err(failed)
    }

    /// One for a process in another network namespace; with `peer` as for [`Clients::guarded`].
    pub(crate) fn direct(&self, door: Arc<Door>, connect: Duration, peer: Option<Arc<Peer>>) -> Asker {
        Asker::Direct(Direct { door, connect, threads: self.connects.clone(), peer })
    }

    fn names(&self, purpose: Use) -> &Names {
        if purpose == Use::Capture { &self.for_captures } else { &self.for_others }
    }

    /// A client for `base`. May block for some milliseconds on the system's certificates.
    pub(crate) fn client(
        &self,
        base: &Url,
        socket: Option<PathBuf>,
        credentials: &Credentials,
        connect: Duration,
        purpose: Use,
    ) -> Result<Client, SetupError> {
        install_tls_provider();
        let tls = base.scheme() == "https";
        let (patience, names) = (Patience::with(base, connect), self.names(purpose));
        if !tls && purpose == Use::Capture {
            return over(plain(patience, purpose, names), socket).build().map_err(failed);
        }
        let key = (tls.then(|| credentials.tls.fingerprint()), patience, purpose);
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = cached.iter().find(|(k, _)| *k == key) {
            return Ok(client.clone());
        }
        let builder = if tls { credentials.tls.apply(common(patience, purpose, names))? } else { plain(patience, purpose, names) };
        let client = builder.build().map_err(failed)?;
        if cached.len() == MAX_CACHED {
            cached.clear();
        }
        cached.push((key, client.clone()));
        Ok(client)
    }
}

/// Through this socket, if there is one.
fn over(builder: ClientBuilder, socket: Option<PathBuf>) -> ClientBuilder {
    match socket {
        Some(socket) => builder.unix_socket(socket),
        None => builder,
    }
}

fn failed(error: reqwest::Error) -> SetupError {
    SetupError(format!("cannot set up HTTP: {}", Cause::of(&error)))
}

impl Tls {
    fn apply(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, SetupError> {
        if let Some(ca) = &self.ca {
            let roots = Certificate::from_pem_bundle(ca).ok().filter(|roots| !roots.is_empty());
            builder = builder.tls_certs_only(roots.ok_or_else(|| SetupError("ca_file holds no PEM certificate".into()))?);
        }
        if let Some(pem) = &self.identity {
            let identity = Identity::from_pem(pem)
                .map_err(|_| SetupError("client_cert_file and client_key_file are no PEM certificate with its key".into()))?;
            builder = builder.identity(identity);
        }
        Ok(builder)
    }

    fn fingerprint(&self) -> Vec<u8> {
        let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
        for part in [&self.ca, &self.identity] {
            // lengths keep two parts from being read as two others
            hash.update(&part.as_ref().map_or(u64::MAX, |p| p.len() as u64).to_le_bytes());
            hash.update(part.as_deref().unwrap_or_default());
        }
        hash.finish().as_ref().to_vec()
    }
}

fn common(patience: Patience, purpose: Use, names: &Names) -> ClientBuilder {
    let builder = Client::builder()
        .no_proxy()
        .referer(false)
        .dns_resolver(names.within(patience.name))
        .connect_timeout(patience.connect + patience.name)
        .pool_idle_timeout(IDLE)
        .user_agent(AGENT);
    match purpose {
        Use::Capture => builder.redirect(Policy::custom(same_origin)),
        // a kept connection costs 35 kB: more than everything else that is kept of an endpoint
        Use::Scrape => builder.redirect(Policy::none()).pool_max_idle_per_host(0),
        #[cfg(feature = "remote-store")]
        Use::Upload => builder.redirect(Policy::none()),
    }
}

/// A store's client is made anew for each job; what is known of names is not.
#[cfg(feature = "remote-store")]
static FOR_UPLOADS: std::sync::LazyLock<Names> = std::sync::LazyLock::new(Names::default);

/// For the requests of object stores, which know their own credentials; `roots` are trusted besides the system's. `total` is for one
/// request with its answer. Clouds' metadata servers are never asked through the proxy. Blocks for some milliseconds on the system's
/// certificates. Where the store or the proxy is on this host, `peer` is who must answer there.
#[cfg(feature = "remote-store")]
pub(crate) fn for_uploads(
    (connect, total): (Duration, Duration),
    roots: Vec<Certificate>,
    proxy: Option<&str>,
    peer: Option<Peer>,
) -> reqwest::Result<Client> {
    install_tls_provider();
    let patience = Patience { connect, name: names::PATIENCE };
    let mut builder = common(patience, Use::Upload, &FOR_UPLOADS).timeout(total).tls_certs_merge(roots);
    if let Some(proxy) = proxy {
        let nearby = NoProxy::from_string("localhost,127.0.0.0/8,::1,169.254.0.0/16,fd00:ec2::254,metadata.google.internal");
        builder = builder.proxy(Proxy::all(proxy)?.no_proxy(nearby));
    }
    if let Some(peer) = peer {
        builder = builder.connector_layer(Gate { peer: peer.into(), threads: gate::threads() });
    }
    builder.build()
}

fn plain(patience: Patience, purpose: Use, names: &Names) -> ClientBuilder {
    install_tls_provider();
    // without roots it costs microseconds, not milliseconds; nothing but http is asked for
    common(patience, purpose, names).tls_certs_only([])
}

/// Elsewhere is someone else: neither asked nor given credentials. The redirect itself is then the answer.
fn same_origin(attempt: Attempt) -> reqwest::redirect::Action {
    let same = attempt.previous().last().is_some_and(|from| from.origin() == attempt.url().origin());
    if same && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Basic;

    fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_secret_is_the_file_without_its_last_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth { bearer_file: Some(file(&dir, "t", "s3cr3t-token\n")), ..Auth::default() };
        let made = Credentials::load(&auth).unwrap();
        assert_eq!(made.headers[AUTHORIZATION], "Bearer s3cr3t-token");
        assert!(made.headers[AUTHORIZATION].is_sensitive());
        assert_eq!(made.redact("bad token s3cr3t-token!"), "bad token [secret]!");
    }

    #[test]
    fn basic_credentials_are_redacted_in_either_form() {
        let dir = tempfile::tempdir().unwrap();
        let basic = Basic { username: "ops".into(), password_file: file(&dir, "p", "hunter22") };
        let made = Credentials::load(&Auth { basic: Some(basic), ..Auth::default() }).unwrap();
        assert_eq!(made.headers[AUTHORIZATION], "Basic b3BzOmh1bnRlcjIy");
        assert_eq!(made.redact_bytes(b"b3BzOmh1bnRlcjIy is hunter22".to_vec()), b"[secret] is [secret]");
    }

    #[test]
    fn an_error_about_a_secret_file_names_the_file_and_not_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let text = |auth: Auth| Credentials::load(&auth).err().unwrap().to_string();
        let missing = text(Auth { bearer_file: Some(dir.path().join("none")), ..Auth::default() });
        assert!(missing.contains("none") && missing.contains("see that memtrap may read it"), "{missing}");
        let empty = text(Auth { bearer_file: Some(file(&dir, "e", "\n")), ..Auth::default() });
        assert!(empty.ends_with("is empty; write the secret there"), "{empty}");
        let torn = text(Auth { bearer_file: Some(file(&dir, "n", "line one\nline two")), ..Auth::default() });
        assert!(!torn.contains("line one"), "{torn}");
        let large = text(Auth { bearer_file: Some(file(&dir, "l", &"x".repeat(70_000))), ..Auth::default() });
        assert!(large.contains("larger than 65536 bytes"), "{large}");
    }

    #[test]
    fn one_client_serves_all_with_the_same_tls_options() {
        let clients = Clients::default();
        let base = Url::parse("https://example.test/debug/pprof").unwrap();
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            clients.client(&base, None, &Credentials::default(), second, Use::Capture).unwrap();
        }
        assert_eq!(clients.cached.lock().unwrap().len(), 1);
        let other = Credentials { tls: Tls { ca: Some(b"not a certificate".to_vec()), identity: None }, ..Credentials::default() };
        assert!(clients.client(&base, None, &other, second, Use::Capture).unwrap_err().to_string().contains("ca_file"));
    }
}
