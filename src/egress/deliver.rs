//! One notice to one receiver: a POST, or a program.

use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::notice::{self, Notice};
use crate::aside::{NoAnswer, Threads};
use crate::client::{Cause, Clients, Credentials, USE_HTTPS, Use, says_in_the_clear, withheld};
use crate::config::{self, Channel, Notify, Receiver, ReceiverUrl};
use crate::host::ProcFs;
use crate::host::peer::Peer;
use crate::host::trust::Trusted;
use crate::text::one_line;

/// Where secret files are read and programs started: a receiver whose disk hangs takes one of them, and keeps no other waiting.
static THREADS: LazyLock<Threads> = LazyLock::new(|| Threads::new("receivers", 16));
const CONNECT: Duration = Duration::from_secs(5);
/// Of an answer or of what a program says, in the log.
const MAX_SAID: usize = 2_048;
const MAX_SHOWN: usize = 200;
const MAX_URL_FILE: u64 = 8 << 10;
/// For what is left in a pipe when its program has ended.
const REST: Duration = Duration::from_millis(200);

/// Delivers a notice, within the receiver's timeout; why it did not arrive is a sentence without secrets. A failed delivery may have
/// arrived all the same. If the future is dropped, a program and what it started is killed.
pub async fn deliver(notice: &Notice, to: &Notify, external_url: Option<&str>, clients: &Clients, now: SystemTime) -> Result<(), String> {
    let link = notice.link(external_url);
    let message = notice.message(&to.message, &link);
    let sent = async {
        let (receiver, path, body) = match &to.how {
            Channel::Exec(command) => return execute(to, command, notice.environment(&message, &link)).await,
            Channel::Webhook(receiver) => (receiver, "", notice.webhook(&message, &link)),
            Channel::Slack(receiver) => (receiver, "", notice::slack(&message)),
            Channel::Alertmanager(receiver, labels) => (receiver, "/api/v2/alerts", notice.alert(&message, &link, labels, now)),
        };
        post(to, (receiver, path), &notice.key(), crate::text::escape_json(&body.to_string()), clients).await
    };
    let late = |_| Err(format!("no end within {}", humantime::format_duration(to.timeout)));
    tokio::time::timeout(to.timeout, sent).await.unwrap_or_else(late)
}

async fn post(to: &Notify, (receiver, path): (&Receiver, &str), key: &str, body: String, clients: &Clients) -> Result<(), String> {
    let (receiver, path, clients) = (receiver.clone(), path.to_owned(), clients.clone());
    // secret files and the system's certificates are read
    let prepared = THREADS.run_for(&to.name, to.timeout, move || {
        let url = address(&receiver.url, &path)?;
        let credentials = Credentials::load(&receiver.auth).map_err(|e| e.to_string())?;
        let client = match peer(&receiver, &url, &credentials)? {
            Some(peer) => clients.guarded(&url, None, &credentials, CONNECT, Use::Scrape, peer.into()),
            None => clients.client(&url, None, &credentials, CONNECT, Use::Scrape),
        };
        let client = client.map_err(|e| e.to_string())?;
        Ok::<_, String>((url, credentials, client))
    });
    let (url, credentials, client) = prepared.await.map_err(|why| format!("its secret files could not be read: {why}"))??;
    let request = client.post(url).headers(credentials.headers.clone()).header(CONTENT_TYPE, "application/json");
    let sent = request.header("Idempotency-Key", key).body(body).send().await;
    let mut answer = sent.map_err(|e| withheld(&e).unwrap_or_else(|| one_line(&Cause::of(&e).to_string(), 2 * MAX_SHOWN)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    if status.is_redirection() {
        return Err(format!("HTTP {} leads elsewhere, which is not followed; give the final URL", status.as_u16()));
    }
    let mut said = Vec::new();
    while said.len() < MAX_SAID {
        match answer.chunk().await {
            Ok(Some(bytes)) => said.extend_from_slice(bytes.get(..MAX_SAID - said.len()).unwrap_or(&bytes)),
            _ => break,
        }
    }
    let said = credentials.redact(&String::from_utf8_lossy(&said));
    let cure = match status.as_u16() {
        _ if says_in_the_clear(&said) => format!(": {USE_HTTPS} in `url`"),
        401 | 403 => ": it wants credentials, or other ones; check `auth` and the URL".into(),
        404 => ": check the path of the URL".into(),
        _ => String::new(),
    };
    Err(format!("HTTP {} `{}`{cure}", status.as_u16(), one_line(said.trim(), MAX_SHOWN)))
}

/// Who must answer, if what is sent is for the receiver alone and it is on this host. A URL that stands in a file is a secret itself.
fn peer(receiver: &Receiver, url: &Url, credentials: &Credentials) -> Result<Option<Peer>, String> {
    if !credentials.are_sent() && matches!(receiver.url, ReceiverUrl::Inline(_)) {
        return Ok(None);
    }
    let procfs = ProcFs::host();
    Ok(Peer::of_url(&procfs, url, Trusted::of_address(&procfs, receiver.user.as_ref())?, None))
}

/// Blocks on the disk.
fn address(url: &ReceiverUrl, path: &str) -> Result<Url, String> {
    let text = match url {
        ReceiverUrl::Inline(url) => url.clone(),
        ReceiverUrl::File(file) => {
            let shown = file.display();
            let text = crate::client::read(file, MAX_URL_FILE).map_err(|e| e.to_string())?;
            let text = String::from_utf8(text).map_err(|_| format!("{shown} is not text"))?;
            config::parse_url(&text).map_err(|why| format!("{shown} holds {why}"))?
        }
    };
    let mut url = Url::parse(&text).map_err(|_| "not a URL".to_owned())?;
    if !path.is_empty() {
        let whole = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&whole);
    }
    Ok(url)
}

/// A process group that does not outlive its owner.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // it may have ended by itself
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

async fn execute(to: &Notify, command: &[String], environment: Vec<(&'static str, String)>) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Err("no program".into()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // its file may lie on a disk that hangs
    let runtime = tokio::runtime::Handle::current();
    let start = move || {
        let _inside = runtime.enter();
        command.spawn()
    };
    let started = THREADS.run_for(&to.name, to.timeout, start).await;
    let mut child =
        started.map_err(|why: NoAnswer| format!("{program} could not be started: {why}"))?.map_err(|e| format!("{program}: {e}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let stderr = child.stderr.take();
    let reader = tokio::spawn(async move {
        match stderr {
            Some(stderr) => beginning(stderr).await,
            None => String::new(),
        }
    });
    let abort = reader.abort_handle();
    let status = child.wait().await.map_err(|e| format!("{program}: {e}"))?;
    // reaped: its number may be another's
    group.0 = None;
    let said = match tokio::time::timeout(REST, reader).await {
        Ok(said) => said.unwrap_or_default(),
        // something that it started holds the pipe
        Err(_) => {
            abort.abort();
            String::new()
        }
    };
    match said.trim() {
        _ if status.success() => Ok(()),
        "" => Err(format!("{program} ended with {status}")),
        said => Err(format!("{program} ended with {status}, and said `{}`", one_line(said, MAX_SHOWN))),
    }
}

/// The first of what is said; the rest is read and dropped, so that nobody waits for a full pipe.
async fn beginning(mut from: impl AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    let mut first = (&mut from).take(MAX_SAID as u64);
    // what was read before an error counts
    let _ = first.read_to_end(&mut said).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&said).into_owned()
}
