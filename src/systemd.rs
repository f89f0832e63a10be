//! The service manager's side: readiness, reloads, the watchdog. Outside systemd it does nothing.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::incident::State;

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
    fn the_status_line_names_the_worst_first() {
        let all = [State::Armed, State::Blind, State::Armed, State::Open];
        assert_eq!(summary(all, "last bundle: svc/1"), "watching: 1 open, 1 blind, 2 armed; last bundle: svc/1");
        assert_eq!(summary([], ""), "watching nothing: no targets");
    }
}
