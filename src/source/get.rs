//! One bounded GET to a source: its body goes, inflated, where it is wanted while it comes in.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::Instant;

use crate::client::{Cause, Credentials, USE_HTTPS, root_cause, says_in_the_clear, withheld};
use crate::clock::human;
use crate::text::one_line;
use crate::units::ByteSize;

/// Of an error's body.
const MAX_ERROR_TEXT: usize = 16 << 10;
const MAX_LINE: usize = 200;
/// Of a body that is gzipped, read before others have their turn.
const PIECE: usize = 1 << 10;

/// What is asked, of whom, and at what cost at most.
pub(super) struct Ask<'a> {
    pub client: &'a Client,
    pub url: Url,
    pub credentials: &'a Credentials,
    pub accept: &'static str,
    /// When to give up.
    pub until: Instant,
    /// How long that was from the beginning, for messages.
    pub timeout: Duration,
    /// Of the body, once it is inflated.
    pub max_bytes: u64,
}

/// Why there is no answer: what is wrong, and what to do about it.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused,
    /// Credentials were held back, and so nothing was sent.
    Withheld(String),
    Connect(Cause),
    TimedOut(Duration),
    Broken(String),
    /// The request was sent, or begun, and no answer to it came.
    Unanswered(Cause),
    Status {
        code: StatusCode,
        /// The beginning of the body, without secrets; may hold anything.
        text: String,
    },
    Redirect(String),
    TooLarge(u64),
    Encoding(String),
    Gzip(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Refused => write!(f, "connection refused: does it run, and listen there?"),
            Trouble::Withheld(why) => f.write_str(why),
            Trouble::Connect(cause) => write!(f, "cannot connect: {}", cause.with("check the address and the network")),
            Trouble::Unanswered(cause) => write!(f, "no answer: {cause}"),
            Trouble::TimedOut(after) => write!(f, "no whole answer within {}; a longer interval gives it more time", human(*after)),
            Trouble::Broken(why) => write!(f, "the connection broke: {why}"),
            Trouble::Status { code, text } => {
                write!(f, "HTTP {}", code.as_u16())?;
                if let Some(line) = text.lines().find(|l| !l.trim().is_empty()) {
                    write!(f, " `{}`", one_line(line, MAX_LINE))?;
                }
                match code.as_u16() {
                    _ if says_in_the_clear(text) => write!(f, ": {USE_HTTPS}"),
                    401 | 403 => write!(f, ": it wants credentials, or other ones; check `auth` in the configuration"),
                    404 => write!(f, ": check the path of the URL"),
                    _ => Ok(()),
                }
            }
            Trouble::Redirect(to) => write!(f, "redirected to {to}, which is not followed: write the final address"),
            Trouble::TooLarge(max) => write!(f, "the answer is larger than {}", ByteSize(*max)),
            Trouble::Encoding(name) => write!(f, "the answer has the encoding `{name}`, which was not asked for"),
            Trouble::Gzip(why) => write!(f, "the answer is damaged gzip: {why}"),
        }
    }
}

/// Gets the body into `sink`. What was written before an error does not count.
///
/// Cancel safe: nothing but the sink is touched.
pub(super) async fn get(ask: Ask<'_>, sink: &mut (dyn Write + Send)) -> Result<(), Trouble> {
    let (until, timeout) = (ask.until, ask.timeout);
    tokio::time::timeout_at(until, fetch(ask, sink)).await.unwrap_or(Err(Trouble::TimedOut(timeout)))
}

async fn fetch(ask: Ask<'_>, sink: &mut (dyn Write + Send)) -> Result<(), Trouble> {
    let request = ask
        .client
        .get(ask.url)
        .headers(ask.credentials.headers.clone())
        .header(ACCEPT, HeaderValue::from_static(ask.accept))
        .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let mut response = request.send().await.map_err(|e| unsent(&e, ask.timeout))?;
    let code = response.status();
    if code.is_redirection() {
        let to = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| response.url().join(l).ok());
        // the rest of it may hold anything
        return Err(Trouble::Redirect(
            to.map_or_else(|| "an unreadable address".into(), |to| one_line(&to.origin().ascii_serialization(), MAX_LINE)),
        ));
    }
    let encoding = response.headers().get(CONTENT_ENCODING).map(|v| v.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    let gzip = match encoding.as_deref() {
        None | Some("" | "identity") => false,
        Some("gzip" | "x-gzip") => true,
        Some(other) => return Err(Trouble::Encoding(one_line(other, 40))),
    };
    if code == StatusCode::OK {
        let mut body = Body::new(sink, gzip, ask.max_bytes);
        while let Some(chunk) = next(&mut response).await? {
            // a few bytes may inflate to a thousand times as many
            for piece in chunk.chunks(if gzip { PIECE } else { PIECE << 6 }) {
                body.take(piece)?;
                tokio::task::yield_now().await;
            }
        }
        return body.finish();
    }
    let mut text = Vec::new();
    let mut body = Body::new(&mut text, gzip, MAX_ERROR_TEXT as u64);
    while let Ok(Some(chunk)) = next(&mut response).await {
        if chunk.chunks(PIECE).any(|piece| body.take(piece).is_err()) {
            break;
        }
    }
    drop(body);
    Err(Trouble::Status { code, text: ask.credentials.redact(&String::from_utf8_lossy(&text)) })
}

async fn next(response: &mut Response) -> Result<Option<Vec<u8>>, Trouble> {
    match response.chunk().await {
        Ok(chunk) => Ok(chunk.map(|c| c.to_vec())),
        Err(e) => Err(Trouble::Broken(root_cause(&e))),
    }
}

fn unsent(error: &reqwest::Error, timeout: Duration) -> Trouble {
    if let Some(why) = withheld(error) {
        Trouble::Withheld(why)
    } else if error.is_timeout() {
        Trouble::TimedOut(timeout)
    } else {
        let cause = Cause::of(error);
        match error.is_connect() {
            _ if cause.is_refused() => Trouble::Refused,
            true => Trouble::Connect(cause),
            false => Trouble::Unanswered(cause),
        }
    }
}

/// Takes the gzip off, if there is one, and counts what comes out of it.
enum Body<'s> {
    Plain(Counted<'s>),
    Gzip(Box<MultiGzDecoder<Counted<'s>>>),
}

struct Counted<'s> {
    sink: &'s mut (dyn Write + Send),
    left: u64,
    max: u64,
}

/// The mark of the bound among the errors of a writer.
#[derive(Debug, thiserror::Error)]
#[error("too large")]
struct TooLarge(u64);

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other(TooLarge(self.max)));
        }
        self.sink.write_all(bytes)?;
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'s> Body<'s> {
    fn new(sink: &'s mut (dyn Write + Send), gzip: bool, max: u64) -> Body<'s> {
        let counted = Counted { sink, left: max, max };
        if gzip { Body::Gzip(Box::new(MultiGzDecoder::new(counted))) } else { Body::Plain(counted) }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        match self {
            Body::Plain(plain) => plain.write_all(bytes),
            Body::Gzip(gzip) => gzip.write_all(bytes),
        }
        .map_err(damaged)
    }

    fn finish(self) -> Result<(), Trouble> {
        match self {
            Body::Plain(_) => Ok(()),
            Body::Gzip(gzip) => gzip.finish().map(|_| ()).map_err(damaged),
        }
    }
}

fn damaged(error: io::Error) -> Trouble {
    match error.get_ref().and_then(|e| e.downcast_ref::<TooLarge>()) {
        Some(TooLarge(max)) => Trouble::TooLarge(*max),
        None => Trouble::Gzip(one_line(&error.to_string(), 80)),
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn pour(pieces: &[&[u8]], gzip: bool, max: u64) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut body = Body::new(&mut out, gzip, max);
        let done = pieces.iter().try_for_each(|piece| body.take(piece)).and_then(|()| body.finish());
        done.map(|()| out).map_err(|e| e.to_string())
    }

    #[test]
    fn gzip_is_taken_off_however_it_is_cut() {
        let packed = gzip(b"rss 1\n");
        let pieces: Vec<&[u8]> = packed.chunks(3).collect();
        assert_eq!(pour(&pieces, true, 100).unwrap(), b"rss 1\n");
        assert_eq!(pour(&[b"rss", b" 1\n"], false, 100).unwrap(), b"rss 1\n");
    }

    #[test]
    fn a_bomb_goes_off_at_the_bound() {
        let packed = gzip(&vec![b'x'; 10 << 20]);
        assert!(packed.len() < 20_000);
        assert_eq!(pour(&[&packed], true, 1 << 20).unwrap_err(), "the answer is larger than 1.00MiB");
        assert_eq!(pour(&[b"12345"], false, 4).unwrap_err(), "the answer is larger than 4B");
    }

    #[test]
    fn truncated_and_damaged_gzip_is_said() {
        let packed = gzip(b"rss 1\n");
        for bad in [&packed[..packed.len() - 3], &packed[..5], b"not gzip at all"] {
            let said = pour(&[bad], true, 100).unwrap_err();
            assert!(said.starts_with("the answer is damaged gzip"), "{said}");
        }
    }
}
