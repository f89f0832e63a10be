//! A server whose pages a test writes, and writes anew.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// What a path answers.
#[derive(Clone, Debug)]
pub enum Page {
    Text(String),
    Status(u16, &'static str),
    Redirect(String),
    /// Never answers.
    Hang,
    /// A head that promises more than comes.
    Torn(&'static str),
}

/// The server; stops when dropped. What it has no page for is answered with 404.
pub struct Pages {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Pages {
    pub fn start() -> Pages {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (pages, stopping) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(AtomicBool::new(false)));
        let (shared, stop) = (pages.clone(), stopping.clone());
        let acceptor = std::thread::spawn(move || {
            let mut workers = Vec::new();
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), pages, stop) = (stream, shared.clone(), stop.clone()) else { continue };
                // a client that goes away is what is being tested
                workers.push(std::thread::spawn(move || drop(serve(stream, &pages, &stop))));
            }
            workers.into_iter().for_each(|w| w.join().unwrap());
        });
        Pages { address, pages, stopping, acceptor: Some(acceptor) }
    }

    /// From now on `path`, whatever its query, answers so.
    pub fn set(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // wakes the acceptor
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(mut stream: TcpStream, pages: &Mutex<HashMap<String, Page>>, stop: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    lines.map_while(Result::ok).take_while(|l| !l.is_empty()).for_each(drop);
    let path = first.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let page = pages.lock().unwrap().get(&path).cloned();
    let mut send = |status: u16, more: &str, length: usize, body: &str| {
        write!(stream, "HTTP/1.1 {status} Page\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    };
    match page {
        None => send(404, "", 0, ""),
        Some(Page::Text(text)) => send(200, "", text.len(), &text),
        Some(Page::Status(status, text)) => send(status, "", text.len(), text),
        Some(Page::Redirect(to)) => send(302, &format!("Location: {to}\r\n"), 0, ""),
        Some(Page::Torn(text)) => send(200, "", text.len() + 100, text),
        Some(Page::Hang) => {
            // not for longer than anyone would wait for it
            for _ in 0..100 {
                if !stop.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(50));
                }
            }
            Ok(())
        }
    }
}
