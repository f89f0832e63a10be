//! How many processes can be watched: each keeps a file open, and what must still work when all are taken, captures and the state, is left its
//! share.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The server's clients and what they download, sources that are being asked, uploads, and what is open all the time.
const RESERVED: u64 = 200;
/// Directory, journal, body, connection, and the pipes of its analysis.
const OF_A_CAPTURE: u64 = 24;

/// Lets this process open as many files as it may: services are started with 1,024.
pub fn raise() {
    let limits = getrlimit(Resource::Nofile);
    if limits.current == limits.maximum {
        return; // to ask for it could be denied all the same
    }
    let raised = Rlimit { current: limits.maximum, ..limits };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "no more files may be opened than memtrap was started with; that bounds how many processes it watches");
    }
}

/// What is left for processes beside so many captures at once.
pub(super) fn for_processes(captures: usize) -> usize {
    share(getrlimit(Resource::Nofile).current, captures as u64)
}

/// `limit`: `None` if there is none. Of a small one, half is kept back.
fn share(limit: Option<u64>, captures: u64) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let reserved = RESERVED.saturating_add(captures.saturating_mul(OF_A_CAPTURE)).min(limit / 2);
    usize::try_from(limit - reserved).unwrap_or(usize::MAX)
}

/// Processes that can be watched beside those that are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub left: usize,
    pub most: usize,
}

impl Room {
    /// Takes a place, or says why there is none.
    pub fn take(&mut self) -> Result<(), String> {
        let none = || {
            let most = self.most;
            format!(
                "{most} processes are watched, as many as memtrap may open files for (some are kept for captures): raise LimitNOFILE= or ulimit -n"
            )
        };
        self.left = self.left.checked_sub(1).ok_or_else(none)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_and_the_state_are_left_their_share() {
        assert_eq!(share(Some(16_384), 2), 16_384 - 248);
        assert_eq!(share(Some(1_024), 64), 512);
        assert_eq!((share(Some(64), 2), share(Some(0), 2), share(None, 2)), (32, 0, usize::MAX));
    }
}
