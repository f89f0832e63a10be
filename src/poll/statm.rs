//! RSS of a process of this host: one `pread` on a kept descriptor of `/proc/PID/statm`.
//!
//! The descriptor belongs to the process it was opened for: once that has ended, reads fail with ESRCH even if the pid is used again.

use std::fs::File;
use std::io;

use rustix::io::Errno;

/// What one read of an instance's RSS gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Resident bytes.
    Rss(u64),
    /// The process has ended, or is a zombie.
    Gone,
    /// It runs another program than at the first reading: its memory is not the one that was watched. Told at every reading from then on.
    Another,
    /// Why it could not be read.
    Blind(String),
}

/// A process's `statm`, kept open.
#[derive(Debug)]
pub struct Statm {
    file: File,
    page: u64,
    /// Pages of code at the first reading. Only `exec` changes them.
    text: Option<u64>,
}

impl Statm {
    /// `file` is an open `/proc/PID/statm`.
    pub fn new(file: File) -> Statm {
        Statm { file, page: rustix::param::page_size() as u64, text: None }
    }

    /// Reads it once. Allocates only when something is wrong.
    pub fn read(&mut self) -> Reading {
        // seven numbers of at most 20 digits
        let mut text = [0u8; 160];
        match rustix::io::pread(&self.file, &mut text, 0) {
            Ok(n) => match pages(text.get(..n).unwrap_or_default()) {
                // a zombie has no pages left
                Some((0, _)) => Reading::Gone,
                Some((_, text)) if *self.text.get_or_insert(text) != text => Reading::Another,
                Some((resident, _)) => Reading::Rss(resident.saturating_mul(self.page)),
                None => Reading::Blind(format!(
                    "statm holds no page count: `{}`",
                    String::from_utf8_lossy(text.get(..n.min(40)).unwrap_or_default()).trim()
                )),
            },
            Err(Errno::SRCH) => Reading::Gone,
            Err(e) => Reading::Blind(format!("reading statm: {}", io::Error::from(e))),
        }
    }
}

/// The second number of `statm`, resident, and the fourth, code.
fn pages(text: &[u8]) -> Option<(u64, u64)> {
    let mut fields = text.split(|b| *b == b' ');
    let resident = number(fields.nth(1)?)?;
    Some((resident, number(fields.nth(1)?)?))
}

fn number(field: &[u8]) -> Option<u64> {
    if field.is_empty() {
        return None;
    }
    field.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n.checked_mul(10)?.checked_add(u64::from(b - b'0')))?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_live_process_has_rss_and_a_reaped_one_is_gone() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let mut statm = Statm::new(File::open(format!("/proc/{}/statm", child.id())).unwrap());
        assert!(matches!(statm.read(), Reading::Rss(n) if n >= 4096));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(statm.read(), Reading::Gone);
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = Command::new("true").spawn().unwrap();
        let mut statm = Statm::new(File::open(format!("/proc/{}/statm", child.id())).unwrap());
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(statm.read(), Reading::Gone);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_runs_another_program_is_another() {
        use std::io::Write;
        let mut child = Command::new("sh").args(["-c", "read line; exec sleep 60"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut statm = Statm::new(File::open(format!("/proc/{}/statm", child.id())).unwrap());
        while !std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().starts_with("sh") {
            std::thread::yield_now();
        }
        assert!(matches!(statm.read(), Reading::Rss(_)));
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        while !std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap().starts_with("sleep") {
            std::thread::yield_now();
        }
        assert_eq!((statm.read(), statm.read()), (Reading::Another, Reading::Another));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_statm_is_said_so() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Statm::new(file).read(), Reading::Blind(_)));
        assert_eq!(pages(b"100 25 3 1 0 9 0\n"), Some((25, 1)));
        for bad in [&b""[..], b"100", b"100 ", b"100 x 3 1", b"100 25", b"100 25 3", b"1 99999999999999999999999 1 1"] {
            assert_eq!(pages(bad), None, "{bad:?}");
        }
    }
}
