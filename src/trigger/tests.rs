use super::*;
use crate::units::SizeOrPercent;

const MIB: u64 = 1 << 20;

fn size(mib: u64) -> SizeOrPercent {
    SizeOrPercent::Size(ByteSize::mib(mib))
}

/// Feeds one reading a second (MiB) to a process started `age` seconds before; what fired first, and at which second.
fn first(rules: &config::Rules, limit_mib: Option<u64>, age: u64, readings: impl IntoIterator<Item = u64>) -> Option<(usize, Fired)> {
    let second = Duration::from_secs(1);
    let levels = Levels::resolve(rules, second, limit_mib.map(|l| l * MIB));
    let mut detector = Detector::new(rules, second);
    readings.into_iter().enumerate().find_map(|(i, mib)| {
        let sample = Sample { at: Mono::from_secs(1_000 + i as u64), rss: mib * MIB };
        detector.observe(sample, Duration::from_secs(age + i as u64), &levels, 0);
        detector.fired(&levels).map(|f| (i, f))
    })
}

#[test]
fn a_threshold_fires_once_it_has_held() {
    let rules = config::Rules { threshold: vec![size(100)], ..Default::default() };
    let (when, fired) = first(&rules, None, 0, [50, 100, 100, 100, 100]).unwrap();
    assert_eq!((when, fired.trigger, fired.level_bytes), (4, Trigger::Threshold, 100 * MIB));
    assert_eq!(fired.reason, "RSS 100MiB at or above the threshold of 100MiB, for 3s");
    assert_eq!(first(&rules, None, 0, [100, 100, 99, 100, 100, 100]).unwrap().0, 5, "a dip counts for neither");
    assert!(first(&rules, None, 0, [100, 100, 99, 99, 99, 100, 100, 100]).is_none(), "a longer one takes back what it lasts");
}

#[test]
fn percentages_are_of_the_limit_and_silent_without_one() {
    let rules = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
    assert_eq!(first(&rules, Some(100), 0, [79, 80]).unwrap().0, 1);
    assert!(first(&rules, None, 0, [79, 80, 10_000]).is_none());
}

/// As [`first`], with the cgroup's charge (MiB) of a limit of its own (MiB).
fn first_charged(
    rules: &config::Rules,
    limit_mib: u64,
    of_mib: u64,
    readings: impl IntoIterator<Item = (u64, u64)>,
) -> Option<(usize, Fired, Detector)> {
    let second = Duration::from_secs(1);
    let levels = Levels::resolve(rules, second, Some(limit_mib * MIB));
    let mut detector = Detector::new(rules, second);
    for (i, (mib, charge)) in readings.into_iter().enumerate() {
        detector.charged(Some(Charge::new(charge * MIB, of_mib * MIB, "/pod")));
        detector.observe(Sample { at: Mono::from_secs(1_000 + i as u64), rss: mib * MIB }, Duration::from_secs(1_000), &levels, 0);
        if let Some(fired) = detector.fired(&levels) {
            return Some((i, fired, detector));
        }
    }
    None
}

#[test]
fn a_share_of_the_limit_counts_the_charge_and_a_size_does_not() {
    let share = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
    let (when, fired, _) = first_charged(&share, 100, 100, [(6, 60), (6, 79), (6, 80)]).unwrap();
    assert_eq!((when, fired.measure, fired.rss_bytes, fired.measured_bytes()), (2, Measure::Charge, 6 * MIB, 80 * MIB));
    assert_eq!(
        fired.reason,
        "the charge of cgroup /pod, 80.0MiB of 100MiB (RSS 6.00MiB) at or above the threshold of 80.0MiB (80% of the limit of 100MiB), for 0s"
    );
    let (_, fired, _) = first_charged(&share, 100, 100, [(85, 70)]).unwrap();
    assert_eq!((fired.measure, fired.charge_bytes), (Measure::Rss, None));
    let size = config::Rules { threshold: vec![size(80)], hold: Duration::ZERO, ..Default::default() };
    assert!(first_charged(&size, 100, 100, [(6, 60), (6, 99), (79, 99)]).is_none());
}

#[test]
fn at_a_limit_that_the_kernel_has_met_no_rule_waits_and_eta_needs_no_line() {
    let fires = |rules: &config::Rules, charge: u64, is_met, age: u64| {
        let (second, at) = (Duration::from_secs(1), Mono::from_secs(1_000));
        let levels = Levels::resolve(rules, second, Some(285 * MIB));
        let mut detector = Detector::new(rules, second);
        detector.charged(Some(Charge { is_met, ..Charge::new(charge * MIB, 285 * MIB, "/a") }));
        detector.observe(Sample { at, rss: 40 * MIB }, Duration::from_secs(age), &levels, 0);
        detector.fired(&levels).map(|fired| (fired.trigger, fired.reason))
    };
    let share = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::from_secs(3), ..Default::default() };
    let (trigger, reason) = fires(&share, 284, true, 5).unwrap();
    assert_eq!(trigger, Trigger::Threshold);
    assert!(reason.ends_with("not waiting 3s: the kernel has met the limit of 285MiB of cgroup /a"), "{reason}");
    assert_eq!(fires(&share, 284, false, 5), None, "it holds for 3 s as ever");
    assert_eq!(fires(&share, 240, true, 5), None, "page cache met it");
    let size = config::Rules { threshold: vec![size(500)], ..share.clone() };
    assert_eq!(fires(&size, 284, true, 5), None, "what was asked for is RSS");
    let eta = config::Rules { threshold: Vec::new(), eta: Some(Duration::from_secs(300)), ..share };
    let (trigger, reason) = fires(&eta, 284, true, 500).unwrap();
    assert_eq!(trigger, Trigger::Eta);
    assert!(reason.ends_with(" has met the limit of 285MiB of cgroup /a, within 5m"), "{reason}");
    assert_eq!(fires(&eta, 284, true, 5), None, "start-up looks like a leak");
}

#[test]
fn a_share_of_an_ancestors_limit_is_as_near_as_the_same_share_of_the_own() {
    let rules = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
    let (when, fired, _) = first_charged(&rules, 100, 1_000, [(50, 799), (50, 800)]).unwrap();
    assert_eq!((when, fired.charge_bytes, fired.measured_bytes()), (1, Some(800 * MIB), 80 * MIB));
}

#[test]
fn a_charge_that_rises_fires_by_eta_and_its_readings_are_kept_beside_rss() {
    let rules = config::Rules { eta: Some(Duration::from_secs(300)), ..Default::default() };
    let (_, fired, detector) = first_charged(&rules, 1_000, 1_000, (0..900).map(|i| (150, 100 + i))).unwrap();
    assert_eq!((fired.trigger, fired.measure, fired.rss_bytes), (Trigger::Eta, Measure::Charge, 150 * MIB));
    let levels = Levels::resolve(&rules, Duration::from_secs(1), Some(1_000 * MIB));
    let kept = detector.kept(&levels);
    assert!(kept.iter().all(|k| k.sample.rss == 150 * MIB), "{kept:?}");
    assert_eq!(kept.last().unwrap().charge, Some(fired.measured_bytes()));
    assert!(kept.first().unwrap().charge.is_none() && kept.is_sorted_by_key(|k| k.sample.at), "{kept:?}");
}

#[test]
fn the_wait_is_cut_short_when_the_limit_would_come_first() {
    let rules = config::Rules { threshold: vec![size(100)], hold: Duration::from_secs(10), ..Default::default() };
    let (when, fired) = first(&rules, Some(200), 0, [50, 80, 110, 140, 170]).unwrap();
    assert_eq!(when, 2, "{}", fired.reason);
    assert!(fired.reason.contains("not waiting"), "{}", fired.reason);
    assert_eq!(first(&rules, Some(200_000), 0, (0..20).map(|i| 50 + 30 * i)).unwrap().0, 12);
}

#[test]
fn a_step_over_the_line_that_ends_there_waits_as_long_as_any() {
    let rules = config::Rules { threshold: vec![size(100)], ..Default::default() };
    let (when, fired) = first(&rules, Some(200), 0, [50, 50, 50, 50, 50, 150, 150, 150, 150, 150]).unwrap();
    assert_eq!(when, 8, "{}", fired.reason);
}

#[test]
fn a_slope_fires_after_its_window_and_not_during_warm_up() {
    let rules = config::Rules { slope: Some("100MiB/100s".parse().unwrap()), ..Default::default() };
    let (when, fired) = first(&rules, None, 1000, (0..300).map(|i| 100 + i * 2)).unwrap();
    assert_eq!(fired.trigger, Trigger::Slope);
    assert!((80..95).contains(&when), "{when}");
    assert!(first(&rules, None, 0, (0..59).map(|i| 100 + i * 20)).is_none());
    assert!(first(&rules, None, 1000, (0..600).map(|i| 100 + i / 2)).is_none(), "half the slope");
}

#[test]
fn a_sawtooth_and_a_short_spike_are_no_slope() {
    let rules = config::Rules { slope: Some("100MiB/100s".parse().unwrap()), ..Default::default() };
    assert!(first(&rules, None, 1000, (0..1000).map(|i| 300 + (i % 20) * 10)).is_none());
    assert!(first(&rules, None, 1000, (0..1000).map(|i| if i % 200 < 25 { 900 } else { 300 })).is_none());
}

#[test]
fn a_step_that_stays_is_a_rise_over_the_window() {
    let rules = config::Rules { slope: Some("100MiB/100s".parse().unwrap()), ..Default::default() };
    let (when, _) = first(&rules, None, 1000, (0..1000).map(|i| if i < 500 { 300 } else { 900 })).unwrap();
    assert!((520..560).contains(&when), "only once a good part of the window has seen it: {when}");
}

#[test]
fn eta_fires_when_the_limit_is_near_and_rss_rises() {
    let rules = config::Rules { eta: Some(Duration::from_secs(300)), ..Default::default() };
    let (when, fired) = first(&rules, Some(1000), 1000, (0..900).map(|i| 100 + i)).unwrap();
    assert_eq!(fired.trigger, Trigger::Eta);
    assert!((598..612).contains(&when), "300 s before 1000 MiB, plus `for`: {when}");
    assert!(first(&rules, Some(1000), 1000, std::iter::repeat_n(999, 900)).is_none(), "near, but flat");
}

#[test]
fn jitter_next_to_the_limit_is_no_eta() {
    let rules = config::Rules { eta: Some(Duration::from_secs(300)), ..Default::default() };
    assert!(first(&rules, Some(10_000), 1000, (0..2000).map(|i| 9_985 + i * 7 % 11)).is_none());
}

#[test]
fn standing_says_why_not() {
    let rules = config::Rules {
        threshold: vec!["80%".parse().unwrap()],
        slope: Some("200MiB/10m".parse().unwrap()),
        eta: Some(Duration::from_secs(300)),
        ..Default::default()
    };
    let second = Duration::from_secs(1);
    let levels = Levels::resolve(&rules, second, Some(1000 * MIB));
    let mut detector = Detector::new(&rules, second);
    for i in 0..200 {
        detector.observe(Sample { at: Mono::from_secs(i), rss: 400 * MIB }, Duration::from_secs(500 + i), &levels, 0);
    }
    assert_eq!(
        detector.standing(&levels, Lang::En),
        "RSS is 50% of the threshold of 800MiB (80% of the limit of 1000MiB); slope: gathering, 13 of 32 buckets (fires at 200MiB); \
         eta: flat (fires within 5m)"
    );
}

#[test]
fn a_reading_of_twice_the_limit_has_no_time_left() {
    assert_eq!(time_to(100, 200, 1.0), Some(Duration::ZERO));
    assert_eq!(time_to(100, 50, 0.0), None);
    assert_eq!(time_to(100, 50, f64::NAN), None);
    assert_eq!(time_to(u64::MAX, 0, 1e-300), None);
}
