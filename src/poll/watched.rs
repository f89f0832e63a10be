//! A target as the watcher holds it: its slots, the live processes in them, and where their orders go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::task::{Job, Task, Timeline};
use super::{InstanceStatus, Statm};
use crate::budget::Budget;
use crate::clock::{self, Mono};
use crate::config;
use crate::error::chain;
use crate::incident::{Incident, Order, Slot, State};
use crate::roster::{Roster, SlotNumber};
use crate::series::Sample;
use crate::target::cgroup::{CgroupRef, Mounts};
use crate::target::limit::OomCounter;
use crate::target::{InstanceId, Limit, ProcFs, limit};
use crate::trigger::{Levels, time_to};
use crate::units::ByteSize;

/// Limits are changed by people and orchestrators while a process runs.
pub(super) const LIMIT_REFRESH: Duration = Duration::from_secs(30);

pub(super) struct Watched {
    pub config: Arc<config::Target>,
    pub roster: Roster,
    pub seats: BTreeMap<SlotNumber, Seat>,
    pub due: Mono,
    /// Why no, or not every, process was found.
    pub problem: Option<String>,
    /// Rules without a limit, for slots that nobody sits in.
    pub empty: Levels,
}

/// A live process in a slot.
pub(super) struct Seat {
    pub id: InstanceId,
    pub statm: Statm,
    pub born: Mono,
    pub levels: Levels,
    pub limit: Option<Limit>,
    pub limit_read: Mono,
    pub oom: Option<OomCounter>,
    /// When the next baseline is due, if the instance is healthy then.
    pub baseline_due: Mono,
    pub timeline: Option<Timeline>,
    pub last_bundle: Option<String>,
    pub logged: Option<State>,
}

impl Watched {
    pub fn new(config: config::Target, roster: Roster) -> Watched {
        let empty = Levels::resolve(&config.rules, config.interval, None);
        Watched { config: Arc::new(config), roster, seats: BTreeMap::new(), due: Mono::default(), problem: None, empty }
    }

    pub fn reconfigured(mut self, config: config::Target) -> Watched {
        if *self.config == config {
            return self;
        }
        self.empty = Levels::resolve(&config.rules, config.interval, None);
        for (number, slot) in self.roster.iter_mut() {
            slot.change_rules(&config.rules, config.interval);
            if let Some(seat) = self.seats.get_mut(&number) {
                seat.levels = Levels::resolve(&config.rules, config.interval, seat.limit.as_ref().map(|l| l.bytes));
            }
        }
        Watched { config: Arc::new(config), due: Mono::default(), ..self }
    }

    /// Seats the processes that have no seat yet; true if anything changed.
    pub fn seat(&mut self, procfs: &ProcFs, mounts: &Mounts, found: &[InstanceId], now: Mono) -> bool {
        let mut changed = false;
        for (number, id) in self.roster.seat(found, now) {
            if let Some(slot) = self.roster.get_mut(number) {
                slot.arrive(id, &self.config.rules, self.config.interval);
                changed = true;
            }
        }
        for (number, slot) in self.roster.iter_mut() {
            let Some(id) = slot.instance().filter(|_| !self.seats.contains_key(&number)) else { continue };
            match Seat::new(procfs, mounts, id, &self.config, now) {
                Ok(seat) => {
                    let limit = seat.limit.as_ref().map_or("unknown".into(), |l| format!("{} ({})", ByteSize(l.bytes), l.source));
                    tracing::info!(target_name = %self.config.name, pid = id.pid, limit, "watching process");
                    self.seats.insert(number, seat);
                    self.due = now;
                    changed = true;
                }
                Err(why) => slot.blind(why),
            }
        }
        changed
    }

    pub fn status(&self, number: SlotNumber, slot: &Slot, now: Mono) -> InstanceStatus {
        let seat = self.seats.get(&number);
        let rss = slot.series().and_then(|s| s.last()).map(|s| s.rss);
        let limit = seat.and_then(|s| s.limit.as_ref());
        let slope = slot.slope();
        let left = limit.zip(rss).zip(slope).and_then(|((limit, rss), slope)| time_to(limit.bytes, rss, slope));
        let mut reason = slot.reason(seat.map_or(&self.empty, |s| &s.levels), now);
        if let (State::Waiting, Some(problem)) = (slot.state(now), &self.problem) {
            reason = format!("{reason}: {problem}");
        }
        InstanceStatus {
            target: self.config.name.clone(),
            pid: slot.instance().map(|id| id.pid),
            state: slot.state(now),
            reason,
            rss_bytes: rss,
            limit_bytes: limit.map(|l| l.bytes),
            limit_source: limit.map(|l| l.source.clone()),
            slope_bytes_per_second: slope,
            seconds_to_limit: left.map(|d| d.as_secs_f64()),
            cooldown_seconds: slot.cooldown_until(now).map(|t| t.since(now).as_secs_f64()),
            incident: slot.incident().map(|i: &Incident| i.id.clone()),
            last_bundle: seat.and_then(|s| s.last_bundle.clone()),
        }
    }
}

impl Seat {
    pub fn new(procfs: &ProcFs, mounts: &Mounts, id: InstanceId, config: &config::Target, now: Mono) -> Result<Seat, String> {
        let file = procfs.statm_file(id).map_err(|e| chain(&e))?;
        let age = procfs.age(id).map_err(|e| chain(&e))?;
        let mut seat = Seat {
            id,
            statm: Statm::new(file),
            born: now - age,
            levels: Levels::resolve(&config.rules, config.interval, None),
            limit: None,
            limit_read: now,
            oom: CgroupRef::of_with(procfs, mounts, id.pid).ok().flatten().map(OomCounter::new),
            baseline_due: now - age + config.rules.warmup,
            timeline: None,
            last_bundle: None,
            logged: None,
        };
        seat.read_limit(procfs, mounts, config, now);
        Ok(seat)
    }

    pub fn read_limit(&mut self, procfs: &ProcFs, mounts: &Mounts, config: &config::Target, now: Mono) {
        self.limit_read = now;
        // a process that is just ending keeps the limit it had
        let Ok(limit) = limit::effective_with(procfs, mounts, self.id.pid) else { return };
        if self.limit.as_ref() != Some(&limit) {
            self.levels = Levels::resolve(&config.rules, config.interval, Some(limit.bytes));
            self.limit = Some(limit);
        }
    }

    /// Logs a change of state; true if it concerns what outlives memtrap.
    pub fn log_change(&mut self, target: &str, slot: &Slot, now: Mono) -> bool {
        let state = slot.state(now);
        if self.logged == Some(state) {
            return false;
        }
        let (pid, state_name) = (self.id.pid, state.name());
        let reason = slot.reason(&self.levels, now);
        match state {
            State::Blind | State::Throttled => tracing::warn!(target_name = target, pid, state = state_name, reason, "state"),
            // a process that jitters at its threshold must not fill the log
            State::Warming | State::Armed | State::Pending => {
                tracing::debug!(target_name = target, pid, state = state_name, reason, "state")
            }
            _ => tracing::info!(target_name = target, pid, state = state_name, reason, "state"),
        }
        let lasts = |state| matches!(state, State::Capturing | State::Open | State::Cooldown);
        let before = self.logged.replace(state);
        lasts(state) || before.is_some_and(lasts)
    }
}

/// Where orders go: past the budget, to whoever captures.
pub(super) struct Dispatch {
    pub budget: Budget,
    pub tasks: mpsc::UnboundedSender<Task>,
}

impl Dispatch {
    pub fn hand_on(&self, task: Task) {
        if self.tasks.send(task).is_err() {
            tracing::error!("nobody takes captures any more");
        }
    }

    pub fn carry_out(
        &mut self,
        target: &Arc<config::Target>,
        number: SlotNumber,
        slot: &mut Slot,
        seat: &mut Seat,
        order: Order,
        now: Mono,
    ) {
        if let Err(why) = self.budget.admit(now) {
            slot.refused(why);
            return;
        }
        let stamp = clock::compact_utc(clock::wall_now());
        let id = order.incident.clone().unwrap_or_else(|| format!("{}-{stamp}-{}", target.name, seat.id.pid));
        slot.admitted(&order, id.clone(), &seat.levels, &target.rules, now);
        let timeline: Timeline = Arc::new(Mutex::new(slot.series().map(|s| s.timeline()).unwrap_or_default()));
        seat.timeline = Some(timeline.clone());
        let job = Job {
            target: target.clone(),
            slot: number,
            admitted: now,
            incident: id,
            part: order.part,
            fired: order.fired,
            instance: seat.id,
            limit: seat.limit.clone(),
            oom: seat.oom.clone(),
            timeline,
        };
        self.hand_on(Task::Capture(Box::new(job)));
    }
}

/// The samples of a timeline.
pub(super) fn lock(timeline: &Timeline) -> MutexGuard<'_, Vec<Sample>> {
    // a panic elsewhere does not make samples wrong
    timeline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
