//! Threads for what may never answer: disks, name servers, secrets on a share, programs on one. No async runtime's thread does any of it.
//!
//! Each kind has threads and a bound of its own, so that one disk, one name server or one target that hangs takes its own share and
//! nobody else's:
//!
//! | what | threads |
//! | --- | --- |
//! | a capture's bundle, and the look through its profiles | one [`Lane`] for each capture |
//! | clients and secrets, the kernel's answers, the baseline that is copied, children that are started | [`Threads`]; one for each target or process at a time |
//! | what the collectors of processes have done | [`Threads`]; one for all that are due at a time |
//! | names that are looked up | [`Threads`] for captures and others for sources, uploads and notifications; one for each name at a time |
//! | the state, the bundles that retention deletes, the baselines that are swept | one [`Lane`] each |
//! | what the server lists, reads, and renders | [`Threads`] each |
//! | connections into other network namespaces | [`Threads`]; each that enters one has a thread of its own, which ends with it |
//! | what the kernel tells of cgroups by itself | one thread |
//! | a cgroup that is held: the journal, the guard | one thread for each |
//! | the configuration that is read again | a thread |
//! | uploads, notifications | a runtime each, with threads of its own |
//! | log lines, words for the service manager | one thread each, with a bounded queue |
//!
//! [`may_block`] marks what waits. In a debug build, which the tests run, it fails on the thread of the captures' runtime.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::clock::human;

/// Of keys that are known at a time before idle ones are forgotten.
const MANY_KEYS: usize = 256;

thread_local! {
    static MUST_NOT_WAIT: Cell<bool> = const { Cell::new(false) };
}

/// From here on (or no longer), this thread answers signals and clients, and everything else waits while it waits.
pub fn must_not_wait(must_not: bool) {
    MUST_NOT_WAIT.set(must_not);
}

/// What may wait for a disk or for another process says so here.
#[track_caller]
pub fn may_block() {
    debug_assert!(!MUST_NOT_WAIT.get(), "this may wait for ever, and must not be done on the thread of the async runtime: see `aside`");
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    #[error("no answer within {}", human(*.0))]
    Late(Duration),
    #[error("no thread for it: {0}")]
    NoThread(String),
    #[error("it crashed, which is a bug in memtrap; its message is in the log")]
    Crashed,
}

type Job = Box<dyn FnOnce() + Send>;

/// One thread that does jobs in the order in which they come. It ends when the last clone is gone.
#[derive(Clone, Debug)]
pub struct Lane(Sender<Job>);

impl Lane {
    /// Starts the thread.
    pub fn start(name: &str) -> io::Result<Lane> {
        let (jobs, given) = channel::<Job>();
        std::thread::Builder::new().name(name.into()).spawn(move || {
            for job in given {
                // the panic is in the log already; whoever waits hears that there is no answer
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Lane(jobs))
    }

    /// Gives a job to be done after those that were given before, and waits for its end, however long that takes.
    ///
    /// If the future is dropped, the job is done all the same.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, NoAnswer> {
        let (done, answer) = oneshot::channel();
        self.give(move || {
            // nobody may wait any more
            let _ = done.send(job());
        });
        answer.await.map_err(|_| NoAnswer::Crashed)
    }

    /// The same without waiting.
    pub fn give(&self, job: impl FnOnce() + Send + 'static) {
        // the thread outlives its lane
        let _ = self.0.send(Box::new(job));
    }
}

/// Threads for single jobs of one kind: so many at a time, each ending with its job, none waited for longer than whoever asks wants to wait.
#[derive(Clone, Debug)]
pub struct Threads {
    name: &'static str,
    places: Arc<Semaphore>,
    /// One at a time for each key, so that what hangs takes one place, however often it is tried.
    turns: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Threads {
    pub fn new(name: &'static str, most: usize) -> Threads {
        Threads { name, places: Arc::new(Semaphore::new(most)), turns: Arc::default() }
    }

    /// Does a job, unless it has not ended within `patience`, the wait for a place included. It then goes on alone, and keeps its place until
    /// it ends.
    pub async fn run<T: Send + 'static>(&self, patience: Duration, job: impl FnOnce() -> T + Send + 'static) -> Result<T, NoAnswer> {
        self.after((), patience, Instant::now() + patience, job).await
    }

    /// The same, after an earlier job with this key has ended.
    pub async fn run_for<T: Send + 'static>(
        &self,
        key: &str,
        patience: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let until = Instant::now() + patience;
        let late = || NoAnswer::Late(patience);
        let turn = timeout_at(until, self.turn_of(key).acquire_owned()).await.map_err(|_| late())?.map_err(|_| late())?;
        self.after(turn, patience, until, job).await
    }

    async fn after<T: Send + 'static>(
        &self,
        turn: impl Send + 'static,
        patience: Duration,
        until: Instant,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let late = || NoAnswer::Late(patience);
        let place = timeout_at(until, self.places.clone().acquire_owned()).await.map_err(|_| late())?.map_err(|_| late())?;
        let (done, answer) = oneshot::channel();
        let work = move || {
            let result = job();
            drop((place, turn));
            // nobody waits any more once it is late
            let _ = done.send(result);
        };
        std::thread::Builder::new().name(self.name.into()).spawn(work).map_err(|e| NoAnswer::NoThread(e.to_string()))?;
        timeout_at(until, answer).await.map_err(|_| late())?.map_err(|_| NoAnswer::Crashed)
    }

    fn turn_of(&self, key: &str) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MANY_KEYS {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        turns.entry(key.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn what_hangs_holds_up_its_own_kind_only_as_far_as_its_key_goes() {
        let threads = Threads::new("test", 2);
        let (end, told) = mpsc::channel::<()>();
        let stuck = threads.run_for("a", SHORT, move || told.recv());
        assert_eq!(stuck.await, Err(NoAnswer::Late(SHORT)));
        for _ in 0..5 {
            assert_eq!(threads.run_for("a", SHORT, || ()).await, Err(NoAnswer::Late(SHORT)), "an earlier one has not ended");
            assert_eq!(threads.run_for("b", LONG, || 7).await, Ok(7));
        }
        drop(end);
        assert_eq!(threads.run_for("a", LONG, || 8).await, Ok(8));
    }

    #[tokio::test]
    async fn there_are_never_more_threads_than_places() {
        let threads = Threads::new("test", 1);
        let (end, told) = mpsc::channel::<()>();
        assert_eq!(threads.run(SHORT, move || told.recv()).await, Err(NoAnswer::Late(SHORT)));
        assert_eq!(threads.run(SHORT, || ()).await, Err(NoAnswer::Late(SHORT)));
        drop(end);
        assert_eq!(threads.run(LONG, || 1).await, Ok(1));
    }

    #[tokio::test]
    async fn a_lane_does_what_it_is_given_in_order_and_outlives_a_crash() {
        let lane = Lane::start("test").unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        for n in 0..10 {
            let seen = seen.clone();
            lane.give(move || seen.lock().unwrap().push(n));
        }
        assert_eq!(lane.run(|| -> u8 { panic!("on purpose") }).await, Err(NoAnswer::Crashed));
        assert_eq!(lane.run(move || seen.lock().unwrap().clone()).await, Ok((0..10).collect::<Vec<_>>()));
        assert_eq!(Threads::new("test", 1).run(LONG, || -> u8 { panic!("on purpose") }).await, Err(NoAnswer::Crashed));
    }

    #[test]
    #[should_panic = "must not be done on the thread of the async runtime"]
    fn what_may_wait_is_not_done_on_a_thread_that_must_not() {
        must_not_wait(true);
        may_block();
    }

    #[tokio::test]
    async fn keys_that_nobody_uses_are_forgotten() {
        let threads = Threads::new("test", 1);
        for n in 0..3 * MANY_KEYS {
            threads.run_for(&n.to_string(), LONG, || ()).await.unwrap();
        }
        assert!(threads.turns.lock().unwrap().len() <= MANY_KEYS);
    }
}
