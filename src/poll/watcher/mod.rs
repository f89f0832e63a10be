//! The one loop.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::descriptors::{self, Room};
use super::dispatch::{Dispatch, InstanceRef};
use super::floors::Past;
use super::instance::{LIMIT_REFRESH, Origin};
use super::kin::Kinships;
use super::recovery::{self, Recovered};
use super::resolve::Resolution;
use super::scan::{NotScanned, Scanned, Scanner};
use super::schedule::{self, Bounds};
use super::target::{Arrivals, Feed, WatchedTarget};
use super::task::{Command, Handles, JobDone, Readings, Task};
use super::{Ask, Granted, History, InstanceStatus, NotGranted, Reading};
use crate::budget::{self, Budget};
use crate::clock::{self, Mono};
use crate::config::Config;
use crate::floors::HOUR;
use crate::host::ProcFs;
use crate::host::bell::{BellId, Bells, Rang};
use crate::host::cgroup::Mounts;
use crate::host::limit::{FRESH, Limits};
use crate::identity::Identity;
use crate::identity::SlotNumber;
use crate::incident::{Captured, SavedSlot, Slot, State};
use crate::lang::Lang;
use crate::meters::Meters;
use crate::roster::{Entry, Roster};
use crate::series::Sample;
use crate::state::{KeptFloors, Saved};

/// A pass over some hundred processes takes a millisecond.
const LOOK_PATIENCE: Duration = Duration::from_millis(5);
/// One that takes longer is asked for again at first after this, then less and less often.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_IS_STUCK: Duration = Duration::from_secs(20);
/// Looking for processes: soon while a target waits for one, rarely while all have theirs.
const RESCAN_WAITING: Duration = Duration::from_secs(2);
const RESCAN_SETTLED: Duration = Duration::from_secs(10);
/// The same for processes that have become others.
const WHOLE_WAITING: Duration = Duration::from_secs(10);
const WHOLE_SETTLED: Duration = Duration::from_secs(60);
/// Thousands of limits that were read together must not hold up the polls each time.
const MAX_LIMITS_A_TURN: usize = 500;
/// Of the files that may be open for processes, one in so many is a cgroup's instead, and its second to fifth: limits of further cgroups are read when
/// those of their processes are due.
const KEPT_FOR_LIMITS: usize = 8;
/// A sweep over limits that did not come to its end goes on after this.
const SWEEP_ON: Duration = Duration::from_millis(20);
/// What is heard before the loop looks at what is due.
const MAX_HEARD: usize = 1_000;
/// After a process has ended, its successor is looked for at once, but never more often than this.
const RESCAN_FLOOR: Duration = Duration::from_millis(200);

/// Whoever watches the watcher.
pub struct Pulse {
    /// Called once per turn of the loop.
    pub beat: Box<dyn FnMut(Mono) + Send>,
    /// The loop turns at least this often.
    pub at_least_every: Duration,
    /// Counts what happens.
    pub meters: Meters,
}

/// Polls every instance of every target when it is due.
pub struct Watcher {
    procfs: ProcFs,
    /// As of the last scan.
    mounts: Mounts,
    boot_id: String,
    targets: Vec<WatchedTarget>,
    /// Where in `targets` a name is.
    by_name: HashMap<String, usize>,
    dispatch: Dispatch,
    commands: Receiver<Command>,
    save: watch::Sender<Option<Saved>>,
    floors: mpsc::UnboundedSender<KeptFloors>,
    /// When they are stored next.
    floors_at: Mono,
    pulse: Pulse,
    rescan_at: Mono,
    scanned_at: Mono,
    limits: Limits,
    /// When they are read again.
    sweep_at: Mono,
    scanner: Scanner,
    /// How long the polling may wait for it.
    look_patience: Duration,
    /// As of the last scan, no target waits for a process.
    is_settled: bool,
    /// Processes that can be watched at a time.
    most_processes: usize,
    /// It was said that there are more.
    was_full: bool,
    /// Of the reasons that people read.
    lang: Lang,
    changed: bool,
}

impl Watcher {
    /// Takes up what the last memtrap left; looks for processes in its first turn.
    pub fn new(config: &Config, procfs: ProcFs, boot_id: String, past: Recovered, pulse: Pulse, now: Mono) -> (Watcher, Handles) {
        let (command_tx, commands) = channel();
        let (tasks, tasks_rx) = mpsc::unbounded_channel();
        let (save, state) = watch::channel(None);
        let (floors, kept_floors) = mpsc::unbounded_channel();
        let mut budget = Budget::new(bounds(config));
        let mut slots = BTreeMap::new();
        let mut elapsed = Duration::ZERO;
        if let Some(saved) = past.saved {
            elapsed = saved.elapsed(&boot_id, now, clock::wall_now());
            let saved = saved.forget_processes(&boot_id);
            budget.restore(saved.budget, elapsed, now);
            slots = saved.targets;
        }
        recovery::merge(&mut slots, past.interrupted);
        let mut past_floors = past.floors;
        let targets: Vec<WatchedTarget> = config
            .targets
            .iter()
            .map(|target| {
                let restored = slots.remove(&target.name).unwrap_or_default();
                let restored = restored.into_iter().map(|s| Slot::restore(s, elapsed, &target.rules, target.interval, now));
                let mut watched = WatchedTarget::new(target.clone(), Roster::new(restored.collect()));
                if let Some(stored) = past_floors.as_mut().filter(|_| target.rules.leak.is_some()) {
                    let (same_boot, elapsed) = (stored.boot_id == boot_id, stored.elapsed(&boot_id, now, clock::wall_now()));
                    watched.past = Past::new(stored.targets.remove(&target.name).unwrap_or_default(), same_boot, elapsed, now);
                }
                if let Some(mut remote) = watched.remote() {
                    remote.expect(now);
                }
                watched
            })
            .collect();
        let mut limits = Limits::keeping(descriptors::for_processes(bounds(config).at_once()) / KEPT_FOR_LIMITS);
        let bells = Bells::new().inspect_err(|error| tracing::warn!(%error, "cgroups are polled, and not listened to")).ok();
        bells.iter().for_each(|bells| limits.charges.listen(bells.clone()));
        let watcher = Watcher {
            mounts: Mounts::read(&procfs),
            procfs,
            boot_id,
            by_name: index(&targets),
            targets,
            dispatch: Dispatch {
                budget,
                kin: Kinships::default(),
                meters: pulse.meters.clone(),
                tasks,
                baselines: Arc::default(),
                checks: Arc::default(),
            },
            commands,
            save,
            floors,
            floors_at: now + HOUR,
            pulse,
            rescan_at: now,
            scanned_at: Mono::default(),
            limits,
            sweep_at: now,
            scanner: Scanner::default(),
            look_patience: LOOK_PATIENCE,
            is_settled: false,
            most_processes: descriptors::for_processes(bounds(config).at_once()),
            was_full: false,
            lang: config.daemon.lang,
            changed: false,
        };
        (watcher, Handles { commands: command_tx, tasks: tasks_rx, state, bells, floors: Some(kept_floors) })
    }

    /// Loops until told to stop, or until nobody is left to tell it anything.
    pub fn run(mut self) {
        loop {
            self.turn(Mono::now());
            let wake = self.targets.iter().map(|t| t.due).chain([self.rescan_at, self.sweep_at]).min().unwrap_or(self.rescan_at);
            let sleep = wake.since(Mono::now()).min(self.pulse.at_least_every);
            let first = match self.commands.recv_timeout(sleep) {
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => continue,
                Ok(command) => command,
            };
            // thousands of sources may speak at once
            let waiting: Vec<Command> = std::iter::once(first).chain(self.commands.try_iter().take(MAX_HEARD)).collect();
            let stop = waiting.iter().any(|command| matches!(command, Command::Stop));
            waiting.into_iter().for_each(|command| self.obey(command, Mono::now()));
            if stop {
                break;
            }
        }
        self.changed = true;
        self.publish_state(Mono::now());
        self.publish_floors(Mono::now());
    }

    /// Does all that is due at `now`.
    fn turn(&mut self, now: Mono) {
        (self.pulse.beat)(now);
        self.pulse.meters.beat(now);
        if now >= self.rescan_at {
            self.rescan(now);
        }
        if now >= self.sweep_at {
            self.follow_limits(now);
        }
        let mut polled = false;
        let mut limits_read = 0;
        for i in 0..self.targets.len() {
            if self.targets.get(i).is_some_and(|watched| watched.due <= now) {
                self.poll(i, &mut limits_read, now);
                polled = true;
            }
        }
        if polled {
            self.pulse.meters.polled(Mono::now().since(now));
        }
        self.publish_state(now);
        if now >= self.floors_at {
            self.publish_floors(now);
        }
    }

    /// Limits that were changed while processes run.
    fn follow_limits(&mut self, now: Mono) {
        let Watcher { targets, limits, procfs, mounts, .. } = self;
        let changed = limits.sweep(now);
        self.sweep_at = match (changed.is_part, limits.is_empty()) {
            (true, _) => now + SWEEP_ON,
            (false, false) => next_multiple(now, FRESH),
            (false, true) => now + RESCAN_SETTLED,
        };
        if changed.is_empty() {
            return;
        }
        for watched in targets.iter_mut().filter(|t| t.is_local()) {
            let WatchedTarget { roster, config, due, .. } = watched;
            for (_, _, live) in roster.live_mut() {
                if live.follow_limit(procfs, mounts, limits, config, &changed, now) {
                    *due = now;
                }
            }
        }
    }

    fn poll(&mut self, i: usize, limits_read: &mut usize, now: Mono) {
        let Watcher { targets, dispatch, procfs, mounts, limits, .. } = self;
        let Some(watched) = targets.get_mut(i) else { return };
        if let Some(mut remote) = watched.remote() {
            self.changed |= remote.expect_word(now);
            return;
        }
        let bounds = Bounds { interval: watched.config.interval, max_interval: watched.config.max_interval };
        let mut next = next_multiple(now, bounds.interval.max(bounds.max_interval));
        let mut ended = Vec::new();
        let mut collectors = Vec::new();
        for (number, slot, live) in watched.roster.live_mut() {
            let Origin::Local(local) = &mut live.origin else { continue };
            if local.due > now {
                next = next.min(local.due);
                continue;
            }
            match local.statm.read() {
                Reading::Rss(rss) => {
                    // not of a process that has ended: its cgroup may be gone, and with it the limit that it had
                    if now.since(local.limit_read) >= LIMIT_REFRESH && *limits_read < MAX_LIMITS_A_TURN {
                        *limits_read += 1;
                        live.read_limit(procfs, mounts, limits, &watched.config, now);
                        let found = live.look_for_kills().and_then(|found| watched.kills.claim(found));
                        if let Some(found) = found {
                            dispatch.tell_of_kills(&watched.config, live, &found, true);
                            let why = format!("the kernel killed another process of its cgroup for memory: {}", found.words());
                            if let Some(order) = slot.killed(&why, &live.levels, now) {
                                let place = InstanceRef { target: &watched.config, number, slot, live };
                                dispatch.carry_out(place, order, None, now);
                            }
                        }
                    }
                    let age = now.since(live.born);
                    collectors.extend(live.ask_collector(&watched.config, number, slot, now));
                    slot.charged(live.charge(procfs, limits, &watched.config, rss, now));
                    let place = InstanceRef { target: &watched.config, number, slot, live };
                    dispatch.read(place, Sample { at: now, rss }, age, true, now);
                }
                Reading::Gone => {
                    let place = InstanceRef { target: &watched.config, number, slot, live };
                    dispatch.gone(place, &mut watched.kills, procfs, now);
                    ended.push(number);
                }
                Reading::Another => {
                    tracing::info!(target_name = %watched.config.name, pid = live.id.pid(), "process runs another program now");
                    // what is captured of the one before is not the next one's incident
                    slot.forget_process();
                    if let Feed::Local { execs } = &mut watched.feed {
                        execs.extend(live.id.process().map(|id| (id, now)));
                    }
                    ended.push(number);
                }
                Reading::Blind(why) => slot.blind(why, bounds.interval, now),
            }
            // a leak that stands for days is no reason to look away
            let state = if slot.is_on_guard() && slot.state(now) == State::Open { State::Armed } else { slot.state(now) };
            // a level in bytes is RSS's alone
            let wait = [slot.series(), slot.measured()].into_iter().flatten().filter_map(|series| {
                Some(schedule::pause(state, series.last().filter(|_| !slot.is_unread())?, series.rise(), &live.levels, bounds))
            });
            let wait = wait.min().unwrap_or(bounds.interval);
            let due = next_multiple(now, wait);
            live.read_at(due);
            next = next.min(due);
            self.changed |= live.log_change(&watched.config.name, slot, now);
        }
        watched.due = next;
        if !collectors.is_empty() {
            dispatch.hand_on(Task::Collectors(collectors));
        }
        for number in ended {
            self.end(i, number, now);
        }
    }

    /// The process in this slot is gone; its successor may be there already.
    fn end(&mut self, i: usize, number: SlotNumber, now: Mono) {
        let Watcher { targets, dispatch, .. } = self;
        let Some(watched) = targets.get_mut(i) else { return };
        if let Some(live) = watched.roster.get_mut(number).and_then(Entry::vacate) {
            dispatch.kin.forget(&watched.config, number);
            live.id.pid().into_iter().for_each(|pid| self.scanner.forget(pid));
        }
        self.changed = true;
        self.rescan_at = self.rescan_at.min((self.scanned_at + RESCAN_FLOOR).max(now));
    }

    /// Looks for the processes of all targets, in one pass over /proc.
    fn rescan(&mut self, now: Mono) {
        let Watcher { scanner, targets, procfs, .. } = self;
        if !targets.iter().any(WatchedTarget::is_local) {
            self.rescan_at = now + RESCAN_SETTLED;
            return;
        }
        let whole_every = if self.is_settled { WHOLE_SETTLED } else { WHOLE_WAITING };
        let local = || targets.iter().filter(|t| t.is_local()).map(|t| t.config.clone()).collect();
        match scanner.look(procfs, local, whole_every, self.look_patience, now) {
            Ok(seen) => {
                self.scanned_at = now;
                self.seat_found(seen, now);
                self.rescan_at = now + if self.is_settled { RESCAN_SETTLED } else { RESCAN_WAITING };
            }
            Err(NotScanned::Yet(since)) => {
                self.rescan_at = now + since.clamp(LOOK_AGAIN, RESCAN_WAITING);
                if since >= LOOK_IS_STUCK {
                    self.say_problem(
                        "a look at all processes does not end: one of them keeps its arguments locked. \
                         What was found before is watched on; new processes are not seen",
                    );
                }
            }
            Err(NotScanned::Failed(why)) => {
                self.say_problem(&why);
                self.rescan_at = now + RESCAN_WAITING;
            }
        }
    }

    /// The same for all targets of this host.
    fn say_problem(&mut self, problem: &str) {
        let local = self.targets.iter_mut().filter(|t| t.is_local());
        local.for_each(|watched| watched.say_problem(Some(problem.to_owned())));
    }

    fn seat_found(&mut self, seen: Scanned, now: Mono) {
        self.mounts = seen.mounts;
        self.is_settled = true;
        self.sweep_at = self.sweep_at.min(next_multiple(now, FRESH));
        let mut is_full = false;
        let kept_for_limits = self.limits.kept_files();
        for (config, resolution) in seen.found {
            let i = self.by_name.get(&config.name).copied().unwrap_or(usize::MAX);
            let Some(watched) = self.targets.get_mut(i).filter(|t| Arc::ptr_eq(&t.config, &config)) else {
                // it was configured otherwise meanwhile
                self.is_settled = false;
                continue;
            };
            let Resolution { instances, workloads, problem } = resolution;
            let instances: Vec<Identity> = instances.into_iter().map(Identity::Process).collect();
            for number in watched.left(&instances, &self.procfs) {
                self.lost(i, number, now);
            }
            let taken = self.targets.iter().map(WatchedTarget::processes).sum::<usize>() + kept_for_limits;
            let most = self.most_processes;
            let mut room = Room { left: most.saturating_sub(taken), most };
            let Some(watched) = self.targets.get_mut(i) else { continue };
            watched.say_problem(problem);
            self.changed |=
                watched.seat(&self.procfs, &self.mounts, &mut self.limits, &mut room, Arrivals { found: &instances, workloads }, now);
            if let Some(kills) = watched.kills.take_missed() {
                tracing::warn!(target_name = %watched.config.name, kills, "the kernel killed for memory between two processes that were watched");
                self.dispatch.meters.oom_killed(&watched.config.name, kills);
            }
            watched.remember_kin(&mut self.dispatch.kin);
            self.is_settled &= watched.roster.live().next().is_some();
            if room.left > 0 {
                watched.unseated().for_each(|pid| self.scanner.forget(pid));
            } else {
                is_full |= watched.unseated().next().is_some();
            }
        }
        if is_full && !std::mem::replace(&mut self.was_full, true) {
            let most = self.most_processes;
            tracing::warn!(
                most,
                "not every process can be watched: that would take more open files than memtrap may have; raise LimitNOFILE="
            );
        }
    }

    /// A slot's process is not among those found: it ended, or is no longer what the selector means.
    fn lost(&mut self, i: usize, number: SlotNumber, now: Mono) {
        let Watcher { targets, dispatch, procfs, .. } = self;
        let Some(watched) = targets.get_mut(i) else { return };
        if let Some((slot, live)) = watched.roster.get_mut(number).and_then(Entry::seated_mut)
            && !live.id.process().is_some_and(|id| procfs.is_alive(id))
        {
            dispatch.gone(InstanceRef { target: &watched.config, number, slot, live }, &mut watched.kills, procfs, now);
        }
        self.end(i, number, now);
    }

    fn obey(&mut self, command: Command, now: Mono) {
        match command {
            Command::Done(done) => self.done(done, now),
            Command::Checked(checked) => {
                // a target may have left the configuration meanwhile
                if let Some(watched) = self.by_name.get(&checked.target).and_then(|i| self.targets.get_mut(*i)) {
                    watched.checked(checked, now);
                }
            }
            Command::Collector(told) => {
                if let Some(watched) = self.by_name.get(&*told.target).and_then(|i| self.targets.get_mut(*i)) {
                    watched.collector_told(told, now);
                }
            }
            Command::Reload(config) => self.reload(*config, now),
            Command::Readings(readings) => self.hear(readings, now),
            Command::Rang(bell, rang) => self.rang(bell, rang, now),
            Command::Status(reply) => {
                // the asker may have gone meanwhile
                let _ = reply.send(self.status(now));
            }
            Command::History(wanted, reply) => {
                let _ = reply.send(self.history(wanted));
            }
            Command::Capture(ask, reply) => {
                let _ = reply.send(self.ask(&ask, now));
            }
            Command::Stop => {}
        }
    }

    fn hear(&mut self, readings: Readings, now: Mono) {
        // a target may have left the configuration meanwhile
        let Some(watched) = self.by_name.get(&*readings.target).and_then(|i| self.targets.get_mut(*i)) else { return };
        self.changed |= watched.remote().is_some_and(|mut remote| remote.hear(readings, &mut self.dispatch, now));
    }

    /// A reading before its time, of the processes that stand for the cgroup: what follows from it is for the rules to say.
    fn rang(&mut self, bell: BellId, rang: Rang, now: Mono) {
        for concerned in self.limits.charges.rang(bell, rang) {
            let Some(watched) = self.targets.iter_mut().find(|t| Arc::as_ptr(&t.config) as usize == concerned.target) else { continue };
            let WatchedTarget { roster, due, .. } = watched;
            if let Some((_, _, live)) = roster.live_mut().find(|(_, _, live)| live.id.pid() == Some(concerned.pid)) {
                live.rang(rang.kill, now);
                *due = now;
            }
        }
    }

    fn done(&mut self, done: JobDone, now: Mono) {
        self.changed = true;
        self.dispatch.budget.finished(&done.target, done.slot, done.admitted, done.result == Captured::Evidence);
        let Some(watched) = self.by_name.get(&done.target).and_then(|i| self.targets.get_mut(*i)) else { return };
        let Some(Entry { slot, live }) = watched.roster.get_mut(done.slot) else { return };
        slot.captured(done.result, &watched.config.rules, now);
        if let Some(live) = live {
            live.timeline = None;
            live.last_bundle = done.bundle.or(live.last_bundle.take());
        }
    }

    fn reload(&mut self, config: Config, now: Mono) {
        self.dispatch.budget.change(bounds(&config));
        self.dispatch.kin.clear();
        self.most_processes = descriptors::for_processes(bounds(&config).at_once());
        self.lang = config.daemon.lang;
        let mut old = std::mem::take(&mut self.targets);
        for target in config.targets {
            let kept = old.iter().position(|t| t.config.name == target.name).map(|i| old.swap_remove(i));
            self.targets.push(match kept {
                Some(kept) => kept.reconfigured(target),
                None => WatchedTarget::new(target, Roster::default()),
            });
        }
        self.by_name = index(&self.targets);
        self.scanner.start_anew();
        self.rescan_at = now;
        self.changed = true;
    }

    fn status(&self, now: Mono) -> Vec<InstanceStatus> {
        self.targets.iter().flat_map(|t| t.roster.iter().map(move |(n, entry)| t.status(n, entry, now, self.lang))).collect()
    }

    fn history(&self, wanted: Vec<(String, SlotNumber)>) -> Vec<History> {
        let one = |(target, slot): (String, SlotNumber)| {
            let series = self.targets.get(*self.by_name.get(&target)?)?.roster.get(slot)?.slot.series()?;
            Some(History { samples: series.timeline(), target, slot })
        };
        wanted.into_iter().filter_map(one).collect()
    }

    fn ask(&mut self, ask: &Ask, now: Mono) -> Result<Granted, NotGranted> {
        let watched = self.by_name.get(&ask.target).and_then(|i| self.targets.get_mut(*i));
        let answer = watched.ok_or(NotGranted::NoTarget).and_then(|watched| watched.ask(ask, &mut self.dispatch, now));
        self.changed |= answer.is_ok();
        if let Err(why) = &answer {
            self.dispatch.meters.skipped(why.name());
        }
        answer
    }

    fn publish_state(&mut self, now: Mono) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let mut saved = Saved::new(&self.boot_id, now, clock::wall_now());
        saved.budget = self.dispatch.budget.save(now);
        for watched in &self.targets {
            let slots: Vec<SavedSlot> = watched.roster.iter().filter_map(|(_, entry)| entry.slot.save(now)).collect();
            if !slots.is_empty() {
                saved.targets.insert(watched.config.name.clone(), slots);
            }
        }
        self.save.send_replace(Some(saved));
    }

    /// Once an hour, and at the end.
    fn publish_floors(&mut self, now: Mono) {
        self.floors_at = now + HOUR;
        let with_rule = || self.targets.iter().filter(|watched| watched.config.rules.leak.is_some());
        if self.floors.is_closed() || with_rule().next().is_none() {
            return;
        }
        let instances = with_rule().map(|watched| watched.roster.live().count()).sum();
        let most = KeptFloors::hours_each(instances);
        let mut kept = KeptFloors::new(&self.boot_id, now, clock::wall_now());
        for WatchedTarget { config, roster, past, .. } in self.targets.iter_mut().filter(|watched| watched.config.rules.leak.is_some()) {
            let floors = past.save(roster, most, now);
            if !floors.is_empty() {
                kept.targets.insert(config.name.clone(), floors);
            }
        }
        // nobody may store anything
        let _ = self.floors.send(kept);
    }
}

fn bounds(config: &Config) -> budget::Bounds {
    let daemon = &config.daemon;
    budget::Bounds { concurrent: daemon.max_concurrent_captures, per_hour: daemon.max_captures_per_hour, targets: config.targets.len() }
}

fn index(targets: &[WatchedTarget]) -> HashMap<String, usize> {
    targets.iter().enumerate().map(|(i, t)| (t.config.name.clone(), i)).collect()
}

/// The next point at which everything with this interval is polled together.
pub(super) fn next_multiple(now: Mono, interval: Duration) -> Mono {
    let step = (interval.as_nanos() as u64).max(1);
    Mono::from_nanos((now.as_nanos() / step + 1).saturating_mul(step))
}

#[cfg(test)]
mod tests;
