//! What of a slot outlives memtrap, and how a stored one is taken up again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cooldown::{Cooldown, Hollow, SavedCooldown};
use super::{Incident, LastEnd, Life, Muted, Phase, Slot};
use crate::clock::Mono;
use crate::config::{COOLDOWNS, Rules};
use crate::identity::Identity;
use crate::trigger::Detector;

/// A slot on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedSlot {
    pub instance: Option<Identity>,
    pub incident: Option<Incident>,
    pub capturing: bool,
    /// The incident has no bundle yet.
    #[serde(default)]
    pub retrying: bool,
    pub cooldown_left: Option<Duration>,
    /// What makes the next cooldown longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<SavedCooldown>,
    /// Until the next bundle that holds nothing but readings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hollow_left: Option<Duration>,
    /// What its process runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<Box<LastEnd>>,
}

impl Slot {
    /// What must outlive memtrap; `None` if nothing.
    pub fn save(&self, now: Mono) -> Option<SavedSlot> {
        let cooldown_left = self.cooldown_until(now).map(|t| t.since(now));
        let hollow_left = self.hollow.map(|h| h.dead_until.since(now)).filter(|left| !left.is_zero());
        let cooldown = self.cooldown.filter(|c| !c.is_forgotten(now)).map(|c| c.save(now));
        (self.incident.is_some() || cooldown.is_some() || cooldown_left.is_some() || hollow_left.is_some()).then(|| SavedSlot {
            instance: self.instance().cloned(),
            incident: self.incident.clone(),
            capturing: matches!(self.phase, Phase::Capturing { aside: None, .. }),
            retrying: self.is_retrying(),
            cooldown_left,
            cooldown,
            hollow_left,
            program: self.program.clone(),
            last_end: self.last_end.clone(),
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
        let longest = *COOLDOWNS.end() * if saved.cooldown.is_some() { Cooldown::LONGEST } else { 1 };
        let before = saved.cooldown_left.unwrap_or_default().min(longest);
        let remembered = saved.cooldown.map(|c| c.later(before, elapsed));
        let left = before.saturating_sub(elapsed);
        let cooldown = (saved.cooldown_left.is_some() || remembered.is_some()).then(|| Cooldown::restore(left, remembered, now));
        // interrupted while capturing: its partial bundle is what this incident got
        let cooldown = if saved.capturing && !saved.retrying {
            let rss = saved.incident.as_ref().map_or(0, |i| i.fired.measured_bytes());
            Some(Cooldown::after(cooldown, now - elapsed, rss, rules.cooldown))
        } else {
            cooldown
        };
        let hollow = saved
            .hollow_left
            .map(|left| left.min(*COOLDOWNS.end() * Cooldown::LONGEST).saturating_sub(elapsed))
            .filter(|left| !left.is_zero());
        let open = life.is_some() && saved.incident.is_some();
        let phase = match (open, saved.retrying) {
            (false, _) => Phase::Watching,
            (true, false) => Phase::Open,
            (true, true) => Phase::Retrying { at: now, attempts: 0, why: "nothing could be saved before memtrap was restarted".into() },
        };
        Slot {
            program: saved.program,
            life,
            phase,
            incident: saved.incident.filter(|_| open),
            cooldown: cooldown.filter(|c| !c.is_forgotten(now)),
            hollow: hollow.map(|left| Hollow::restore(left, now)),
            throttled: None,
            unread: None,
            muted: Muted::No,
            last_end: saved.last_end,
        }
    }
}
