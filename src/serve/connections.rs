//! The listening socket and its connections, each of them bounded: how many, how long for a request's head, how long without a byte
//! taken off, how long altogether.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::{App, PATIENCE};
use crate::aside::Threads;
use crate::config::Listen;
use crate::writable;

/// At a time; more are turned away at once, so that those who come after are not kept waiting behind slow ones.
const MAX_CONNECTIONS: usize = 64;
/// For the head of a request, the wait for it included.
const HEAD: Duration = Duration::from_secs(10);
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

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
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

/// Answers until it is dropped, and all its connections with it.
pub(super) async fn answer(listener: Listener, app: Arc<App>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok(stream) if connections.len() >= MAX_CONNECTIONS => stream.turn_away(),
                Ok(Stream::Tcp(stream)) => { connections.spawn(connection(stream, app.clone())); }
                Ok(Stream::Unix(stream)) => { connections.spawn(connection(stream, app.clone())); }
                Err(error) => {
                    // out of descriptors, most likely: there will be some again
                    tracing::warn!(%error, "listen: a connection could not be accepted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: Arc<App>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request.map(Body::new)).await) }
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
