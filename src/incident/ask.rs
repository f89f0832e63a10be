//! What people and alerts ask of a slot.

use std::time::Duration;

use super::{Order, Phase, Slot};
use crate::clock::{self, Mono};
use crate::trigger::{Fired, Levels, Trigger};
use crate::units::ByteSize;

/// Why a capture that was asked for is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no process is there to be captured")]
    NoProcess,
    #[error("it is being captured already")]
    Capturing,
    #[error("its incident {0} is open and has its bundle; another alert makes no second one")]
    Open(String),
    #[error("its cooldown runs for another {}", clock::human(*.0))]
    Cooldown(Duration),
    #[error("its last capture saved nothing and is tried again in {}", clock::human(*.0))]
    Retrying(Duration),
}

impl Denied {
    /// One word, for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            Denied::NoProcess => "no_process",
            Denied::Capturing => "capturing",
            Denied::Open(_) => "open",
            Denied::Cooldown(_) => "cooldown",
            Denied::Retrying(_) => "retrying",
        }
    }
}

impl Slot {
    /// A capture that a person (`manual`) or an alert asks for, and `why` in words. As with rules, the shell answers with [`Slot::admitted`],
    /// or lets it be.
    pub fn ask(&self, trigger: Trigger, why: &str, levels: &Levels, now: Mono) -> Result<Order, Denied> {
        let Some(life) = &self.life else { return Err(Denied::NoProcess) };
        let rss = life.detector.series().last().map_or(0, |s| s.rss);
        let fired = Fired {
            trigger,
            slope_bytes_per_second: life.detector.slope(),
            ..Fired::manual(rss, levels.limit, format!("{why}, at RSS {}", ByteSize(rss)))
        };
        let incident = self.incident.as_ref().filter(|_| self.phase == Phase::Open);
        match &self.phase {
            Phase::Capturing { .. } => Err(Denied::Capturing),
            // one part more of the open incident, or a bundle outside of all
            _ if trigger == Trigger::Manual => {
                Ok(Order { incident: incident.map(|i| i.id.clone()), part: incident.map_or(0, |i| i.part) + 1, fired })
            }
            Phase::Open => Err(Denied::Open(incident.map_or_else(String::new, |i| i.id.clone()))),
            Phase::Retrying { at, .. } => Err(Denied::Retrying(at.since(now))),
            Phase::Watching => match self.cooldown.and_then(|c| c.holds(rss, now)) {
                Some(until) => Err(Denied::Cooldown(until.since(now))),
                None => Ok(Order { incident: None, part: 1, fired }),
            },
        }
    }
}
