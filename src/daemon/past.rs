//! What a run that was killed left in the bundle directory, as the next one takes it up.

use std::path::Path;
use std::time::Duration;

use crate::bundle::{self, Manifest, Outcome};
use crate::clock;
use crate::error::chain;
use crate::incident::{Incident, SavedSlot};
use crate::state::Saved;
use crate::trigger::Trigger;

/// How far the times of files may be behind the clock.
const FILE_TIMES: Duration = Duration::from_secs(1);
/// Without any stored state, bundles of this long ago count as unseen by it.
const UNSEEN_WITHOUT_STATE: Duration = Duration::from_secs(3600);

/// Finishes what a killed run left.
pub(super) fn finish_partials(bundle_dir: &Path) -> Vec<Manifest> {
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
pub(super) fn published_unseen(bundle_dir: &Path, saved: Option<&Saved>, mut each: impl FnMut(Manifest)) {
    let stored = saved.map_or_else(|| clock::wall_now() - UNSEEN_WITHOUT_STATE, Saved::stored);
    bundle::each_since(bundle_dir, stored - FILE_TIMES, |found| each(found.manifest));
}

/// The incident that a bundle is of, as the state would have told it had it been stored in time.
pub(super) fn slot_of(manifest: Manifest, boot_id: &str) -> Option<(String, SavedSlot)> {
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
        fired: manifest.trigger,
    };
    let instance = id.filter(|id| id.process().is_none() || manifest.boot_id == boot_id);
    Some((manifest.target, SavedSlot { instance, incident: Some(incident), capturing: true, ..SavedSlot::default() }))
}
