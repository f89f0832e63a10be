//! When an instance is asked what its collector takes, and what is known of where that is told. Not here: the reading, which may wait for the
//! process and is done elsewhere.

use std::sync::Arc;
use std::time::Duration;

use super::task::CollectorTold;
use crate::clock::Mono;
use crate::goruntime::collector::Places;
use crate::identity::{InstanceId, SlotNumber};
use crate::metrics::CollectorSaid;
use crate::trigger::{Collections, gc};

/// After a reading that failed.
const AGAIN: Duration = Duration::from_secs(60);
/// Of a process that has collected nothing yet.
const NOT_YET: Duration = Duration::from_secs(3);
/// Readings in a row that may fail.
const MISSES: u32 = 3;
/// An answer that does not come is waited for no longer. To find the places takes a process of its own, and its turn.
const LOST: Duration = Duration::from_secs(20);
const LOST_PLACES: Duration = Duration::from_secs(600);

/// The question what the collector of a process has done so far.
#[derive(Clone, Debug)]
pub struct CollectorAsk {
    pub target: Arc<str>,
    pub slot: SlotNumber,
    pub instance: InstanceId,
    /// Where that is told; `None`: it is to be found out.
    pub places: Option<Arc<Places>>,
    /// The last question was not answered: this one is not to hold up others.
    pub is_lost: bool,
}

/// Its answer. An error is a sentence.
#[derive(Clone, Debug)]
pub enum CollectorAnswer {
    Places(Arc<Places>),
    /// Nothing was collected yet.
    NotYet,
    Counts(Collections),
}

/// What a page said at a moment, as the rule takes it.
pub(super) fn of_page(said: &CollectorSaid, at: Mono) -> Collections {
    let CollectorSaid { cpu, count, ended, collecting, busy, goal_bytes, live_bytes, alloc_bytes, gogc, memory_limit_bytes } = *said;
    let heap = live_bytes.or(alloc_bytes).zip(goal_bytes).map(|(live_bytes, goal_bytes)| {
        let by_percent = gogc.map(|gogc| u128::from(live_bytes) * u128::from(gogc.saturating_add(100)) / 100);
        // GOGC counts stacks and globals too: without the limit the goal is no lower
        let by_limit = memory_limit_bytes.is_some() && by_percent.is_none_or(|goal| u128::from(goal_bytes) < goal);
        gc::Heap { live_bytes, goal_bytes, by_limit, memory_limit_bytes, gogc: gogc.and_then(|gogc| i64::try_from(gogc).ok()) }
    });
    let ended = ended.unwrap_or(Duration::from_nanos(at.as_nanos()));
    let ps = busy.map(|(busy, idle_workers)| gc::Ps { busy, idle_workers });
    Collections { at, cpu, count, ended, collecting, ps, heap, live_at_most: live_bytes.is_none() }
}

/// Of one process.
#[derive(Debug, Default)]
pub(super) struct CollectorWatch {
    due: Mono,
    asked: bool,
    /// Readings in a row that failed.
    missed: u32,
    places: Option<Arc<Places>>,
}

impl CollectorWatch {
    /// The question, if it is due.
    pub fn ask(&mut self, target: &str, slot: SlotNumber, instance: InstanceId, now: Mono) -> Option<CollectorAsk> {
        if now < self.due {
            return None;
        }
        let is_lost = std::mem::replace(&mut self.asked, true);
        self.due = now + if self.places.is_some() { LOST } else { LOST_PLACES };
        Some(CollectorAsk { target: target.into(), slot, instance, places: self.places.clone(), is_lost })
    }

    /// Not before some time from now.
    pub fn rest(&mut self, now: Mono) {
        self.due = now + AGAIN;
    }

    pub fn is_due(&self, now: Mono) -> bool {
        now >= self.due
    }

    /// Takes the answer; what the rule is to know of it.
    pub fn told(&mut self, told: CollectorTold, every: Duration, now: Mono) -> Option<Result<Collections, String>> {
        self.asked = false;
        let missed = if told.found.is_err() { self.missed + 1 } else { 0 };
        self.missed = missed;
        match told.found {
            Ok(CollectorAnswer::Places(places)) => {
                (self.places, self.due) = (Some(places), now);
                None
            }
            Ok(CollectorAnswer::NotYet) => {
                self.due = now + NOT_YET;
                Some(Err("it has collected nothing yet".into()))
            }
            Ok(CollectorAnswer::Counts(counts)) => {
                self.due = counts.at + every;
                Some(Ok(counts))
            }
            // what was read while it was written says nothing
            Err(_) if self.places.is_some() && missed < MISSES => {
                self.due = now + every;
                None
            }
            Err(why) => {
                (self.missed, self.places, self.due) = (0, None, now + AGAIN);
                Some(Err(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    const WHO: InstanceId = InstanceId { pid: 7, start_ticks: 1 };

    fn told(found: Result<CollectorAnswer, String>) -> CollectorTold {
        CollectorTold { target: "a".into(), slot: 0, instance: Identity::Process(WHO), found }
    }

    #[test]
    fn places_are_found_once_and_read_each_time() {
        let (mut watch, every, t) = (CollectorWatch::default(), Duration::from_secs(3), Mono::from_secs);
        let ask = |watch: &mut CollectorWatch, at| watch.ask("a", 0, WHO, t(at));
        assert!(ask(&mut watch, 100).unwrap().places.is_none());
        assert!(ask(&mut watch, 300).is_none(), "one question at a time");
        assert!(watch.told(told(Ok(CollectorAnswer::NotYet)), every, t(301)).unwrap().is_err());
        assert!(ask(&mut watch, 302).is_none() && ask(&mut watch, 304).is_some());
        assert!(watch.told(told(Ok(CollectorAnswer::Places(Arc::new(Places::default())))), every, t(305)).is_none());
        let asked = ask(&mut watch, 305).unwrap();
        assert!(asked.places.is_some() && !asked.is_lost);
        let counts = Collections {
            at: t(305),
            cpu: Duration::ZERO,
            count: 1,
            ended: Duration::ZERO,
            collecting: Duration::ZERO,
            ps: None,
            heap: None,
            live_at_most: false,
        };
        assert_eq!(watch.told(told(Ok(CollectorAnswer::Counts(counts))), every, t(305)), Some(Ok(counts)));
        assert!(ask(&mut watch, 307).is_none() && ask(&mut watch, 308).is_some());
        assert!(ask(&mut watch, 327).is_none());
        assert!(ask(&mut watch, 328).unwrap().is_lost, "one that hangs is asked alone");
        for at in [330, 333] {
            assert_eq!(watch.told(told(Err("torn".into())), every, t(at)), None, "one that fails now and then");
            assert!(ask(&mut watch, at + 2).is_none() && ask(&mut watch, at + 3).unwrap().places.is_some());
        }
        assert_eq!(watch.told(told(Err("gone".into())), every, t(336)), Some(Err("gone".into())));
        assert!(ask(&mut watch, 395).is_none() && ask(&mut watch, 396).unwrap().places.is_none());
    }
}
