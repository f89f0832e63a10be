//! What earlier runs left, put together. Pure.

use std::collections::{BTreeMap, HashSet};

use crate::incident::SavedSlot;
use crate::state::{KeptFloors, Saved};

/// What earlier runs left.
#[derive(Debug, Default)]
pub struct Recovered {
    pub saved: Option<Saved>,
    pub floors: Option<KeptFloors>,
    /// Targets and incidents whose bundles were found, and of which the stored state may not know how they ended.
    pub interrupted: Vec<(String, SavedSlot)>,
}

/// Adds what the bundles tell to the slots that were stored, by target: what was being captured and left no bundle is still to be captured,
/// and no process gets two places.
pub(super) fn merge(slots: &mut BTreeMap<String, Vec<SavedSlot>>, interrupted: Vec<(String, SavedSlot)>) {
    let with_bundle: HashSet<String> = interrupted.iter().filter_map(|(_, slot)| incident(slot)).map(str::to_owned).collect();
    for slot in slots.values_mut().flatten() {
        if slot.capturing && !incident(slot).is_some_and(|id| with_bundle.contains(id)) {
            (slot.capturing, slot.retrying) = (false, true);
        }
    }
    for (target, slot) in interrupted {
        let known = slots.entry(target).or_default();
        if known.iter().any(|k| incident(k) == incident(&slot)) {
            continue;
        }
        match known.iter_mut().find(|k| k.instance.is_some() && k.instance == slot.instance) {
            // their ids have the time in them
            Some(same) if incident(same) < incident(&slot) => *same = slot,
            Some(_) => {}
            None => known.push(slot),
        }
    }
}

fn incident(slot: &SavedSlot) -> Option<&str> {
    slot.incident.as_ref().map(|i| i.id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::InstanceId;
    use crate::incident::Incident;
    use crate::trigger::Fired;

    fn slot(pid: u32, id: &str, capturing: bool) -> SavedSlot {
        let fired = Fired::manual(1, None, String::new());
        SavedSlot {
            instance: Some(InstanceId { pid, start_ticks: 1 }.into()),
            incident: Some(Incident { id: id.into(), part: 1, stages: 0, rearm_below: 0, counts_charge: false, fired }),
            capturing,
            ..SavedSlot::default()
        }
    }

    fn merged(stored: Vec<SavedSlot>, found: Vec<SavedSlot>) -> Vec<SavedSlot> {
        let mut slots = BTreeMap::from([("shop".to_owned(), stored)]);
        merge(&mut slots, found.into_iter().map(|slot| ("shop".to_owned(), slot)).collect());
        slots.remove("shop").unwrap()
    }

    #[test]
    fn a_capture_that_was_killed_before_it_had_a_bundle_is_still_to_be_made() {
        let is = |found| merged(vec![slot(7, "shop-1", true)], found).iter().map(|s| (s.capturing, s.retrying)).collect::<Vec<_>>();
        assert_eq!(is(vec![]), [(false, true)]);
        assert_eq!(is(vec![slot(7, "shop-1", true)]), [(true, false)]);
    }

    #[test]
    fn a_process_has_one_place_with_its_newest_incident() {
        let ids = |stored, found| merged(stored, found).iter().map(|s| incident(s).unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(ids(vec![], vec![slot(7, "shop-1", true), slot(7, "shop-2", true)]), ["shop-2"]);
        assert_eq!(ids(vec![slot(7, "shop-2", false)], vec![slot(7, "shop-1", true)]), ["shop-2"]);
        assert_eq!(ids(vec![slot(7, "shop-1", false)], vec![slot(8, "shop-2", true)]), ["shop-1", "shop-2"]);
    }
}
