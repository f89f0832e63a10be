//! A target as the watcher holds it: its slots, who sits in them, and where their orders go.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::descriptors::Room;
use super::evidence::Evidence;
use super::kin::{Birth, Kinships};
use super::remote::{Remotes, Seen};
use super::task::{Baseline, Check, Checked, Job, RemoteFacts, Subject, Task, Timeline};
use super::{InstanceStatus, Statm};
use crate::budget::{Budget, Refusal, Urgency, Wish};
use crate::bundle::ANOTHERS;
use crate::clock::{self, Mono};
use crate::config::{self, Pprof, Selector, Source};
use crate::digest;
use crate::error::chain;
use crate::host::cgroup::{CgroupRef, Mounts};
use crate::host::limit::{Changed, Limits, OomCounter};
use crate::host::{Limit, ProcFs};
use crate::identity::{Identity, InstanceId, SlotNumber};
use crate::incident::{Incident, Order, Slot, State};
use crate::lang::{Lang, say};
use crate::meters::Meters;
use crate::roster::{Entry, Roster};
use crate::series::{Kept, Sample};
use crate::trigger::{Levels, time_to};
use crate::units::ByteSize;

/// What is looked at of a limit beside the files that are kept open: the host's memory, ancestors out of sight, another cgroup.
pub(super) const LIMIT_REFRESH: Duration = Duration::from_secs(30);
/// Processes are hardly ever moved to another cgroup once they run, and to look takes most of the time that a limit takes.
/// The younger a process, the sooner it is looked at again.
const CGROUP_REFRESH: Duration = Duration::from_secs(300);
/// Within this time of the limit, what dies with the process is saved first.
const HURRY: Duration = Duration::from_secs(10);
/// Changes of a limit that are remembered.
const MAX_LIMITS: usize = 32;
/// Waiting or being taken.
const MAX_BASELINES: usize = 4;
/// Being asked. A service that does not answer takes some seconds.
const MAX_CHECKS: usize = 8;

pub(super) struct Watched {
    pub config: Arc<config::Target>,
    pub roster: Roster<Seat>,
    pub due: Mono,
    /// Why no, or not every, process was found.
    pub problem: Option<String>,
    pub feed: Feed,
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

/// How a seat's RSS is known.
pub(super) enum Reader {
    /// Read here.
    Local(Local),
    /// Told by a source.
    Remote(Seen),
}

/// A process of this host.
pub(super) struct Local {
    /// Where it came from.
    pub birth: Birth,
    pub statm: Statm,
    /// When the next reading is.
    pub due: Mono,
    pub limit_read: Mono,
    /// Of its cgroup, which is also where its limit is read; `None` where that cannot be seen.
    pub oom: Option<OomCounter>,
    cgroup_read: Mono,
    /// It lives, and the last lookup did not find it.
    pub overlooked: bool,
}

/// A live instance in a slot.
pub(super) struct Seat {
    pub id: Identity,
    pub reader: Reader,
    pub born: Mono,
    pub levels: Levels,
    pub limit: Option<Limit>,
    /// The limits that its readings were judged by, and from when on; the last few.
    pub limits: Vec<(Mono, Option<u64>)>,
    /// When the next baseline is due, if the instance is healthy then.
    pub baseline_due: Mono,
    pub evidence: Evidence,
    pub timeline: Option<Timeline>,
    pub last_bundle: Option<String>,
    pub logged: Option<State>,
}

impl Watched {
    pub fn new(config: Arc<config::Target>, roster: Roster<Seat>) -> Watched {
        let empty = Levels::resolve(&config.rules, config.interval, None);
        Watched { feed: Feed::of(&config.source), config, roster, due: Mono::default(), problem: None, empty }
    }

    pub fn is_local(&self) -> bool {
        matches!(self.feed, Feed::Local { .. })
    }

    pub fn reconfigured(mut self, config: Arc<config::Target>) -> Watched {
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
            if let Some(seat) = &mut entry.live {
                seat.levels = Levels::resolve(&config.rules, config.interval, seat.limit.as_ref().map(|l| l.bytes));
                seat.evidence.doubt();
                if let Reader::Local(local) = &mut seat.reader {
                    local.due = Mono::default();
                    local.overlooked |= others;
                }
            }
        }
        Watched { config, due: Mono::default(), ..self }
    }

    /// Whose processes were not found. One that lives is forgiven once, unless another was found instead: a pid file that was just being
    /// written, or a /proc that could not be read, is not its end.
    pub fn left(&mut self, found: &[Identity], procfs: &ProcFs) -> Vec<SlotNumber> {
        let mut left = self.roster.left(found);
        let is_replaced = !left.is_empty() && !self.roster.newcomers(found).is_empty();
        for (number, _, seat) in self.roster.live_mut() {
            let Reader::Local(local) = &mut seat.reader else { continue };
            let was_overlooked = std::mem::replace(&mut local.overlooked, left.contains(&number));
            if local.overlooked && !was_overlooked && !is_replaced && seat.id.process().is_some_and(|id| procfs.is_alive(id)) {
                left.retain(|n| *n != number);
            }
        }
        left
    }

    /// Seats the processes that have no seat yet; true if anything changed.
    pub fn seat(&mut self, procfs: &ProcFs, mounts: &Mounts, limits: &mut Limits, room: &mut Room, found: &[Identity], now: Mono) -> bool {
        let mut changed = false;
        let Feed::Local { execs } = &mut self.feed else { return false };
        let execs = std::mem::take(execs);
        let several = self.config.source.process().is_some_and(|process| matches!(process.which, Selector::Cmdline(_) | Selector::Unit(_)));
        let program = |id: &Identity| procfs.exe(id.pid()?).ok()?.file_name()?.to_str().map(Box::from);
        let newcomers = self.roster.newcomers(found).into_iter();
        let newcomers = newcomers.map(|id| (id.clone(), Some(id).filter(|_| several).and_then(|id| program(&id)))).collect();
        for (number, id) in self.roster.seat_by_program(newcomers, now) {
            if let Some(entry) = self.roster.get_mut(number) {
                entry.slot.arrive(id, &self.config.rules, self.config.interval);
                changed = true;
            }
        }
        for (_, Entry { slot, live }) in self.roster.iter_mut().filter(|(_, entry)| entry.live.is_none()) {
            let Some(id) = slot.instance().and_then(Identity::process) else { continue };
            match room.take().and_then(|()| Seat::new(procfs, mounts, limits, id, &self.config, now)) {
                Ok(mut seat) => {
                    if let Some((_, at)) = execs.iter().find(|(of, _)| *of == id) {
                        seat.born = *at;
                        seat.baseline_due = *at + self.config.rules.warmup;
                    }
                    let limit = seat.limit.as_ref().map_or("unknown".into(), |l| format!("{} ({})", ByteSize(l.bytes), l.source));
                    tracing::info!(target_name = %self.config.name, pid = id.pid, limit, "watching process");
                    *live = Some(Box::new(seat));
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
        for (number, slot, seat) in self.roster.live() {
            if let Some(incident) = slot.incident()
                && !incident.fired.trigger.is_asked()
            {
                kin.remember(&self.config, number, seat, incident.fired.rss_bytes);
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
        let Some((_, seat)) = self.roster.get_mut(checked.slot).and_then(Entry::seated_mut) else { return };
        if seat.id != checked.instance {
            return;
        }
        let every = self.config.baseline.unwrap_or(config::Target::DEFAULT_BASELINE);
        if seat.evidence.heard(checked.found, every, checked.at, now) {
            let (target_name, pid, instance) = (&self.config.name, seat.id.pid(), seat.remote_label());
            match seat.evidence.why_not() {
                Some(reason) => tracing::warn!(target_name, pid, instance, reason, "its evidence could not be had now"),
                None => tracing::info!(target_name, pid, instance, "its evidence can be had again"),
            }
        }
    }

    /// Processes that have a place and could not be taken up.
    pub fn unseated(&self) -> impl Iterator<Item = u32> {
        self.roster.iter().filter(|(_, entry)| entry.live.is_none()).filter_map(|(_, entry)| entry.slot.instance()?.pid())
    }

    pub fn status(&self, number: SlotNumber, entry: &Entry<Seat>, now: Mono, lang: Lang) -> InstanceStatus {
        let (slot, seat) = (&entry.slot, entry.live.as_deref());
        let rss = slot.series().and_then(|s| s.last()).map(|s| s.rss);
        let limit = seat.and_then(|s| s.limit.as_ref());
        let slope = slot.slope();
        let left = limit.zip(rss).zip(slope).and_then(|((limit, rss), slope)| time_to(limit.bytes, rss, slope));
        let mut reason = slot.reason(seat.map_or(&self.empty, |s| &s.levels), now, lang);
        if let (State::Waiting, Some(problem)) = (slot.state(now), &self.problem) {
            reason = say!(lang; "{reason}: {problem}"; "{reason}：{problem}");
        }
        if let Some(why) = seat.and_then(|s| s.seen()).and_then(|s| s.no_limit.as_ref()).filter(|_| limit.is_none()) {
            reason = say!(lang; "{reason}; its limit is unknown: {why}"; "{reason}；上限未知：{why}");
        }
        if seat.and_then(|s| s.seen()).is_some_and(|seen| seen.several) {
            reason = say!(lang;
                "{reason}; several processes answer at this address, and one of them is watched: give each its own";
                "{reason}；此地址后有多个进程应答，只监视其中一个：请为每个进程设置各自的地址"
            );
        }
        InstanceStatus {
            target: self.config.name.clone(),
            slot: number,
            pid: slot.instance().and_then(Identity::pid),
            instance: slot.instance().map(|id| seat.map_or_else(|| id.to_string(), |s| s.label())),
            state: slot.state(now),
            reason,
            rss_bytes: rss,
            limit_bytes: limit.map(|l| l.bytes),
            limit_source: limit.map(|l| l.source.clone()),
            threshold_bytes: seat.map(|s| s.levels.stages.iter().map(|stage| stage.bytes).collect()).unwrap_or_default(),
            slope_bytes_per_second: slope,
            seconds_to_limit: left.map(|d| d.as_secs_f64()),
            cooldown_seconds: slot.cooldown_until(now).map(|t| t.since(now).as_secs_f64()),
            next_capture: slot.next_capture(now, lang),
            incident: slot.incident().map(|i: &Incident| i.id.clone()),
            evidence: seat.and_then(|s| s.evidence.words(lang)),
            last_bundle: seat.and_then(|s| s.last_bundle.clone()),
        }
    }
}

impl Seat {
    pub fn new(
        procfs: &ProcFs,
        mounts: &Mounts,
        limits: &mut Limits,
        id: InstanceId,
        config: &config::Target,
        now: Mono,
    ) -> Result<Seat, String> {
        let dir = procfs.dir_of(id).map_err(|e| chain(&e))?;
        let file = dir.open("statm").map_err(|e| chain(&e))?;
        let birth = Birth::read(&dir).map_err(|e| chain(&e))?;
        let age = procfs.age(id).map_err(|e| chain(&e))?;
        let local = Local { birth, statm: Statm::new(file), due: now, limit_read: now, oom: None, cgroup_read: now, overlooked: false };
        let mut seat = Seat {
            id: id.into(),
            reader: Reader::Local(local),
            born: now - age,
            levels: Levels::resolve(&config.rules, config.interval, None),
            limit: None,
            limits: Vec::new(),
            baseline_due: now - age + config.rules.warmup,
            evidence: Evidence::new(now - age, now),
            timeline: None,
            last_bundle: None,
            logged: None,
        };
        if let Reader::Local(local) = &mut seat.reader {
            local.find_cgroup(procfs, mounts, id.pid, now);
        }
        seat.read_limit(procfs, mounts, limits, config, now);
        Ok(seat)
    }

    pub fn read_limit(&mut self, procfs: &ProcFs, mounts: &Mounts, limits: &mut Limits, config: &config::Target, now: Mono) {
        let (Reader::Local(local), Some(pid)) = (&mut self.reader, self.id.pid()) else { return };
        local.limit_read = now;
        if now.since(local.cgroup_read) >= CGROUP_REFRESH.min(now.since(self.born) * 3 / 4) {
            local.find_cgroup(procfs, mounts, pid, now);
        }
        if let Ok(limit) = limits.within(procfs, local.cgroup(), now) {
            self.set_limit(limit, config);
        }
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
        let (Reader::Local(local), Some(id)) = (&mut self.reader, self.id.process()) else { return false };
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
        if let Reader::Local(local) = &mut self.reader {
            local.due = due;
        }
    }

    fn note_limit(&mut self, at: Mono) {
        if self.limits.last().map(|(_, limit)| *limit) != Some(self.levels.limit) {
            if self.limits.len() >= MAX_LIMITS {
                self.limits.remove(0);
            }
            self.limits.push((at, self.levels.limit));
        }
    }

    /// The last hour, with what else the rules went by.
    fn timeline_of(&self, slot: &Slot) -> Vec<Kept> {
        let first = self.limits.first().and_then(|(_, limit)| *limit);
        let limit_at = |at| self.limits.iter().rev().find(|(from, _)| *from <= at).map_or(first, |(_, limit)| *limit);
        let kept = slot.kept(&self.levels).into_iter();
        kept.map(|kept| Kept { age: kept.sample.at.since(self.born), limit: limit_at(kept.sample.at), ..kept }).collect()
    }

    pub fn local(&self) -> Option<&Local> {
        match &self.reader {
            Reader::Local(local) => Some(local),
            Reader::Remote(_) => None,
        }
    }

    pub fn seen(&self) -> Option<&Seen> {
        match &self.reader {
            Reader::Local(_) => None,
            Reader::Remote(seen) => Some(seen),
        }
    }

    /// For people.
    pub fn label(&self) -> String {
        self.seen().map_or_else(|| self.id.to_string(), |seen| seen.who.label.clone())
    }

    /// The name of an instance elsewhere, for logs that give a pid to others.
    pub fn remote_label(&self) -> Option<&str> {
        self.seen().map(|seen| seen.who.label.as_str())
    }

    /// Whom captures are of; `rss` is the last reading.
    pub fn subject(&self, target: &Arc<config::Target>, rss: u64) -> Subject {
        let base = Subject { target: target.clone(), instance: self.id.clone(), label: self.label(), remote: None, no_pprof: None };
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

impl Local {
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
    pub fn read(&mut self, mut place: Place<'_>, sample: Sample, age: Duration, may_baseline: bool, now: Mono) {
        self.check(&mut place, sample.rss, now);
        let Place { target, number, slot, seat } = place;
        seat.note_limit(sample.at);
        if let Some(timeline) = &seat.timeline {
            lock(timeline).push(Kept { age, limit: seat.levels.limit, ..Kept::reading(sample) });
        }
        let was_open = slot.incident().is_some();
        let order = slot.observe(sample, age, &seat.levels, &target.rules);
        if was_open && slot.incident().is_none() {
            self.kin.forget(target, number);
        }
        let place = Place { target, number, slot, seat };
        if let Some(order) = order {
            self.carry_out(place, order, None, now);
        } else if place.slot.take_muted() {
            self.meters.skipped("cooldown");
        } else if let Some(every) = target.baseline
            && may_baseline
            && now >= place.seat.baseline_due
            && place.slot.state(now) == State::Armed
        {
            self.baseline(place, every, sample.rss, now);
        }
    }

    /// Asks for a baseline of an instance that is healthy now; if many are waiting, not yet: when its turn came it might not be so any more.
    fn baseline(&mut self, at: Place<'_>, every: Duration, rss: u64, now: Mono) {
        if Arc::strong_count(&self.baselines) <= MAX_BASELINES {
            at.seat.baseline_due = now + every;
            let place = self.baselines.clone();
            self.hand_on(Task::Baseline(Baseline { subject: at.seat.subject(at.target, rss), rss, place }));
        }
    }

    /// Asks now and then whether a capture would get anything. If many are being asked, it stays due.
    fn check(&mut self, at: &mut Place<'_>, rss: u64, now: Mono) {
        if !at.seat.evidence.is_due(now) || at.slot.is_capturing() || Arc::strong_count(&self.checks) > MAX_CHECKS {
            return;
        }
        at.seat.evidence.asked(now);
        let subject = at.seat.subject(at.target, rss);
        if subject.target.pprof.is_some() || subject.no_pprof.is_some() {
            self.hand_on(Task::Check(Check { subject, slot: at.number, place: self.checks.clone() }));
        }
    }

    /// Begins the capture, if the budget admits it; else the order will come again.
    pub fn carry_out(&mut self, place: Place<'_>, order: Order, caveat: Option<Caveat>, now: Mono) {
        let urgency = match caveat {
            Some(Caveat::Gone | Caveat::Replaced(_)) => Urgency::Gone(place.target.rules.cooldown),
            _ if is_near_limit(place.slot, place.seat) => Urgency::Hurry,
            _ => Urgency::Calm,
        };
        let Place { target, number: slot, .. } = place;
        let wish = Wish { target: &target.name, slot, trigger: order.fired.trigger, rules: target.rules.kinds(), urgency };
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
                tracing::warn!(target_name = %target.name, pid = place.seat.id.pid(), why, "a process that ended over the line leaves no bundle");
            }
            return;
        }
        self.kin.note(&place, &order);
        let several = place.seat.seen().is_some_and(|seen| seen.several);
        let caveat = caveat.or_else(|| several.then(|| Caveat::Doubtful(format!("several processes answer at this address: {ANOTHERS}"))));
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
    pub fn begin(&mut self, Place { target, number, slot, seat }: Place<'_>, order: Order, now: Mono) -> Box<Job> {
        let stamp = clock::compact_utc(clock::wall_now());
        let id = order.incident.clone().unwrap_or_else(|| format!("{}-{stamp}-{}", target.name, mark(&seat.id)));
        slot.admitted(&order, id.clone(), &seat.levels, &target.rules, now);
        let timeline: Timeline = Arc::new(Mutex::new(seat.timeline_of(slot)));
        seat.timeline = Some(timeline.clone());
        let last = slot.series().and_then(|s| s.last()).map_or(order.fired.rss_bytes, |s| s.rss);
        let subject = seat.subject(target, last);
        let hurry = is_near_limit(slot, seat);
        let (fired, part, oom) = (order.fired, order.part, seat.local().and_then(|local| local.oom.clone()));
        Box::new(Job {
            subject,
            slot: number,
            admitted: now,
            incident: id,
            part,
            fired,
            oom,
            timeline,
            hurry,
            warning: None,
            is_gone: false,
        })
    }
}

/// One instance of a target: what decides about it, and what is known of it.
pub(super) struct Place<'a> {
    pub target: &'a Arc<config::Target>,
    pub number: SlotNumber,
    pub slot: &'a mut Slot,
    pub seat: &'a mut Seat,
}

/// What a capture must know of its instance.
pub(super) enum Caveat {
    /// Its process is.
    Gone,
    /// It may be another that answers.
    Doubtful(String),
    /// It is another that would answer.
    Replaced(String),
}

/// Whether the limit is reached within seconds if RSS goes on to rise as it does now.
fn is_near_limit(slot: &Slot, seat: &Seat) -> bool {
    let left = || {
        let series = slot.series()?;
        time_to(seat.levels.limit?, series.last()?.rss, series.rise()?.confirmed)
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
pub(super) fn lock(timeline: &Timeline) -> MutexGuard<'_, Vec<Kept>> {
    // a panic elsewhere does not make samples wrong
    timeline.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
