//! A server that misbehaves in the ways in which a Go server will not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

/// What happens to a request for a path.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Never answers.
    Hang,
    /// Sends this many bytes, one each time the delay has passed, and never ends.
    Drip(Duration),
    /// Closes with a reset in the middle of the body.
    Reset,
    Status(u16, &'static str),
    Redirect(String),
    /// A body without end.
    Endless,
    /// A gzip stream that inflates to this many bytes of zeros.
    GzipBomb(u64),
    Html,
    TruncatedGzip,
    Empty,
    /// A small, valid profile.
    Profile,
    /// This much text, with its length announced.
    Text(u64),
}

/// A request as it came: path with query, and the header lines.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: Vec<String>,
}

/// The server; stops when dropped.
pub struct Faulty {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Faulty {
    /// Answers paths below `/debug/pprof/` by these faults (matched by name, without the query), others by `default`.
    pub fn start(default: Fault, faults: &[(&'static str, Fault)]) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let faults: HashMap<&'static str, Fault> = faults.iter().cloned().collect();
        let (stop, log) = (stopping.clone(), seen.clone());
        let acceptor = std::thread::spawn(move || {
            let mut workers = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), faults, default) = (stream, faults.clone(), default.clone()) else { continue };
                let (stop, log) = (stop.clone(), log.clone());
                // a client that goes away is what is being tested
                workers.push(std::thread::spawn(move || drop(serve(stream, &faults, &default, &stop, &log))));
            }
            workers.into_iter().for_each(|w| w.join().unwrap());
        });
        Faulty { address, stopping, seen, acceptor: Some(acceptor) }
    }

    pub fn pprof(&self) -> String {
        format!("http://{}/debug/pprof", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests for this profile.
    pub fn requests_for(&self, name: &str) -> usize {
        self.seen().iter().filter(|s| name_of(&s.path) == name).count()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // wakes the acceptor
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn name_of(path: &str) -> &str {
    path.split('?').next().unwrap().trim_start_matches("/debug/pprof").trim_start_matches('/')
}

fn serve(
    mut stream: TcpStream,
    faults: &HashMap<&'static str, Fault>,
    default: &Fault,
    stop: &AtomicBool,
    log: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
    log.lock().unwrap().push(Seen { path: path.clone(), headers });
    let fault = faults.get(name_of(&path)).unwrap_or(default);
    let alive = || !stop.load(Ordering::Relaxed);
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let unbounded = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    match fault {
        Fault::Hang => {
            while alive() && !is_closed(&stream) {
                sleep(Duration::from_millis(20));
            }
        }
        Fault::Drip(delay) => {
            stream.write_all(unbounded.as_bytes())?;
            while alive() {
                stream.write_all(b".")?;
                sleep(*delay);
            }
        }
        Fault::Reset => {
            stream.write_all(head(1 << 20).as_bytes())?;
            stream.write_all(&[0x1f, 0x8b, 8, 0, 0])?;
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Fault::Status(code, body) => {
            write!(stream, "HTTP/1.1 {code} Fault\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
        }
        Fault::Redirect(to) => {
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        }
        Fault::Endless => {
            stream.write_all(unbounded.as_bytes())?;
            while alive() {
                stream.write_all(&[b'.'; 65536])?;
            }
        }
        Fault::GzipBomb(size) => {
            stream.write_all(unbounded.as_bytes())?;
            let mut gzip = GzEncoder::new(&mut stream, Compression::fast());
            for _ in 0..size / 65536 {
                gzip.write_all(&[0; 65536])?;
            }
            gzip.finish()?;
        }
        Fault::Html => {
            let body = "<!DOCTYPE html><title>Sign in</title>";
            write!(stream, "{}{body}", head(body.len()))?;
        }
        Fault::TruncatedGzip => {
            let whole = gzip(&small_profile());
            let part = &whole[..whole.len() / 2];
            stream.write_all(head(part.len()).as_bytes())?;
            stream.write_all(part)?;
        }
        Fault::Empty => stream.write_all(head(0).as_bytes())?,
        Fault::Profile => {
            let body = gzip(&small_profile());
            stream.write_all(head(body.len()).as_bytes())?;
            stream.write_all(&body)?;
        }
        Fault::Text(size) => {
            stream.write_all(head(*size as usize).as_bytes())?;
            let line = [b"goroutine 1 [running]:\n".as_slice(), &[b'x'; 4073]].concat();
            let mut left = *size as usize;
            while left > 0 {
                let n = left.min(line.len());
                stream.write_all(&line[..n])?;
                left -= n;
            }
        }
    }
    stream.flush()
}

fn is_closed(stream: &TcpStream) -> bool {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
    matches!(stream.peek(&mut [0]), Ok(0))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A profile.proto of one sample type, one sample, one function.
fn small_profile() -> Vec<u8> {
    let field = |number: u8, body: &[u8]| [&[number << 3 | 2, body.len() as u8], body].concat();
    let strings = ["", "inuse_space", "bytes", "main.main", "main.go"];
    let mut profile = field(1, &[8, 1, 16, 2]);
    profile.extend(field(2, &[10, 1, 1, 18, 1, 42]));
    profile.extend(field(4, &[8, 1, 34, 4, 8, 1, 16, 7]));
    profile.extend(field(5, &[8, 1, 16, 3, 32, 4]));
    for s in strings {
        profile.extend(field(6, s.as_bytes()));
    }
    profile
}
