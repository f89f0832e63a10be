//! What of a slot outlives memtrap, and how a stored one is taken up again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Incident, Life, Muted, Phase, Slot};
use crate::clock::Mono;
use crate::config::{COOLDOWNS, Rules};
use crate::target::Identity;
use crate::trigger::Detector;

/// A slot on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedSlot {
    pub instance: Option<Identity>,
    pub incident: Option<Incident>,
    pub capturing: bool,
    /// The incident has no bundle yet.
    #[serde(default)]
    pub retrying: bool,
    pub cooldown_left: Option<Duration>,
}

impl Slot {
    /// What must outlive memtrap; `None` if nothing.
    pub fn save(&self, now: Mono) -> Option<SavedSlot> {
        let cooldown_left = self.cooldown_until(now).map(|t| t.since(now));
        (self.incident.is_some() || cooldown_left.is_some()).then(|| SavedSlot {
            instance: self.instance().cloned(),
            incident: self.incident.clone(),
            capturing: matches!(self.phase, Phase::Capturing { aside: None, .. }),
            retrying: self.is_retrying(),
            cooldown_left,
        })
    }

    /// Nothing could be saved so far, whatever is being captured beside that.
    fn is_retrying(&self) -> bool {
        match &self.phase {
            Phase::Capturing { aside: Some(aside), .. } => matches!(aside.before, Phase::Retrying { .. }),
            phase => matches!(phase, Phase::Retrying { .. }),
        }
    }

    /// Takes a stored slot up again. `elapsed` is the time since it was stored. An incident continues only if its process is
    /// still there, so the place is taken by the process that had it: the caller confirms it or vacates it.
    pub fn restore(saved: SavedSlot, elapsed: Duration, rules: &Rules, interval: Duration, now: Mono) -> Slot {
        let life = saved.instance.map(|id| Life { id, detector: Detector::new(rules, interval), warming: false });
        // nothing longer is ever stored
        let left = saved.cooldown_left.map(|left| left.min(*COOLDOWNS.end()).saturating_sub(elapsed));
        // interrupted while capturing: its partial bundle is what this incident got
        let cooldown = if saved.capturing && !saved.retrying { Some(rules.cooldown.saturating_sub(elapsed)) } else { left };
        let open = life.is_some() && saved.incident.is_some();
        let phase = match (open, saved.retrying) {
            (false, _) => Phase::Watching,
            (true, false) => Phase::Open,
            (true, true) => Phase::Retrying { at: now, attempts: 0, why: "nothing could be saved before memtrap was restarted".into() },
        };
        Slot {
            life,
            phase,
            incident: saved.incident.filter(|_| open),
            cooldown_until: cooldown.filter(|d| !d.is_zero()).map(|d| now + d),
            throttled: None,
            blind: None,
            muted: Muted::No,
        }
    }
}
