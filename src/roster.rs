//! Who sits where: the places of one target, and which process takes which.
//!
//! Pure. A process that appears takes over the place, and with it the cooldown, of one that went; only when there is none does
//! it get a new place. That is what makes a crash loop one cooldown, and twenty workers twenty. Under a selector that means several programs, each
//! takes over from its own kind only.

use std::collections::{BTreeMap, HashSet};

use crate::clock::Mono;
use crate::identity::{Identity, SlotNumber};
use crate::incident::Slot;

/// The places of one target. There is always at least one, so that a target without a process has a state to show.
/// `L` is what the caller knows of a live instance.
#[derive(Debug)]
pub struct Roster<L> {
    /// Boxed: the nodes of the map are half empty, and there may be thousands.
    entries: BTreeMap<SlotNumber, Box<Entry<L>>>,
    next: SlotNumber,
}

/// One place: what decides about whoever has it, and who that is.
#[derive(Debug)]
pub struct Entry<L> {
    /// Outlives its process.
    pub slot: Slot,
    /// Boxed: most places may be empty.
    pub live: Option<Box<L>>,
}

impl<L> Entry<L> {
    fn new(slot: Slot) -> Box<Entry<L>> {
        Box::new(Entry { slot, live: None })
    }

    /// Whoever sat there is gone.
    pub fn vacate(&mut self) -> Option<Box<L>> {
        self.slot.vacate();
        self.live.take()
    }

    /// Slot and instance, where there is one.
    pub fn seated_mut(&mut self) -> Option<(&mut Slot, &mut L)> {
        Some((&mut self.slot, self.live.as_deref_mut()?))
    }
}

impl<L> Default for Roster<L> {
    fn default() -> Roster<L> {
        Roster::new(Vec::new())
    }
}

impl<L> Roster<L> {
    pub fn new(restored: Vec<Slot>) -> Roster<L> {
        let mut entries: BTreeMap<SlotNumber, Box<Entry<L>>> = (0..).zip(restored.into_iter().map(Entry::new)).collect();
        if entries.is_empty() {
            entries.insert(0, Entry::new(Slot::default()));
        }
        let next = entries.len() as SlotNumber;
        Roster { entries, next }
    }

    pub fn get(&self, number: SlotNumber) -> Option<&Entry<L>> {
        self.entries.get(&number).map(Box::as_ref)
    }

    pub fn get_mut(&mut self, number: SlotNumber) -> Option<&mut Entry<L>> {
        self.entries.get_mut(&number).map(Box::as_mut)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SlotNumber, &Entry<L>)> {
        self.entries.iter().map(|(n, e)| (*n, &**e))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SlotNumber, &mut Entry<L>)> {
        self.entries.iter_mut().map(|(n, e)| (*n, &mut **e))
    }

    /// The live instances, with their places.
    pub fn live(&self) -> impl Iterator<Item = (SlotNumber, &Slot, &L)> {
        self.iter().filter_map(|(n, e)| Some((n, &e.slot, e.live.as_deref()?)))
    }

    /// The same.
    pub fn live_mut(&mut self) -> impl Iterator<Item = (SlotNumber, &mut Slot, &mut L)> {
        self.iter_mut().filter_map(|(n, e)| e.seated_mut().map(|(slot, live)| (n, slot, live)))
    }

    fn slots(&self) -> impl Iterator<Item = (SlotNumber, &Slot)> {
        self.iter().map(|(n, e)| (n, &e.slot))
    }

    fn slot(&self, number: SlotNumber) -> Option<&Slot> {
        self.get(number).map(|e| &e.slot)
    }

    /// The slots whose process is not among `found` any more.
    pub fn left(&self, found: &[Identity]) -> Vec<SlotNumber> {
        let found: HashSet<&Identity> = found.iter().collect();
        self.slots().filter(|(_, slot)| slot.instance().is_some_and(|id| !found.contains(id))).map(|(n, _)| n).collect()
    }

    /// Those among `found` that have no place yet.
    pub fn newcomers(&self, found: &[Identity]) -> Vec<Identity> {
        let mut known: HashSet<&Identity> = self.slots().filter_map(|(_, slot)| slot.instance()).collect();
        found.iter().filter(|id| known.insert(id)).cloned().collect()
    }

    /// Gives every newcomer a place, and forgets empty places that remember nothing. Call it after those that left have been
    /// vacated; the caller lets the newcomers [`Slot::arrive`].
    pub fn seat(&mut self, newcomers: Vec<Identity>, now: Mono) -> Vec<(SlotNumber, Identity)> {
        self.seat_by_program(newcomers.into_iter().map(|id| (id, None)).collect(), now)
    }

    /// The same where it is known what they run: none follows a process of another program into what that one left.
    pub fn seat_by_program(&mut self, newcomers: Vec<(Identity, Option<Box<str>>)>, now: Mono) -> Vec<(SlotNumber, Identity)> {
        let mut vacant: Vec<SlotNumber> = self.slots().filter(|(_, s)| s.instance().is_none()).map(|(n, _)| n).collect();
        // popped from the end: first those whose capture still runs, then the longest cooldown
        vacant.sort_by_key(|n| self.slot(*n).map(|s| (s.is_capturing(), s.cooldown_until(now), std::cmp::Reverse(*n))));
        let mut seated = Vec::with_capacity(newcomers.len());
        for (id, program) in newcomers {
            let fits = |n: &SlotNumber| self.slot(*n).is_some_and(|s| s.is_spent(now) || s.may_be_followed_by(program.as_deref()));
            let own = vacant.iter().rposition(fits).map(|at| vacant.remove(at));
            let number = own.unwrap_or_else(|| {
                self.next += 1;
                self.entries.insert(self.next - 1, Entry::new(Slot::default()));
                self.next - 1
            });
            if let Some(entry) = self.get_mut(number) {
                entry.slot.runs(program);
            }
            seated.push((number, id));
        }
        let keep_one = seated.is_empty() && self.slots().all(|(_, s)| s.instance().is_none());
        let last = vacant.first().copied().filter(|_| keep_one);
        vacant.retain(|n| Some(*n) != last && self.slot(*n).is_some_and(|s| s.is_spent(now)));
        for number in vacant {
            self.entries.remove(&number);
        }
        seated
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Rules;
    use crate::identity::InstanceId;
    use crate::incident::SavedSlot;

    fn process(pid: u32) -> Identity {
        InstanceId { pid, start_ticks: u64::from(pid) * 10 }.into()
    }

    fn reconcile(roster: &mut Roster<()>, pids: &[u32]) -> Vec<(SlotNumber, u32)> {
        let found: Vec<Identity> = pids.iter().copied().map(process).collect();
        for n in roster.left(&found) {
            roster.get_mut(n).unwrap().vacate();
        }
        let seated = roster.seat(roster.newcomers(&found), Mono::from_secs(1_000));
        for (n, id) in &seated {
            roster.get_mut(*n).unwrap().slot.arrive(id.clone(), &Rules::default(), Duration::from_secs(1));
        }
        seated.iter().map(|(n, id)| (*n, id.pid().unwrap())).collect()
    }

    fn cooling(left: u64) -> Slot {
        let saved = SavedSlot { cooldown_left: Some(Duration::from_secs(left)), ..SavedSlot::default() };
        Slot::restore(saved, Duration::ZERO, &Rules::default(), Duration::from_secs(1), Mono::from_secs(1_000))
    }

    #[test]
    fn a_lone_target_keeps_its_place_through_restarts() {
        let mut roster = Roster::<()>::default();
        assert_eq!(reconcile(&mut roster, &[]), []);
        for pid in [10, 11, 12] {
            assert_eq!(reconcile(&mut roster, &[pid]), [(0, pid)]);
        }
        assert_eq!(roster.iter().count(), 1);
    }

    #[test]
    fn no_process_takes_over_what_another_program_left() {
        let mut roster = Roster::<()>::new(vec![cooling(600)]);
        let now = Mono::from_secs(1_000);
        let seat = |roster: &mut Roster<()>, pid: u32, program: &str| {
            let seated = roster.seat_by_program(vec![(process(pid), Some(program.into()))], now);
            let number = seated[0].0;
            roster.get_mut(number).unwrap().slot.arrive(process(pid), &Rules::default(), Duration::from_secs(1));
            number
        };
        let first = seat(&mut roster, 10, "checkout");
        roster.get_mut(first).unwrap().vacate();
        let other = seat(&mut roster, 11, "search");
        assert_ne!(first, other);
        assert_eq!(roster.get(other).unwrap().slot.cooldown_until(now), None, "the cooldown is not its own");
        assert_eq!(seat(&mut roster, 12, "checkout"), first);
        assert!(roster.get(first).unwrap().slot.cooldown_until(now).is_some());
    }

    #[test]
    fn a_reused_pid_is_a_newcomer() {
        let mut roster = Roster::<()>::default();
        reconcile(&mut roster, &[10]);
        let again = InstanceId { pid: 10, start_ticks: 999 };
        assert_eq!(roster.left(&[again.into()]), [0]);
    }

    #[test]
    fn several_processes_sit_apart_and_empty_places_are_forgotten() {
        let mut roster = Roster::<()>::default();
        assert_eq!(reconcile(&mut roster, &[1, 2, 3]), [(0, 1), (1, 2), (2, 3)]);
        reconcile(&mut roster, &[2]);
        assert_eq!(roster.iter().count(), 1);
        assert_eq!(reconcile(&mut roster, &[2, 4]), [(3, 4)]);
        reconcile(&mut roster, &[]);
        assert_eq!(roster.iter().count(), 1, "one place stays to wait in");
    }

    #[test]
    fn a_newcomer_inherits_the_longest_cooldown() {
        let mut roster = Roster::new(vec![cooling(10), cooling(100), cooling(50)]);
        assert_eq!(reconcile(&mut roster, &[7]), [(1, 7)]);
        assert_eq!(reconcile(&mut roster, &[7, 8]), [(2, 8)]);
        assert_eq!(roster.iter().count(), 3, "a cooldown outlives its process");
    }
}
