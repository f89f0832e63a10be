//! What a run that was killed left, as the next one takes it up.

use std::path::Path;
use std::time::Duration;

use crate::brake;
use crate::bundle::{self, BundleError, Manifest, Outcome};
use crate::clock;
use crate::error::chain;
use crate::incident::{Incident, SavedSlot};
use crate::poll::Recovered;
use crate::state::{Saved, Store};
use crate::trigger::{Measure, Trigger};

/// How far the times of files may be behind the clock.
const FILE_TIMES: Duration = Duration::from_secs(1);
/// Without any stored state, bundles of this long ago count as unseen by it.
const UNSEEN_WITHOUT_STATE: Duration = Duration::from_secs(3600);

/// Puts back what an earlier memtrap has held.
pub(super) fn let_go(brakes: &Path, boot_id: &str) {
    if let Err(error) = brake::journal::settle(brakes, boot_id) {
        tracing::error!(error = chain(&error), "what an earlier memtrap has held cannot be looked through");
    }
}

/// Everything that earlier runs left, finished where it was not. Blocks on the disk.
pub(super) fn look(bundle_dir: &Path, targets: &[String], store: Option<&Store>, boot_id: &str) -> Result<Recovered, BundleError> {
    if store.is_some() {
        // in the foreground the directory is the user's business
        for doubt in bundle::settle_dir(bundle_dir)? {
            tracing::warn!(doubt, "who else may change bundle_dir");
        }
    }
    bundle::try_dir(bundle_dir)?;
    for target in targets {
        if let Err(error) = bundle::try_target(bundle_dir, target) {
            tracing::error!(target_name = target, error = chain(&error), "nothing can be captured of this target");
        }
    }
    let saved = store.and_then(Store::load);
    let floors = store.and_then(Store::load_floors);
    let partials = finish_partials(bundle_dir);
    let mut interrupted: Vec<_> = partials.into_iter().filter_map(|manifest| slot_of(manifest, boot_id)).collect();
    if store.is_some() {
        published_unseen(bundle_dir, saved.as_ref(), |manifest| interrupted.extend(slot_of(manifest, boot_id)));
    }
    Ok(Recovered { saved, floors, interrupted })
}

/// Finishes what a killed run left.
fn finish_partials(bundle_dir: &Path) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    for finished in bundle::interrupted::finish_all(bundle_dir, clock::wall_now()) {
        match finished {
            Ok(bundle::Published { manifest, .. }) => {
                tracing::warn!(target_name = %manifest.target, incident = manifest.incident_id, "finished a bundle that was interrupted");
                manifests.push(manifest);
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "an interrupted bundle could not be finished; it is left as it is");
            }
        }
    }
    manifests
}

/// Bundles that were published after the state was last stored: the kill came between the two, and the bundle is all that tells of the
/// incident. Each is handed on as it is read: the clock may have been set, and there may be thousands.
fn published_unseen(bundle_dir: &Path, saved: Option<&Saved>, mut each: impl FnMut(Manifest)) {
    let now = clock::wall_now();
    // under a clock that was ahead: it tells nothing
    let stored = saved.map(Saved::stored).filter(|stored| *stored <= now + FILE_TIMES);
    let stored = stored.unwrap_or_else(|| now - UNSEEN_WITHOUT_STATE);
    bundle::each_since(bundle_dir, stored - FILE_TIMES, |found| each(found.manifest));
}

/// The incident that a bundle is of, as the state would have told it had it been stored in time.
fn slot_of(manifest: Manifest, boot_id: &str) -> Option<(String, SavedSlot)> {
    if manifest.trigger.trigger == Trigger::Manual {
        return None; // of no incident, or of one that the state knows
    }
    if manifest.outcome == Outcome::Partial && manifest.instance.pid.is_some() && !manifest.has_evidence() {
        return None; // it was to be tried again
    }
    let id = manifest.instance.identity();
    let incident = Incident {
        id: manifest.incident_id,
        part: manifest.part,
        stages: 0,
        // what the rules say is known only once the target is; most leave `rearm` as it is
        rearm_below: manifest.trigger.level_bytes / 10 * 9,
        counts_charge: manifest.trigger.measure == Measure::Charge,
        fired: manifest.trigger,
    };
    let instance = id.filter(|id| id.process().is_none() || manifest.boot_id == boot_id);
    Some((manifest.target, SavedSlot { instance, incident: Some(incident), capturing: true, ..SavedSlot::default() }))
}
