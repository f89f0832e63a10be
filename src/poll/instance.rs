//! A live instance: who sits in a slot, how its RSS is read, and the limit that it is judged by.

use std::sync::Arc;
use std::time::Duration;

use super::Statm;
use super::collector::{CollectorAsk, CollectorWatch};
use super::evidence::EvidenceCheck;
use super::kin::Birth;
use super::remote::HeardInstance;
use super::task::{RemoteFacts, Subject, Timeline};
use crate::charge::Charge;
use crate::clock::{self, Mono};
use crate::config::{self, Pprof, ProcessLimit, ReadMemory};
use crate::error::chain;
use crate::host::cgroup::{CgroupRef, Mounts};
use crate::host::charge::{Question, Watch};
use crate::host::limit::{Changed, Limits, OomCounter, OomKills, RanOut};
use crate::host::workload::Workload;
use crate::host::{Limit, ProcFs};
use crate::identity::{Identity, InstanceId, SlotNumber};
use crate::incident::{How, LastEnd, Slot, State};
use crate::lang::Lang;
use crate::series::Kept;
use crate::trigger::Levels;
use crate::units::ByteSize;

/// What is looked at of a limit beside the files that are kept open: the host's memory, ancestors out of sight, another cgroup.
pub(super) const LIMIT_REFRESH: Duration = Duration::from_secs(30);
/// Processes are hardly ever moved to another cgroup once they run, and to look takes most of the time that a limit takes.
/// The younger a process, the sooner it is looked at again.
const CGROUP_REFRESH: Duration = Duration::from_secs(300);
/// Changes of a limit that are remembered.
const MAX_LIMITS: usize = 32;

/// A live instance in a slot.
pub(super) struct LiveInstance {
    pub id: Identity,
    /// What it belongs to, where its target means many services.
    pub workload: Option<Arc<Workload>>,
    pub origin: Origin,
    pub born: Mono,
    pub levels: Levels,
    pub limit: Option<Limit>,
    /// The limits that its readings were judged by, and from when on; the last few.
    pub limits: Vec<(Mono, Option<u64>)>,
    /// When the next baseline is due, if the instance is healthy then.
    pub baseline_due: Mono,
    pub evidence: EvidenceCheck,
    pub timeline: Option<Timeline>,
    pub last_bundle: Option<String>,
    pub logged: Option<State>,
}

/// How the RSS of an instance is known.
pub(super) enum Origin {
    /// Read here.
    Local(LocalInstance),
    /// Told by a source.
    Remote(HeardInstance),
}

/// A process of this host.
pub(super) struct LocalInstance {
    /// Where it came from.
    pub birth: Birth,
    pub statm: Statm,
    /// When the next reading is.
    pub due: Mono,
    pub limit_read: Mono,
    /// Of its cgroup, which is also where its limit is read; `None` where that cannot be seen.
    pub oom: Option<OomCounter>,
    /// The limited cgroups above it, if their charge counts.
    charge: Watch,
    cgroup_read: Mono,
    pub collector: CollectorWatch,
    /// It lives, and the last lookup did not find it.
    pub overlooked: bool,
}

impl LiveInstance {
    pub fn new(
        procfs: &ProcFs,
        mounts: &Mounts,
        limits: &mut Limits,
        id: InstanceId,
        config: &config::Target,
        now: Mono,
    ) -> Result<LiveInstance, String> {
        let dir = procfs.dir_of(id).map_err(|e| chain(&e))?;
        let file = dir.open("statm").map_err(|e| chain(&e))?;
        let birth = Birth::read(&dir).map_err(|e| chain(&e))?;
        let age = procfs.age(id).map_err(|e| chain(&e))?;
        let local = LocalInstance {
            birth,
            statm: Statm::new(file),
            due: now,
            limit_read: now,
            oom: None,
            charge: Watch::default(),
            cgroup_read: now,
            collector: CollectorWatch::default(),
            overlooked: false,
        };
        let mut live = LiveInstance {
            id: id.into(),
            workload: None,
            origin: Origin::Local(local),
            born: now - age,
            levels: Levels::resolve(&config.rules, config.interval, None),
            limit: None,
            limits: Vec::new(),
            baseline_due: now - age + config.rules.warmup,
            evidence: EvidenceCheck::new(now - age, now),
            timeline: None,
            last_bundle: None,
            logged: None,
        };
        if let Origin::Local(local) = &mut live.origin {
            local.find_cgroup(procfs, mounts, id.pid, now);
        }
        live.read_limit(procfs, mounts, limits, config, now);
        Ok(live)
    }

    pub fn read_limit(&mut self, procfs: &ProcFs, mounts: &Mounts, limits: &mut Limits, config: &config::Target, now: Mono) {
        let (Origin::Local(local), Some(pid)) = (&mut self.origin, self.id.pid()) else { return };
        local.limit_read = now;
        if now.since(local.cgroup_read) >= CGROUP_REFRESH.min(now.since(self.born) * 3 / 4) {
            local.find_cgroup(procfs, mounts, pid, now);
        }
        let limit = limits.within(procfs, local.cgroup(), now);
        let limit = match (limit, config.source.process().and_then(|process| process.limit.as_ref()).and_then(written)) {
            (Ok(seen), Some(written)) if written.bytes >= seen.bytes => Ok(seen),
            (_, Some(written)) => Ok(written),
            (seen, None) => seen,
        };
        let counts = config.rules.charge && (config.rules.slope.is_some() || config.rules.need_limit());
        // what hung before is not taken down in between
        let mut watch = local.cgroup().filter(|_| counts).map(|cgroup| limits.watch(cgroup)).unwrap_or_default();
        if let Ok(limit) = limit {
            self.set_limit(limit, config);
        }
        limits.charges.trip(&mut watch, &self.levels.tripwires().collect::<Vec<_>>());
        if let Origin::Local(local) = &mut self.origin {
            local.charge = watch;
        }
    }

    /// A cgroup of this process rang: it is read at once, and its kills are looked for if there were any.
    pub fn rang(&mut self, kill: bool, now: Mono) {
        if let Origin::Local(local) = &mut self.origin {
            local.due = now;
            if kill {
                local.limit_read = Mono::default();
            }
        }
    }

    /// What its cgroup is charged with, as far as it counts for this process, which has so much RSS.
    pub fn charge(&self, procfs: &ProcFs, limits: &mut Limits, config: &Arc<config::Target>, rss: u64, now: Mono) -> Option<Charge> {
        let (limit, pid) = (self.levels.limit?, self.id.pid()?);
        let (target, stale) = (Arc::as_ptr(config) as usize, config.interval.max(config.max_interval) * 2);
        let asked = Question { target, pid, rss, limit, level: self.levels.lowest_share()?, stale };
        limits.charges.read(procfs, &self.local()?.charge, asked, now)
    }

    /// The question what its collector has done, if a rule needs that and it is due; `slot` is told why it is not asked.
    pub fn ask_collector(&mut self, config: &config::Target, number: SlotNumber, slot: &mut Slot, now: Mono) -> Option<CollectorAsk> {
        let (Origin::Local(local), Some(id)) = (&mut self.origin, self.id.process()) else { return None };
        if config.rules.gc.is_none() || !local.collector.is_due(now) {
            return None;
        }
        if config.capture.read_memory == ReadMemory::Off {
            local.collector.rest(now);
            slot.collected(Err("it stands in the process's memory, and read_memory is off".into()));
            return None;
        }
        local.collector.ask(&config.name, number, id, now)
    }

    /// A limit changed in one of these cgroups: if it is above this process, it is read, and RSS against it at once.
    pub fn follow_limit(
        &mut self,
        procfs: &ProcFs,
        mounts: &Mounts,
        limits: &mut Limits,
        config: &config::Target,
        changed: &Changed,
        now: Mono,
    ) -> bool {
        let (Origin::Local(local), Some(id)) = (&mut self.origin, self.id.process()) else { return false };
        let Some(cgroup) = local.cgroup().filter(|cgroup| changed.touches(cgroup)) else { return false };
        // of a process that has ended its last limit stays known
        if !procfs.is_alive(id) {
            return false;
        }
        if changed.removed(cgroup) {
            local.find_cgroup(procfs, mounts, id.pid, now);
        }
        let before = self.limit.clone();
        self.read_limit(procfs, mounts, limits, config, now);
        let is_another = self.limit != before;
        if is_another {
            self.read_at(now);
        }
        is_another
    }

    pub fn set_limit(&mut self, limit: Limit, config: &config::Target) {
        if self.limit.as_ref() != Some(&limit) {
            self.levels = Levels::resolve(&config.rules, config.interval, Some(limit.bytes));
            self.limit = Some(limit);
        }
    }

    /// When the process is read next.
    pub fn read_at(&mut self, due: Mono) {
        if let Origin::Local(local) = &mut self.origin {
            local.due = due;
        }
    }

    pub fn note_limit(&mut self, at: Mono) {
        if self.limits.last().map(|(_, limit)| *limit) != Some(self.levels.limit) {
            if self.limits.len() >= MAX_LIMITS {
                self.limits.remove(0);
            }
            self.limits.push((at, self.levels.limit));
        }
    }

    /// The last hour, with what else the rules went by.
    pub fn timeline_of(&self, slot: &Slot) -> Vec<Kept> {
        let first = self.limits.first().and_then(|(_, limit)| *limit);
        let limit_at = |at| self.limits.iter().rev().find(|(from, _)| *from <= at).map_or(first, |(_, limit)| *limit);
        let kept = slot.kept(&self.levels).into_iter();
        kept.map(|kept| Kept { age: kept.sample.at.since(self.born), limit: limit_at(kept.sample.at), ..kept }).collect()
    }

    /// OOM kills in its cgroup since it was looked at last; it lives.
    pub fn look_for_kills(&mut self) -> Option<OomKills> {
        match &mut self.origin {
            Origin::Local(local) => local.oom.as_mut()?.look(),
            Origin::Remote(_) => None,
        }
    }

    /// It is gone: how, as far as the kernel still tells; `killed` is what its cgroup has counted.
    pub fn end(&self, procfs: &ProcFs, killed: Option<&OomKills>) -> LastEnd {
        // of an ancestor's count, a neighbour may have been the victim
        let killed = killed.filter(|killed| killed.own).map(|killed| match &killed.ran_out {
            Some(RanOut::Cgroup { path, limit, .. }) => How::OomKilled { of: Some(path.clone()), limit: *limit },
            Some(RanOut::Host) => How::OomKilledByHost,
            None => How::OomKilled { of: None, limit: None },
        });
        let status = self.id.process().and_then(|id| procfs.exit_status(id));
        LastEnd { at: clock::wall_now(), how: How::of(status, killed) }
    }

    pub fn local(&self) -> Option<&LocalInstance> {
        match &self.origin {
            Origin::Local(local) => Some(local),
            Origin::Remote(_) => None,
        }
    }

    pub fn seen(&self) -> Option<&HeardInstance> {
        match &self.origin {
            Origin::Local(_) => None,
            Origin::Remote(seen) => Some(seen),
        }
    }

    /// For people.
    pub fn label(&self) -> String {
        match (&self.origin, &self.workload) {
            (Origin::Remote(seen), _) => seen.who.label.clone(),
            (Origin::Local(_), Some(workload)) => format!("{} ({})", workload.of_instance(), self.id),
            (Origin::Local(_), None) => self.id.to_string(),
        }
    }

    /// The name of an instance elsewhere, for logs that give a pid to others.
    pub fn remote_label(&self) -> Option<&str> {
        self.seen().map(|seen| seen.who.label.as_str())
    }

    /// Whom captures are of; `rss` is the last reading.
    pub fn subject(&self, target: &Arc<config::Target>, rss: u64) -> Subject {
        let base = Subject {
            target: target.clone(),
            instance: self.id.clone(),
            label: self.label(),
            workload: self.workload.clone(),
            remote: None,
            no_pprof: None,
        };
        let Some(seen) = self.seen() else { return base };
        let remote = RemoteFacts {
            rss,
            limit: self.limit.clone(),
            started_unix_ms: self.id.series().and_then(|id| id.started_unix_ms),
            go: seen.go.clone(),
        };
        let base = Subject { remote: Some(remote), ..base };
        match &seen.who.pprof {
            None => base,
            Some(Ok(url)) => {
                let mut target = config::Target::clone(target);
                target.pprof = Some(Pprof::Http(url.clone()));
                Subject { target: Arc::new(target), ..base }
            }
            Some(Err(why)) => Subject { no_pprof: Some(why.clone()), ..base },
        }
    }

    /// Logs a change of state; true if it concerns what outlives memtrap.
    pub fn log_change(&mut self, target: &str, slot: &Slot, now: Mono) -> bool {
        let state = slot.state(now);
        if self.logged == Some(state) {
            return false;
        }
        let (pid, instance, state_name) = (self.id.pid(), self.remote_label(), state.name());
        let reason = slot.reason(&self.levels, now, Lang::En);
        match state {
            // of a source that is down, one line tells for all its instances
            State::Blind if self.seen().is_some_and(|seen| seen.source_is_down) => {
                tracing::debug!(target_name = target, instance, state = state_name, reason, "state")
            }
            State::Blind | State::Throttled => tracing::warn!(target_name = target, pid, instance, state = state_name, reason, "state"),
            // a process that jitters at its threshold must not fill the log
            State::Warming | State::Armed | State::Pending => {
                tracing::debug!(target_name = target, pid, instance, state = state_name, reason, "state")
            }
            _ => tracing::info!(target_name = target, pid, instance, state = state_name, reason, "state"),
        }
        let lasts = |state| matches!(state, State::Capturing | State::Open | State::Cooldown);
        let before = self.logged.replace(state);
        lasts(state) || before.is_some_and(lasts)
    }
}

/// The limit that the configuration tells.
fn written(limit: &ProcessLimit) -> Option<Limit> {
    match limit {
        ProcessLimit::Fixed(size) => Some(Limit { bytes: size.0, source: "limit of the configuration".into() }),
        ProcessLimit::Env(name) => {
            let bytes = of_environment(&std::env::var(name).ok()?)?;
            Some(Limit { bytes, source: format!("${name}") })
        }
    }
}

/// Bytes, as the downward API writes them, or a size.
fn of_environment(text: &str) -> Option<u64> {
    let text = text.trim();
    text.parse().ok().or_else(|| Some(text.parse::<ByteSize>().ok()?.0)).filter(|bytes| *bytes > 0)
}

impl LocalInstance {
    fn cgroup(&self) -> Option<&CgroupRef> {
        self.oom.as_ref().map(OomCounter::cgroup)
    }

    /// A cgroup that was found stays known when its process ends.
    fn find_cgroup(&mut self, procfs: &ProcFs, mounts: &Mounts, pid: u32, now: Mono) {
        self.cgroup_read = now;
        if let Ok(found) = CgroupRef::of_with(procfs, mounts, pid)
            && found.as_ref() != self.cgroup()
        {
            self.oom = found.map(OomCounter::new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_the_environment_is_bytes_or_a_size_and_nothing_else() {
        let read = of_environment;
        assert_eq!((read("1073741824"), read(" 1GiB\n"), read("512MB")), (Some(1 << 30), Some(1 << 30), Some(512_000_000)));
        assert_eq!((read(""), read("0"), read("-1"), read("lots")), (None, None, None, None));
    }
}
