//! Where a slot stands, and why, for people.

use super::{Muted, Phase, Slot, State};
use crate::clock::{self, Mono};
use crate::trigger::Levels;
use crate::units::ByteSize;

impl Slot {
    /// Where it stands at `now`.
    pub fn state(&self, now: Mono) -> State {
        match (&self.phase, &self.life) {
            (Phase::Capturing { .. }, _) => State::Capturing,
            _ if self.blind.is_some() => State::Blind,
            (_, None) => State::Waiting,
            (Phase::Open, _) => State::Open,
            (Phase::Retrying { .. }, _) => State::Pending,
            _ if self.cooldown_until(now).is_some() => State::Cooldown,
            _ if self.throttled.is_some() => State::Throttled,
            (_, Some(life)) if life.detector.pending_since().is_some() => State::Pending,
            (_, Some(life)) if life.warming => State::Warming,
            _ => State::Armed,
        }
    }

    /// Why it is in that state, in words.
    pub fn reason(&self, levels: &Levels, now: Mono) -> String {
        let standing = || self.life.as_ref().map_or(String::new(), |l| l.detector.standing(levels));
        let cooldown = self.cooldown_until(now).map(|t| clock::human(t.since(now)));
        match self.state(now) {
            State::Capturing => match (&self.phase, &self.incident) {
                (Phase::Capturing { aside: Some(aside), .. }, _) => aside.reason.clone(),
                (_, Some(incident)) => incident.fired.reason.clone(),
                _ => String::new(),
            },
            State::Blind => self.blind.clone().unwrap_or_default(),
            State::Throttled => self.throttled.clone().unwrap_or_default(),
            State::Waiting => match cooldown {
                Some(left) => format!("no process matches; no capture for another {left}"),
                None => "no process matches".into(),
            },
            State::Open => {
                let rearm = ByteSize(self.incident.as_ref().map_or(0, |i| i.rearm_below));
                let also = cooldown.map_or(String::new(), |left| format!(", and for another {left}"));
                format!("captured; over once RSS falls below {rearm}, armed again after that{also}")
            }
            State::Cooldown if self.muted != Muted::No => {
                format!("{}; held back by the cooldown for another {}", standing(), cooldown.unwrap_or_default())
            }
            State::Cooldown => format!("recovered; armed again in {}", cooldown.unwrap_or_default()),
            State::Pending => match (&self.phase, self.life.as_ref().and_then(|l| l.detector.pending_since())) {
                (Phase::Retrying { at, why, .. }, _) => {
                    format!("{why}; next try in {}", clock::human(at.since(now)))
                }
                (_, Some(since)) => {
                    format!("{}; holding for {} of {}", standing(), clock::human(now.since(since)), clock::human(levels.hold))
                }
                _ => standing(),
            },
            State::Warming | State::Armed => standing(),
        }
    }

    /// When a rule may next lead to a capture, in a few words.
    pub fn next_capture(&self, now: Mono) -> String {
        let cooldown = self.cooldown_until(now).map(|t| clock::human(t.since(now)));
        match (&self.phase, cooldown) {
            (Phase::Capturing { .. }, _) => "running".into(),
            (Phase::Open, Some(left)) => format!("once recovered, in {left} at the earliest"),
            (Phase::Open, None) => "once recovered".into(),
            (Phase::Retrying { at, .. }, _) => format!("in {}", clock::human(at.since(now))),
            (Phase::Watching, Some(left)) => format!("in {left}"),
            (Phase::Watching, None) => match self.state(now) {
                State::Waiting => "once there is a process".into(),
                State::Blind => "once RSS can be read".into(),
                State::Throttled => "once the budget allows".into(),
                _ => "any time".into(),
            },
        }
    }
}
