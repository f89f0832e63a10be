//! A server that keeps what it is sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One request, whatever it was answered with.
#[derive(Clone, Debug)]
pub struct Letter {
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Letter {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

/// The server; stops when dropped.
pub struct Inbox {
    address: SocketAddr,
    letters: Arc<Mutex<Vec<Letter>>>,
    /// What requests are answered with; 0 is no answer at all.
    status: Arc<AtomicU16>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Inbox {
    pub fn start(status: u16) -> Inbox {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (letters, stopping) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let status = Arc::new(AtomicU16::new(status));
        let (kept, answers, stop) = (letters.clone(), status.clone(), stopping.clone());
        let acceptor = std::thread::spawn(move || {
            // a stream that is not answered stays open
            let mut unanswered = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                if let Ok(stream) = stream
                    && let Ok((letter, mut stream)) = receive(stream)
                {
                    kept.lock().unwrap().push(letter);
                    match answers.load(Ordering::Relaxed) {
                        0 => unanswered.push(stream),
                        // a client that is gone does not matter
                        status => drop(write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry")),
                    }
                }
            }
        });
        Inbox { address, letters, status, stopping, acceptor: Some(acceptor) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    pub fn letters(&self) -> Vec<Letter> {
        self.letters.lock().unwrap().clone()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // wakes the acceptor
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn receive(stream: TcpStream) -> std::io::Result<(Letter, TcpStream)> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length: usize = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((Letter { path, headers, body: String::from_utf8(body).unwrap() }, stream))
}
