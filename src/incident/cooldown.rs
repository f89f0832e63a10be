//! How long a place rests after a capture, and for how much longer when the same comes again and again.
//!
//! The rest doubles with each capture that follows, from the configured `cooldown` to sixteen times that, and comes down by one step for
//! each four times `cooldown` in which nothing was captured. The longer part of it holds back what is no worse than before: RSS that is a
//! tenth above the highest so far waits for the configured `cooldown` only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Mono;
use crate::config::COOLDOWNS;

/// The rest grows to 2^4 times the configured one.
const MOST_DOUBLINGS: u32 = 4;
/// So many times the configured rest without a capture take back one doubling.
const QUIET: u32 = 4;

/// The rest after an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cooldown {
    /// For all that is no worse.
    pub until: Mono,
    /// For everything.
    worse_until: Mono,
    /// How many captures came before the last one, less what was forgotten.
    again: u32,
    /// RSS of the worst of them, bytes.
    highest: u64,
    /// Without captures for so long, one is forgotten.
    forgets: Duration,
}

/// A [`Cooldown`] on disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedCooldown {
    worse_left: Duration,
    again: u32,
    highest: u64,
    forgets: Duration,
    /// For how long it had been over.
    over_for: Duration,
}

impl Cooldown {
    /// So many times the configured rest, and no more.
    pub const LONGEST: u32 = 2u32.pow(MOST_DOUBLINGS);

    /// The rest after a capture that fired at `at` with this RSS; `base` is the configured one.
    pub fn after(before: Option<Cooldown>, at: Mono, rss: u64, base: Duration) -> Cooldown {
        let before = before.filter(|c| !c.is_forgotten(at));
        let again = before.map_or(0, |c| (c.remembered(at) + 1).min(MOST_DOUBLINGS));
        Cooldown {
            until: at + base * 2u32.pow(again),
            worse_until: at + base,
            again,
            highest: before.map_or(0, |c| c.highest).max(rss),
            forgets: base * QUIET,
        }
    }

    /// Until when it holds back an incident of this RSS.
    pub fn holds(&self, rss: u64, now: Mono) -> Option<Mono> {
        let is_worse = rss > self.highest.saturating_add(self.highest / 10);
        Some(if is_worse { self.worse_until } else { self.until }).filter(|until| *until > now)
    }

    /// How many doublings it has, and the RSS above which those do not count; `None` without any.
    pub fn growth(&self) -> Option<(u32, u64)> {
        (self.again > 0).then(|| (self.again, self.highest.saturating_add(self.highest / 10)))
    }

    /// How many captures in a row make the next cooldown longer.
    pub fn before(&self, now: Mono) -> u32 {
        if self.is_forgotten(now) { 0 } else { self.remembered(now) + 1 }
    }

    fn remembered(&self, now: Mono) -> u32 {
        let forgotten = now.since(self.until).as_nanos() / self.forgets.as_nanos().max(1);
        self.again.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// It is over, and so is what would make the next one longer.
    pub fn is_forgotten(&self, now: Mono) -> bool {
        now >= self.until && now.since(self.until) >= self.forgets * (self.again + 1)
    }

    pub fn save(&self, now: Mono) -> SavedCooldown {
        SavedCooldown {
            worse_left: self.worse_until.since(now),
            again: self.again,
            highest: self.highest,
            forgets: self.forgets,
            over_for: now.since(self.until),
        }
    }

    /// `left` is how long the whole of it has still to go. What is stored may be anything.
    pub fn restore(left: Duration, saved: Option<SavedCooldown>, now: Mono) -> Cooldown {
        let Some(saved) = saved else {
            return Cooldown { until: now + left, worse_until: now + left, again: 0, highest: 0, forgets: Duration::ZERO };
        };
        let until = if left.is_zero() { now - saved.over_for } else { now + left };
        let again = saved.again.min(MOST_DOUBLINGS);
        Cooldown {
            until,
            worse_until: now + saved.worse_left.min(left),
            again,
            highest: saved.highest,
            forgets: saved.forgets.min(*COOLDOWNS.end() * QUIET),
        }
    }
}

impl SavedCooldown {
    /// The same, this much later; `left` is how much the whole of it had to go then.
    pub fn later(self, left: Duration, elapsed: Duration) -> SavedCooldown {
        SavedCooldown {
            worse_left: self.worse_left.saturating_sub(elapsed),
            over_for: self.over_for.saturating_add(elapsed.saturating_sub(left)),
            ..self
        }
    }
}

/// What follows a bundle that holds nothing but readings: it is kept, and spends no cooldown, but a place that dies again and again does not
/// make one for each life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hollow {
    /// The next may be of a process that is dead already.
    pub dead_until: Mono,
    /// The next may be of one that lives.
    pub live_until: Mono,
    /// How many came before, in a row.
    again: u32,
}

impl Hollow {
    pub fn after(before: Option<Hollow>, at: Mono, base: Duration) -> Hollow {
        let before = before.filter(|h| at.since(h.dead_until) < base * QUIET);
        let again = before.map_or(0, |h| (h.again + 1).min(16));
        Hollow { dead_until: at + base * 2u32.pow(again.min(MOST_DOUBLINGS)), live_until: at + super::backoff(again).min(base), again }
    }

    pub fn restore(left: Duration, now: Mono) -> Hollow {
        Hollow { dead_until: now + left, live_until: now, again: 0 }
    }
}
