//! A small HTTP server that behaves as badly as it is told.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::profile;
use crate::config::Pprof;

/// What to do with one request.
pub(super) enum Reply {
    Ok(Vec<u8>),
    /// Status and headers, each with its line break, then the body.
    Head(&'static str, Vec<u8>),
    /// Never says a word.
    Hang,
    /// A byte now and then.
    Drip(&'static [u8]),
    /// Promises more than it sends, and hangs up.
    CutOff(Vec<u8>),
    /// The same bytes for ever.
    Endless(&'static [u8]),
}

pub(super) struct Service {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Serves until the test's runtime ends. `answer` gets path and query.
    pub async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Service {
        Service::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    /// The same on a socket that someone else may have made.
    pub fn on(listener: TcpListener, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Service {
        let service = Service { addr: listener.local_addr().unwrap(), seen: Arc::default() };
        let (seen, answer) = (service.seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), seen.clone()));
            }
        });
        service
    }

    pub fn start_unix(path: &Path, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) {
        Service::on_unix(UnixListener::bind(path).unwrap(), answer);
    }

    /// The heads of the requests that come.
    pub fn on_unix(listener: UnixListener, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Arc<Mutex<Vec<String>>> {
        let (seen, answer): (Arc<Mutex<Vec<String>>>, _) = (Arc::default(), Arc::new(answer));
        let log = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answer.clone(), log.clone()));
            }
        });
        seen
    }

    pub fn pprof(&self) -> Option<Pprof> {
        Some(Pprof::Http(format!("http://{}/debug/pprof", self.addr)))
    }

    /// The heads of all requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// How often this was asked for.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|head| head.starts_with(&format!("GET {path} "))).count()
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: Arc<impl Fn(&str) -> Reply>, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head);
    let _ = respond(&mut stream, answer(&path)).await;
    let _ = stream.shutdown().await;
}

async fn respond(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> std::io::Result<()> {
    let ok = |length: usize| format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    match reply {
        Reply::Ok(body) => {
            stream.write_all(ok(body.len()).as_bytes()).await?;
            stream.write_all(&body).await
        }
        Reply::Head(head, body) => {
            let head = format!("HTTP/1.1 {head}Connection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await
        }
        Reply::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
        Reply::Drip(bytes) => {
            stream.write_all(ok(1 << 20).as_bytes()).await?;
            for byte in bytes.iter().cycle() {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
        Reply::CutOff(body) => {
            stream.write_all(ok(body.len() + 1000).as_bytes()).await?;
            stream.write_all(&body).await
        }
        Reply::Endless(bytes) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
            loop {
                stream.write_all(bytes).await?;
            }
        }
    }
}

pub(super) const MEMSTATS: &str = "# runtime.MemStats\n# Alloc = 5\n# HeapAlloc = 5\n";

/// What a healthy Go service says.
pub(super) fn healthy(path: &str) -> Reply {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match (path.strip_prefix("/debug/pprof/").unwrap_or("?"), query) {
        ("", _) => Reply::Ok(INDEX.into()),
        ("cmdline", _) => Reply::Ok(own_argv()),
        ("heap", "debug=1") => Reply::Ok(format!("heap profile: 1: 2 [3: 4]\n{}\n{MEMSTATS}", "x\n".repeat(1000)).into()),
        ("goroutine", "debug=2") => Reply::Ok(b"goroutine 1 [running]:\nmain.main()\n".to_vec()),
        ("goroutine", "debug=1") => Reply::Ok(b"goroutine profile: total 3\n".to_vec()),
        ("heap" | "goroutine" | "threadcreate" | "allocs" | "mutex" | "block" | "profile" | "goroutineleak", _) => Reply::Ok(profile(3)),
        _ => Reply::Head("404 Not Found\r\nX-Go-Pprof: 1\r\n", b"Unknown profile\n".to_vec()),
    }
}

/// Of Go 1.27: it has goroutineleak.
pub(super) const INDEX: &str = "<html>\n<head><title>/debug/pprof/</title></head><table>\n\
    <tr><td>5</td><td><a href='goroutine?debug=1'>goroutine</a></td></tr>\n\
    <tr><td>0</td><td><a href='goroutineleak?debug=1'>goroutineleak</a></td></tr>\n\
    <tr><td>9</td><td><a href='heap?debug=1'>heap</a></td></tr>\n";

pub(super) fn own_argv() -> Vec<u8> {
    let bytes = std::fs::read("/proc/self/cmdline").unwrap();
    bytes.strip_suffix(b"\0").unwrap().to_vec()
}
