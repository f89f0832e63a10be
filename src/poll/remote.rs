//! Instances that a source elsewhere tells of, as the watcher holds them: the same slots, rules and orders as for processes of this host.
//!
//! What differs is how little can be known of an end. A source that does not answer says nothing about its instances: after a few
//! questions without an answer they are `blind`, for as long as it takes. A series that a source no longer has is `blind` as well at first,
//! since one failed scrape makes a server drop it; after [`LOST_AFTER`] answers without it, what its rule was waiting for is captured while there may be something to
//! capture; it counts as gone only [`GONE_AFTER`] later. A changed start time is a restart at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::collector::of_page;
use super::dispatch::{Caveat, Dispatch, InstanceRef};
use super::evidence::EvidenceCheck;
use super::floors::Past;
use super::instance::{LiveInstance, Origin};
use super::target::{Feed, WatchedTarget};
use super::task::{Found, Readings, Remote, Who};
use crate::anatomy::GoMemory;
use crate::bundle::Warning;
use crate::clock::{self, Mono, human};
use crate::config::{self, Source};
use crate::host::Limit;
use crate::identity::{Identity, SeriesId, SlotNumber, is_same_start};
use crate::incident::Slot;
use crate::roster::{Entry, Roster};
use crate::series::Sample;
use crate::trigger::Levels;

/// So many answers in a row without it, and a series is lost.
const LOST_AFTER: u32 = 5;
/// A lost series is that of a process that is gone after this time: the usual scrape interval of a server, one minute, in which one
/// failed scrape hides a healthy process.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Without a word from a source for three times the announced time and this, something is wrong with memtrap's own task.
const SILENCE: Duration = Duration::from_secs(30);
/// Other words within this time are about the same trouble.
const SAME_TROUBLE: Duration = Duration::from_secs(60);
/// How often places that remember nothing are forgotten.
const TIDY: Duration = Duration::from_secs(10);
/// More arrivals at once than this are logged as one.
const FEW: usize = 20;

/// What a watched target knows of its source.
#[derive(Default)]
pub(super) struct Remotes {
    places: HashMap<Arc<str>, SlotNumber>,
    round: u64,
    /// What does not work, as it was logged last.
    trouble: Option<String>,
    said: Mono,
    /// When its silence is too long.
    silent_from: Option<Mono>,
    tidied: Mono,
}

/// What was heard of the instance in a seat.
pub(super) struct HeardInstance {
    pub who: Arc<Who>,
    pub go: Option<Box<GoMemory>>,
    /// Why there is no limit where one was asked for.
    pub no_limit: Option<Arc<str>>,
    pub source_is_down: bool,
    /// Start times went back and forth: processes take turns behind one address. One of them is watched.
    pub several: bool,
    /// When that one answered last.
    own: Mono,
    last: Mono,
    missed: u32,
    round: u64,
}

/// What all readings of one answer share.
struct Heard<'h> {
    at: Mono,
    now: Mono,
    round: u64,
    limit_source: &'h str,
}

/// A target of whose instances a source tells.
pub(super) struct RemoteTarget<'w> {
    config: &'w Arc<config::Target>,
    roster: &'w mut Roster<LiveInstance>,
    due: &'w mut Mono,
    problem: &'w mut Option<String>,
    remotes: &'w mut Remotes,
    past: &'w mut Past,
}

impl WatchedTarget {
    /// Where a source tells of it.
    pub fn remote(&mut self) -> Option<RemoteTarget<'_>> {
        let WatchedTarget { config, roster, due, problem, past, feed: Feed::Remote(remotes), .. } = self else { return None };
        Some(RemoteTarget { config, roster, due, problem, remotes, past })
    }
}

impl RemoteTarget<'_> {
    /// Gives the instances that a state file knows their seats, before a source has told anything.
    pub fn expect(&mut self, now: Mono) {
        for (number, Entry { slot, live }) in self.roster.iter_mut() {
            match slot.instance() {
                Some(Identity::Series(id)) => {
                    let who = Arc::new(Who { series: id.series.clone(), label: Identity::Series(id.clone()).to_string(), pprof: None });
                    self.remotes.places.insert(id.series.clone(), number);
                    *live = Some(Box::new(LiveInstance::remote(id.clone(), who, self.config, now)));
                    self.past.hand_to(slot);
                }
                Some(Identity::Process(_)) => slot.vacate(),
                None => {}
            }
        }
    }

    /// Is called when a source should have spoken: true if anything changed.
    pub fn expect_word(&mut self, now: Mono) -> bool {
        if self.remotes.silent_from.is_none() {
            *self.problem = Some("its source has not answered yet".into());
        }
        let silent_from = *self.remotes.silent_from.get_or_insert(now + SILENCE);
        *self.due = silent_from.max(now + SILENCE);
        now >= silent_from && self.source_down("the source has not been heard of; its task may be stuck".into(), now)
    }

    /// Takes what a source told; true if anything changed that outlives memtrap.
    pub fn hear(&mut self, readings: Readings, dispatch: &mut Dispatch, now: Mono) -> bool {
        *self.due = now + readings.next * 3 + SILENCE;
        self.remotes.silent_from = Some(*self.due);
        match readings.found {
            Ok(found) => self.take(found, readings.at, dispatch, now),
            Err(why) => self.source_down(why, now),
        }
    }

    fn source_down(&mut self, why: String, now: Mono) -> bool {
        let mut changed = false;
        self.say_trouble(Some(why.clone()), now);
        for (_, Entry { slot, live }) in self.roster.iter_mut() {
            slot.blind(why.clone(), self.config.interval, now);
            if let Some(live) = live {
                if let Origin::Remote(seen) = &mut live.origin {
                    seen.source_is_down = true;
                }
                changed |= live.log_change(&self.config.name, slot, now);
            }
        }
        *self.problem = Some(why);
        changed
    }

    /// One line when something starts or ceases to be wrong.
    fn say_trouble(&mut self, trouble: Option<String>, now: Mono) {
        // a server may word it differently each time
        let reworded = self.remotes.trouble.is_some() && trouble.is_some() && now.since(self.remotes.said) < SAME_TROUBLE;
        if self.remotes.trouble == trouble || reworded {
            return;
        }
        self.remotes.said = now;
        match &trouble {
            Some(reason) => tracing::warn!(target_name = %self.config.name, reason, "source"),
            None => tracing::info!(target_name = %self.config.name, "the source works again"),
        }
        self.remotes.trouble = trouble;
    }

    fn take(&mut self, found: Found, at: Mono, dispatch: &mut Dispatch, now: Mono) -> bool {
        let Found { readings, partial, trouble, limit_source } = found;
        self.say_trouble(trouble.clone().or_else(|| partial.clone().map(|why| format!("instances may be missing: {why}"))), now);
        self.remotes.round += 1;
        let heard = Heard { at, now, round: self.remotes.round, limit_source: &limit_source };
        let mut changed = false;
        let mut newcomers = Vec::new();
        for reading in readings {
            match self.remotes.places.get(&reading.who.series) {
                Some(number) => changed |= self.read(*number, reading, &heard, dispatch),
                None => newcomers.push(reading),
            }
        }
        changed |= self.arrive(newcomers, &heard, dispatch);
        changed |= self.miss(&heard, partial.as_deref(), dispatch);
        *self.problem = self.roster.live().next().is_none().then(|| trouble.unwrap_or_else(|| "the query gives no series".into()));
        if now.since(self.remotes.tidied) >= TIDY {
            self.remotes.tidied = now;
            for (_, entry) in self.roster.iter_mut().filter(|(_, entry)| entry.live.is_none()) {
                entry.slot.clear_blind();
            }
            self.roster.seat(Vec::new(), now);
        }
        changed
    }

    /// Seats those that were not there before.
    fn arrive(&mut self, newcomers: Vec<Remote>, heard: &Heard<'_>, dispatch: &mut Dispatch) -> bool {
        if newcomers.is_empty() {
            return false;
        }
        if newcomers.len() > FEW {
            tracing::info!(target_name = %self.config.name, instances = newcomers.len(), "watching instances");
        }
        let few = newcomers.len() <= FEW;
        let identity = |r: &Remote| Identity::Series(SeriesId { series: r.who.series.clone(), started_unix_ms: r.started_unix_ms });
        let ids = newcomers.iter().map(identity).collect();
        let mut by_series: HashMap<Arc<str>, Remote> = newcomers.into_iter().map(|r| (r.who.series.clone(), r)).collect();
        for (number, id) in self.roster.seat(ids, heard.now) {
            let Identity::Series(id) = id else { continue };
            let Some(reading) = by_series.remove(&id.series) else { continue };
            if few {
                tracing::info!(target_name = %self.config.name, instance = reading.who.label, "watching instance");
            }
            self.remotes.places.insert(id.series.clone(), number);
            if let Some(Entry { slot, live }) = self.roster.get_mut(number) {
                slot.arrive(Identity::Series(id.clone()), &self.config.rules, self.config.interval);
                *live = Some(Box::new(LiveInstance::remote(id, reading.who.clone(), self.config, heard.now)));
                self.past.hand_to(slot);
            }
            self.read(number, reading, heard, dispatch);
        }
        true
    }

    fn read(&mut self, number: SlotNumber, reading: Remote, heard: &Heard<'_>, dispatch: &mut Dispatch) -> bool {
        let RemoteTarget { config, roster, .. } = self;
        let Some((slot, live)) = roster.get_mut(number).and_then(Entry::seated_mut) else { return false };
        let start = follow_start(config, number, slot, live, &reading, dispatch, heard.now);
        let mut changed = matches!(start, StartSeen::Restarted);
        let Origin::Remote(seen) = &mut live.origin else { return false };
        (seen.round, seen.last, seen.missed, seen.source_is_down) = (heard.round, heard.now, 0, false);
        if matches!(start, StartSeen::Anothers) {
            return false;
        }
        seen.own = heard.now;
        if !Arc::ptr_eq(&seen.who, &reading.who) {
            seen.who = reading.who;
        }
        seen.go = reading.go.or(seen.go.take());
        // else a baseline would have nothing to hold
        let tells_go = seen.go.is_some();
        seen.no_limit = reading.limit.as_ref().err().cloned();
        match reading.limit {
            Ok(Some(bytes)) if live.limit.as_ref().is_none_or(|limit| limit.bytes != bytes) => {
                live.set_limit(Limit { bytes, source: heard.limit_source.to_owned() }, config);
            }
            Ok(None) if live.limit.is_some() => live.lose_limit(config),
            // what was known is better than nothing
            _ => {}
        }
        if config.rules.gc.is_some() {
            slot.collected(reading.collector.map(|said| of_page(&said, heard.at)).ok_or_else(|| not_told(&config.source)));
        }
        match reading.rss {
            Ok(rss) => {
                let age = heard.now.since(live.born);
                let has_evidence = config.pprof.is_some() || tells_go;
                let place = InstanceRef { target: config, number, slot, live };
                dispatch.read(place, Sample { at: heard.at, rss }, age, has_evidence, heard.now);
            }
            Err(why) => slot.blind(why, config.interval, heard.now),
        }
        changed |= live.log_change(&config.name, slot, heard.now);
        changed
    }

    /// Those that the answer does not have.
    fn miss(&mut self, heard: &Heard<'_>, partial: Option<&str>, dispatch: &mut Dispatch) -> bool {
        let RemoteTarget { config, roster, .. } = self;
        let mut changed = false;
        let mut gone = Vec::new();
        for (number, slot, live) in roster.live_mut() {
            let Origin::Remote(seen) = &mut live.origin else { continue };
            if seen.round == heard.round {
                continue;
            }
            seen.source_is_down = false;
            if let Some(why) = partial {
                slot.blind(format!("not in the answer, which is partial: {why}"), config.interval, heard.now);
                changed |= live.log_change(&config.name, slot, heard.now);
                continue;
            }
            seen.missed = seen.missed.saturating_add(1);
            let away = heard.now.since(seen.last);
            slot.missing(format!("its series has not been there for {}", human(away)), config.interval, heard.now);
            let is_gone = seen.missed >= LOST_AFTER && away >= GONE_AFTER;
            if (seen.missed == LOST_AFTER || is_gone)
                && let Some(order) = slot.gone(&live.levels, heard.now)
            {
                let why = format!("its series had not been there for {} when the capture began", human(away));
                let caveat = Caveat::Doubtful(Warning::mistaken(&why));
                dispatch.carry_out(InstanceRef { target: config, number, slot, live }, order, Some(caveat), heard.now);
            }
            changed |= live.log_change(&config.name, slot, heard.now);
            if is_gone {
                gone.push(number);
            }
        }
        for number in &gone {
            if let Some(live) = self.roster.get_mut(*number).and_then(Entry::vacate)
                && let Origin::Remote(seen) = &live.origin
            {
                self.remotes.places.remove(&seen.who.series);
                tracing::info!(target_name = %self.config.name, instance = seen.who.label, "instance gone");
            }
        }
        changed || !gone.is_empty()
    }
}

/// Why it is not known what the collector of an instance has done.
fn not_told(source: &Source) -> String {
    match source {
        Source::Metrics(_) => "its page has neither go_cpu_classes_gc_mark_assist_cpu_seconds_total and the others of its kind \
                               (collectors.MetricsAll in client_golang), nor what go_memstats_gc_cpu_fraction could be counted with"
            .into(),
        _ => "a query tells RSS only".into(),
    }
}

/// What the start time of a reading tells.
enum StartSeen {
    Same,
    Restarted,
    /// The reading is of another process behind the same address.
    Anothers,
}

/// Sees a restart by the start time, and learns one that was not known before. No process is followed by one that is older: then several answer.
fn follow_start(
    config: &Arc<config::Target>,
    number: SlotNumber,
    slot: &mut Slot,
    live: &mut LiveInstance,
    reading: &Remote,
    dispatch: &mut Dispatch,
    now: Mono,
) -> StartSeen {
    let (Identity::Series(id), Some(started)) = (&live.id, reading.started_unix_ms) else { return StartSeen::Same };
    let fresh = SeriesId { series: id.series.clone(), started_unix_ms: Some(started) };
    let Some(known) = id.started_unix_ms else {
        live.id = Identity::Series(fresh);
        live.born = born(Some(started), now).unwrap_or(live.born);
        slot.learn(live.id.clone());
        return StartSeen::Same;
    };
    if is_same_start(known, started) {
        return StartSeen::Same;
    }
    let Origin::Remote(seen) = &mut live.origin else { return StartSeen::Same };
    let was_several = seen.several;
    if (started < known || was_several) && now.since(seen.own) < GONE_AFTER {
        if !std::mem::replace(&mut seen.several, true) {
            let cure = "watch each at its own address, or by `prometheus`, which tells them apart";
            tracing::warn!(target_name = %config.name, instance = reading.who.label, cure, "several processes answer here; one of them is watched");
        }
        return StartSeen::Anothers;
    }
    if let Some(order) = slot.gone(&live.levels, now) {
        let why = "the process was replaced before it could be captured: pprof would be another's";
        dispatch.carry_out(InstanceRef { target: config, number, slot, live }, order, Some(Caveat::Replaced(why.into())), now);
    }
    tracing::info!(target_name = %config.name, instance = reading.who.label, "restarted");
    slot.vacate();
    slot.arrive(Identity::Series(fresh.clone()), &config.rules, config.interval);
    *live = LiveInstance::remote(fresh, reading.who.clone(), config, now);
    if let Origin::Remote(seen) = &mut live.origin {
        seen.several = was_several;
    }
    StartSeen::Restarted
}

/// When a process started, on our own clock; `None` where nothing says so, or it would be in the future.
fn born(started_unix_ms: Option<u64>, now: Mono) -> Option<Mono> {
    let started = std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(started_unix_ms?);
    clock::wall_now().duration_since(started).ok().map(|age| now - age)
}

impl LiveInstance {
    fn remote(id: SeriesId, who: Arc<Who>, config: &config::Target, now: Mono) -> LiveInstance {
        let born = born(id.started_unix_ms, now).unwrap_or(now);
        let seen = HeardInstance {
            who,
            go: None,
            no_limit: None,
            source_is_down: false,
            several: false,
            own: now,
            last: now,
            missed: 0,
            round: 0,
        };
        LiveInstance {
            evidence: EvidenceCheck::new(born, now),
            id: Identity::Series(id),
            workload: None,
            origin: Origin::Remote(seen),
            born,
            levels: Levels::resolve(&config.rules, config.interval, None),
            limit: None,
            limits: Vec::new(),
            baseline_due: born + config.rules.warmup,
            timeline: None,
            last_bundle: None,
            logged: None,
        }
    }

    fn lose_limit(&mut self, config: &config::Target) {
        self.limit = None;
        self.levels = Levels::resolve(&config.rules, config.interval, None);
    }
}
