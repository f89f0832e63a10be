//! The listening socket and its connections, each of them bounded: how many, how long for a request's head, how long without a byte
//! taken off, how long altogether.
//!
//! Where all places are taken, the connection that has waited longest for a request's head gives up its own; where none waits, because
//! all are being answered, a few further ones are told how memtrap is, and nothing else. So who opens connections and says nothing, or
//! takes answers slowly, keeps neither people nor health checks out.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::IntoResponse;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep};

use super::routes::HEALTH;
use super::{App, PATIENCE};
use crate::aside::Threads;
use crate::config::Listen;
use crate::writable;

/// The service manager makes it; where there is none, memtrap does.
const RUNTIME_DIR: &str = "/run/memtrap";
/// At a time; more are turned away at once, so that those who come after are not kept waiting behind slow ones.
const MAX_CONNECTIONS: usize = 64;
/// Of them for one address elsewhere, or one user of a unix socket. Loopback is everybody's.
const MAX_OF_ONE: usize = 32;
/// Beyond them, for health checks only.
const RESERVE: usize = 8;
/// For the head of a request, the wait for it included.
const HEAD: Duration = Duration::from_secs(5);
/// A client that takes no byte of its answer for this long is gone.
const STALLED: Duration = Duration::from_secs(30);
/// For a connection, whatever happens on it: a large file over a slow line.
const LONGEST: Duration = Duration::from_secs(30 * 60);
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;
/// The group may connect, as it may read nothing else of memtrap's.
const SOCKET_MODE: u32 = 0o660;

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Bound, not yet accepting.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// Removed with its listener.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // what stays is replaced at the next start
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Who listens on a stale socket's name may not accept, and its disk may not answer: `threads` are for that.
    pub async fn bind(listen: &Listen, threads: &Threads) -> io::Result<Listener> {
        match listen {
            Listen::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
            Listen::Unix(path) => {
                let path = path.clone();
                let bound = threads.run(PATIENCE, move || {
                    remove_stale(&path)?;
                    if path.parent() == Some(Path::new(RUNTIME_DIR)) && !Path::new(RUNTIME_DIR).exists() {
                        std::fs::DirBuilder::new().mode(0o750).create(RUNTIME_DIR)?;
                    }
                    let listener = std::os::unix::net::UnixListener::bind(&path)?;
                    let file = SocketFile(path.clone());
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
                    listener.set_nonblocking(true)?;
                    Ok::<_, io::Error>((listener, file))
                });
                let (listener, file) = bound.await.map_err(|why| io::Error::new(io::ErrorKind::TimedOut, why.to_string()))??;
                Ok(Listener::Unix { listener: UnixListener::from_std(listener)?, _file: file })
            }
        }
    }

    /// Binds and lets go. A stale socket stays what it is: the daemon replaces it.
    pub async fn probe(listen: &Listen) -> io::Result<()> {
        match listen {
            Listen::Unix(path) if std::fs::symlink_metadata(path).is_ok() => match is_stale(path) {
                true => writable::try_dir(path.parent().unwrap_or(path)),
                false => Err(io::ErrorKind::AddrInUse.into()),
            },
            _ => Listener::bind(listen, &Threads::new("listen", 1)).await.map(drop),
        }
    }

    /// Where it really listens: `None` for a socket.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix { .. } => None,
        }
    }

    pub fn is_tcp(&self) -> bool {
        matches!(self, Listener::Tcp(_))
    }

    async fn accept(&self) -> io::Result<(Stream, Option<Peer>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                let ip = from.ip().to_canonical();
                Ok((Stream::Tcp(stream), (!ip.is_loopback()).then_some(Peer::Address(ip))))
            }
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred().ok().map(|peer| Peer::User(peer.uid()));
                Ok((Stream::Unix(stream), peer))
            }
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    if is_stale(path) { std::fs::remove_file(path) } else { Ok(()) }
}

/// A socket that nobody listens on any more, and nothing else.
fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err()
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn turn_away(self) {
        // as much as fits without waiting; tokio's own try_write waits to be told that something does
        let _ = match self {
            Stream::Tcp(stream) => stream.into_std().and_then(|mut stream| stream.write(TURNED_AWAY)),
            Stream::Unix(stream) => stream.into_std().and_then(|mut stream| stream.write(TURNED_AWAY)),
        };
    }
}

/// Whose connections share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Address(IpAddr),
    User(u32),
}

/// The connections there are, in the order in which they came.
#[derive(Debug, Default)]
struct Places(Vec<Held>);

#[derive(Debug)]
struct Held {
    peer: Option<Peer>,
    seat: Arc<Seat>,
    task: Option<AbortHandle>,
}

/// What the table of connections and one of them know of each other.
#[derive(Debug)]
struct Seat {
    /// Requests that are being answered, to the last byte of the answer: none but for the time from a whole head on.
    answering: AtomicUsize,
    health_only: bool,
}

impl Seat {
    fn waits(&self) -> bool {
        self.answering.load(Ordering::Relaxed) == 0
    }
}

impl Places {
    /// A place for one more, at the cost of one that waits if need be; `None`: it is turned away.
    fn admit(&mut self, peer: Option<Peer>) -> Option<Arc<Seat>> {
        self.0.retain(|held| held.task.as_ref().is_none_or(|task| !task.is_finished()));
        if self.is_full(peer) {
            let of_peer = |held: &Held| peer.is_some() && held.peer == peer;
            // whoever has many gives up one of its own
            let waiting = |wanted: &dyn Fn(&Held) -> bool| self.0.iter().position(|held| held.seat.waits() && wanted(held));
            if let Some(oldest) = waiting(&of_peer).or_else(|| waiting(&|_| true)) {
                let evicted = self.0.remove(oldest);
                if let Some(task) = evicted.task {
                    task.abort();
                }
            }
        }
        let health_only = self.is_full(peer);
        if self.0.len() >= MAX_CONNECTIONS + RESERVE {
            return None;
        }
        let seat = Arc::new(Seat { answering: AtomicUsize::new(0), health_only });
        self.0.push(Held { peer, seat: seat.clone(), task: None });
        Some(seat)
    }

    fn is_full(&self, peer: Option<Peer>) -> bool {
        let whole = |held: &&Held| !held.seat.health_only;
        let of_peer = self.0.iter().filter(whole).filter(|held| peer.is_some() && held.peer == peer).count();
        self.0.iter().filter(whole).count() >= MAX_CONNECTIONS || of_peer >= MAX_OF_ONE
    }

    fn runs(&mut self, task: AbortHandle) {
        if let Some(held) = self.0.last_mut() {
            held.task = Some(task);
        }
    }
}

/// Answers until it is dropped, and all its connections with it.
pub(super) async fn answer(listener: Listener, app: Arc<App>) {
    let mut connections = JoinSet::new();
    let mut places = Places::default();
    let mut is_failing = false;
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    is_failing = false;
                    let Some(seat) = places.admit(peer) else {
                        stream.turn_away();
                        continue;
                    };
                    places.runs(match stream {
                        Stream::Tcp(stream) => connections.spawn(connection(stream, app.clone(), seat)),
                        Stream::Unix(stream) => connections.spawn(connection(stream, app.clone(), seat)),
                    });
                }
                Err(error) => {
                    // out of descriptors, most likely: there will be some again
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "listen: connections cannot be accepted; tried again each second");
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: Arc<App>, seat: Arc<Seat>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, answering) = (app.clone(), Answering::begin(&seat));
        async move {
            let response = if answering.0.health_only && request.uri().path() != HEALTH {
                let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                response
            } else {
                app.answer(request.map(Body::new)).await
            };
            Ok::<_, Infallible>(response.map(|body| Answer { body, _answering: answering }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Paced::new(stream)), service);
    // how a client goes away is its own affair
    let _ = tokio::time::timeout(LONGEST, connection).await;
}

/// While it lives, its connection does not wait.
struct Answering(Arc<Seat>);

impl Answering {
    fn begin(seat: &Arc<Seat>) -> Answering {
        seat.answering.fetch_add(1, Ordering::Relaxed);
        Answering(seat.clone())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that is being answered with for as long as there is some of it left.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose reader must keep reading.
struct Paced<S> {
    stream: S,
    /// While a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    fn new(stream: S) -> Paced<S> {
        Paced { stream, deadline: None }
    }

    fn paced<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.deadline = None;
            return done;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALLED)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.paced(cx, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.paced(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.paced(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn answering(seat: &Arc<Seat>) -> Answering {
        Answering::begin(seat)
    }

    #[test]
    fn who_waits_longest_for_a_request_makes_room() {
        let mut places = Places::default();
        let seats: Vec<_> = (0..MAX_CONNECTIONS).map(|_| places.admit(None).unwrap()).collect();
        // the first is being answered: the second is the oldest that waits
        let _busy = answering(&seats[0]);
        let newcomer = places.admit(None).unwrap();
        assert!(!newcomer.health_only);
        assert_eq!(places.0.len(), MAX_CONNECTIONS);
        let has = |seat: &Arc<Seat>| places.0.iter().any(|held| Arc::ptr_eq(&held.seat, seat));
        assert!(has(&seats[0]) && !has(&seats[1]) && has(&seats[2]));
    }

    #[test]
    fn where_all_are_answered_a_health_check_still_finds_a_place_and_nobody_can_take_it_for_long() {
        let mut places = Places::default();
        let _busy: Vec<_> = (0..MAX_CONNECTIONS).map(|_| answering(&places.admit(None).unwrap())).collect();
        for _ in 0..10 * RESERVE {
            assert!(places.admit(None).unwrap().health_only);
            assert!(places.0.len() <= MAX_CONNECTIONS + RESERVE);
        }
    }

    #[test]
    fn one_peer_has_half_of_the_places_at_most() {
        let mut places = Places::default();
        let greedy = Some(Peer::User(1_001));
        let _busy: Vec<_> = (0..MAX_OF_ONE).map(|_| answering(&places.admit(greedy).unwrap())).collect();
        assert!(places.admit(greedy).unwrap().health_only);
        assert!(!places.admit(Some(Peer::User(1_002))).unwrap().health_only);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (_client, server) = tokio::io::duplex(8);
        let mut paced = Paced::new(server);
        let start = Instant::now();
        let error = paced.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, STALLED));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_something_now_and_then_is_not() {
        let (mut client, server) = tokio::io::duplex(8);
        let mut paced = Paced::new(server);
        tokio::spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(STALLED / 2).await;
                tokio::io::AsyncReadExt::read_exact(&mut client, &mut [0; 8]).await.unwrap();
            }
        });
        paced.write_all(&[0; 100]).await.unwrap();
    }
}
