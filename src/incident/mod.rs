//! One incident, one bundle: the state machine of a watched instance.
//!
//! Pure. A [`Slot`] is the place that one instance of a target sits in; a process that takes over from a dead one takes over its
//! slot, so that a crash loop stays one cooldown. The shell feeds it readings and outcomes, asks the [`Budget`](crate::budget::Budget), and does what
//! the [`Order`]s say.
//!
//! ```text
//!              arrive               rule met             held `for`, admitted
//!  waiting ────────────> armed ──────────────> pending ──────────────────────> capturing
//!     ^                 (warming)  <──────────    │  budget says no: throttled      │
//!     │                    ^        not met any   │  process ends: captured dead    │ evidence saved    nothing saved
//!     │ gone               │        more          v                                 v                        │
//!     └──────────────── cooldown <────────────────────────────────────────────── open <── retry, backoff <──┘
//!                          └─ until the cooldown has passed     RSS < rearm, or      └─ next stage, escalate: part n+1
//!                                                               process replaced
//! ```
//!
//! The cooldown is counted from the firing and belongs to the slot, not to the process; it grows while the same comes again (see `cooldown`). A bundle
//! that holds nothing but readings, of a process that is gone, ends its incident and spends none. `blind` (RSS unreadable, or a series not there, for
//! [`STALE_AFTER`] readings in a row) can overlay any state but capturing.
//!
//! The incident of a leak stands for days, and keeps no other rule from firing: what fires meanwhile is its next part.
//!
//! What is asked for ([`Slot::ask`]) and no rule of the configuration goes the same way. An alert is a trigger like any other: it opens an
//! incident, and neither an open incident nor a cooldown lets a second one through. A capture that a person asks for is taken aside: afterwards all
//! is as it was before, so that looking at a healthy process does not keep its rules from firing. One slot has one capture at a time.

mod ask;
mod cooldown;
mod last_end;
mod saved;
mod words;

use std::time::Duration;

pub use ask::Denied;
use cooldown::{Cooldown, Hollow};
pub use last_end::{How, LastEnd};
pub use saved::SavedSlot;
use serde::{Deserialize, Serialize};

use crate::budget::Refusal;
use crate::charge::Charge;
use crate::clock::Mono;
use crate::config::Rules;
use crate::identity::Identity;
use crate::lang::Lang;
use crate::series::{Kept, Rise, Sample, Series};
use crate::trigger::leak::Leak;
use crate::trigger::{Collections, Detector, Fired, Levels, STALE_AFTER, Trigger};

/// Where a slot stands, by SPEC's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Waiting,
    Warming,
    Armed,
    Pending,
    Capturing,
    Open,
    Cooldown,
    Throttled,
    Blind,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Warming => "warming",
            State::Armed => "armed",
            State::Pending => "pending",
            State::Capturing => "capturing",
            State::Open => "open",
            State::Cooldown => "cooldown",
            State::Throttled => "throttled",
            State::Blind => "blind",
        }
    }
}

/// A capture that is due. The shell answers with [`Slot::admitted`] or [`Slot::refused`]; unanswered, it comes again with the
/// next reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The open incident's id; `None` opens one.
    pub incident: Option<String>,
    pub part: u32,
    pub fired: Fired,
}

/// An incident as it is kept, in memory and on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    pub id: String,
    /// Parts captured or being captured.
    pub part: u32,
    /// Stages of the threshold reached when the last part fired.
    pub stages: usize,
    /// Below this the incident is over: RSS, and the charge too if that counts.
    pub rearm_below: u64,
    /// What fired is a share of the limit, which the cgroup's charge counts for.
    #[serde(default)]
    pub counts_charge: bool,
    pub fired: Fired,
}

impl Incident {
    fn is_leak(&self) -> bool {
        self.fired.trigger == Trigger::Leak
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Watching,
    /// `of` tells a capture's process from one that took its place meanwhile.
    Capturing {
        fired_at: Mono,
        of: Option<Identity>,
        attempts: u32,
        /// Of a capture that a person asked for.
        aside: Option<Box<Aside>>,
    },
    Open,
    /// Nothing could be saved.
    Retrying {
        at: Mono,
        attempts: u32,
        why: String,
    },
}

/// A capture outside of all incidents, or beside the open one.
#[derive(Clone, Debug, PartialEq)]
struct Aside {
    /// How things stood, and will stand again.
    before: Phase,
    reason: String,
}

/// Backoff after a capture that saved nothing: 5 s, doubled each time, at most 5 min.
fn backoff(attempts: u32) -> Duration {
    Duration::from_secs(5 << attempts.min(6)).min(Duration::from_secs(300))
}

/// How a capture ended, as far as the incident cares.
#[derive(Clone, Debug, PartialEq)]
pub enum Captured {
    /// Something of the runtime or of the kernel's memory was saved.
    Evidence,
    /// Nothing but the readings, and the process is gone: no other attempt would bring more.
    Hollow,
    /// Nothing was, and why: a sentence for `status`.
    Nothing(String),
}

/// The place of one instance.
#[derive(Clone, Debug)]
pub struct Slot {
    life: Option<Life>,
    /// What the process runs, or the last one ran: its executable's name, where that is known.
    program: Option<Box<str>>,
    phase: Phase,
    incident: Option<Incident>,
    cooldown: Option<Cooldown>,
    hollow: Option<Hollow>,
    throttled: Option<Refusal>,
    unread: Option<Unread>,
    muted: Muted,
    /// Of the process before, or of the one that is gone.
    last_end: Option<Box<LastEnd>>,
}

/// RSS could not be read the last time.
#[derive(Clone, Debug)]
struct Unread {
    why: String,
    /// From here on that is `blind`: what was known before is out of date.
    blind_from: Mono,
}

/// Whether a rule is met that the cooldown keeps from firing, and whether that was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Muted {
    #[default]
    No,
    Fresh,
    Told,
}

/// One process in a slot.
#[derive(Clone, Debug)]
struct Life {
    id: Identity,
    detector: Detector,
    warming: bool,
}

impl Default for Slot {
    fn default() -> Slot {
        Slot {
            life: None,
            program: None,
            phase: Phase::Watching,
            incident: None,
            cooldown: None,
            hollow: None,
            throttled: None,
            unread: None,
            muted: Muted::No,
            last_end: None,
        }
    }
}

impl Slot {
    pub fn instance(&self) -> Option<&Identity> {
        self.life.as_ref().map(|l| &l.id)
    }

    pub fn series(&self) -> Option<&Series> {
        self.life.as_ref().map(|l| l.detector.series())
    }

    /// The last hour as the rules have seen it, oldest first.
    pub fn kept(&self, levels: &Levels) -> Vec<Kept> {
        self.life.as_ref().map_or_else(Vec::new, |l| l.detector.kept(levels))
    }

    pub fn slope(&self) -> Option<f64> {
        self.life.as_ref().and_then(|l| l.detector.slope())
    }

    /// Why a rise that is steep enough for `slope` is not taken for one.
    pub fn why_no_slope(&self, lang: Lang) -> Option<String> {
        self.life.as_ref().and_then(|l| l.detector.why_no_slope(lang))
    }

    /// Of what the rules go by: RSS, or the charge where that is more.
    pub fn measured(&self) -> Option<&Series> {
        self.life.as_ref().map(|l| l.detector.measured())
    }

    /// The cgroup's charge as of the last reading.
    pub fn charge(&self) -> Option<&Charge> {
        self.life.as_ref()?.detector.charge()
    }

    /// The cgroup's charge as of the next reading; `None` where it is not known, or another process stands for the cgroup.
    pub fn charged(&mut self, charge: Option<Charge>) {
        if let Some(life) = &mut self.life {
            life.detector.charged(charge);
        }
    }

    /// What the collector has done, or why that is not known.
    pub fn collected(&mut self, found: Result<Collections, String>) {
        if let Some(life) = &mut self.life {
            life.detector.collected(found);
        }
    }

    /// The collector takes enough to fire, as of what was told last.
    pub fn is_collector_pending(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.detector.is_collector_met())
    }

    /// How RSS rises at the last reading, or the charge where that is more.
    pub fn rise(&self) -> Option<Rise> {
        self.measured()?.rise()
    }

    /// How the last process of this place ended.
    pub fn last_end(&self) -> Option<&LastEnd> {
        self.last_end.as_deref()
    }

    pub fn ended(&mut self, end: LastEnd) {
        self.last_end = Some(Box::new(end));
    }

    pub fn incident(&self) -> Option<&Incident> {
        self.incident.as_ref()
    }

    pub fn is_capturing(&self) -> bool {
        matches!(self.phase, Phase::Capturing { .. })
    }

    /// When the next capture may be at the earliest, while a cooldown runs; what is worse than all before may come sooner.
    pub fn cooldown_until(&self, now: Mono) -> Option<Mono> {
        self.cooldown.map(|c| c.until).filter(|t| *t > now)
    }

    /// The last reading failed, whether or not that is `blind` yet.
    pub fn is_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Has this slot anything that outlives its process?
    pub fn is_spent(&self, now: Mono) -> bool {
        let is_over = self.cooldown.is_none_or(|c| c.is_forgotten(now)) && self.hollow.is_none_or(|h| h.dead_until <= now);
        self.life.is_none() && self.phase == Phase::Watching && is_over
    }

    /// Whether a process that runs this program may follow the last one: what another program did says nothing about it.
    pub fn may_be_followed_by(&self, program: Option<&str>) -> bool {
        self.program.as_deref().zip(program).is_none_or(|(last, next)| last == next)
    }

    pub fn runs(&mut self, program: Option<Box<str>>) {
        self.program = program.or(self.program.take());
    }

    /// A process takes the place. An incident of another process is over, its cooldown is not.
    pub fn arrive(&mut self, id: impl Into<Identity>, rules: &Rules, interval: Duration) {
        self.unread = None;
        self.throttled = None;
        self.muted = Muted::No;
        self.life = Some(Life { id: id.into(), detector: Detector::new(rules, interval), warming: false });
        if matches!(self.phase, Phase::Open | Phase::Retrying { .. }) {
            self.phase = Phase::Watching;
            self.incident = None;
        }
    }

    /// More became known of the same process: when it started.
    pub fn learn(&mut self, id: Identity) {
        let before = self.instance().cloned();
        if let Phase::Capturing { of, .. } = &mut self.phase
            && *of == before
        {
            *of = Some(id.clone());
        }
        if let Some(life) = &mut self.life {
            life.id = id;
        }
    }

    /// Changed rules for the same process: its series, incident and cooldown stay.
    pub fn change_rules(&mut self, rules: &Rules, interval: Duration) {
        if let Some(life) = self.life.take() {
            self.life = Some(Life { detector: life.detector.with_rules(rules, interval), ..life });
        }
    }

    /// A reading of the instance's RSS; `age` is how long its process had been running.
    pub fn observe(&mut self, sample: Sample, age: Duration, levels: &Levels, rules: &Rules) -> Option<Order> {
        let life = self.life.as_mut()?;
        self.unread = None;
        life.warming = age < rules.warmup && (rules.slope.is_some() || rules.eta.is_some() || rules.gc.is_some());
        let captured = self.incident.as_ref().filter(|_| self.phase == Phase::Open);
        life.detector.observe(sample, age, levels, captured.map_or(0, |i| i.stages));

        let most = life.detector.measured().last().map_or(sample.rss, |s| s.rss);
        let recovered = self.incident.as_ref().is_some_and(|i| {
            let is_below = if i.counts_charge { most } else { sample.rss } < i.rearm_below;
            // RSS stands still while the collector works, and after it
            let is_calm = (i.fired.trigger == Trigger::Gc).then(|| life.detector.is_collector_calm(rules.rearm.fraction())).flatten();
            is_calm.unwrap_or(is_below)
        });
        match &mut self.phase {
            Phase::Capturing { aside: Some(aside), .. } if recovered => {
                aside.before = Phase::Watching;
                self.incident = None;
                life.detector.recovered();
                None
            }
            Phase::Capturing { .. } => None,
            Phase::Open | Phase::Retrying { .. } if recovered => {
                life.detector.recovered();
                self.close();
                None
            }
            // a leak stands for days: what comes suddenly meanwhile is its next part
            Phase::Open if captured.is_some_and(Incident::is_leak) => {
                let fired = life.detector.fired(levels).filter(|fired| self.held_back(fired.measured_bytes(), sample.at).is_none());
                self.order(fired, 1, sample.at)
            }
            Phase::Open => {
                let fired = life.detector.fired_stage(levels).filter(|_| rules.escalate);
                self.order(fired, 1, sample.at)
            }
            Phase::Retrying { at, .. } if sample.at >= *at => {
                let fired = self.incident.as_ref().map(|i| i.fired.clone());
                self.order(fired, 0, sample.at)
            }
            Phase::Retrying { .. } => None,
            Phase::Watching => {
                let fired = life.detector.fired(levels);
                let held_back = fired.as_ref().is_some_and(|fired| self.held_back(fired.measured_bytes(), sample.at).is_some());
                self.muted = match (held_back, self.muted) {
                    (false, _) => Muted::No,
                    (true, Muted::No) => Muted::Fresh,
                    (true, told) => told,
                };
                if held_back {
                    return None;
                }
                self.order(fired, 1, sample.at)
            }
        }
    }

    /// Until when no incident of this RSS, of a living process, may open.
    fn held_back(&self, rss: u64, now: Mono) -> Option<Mono> {
        let cooldown = self.cooldown.and_then(|c| c.holds(rss, now));
        cooldown.max(self.hollow.map(|h| h.live_until).filter(|until| *until > now))
    }

    fn order(&mut self, fired: Option<Fired>, step: u32, now: Mono) -> Option<Order> {
        if fired.is_none() {
            self.throttled = None;
        }
        let incident = self.incident.as_ref();
        let before = self.cooldown.filter(|_| incident.is_none()).map_or(0, |c| c.before(now));
        let fired = fired.map(|fired| match before {
            0 => fired,
            before => {
                let reason = format!("{}; incidents came here {before} times before, with little rest between them", fired.reason);
                Fired { reason, ..fired }
            }
        });
        Some(Order { incident: incident.map(|i| i.id.clone()), part: incident.map_or(0, |i| i.part) + step, fired: fired? })
    }

    /// True once for each time that a rule is met and the cooldown keeps it from firing.
    pub fn take_muted(&mut self) -> bool {
        let fresh = self.muted == Muted::Fresh;
        if fresh {
            self.muted = Muted::Told;
        }
        fresh
    }

    /// The order is being carried out, under this incident id.
    pub fn admitted(&mut self, order: &Order, id: String, levels: &Levels, rules: &Rules, now: Mono) {
        if order.fired.trigger == Trigger::Manual {
            if let Some(incident) = self.incident.as_mut().filter(|i| order.incident.as_ref() == Some(&i.id)) {
                incident.part = order.part;
            }
            let aside = Aside { before: std::mem::replace(&mut self.phase, Phase::Watching), reason: order.fired.reason.clone() };
            self.phase = Phase::Capturing { fired_at: now, of: self.instance().cloned(), attempts: 0, aside: Some(Box::new(aside)) };
            return;
        }
        // an incident above a stage of the threshold is not over before RSS is below that stage too
        let lowest = levels.stages.first().map_or(u64::MAX, |s| s.bytes);
        let level = match order.fired.level_bytes {
            // asked for before anything was read
            0 => lowest,
            level if order.fired.measured_bytes() >= lowest => level.min(lowest),
            level => level,
        };
        self.throttled = None;
        if let Some(life) = self.life.as_mut().filter(|_| order.fired.trigger == Trigger::Leak) {
            life.detector.leak_told(rules.rearm.of(level));
        }
        self.phase = Phase::Capturing { fired_at: now, of: self.instance().cloned(), attempts: self.attempts(), aside: None };
        self.incident = Some(Incident {
            id,
            part: order.part,
            stages: levels.stages_reached(order.fired.reading(now)),
            rearm_below: rules.rearm.of(level),
            counts_charge: levels.counts_charge(&order.fired),
            fired: order.fired.clone(),
        });
    }

    /// The budget said no; the order comes again while its rule holds. True if it had not said so before, or for another reason.
    pub fn refused(&mut self, why: Refusal) -> bool {
        let name = why.name();
        self.throttled.replace(why).is_none_or(|before| before.name() != name)
    }

    /// The capture ended.
    pub fn captured(&mut self, result: Captured, rules: &Rules, now: Mono) {
        let Phase::Capturing { fired_at, of, attempts, aside } = &mut self.phase else { return };
        let (fired_at, attempts, aside, of) = (*fired_at, *attempts, aside.take(), of.take());
        let replaced = self.life.is_none() || self.instance() != of.as_ref();
        self.phase = match (aside, result) {
            (Some(aside), _) => aside.before,
            (None, Captured::Evidence) => {
                let rss = self.incident.as_ref().map_or(0, |i| i.fired.measured_bytes());
                self.cooldown = Some(Cooldown::after(self.cooldown, fired_at, rss, rules.cooldown));
                self.hollow = None;
                Phase::Open
            }
            (None, Captured::Hollow) => {
                self.hollow = Some(Hollow::after(self.hollow, fired_at, rules.cooldown));
                self.incident = None;
                Phase::Watching
            }
            (None, Captured::Nothing(why)) => Phase::Retrying { at: now + backoff(attempts), attempts: attempts + 1, why },
        };
        if replaced {
            self.close();
        }
    }

    /// RSS could not be read, though the process is there. A gap of a few readings confirms nothing and clears nothing; after
    /// [`STALE_AFTER`] of them, `interval` apart, nothing is known to hold any more.
    pub fn blind(&mut self, why: String, interval: Duration, now: Mono) {
        let from = self.not_read(why, interval, now);
        if let Some(life) = self.life.as_mut().filter(|_| now >= from) {
            life.detector.interrupt();
        }
    }

    /// Nothing is heard of the process, which may be gone or not: what held still holds until that is known.
    pub fn missing(&mut self, why: String, interval: Duration, now: Mono) {
        self.not_read(why, interval, now);
    }

    fn not_read(&mut self, why: String, interval: Duration, now: Mono) -> Mono {
        let was_read = self.series().is_some_and(|series| series.last().is_some());
        let patience = if was_read { interval * (STALE_AFTER - 1) } else { Duration::ZERO };
        let blind_from = self.unread.as_ref().map_or(now + patience, |unread| unread.blind_from);
        self.unread = Some(Unread { why, blind_from });
        blind_from
    }

    /// The source works again and knows of no process for this place.
    pub fn clear_blind(&mut self) {
        self.unread = None;
    }

    /// The process is gone. If a rule was pending, what is left of it is still worth a bundle. The series stays until the place
    /// is taken or [`Slot::vacate`]d.
    pub fn gone(&mut self, levels: &Levels, now: Mono) -> Option<Order> {
        let life = self.life.as_ref()?;
        match &self.phase {
            _ if self.is_on_guard() && self.hollow.is_none_or(|h| h.dead_until <= now) => {
                let fired = life.detector.unfinished(levels).filter(|fired| self.held_back(fired.measured_bytes(), now).is_none());
                self.order(fired, 1, now)
            }
            Phase::Retrying { .. } => {
                let fired = self.incident.as_ref().map(|i| i.fired.clone());
                self.order(fired, 0, now)
            }
            _ => None,
        }
    }

    /// The kernel killed in the cgroup of the process, which may be gone; `why` in words. A bundle, if nothing stands that had announced it and no
    /// cooldown holds it back.
    pub fn killed(&mut self, why: &str, levels: &Levels, now: Mono) -> Option<Order> {
        let life = self.life.as_ref().filter(|_| self.is_on_guard() && self.hollow.is_none_or(|h| h.dead_until <= now))?;
        let fired = Some(life.detector.killed(why, levels)).filter(|fired| self.held_back(fired.measured_bytes(), now).is_none());
        self.order(fired, 1, now)
    }

    /// The process runs another program: it is no longer the one that is captured, though its identity is.
    pub fn forget_process(&mut self) {
        if let Phase::Capturing { of, .. } = &mut self.phase {
            *of = None;
        }
    }

    /// Empties the place; a running capture goes on, an open incident is over.
    pub fn vacate(&mut self) {
        self.life = None;
        self.unread = None;
        self.throttled = None;
        if !self.is_capturing() {
            self.close();
        }
    }

    /// Whether rules may fire as if nothing stood: at most a leak does, which says nothing about what comes suddenly.
    pub fn is_on_guard(&self) -> bool {
        match self.phase {
            Phase::Watching => true,
            Phase::Open => self.incident.as_ref().is_some_and(Incident::is_leak),
            _ => false,
        }
    }

    /// Floors of an earlier memtrap, of the process that sits here.
    pub fn take_up(&mut self, known: Leak) {
        let Some(life) = &mut self.life else { return };
        life.detector.take_up(known);
        // floors are stored once an hour: a memtrap that was killed after it fired has not told them
        if let Some(incident) = self.incident.as_ref().filter(|incident| incident.is_leak()) {
            life.detector.leak_told(incident.rearm_below);
        }
    }

    /// What `leak` knows of the process.
    pub fn leak(&self) -> Option<&Leak> {
        self.life.as_ref()?.detector.leak()
    }

    fn close(&mut self) {
        self.phase = Phase::Watching;
        self.incident = None;
        self.throttled = None;
    }

    /// How often the current incident's capture has saved nothing.
    fn attempts(&self) -> u32 {
        match self.phase {
            Phase::Retrying { attempts, .. } => attempts,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
