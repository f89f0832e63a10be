//! Floors that an earlier memtrap left, until their instances come; and what is stored of all floors.

use crate::clock::Mono;
use crate::identity::{Identity, SeriesId, is_same_start};
use crate::incident::Slot;
use crate::roster::Roster;
use crate::state::FloorsOf;
use crate::trigger::leak::Leak;

/// Floors of a target's instances that have not come yet.
#[derive(Default)]
pub(super) struct Past(Vec<(Identity, Leak)>);

impl Past {
    /// `elapsed` is the time since they were stored. After a boot, no process of this host is the same.
    pub fn new(stored: Vec<FloorsOf>, same_boot: bool, elapsed: std::time::Duration, now: Mono) -> Past {
        let lasts = |of: &FloorsOf| same_boot || of.instance.process().is_none();
        let restore = |of: FloorsOf| (of.instance, Leak::restore(of.leak, elapsed, now));
        Past(stored.into_iter().filter(lasts).map(restore).collect())
    }

    /// Gives the instance that sits there its own.
    pub fn hand_to(&mut self, slot: &mut Slot) {
        let found = slot.instance().and_then(|id| self.0.iter().position(|(of, _)| is_same(of, id)));
        if let Some(found) = found {
            slot.take_up(self.0.swap_remove(found).1);
        }
    }

    /// Forgets what will not come again: processes were all looked for, and series have their month.
    fn tidy(&mut self, now: Mono) {
        self.0.retain(|(id, leak)| id.process().is_none() && !leak.floors().is_out_of_date(now));
    }

    /// What is to be stored of a target: of those that are watched, and of those that may come yet.
    pub fn save<L>(&mut self, roster: &Roster<L>, most: usize, now: Mono) -> Vec<FloorsOf> {
        self.tidy(now);
        let seated = roster.iter().filter_map(|(_, entry)| Some((entry.slot.instance()?, entry.slot.leak()?)));
        let expected = self.0.iter().map(|(id, leak)| (id, leak));
        let of = |(id, leak): (&Identity, &Leak)| Some(FloorsOf { instance: id.clone(), leak: leak.save(most, now)? });
        seated.chain(expected).filter_map(of).collect()
    }
}

/// One life. Of a series without a start time nobody knows whether it was restarted meanwhile; that nobody knew before either.
fn is_same(one: &Identity, other: &Identity) -> bool {
    match (one, other) {
        (
            Identity::Series(SeriesId { series: one, started_unix_ms: a }),
            Identity::Series(SeriesId { series: other, started_unix_ms: b }),
        ) => {
            one == other
                && match (a, b) {
                    (Some(a), Some(b)) => is_same_start(*a, *b),
                    (a, b) => a == b,
                }
        }
        (one, other) => one == other,
    }
}
