//! Finding processes, off the polling thread: their arguments are read under their own locks, and one that does not answer must hold up the
//! looking only.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::resolve::{self, Known, Resolution};
use crate::clock::Mono;
use crate::config;
use crate::host::ProcFs;
use crate::host::cgroup::Mounts;

/// A pass over /proc at a time, each on a thread that ends with it.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    known: Known,
    running: Option<Running>,
    /// Whom to look into again, once the pass that runs has ended.
    forget: Vec<u32>,
    /// What the pass that runs finds out is of another configuration.
    is_stale: bool,
}

#[derive(Debug)]
struct Running {
    since: Mono,
    answer: Receiver<(Known, Scanned)>,
}

/// What a pass saw.
#[derive(Debug)]
pub(super) struct Scanned {
    /// The targets of this host as they were configured when it began.
    pub found: Vec<(Arc<config::Target>, Resolution)>,
    pub mounts: Mounts,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotScanned {
    /// The pass has been running for so long.
    Yet(Duration),
    Failed(String),
}

impl Scanner {
    /// Look into this process again: it has ended, or could not be taken up.
    pub fn forget(&mut self, pid: u32) {
        match self.running {
            Some(_) => self.forget.push(pid),
            None => self.known.forget(pid),
        }
    }

    /// Other targets are to be looked for.
    pub fn start_anew(&mut self) {
        self.known = Known::default();
        self.forget.clear();
        self.is_stale = self.running.is_some();
    }

    /// Starts a pass for the processes of these targets, unless one runs, and waits for its end up to `patience`.
    pub fn look(
        &mut self,
        procfs: &ProcFs,
        targets: impl FnOnce() -> Vec<Arc<config::Target>>,
        whole_every: Duration,
        patience: Duration,
        now: Mono,
    ) -> Result<Scanned, NotScanned> {
        let is_new = self.running.is_none();
        if is_new {
            let (mut known, procfs, targets) = (std::mem::take(&mut self.known), procfs.clone(), targets());
            self.start(now, move || {
                let processes: Vec<_> = targets.iter().filter_map(|t| t.source.process()).collect();
                let found = resolve::all_since(&procfs, &processes, &mut known, whole_every, now);
                (known, Scanned { found: targets.into_iter().zip(found).collect(), mounts: Mounts::read(&procfs) })
            })?;
        }
        self.answer(if is_new { patience } else { Duration::ZERO }, now)
    }

    fn start(&mut self, now: Mono, pass: impl FnOnce() -> (Known, Scanned) + Send + 'static) -> Result<(), NotScanned> {
        let (done, answer) = sync_channel(1);
        let spawned = std::thread::Builder::new().name("lookup".into()).spawn(move || {
            // nobody waits any more only when memtrap ends
            let _ = done.send(pass());
        });
        spawned.map_err(|e| NotScanned::Failed(format!("no thread to look for processes: {e}")))?;
        self.running = Some(Running { since: now, answer });
        Ok(())
    }

    fn answer(&mut self, patience: Duration, now: Mono) -> Result<Scanned, NotScanned> {
        let Some(running) = &self.running else { return Err(NotScanned::Yet(Duration::ZERO)) };
        let answer = match running.answer.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => return Err(NotScanned::Yet(now.since(running.since))),
            Err(RecvTimeoutError::Disconnected) => {
                Err(NotScanned::Failed("looking for processes crashed, which is a bug in memtrap".into()))
            }
            Ok((known, seen)) => {
                self.known = if self.is_stale { Known::default() } else { known };
                Ok(seen)
            }
        };
        (self.running, self.is_stale) = (None, false);
        self.forget.drain(..).for_each(|pid| self.known.forget(pid));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn nobody() -> (Known, Scanned) {
        (Known::default(), Scanned { found: Vec::new(), mounts: Mounts::parse(b"", "/".as_ref()) })
    }

    #[test]
    fn a_pass_that_does_not_end_is_not_waited_for_and_is_taken_up_when_it_does() {
        let mut scanner = Scanner::default();
        let (go_on, told) = channel::<()>();
        let t = Mono::from_secs;
        let stuck = move || {
            told.recv().unwrap();
            nobody()
        };
        scanner.start(t(100), stuck).unwrap();
        let looked = |scanner: &mut Scanner, now| scanner.look(&ProcFs::host(), Vec::new, Duration::ZERO, Duration::from_secs(60), t(now));
        assert_eq!(looked(&mut scanner, 100).unwrap_err(), NotScanned::Yet(Duration::ZERO));
        assert_eq!(looked(&mut scanner, 140).unwrap_err(), NotScanned::Yet(Duration::from_secs(40)), "no second one beside it");
        go_on.send(()).unwrap();
        scanner.answer(Duration::from_secs(60), t(141)).unwrap();
        looked(&mut scanner, 142).unwrap();
    }

    #[test]
    fn a_pass_that_crashes_is_said_and_the_next_one_runs() {
        let mut scanner = Scanner::default();
        scanner.start(Mono::default(), || panic!("on purpose")).unwrap();
        assert!(matches!(scanner.answer(Duration::from_secs(60), Mono::default()), Err(NotScanned::Failed(_))));
        scanner.start(Mono::default(), nobody).unwrap();
        assert!(scanner.answer(Duration::from_secs(60), Mono::default()).is_ok());
    }
}
