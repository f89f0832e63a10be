//! The one loop.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::{InstanceStatus, Reading, Statm};
use crate::clock::{self, Mono};
use crate::config::{self, Config};
use crate::error::chain;
use crate::incident::{Budget, Captured, Incident, Order, SavedSlot, Slot, State};
use crate::roster::{Roster, SlotNumber};
use crate::series::Sample;
use crate::state::Saved;
use crate::target::cgroup::{CgroupRef, Mounts};
use crate::target::limit::OomCounter;
use crate::target::{InstanceId, Limit, ProcFs, limit};
use crate::trigger::{Fired, Levels, time_to};
use crate::units::ByteSize;

/// Looking for processes: soon while a target waits for one, rarely while all have theirs.
const RESCAN_WAITING: Duration = Duration::from_secs(2);
const RESCAN_SETTLED: Duration = Duration::from_secs(10);
/// After a process has ended, its successor is looked for at once, but never more often than this.
const RESCAN_FLOOR: Duration = Duration::from_millis(200);
/// Limits are changed by people and orchestrators while a process runs.
const LIMIT_REFRESH: Duration = Duration::from_secs(30);

/// Samples before and during a capture; the watcher appends while the capture runs.
pub type Timeline = Arc<Mutex<Vec<Sample>>>;

/// Something to be done elsewhere.
#[derive(Clone, Debug)]
pub enum Task {
    Capture(Box<Job>),
    Baseline(Baseline),
}

/// A light capture of a healthy instance, to compare an incident with.
#[derive(Clone, Debug)]
pub struct Baseline {
    pub target: Arc<config::Target>,
    pub instance: InstanceId,
    pub rss: u64,
}

/// A capture to be made, admitted by the budget.
#[derive(Clone, Debug)]
pub struct Job {
    pub target: Arc<config::Target>,
    pub slot: SlotNumber,
    pub admitted: Mono,
    pub incident: String,
    pub part: u32,
    pub fired: Fired,
    pub instance: InstanceId,
    pub limit: Option<Limit>,
    /// Kills by the kernel in the process's cgroup, as counted when it was first seen.
    pub oom: Option<OomCounter>,
    pub timeline: Timeline,
}

/// How a job ended.
#[derive(Clone, Debug)]
pub struct JobDone {
    pub target: String,
    pub slot: SlotNumber,
    pub admitted: Mono,
    pub result: Captured,
    /// The bundle's id, if there is one.
    pub bundle: Option<String>,
}

/// What the rest of the program tells the watcher.
#[derive(Debug)]
pub enum Command {
    Done(JobDone),
    /// A new, valid configuration. Targets are told apart by name; those that remain keep series, incidents and cooldowns.
    Reload(Box<Config>),
    Status(oneshot::Sender<Vec<InstanceStatus>>),
    Stop,
}

/// The watcher's ends of the channels to the rest of the program.
#[derive(Debug)]
pub struct Handles {
    pub commands: Sender<Command>,
    pub tasks: mpsc::UnboundedReceiver<Task>,
    /// The newest state worth storing.
    pub state: watch::Receiver<Option<Saved>>,
}

/// What earlier runs left.
#[derive(Debug, Default)]
pub struct Past {
    pub saved: Option<Saved>,
    /// Targets and incidents of captures that were killed with memtrap.
    pub interrupted: Vec<(String, SavedSlot)>,
}

/// Whoever watches the watcher.
pub struct Pulse {
    /// Called once per turn of the loop.
    pub beat: Box<dyn FnMut(Mono) + Send>,
    /// The loop turns at least this often.
    pub at_least_every: Duration,
}

/// Polls every instance of every target when it is due.
pub struct Watcher {
    procfs: ProcFs,
    /// As of the last scan.
    mounts: Mounts,
    boot_id: String,
    targets: Vec<Watched>,
    dispatch: Dispatch,
    commands: Receiver<Command>,
    save: watch::Sender<Option<Saved>>,
    pulse: Pulse,
    rescan_at: Mono,
    scanned_at: Mono,
    changed: bool,
}

struct Watched {
    config: Arc<config::Target>,
    roster: Roster,
    seats: BTreeMap<SlotNumber, Seat>,
    due: Mono,
    /// Why no, or not every, process was found.
    problem: Option<String>,
    /// Rules without a limit, for slots that nobody sits in.
    empty: Levels,
}

/// A live process in a slot.
struct Seat {
    id: InstanceId,
    statm: Statm,
    born: Mono,
    levels: Levels,
    limit: Option<Limit>,
    limit_read: Mono,
    oom: Option<OomCounter>,
    /// When the next baseline is due, if the instance is healthy then.
    baseline_due: Mono,
    timeline: Option<Timeline>,
    last_bundle: Option<String>,
    logged: Option<State>,
}

impl Watcher {
    /// Takes up what the last memtrap left; looks for processes in its first turn.
    pub fn new(config: &Config, procfs: ProcFs, boot_id: String, past: Past, pulse: Pulse, now: Mono) -> (Watcher, Handles) {
        let (command_tx, commands) = channel();
        let (tasks, tasks_rx) = mpsc::unbounded_channel();
        let (save, state) = watch::channel(None);
        let mut budget = Budget::new(config.daemon.max_concurrent_captures, config.daemon.max_captures_per_hour);
        let mut slots = BTreeMap::new();
        let mut elapsed = Duration::ZERO;
        if let Some(saved) = past.saved {
            elapsed = saved.elapsed(&boot_id, now, clock::wall_now());
            let saved = saved.forget_processes(&boot_id);
            budget.restore(&saved.budget, elapsed, now);
            slots = saved.targets;
        }
        for (target, slot) in past.interrupted {
            let known: &mut Vec<SavedSlot> = slots.entry(target).or_default();
            let id = |s: &SavedSlot| s.incident.as_ref().map(|i| i.id.clone());
            if known.iter().all(|k| id(k) != id(&slot)) {
                known.push(slot);
            }
        }
        let targets = config
            .targets
            .iter()
            .map(|target| {
                let restored = slots.remove(&target.name).unwrap_or_default();
                let restored = restored.into_iter().map(|s| Slot::restore(s, elapsed, &target.rules, target.interval, now));
                Watched::new(target.clone(), Roster::new(restored.collect()))
            })
            .collect();
        let watcher = Watcher {
            mounts: Mounts::read(&procfs),
            procfs,
            boot_id,
            targets,
            dispatch: Dispatch { budget, tasks },
            commands,
            save,
            pulse,
            rescan_at: now,
            scanned_at: Mono::default(),
            changed: false,
        };
        (watcher, Handles { commands: command_tx, tasks: tasks_rx, state })
    }

    /// Loops until told to stop, or until nobody is left to tell it anything.
    pub fn run(mut self) {
        loop {
            self.turn(Mono::now());
            let wake = self.targets.iter().map(|t| t.due).chain([self.rescan_at]).min().unwrap_or(self.rescan_at);
            let sleep = wake.since(Mono::now()).min(self.pulse.at_least_every);
            match self.commands.recv_timeout(sleep) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.obey(command, Mono::now()),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        self.changed = true;
        self.publish_state(Mono::now());
    }

    /// Does all that is due at `now`.
    fn turn(&mut self, now: Mono) {
        (self.pulse.beat)(now);
        if now >= self.rescan_at {
            self.rescan(now);
        }
        for i in 0..self.targets.len() {
            if self.targets[i].due <= now {
                self.poll(i, now);
            }
        }
        self.publish_state(now);
    }

    fn poll(&mut self, i: usize, now: Mono) {
        let Watcher { targets, dispatch, procfs, mounts, .. } = self;
        let watched = &mut targets[i];
        let interval = watched.config.interval;
        watched.due = next_multiple(now, interval);
        let mut ended = Vec::new();
        for (number, seat) in &mut watched.seats {
            let Some(slot) = watched.roster.get_mut(*number) else { continue };
            if now.since(seat.limit_read) >= LIMIT_REFRESH {
                seat.read_limit(procfs, mounts, &watched.config, now);
            }
            match seat.statm.read() {
                Reading::Rss(rss) => {
                    let sample = Sample { at: now, rss };
                    if let Some(timeline) = &seat.timeline {
                        lock(timeline).push(sample);
                    }
                    if let Some(order) = slot.observe(sample, now.since(seat.born), &seat.levels, &watched.config.rules) {
                        dispatch.carry_out(&watched.config, *number, slot, seat, order, now);
                    } else if let Some(every) = watched.config.baseline
                        && now >= seat.baseline_due
                        && slot.state(now) == State::Armed
                    {
                        seat.baseline_due = now + every;
                        dispatch.hand_on(Task::Baseline(Baseline { target: watched.config.clone(), instance: seat.id, rss }));
                    }
                }
                Reading::Gone => {
                    if let Some(order) = slot.gone(&seat.levels, now) {
                        dispatch.carry_out(&watched.config, *number, slot, seat, order, now);
                    }
                    ended.push(*number);
                }
                Reading::Blind(why) => slot.blind(why),
            }
            self.changed |= seat.log_change(&watched.config.name, slot, now);
        }
        for number in ended {
            self.end(i, number, now);
        }
    }

    /// The process in this slot is gone; its successor may be there already.
    fn end(&mut self, i: usize, number: SlotNumber, now: Mono) {
        let watched = &mut self.targets[i];
        if let Some(seat) = watched.seats.remove(&number) {
            tracing::info!(target_name = %watched.config.name, pid = seat.id.pid, "process ended");
        }
        if let Some(slot) = watched.roster.get_mut(number) {
            slot.vacate();
        }
        self.changed = true;
        self.rescan_at = self.rescan_at.min((self.scanned_at + RESCAN_FLOOR).max(now));
    }

    /// Looks for the processes of all targets, in one pass over /proc.
    fn rescan(&mut self, now: Mono) {
        let selectors: Vec<_> = self.targets.iter().map(|t| &t.config.process).collect();
        let found = self.procfs.resolve(&selectors);
        self.mounts = Mounts::read(&self.procfs);
        for (i, resolution) in found.into_iter().enumerate() {
            for number in self.targets[i].roster.left(&resolution.instances) {
                self.lost(i, number, now);
            }
            let watched = &mut self.targets[i];
            if watched.problem != resolution.problem {
                if let Some(problem) = &resolution.problem {
                    tracing::warn!(target_name = %watched.config.name, problem, "process lookup");
                }
                watched.problem = resolution.problem;
            }
            self.changed |= watched.seat(&self.procfs, &self.mounts, &resolution.instances, now);
        }
        self.scanned_at = now;
        let settled = self.targets.iter().all(|t| !t.seats.is_empty());
        self.rescan_at = now + if settled { RESCAN_SETTLED } else { RESCAN_WAITING };
    }

    /// A slot's process is not among those found: it ended, or is no longer what the selector means.
    fn lost(&mut self, i: usize, number: SlotNumber, now: Mono) {
        let Watcher { targets, dispatch, procfs, .. } = self;
        let watched = &mut targets[i];
        if let Some((slot, seat)) = watched.roster.get_mut(number).zip(watched.seats.get_mut(&number))
            && !procfs.is_alive(seat.id)
            && let Some(order) = slot.gone(&seat.levels, now)
        {
            dispatch.carry_out(&watched.config, number, slot, seat, order, now);
        }
        self.end(i, number, now);
    }

    fn obey(&mut self, command: Command, now: Mono) {
        match command {
            Command::Done(done) => self.done(done, now),
            Command::Reload(config) => self.reload(*config, now),
            Command::Status(reply) => {
                // the asker may have gone meanwhile
                let _ = reply.send(self.status(now));
            }
            Command::Stop => {}
        }
    }

    fn done(&mut self, done: JobDone, now: Mono) {
        self.changed = true;
        self.dispatch.budget.finished(done.admitted, done.result == Captured::Evidence);
        let Some(watched) = self.targets.iter_mut().find(|t| t.config.name == done.target) else { return };
        if let Some(slot) = watched.roster.get_mut(done.slot) {
            slot.captured(done.result, &watched.config.rules, now);
        }
        if let Some(seat) = watched.seats.get_mut(&done.slot) {
            seat.timeline = None;
            seat.last_bundle = done.bundle.or(seat.last_bundle.take());
        }
    }

    fn reload(&mut self, config: Config, now: Mono) {
        self.dispatch.budget.change(config.daemon.max_concurrent_captures, config.daemon.max_captures_per_hour);
        let mut old = std::mem::take(&mut self.targets);
        for target in config.targets {
            let kept = old.iter().position(|t| t.config.name == target.name).map(|i| old.swap_remove(i));
            self.targets.push(match kept {
                Some(kept) => kept.reconfigured(target),
                None => Watched::new(target, Roster::default()),
            });
        }
        self.rescan_at = now;
        self.changed = true;
    }

    fn status(&self, now: Mono) -> Vec<InstanceStatus> {
        self.targets.iter().flat_map(|t| t.roster.iter().map(move |(n, slot)| t.status(n, slot, now))).collect()
    }

    fn publish_state(&mut self, now: Mono) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut saved = Saved::new(&self.boot_id, now, clock::wall_now());
        saved.budget = self.dispatch.budget.save(now);
        for watched in &self.targets {
            let slots: Vec<SavedSlot> = watched.roster.iter().filter_map(|(_, s)| s.save(now)).collect();
            if !slots.is_empty() {
                saved.targets.insert(watched.config.name.clone(), slots);
            }
        }
        self.save.send_replace(Some(saved));
    }
}

impl Watched {
    fn new(config: config::Target, roster: Roster) -> Watched {
        let empty = Levels::resolve(&config.rules, config.interval, None);
        Watched { config: Arc::new(config), roster, seats: BTreeMap::new(), due: Mono::default(), problem: None, empty }
    }

    fn reconfigured(mut self, config: config::Target) -> Watched {
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
    fn seat(&mut self, procfs: &ProcFs, mounts: &Mounts, found: &[InstanceId], now: Mono) -> bool {
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

    fn status(&self, number: SlotNumber, slot: &Slot, now: Mono) -> InstanceStatus {
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
    fn new(procfs: &ProcFs, mounts: &Mounts, id: InstanceId, config: &config::Target, now: Mono) -> Result<Seat, String> {
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

    fn read_limit(&mut self, procfs: &ProcFs, mounts: &Mounts, config: &config::Target, now: Mono) {
        self.limit_read = now;
        // a process that is just ending keeps the limit it had
        let Ok(limit) = limit::effective_with(procfs, mounts, self.id.pid) else { return };
        if self.limit.as_ref() != Some(&limit) {
            self.levels = Levels::resolve(&config.rules, config.interval, Some(limit.bytes));
            self.limit = Some(limit);
        }
    }

    /// Logs a change of state; true if it concerns what outlives memtrap.
    fn log_change(&mut self, target: &str, slot: &Slot, now: Mono) -> bool {
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
struct Dispatch {
    budget: Budget,
    tasks: mpsc::UnboundedSender<Task>,
}

impl Dispatch {
    fn hand_on(&self, task: Task) {
        if self.tasks.send(task).is_err() {
            tracing::error!("nobody takes captures any more");
        }
    }

    fn carry_out(&mut self, target: &Arc<config::Target>, number: SlotNumber, slot: &mut Slot, seat: &mut Seat, order: Order, now: Mono) {
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

/// The next point at which everything with this interval is polled together.
fn next_multiple(now: Mono, interval: Duration) -> Mono {
    let step = (interval.as_nanos() as u64).max(1);
    Mono::from_nanos((now.as_nanos() / step + 1).saturating_mul(step))
}

fn lock(timeline: &Timeline) -> std::sync::MutexGuard<'_, Vec<Sample>> {
    // a panic elsewhere does not make samples wrong
    timeline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
