//! What the rules make of loads that do not leak, and of leaks: made-up series, each against a sensible set of rules.

use std::time::{Duration, SystemTime};

use super::read::Reading;
use super::{Setup, replay};
use crate::config::{Capture, Rules};
use crate::units::SizeOrPercent;

const MIB: f64 = (1 << 20) as f64;
const HOUR: u64 = 3_600;

/// MiB at a second.
type Rss = Box<dyn FnMut(f64) -> f64>;

/// RSS in MiB each `step` seconds, of a process that has been running for a day, with a limit of 2 GiB.
fn fires(rules: &Rules, seconds: u64, step: u64, rss: impl FnMut(f64) -> f64) -> usize {
    fires_below(2048, rules, seconds, step, rss)
}

fn fires_below(limit: u64, rules: &Rules, seconds: u64, step: u64, mut rss: impl FnMut(f64) -> f64) -> usize {
    let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + second);
    let readings: Vec<Reading> = (0..seconds)
        .step_by(step as usize)
        .map(|second| Reading { at: at(second), rss: (rss(second as f64) * MIB) as u64, kept: None })
        .take_while(|reading| reading.rss < limit << 20)
        .collect();
    let setup = Setup {
        rules: rules.clone(),
        capture: Capture { cpu_seconds: 5, ..Capture::default() },
        interval: Duration::from_secs(step),
        limit: Some(limit << 20),
        age: Some(Duration::from_secs(86_400)),
        ended: false,
    };
    replay(&readings, &setup).fired().count()
}

fn threshold(level: &str) -> Rules {
    Rules { threshold: vec![level.parse::<SizeOrPercent>().unwrap()], ..Rules::default() }
}

fn slope(rate: &str) -> Rules {
    Rules { slope: Some(rate.parse().unwrap()), ..Rules::default() }
}

fn eta(minutes: u64) -> Rules {
    Rules { eta: Some(Duration::from_secs(60 * minutes)), ..Rules::default() }
}

/// From `low`, up by `height` MiB in `period` seconds, down at once.
fn sawtooth(low: f64, height: f64, period: f64) -> impl Fn(f64) -> f64 {
    move |t| low + height * (t % period) / period
}

/// Numbers from -1 to 1, the same in every run.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

fn all() -> [(&'static str, Rules); 6] {
    [
        ("threshold 80%", threshold("80%")),
        ("slope 50MiB/5m", slope("50MiB/5m")),
        ("slope 200MiB/10m", slope("200MiB/10m")),
        ("eta 5m", eta(5)),
        ("eta 15m", eta(15)),
        ("eta 1h", eta(60)),
    ]
}

fn counts(seconds: u64, step: u64, rss: impl Fn(f64) -> f64) -> [usize; 6] {
    all().map(|(_, rules)| fires(&rules, seconds, step, &rss))
}

#[test]
fn noise_about_a_level_fires_nothing() {
    for seed in 1..6 {
        for (name, rules) in all() {
            let mut noise = noise(seed);
            assert_eq!(fires(&rules, 3 * HOUR, 5, |_| 1_024.0 * (1.0 + 0.01 * noise())), 0, "{name}, seed {seed}");
            let mut noise = self::noise(seed + 100);
            let near = fires(&Rules { threshold: Vec::new(), ..rules }, 3 * HOUR, 5, |_| 1_980.0 * (1.0 + 0.005 * noise()));
            assert!(near == 0 || name.starts_with("threshold"), "{name} next to the limit, seed {seed}");
        }
    }
}

#[test]
fn sawteeth_that_fit_into_half_a_window_fire_nothing() {
    assert_eq!(counts(2 * HOUR, 2, sawtooth(1_024.0, 58.0, 40.0)), [0; 6]);
    let of_3_min = sawtooth(1_024.0, 119.0, 180.0);
    assert_eq!(counts(2 * HOUR, 2, of_3_min), [0; 6]);
}

#[test]
fn of_a_sawtooth_longer_than_the_window_only_the_first_rise_fires() {
    for (height, period) in [(300.0, 600.0), (400.0, 1_200.0), (700.0, 3_600.0)] {
        let fired = counts(8 * HOUR, 5, sawtooth(900.0, height, period));
        assert!(fired.iter().all(|n| *n <= 1), "{height} MiB in {period} s: {fired:?}");
    }
}

#[test]
fn what_has_just_come_down_is_no_rise() {
    // up for two hours, down within a second, and the cooldown ends while the window still holds the rise
    let rules = Rules { cooldown: Duration::from_secs(7_230), ..slope("100MiB/10m") };
    let rss = |t: f64| if t < 7_200.0 { 500.0 + t * 0.2 } else { 721.0 };
    assert_eq!(fires(&rules, 9_000, 1, rss), 1, "of the rise itself");
    let late = Rules { cooldown: Duration::ZERO, hold: Duration::from_secs(1), ..slope("100MiB/10m") };
    assert_eq!(fires(&late, 9_000, 1, rss), 1);
}

#[test]
fn what_stands_over_the_line_two_of_three_seconds_fires() {
    let rss = |t: f64| if t % 3.0 < 2.0 { 1_229.0 } else { 1_014.0 };
    assert_eq!(fires(&threshold("1.1GiB"), 600, 1, rss), 1);
    assert_eq!(fires(&threshold("1.1GiB"), 600, 1, |t| if t % 3.0 < 1.0 { 1_229.0 } else { 1_014.0 }), 0, "one of three");
}

#[test]
fn a_steady_leak_is_found_whatever_its_speed() {
    for rate in [0.1, 0.2, 0.5, 2.0, 10.0, 50.0, 200.0, 500.0] {
        let leak = |t: f64| 300.0 + rate * (t - 1_200.0).max(0.0);
        let step = if rate < 1.0 { 5 } else { 1 };
        let seconds = 1_300 + (8_192.0 / rate) as u64;
        let fired = |rules: &Rules| fires_below(8_192, rules, seconds, step, leak);
        assert_eq!(fired(&threshold("80%")), 1, "threshold, {rate} MiB/s");
        if (0.2..5.0).contains(&rate) {
            assert_eq!(fired(&slope("50MiB/5m")), 1, "slope, {rate} MiB/s");
        }
        if rate <= 50.0 {
            // a fast one through the short window
            assert_eq!([fired(&eta(15)), fired(&eta(60))], [1; 2], "eta, {rate} MiB/s");
            // 6 MiB in its window of a minute are noise below a limit of 8 GiB
            assert_eq!(fired(&eta(5)), usize::from(rate > 0.1), "eta, {rate} MiB/s");
        }
    }
}

#[test]
fn a_leak_under_a_collectors_sawtooth_and_one_in_steps_are_found() {
    for seed in 1..5u64 {
        for (rate, period) in [(0.5, 20.0), (0.5, 90.0), (1.0, 45.0), (2.0, 30.0)] {
            let mut noise = noise(seed);
            // RSS swings between what lives and twice that
            let rss = |t: f64| {
                let live = 300.0 + rate * (t - 1_200.0).max(0.0);
                live * (1.0 + (t + seed as f64 * 7.0) % period / period) + noise()
            };
            assert!(fires_below(8_192, &slope("200MiB/10m"), 6_000, 2, rss) >= 1, "seed {seed}, {rate} MiB/s, a tooth each {period} s");
        }
        let steps = |t: f64| 300.0 + 60.0 * (t / (60.0 + seed as f64 * 30.0)).floor();
        assert_eq!(fires_below(8_192, &slope("50MiB/5m"), 4 * HOUR, 5, steps), 1, "steps, seed {seed}");
    }
}

#[test]
fn a_leak_above_the_teeth_that_were_seen_is_found() {
    // harmless teeth of 20 min for two hours, then each ends 300 MiB higher
    let rss = |t: f64| {
        let leaked = ((t - 7_200.0).max(0.0) / 1_200.0).floor() * 300.0;
        600.0 + leaked + 400.0 * (t % 1_200.0) / 1_200.0
    };
    assert_eq!(fires_below(8_192, &slope("150MiB/10m"), 7_200, 5, rss), 1, "the first tooth");
    assert!(fires_below(8_192, &slope("150MiB/10m"), 5 * HOUR, 5, rss) >= 2, "the leak");
}

#[test]
fn series_that_no_process_makes_break_nothing() {
    let huge = u64::MAX as f64 / MIB;
    let mut random = noise(11);
    let mut odd: Vec<(&str, Rss)> = vec![
        ("zeros", Box::new(|_| 0.0)),
        ("huge, then nothing", Box::new(move |t| if t % 60.0 < 30.0 { huge } else { 0.0 })),
        ("alternating", Box::new(move |t| if t % 2.0 < 1.0 { huge } else { 1.0 })),
        ("anything", Box::new(move |_| huge * random().abs())),
    ];
    for (name, rss) in &mut odd {
        for (rule, rules) in all() {
            let fired = fires_below(u64::MAX >> 20, &rules, 1_800, 1, &mut **rss);
            assert!(fired <= 2, "{name}, {rule}: {fired}");
        }
    }
}

#[test]
fn readings_that_share_a_time_or_are_a_minute_apart_count_as_they_are() {
    let at = |second| SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + second);
    let fired = |rules: Rules, readings: &[Reading]| {
        let interval = Duration::from_secs(1);
        let setup = Setup {
            rules,
            capture: Capture::default(),
            interval,
            limit: Some(2 << 30),
            age: Some(Duration::from_secs(86_400)),
            ended: false,
        };
        replay(readings, &setup).fired().count()
    };
    let twins: Vec<Reading> = (0..600).map(|i| Reading { at: at(i / 2), rss: (500 + 2 * i) << 20, kept: None }).collect();
    assert_eq!(fired(slope("200MiB/2m"), &twins), 1);
    let minutes: Vec<Reading> = (0..120).map(|i| Reading { at: at(i * 60), rss: (500 + 10 * i) << 20, kept: None }).collect();
    assert_eq!(fired(slope("80MiB/10m"), &minutes), 1);
    assert_eq!(fired(threshold("1GiB"), &minutes), 1);
    // the clock stands still, then jumps by a day
    let jump: Vec<Reading> =
        (0..300).map(|i| Reading { at: at(if i < 150 { i } else { 86_400 + i }), rss: (500 + i % 5) << 20, kept: None }).collect();
    assert_eq!(fired(eta(60), &jump) + fired(slope("50MiB/5m"), &jump), 0);
}
