//! Files of what the kernel tells, which may never come: it reads arguments and mappings of a process under that one's own lock.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::bundle::{BundleFile, Files, Sum};
use crate::config::Capture;

/// How long the kernel is waited for.
pub(super) fn patience(config: &Capture) -> Duration {
    config.step_timeout.min(Duration::from_secs(10))
}

/// How `collect` ended, and what it wrote; a file of an error is kept unless it is empty.
pub(super) type Collected<R> = io::Result<(R, Option<Sum>)>;

/// Lets `collect` write the file `name` on a thread of its own. `None`: it has not ended within `patience`. The thread then stays where
/// it is, the file is removed, and what is written to it later goes nowhere.
pub(super) async fn within<T, E>(
    patience: Duration,
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
    let job = spawn_blocking(move || {
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
    });
    if let Ok(done) = timeout(patience, job).await {
        return Some(done.map_err(io::Error::other).and_then(|done| done));
    }
    late.store(true, Ordering::Relaxed);
    let name = name.to_owned();
    // a disk that does not answer either is met again by the next step
    let _ = timeout(patience, spawn_blocking(move || files.remove(&name))).await;
    None
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::channel;

    use super::*;

    fn place() -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::at(dir.path().to_owned());
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
        assert!(within(Duration::from_millis(200), files, "smaps", stuck).await.is_none());
        assert_eq!(names(&dir), [] as [&str; 0]);
        go_on.send(()).unwrap();
        assert!(end.await.unwrap());
        assert_eq!(names(&dir), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn a_file_is_kept_and_an_empty_one_of_an_error_is_not() {
        let (dir, files) = place();
        let patience = Duration::from_secs(10);
        let (result, sum) = within(patience, files.clone(), "status", |out| out.write_all(b"Name")).await.unwrap().unwrap();
        assert_eq!((result.is_ok(), sum.map(|s| s.bytes)), (true, Some(4)));
        let (result, sum) = within(patience, files, "stat", |_| Err::<(), _>("denied")).await.unwrap().unwrap();
        assert_eq!((result, sum.is_none()), (Err("denied"), true));
        assert_eq!(names(&dir), ["status"]);
    }
}
