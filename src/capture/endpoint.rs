//! From the configuration's `pprof` to an endpoint that can be asked, with what is suspicious about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;
use tokio::task::JoinHandle;

use super::collected::Unanswered;
use super::discover::{Candidate, Sought};
use super::fetch::Endpoint;
use super::reach::quick_connect;
use super::watch::Watch;
use super::{Env, collected, discover};
use crate::aside::NoAnswer;
use crate::bundle::Warning;
use crate::client::{Asker, Clients, Credentials, Use};
use crate::config::{self, ADDRESS, Pprof, Source, Template};
use crate::error::chain;
use crate::host::netns::{self, Door, ENTER, Way};
use crate::host::peer::Peer;
use crate::host::sockets::{self, Ownership};
use crate::host::trust::Trusted;
use crate::host::{ProcFs, obstacle};
use crate::identity::InstanceId;

pub(super) struct Found {
    pub endpoint: Arc<Endpoint>,
    /// The index page, where it was read on the way.
    pub index: Option<Vec<u8>>,
    pub warnings: Vec<Warning>,
}

/// Why an endpoint is not asked: a sentence without secrets.
#[derive(Debug)]
pub(super) struct Unusable {
    pub why: String,
    /// It would be shown credentials that are not for it: what everybody should know.
    pub is_withheld: bool,
}

impl<S: Into<String>> From<S> for Unusable {
    fn from(why: S) -> Unusable {
        Unusable { why: why.into(), is_withheld: false }
    }
}

impl Unusable {
    fn withheld(why: String) -> Unusable {
        Unusable { why, is_withheld: true }
    }
}

/// What can be done before the endpoint is asked anything: it reads the kernel's socket tables, which takes milliseconds, while the kernel's
/// evidence is collected.
pub(super) struct Preparing {
    job: JoinHandle<Result<Result<Prepared, Unusable>, NoAnswer>>,
}

/// Makes the clients, and finds out whose the address is. Nothing is sent.
pub(super) fn prepare(target: &Arc<config::Target>, id: Option<InstanceId>, env: &Env) -> Preparing {
    let (target, procfs, clients, unanswered) = (target.clone(), env.procfs.clone(), env.clients.clone(), env.unanswered.clone());
    let patience = collected::patience(&target.capture);
    let (threads, name) = (env.threads.clone(), target.name.clone());
    let prepare = move || -> Result<Prepared, Unusable> {
        let credentials = Credentials::load(&target.auth).map_err(|e| e.to_string())?;
        let make = Make { clients, credentials, target: &target, procfs: &procfs, id };
        match &target.pprof {
            None => Err("no `pprof` address is configured for this target".into()),
            Some(Pprof::Auto) => {
                let id = id.ok_or("`pprof = \"auto\"` needs a process on this host")?;
                let mut endpoints = Vec::new();
                let mut withheld = None;
                let candidates = discover::candidates(&procfs, id)?;
                for candidate in candidates.places {
                    let made = match candidate {
                        Candidate::Here(addr) => {
                            let (endpoint, peer) = make.http(&format!("http://{addr}/debug/pprof"))?;
                            look(peer).map(|()| endpoint)
                        }
                        Candidate::By(way) => make.by(id, way),
                    };
                    match made {
                        Ok(endpoint) => endpoints.push(Endpoint { is_its_own: endpoint.is_its_own && !candidates.by_user, ..endpoint }),
                        Err(why) => withheld = withheld.or(Some(why)),
                    }
                }
                if let Some(why) = withheld.filter(|_| endpoints.is_empty()) {
                    return Err(Unusable::withheld(why));
                }
                let argv = argv(&procfs, id, &unanswered).unwrap_or_default();
                Ok(Prepared::Candidates(Sought { endpoints, argv, closed: candidates.closed }))
            }
            Some(Pprof::Template(template)) => make.filled(template),
            Some(Pprof::Http(base)) => make.named(base),
            Some(Pprof::Unix { socket, path }) => {
                let base = Url::parse(&format!("http://localhost/{}", path.trim_start_matches('/')));
                let base = base.map_err(|e| format!("the path in `pprof` is not usable: {e}"))?;
                let shown = format!("unix://{}:/{}", socket.display(), path.trim_matches('/'));
                let (mut endpoint, peer) = make.endpoint(base, Some(socket.clone()), shown)?;
                endpoint.obstacle = obstacle::of_socket(&procfs, socket);
                look(peer).map_err(Unusable::withheld)?;
                Ok(Prepared::Explicit(Found { endpoint: Arc::new(endpoint), index: None, warnings: Vec::new() }))
            }
        }
    };
    Preparing { job: tokio::spawn(async move { threads.run_for(&name, patience, prepare).await }) }
}

impl Preparing {
    /// For `auto` asks the process's own sockets. The error is a sentence without secrets.
    pub async fn finish(self, watch: &mut Watch) -> Result<Found, Unusable> {
        let prepared = self.job.await.map_err(|e| format!("preparing the pprof client failed: {e}"))?;
        match prepared
            .map_err(|why| format!("the files of `auth` could not be read, or the kernel not asked whose the pprof address is: {why}"))??
        {
            Prepared::Explicit(found) => Ok(found),
            Prepared::Candidates(sought) => {
                let (endpoint, index) = discover::first(sought, watch).await?;
                Ok(Found { endpoint: Arc::new(endpoint), index, warnings: Vec::new() })
            }
        }
    }
}

/// Whether those who answer there may be shown what is sent.
fn look(peer: Option<Arc<Peer>>) -> Result<(), String> {
    peer.map_or(Ok(()), |peer| peer.look().map(drop))
}

/// An endpoint, and who must answer there if it matters.
type Made = (Endpoint, Option<Arc<Peer>>);

enum Prepared {
    Explicit(Found),
    Candidates(Sought),
}

/// The arguments of a process as pprof's `cmdline` reports them: joined by NUL.
pub(super) fn argv(procfs: &ProcFs, id: InstanceId, unanswered: &Unanswered) -> Option<Vec<u8>> {
    if unanswered.is_stuck(id) {
        return None;
    }
    let bytes = unanswered.ask(id, || procfs.dir_of(id).ok()?.read("cmdline", 64 << 10).ok())?;
    Some(bytes.strip_suffix(b"\0").unwrap_or(&bytes).to_vec())
}

struct Make<'a> {
    clients: Clients,
    credentials: Credentials,
    target: &'a config::Target,
    procfs: &'a ProcFs,
    id: Option<InstanceId>,
}

impl Make<'_> {
    fn http(&self, base: &str) -> Result<Made, String> {
        let base = Url::parse(base).map_err(|e| format!("the address in `pprof` is not usable: {e}"))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err("`pprof` has credentials in its address: give them in `auth`, as files".into());
        }
        let mut shown = base.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        let shown = shown.as_str().trim_end_matches('/').to_owned();
        self.endpoint(base, None, shown)
    }

    fn endpoint(&self, base: Url, socket: Option<PathBuf>, shown: String) -> Result<Made, String> {
        let peer = self.peer(&base, socket.as_deref())?.map(Arc::new);
        let client = |connect| {
            let (socket, credentials) = (socket.clone(), &self.credentials);
            let made = match peer.clone() {
                Some(peer) => self.clients.guarded(&base, socket, credentials, connect, Use::Capture, peer),
                None => self.clients.client(&base, socket, credentials, connect, Use::Capture),
            };
            made.map(Asker::Pooled).map_err(|e| e.to_string())
        };
        let capture = &self.target.capture;
        let (normal, quick) = (client(capture.connect_timeout)?, client(quick_connect(capture))?);
        Ok((
            Endpoint {
                client: normal,
                quick,
                base,
                shown,
                whence: String::new(),
                is_its_own: true,
                credentials: self.credentials.clone(),
                obstacle: None,
            },
            peer,
        ))
    }

    /// At the address that the configuration names.
    fn named(&self, base: &str) -> Result<Prepared, Unusable> {
        let (mut endpoint, peer) = self.http(base)?;
        look(peer).map_err(Unusable::withheld)?;
        let addrs = loopbacks(&endpoint.base).unwrap_or_default();
        let local = self.id.filter(|_| !addrs.is_empty());
        endpoint.obstacle = local.and_then(|id| obstacle::of_loopback(self.procfs, &addrs, id));
        let warning = local.and_then(|id| foreign(self.procfs, &addrs, id));
        Ok(Prepared::Explicit(Found { endpoint: Arc::new(endpoint), index: None, warnings: warning.into_iter().collect() }))
    }

    /// At the process's own address, in the place that the configuration has for it.
    fn filled(&self, template: &Template) -> Result<Prepared, Unusable> {
        let id = self.id.ok_or("`pprof` has a place for the address of a process on this host, and none is known")?;
        let pid = id.pid;
        let address =
            netns::address_of(self.procfs, id).map_err(|e| format!("the address of process {pid} cannot be read: {}", chain(&e)))?;
        let ip = address.ok_or_else(|| {
            format!(
                "process {pid} is in another network namespace, which has no address that is not this host's too: set `pprof` to \"auto\""
            )
        })?;
        let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
        let base = template.fill(|name| (name == ADDRESS).then_some(host.as_str())).map_err(|e| e.to_string())?;
        // TLS vouches for itself
        if ip.is_loopback() || template.is_tls() {
            return self.named(&base);
        }
        let base = Url::parse(&base).map_err(|e| format!("the address in `pprof` is not usable: {e}"))?;
        let port = base.port_or_known_default().unwrap_or(80);
        let shown = base.as_str().trim_end_matches('/').to_owned();
        let way = Way::Outside(SocketAddr::new(ip, port));
        let endpoint = self.through(id, way, None, base, shown);
        let listens = self.procfs.dir_of(id).and_then(|dir| sockets::of_process(&dir));
        let is_anothers = listens.is_ok_and(|listeners| listeners.tcp.iter().all(|socket| socket.addr.port() != port));
        let mut warnings = Vec::new();
        if is_anothers {
            warnings.push(Warning::mistaken(&format!(
                "`pprof` at {ip} port {port} is not served by process {pid}, which does not listen there"
            )));
        }
        Ok(Prepared::Explicit(Found { endpoint: Arc::new(endpoint), index: None, warnings }))
    }

    /// Over connections to the process that are known to end there.
    fn through(&self, id: InstanceId, way: Way, peer: Option<Arc<Peer>>, base: Url, shown: String) -> Endpoint {
        let whence = match &way {
            Way::Inside(_) => format!(" (in the network namespace of process {})", id.pid),
            Way::Socket(_) if !has_same_root(self.procfs, id) => format!(" (below the root of process {})", id.pid),
            Way::Outside(_) | Way::Socket(_) => String::new(),
        };
        let is_its_own = !matches!(way, Way::Socket(_));
        let door = Arc::new(Door { procfs: self.procfs.clone(), id, way });
        let capture = &self.target.capture;
        let client = |connect| self.clients.direct(door.clone(), connect, peer.clone());
        let (client, quick) = (client(capture.connect_timeout), client(quick_connect(capture)));
        Endpoint { client, quick, base, shown, whence, is_its_own, credentials: self.credentials.clone(), obstacle: None }
    }

    /// In the network namespace of the process, or below its root. The error says why credentials are not sent there.
    fn by(&self, id: InstanceId, way: Way) -> Result<Endpoint, String> {
        let are_sent = self.credentials.are_sent();
        let peer = match &way {
            _ if !are_sent => None,
            Way::Inside(addr) => Some(Arc::new(Peer::within(self.procfs, id, *addr, self.trusted()?))),
            Way::Outside(addr) => {
                return Err(format!(
                    "credentials are not sent to {addr}, which is in another network namespace: between here and there others may listen; write \
                     the address in `pprof` if it may be shown them, or let memtrap enter the namespace: {ENTER}"
                ));
            }
            Way::Socket(path) => {
                return Err(format!(
                    "credentials are not sent to the socket {}, which memtrap found by itself: write it in `pprof`",
                    crate::text::one_line(&path.to_string_lossy(), 200)
                ));
            }
        };
        look(peer.clone())?;
        let (base, shown) = match &way {
            Way::Outside(addr) | Way::Inside(addr) => (format!("http://{addr}/debug/pprof"), format!("http://{addr}/debug/pprof")),
            Way::Socket(path) => ("http://localhost/debug/pprof".to_owned(), format!("unix://{}:/debug/pprof", path.display())),
        };
        let base = Url::parse(&base).map_err(|e| e.to_string())?;
        Ok(self.through(id, way, peer, base, shown))
    }

    /// Who must answer there, if credentials are sent and it is on this host.
    fn peer(&self, base: &Url, socket: Option<&Path>) -> Result<Option<Peer>, String> {
        if !self.credentials.are_sent() {
            return Ok(None);
        }
        let trusted = self.trusted()?;
        Ok(match socket {
            Some(socket) => Some(Peer::of_socket(self.procfs, socket, trusted)),
            None => Peer::of_url(self.procfs, base, trusted, self.id),
        })
    }

    fn trusted(&self) -> Result<Trusted, String> {
        match &self.target.source {
            Source::Process(process) => Trusted::of_process(self.procfs, process, self.id),
            Source::Metrics(metrics) => Trusted::of_address(self.procfs, metrics.user.as_ref()),
            Source::Prometheus(prometheus) => Trusted::of_address(self.procfs, prometheus.user.as_ref()),
        }
    }
}

/// Whether a path means to the process what it means to memtrap.
fn has_same_root(procfs: &ProcFs, id: InstanceId) -> bool {
    let own = std::fs::read_link(procfs.path("self/ns/mnt"));
    let Ok(dir) = procfs.dir_of(id) else { return false };
    dir.link("ns/mnt").is_ok_and(|theirs| own.is_ok_and(|own| own == theirs)) && dir.link("root").is_ok_and(|root| root == "/")
}

/// Where on memtrap's loopback this leads; `None`: elsewhere.
fn loopbacks(base: &Url) -> Option<Vec<SocketAddr>> {
    let port = base.port_or_known_default()?;
    let host = base.host_str()?;
    let ips: Vec<IpAddr> = match host {
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        _ => vec![host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| ip.to_canonical()).filter(IpAddr::is_loopback)?],
    };
    Some(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// A loopback address should be the watched process's own; says so if it is not, or cannot be known.
fn foreign(procfs: &ProcFs, addrs: &[SocketAddr], id: InstanceId) -> Option<Warning> {
    let pid = id.pid;
    let mut warning = None;
    for addr in addrs {
        match sockets::owner_check(procfs, *addr, id) {
            Ownership::Own => return None,
            Ownership::Other { pids } => {
                let owner = match pids.as_slice() {
                    [] => "another process".to_owned(),
                    [one] => format!("process {one}"),
                    [first, ..] => format!("process {first} and others"),
                };
                warning = Some(Warning::mistaken(&format!("`pprof` at {addr} is served by {owner}, not by process {pid}")));
            }
            Ownership::Unknown { why } => {
                warning.get_or_insert(format!("whether `pprof` at {addr} belongs to process {pid} could not be checked: {why}").into());
            }
        }
    }
    warning
}
