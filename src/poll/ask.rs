//! Captures that people and alerts ask for: which instance is meant, and whether it may be captured now.

use super::dispatch::{Dispatch, InstanceRef};
use super::target::WatchedTarget;
use super::task::Task;
use crate::budget::{Refusal, Urgency, Wish};
use crate::clock::Mono;
use crate::identity::SlotNumber;
use crate::incident::{Denied, Slot};
use crate::roster::Entry;
use crate::trigger::Trigger;

/// So many instances are named to someone who asks for one that there is not.
const NAMED: usize = 5;

/// Of several instances of a target, which is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one with the most RSS.
    Largest,
    /// The one with this label or pid.
    Named(String),
    /// The first of these that there is, or else the one with the most RSS: the words of an alert's labels are not always memtrap's.
    Perhaps(Vec<String>),
}

/// A capture that is asked for from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub target: String,
    pub which: Which,
    /// `manual` or `alert`.
    pub trigger: Trigger,
    /// Who asks, and why, in words.
    pub why: String,
}

/// A capture that has been ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub instance: String,
    pub incident: String,
    pub part: u32,
}

/// Why nothing is captured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotGranted {
    #[error("no target has this name; see /api/targets")]
    NoTarget,
    #[error("no instance of {target} is called so; it has {}", if .there.is_empty() { "none".to_owned() } else { .there.join(", ") })]
    NoInstance { target: String, there: Vec<String> },
    #[error("{instance}: {why}")]
    Denied { instance: String, why: Denied },
    #[error("{0}")]
    Budget(Refusal),
}

impl NotGranted {
    /// One word, for counting.
    pub const fn name(&self) -> &'static str {
        match self {
            NotGranted::NoTarget => "no_target",
            NotGranted::NoInstance { .. } => "no_process",
            NotGranted::Denied { why, .. } => why.name(),
            NotGranted::Budget(refusal) => refusal.name(),
        }
    }
}

impl WatchedTarget {
    /// Orders what is asked for, or says why not.
    pub fn ask(&mut self, ask: &Ask, dispatch: &mut Dispatch, now: Mono) -> Result<Granted, NotGranted> {
        let number = self.meant(&ask.which)?;
        let WatchedTarget { config, roster, .. } = self;
        let Some((slot, live)) = roster.get_mut(number).and_then(Entry::seated_mut) else {
            return Err(NotGranted::NoInstance { target: config.name.clone(), there: Vec::new() });
        };
        let instance = live.label();
        let order =
            slot.ask(ask.trigger, &ask.why, &live.levels, now).map_err(|why| NotGranted::Denied { instance: instance.clone(), why })?;
        let rules = config.rules.kinds();
        let workload = live.workload.as_ref().map(|workload| workload.name.clone());
        let wish =
            Wish { target: &config.name, workload: workload.as_deref(), slot: number, trigger: ask.trigger, rules, urgency: Urgency::Calm };
        dispatch.budget.admit(wish, now).map_err(NotGranted::Budget)?;
        let part = order.part;
        let job = dispatch.begin(InstanceRef { target: config, number, slot, live }, order, now);
        let incident = job.incident.clone();
        dispatch.hand_on(Task::Capture(job));
        live.log_change(&config.name, slot, now);
        Ok(Granted { instance, incident, part })
    }

    fn meant(&self, which: &Which) -> Result<SlotNumber, NotGranted> {
        let called = |name: &str| {
            let found =
                self.roster.live().find(|(_, _, live)| live.label() == name || live.id.pid().is_some_and(|pid| pid.to_string() == name));
            found.map(|(number, ..)| number)
        };
        let rss = |slot: &Slot| slot.series().and_then(|s| s.last()).map(|s| s.rss);
        let largest = || self.roster.live().max_by_key(|(_, slot, _)| rss(slot)).map(|(number, ..)| number);
        let found = match which {
            Which::Largest => largest(),
            Which::Named(name) => called(name),
            Which::Perhaps(names) => names.iter().find_map(|name| called(name)).or_else(largest),
        };
        found.ok_or_else(|| NotGranted::NoInstance {
            target: self.config.name.clone(),
            there: self.roster.live().take(NAMED).map(|(_, _, live)| live.label()).collect(),
        })
    }
}
