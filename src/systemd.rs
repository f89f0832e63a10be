//! The service manager's side: readiness, reloads, the watchdog, credentials. Outside systemd all but credentials does nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::aside::may_block;
use crate::incident::State;

/// How a configuration names a credential instead of a file: `credential:NAME`.
pub const CREDENTIAL: &str = "credential:";

/// Whether systemd takes it as the name of a credential.
pub fn is_credential_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\0'])
}

/// Opens the file of a secret: of `credential:NAME` in the directory that systemd made for this process, of any other path there.
pub fn open_secret(file: &Path) -> io::Result<File> {
    may_block();
    let path = in_credentials(file, std::env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))?;
    // a FIFO in its place must not make the open wait
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(nonblock).open(path)
}

fn in_credentials<'f>(file: &'f Path, directory: Option<&Path>) -> io::Result<Cow<'f, Path>> {
    let Some(name) = file.to_str().and_then(|text| text.strip_prefix(CREDENTIAL)) else { return Ok(Cow::Borrowed(file)) };
    let none = "systemd hands no credentials to this process: memtrap's unit needs LoadCredential=, and a command in a terminal the path of the file";
    directory.map(|dir| Cow::Owned(dir.join(name))).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, none))
}

/// Messages on their way to a service manager that takes none at the moment.
const MAX_WAITING: usize = 64;

/// Tells systemd, on a thread of its own: neither the polling nor the captures wait for a service manager. A failure is logged, since a
/// swallowed one shows only as a start-up timeout.
fn notify(states: &[NotifyState<'_>]) {
    static HERALD: OnceLock<Option<SyncSender<String>>> = OnceLock::new();
    if !listens() {
        return;
    }
    let message = states.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "sd_notify failed; with Type=notify, systemd will think that memtrap hangs");
    };
    let herald = HERALD.get_or_init(|| {
        let (words, given) = sync_channel::<String>(MAX_WAITING);
        let tell = move || {
            for message in given {
                if let Err(error) = sd_notify::notify(&[NotifyState::Custom(&message)]) {
                    failed(&error);
                }
            }
        };
        std::thread::Builder::new().name("systemd".into()).spawn(tell).inspect_err(|e| failed(e)).ok().map(|_| words)
    });
    if let Some(Err(TrySendError::Full(_))) = herald.as_ref().map(|herald| herald.try_send(message)) {
        tracing::debug!("the service manager does not listen; a message for it is dropped");
    }
}

/// Whether anybody reads what is told here.
pub fn listens() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Start-up or a reload is over.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; `Type=notify-reload` wants to know when.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
    }
}

/// The end has begun; running captures are finished or finalized first.
pub fn stopping(captures: usize) {
    let status = match captures {
        0 => "stopping".to_owned(),
        n => format!("stopping; finishing {n} {}", if n == 1 { "capture" } else { "captures" }),
    };
    notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
}

/// The one line that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// That line: what is watched and how it is, worst first, and the `note` of what happened last.
pub fn summary(of_instances: impl IntoIterator<Item = State>, note: &str) -> String {
    let mut states: BTreeMap<usize, (&str, usize)> = BTreeMap::new();
    for state in of_instances {
        let state = state.name();
        let rank = WORST_FIRST.iter().position(|s| *s == state).unwrap_or(WORST_FIRST.len());
        states.entry(rank).or_insert((state, 0)).1 += 1;
    }
    let counts: Vec<String> = states.values().map(|(state, n)| format!("{n} {state}")).collect();
    let mut line = match counts.as_slice() {
        [] => "watching nothing: no targets".to_owned(),
        counts => format!("watching: {}", counts.join(", ")),
    };
    if !note.is_empty() {
        line.push_str("; ");
        line.push_str(note);
    }
    line
}

const WORST_FIRST: [&str; 9] = ["capturing", "open", "pending", "throttled", "blind", "cooldown", "warming", "waiting", "armed"];

/// Half of WatchdogSec, if systemd watches this process: how often [`alive`] is due.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|d| d / 2)
}

/// Feeds the watchdog.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_of_the_units_own_directory() {
        let dir = Path::new("/run/credentials/memtrap.service");
        assert_eq!(in_credentials(Path::new("credential:search"), Some(dir)).unwrap(), dir.join("search"));
        assert_eq!(in_credentials(Path::new("/etc/x"), Some(dir)).unwrap(), Path::new("/etc/x"));
        let why = in_credentials(Path::new("credential:search"), None).unwrap_err().to_string();
        assert!(why.contains("LoadCredential="), "{why}");
        for name in ["", ".", "..", "a/b", "../x", "a\0b"] {
            assert!(!is_credential_name(name), "{name:?}");
        }
    }

    #[test]
    fn the_status_line_names_the_worst_first() {
        let all = [State::Armed, State::Blind, State::Armed, State::Open];
        assert_eq!(summary(all, "last bundle: svc/1"), "watching: 1 open, 1 blind, 2 armed; last bundle: svc/1");
        assert_eq!(summary([], ""), "watching nothing: no targets");
    }
}
