//! What a person sees while something runs in the foreground: one line that is rewritten, and lines that stay.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::outlet;
use crate::bundle::Status;
use crate::capture::Progress;
use crate::clock;
use crate::lang::Lang;
use crate::poll::InstanceStatus;
use crate::serve::words_of_slope;
use crate::text;
use crate::units::ByteSize;

/// Stderr, as a terminal or not.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    width: usize,
    live: bool,
    /// Why a step failed, and how many after it for the same cause.
    failing: Option<(String, usize)>,
}

impl Screen {
    pub fn new() -> Screen {
        let terminal = io::stderr().is_terminal();
        let width = rustix::termios::tcgetwinsize(io::stderr()).map_or(80, |size| usize::from(size.ws_col));
        Screen { terminal, width: width.max(20), live: false, failing: None }
    }

    /// Replaces the live line; nothing where there is no terminal.
    pub fn live(&mut self, text: &str) {
        if self.terminal {
            let cut: String = text::lines(text).replace(['\n', '\t'], " ").chars().take(self.width - 1).collect();
            let _ = outlet::stderr().write_all(format!("\r\x1b[K{cut}").as_bytes());
            self.live = true;
        }
    }

    /// Prints a line that stays.
    pub fn line(&mut self, text: &str) {
        self.say_same();
        let clear = if std::mem::take(&mut self.live) { "\r\x1b[K" } else { "" };
        // nobody reads stderr: nothing to tell
        let _ = outlet::stderr().write_all(format!("{clear}{}\n", text::lines(text)).as_bytes());
    }

    /// How many more failed for the cause that was told.
    fn say_same(&mut self) {
        if let Some((cause, more @ 1..)) = self.failing.take() {
            self.line(&format!("  … and {more} more for the same cause"));
            self.failing = Some((cause, 0));
        }
    }

    /// One step of a capture. Of those that fail for one cause, the first is told, with the URL that was tried.
    pub fn step(&mut self, progress: &Progress) {
        match progress {
            Progress::Started { file, .. } => self.live(&format!("  {file} …")),
            Progress::Answer(verdict) => self.line(&format!("so far: {verdict}")),
            Progress::Done(entry) => {
                if let Some((_, more)) = self.failing.as_mut().filter(|(cause, _)| entry.is_of(cause)) {
                    *more += 1;
                    return;
                }
                let size = if entry.has_file() { ByteSize(entry.bytes).to_string() } else { "-".into() };
                let reason = entry.cause().or(entry.reason.as_deref()).map_or(String::new(), |r| format!("  {r}"));
                let url = entry.source.as_ref().filter(|_| entry.status == Status::Failed).map_or(String::new(), |url| format!(" ({url})"));
                self.line(&format!("  {:<24} {:<8} {size:>8} {:>7}ms{reason}{url}", entry.name, entry.status.name(), entry.milliseconds));
                if let Some(cause) = entry.cause().filter(|_| entry.status == Status::Failed) {
                    self.failing = Some((cause.to_owned(), 0));
                }
            }
        }
    }
}

/// An instance on one line: `pid 4821  RSS 312MiB of 512MiB  +126MiB/min  armed: …`.
pub fn instance_line(s: &InstanceStatus) -> String {
    let mut words = vec![s.instance.clone().unwrap_or_else(|| s.target.clone())];
    if let Some(rss) = s.rss_bytes {
        let of = s.limit_bytes.map_or(String::new(), |l| format!(" of {}", ByteSize(l)));
        words.push(format!("RSS {}{of}", ByteSize(rss)));
    }
    words.extend(s.charge_bytes.filter(|charge| Some(*charge) > s.rss_bytes).map(|charge| format!("charge {}", ByteSize(charge))));
    words.extend(s.slope_bytes_per_second.filter(|v| v.abs() >= 1024.0).map(|slope| words_of_slope(slope, Lang::En)));
    let left = s.seconds_to_limit.filter(|t| *t < 86_400.0).and_then(|t| Duration::try_from_secs_f64(t).ok());
    if let Some(left) = left {
        words.push(format!("limit in {}", clock::human(left)));
    }
    words.push(format!("{}: {}", s.state.name(), s.reason));
    words.extend(s.lacks_evidence().map(|why| format!("evidence: {why}")));
    words.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::State;

    #[test]
    fn an_instance_fits_on_a_line() {
        let status = InstanceStatus {
            target: "checkout".into(),
            slot: 0,
            pid: Some(4821),
            instance: Some("pid 4821".into()),
            workload: None,
            container: None,
            state: State::Armed,
            reason: "RSS is 61% of the threshold of 512MiB".into(),
            rss_bytes: Some(312 << 20),
            charge_bytes: None,
            charge_limit_bytes: None,
            charge_cgroup: None,
            limit_bytes: Some(1 << 30),
            limit_source: None,
            threshold_bytes: vec![512 << 20],
            slope_bytes_per_second: Some(2.0 * 1024.0 * 1024.0),
            seconds_to_limit: Some(356.0),
            cooldown_seconds: None,
            next_capture: "any time".into(),
            incident: None,
            evidence: None,
            last_bundle: None,
            last_end: None,
        };
        assert_eq!(
            instance_line(&status),
            "pid 4821  RSS 312MiB of 1.00GiB  +120MiB/min  limit in 5m 56s  armed: RSS is 61% of the threshold of 512MiB"
        );
    }
}
