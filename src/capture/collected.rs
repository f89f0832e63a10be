//! Files of what the kernel tells, which may never come: it reads arguments and mappings of a process under that one's own lock.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::aside::Lane;
use crate::bundle::{BundleFile, Files, Sum};
use crate::clock::Mono;
use crate::config::Capture;
use crate::identity::InstanceId;

/// A question that takes longer than this is asked of no process a second time.
const LONG: Duration = Duration::from_secs(1);

/// Questions about processes that the kernel has not answered yet, and since when: each holds a thread.
#[derive(Clone, Debug, Default)]
pub struct Unanswered(Arc<Mutex<HashMap<InstanceId, Mono>>>);

impl Unanswered {
    /// Asks, and notes that for as long as it takes. Blocks.
    pub fn ask<T>(&self, id: InstanceId, question: impl FnOnce() -> T) -> T {
        self.lock().insert(id, Mono::now());
        let answer = question();
        self.lock().remove(&id);
        answer
    }

    /// Another question about this process would only be stuck behind an earlier one.
    pub fn is_stuck(&self, id: InstanceId) -> bool {
        self.lock().get(&id).is_some_and(|since| Mono::now().since(*since) >= LONG)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Mono>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the kernel is waited for.
pub(super) fn patience(config: &Capture) -> Duration {
    config.step_timeout.min(Duration::from_secs(10))
}

/// How `collect` ended, and what it wrote; a file of an error is kept unless it is empty.
pub(super) type Collected<R> = io::Result<(R, Option<Sum>)>;

/// Lets `collect` write the file `name` on a thread of its own, none of those that everything else needs. `None`: it has not ended within
/// `patience`. The thread then stays where it is, the file is removed, and what is written to it later goes nowhere.
pub(super) async fn within<T, E>(
    patience: Duration,
    lane: &Lane,
    files: Files,
    name: &str,
    collect: impl FnOnce(&mut BundleFile) -> Result<T, E> + Send + 'static,
) -> Option<Collected<Result<T, E>>>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let late = Arc::new(AtomicBool::new(false));
    let (given_up, theirs, file) = (late.clone(), files.clone(), name.to_owned());
    let work = move || {
        if given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut out = theirs.create(&file)?;
        let result = collect(&mut out);
        let sum = out.finish();
        if result.is_err() && sum.bytes == 0 {
            theirs.remove(&file)?;
            return Ok((result, None));
        }
        Ok((result, Some(sum)))
    };
    let (done, answer) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("kernel".into()).spawn(move || {
        // nobody waits any more once it is late
        let _ = done.send(work());
    });
    if let Err(no_thread) = spawned {
        return Some(Err(no_thread));
    }
    if let Ok(done) = timeout(patience, answer).await {
        return Some(done.map_err(io::Error::other).and_then(|done| done));
    }
    late.store(true, Ordering::Relaxed);
    let name = name.to_owned();
    // a disk that does not answer either is met again by the next step
    let _ = timeout(patience, lane.run(move || files.remove(&name))).await;
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::channel;

    use super::*;

    fn place() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path());
        (dir, files)
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        dir.path().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn what_comes_too_late_leaves_nothing_behind() {
        let (dir, files) = place();
        let (go_on, told) = channel::<()>();
        let (ended, end) = tokio::sync::oneshot::channel();
        let stuck = move |out: &mut BundleFile| {
            out.write_all(b"begun").unwrap();
            told.recv().unwrap();
            let wrote = out.write_all(b", and ended");
            ended.send(wrote.is_ok()).unwrap();
            Err::<(), &str>("late")
        };
        let lane = Lane::start("test").unwrap();
        assert!(within(Duration::from_millis(200), &lane, files, "smaps", stuck).await.is_none());
        assert_eq!(names(&dir), [] as [&str; 0]);
        go_on.send(()).unwrap();
        assert!(end.await.unwrap());
        assert_eq!(names(&dir), [] as [&str; 0]);
    }

    #[test]
    fn a_process_about_which_a_question_is_stuck_is_known_until_it_is_answered() {
        let (unanswered, id) = (Unanswered::default(), InstanceId { pid: 7, start_ticks: 1 });
        unanswered.ask(id, || {
            assert!(!unanswered.is_stuck(id), "it was asked just now");
            unanswered.lock().insert(id, Mono::now() - LONG);
            assert!(unanswered.is_stuck(id));
        });
        assert!(!unanswered.is_stuck(id));
    }

    #[tokio::test]
    async fn a_file_is_kept_and_an_empty_one_of_an_error_is_not() {
        let (dir, files) = place();
        let (patience, lane) = (Duration::from_secs(10), Lane::start("test").unwrap());
        let (result, sum) = within(patience, &lane, files.clone(), "status", |out| out.write_all(b"Name")).await.unwrap().unwrap();
        assert_eq!((result.is_ok(), sum.map(|s| s.bytes)), (true, Some(4)));
        let (result, sum) = within(patience, &lane, files, "stat", |_| Err::<(), _>("denied")).await.unwrap().unwrap();
        assert_eq!((result, sum.is_none()), (Err("denied"), true));
        assert_eq!(names(&dir), ["status"]);
    }
}
