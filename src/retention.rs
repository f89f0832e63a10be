//! Which bundles to delete: measured, planned (pure), then applied.
//!
//! Of each target the first, the worst (highest RSS) and the latest bundle are kept as long as its count allows; only age
//! takes those too, and never the latest. While the clock is doubted (`calendar`), nothing is old. What was taken under a clock that was
//! ahead, and is from the future now, counts as the oldest: else it would displace all that is taken from now on. What carries no manifest of memtrap's own is not looked at, let alone deleted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::aside::may_block;
use crate::bundle::{self, Bundle, BundleError};
use crate::config::Retention;
use crate::error::chain;
use crate::units::ByteSize;

/// Clocks of hosts that share a directory differ.
const FUTURE: Duration = Duration::from_secs(3_600);
/// First, worst and latest.
const PROTECTED: usize = 3;

/// What the plan needs to know of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: String,
    pub target: String,
    /// Of a target that means many services; the bounds of a target are those of each.
    pub workload: Option<String>,
    pub started: SystemTime,
    pub rss: u64,
    pub bytes: u64,
}

/// A bundle to delete, and which bound it exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub id: String,
    pub bytes: u64,
    pub why: String,
}

/// The wall clock, and whether it is believed.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub now: SystemTime,
    pub believed: bool,
}

impl Clock {
    fn age(self, bundle: &Kept) -> Duration {
        if self.believed { self.now.duration_since(bundle.started).unwrap_or(Duration::ZERO) } else { Duration::ZERO }
    }

    /// What bundles are sorted by; their IDs hold their time too.
    fn order(self, bundle: &Kept) -> (SystemTime, &str) {
        let is_future = bundle.started.duration_since(self.now).is_ok_and(|ahead| ahead > FUTURE);
        (if is_future { SystemTime::UNIX_EPOCH } else { bundle.started }, &bundle.id)
    }
}

/// The deletions that bring `bundles` within `policy`, least valuable first. `free` is the disk's free space in bytes.
///
/// Age and count are bounds of each target, size and free disk of all together; those two spare what is protected. Of a target that means many
/// services they are bounds of each, and what a service protects goes before the disk fills: there may be any number of services.
pub fn plan(bundles: &[Kept], policy: &Retention, free: u64, clock: Clock) -> Vec<Removal> {
    let mut targets: BTreeMap<(&str, Option<&str>), Vec<&Kept>> = BTreeMap::new();
    for bundle in bundles {
        targets.entry((&bundle.target, bundle.workload.as_deref())).or_default().push(bundle);
    }
    let mut removals = Vec::new();
    let mut rest: Vec<&Kept> = Vec::new();
    let mut protected: HashSet<&str> = HashSet::new();
    let mut of_services: BTreeMap<&str, Vec<&Kept>> = BTreeMap::new();
    let mut spared: HashSet<&str> = HashSet::new();
    for ((target, workload), of_target) in &mut targets {
        of_target.sort_by_key(|b| clock.order(b));
        let latest = of_target.last().map(|b| b.id.as_str());
        let too_old = |b: &Kept| clock.age(b) > policy.max_age;
        let (old, mut young): (Vec<&Kept>, Vec<&Kept>) = of_target.iter().partition(|b| too_old(b) && Some(b.id.as_str()) != latest);
        removals.extend(old.iter().map(|b| b.removed(format!("older than max_age {}", humantime::format_duration(policy.max_age)))));

        let ranked = by_value(&young);
        let keep: HashSet<&str> = ranked.iter().take(policy.max_bundles_per_target.max(1)).map(|b| b.id.as_str()).collect();
        let why = format!("more than max_bundles_per_target {}", policy.max_bundles_per_target);
        removals.extend(young.iter().filter(|b| !keep.contains(b.id.as_str())).map(|b| b.removed(why.clone())));
        young.retain(|b| keep.contains(b.id.as_str()));
        let valued = ranked.iter().take(PROTECTED).map(|b| b.id.as_str());
        match workload {
            None => protected.extend(valued),
            Some(_) => {
                spared.extend(valued);
                of_services.entry(target).or_default().extend(&young);
            }
        }
        rest.extend(young);
    }
    for of_target in of_services.values_mut() {
        of_target.sort_by_key(|b| clock.order(b));
        protected.extend(by_value(of_target).iter().take(PROTECTED).map(|b| b.id.as_str()));
    }
    let mut total: u64 = rest.iter().fold(0, |sum, b| sum.saturating_add(b.bytes));
    let mut free = removals.iter().fold(free, |sum, r| sum.saturating_add(r.bytes));
    rest.retain(|b| !protected.contains(b.id.as_str()));
    rest.sort_by_key(|b| (spared.contains(b.id.as_str()), clock.order(b)));
    for bundle in rest {
        let why = if total > policy.max_total_size.0 {
            format!("all together above max_total_size {}", policy.max_total_size)
        } else if free < policy.min_free_disk.0 {
            format!("less than min_free_disk {} free", policy.min_free_disk)
        } else {
            break;
        };
        total = total.saturating_sub(bundle.bytes);
        free = free.saturating_add(bundle.bytes);
        removals.push(bundle.removed(why));
    }
    removals
}

/// Most valuable first: latest, worst, first, then the later before the earlier. `bundles` are in order of time.
fn by_value<'a>(bundles: &[&'a Kept]) -> Vec<&'a Kept> {
    let worst = bundles.iter().max_by_key(|b| (b.rss, Reverse(b.started)));
    let chosen = bundles.last().into_iter().chain(worst).chain(bundles.first()).chain(bundles.iter().rev());
    let mut seen = HashSet::new();
    chosen.filter(|b| seen.insert(b.id.as_str())).copied().collect()
}

impl Kept {
    fn removed(&self, why: String) -> Removal {
        Removal { id: self.id.clone(), bytes: self.bytes, why }
    }

    fn of(bundle: &Bundle) -> Kept {
        let started = humantime::parse_rfc3339(&bundle.manifest.started).unwrap_or(SystemTime::UNIX_EPOCH);
        let m = &bundle.manifest;
        Kept {
            id: bundle.id.clone(),
            target: m.target.clone(),
            workload: m.instance.workload.clone(),
            started,
            rss: m.trigger.rss_bytes,
            bytes: bundle.bytes(),
        }
    }
}

/// What was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub bundles: usize,
    pub bytes: u64,
}

/// Measures `bundle_dir`, plans and deletes. Blocks on the disk.
pub fn apply(bundle_dir: &Path, policy: &Retention, clock: Clock) -> Result<Applied, BundleError> {
    may_block();
    let kept: Vec<Kept> = bundle::each(bundle_dir)?.map(|b| Kept::of(&b)).collect();
    let free = bundle::free_disk(bundle_dir).unwrap_or(u64::MAX);
    let mut applied = Applied::default();
    for removal in plan(&kept, policy, free, clock) {
        let Ok(bundle) = bundle::open(bundle_dir, &removal.id) else { continue };
        match bundle::remove(&bundle) {
            Ok(()) => {
                tracing::info!(bundle = removal.id, why = removal.why, size = %ByteSize(removal.bytes), "bundle deleted");
                applied.bundles += 1;
                applied.bytes = applied.bytes.saturating_add(removal.bytes);
            }
            Err(error) => tracing::warn!(bundle = removal.id, error = chain(&error), "a bundle due for deletion could not be deleted"),
        }
    }
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DAY: u64 = 86_400;

    fn policy() -> Retention {
        Retention {
            max_bundles_per_target: 100,
            max_total_size: ByteSize(u64::MAX),
            max_age: Duration::from_secs(1_000 * DAY),
            min_free_disk: ByteSize(0),
        }
    }

    fn day(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(n * DAY)
    }

    /// Bundles of one target, one a day, with these RSS, 10 bytes each.
    fn caught(target: &str, rss: &[u64]) -> Vec<Kept> {
        let one = |(i, rss): (usize, &u64)| Kept {
            id: format!("{target}/{i}"),
            target: target.into(),
            workload: None,
            started: day(i as u64),
            rss: *rss,
            bytes: 10,
        };
        rss.iter().enumerate().map(one).collect()
    }

    fn removed(bundles: &[Kept], policy: &Retention, free: u64, today: u64) -> Vec<String> {
        plan(bundles, policy, free, Clock { now: day(today), believed: true }).into_iter().map(|r| r.id).collect()
    }

    #[test]
    fn within_bounds_nothing_goes() {
        assert!(removed(&caught("a", &[1, 2, 3]), &policy(), 0, 10).is_empty());
    }

    #[test]
    fn the_count_spares_first_worst_and_latest() {
        let p = Retention { max_bundles_per_target: 3, ..policy() };
        assert_eq!(removed(&caught("a", &[5, 1, 9, 2, 3]), &p, 0, 10), ["a/1", "a/3"]);
        let p = Retention { max_bundles_per_target: 1, ..policy() };
        assert_eq!(removed(&caught("a", &[5, 9, 1]), &p, 0, 10), ["a/0", "a/1"], "one place is the latest's");
    }

    #[test]
    fn age_takes_all_but_the_latest() {
        let p = Retention { max_age: Duration::from_secs(2 * DAY), ..policy() };
        assert_eq!(removed(&caught("a", &[9, 1, 1, 1]), &p, 0, 5), ["a/0", "a/1", "a/2"].map(String::from)[..]);
        assert_eq!(removed(&caught("a", &[9]), &p, 0, 500).len(), 0);
    }

    #[test]
    fn size_takes_the_oldest_unprotected_of_all_targets() {
        let mut all = caught("a", &[1, 1, 1, 1, 9]);
        all.extend(caught("b", &[7]));
        let p = Retention { max_total_size: ByteSize(45), ..policy() };
        assert_eq!(removed(&all, &p, 0, 10), ["a/1", "a/2"]);
        let p = Retention { max_total_size: ByteSize(1), ..policy() };
        assert!(!removed(&all, &p, 0, 10).contains(&"b/0".to_owned()), "a quiet target does not pay for a loud one");
    }

    #[test]
    fn each_service_of_a_target_has_its_own_bounds_and_together_they_fill_no_disk() {
        let of = |workload: &str, rss: &[u64]| {
            let name = |k: Kept| Kept { id: k.id.replace("host/", &format!("host/{workload}-")), workload: Some(workload.into()), ..k };
            caught("host", rss).into_iter().map(name).collect::<Vec<_>>()
        };
        let mut all = of("loud", &[1, 2, 3, 4, 9]);
        all.extend(of("quiet", &[5]));
        let p = Retention { max_bundles_per_target: 3, ..policy() };
        assert_eq!(removed(&all, &p, 0, 10), ["host/loud-1", "host/loud-2"], "the loud one's count is not the quiet one's");
        let many: Vec<Kept> = (0..50).flat_map(|n| of(&format!("s{n}"), &[1, 2, 3])).collect();
        let p = Retention { max_total_size: ByteSize(100), ..policy() };
        assert_eq!(many.len() - removed(&many, &p, 0, 10).len(), 10, "10 bytes each");
    }

    #[test]
    fn a_full_disk_takes_only_what_it_needs() {
        let p = Retention { min_free_disk: ByteSize(100), ..policy() };
        assert_eq!(removed(&caught("a", &[1; 9]), &p, 85, 10), ["a/1", "a/2"]);
        assert!(removed(&caught("a", &[1; 9]), &p, 100, 10).is_empty());
    }

    #[test]
    fn a_clock_set_back_deletes_nothing() {
        let p = Retention { max_age: Duration::from_secs(DAY), ..policy() };
        let future: Vec<Kept> = caught("a", &[1, 2]).into_iter().map(|k| Kept { started: day(900), ..k }).collect();
        assert!(removed(&future, &p, 0, 1).is_empty());
    }

    #[test]
    fn a_clock_that_is_doubted_makes_nothing_old() {
        let p = Retention { max_age: Duration::from_secs(DAY), max_bundles_per_target: 3, ..policy() };
        let ahead = Clock { now: day(2_000), believed: false };
        let removed: Vec<String> = plan(&caught("a", &[5, 1, 9, 2, 3]), &p, 0, ahead).into_iter().map(|r| r.id).collect();
        assert_eq!(removed, ["a/1", "a/3"], "the count counts all the same");
    }

    #[test]
    fn what_was_taken_under_a_clock_that_was_ahead_displaces_nothing_that_is_taken_since() {
        let p = Retention { max_bundles_per_target: 3, ..policy() };
        let mut bundles = caught("a", &[5, 9, 1, 2]);
        // while the clock was years ahead
        bundles.get_mut(1).unwrap().started = day(1_900);
        bundles.get_mut(2).unwrap().started = day(1_901);
        bundles.push(Kept { started: day(5), ..bundles[3].clone() });
        bundles.last_mut().unwrap().id = "a/4".into();
        assert_eq!(removed(&bundles, &p, 0, 6), ["a/2", "a/3"], "kept are the first, the worst and the latest");
    }

    #[test]
    fn only_what_has_a_manifest_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let mut ids = Vec::new();
        for second in 0..3 {
            ids.push(bundle::tests::publish(dir.path(), "svc", day(1) + Duration::from_secs(second)).id);
        }
        let foreign = dir.path().join("svc/20200101T000000Z-threshold-1.00GiB");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("thesis.txt"), "mine").unwrap();
        let p = Retention { max_bundles_per_target: 1, ..policy() };
        let applied = apply(dir.path(), &p, Clock { now: day(2), believed: true }).unwrap();
        assert_eq!(applied.bundles, 2);
        let left: Vec<String> = bundle::list(dir.path()).unwrap().into_iter().map(|b| b.id).collect();
        assert_eq!(left, [ids[2].clone()]);
        assert!(foreign.join("thesis.txt").exists());
    }
}
