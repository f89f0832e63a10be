//! Logging to systemd's journal: the line that a person reads, and each of its fields for `journalctl FIELD=VALUE`.
//!
//! In journald's native protocol, one datagram a line. tracing-journald would leave the fields out of the message, and `journalctl -u
//! memtrap` would show "bundle saved" without saying which. Not here: what is too large for a datagram; values are cut instead.

use std::fmt::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::text;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Of one field, in bytes; a datagram may have some 200 kB.
const MAX_VALUE: usize = 8 << 10;

/// The journal, if this process's stderr goes there.
pub struct Journal(UnixDatagram);

impl Journal {
    /// `None` outside systemd, and where stderr was turned elsewhere since.
    pub fn of_stderr() -> Option<Journal> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let (device, inode) = stream.split_once(':')?;
        let stderr = std::fs::metadata("/proc/self/fd/2").ok()?;
        if (device.parse().ok()?, inode.parse().ok()?) != (stderr.dev(), stderr.ino()) {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        // a journal that hangs must not stop the watcher: a line that does not fit is lost
        socket.set_nonblocking(true).ok()?;
        Some(Journal(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        // there is nowhere to complain to
        let _ = self.0.send(&line.datagram(*event.metadata().level()));
    }
}

/// The fields of an event, as they come.
#[derive(Default)]
struct Line {
    message: String,
    pairs: String,
    fields: Vec<u8>,
}

impl Line {
    fn add(&mut self, name: &str, shown: &dyn fmt::Display, value: &str) {
        // writing to a String cannot fail
        let _ = write!(self.pairs, " {name}={}", text::lines(&shown.to_string()).replace('\n', "\\n"));
        put(&mut self.fields, &format!("MEMTRAP_{}", name.to_ascii_uppercase()), &text::lines(value));
    }

    fn datagram(self, level: Level) -> Vec<u8> {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            _ => "7",
        };
        let mut datagram = Vec::new();
        put(&mut datagram, "MESSAGE", &format!("{}{}", self.message, self.pairs));
        put(&mut datagram, "PRIORITY", priority);
        put(&mut datagram, "SYSLOG_IDENTIFIER", "memtrap");
        datagram.extend(self.fields);
        datagram
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(&text::lines(value)),
            name => self.add(name, &format_args!("{value:?}"), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message.push_str(&text::lines(&text)),
            name => self.add(name, &text, &text),
        }
    }
}

/// A value with a line break would end its field and begin another: with its length in front it cannot.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(MAX_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let value = value.as_bytes().get(..end).unwrap_or_default();
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::prelude::*;

    /// What the journal is sent for the events of `log`.
    fn sent(log: impl FnOnce()) -> String {
        let dir = tempfile::tempdir().unwrap();
        let journald = UnixDatagram::bind(dir.path().join("socket")).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(dir.path().join("socket")).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Journal(socket)), log);
        let mut datagram = vec![0; 256 << 10];
        let n = journald.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..n].to_vec()).unwrap()
    }

    #[test]
    fn a_line_has_its_fields_for_people_and_for_queries() {
        let said = sent(|| tracing::warn!(target_name = "checkout", bytes = 7, why = %"full", "bundle not saved"));
        assert_eq!(
            said,
            "MESSAGE=bundle not saved target_name=\"checkout\" bytes=7 why=full\nPRIORITY=4\nSYSLOG_IDENTIFIER=memtrap\n\
             MEMTRAP_TARGET_NAME=checkout\nMEMTRAP_BYTES=7\nMEMTRAP_WHY=full\n"
        );
    }

    #[test]
    fn a_value_cannot_become_a_field_of_its_own() {
        let said = sent(|| tracing::info!(instance = "x\nPRIORITY=0\u{1b}[2J", "seen"));
        assert!(said.starts_with("MESSAGE=seen instance=\"x\\nPRIORITY=0\\u{1b}[2J\"\nPRIORITY=6\n"), "{said:?}");
        assert!(said.contains("MEMTRAP_INSTANCE\n\u{15}\0\0\0\0\0\0\0x\nPRIORITY=0"), "{said:?}");
    }

    #[test]
    fn what_would_steer_a_terminal_is_escaped_in_the_line_and_in_its_fields() {
        let said = sent(|| tracing::warn!(instance = %"a\u{202e}\u{1b}[2J\nb", "seen \u{9b}"));
        // the length before a value with a line break is binary
        assert!(!said.contains(['\u{1b}', '\u{202e}', '\u{9b}']), "{said:?}");
        assert!(said.starts_with("MESSAGE=seen \\u{9b} instance=a\\u{202e}\\u{1b}[2J\\nb\n"), "{said:?}");
    }

    #[test]
    fn a_huge_value_is_cut_and_still_sent() {
        let said = sent(|| tracing::error!(why = "ä".repeat(1 << 20), "no"));
        assert!(said.len() < 3 * MAX_VALUE && said.contains("\nPRIORITY=3\n"), "{} bytes", said.len());
    }
}
