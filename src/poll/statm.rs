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
    /// Why it could not be read.
    Blind(String),
}

/// A process's `statm`, kept open.
#[derive(Debug)]
pub struct Statm {
    file: File,
    page: u64,
}

impl Statm {
    /// `file` is an open `/proc/PID/statm`.
    pub fn new(file: File) -> Statm {
        Statm { file, page: rustix::param::page_size() as u64 }
    }

    /// Reads it once. Allocates only when something is wrong.
    pub fn read(&self) -> Reading {
        // seven numbers of at most 20 digits
        let mut text = [0u8; 160];
        match rustix::io::pread(&self.file, &mut text, 0) {
            Ok(n) => match resident_pages(text.get(..n).unwrap_or_default()) {
                // a zombie has no pages left
                Some(0) => Reading::Gone,
                Some(pages) => Reading::Rss(pages.saturating_mul(self.page)),
                None => Reading::Blind(format!("statm holds no page count: `{}`", String::from_utf8_lossy(&text[..n.min(40)]).trim())),
            },
            Err(Errno::SRCH) => Reading::Gone,
            Err(e) => Reading::Blind(format!("reading statm: {}", io::Error::from(e))),
        }
    }
}

/// The second number of `statm`.
fn resident_pages(text: &[u8]) -> Option<u64> {
    let field = text.split(|b| *b == b' ').nth(1)?;
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
        let statm = Statm::new(File::open(format!("/proc/{}/statm", child.id())).unwrap());
        assert!(matches!(statm.read(), Reading::Rss(n) if n >= 4096));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(statm.read(), Reading::Gone);
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = Command::new("true").spawn().unwrap();
        let statm = Statm::new(File::open(format!("/proc/{}/statm", child.id())).unwrap());
        let stat = format!("/proc/{}/stat", child.id());
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(statm.read(), Reading::Gone);
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_statm_is_said_so() {
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(Statm::new(file).read(), Reading::Blind(_)));
        assert_eq!(resident_pages(b"100 25 3 1 0 9 0\n"), Some(25));
        for bad in [&b""[..], b"100", b"100 ", b"100 x 3", b"1 99999999999999999999999 1"] {
            assert_eq!(resident_pages(bad), None, "{bad:?}");
        }
    }
}
