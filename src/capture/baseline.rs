//! Baselines: what a healthy instance looked like, to compare an incident with.
//!
//! A baseline is a bundle of the plan's few cheap steps (no forced GC, no stacks as text), in a directory of its own below `state_dir`.
//! Of each instance the latest is kept, and goes with its process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch::Receiver;

use super::{CaptureError, Env, Request, Scope};
use crate::bundle::{self, Bundle, Partial};
use crate::clock;
use crate::config;
use crate::target::{InstanceId, ProcFs};
use crate::trigger::Fired;
use crate::units::ByteSize;

/// The steps of a baseline, as the plan names them.
pub(super) const STEPS: [&str; 5] = ["status", "smaps_rollup", "heap", "memstats", "goroutine"];

/// Where baselines are kept.
pub fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("baselines")
}

/// Takes the baseline of an instance that is healthy now, and forgets those that it replaces and those of dead processes.
///
/// If the future is dropped, a partial stays and is removed at the next start.
pub async fn take(
    target: Arc<config::Target>,
    instance: InstanceId,
    rss: u64,
    env: &Env,
    dir: PathBuf,
    stop: Receiver<bool>,
) -> Result<(), CaptureError> {
    let started = clock::wall_now();
    let request = Request {
        incident_id: format!("{}-baseline-{}", target.name, instance.pid),
        part: 1,
        scope: Scope::Baseline,
        instance: Some(instance),
        instance_label: format!("pid {}", instance.pid),
        fired: Fired::manual(rss, None, format!("a baseline, taken while healthy at RSS {}", ByteSize(rss))),
        target,
        started,
        timeline: Arc::default(),
        oom: None,
        low_disk: false,
        baselines: None,
    };
    let (name, env) = (request.target.name.clone(), Env { bundle_dir: dir.clone(), ..env.clone() });
    let taken = super::run(request, &env, stop, &mut |_| {}).await?;
    let procfs = env.procfs.clone();
    let tidied = tokio::task::spawn_blocking(move || tidy(&dir, &name, instance, &taken.id, taken.evidence, &procfs));
    tidied.await.map_err(CaptureError::Thread)
}

/// The latest baseline of this very process. Blocks on the disk.
pub fn latest(dir: &Path, target: &str, instance: InstanceId, boot_id: &str) -> Option<Bundle> {
    of_target(dir, target).into_iter().rfind(|b| owner(b) == Some(instance) && b.manifest.boot_id == boot_id)
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

/// Removes what killed runs left and baselines of processes that are gone. Blocks on the disk.
pub fn clean(dir: &Path, procfs: &ProcFs, boot_id: &str, now: SystemTime) {
    for finished in bundle::interrupted::finish_all(dir, now).into_iter().flatten() {
        tracing::debug!(path = %finished.path.display(), "an interrupted baseline");
    }
    for bundle in bundle::list(dir).unwrap_or_default() {
        let alive = owner(&bundle).is_some_and(|id| bundle.manifest.boot_id == boot_id && procfs.is_alive(id));
        if !alive || bundle.manifest.outcome == bundle::Outcome::Interrupted {
            discard(&bundle);
        }
    }
}

fn tidy(dir: &Path, target: &str, instance: InstanceId, taken: &str, good: bool, procfs: &ProcFs) {
    for bundle in of_target(dir, target) {
        let this = bundle.id == taken;
        let replaced = !this && good && owner(&bundle) == Some(instance);
        let dead = owner(&bundle).is_none_or(|id| !procfs.is_alive(id));
        if replaced || dead || (this && !good) {
            discard(&bundle);
        }
    }
}

fn discard(bundle: &Bundle) {
    if let Err(error) = bundle::remove(bundle) {
        tracing::warn!(error = crate::error::chain(&error), "a baseline could not be removed");
    }
}

fn of_target(dir: &Path, target: &str) -> Vec<Bundle> {
    bundle::list_of(dir, target)
}

fn owner(bundle: &Bundle) -> Option<InstanceId> {
    let instance = &bundle.manifest.instance;
    Some(InstanceId { pid: instance.pid?, start_ticks: instance.start_ticks? })
}
