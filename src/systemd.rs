//! The service manager's side: readiness, reloads, the watchdog. Outside systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells systemd; a failure is logged, since a swallowed one shows only as a start-up timeout.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "sd_notify failed; with Type=notify, systemd will think that memtrap hangs");
    }
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

pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The one line that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Half of WatchdogSec, if systemd watches this process: how often [`alive`] is due.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|d| d / 2)
}

/// Feeds the watchdog.
pub fn alive() {
    notify(&[NotifyState::Watchdog]);
}
