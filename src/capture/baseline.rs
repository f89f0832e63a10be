//! Baselines: what a healthy instance looked like, to compare an incident with.
//!
//! A baseline is a bundle of the plan's few cheap steps (no forced GC, no stacks as text), in a directory of its instance below
//! `state_dir`: there may be thousands, and none has to look at the others'. Of each instance the latest is kept. That of a process is
//! forgotten within the hour after its end, as long as others are taken; that of an instance elsewhere, whose end is not seen here, when
//! it was not renewed for twice as long as it should have been.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch::Receiver;

use super::{CaptureError, Env, Request};
use crate::aside::{Lane, NoAnswer};
use crate::bundle::{self, BaselineFacts, Bundle, FileEntry, Files, Outcome, Partial, Status, Sum, subdirectories};
use crate::calendar::Calendar;
use crate::clock;
use crate::config::Target;
use crate::digest;
use crate::disk::Dir;
use crate::host::ProcFs;
use crate::identity::{Identity, InstanceId};
use crate::{steps, text};

/// For the disk of `state_dir`, which the bundle's may do without.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of a file that is copied, held at a time.
const CHUNK: usize = 256 << 10;

/// Below the directory of baselines: of processes of this host, by `PID-STARTTICKS`, and of instances elsewhere.
const LOCAL: &str = "local";
const REMOTE: &str = "remote";
/// Its modification time is that of the last sweep.
const SWEPT: &str = ".swept";
const SWEEP: Duration = Duration::from_secs(3_600);
/// The longest `baseline` that can be configured, twice.
const LONGEST: Duration = Duration::from_secs(60 * 86_400);

/// Where baselines are kept.
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("baselines")
}

/// The part of it that is this instance's.
fn dir_of(dir: &Path, target: &str, instance: &Identity) -> PathBuf {
    match instance {
        Identity::Process(id) => dir.join(LOCAL).join(format!("{}-{}", id.pid, id.start_ticks)),
        Identity::Series(id) => dir.join(REMOTE).join(digest::short(format!("{target}\n{}", id.series), 16)),
    }
}

fn process_of(dir: &Path) -> Option<InstanceId> {
    let (pid, start_ticks) = dir.file_name()?.to_str()?.split_once('-')?;
    Some(InstanceId { pid: pid.parse().ok()?, start_ticks: start_ticks.parse().ok()? })
}

/// Takes the baseline of an instance that is healthy now, as `request` describes it, and forgets those that it replaces and those of
/// instances that are gone.
///
/// `tidy` is where the directory is tidied, and by which calendar. If the future is dropped, a partial stays and is removed at the next start.
pub async fn take(
    request: Request,
    env: &Env,
    dir: PathBuf,
    tidy: (Lane, Arc<Calendar>),
    stop: Receiver<bool>,
) -> Result<(), CaptureError> {
    let Some(instance) = request.instance.map(Identity::Process).or_else(|| Some(Identity::Series(request.remote.as_ref()?.id.clone())))
    else {
        return Ok(());
    };
    let name = request.target.name.clone();
    let stale = request.target.baseline.unwrap_or(LONGEST) * 2;
    let own_dir = dir_of(&dir, &name, &instance);
    let (env, now) = (Env { bundle_dir: own_dir.clone(), ..env.clone() }, request.started);
    let taken = super::run(request, &env, stop, &mut |_| {}).await?;
    let procfs = env.procfs.clone();
    let (lane, calendar) = tidy;
    let tidied = lane.run(move || {
        keep_one(&own_dir, &name, &taken.id, taken.evidence);
        sweep_now_and_then(&dir, &procfs, stale, &calendar, now);
    });
    Ok(tidied.await?)
}

/// The latest baseline of this very process. Blocks on the disk.
pub fn latest(dir: &Path, target: &str, instance: &Identity, boot_id: &str) -> Option<Bundle> {
    let of_this_boot = |b: &Bundle| instance.series().is_some() || b.manifest.boot_id == boot_id;
    bundle::list_of(&dir_of(dir, target, instance), target)
        .into_iter()
        .rfind(|b| b.manifest.instance.identity().as_ref() == Some(instance) && of_this_boot(b))
}

/// Puts the baseline of this instance into its bundle, below `baseline/`, if there is one. A disk that does not hand it out in time costs the
/// bundle its baseline and nothing else.
pub(super) async fn copy_into(
    mut partial: Partial,
    lane: &Lane,
    env: &Env,
    dir: PathBuf,
    target: Arc<Target>,
    id: Identity,
) -> Result<Partial, NoAnswer> {
    let (key, boot_id) = (format!("baseline {dir}", dir = dir_of(&dir, &target.name, &id).display()), env.boot_id.clone());
    let found = env.threads.run_for(&key, PATIENCE, move || latest(&dir, &target.name, &id, &boot_id)).await;
    let why = match found {
        Ok(None) => return Ok(partial),
        Ok(Some(baseline)) => {
            let (mut late, baseline) = (None, Arc::new(baseline));
            for entry in baseline.manifest.files.iter().filter(|e| e.has_file() && steps::is_of_baseline(&e.step)) {
                let plain = entry.name.rsplit('/').next().unwrap_or(&entry.name);
                let (step, name) = (format!("baseline_{}", entry.step), format!("baseline/{plain}"));
                let copied = copy(env, &key, (baseline.clone(), entry), partial.files(), &name, lane).await?;
                late = late.or(copied.as_ref().err().filter(|e| e.kind() == io::ErrorKind::TimedOut).map(ToString::to_string));
                let given_up = late.is_some();
                partial = lane
                    .run(move || {
                        partial.record(bundle::own_entry(&step, &name, copied));
                        partial
                    })
                    .await?;
                if given_up {
                    break;
                }
            }
            let facts = BaselineFacts {
                outcome: Some(baseline.manifest.outcome),
                rss_bytes: baseline.manifest.trigger.rss_bytes,
                taken: Some(baseline.manifest.started.clone()),
            };
            return lane
                .run(move || {
                    partial.add("baseline", "baseline/baseline.json", (text::json_pretty(&facts).unwrap_or_default() + "\n").as_bytes());
                    partial
                })
                .await;
        }
        Err(why) => format!("the disk of state_dir: {why}"),
    };
    let entry = FileEntry { status: Status::Failed, ..FileEntry::skipped("baseline", "baseline/baseline.json", why) };
    lane.run(move || {
        partial.record(entry);
        partial
    })
    .await
}

/// Reads on one thread and writes on the bundle's lane, so that what hangs never comes to write into a published bundle.
async fn copy(
    env: &Env,
    key: &str,
    (baseline, entry): (Arc<Bundle>, &FileEntry),
    files: Files,
    name: &str,
    lane: &Lane,
) -> Result<io::Result<Sum>, NoAnswer> {
    let (from, bytes) = (entry.name.clone(), entry.bytes);
    let opened = env.threads.run_for(key, PATIENCE, move || baseline.file(&from).map(|file| file.take(bytes))).await;
    let late = |why: NoAnswer| io::Error::new(io::ErrorKind::TimedOut, format!("the disk of state_dir: {why}"));
    let mut from = match opened.map_err(late).and_then(|opened| opened) {
        Ok(from) => from,
        Err(e) => return Ok(Err(e)),
    };
    let named = name.to_owned();
    let made = lane.run(move || files.create(&named).map(|file| (files, named, file))).await?;
    let (files, named, mut file) = match made {
        Ok(made) => made,
        Err(e) => return Ok(Err(e)),
    };
    let failed = loop {
        let read = env.threads.run_for(key, PATIENCE, move || {
            let mut chunk = Vec::new();
            let read = (&mut from).take(CHUNK as u64).read_to_end(&mut chunk);
            read.map(|_| (from, chunk))
        });
        match read.await.map_err(late).and_then(|read| read) {
            Ok((_, chunk)) if chunk.is_empty() => return Ok(Ok(file.finish())),
            Ok((rest, chunk)) => {
                from = rest;
                let (back, wrote) = lane
                    .run(move || {
                        let wrote = file.write_all(&chunk);
                        (file, wrote)
                    })
                    .await?;
                file = back;
                if let Err(e) = wrote {
                    break e;
                }
            }
            Err(e) => break e,
        }
    };
    let removed = lane.run(move || {
        drop(file);
        files.remove(&named)
    });
    // what stays is found as unlisted by `verify`; nothing worse
    let _ = removed.await?;
    Ok(Err(failed))
}

/// Removes what killed runs left and baselines of instances that are gone. Blocks on the disk.
pub fn clean(dir: &Path, procfs: &ProcFs, boot_id: &str, calendar: &Calendar, now: SystemTime) {
    sweep_each(&dir.join(LOCAL), now, |own, bundle| bundle.manifest.boot_id == boot_id && is_of_the_living(procfs, own));
    sweep_elsewhere(dir, LONGEST, calendar, now);
}

/// Of what this instance has, the latest that holds all; if none does, the latest with evidence.
fn keep_one(own: &Path, target: &str, taken: &str, has_evidence: bool) {
    let (fresh, earlier): (Vec<Bundle>, Vec<Bundle>) = bundle::list_of(own, target).into_iter().partition(|b| b.id == taken);
    let is_complete = |b: &Bundle| b.manifest.outcome == Outcome::Complete;
    let is_better = fresh.iter().any(is_complete) || !earlier.iter().any(is_complete);
    let was_ended = fresh.iter().any(|b| b.manifest.outcome == Outcome::Interrupted);
    let discarded = if has_evidence && is_better && !was_ended { earlier } else { fresh };
    discarded.iter().for_each(discard);
}

fn sweep_now_and_then(dir: &Path, procfs: &ProcFs, stale: Duration, calendar: &Calendar, now: SystemTime) {
    let marker = dir.join(SWEPT);
    let last = marker.symlink_metadata().and_then(|m| m.modified()).ok();
    if last.is_some_and(|last| now.duration_since(last).unwrap_or_default() < SWEEP) {
        return;
    }
    // at worst the next baseline sweeps again
    let _ = Dir::open(dir).and_then(|dir| dir.replace(SWEPT, |_| Ok(())));
    // the names tell, without a look into each
    for own in subdirectories(&dir.join(LOCAL)).into_iter().filter(|own| !is_of_the_living(procfs, own)) {
        sweep_one(&own, now, |_| false);
    }
    sweep_elsewhere(dir, stale, calendar, now);
}

fn is_of_the_living(procfs: &ProcFs, own: &Path) -> bool {
    process_of(own).is_some_and(|id| procfs.is_alive(id))
}

/// By age, which a clock that has jumped does not tell.
fn sweep_elsewhere(dir: &Path, stale: Duration, calendar: &Calendar, now: SystemTime) {
    if !calendar.is_believed(clock::since_boot(), now) {
        return;
    }
    sweep_each(&dir.join(REMOTE), now, |_, bundle| {
        let written = bundle.path.symlink_metadata().and_then(|m| m.modified()).ok();
        written.is_some_and(|at| now.duration_since(at).unwrap_or_default() <= stale)
    });
}

fn sweep_each(all: &Path, now: SystemTime, keep: impl Fn(&Path, &Bundle) -> bool) {
    for own in subdirectories(all) {
        sweep_one(&own, now, |bundle| keep(&own, bundle));
    }
}

/// Removes an instance's baselines that are not to be kept, those that were interrupted, and the directory once it is empty.
fn sweep_one(own: &Path, now: SystemTime, keep: impl Fn(&Bundle) -> bool) {
    for finished in bundle::interrupted::finish_all(own, now).into_iter().flatten() {
        tracing::debug!(path = %finished.path.display(), "an interrupted baseline");
    }
    for bundle in bundle::list(own).unwrap_or_default() {
        if bundle.manifest.outcome == Outcome::Interrupted || !keep(&bundle) {
            discard(&bundle);
        }
    }
    // fails while it holds anything, which is what is wanted
    let _ = std::fs::remove_dir(own);
}

fn discard(bundle: &Bundle) {
    if let Err(error) = bundle::remove(bundle) {
        tracing::warn!(error = crate::error::chain(&error), "a baseline could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_a_process_names_it() {
        let id = InstanceId { pid: 4242, start_ticks: 987_654 };
        let own = dir_of(Path::new("/state/baselines"), "shop", &Identity::Process(id));
        assert_eq!((own.to_str(), process_of(&own)), (Some("/state/baselines/local/4242-987654"), Some(id)));
        assert_eq!(process_of(Path::new("/state/baselines/local/x")), None);
    }
}
