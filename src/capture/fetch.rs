//! One GET, streamed to disk: bounded in time and size, ended early when the process is gone or memtrap must stop.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::{Response, StatusCode, Url};
use tokio::time::Instant;

use super::reach::Contact;
use super::sink::Sink;
use super::watch::{Ended, Watch};
use crate::aside::Lane;
use crate::client::{Asker, Cause, Credentials, USE_HTTPS, Unsent, root_cause, says_in_the_clear};
use crate::clock::human;
use crate::text::one_line;
use crate::units::ByteSize;

/// Bytes gathered before the disk is troubled; with the HTTP client's own buffer all that a body holds of memory.
const BUFFER: usize = 256 << 10;
/// Of an error's text, which is looked at for its first line.
const MAX_ERROR_TEXT: usize = 4 << 10;
const MAX_LINE: usize = 200;
/// Go's handlers mark their own errors with it, so that they can be told from a proxy's.
const GO_PPROF: &str = "x-go-pprof";

/// A pprof endpoint, with how to get there and what to show of it.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub client: Asker,
    /// The same with a short connect timeout.
    pub quick: Asker,
    pub base: Url,
    /// `base` for people: no credentials, no query; the socket for a unix one.
    pub shown: String,
    /// Said behind it: what the URL does not tell.
    pub whence: String,
    /// Known to be the watched process's, or what the configuration names.
    pub is_its_own: bool,
    pub credentials: Credentials,
    /// What is known to keep a connection from this place, with the cure.
    pub obstacle: Option<String>,
}

impl Endpoint {
    /// The URL of `rest`, `NAME?QUERY`, below the base.
    pub fn url(&self, rest: &str) -> Url {
        let mut url = self.base.clone();
        let (name, query) = rest.split_once('?').map_or((rest, None), |(name, query)| (name, Some(query)));
        url.set_path(&format!("{}/{name}", url.path().trim_end_matches('/')));
        url.set_query(query);
        url
    }

    pub fn shown(&self, rest: &str) -> String {
        one_line(&format!("{}/{rest}{}", self.shown, self.whence), 400)
    }

    /// All of it, for people.
    pub fn place(&self) -> String {
        format!("{}{}", self.shown, self.whence)
    }
}

/// Why a GET brought no whole body.
#[derive(Debug)]
pub(super) enum Failure {
    Connect {
        cause: Cause,
        /// What was known beforehand.
        obstacle: Option<String>,
    },
    /// Credentials were held back, and so nothing was sent.
    Withheld(String),
    TimedOut {
        after: Duration,
        answered: bool,
        bytes: u64,
    },
    Broken {
        bytes: u64,
        why: String,
    },
    /// The request was sent, or begun, and no answer to it came.
    Unanswered(Cause),
    Status {
        code: StatusCode,
        go: bool,
        line: String,
        /// It was asked in the clear, and wants TLS.
        wants_tls: bool,
    },
    Redirect {
        to: String,
    },
    TooLarge {
        max: u64,
    },
    /// It came whole, and is something else.
    Content(String),
    Disk(io::Error),
    Ended(Ended),
}

impl Failure {
    /// Whether another attempt may fare better.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Connect { cause, .. } | Failure::Unanswered(cause) => !cause.is_lasting(),
            Failure::Broken { .. } => true,
            Failure::TimedOut { answered, .. } => !answered,
            Failure::Status { code, go, .. } => match code.as_u16() {
                429 | 502 | 503 | 504 => true,
                500 => !go,
                _ => false,
            },
            _ => false,
        }
    }

    pub fn contact(&self) -> Contact {
        match self {
            Failure::Connect { .. } => Contact::NoConnection,
            Failure::TimedOut { .. } => Contact::TimedOut,
            _ => Contact::Answered,
        }
    }
}

/// What went wrong and what to do about it; where is in the entry's source.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect { cause, obstacle } if cause.is_refused() => {
                write!(f, "connection refused: {}", obstacle.as_deref().unwrap_or("is the service listening there?"))
            }
            Failure::Connect { cause, obstacle: Some(obstacle) } => write!(f, "cannot connect: {cause}; {obstacle}"),
            Failure::Withheld(why) => f.write_str(why),
            Failure::Connect { cause, .. } => write!(f, "cannot connect: {}", cause.with("check the address in `pprof` and the network")),
            Failure::Unanswered(cause) => write!(f, "no answer: {cause}"),
            Failure::TimedOut { after, answered: false, .. } => {
                write!(f, "no answer within {}: the service may be stuck or very busy", human(*after))
            }
            Failure::TimedOut { after, bytes, .. } => {
                write!(f, "incomplete: only {bytes} bytes came within {}; a longer step_timeout may help", human(*after))
            }
            Failure::Broken { bytes, why } => write!(f, "incomplete: the connection ended after {bytes} bytes of the body ({why})"),
            Failure::Status { code, line, wants_tls, .. } => {
                write!(f, "HTTP {}", code.as_u16())?;
                if !line.is_empty() {
                    write!(f, " `{line}`")?;
                }
                match code.as_u16() {
                    _ if *wants_tls => write!(f, ": {USE_HTTPS} in `pprof`"),
                    401 => write!(f, ": the service wants credentials; check `auth` in the configuration"),
                    403 => write!(f, ": the service refuses these credentials or this address; check `auth` in the configuration"),
                    404 => write!(f, ": the service does not expose this profile; check the path in `pprof`"),
                    _ => Ok(()),
                }
            }
            Failure::Redirect { to } => write!(f, "redirected to {to}, which is not followed: set `pprof` to the final address"),
            Failure::TooLarge { max } => write!(f, "incomplete: larger than max_file_size ({})", ByteSize(*max)),
            Failure::Content(why) => f.write_str(why),
            Failure::Disk(e) if e.kind() == io::ErrorKind::StorageFull => write!(f, "the disk is full: free some space below bundle_dir"),
            Failure::Disk(e) => write!(f, "cannot write the file: {e}; check bundle_dir"),
            Failure::Ended(why) => write!(f, "incomplete: {why}"),
        }
    }
}

/// What a GET may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// For the whole of it, connecting included.
    pub timeout: Duration,
    pub max_bytes: u64,
}

/// Gets `url` into `sink`. Returns the sink in any case, with what it got.
///
/// Dropping the future leaves the sink's file as far as it was written.
pub(super) async fn get(
    endpoint: &Endpoint,
    client: &Asker,
    url: Url,
    bounds: Bounds,
    (sink, lane): (Sink, &Lane),
    watch: &mut Watch,
) -> (Option<Sink>, Result<(), Failure>) {
    let mut body = Pour { sink: Some(sink), lane, buffer: Vec::new() };
    let mut done = stream(endpoint, client, url, bounds, &mut body, watch).await;
    // what was got before a failure is worth keeping as well
    if let Err(e) = body.flush().await
        && done.is_ok()
    {
        done = Err(Failure::Disk(e));
    }
    (body.sink, done)
}

async fn stream(
    endpoint: &Endpoint,
    client: &Asker,
    url: Url,
    bounds: Bounds,
    body: &mut Pour<'_>,
    watch: &mut Watch,
) -> Result<(), Failure> {
    let mut clock = Clock { deadline: Instant::now() + bounds.timeout, timeout: bounds.timeout, answered: false, bytes: 0 };
    let mut response = answer(endpoint, client, url, &mut clock, watch).await?;
    loop {
        let chunk = match clock.limit(watch, response.chunk()).await? {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(e) => return Err(Failure::Broken { bytes: clock.bytes, why: root_cause(&e) }),
        };
        let room = bounds.max_bytes.saturating_sub(clock.bytes);
        clock.bytes += chunk.len() as u64;
        let fits = usize::try_from(room).ok().and_then(|room| chunk.get(..room)).unwrap_or(&chunk);
        body.write(fits).await.map_err(Failure::Disk)?;
        if chunk.len() as u64 > room {
            return Err(Failure::TooLarge { max: bounds.max_bytes });
        }
    }
}

/// A small body, wholly in memory: at most `bounds.max_bytes` of it.
pub(super) async fn get_small(endpoint: &Endpoint, url: Url, bounds: Bounds, watch: &mut Watch) -> Result<Vec<u8>, Failure> {
    let mut clock = Clock { deadline: Instant::now() + bounds.timeout, timeout: bounds.timeout, answered: false, bytes: 0 };
    let mut response = answer(endpoint, &endpoint.quick, url, &mut clock, watch).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) =
        clock.limit(watch, response.chunk()).await?.map_err(|e| Failure::Broken { bytes: clock.bytes, why: root_cause(&e) })?
    {
        if (bytes.len() + chunk.len()) as u64 > bounds.max_bytes {
            return Err(Failure::TooLarge { max: bounds.max_bytes });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Sends the request; the response's head, if it is a 200.
async fn answer(endpoint: &Endpoint, client: &Asker, url: Url, clock: &mut Clock, watch: &mut Watch) -> Result<Response, Failure> {
    let request = client.get(url, &endpoint.credentials.headers);
    let mut response = clock.limit(watch, request).await?.map_err(|e| unsent(endpoint, e, clock))?;
    clock.answered = true;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    if status.is_redirection() {
        let to = response.headers().get(LOCATION).and_then(|l| l.to_str().ok()).and_then(|l| response.url().join(l).ok());
        // the rest of it may hold anything
        let to = to.map_or_else(|| "an unreadable address".into(), |to| one_line(&to.origin().ascii_serialization(), MAX_LINE));
        return Err(Failure::Redirect { to });
    }
    let go = response.headers().contains_key(GO_PPROF);
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = clock.limit(watch, response.chunk()).await {
        text.extend_from_slice(chunk.get(..MAX_ERROR_TEXT - text.len()).unwrap_or(&chunk));
        // a page says what it is about further down
        if text.len() == MAX_ERROR_TEXT || text.contains(&b'\n') && status != StatusCode::BAD_REQUEST {
            break;
        }
    }
    let text = endpoint.credentials.redact(&String::from_utf8_lossy(&text));
    let telling = text.lines().find(|l| says_in_the_clear(l));
    let line = telling.or_else(|| text.lines().find(|l| !l.trim().is_empty())).map(|l| one_line(l, MAX_LINE)).unwrap_or_default();
    Err(Failure::Status { code: status, go, line, wants_tls: telling.is_some() })
}

fn unsent(endpoint: &Endpoint, unsent: Unsent, clock: &Clock) -> Failure {
    match unsent {
        Unsent::Withheld(why) => Failure::Withheld(why),
        Unsent::Connect(cause) => Failure::Connect { cause, obstacle: endpoint.obstacle.clone() },
        Unsent::TimedOut => Failure::TimedOut { after: clock.timeout, answered: false, bytes: 0 },
        Unsent::Unanswered(cause) => Failure::Unanswered(cause),
    }
}

struct Clock {
    deadline: Instant,
    timeout: Duration,
    answered: bool,
    bytes: u64,
}

impl Clock {
    async fn limit<T>(&self, watch: &mut Watch, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            // what has arrived comes first
            biased;
            done = work => Ok(done),
            why = watch.ended() => Err(Failure::Ended(why)),
            () = tokio::time::sleep_until(self.deadline) => {
                Err(Failure::TimedOut { after: self.timeout, answered: self.answered, bytes: self.bytes })
            }
        }
    }
}

/// Carries bytes to a sink in large pieces.
struct Pour<'l> {
    /// `None` after a piece whose thread failed.
    sink: Option<Sink>,
    lane: &'l Lane,
    buffer: Vec<u8>,
}

impl Pour<'_> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut sink = self.sink.take().ok_or_else(|| io::Error::other("an earlier write did not end"))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let write = self.lane.run(move || {
            let done = sink.write(&buffer);
            buffer.clear();
            (sink, buffer, done)
        });
        let (sink, buffer, done) = write.await.map_err(io::Error::other)?;
        self.sink = Some(sink);
        self.buffer = buffer;
        done
    }
}
