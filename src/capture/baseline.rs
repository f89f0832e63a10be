//! Baselines: what a healthy instance looked like, to compare an incident with.
//!
//! A baseline is a bundle of the plan's few cheap steps (no forced GC, no stacks as text), in a directory of its own below `state_dir`.
//! Of each instance the latest is kept. It goes with its process; that of an instance elsewhere, whose end is not seen here, when it
//! was not renewed for twice as long as it should have been. Those lie in a directory for each instance, since there may be thousands.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::sync::watch::Receiver;

use super::{CaptureError, Env, Request};
use crate::bundle::{self, Bundle, Partial};
use crate::target::{Identity, ProcFs};

/// The steps of a baseline, as the plan names them.
pub(super) const STEPS: [&str; 5] = ["status", "smaps_rollup", "heap", "memstats", "goroutine"];

/// Below the directory of baselines; no target's name begins with a dot.
const REMOTE: &str = ".remote";
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
    let Identity::Series(id) = instance else { return dir.to_owned() };
    let sum = ring::digest::digest(&ring::digest::SHA256, format!("{target}\n{}", id.series).as_bytes());
    let name: String = sum.as_ref().iter().take(16).map(|b| format!("{b:02x}")).collect();
    dir.join(REMOTE).join(name)
}

/// Takes the baseline of an instance that is healthy now, as `request` describes it, and forgets those that it replaces and those of
/// instances that are gone.
///
/// If the future is dropped, a partial stays and is removed at the next start.
pub async fn take(request: Request, env: &Env, dir: PathBuf, stop: Receiver<bool>) -> Result<(), CaptureError> {
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
    let tidied = tokio::task::spawn_blocking(move || {
        tidy(&own_dir, &name, &instance, &taken.id, taken.evidence, &procfs);
        if instance.series().is_some() {
            sweep_now_and_then(&dir, stale, now);
        }
    });
    tidied.await.map_err(CaptureError::Thread)
}

/// The latest baseline of this very process. Blocks on the disk.
pub fn latest(dir: &Path, target: &str, instance: &Identity, boot_id: &str) -> Option<Bundle> {
    let of_this_boot = |b: &Bundle| instance.series().is_some() || b.manifest.boot_id == boot_id;
    bundle::list_of(&dir_of(dir, target, instance), target)
        .into_iter()
        .rfind(|b| b.manifest.instance.identity().as_ref() == Some(instance) && of_this_boot(b))
}

/// Puts the files of a baseline into a bundle, below `baseline/`.
pub(super) fn copy_into(partial: &mut Partial, baseline: &Bundle) {
    for entry in baseline.manifest.files.iter().filter(|e| e.has_file() && STEPS.contains(&e.step.as_str())) {
        let plain = entry.name.rsplit('/').next().unwrap_or(&entry.name);
        let name = format!("baseline/{plain}");
        partial.add_from(&format!("baseline_{}", entry.step), &name, &baseline.path.join(&entry.name));
    }
    let facts = serde_json::json!({
        "taken": baseline.manifest.started,
        "rss_bytes": baseline.manifest.trigger.rss_bytes,
        "outcome": baseline.manifest.outcome,
    });
    partial.add("baseline", "baseline/baseline.json", format!("{facts:#}\n").as_bytes());
}

/// Removes what killed runs left and baselines of instances that are gone. Blocks on the disk.
pub fn clean(dir: &Path, procfs: &ProcFs, boot_id: &str, now: SystemTime) {
    finish_interrupted(dir, now);
    for bundle in bundle::list(dir).unwrap_or_default() {
        let process = bundle.manifest.instance.identity().and_then(|id| id.process());
        let alive = process.is_some_and(|id| bundle.manifest.boot_id == boot_id && procfs.is_alive(id));
        if !alive || bundle.manifest.outcome == bundle::Outcome::Interrupted {
            discard(&bundle);
        }
    }
    sweep(&dir.join(REMOTE), LONGEST, now);
}

fn finish_interrupted(dir: &Path, now: SystemTime) {
    for finished in bundle::interrupted::finish_all(dir, now).into_iter().flatten() {
        tracing::debug!(path = %finished.path.display(), "an interrupted baseline");
    }
}

fn tidy(dir: &Path, target: &str, instance: &Identity, taken: &str, good: bool, procfs: &ProcFs) {
    for bundle in bundle::list_of(dir, target) {
        let this = bundle.id == taken;
        let owner = bundle.manifest.instance.identity();
        let same = match (&owner, instance) {
            // an earlier life is none to compare with
            (Some(Identity::Series(a)), Identity::Series(b)) => a.series == b.series,
            (owner, instance) => owner.as_ref() == Some(instance),
        };
        let replaced = !this && good && same;
        let dead = match owner {
            Some(Identity::Process(id)) => !procfs.is_alive(id),
            Some(Identity::Series(_)) => false,
            None => true,
        };
        if replaced || dead || (this && !good) {
            discard(&bundle);
        }
    }
}

fn sweep_now_and_then(dir: &Path, stale: Duration, now: SystemTime) {
    let marker = dir.join(SWEPT);
    let last = marker.metadata().and_then(|m| m.modified()).ok();
    if last.is_some_and(|last| now.duration_since(last).unwrap_or_default() < SWEEP) {
        return;
    }
    // at worst the next baseline sweeps again
    let _ = std::fs::write(&marker, b"");
    sweep(&dir.join(REMOTE), stale, now);
}

/// Removes the directories of instances elsewhere that were not written to for so long, and what was interrupted in them.
fn sweep(remote: &Path, stale: Duration, now: SystemTime) {
    let Ok(instances) = std::fs::read_dir(remote) else { return };
    for instance in instances.flatten() {
        let path = instance.path();
        finish_interrupted(&path, now);
        for bundle in bundle::list(&path).unwrap_or_default() {
            let written = bundle.path.metadata().and_then(|m| m.modified()).ok();
            let old = written.is_none_or(|at| now.duration_since(at).unwrap_or_default() > stale);
            if old || bundle.manifest.outcome == bundle::Outcome::Interrupted {
                discard(&bundle);
            }
        }
        // fails while it holds anything, which is what is wanted
        let _ = std::fs::remove_dir(&path);
    }
}

fn discard(bundle: &Bundle) {
    if let Err(error) = bundle::remove(bundle) {
        tracing::warn!(error = crate::error::chain(&error), "a baseline could not be removed");
    }
}
