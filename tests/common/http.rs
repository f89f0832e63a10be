//! A client that says exactly what a test wants said, on a connection of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

pub fn get(address: &str, path: &str) -> Answer {
    ask(address, "GET", path, &[], "")
}

pub fn post(address: &str, path: &str, body: &str) -> Answer {
    ask(address, "POST", path, &[], body)
}

/// Sends these headers besides its own; a `Host` among them replaces its own.
pub fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    try_ask(address, method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// The same, where the other side may hang up.
pub fn try_ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{head}\r\n{body}")?;
    let answer = read_answer(&mut stream)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let headers: BTreeMap<String, String> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let mut body = answer[end + 4..].to_vec();
    if headers.get("transfer-encoding").is_some_and(|t| t == "chunked") {
        body = unchunked(&body)?;
    }
    Ok(Answer { status, headers, body })
}

/// Up to the length that the head names, where it names one: not every server hangs up when it is asked to.
fn read_answer(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut answer, mut piece) = (Vec::new(), [0; 64 << 10]);
    let mut length = None;
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        length = length.or_else(|| {
            let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let named = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok())?;
            Some(end + 4 + named)
        });
        if length.is_some_and(|length| answer.len() >= length) {
            return Ok(answer);
        }
    }
}

fn unchunked(mut rest: &[u8]) -> std::io::Result<Vec<u8>> {
    let torn = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").ok_or_else(torn)?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).map_err(|_| torn())?, 16).map_err(|_| torn())?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(out);
        }
        out.extend_from_slice(rest.get(..size).ok_or_else(torn)?);
        rest = rest.get(size + 2..).ok_or_else(torn)?;
    }
}
