//! A target as the watcher holds it: its slots, who sits in them, and why it lacks any.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::descriptors::Room;
use super::floors::Past;
use super::instance::{LiveInstance, Origin};
use super::kills::Kills;
use super::kin::Kinships;
use super::remote::Remotes;
use super::task::{Checked, CollectorTold};
use super::{CollectorAnswer, InstanceStatus};
use crate::clock::Mono;
use crate::config::{self, Selector, Source};
use crate::host::ProcFs;
use crate::host::cgroup::Mounts;
use crate::host::limit::Limits;
use crate::host::workload::Workload;
use crate::identity::{Identity, InstanceId, SlotNumber};
use crate::incident::{Incident, State};
use crate::lang::{Lang, say};
use crate::roster::{Entry, Roster};
use crate::trigger::{self, Levels, time_to};
use crate::units::ByteSize;

/// What a lookup has found for a target.
pub(super) struct Arrivals<'a> {
    pub found: &'a [Identity],
    /// What they belong to, where the selector means many services.
    pub workloads: BTreeMap<InstanceId, Arc<Workload>>,
}

pub(super) struct WatchedTarget {
    pub config: Arc<config::Target>,
    pub roster: Roster<LiveInstance>,
    pub due: Mono,
    /// Why no, or not every, process was found.
    pub problem: Option<String>,
    /// OOM kills in the cgroups of its processes.
    pub kills: Kills,
    pub feed: Feed,
    /// Floors of instances that have not come yet.
    pub past: Past,
    /// Rules without a limit, for slots that nobody sits in.
    pub empty: Levels,
}

/// Where a target's instances are.
pub(super) enum Feed {
    /// Its processes are looked for on this host.
    Local {
        /// Those that have become another program since the last lookup, and when.
        execs: Vec<(InstanceId, Mono)>,
    },
    /// A source tells of them.
    Remote(Remotes),
}

impl Feed {
    fn of(source: &Source) -> Feed {
        match source.process() {
            Some(_) => Feed::Local { execs: Vec::new() },
            None => Feed::Remote(Remotes::default()),
        }
    }
}

impl WatchedTarget {
    pub fn new(config: Arc<config::Target>, roster: Roster<LiveInstance>) -> WatchedTarget {
        let empty = Levels::resolve(&config.rules, config.interval, None);
        WatchedTarget {
            feed: Feed::of(&config.source),
            config,
            roster,
            due: Mono::default(),
            problem: None,
            kills: Kills::default(),
            past: Past::default(),
            empty,
        }
    }

    pub fn is_local(&self) -> bool {
        matches!(self.feed, Feed::Local { .. })
    }

    pub fn reconfigured(mut self, config: Arc<config::Target>) -> WatchedTarget {
        if self.config == config {
            return self;
        }
        if std::mem::discriminant(&self.config.source) != std::mem::discriminant(&config.source) {
            for (_, entry) in self.roster.iter_mut() {
                entry.vacate();
            }
            (self.feed, self.problem) = (Feed::of(&config.source), None);
        }
        self.empty = Levels::resolve(&config.rules, config.interval, None);
        let others = self.config.source != config.source;
        for (_, entry) in self.roster.iter_mut() {
            entry.slot.change_rules(&config.rules, config.interval);
            if let Some(live) = &mut entry.live {
                live.levels = Levels::resolve(&config.rules, config.interval, live.limit.as_ref().map(|l| l.bytes));
                live.evidence.doubt();
                if let Origin::Local(local) = &mut live.origin {
                    local.due = Mono::default();
                    local.overlooked |= others;
                }
            }
        }
        WatchedTarget { config, due: Mono::default(), ..self }
    }

    /// Whose processes were not found. One that lives is forgiven once, unless another was found instead: a pid file that was just being
    /// written, or a /proc that could not be read, is not its end.
    pub fn left(&mut self, found: &[Identity], procfs: &ProcFs) -> Vec<SlotNumber> {
        let mut left = self.roster.left(found);
        let is_replaced = !left.is_empty() && !self.roster.newcomers(found).is_empty();
        for (number, _, live) in self.roster.live_mut() {
            let Origin::Local(local) = &mut live.origin else { continue };
            let was_overlooked = std::mem::replace(&mut local.overlooked, left.contains(&number));
            if local.overlooked && !was_overlooked && !is_replaced && live.id.process().is_some_and(|id| procfs.is_alive(id)) {
                left.retain(|n| *n != number);
            }
        }
        left
    }

    /// Seats the processes that have no seat yet; true if anything changed.
    pub fn seat(&mut self, procfs: &ProcFs, mounts: &Mounts, limits: &mut Limits, room: &mut Room, arrivals: Arrivals, now: Mono) -> bool {
        let Arrivals { found, mut workloads } = arrivals;
        let mut changed = false;
        let Feed::Local { execs } = &mut self.feed else { return false };
        let execs = std::mem::take(execs);
        let several = self.config.source.process().is_some_and(|process| matches!(process.which, Selector::Cmdline(_) | Selector::Unit(_)));
        let exe = |id: &Identity| procfs.exe(id.pid()?).ok()?.file_name()?.to_str().map(Box::from);
        let program = |id: &Identity| match id.process().and_then(|id| workloads.get(&id)) {
            Some(workload) => Some(workload.key()),
            None => Some(id).filter(|_| several).and_then(exe),
        };
        let newcomers = self.roster.newcomers(found).into_iter().map(|id| (id.clone(), program(&id))).collect();
        for (number, id) in self.roster.seat_by_program(newcomers, now) {
            if let Some(entry) = self.roster.get_mut(number) {
                entry.slot.arrive(id, &self.config.rules, self.config.interval);
                changed = true;
            }
        }
        for (_, Entry { slot, live }) in self.roster.iter_mut().filter(|(_, entry)| entry.live.is_none()) {
            let Some(id) = slot.instance().and_then(Identity::process) else { continue };
            match room.take().and_then(|()| LiveInstance::new(procfs, mounts, limits, id, &self.config, now)) {
                Ok(mut fresh) => {
                    fresh.workload = workloads.remove(&id);
                    self.past.hand_to(slot);
                    fresh.local().and_then(|local| local.oom.as_ref()).into_iter().for_each(|oom| self.kills.catch_up(oom));
                    if let Some((_, at)) = execs.iter().find(|(of, _)| *of == id) {
                        fresh.born = *at;
                        fresh.baseline_due = *at + self.config.rules.warmup;
                    }
                    let limit = fresh.limit.as_ref().map_or("unknown".into(), |l| format!("{} ({})", ByteSize(l.bytes), l.source));
                    let workload = fresh.workload.as_ref().map(|workload| workload.name.as_str());
                    tracing::info!(target_name = %self.config.name, workload, pid = id.pid, limit, "watching process");
                    *live = Some(Box::new(fresh));
                    self.due = now;
                    changed = true;
                }
                Err(why) => slot.blind(why, self.config.interval, now),
            }
        }
        changed
    }

    /// How many descriptors it keeps.
    pub fn processes(&self) -> usize {
        if self.is_local() { self.roster.live().count() } else { 0 }
    }

    /// Incidents that an earlier memtrap has left, or that went on under another configuration, stand for their family too.
    pub fn remember_kin(&self, kin: &mut Kinships) {
        for (number, slot, live) in self.roster.live() {
            if let Some(incident) = slot.incident()
                && !incident.fired.trigger.is_asked()
            {
                kin.remember(&self.config, number, live, incident.fired.rss_bytes);
            }
        }
    }

    /// What is wrong with finding its processes; told when it is new.
    pub fn say_problem(&mut self, problem: Option<String>) {
        if self.problem != problem {
            if let Some(problem) = &problem {
                tracing::warn!(target_name = %self.config.name, problem, "process lookup");
            }
            self.problem = problem;
        }
    }

    /// Takes the answer about an instance's evidence, if it still sits there.
    pub fn checked(&mut self, checked: Checked, now: Mono) {
        let Some((_, live)) = self.roster.get_mut(checked.slot).and_then(Entry::seated_mut) else { return };
        if live.id != checked.instance {
            return;
        }
        let every = self.config.baseline.unwrap_or(config::Target::DEFAULT_BASELINE);
        if live.evidence.heard(checked.found, every, checked.at, now) {
            let (target_name, pid, instance) = (&self.config.name, live.id.pid(), live.remote_label());
            match live.evidence.why_not() {
                Some(reason) => tracing::warn!(target_name, pid, instance, reason, "its evidence could not be had now"),
                None => tracing::info!(target_name, pid, instance, "its evidence can be had again"),
            }
        }
    }

    /// Takes what the collector of a process has done, if it still sits there.
    pub fn collector_told(&mut self, told: CollectorTold, now: Mono) {
        let Some(gc) = self.config.rules.gc else { return };
        let Some((slot, live)) = self.roster.get_mut(told.slot).and_then(Entry::seated_mut) else { return };
        if live.id != told.instance {
            return;
        }
        let Origin::Local(local) = &mut live.origin else { return };
        let places = matches!(told.found, Ok(CollectorAnswer::Places(_)));
        if let Some(found) = local.collector.told(told, trigger::gc::every(gc.window), now) {
            slot.collected(found);
        }
        // the first reading follows at once, and what it may fire is seen then
        if places || slot.is_collector_pending() {
            local.due = now;
            self.due = now;
        }
    }

    /// Processes that have a place and could not be taken up.
    pub fn unseated(&self) -> impl Iterator<Item = u32> {
        self.roster.iter().filter(|(_, entry)| entry.live.is_none()).filter_map(|(_, entry)| entry.slot.instance()?.pid())
    }

    pub fn status(&self, number: SlotNumber, entry: &Entry<LiveInstance>, now: Mono, lang: Lang) -> InstanceStatus {
        let (slot, live) = (&entry.slot, entry.live.as_deref());
        let rss = slot.series().and_then(|s| s.last()).map(|s| s.rss);
        let limit = live.and_then(|s| s.limit.as_ref());
        let slope = slot.slope();
        let most = slot.measured().and_then(|s| s.last()).map(|s| s.rss);
        let left = limit.zip(most).zip(slope).and_then(|((limit, most), slope)| time_to(limit.bytes, most, slope));
        let mut reason = slot.reason(live.map_or(&self.empty, |s| &s.levels), now, lang);
        if let (State::Waiting, Some(problem)) = (slot.state(now), &self.problem) {
            reason = say!(lang; "{reason}: {problem}"; "{reason}：{problem}");
        }
        if let Some(why) = live.and_then(|s| s.seen()).and_then(|s| s.no_limit.as_ref()).filter(|_| limit.is_none()) {
            reason = say!(lang; "{reason}; its limit is unknown: {why}"; "{reason}；上限未知：{why}");
        }
        if live.and_then(|s| s.seen()).is_some_and(|seen| seen.several) {
            reason = say!(lang;
                "{reason}; several processes answer at this address, and one of them is watched: give each its own";
                "{reason}；此地址后有多个进程应答，只监视其中一个：请为每个进程设置各自的地址"
            );
        }
        InstanceStatus {
            target: self.config.name.clone(),
            slot: number,
            pid: slot.instance().and_then(Identity::pid),
            instance: slot.instance().map(|id| live.map_or_else(|| id.to_string(), |s| s.label())),
            workload: live.and_then(|s| s.workload.as_ref()).map(|workload| workload.name.clone()),
            container: live.and_then(|s| s.workload.as_ref()).and_then(|workload| workload.container.clone()),
            state: slot.state(now),
            reason,
            rss_bytes: rss,
            charge_bytes: slot.charge().map(|charge| charge.bytes),
            charge_limit_bytes: slot.charge().map(|charge| charge.limit),
            charge_cgroup: slot.charge().map(|charge| charge.cgroup.to_string()),
            limit_bytes: limit.map(|l| l.bytes),
            limit_source: limit.map(|l| l.source.clone()),
            threshold_bytes: live.map(|s| s.levels.stages.iter().map(|stage| stage.bytes).collect()).unwrap_or_default(),
            slope_bytes_per_second: slope,
            seconds_to_limit: left.map(|d| d.as_secs_f64()),
            cooldown_seconds: slot.cooldown_until(now).map(|t| t.since(now).as_secs_f64()),
            next_capture: slot.next_capture(now, lang),
            incident: slot.incident().map(|i: &Incident| i.id.clone()),
            evidence: live.and_then(|s| s.evidence.words(lang)),
            last_bundle: live.and_then(|s| s.last_bundle.clone()),
            last_end: slot.last_end().map(|end| end.words(lang)),
        }
    }
}
