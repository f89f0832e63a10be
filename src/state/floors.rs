//! The floors of RSS that `leak` judges by, in `state_dir/floors.json`: a file of its own, for it is a hundred times as large as the state, and is written
//! once an hour. What cannot be understood of it is set aside: the cost is that a leak is found some days later.
//!
//! Some four bytes an hour and instance; of very many instances fewer hours each are stored.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Moment, SCHEMA, StateError, Store, unix_ms};
use crate::clock::Mono;
use crate::floors::KEPT;
use crate::identity::Identity;
use crate::trigger::leak::SavedLeak;

const FLOORS: &str = "floors.json";
const MAX_BYTES: u64 = 32 << 20;
/// Of all instances together.
const MOST_HOURS: usize = 4_000_000;

/// Everything that is stored of floors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptFloors {
    pub schema: u32,
    /// Process start times and the monotonic clock mean something within one boot only.
    pub boot_id: String,
    pub mono: Mono,
    pub unix_ms: u64,
    pub targets: BTreeMap<String, Vec<FloorsOf>>,
}

/// Floors of one life of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorsOf {
    pub instance: Identity,
    #[serde(flatten)]
    pub leak: SavedLeak,
}

impl KeptFloors {
    pub fn new(boot_id: &str, mono: Mono, wall: SystemTime) -> KeptFloors {
        KeptFloors { schema: SCHEMA, boot_id: boot_id.to_owned(), mono, unix_ms: unix_ms(wall), targets: BTreeMap::new() }
    }

    /// Time passed since it was stored, as [`super::Saved::elapsed`] tells it.
    pub fn elapsed(&self, boot_id: &str, mono: Mono, wall: SystemTime) -> Duration {
        let stored = Moment { boot_id: &self.boot_id, mono: self.mono, unix_ms: self.unix_ms };
        stored.elapsed(boot_id, mono, wall)
    }

    /// How many hours are stored of each of so many instances.
    pub fn hours_each(instances: usize) -> usize {
        (MOST_HOURS / instances.max(1)).min(KEPT)
    }
}

impl Store {
    /// What was stored last; `None` if nothing, or nothing that can be used (which is logged and set aside).
    pub fn load_floors(&self) -> Option<KeptFloors> {
        self.load_or_set_aside(FLOORS, MAX_BYTES, |kept: &KeptFloors| kept.schema)
    }

    /// Replaces what is stored. Blocks on the disk. After a crash at any moment the old or the new one is there, whole.
    pub fn save_floors(&self, kept: &KeptFloors) -> Result<(), StateError> {
        debug_assert_eq!(kept.schema, SCHEMA);
        self.replace(FLOORS, MAX_BYTES, kept)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::floors::SavedFloors;
    use crate::identity::{InstanceId, SeriesId};

    fn kept(instances: u32, hours: usize) -> KeptFloors {
        let floors = SavedFloors { hours: vec![16_384; hours], open: 16_400, open_ms: 5, total: 2_000, second_day: 9_000 };
        let of = |pid| FloorsOf {
            instance: InstanceId { pid, start_ticks: 7 }.into(),
            leak: SavedLeak { floors: floors.clone(), told: Some(1 << 30) },
        };
        let mut kept = KeptFloors::new("boot-1", Mono::from_secs(100), SystemTime::UNIX_EPOCH + Duration::from_secs(5_000));
        kept.targets.insert("shop".into(), (0..instances).map(of).collect());
        kept
    }

    #[test]
    fn floors_that_are_saved_are_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load_floors(), None);
        let mut kept = kept(3, KEPT);
        let series = SeriesId { series: "http://10.0.0.1:6060/metrics".into(), started_unix_ms: Some(5) };
        kept.targets.insert("far".into(), vec![FloorsOf { instance: Identity::Series(series), leak: SavedLeak::default() }]);
        store.save_floors(&kept).unwrap();
        assert_eq!(store.load_floors(), Some(kept));
    }

    #[test]
    fn floors_that_are_garbage_or_of_another_version_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let other = serde_json::to_string(&KeptFloors { schema: 99, ..kept(1, 5) }).unwrap();
        for garbage in ["", "[]", "{\"schema\":1}", &other] {
            fs::write(dir.path().join(FLOORS), garbage).unwrap();
            assert_eq!(store.load_floors(), None, "{garbage}");
            assert!(!dir.path().join(FLOORS).exists() && dir.path().join("floors.json.unreadable").exists());
        }
    }

    #[test]
    fn a_month_of_floors_is_a_few_kib_and_those_of_ten_thousand_instances_fit() {
        let size = |kept: &KeptFloors| serde_json::to_vec(kept).unwrap().len() as u64;
        let one = size(&kept(2, KEPT)) - size(&kept(1, KEPT));
        assert!(one < 6 << 10, "{one} bytes");
        let many = one / KEPT as u64 * KeptFloors::hours_each(10_000) as u64 * 10_000;
        assert!(many < MAX_BYTES, "{many} bytes");
    }
}
