//! Where orders go: past the budget, to whoever captures.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::instance::LiveInstance;
use super::kills::Kills;
use super::kin::Kinships;
use super::task::{Baseline, Check, Job, Task, Timeline};
use crate::budget::{Budget, Refusal, Urgency, Wish};
use crate::bundle::Warning;
use crate::clock::{self, Mono};
use crate::config;
use crate::digest;
use crate::host::ProcFs;
use crate::host::limit::OomKills;
use crate::identity::{Identity, SlotNumber};
use crate::incident::{Order, Slot, State};
use crate::lang::Lang;
use crate::meters::Meters;
use crate::series::{Kept, Sample};
use crate::trigger::time_to;

/// Within this time of the limit, what dies with the process is saved first.
const HURRY: Duration = Duration::from_secs(10);
/// Waiting or being taken.
const MAX_BASELINES: usize = 4;
/// Being asked. A service that does not answer takes some seconds.
const MAX_CHECKS: usize = 8;

/// Where orders go: past the budget, to whoever captures.
pub(super) struct Dispatch {
    pub budget: Budget,
    pub kin: Kinships,
    pub meters: Meters,
    pub tasks: mpsc::UnboundedSender<Task>,
    /// As many as there are of it elsewhere, so many baselines wait or are being taken.
    pub baselines: Arc<()>,
    /// The same for questions about evidence.
    pub checks: Arc<()>,
}

impl Dispatch {
    pub fn hand_on(&self, task: Task) {
        if self.tasks.send(task).is_err() {
            tracing::error!("nobody takes captures any more");
        }
    }

    /// What a reading leads to: a capture, a baseline if `may_baseline`, or nothing.
    pub fn read(&mut self, mut place: InstanceRef<'_>, sample: Sample, age: Duration, may_baseline: bool, now: Mono) {
        self.check(&mut place, sample.rss, now);
        let InstanceRef { target, number, slot, live } = place;
        live.note_limit(sample.at);
        if let Some(timeline) = &live.timeline {
            let charge = slot.charge().zip(live.levels.limit).map(|(charge, limit)| charge.against(limit)).filter(|c| *c > sample.rss);
            lock(timeline).push(Kept { age, limit: live.levels.limit, charge, ..Kept::reading(sample) });
        }
        let was_open = slot.incident().is_some();
        let order = slot.observe(sample, age, &live.levels, &target.rules);
        if was_open && slot.incident().is_none() {
            self.kin.forget(target, number);
        }
        let place = InstanceRef { target, number, slot, live };
        if let Some(order) = order {
            self.carry_out(place, order, None, now);
        } else if place.slot.take_muted() {
            self.meters.skipped("cooldown");
        } else if let Some(every) = target.baseline
            && may_baseline
            && now >= place.live.baseline_due
            && place.slot.state(now) == State::Armed
        {
            self.baseline(place, every, sample.rss, now);
        }
    }

    /// Asks for a baseline of an instance that is healthy now; if many are waiting, not yet: when its turn came it might not be so any more.
    fn baseline(&mut self, at: InstanceRef<'_>, every: Duration, rss: u64, now: Mono) {
        if Arc::strong_count(&self.baselines) <= MAX_BASELINES {
            at.live.baseline_due = now + every;
            let place = self.baselines.clone();
            self.hand_on(Task::Baseline(Baseline { subject: at.live.subject(at.target, rss), rss, place }));
        }
    }

    /// Asks now and then whether a capture would get anything. If many are being asked, it stays due.
    fn check(&mut self, at: &mut InstanceRef<'_>, rss: u64, now: Mono) {
        if !at.live.evidence.is_due(now) || at.slot.is_capturing() || Arc::strong_count(&self.checks) > MAX_CHECKS {
            return;
        }
        at.live.evidence.asked(now);
        let subject = at.live.subject(at.target, rss);
        if subject.target.pprof.is_some() || subject.no_pprof.is_some() {
            self.hand_on(Task::Check(Check { subject, slot: at.number, place: self.checks.clone() }));
        }
    }

    /// The kernel killed for memory in the cgroup of this instance, which lives or is gone: told whether or not a bundle follows.
    pub fn tell_of_kills(&self, target: &config::Target, live: &LiveInstance, found: &OomKills, lives: bool) {
        self.meters.oom_killed(&target.name, found.kills);
        let (pid, why) = (live.id.pid(), found.words());
        match lives {
            true => tracing::warn!(target_name = %target.name, pid, why, "the kernel killed another process of its cgroup for memory"),
            false => tracing::warn!(target_name = %target.name, pid, why, "the kernel killed the process for memory"),
        }
    }

    /// The process of this place is gone: how it ended is told, and what it leaves is captured if a rule was met or the kernel has killed it.
    pub fn gone(&mut self, mut place: InstanceRef<'_>, kills: &mut Kills, procfs: &ProcFs, now: Mono) {
        let InstanceRef { target, slot, live, .. } = &mut place;
        let found = live.local().and_then(|local| local.oom.as_ref()?.since()).and_then(|found| kills.claim(found));
        if let Some(found) = &found {
            self.tell_of_kills(target, live, found, false);
        }
        let end = live.end(procfs, found.as_ref());
        tracing::info!(target_name = %target.name, pid = live.id.pid(), how = end.words(Lang::En), "process ended");
        let killed = found.map(|found| format!("the kernel killed it for memory: {}", found.words()));
        slot.ended(end);
        let order = slot.gone(&live.levels, now);
        let order = order.or_else(|| slot.killed(&killed?, &live.levels, now));
        if let Some(order) = order {
            self.carry_out(place, order, Some(Caveat::Gone), now);
        }
    }

    /// Begins the capture, if the budget admits it; else the order will come again.
    pub fn carry_out(&mut self, place: InstanceRef<'_>, order: Order, caveat: Option<Caveat>, now: Mono) {
        let urgency = match caveat {
            Some(Caveat::Gone | Caveat::Replaced(_)) => Urgency::Gone(place.target.rules.cooldown),
            _ if is_near_limit(place.slot, place.live) => Urgency::Hurry,
            _ => Urgency::Calm,
        };
        let InstanceRef { target, number: slot, .. } = place;
        let workload = place.live.workload.as_ref().map(|workload| workload.name.as_str());
        let wish = Wish { target: &target.name, workload, slot, trigger: order.fired.trigger, rules: target.rules.kinds(), urgency };
        let admitted = match self.kin.held_by(&place, &order) {
            Some(of) => Err(Refusal::Fork { of }),
            None => self.budget.admit(wish, now),
        };
        if let Err(refusal) = admitted {
            let (name, why) = (refusal.name(), refusal.to_string());
            let is_gone = matches!(urgency, Urgency::Gone(_));
            if place.slot.refused(refusal) || is_gone {
                self.meters.skipped(name);
            }
            if is_gone {
                tracing::warn!(target_name = %target.name, pid = place.live.id.pid(), why, "a process that ended over the line leaves no bundle");
            }
            return;
        }
        self.kin.note(&place, &order);
        let several = place.live.seen().is_some_and(|seen| seen.several);
        let caveat = caveat.or_else(|| several.then(|| Caveat::Doubtful(Warning::mistaken("several processes answer at this address"))));
        let mut job = self.begin(place, order, now);
        job.is_gone = matches!(urgency, Urgency::Gone(_));
        match caveat {
            None | Some(Caveat::Gone) => {}
            Some(Caveat::Doubtful(warning)) => job.warning = Some(warning),
            Some(Caveat::Replaced(why)) => job.subject.no_pprof = Some(why),
        }
        self.hand_on(Task::Capture(job));
    }

    /// What the budget has admitted: from here on the slot is being captured. The job is to be handed on.
    pub fn begin(&mut self, InstanceRef { target, number, slot, live }: InstanceRef<'_>, order: Order, now: Mono) -> Box<Job> {
        let stamp = clock::compact_utc(clock::wall_now());
        let id = order.incident.clone().unwrap_or_else(|| format!("{}-{stamp}-{}", target.name, mark(&live.id)));
        slot.admitted(&order, id.clone(), &live.levels, &target.rules, now);
        let timeline: Timeline = Arc::new(Mutex::new(live.timeline_of(slot)));
        live.timeline = Some(timeline.clone());
        let last = slot.series().and_then(|s| s.last()).map_or(order.fired.rss_bytes, |s| s.rss);
        let subject = live.subject(target, last);
        let hurry = is_near_limit(slot, live);
        let (fired, part, oom) = (order.fired, order.part, live.local().and_then(|local| local.oom.clone()));
        Box::new(Job {
            subject,
            slot: number,
            admitted: now,
            incident: id,
            part,
            fired,
            oom,
            timeline,
            floors: slot.leak().map(|leak| leak.floors().readings(now)).unwrap_or_default(),
            hurry,
            warning: None,
            is_gone: false,
        })
    }
}

/// One instance of a target: what decides about it, and what is known of it.
pub(super) struct InstanceRef<'a> {
    pub target: &'a Arc<config::Target>,
    pub number: SlotNumber,
    pub slot: &'a mut Slot,
    pub live: &'a mut LiveInstance,
}

/// What a capture must know of its instance.
pub(super) enum Caveat {
    /// Its process is.
    Gone,
    /// It may be another that answers.
    Doubtful(Warning),
    /// It is another that would answer.
    Replaced(String),
}

/// Whether the limit is reached within seconds if RSS, or the charge, goes on to rise as it does now.
fn is_near_limit(slot: &Slot, live: &LiveInstance) -> bool {
    let left = || {
        let series = slot.measured()?;
        time_to(live.levels.limit?, series.last()?.rss, series.rise()?.confirmed)
    };
    left().is_some_and(|left| left <= HURRY)
}

/// Tells instances apart in the ids of incidents; plain characters only.
fn mark(id: &Identity) -> String {
    match id {
        Identity::Process(id) => id.pid.to_string(),
        Identity::Series(id) => digest::short(id.series.as_bytes(), 4),
    }
}

/// The samples of a timeline.
fn lock(timeline: &Timeline) -> MutexGuard<'_, Vec<Kept>> {
    // a panic elsewhere does not make samples wrong
    timeline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
