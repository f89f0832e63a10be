//! When the next reading is due: rarely while nothing can happen, often while something is about to. Pure.
//!
//! ```text
//!   RSS   level ───────────────────────────────────
//!         rising: four readings before the level   ┊  100 ms at most often, or so that little of the time from the level to the limit passes
//!         jumped, or new: one more at once         ┊  25 ms
//!         flat: as long as the steepest rise needs ┊  `max_interval` at most seldom
//! ```
//!
//! What polling each `interval` catches is caught: a longer pause ends before the steepest rise that is reckoned with could reach a
//! level, it never leaves a rule's window with too few readings, and once a rule is met readings come each `interval` again, so that a dip that
//! the fixed poll would not see does not end a hold; but for a rise that may reach the limit first. Shorter pauses only add readings.

use std::time::Duration;

use crate::incident::State;
use crate::series::{Rise, Sample};
use crate::trigger::{Levels, time_to};

/// Reading more often tells no more, unless the rise is steep: the kernel's counters lag.
pub const MOST_OFTEN: Duration = Duration::from_millis(100);
/// Where a process has little time between the level and its limit.
const OFTENER: Duration = Duration::from_millis(10);
/// So little of that time may pass before a reading.
const SHARE_BEYOND: u32 = 16;
/// After a reading that may be an outlier.
const CONFIRM: Duration = Duration::from_millis(25);
/// So many times as steep as what is known is a jump.
const JUMP: f64 = 2.0;
/// A jump is confirmed at once if the level is so many intervals away. A rise that began just before the reading is steeper than it looks.
const NEAR: u32 = 4;
/// Bytes per second that a process is reckoned to grow by at most. One thread that touches new memory was measured at 2 to 4 GiB/s.
pub const STEEPEST: u64 = 4 << 30;
/// Readings between now and the level, if the rise goes on.
const AHEAD: u32 = 4;

/// Bounds of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What the configuration says.
    pub interval: Duration,
    /// The longest pause; no effect if shorter than `interval`.
    pub max_interval: Duration,
}

/// The pause after a reading, with how RSS rises as of it.
pub fn pause(state: State, last: Sample, rise: Option<Rise>, levels: &Levels, bounds: Bounds) -> Duration {
    let Bounds { interval, max_interval } = bounds;
    let Some(level) = levels.next_above(last.rss) else { return interval };
    if !matches!(state, State::Armed | State::Warming | State::Pending) {
        return interval;
    }
    let left = |slope: f64| time_to(level, last.rss, slope).filter(|_| slope >= noise(level));
    // of a process that has just come nothing is known: it may be rising already
    let Some(rise) = rise else { return CONFIRM.min(interval) };
    if rise.seen >= JUMP * rise.confirmed && left(rise.seen).is_some_and(|left| left <= interval * NEAR) {
        return CONFIRM.min(interval);
    }
    // a rise in steps is read on between two of them
    let is_near = left(rise.lately).is_some_and(|left| left <= interval * NEAR);
    let slope = if is_near { rise.confirmed.max(rise.lately) } else { rise.confirmed };
    if let Some(left) = left(slope) {
        return (left / AHEAD).clamp(most_often(level, slope, levels).min(interval), interval);
    }
    if state != State::Armed {
        return interval;
    }
    let safe = Duration::from_secs_f64(level.saturating_sub(last.rss) as f64 / STEEPEST as f64);
    let longest = levels.narrowest_bucket().map_or(max_interval, |bucket| max_interval.min(bucket / 2));
    // whole intervals, so that what is due together stays together
    let intervals = safe.min(longest).as_nanos() / interval.as_nanos().max(1);
    interval * u32::try_from(intervals).unwrap_or(1).max(1)
}

/// The shortest pause on the way to a level: what is seen late there is time that a capture lacks before the limit.
fn most_often(level: u64, slope: f64, levels: &Levels) -> Duration {
    let beyond = levels.limit.filter(|limit| *limit > level).and_then(|limit| time_to(limit, level, slope));
    beyond.map_or(MOST_OFTEN, |beyond| (beyond / SHARE_BEYOND).clamp(OFTENER, MOST_OFTEN))
}

/// A rise below this is none: the kernel's counters lag by some hundred KiB per CPU.
fn noise(level: u64) -> f64 {
    (level / 500).max(2 << 20) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::config::Rules;
    use crate::identity::InstanceId;
    use crate::incident::{Captured, Slot};
    use crate::units::{ByteSize, SizeOrPercent};

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const SECOND: Duration = Duration::from_secs(1);
    const BOUNDS: Bounds = Bounds { interval: SECOND, max_interval: Duration::from_secs(5) };

    fn levels(rules: &Rules, limit: u64) -> Levels {
        Levels::resolve(rules, SECOND, Some(limit))
    }

    fn threshold(bytes: u64) -> Rules {
        Rules { threshold: vec![SizeOrPercent::Size(ByteSize(bytes))], ..Rules::default() }
    }

    fn after(state: State, rss: u64, slope: f64, levels: &Levels) -> Duration {
        pause(state, Sample { at: Mono::from_secs(9), rss }, Some(Rise { confirmed: slope, seen: slope, lately: slope }), levels, BOUNDS)
    }

    #[test]
    fn flat_and_far_is_read_seldom_and_near_each_interval() {
        let far = levels(&threshold(100 * GIB), 128 * GIB);
        assert_eq!(after(State::Armed, GIB, 0.0, &far), Duration::from_secs(5));
        assert_eq!(after(State::Armed, 88 * GIB, 0.0, &far), Duration::from_secs(3), "12 GiB at 4 GiB/s");
        assert_eq!(after(State::Armed, 99 * GIB, 0.0, &far), SECOND);
        let small = levels(&threshold(GIB), 2 * GIB);
        assert_eq!(after(State::Armed, 10 * MIB, 0.0, &small), SECOND);
    }

    #[test]
    fn a_rise_is_read_often_enough_to_meet_the_level() {
        let levels = levels(&threshold(GIB), 2 * GIB);
        assert_eq!(after(State::Armed, 24 * MIB, (100 * MIB) as f64, &levels), SECOND, "10 s are left");
        assert_eq!(after(State::Armed, 824 * MIB, (100 * MIB) as f64, &levels), Duration::from_millis(500));
        assert_eq!(after(State::Armed, 1014 * MIB, (100 * MIB) as f64, &levels), MOST_OFTEN);
        assert_eq!(after(State::Armed, 1014 * MIB, MIB as f64, &levels), SECOND, "noise");
    }

    #[test]
    fn the_less_time_a_limit_leaves_beyond_the_level_the_less_of_it_passes_unseen() {
        let levels = levels(&threshold(1200 * MIB), 1500 * MIB);
        let at = |mib: u64| after(State::Armed, 1195 * MIB, (mib * MIB) as f64, &levels);
        assert_eq!(at(100), MOST_OFTEN, "3 s are left beyond");
        assert_eq!(at(500), Duration::from_micros(37_500), "0.6 s");
        assert_eq!(at(2_000), Duration::from_millis(10).max(Duration::from_secs_f64(300.0 / 2000.0 / 16.0)));
    }

    #[test]
    fn a_jump_that_could_reach_the_level_soon_is_read_again_at_once() {
        let levels = levels(&threshold(1200 * MIB), 1500 * MIB);
        let jumped = |state, rss: u64, by: u64| {
            let rise = Rise { seen: (by * MIB) as f64, ..Rise::default() };
            pause(state, Sample { at: Mono::from_secs(9), rss: rss * MIB }, Some(rise), &levels, BOUNDS)
        };
        assert_eq!(jumped(State::Armed, 530, 500), CONFIRM);
        assert_eq!(jumped(State::Warming, 530, 500), CONFIRM, "a threshold fires while slopes warm up");
        assert_eq!(jumped(State::Pending, 1300, 800), CONFIRM, "over the line at once, and on the way to the limit");
        assert_eq!(jumped(State::Armed, 80, 50), SECOND, "22 s away");
        assert_eq!(jumped(State::Cooldown, 530, 500), SECOND, "nothing would come of it");
        let new = pause(State::Armed, Sample { at: Mono::from_secs(9), rss: 9 * MIB }, None, &levels, BOUNDS);
        assert_eq!(new, CONFIRM, "a process may be rising when it is first seen");
    }

    /// How long before the limit the rule fires, for a leak of so many MiB a second that begins `phase` after a poll, in steps so long.
    fn left_of(rate: u64, phase: f64, step: f64) -> f64 {
        let (rules, limit, healthy) = (threshold(1_229 * MIB), 1_536 * MIB, 30 * MIB);
        let levels = levels(&rules, limit);
        let mut slot = Slot::default();
        slot.arrive(InstanceId { pid: 1, start_ticks: 1 }, &rules, SECOND);
        let (start, mut now) = (Mono::from_secs(1_000), Mono::from_secs(1_000));
        loop {
            let leaking = ((now.since(start).as_secs_f64() - 10.0 - phase) / step).floor() * step;
            let rss = healthy + (leaking.max(0.0) * (rate * MIB) as f64) as u64;
            let sample = Sample { at: now, rss };
            if rss >= limit || slot.observe(sample, Duration::from_secs(600), &levels, &rules).is_some() {
                return limit.saturating_sub(rss) as f64 / (rate * MIB) as f64;
            }
            now = crate::poll::next_multiple(now, pause(slot.state(now), sample, slot.rise(), &levels, BOUNDS));
        }
    }

    #[test]
    fn a_leak_that_fills_its_limit_within_seconds_fires_while_there_is_time_to_capture() {
        for (rate, least) in [(50, 2.0), (200, 1.2), (500, 0.5), (1_000, 0.2)] {
            for step in [0.001, 0.02, 0.05, 0.1] {
                let worst = (0..400).map(|n| left_of(rate, f64::from(n) / 400.0, step)).fold(f64::INFINITY, f64::min);
                assert!(worst >= least - step, "{rate} MiB/s in steps of {step} s: {worst} s are left");
            }
        }
    }

    #[test]
    fn a_hold_is_read_each_interval() {
        let levels = levels(&threshold(GIB), 2 * GIB);
        for state in [State::Open, State::Cooldown, State::Capturing, State::Throttled, State::Blind] {
            assert_eq!(after(state, GIB, GIB as f64, &levels), SECOND, "{state:?}");
        }
        assert_eq!(after(State::Pending, GIB, 0.0, &levels), SECOND);
        assert_eq!(after(State::Pending, GIB, (100 * MIB) as f64, &levels), SECOND, "10 s are left to the limit");
    }

    #[test]
    fn a_window_never_gets_too_few_readings() {
        let rules = Rules { slope: Some("1GiB/2m".parse().unwrap()), ..threshold(100 * GIB) };
        assert_eq!(after(State::Armed, GIB, 0.0, &levels(&rules, 128 * GIB)), SECOND, "half of 2 min / 40 is 1.5 s");
        let eta = Rules { eta: Some(Duration::from_secs(300)), ..threshold(100 * GIB) };
        assert_eq!(after(State::Armed, GIB, 0.0, &levels(&eta, 128 * GIB)), SECOND);
    }

    #[test]
    fn without_a_level_there_is_nothing_to_reckon_with() {
        let rules = Rules { threshold: vec!["80%".parse().unwrap()], ..Rules::default() };
        let unknown = Levels::resolve(&rules, SECOND, None);
        assert_eq!(after(State::Armed, GIB, 0.0, &unknown), SECOND);
    }

    /// A path of RSS over time, from a seed.
    struct Path(Vec<(f64, f64)>);

    impl Path {
        /// Flats, rises from a MiB to [`STEEPEST`] a second, spikes, sawteeth, falls.
        fn random(seed: u64, highest: f64) -> Path {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1u64 << 53) as f64
            };
            let (mut at, mut rss) = (0.0, random() * highest / 2.0);
            let mut points = vec![(at, rss)];
            while at < 600.0 {
                let lasts = 0.3 + random() * random() * 60.0;
                let rate = match (random() * 6.0) as u32 {
                    0 | 1 => 0.0,
                    2 => 2f64.powf(random() * 12.0) * MIB as f64,
                    3 => -2f64.powf(random() * 12.0) * MIB as f64,
                    4 => (random() - 0.5) * 4.0 * MIB as f64,
                    _ => random() * STEEPEST as f64,
                };
                let to = (rss + rate * lasts).clamp(MIB as f64, highest);
                let lasts = if rate == 0.0 { lasts } else { ((to - rss) / rate).max(1e-3).min(lasts) };
                (at, rss) = (at + lasts, to);
                points.push((at, rss));
            }
            Path(points)
        }

        fn at(&self, seconds: f64) -> u64 {
            let i = self.0.partition_point(|(at, _)| *at <= seconds);
            let (Some((t0, r0)), Some((t1, r1))) = (self.0.get(i.wrapping_sub(1)), self.0.get(i)) else {
                return self.0[self.0.len() - 1].1 as u64;
            };
            (r0 + (r1 - r0) * (seconds - t0) / (t1 - t0)) as u64
        }
    }

    /// When the first incident fires, and after how many readings.
    fn first_firing(path: &Path, rules: &Rules, limit: u64, adaptive: bool) -> (Option<f64>, u32) {
        let levels = levels(rules, limit);
        let mut slot = Slot::default();
        slot.arrive(InstanceId { pid: 1, start_ticks: 1 }, rules, SECOND);
        let (start, mut now, mut readings) = (Mono::from_secs(1_000), Mono::from_secs(1_000), 0);
        while now.since(start) < Duration::from_secs(600) {
            let seconds = now.since(start).as_secs_f64();
            let sample = Sample { at: now, rss: path.at(seconds) };
            readings += 1;
            if slot.observe(sample, Duration::from_secs(3_600), &levels, rules).is_some() {
                return (Some(seconds), readings);
            }
            let wait = if adaptive { pause(slot.state(now), sample, slot.rise(), &levels, BOUNDS) } else { SECOND };
            now = crate::poll::next_multiple(now, wait);
        }
        slot.captured(Captured::Evidence, rules, now);
        (None, readings)
    }

    #[test]
    fn whatever_the_path_nothing_that_the_fixed_poll_catches_is_missed_or_late() {
        let (mut fired, mut sooner, mut border, mut fixed_readings, mut readings) = (0, 0, 0, 0, 0);
        for seed in 0..4_000 {
            let gib = [2, 16, 64, 256][seed as usize % 4];
            let rules = match seed / 4 % 4 {
                0 => threshold(gib * GIB * 8 / 10),
                1 => Rules { hold: Duration::ZERO, ..threshold(gib * GIB / 2) },
                2 => Rules { slope: Some("1GiB/2m".parse().unwrap()), ..threshold(gib * GIB * 9 / 10) },
                _ => Rules { eta: Some(Duration::from_secs(120)), ..threshold(gib * GIB * 9 / 10) },
            };
            let path = Path::random(seed, (gib * GIB) as f64 * 0.99);
            let (fixed, polls) = first_firing(&path, &rules, gib * GIB, false);
            let (adaptive, more) = first_firing(&path, &rules, gib * GIB, true);
            // a window's buckets close a little later if they are filled by other readings
            let slack = if rules.slope.is_some() { 4.0 } else { 1.0 };
            if let Some(at) = fixed {
                let found = adaptive.unwrap_or(f64::INFINITY);
                // who sees the line crossed sooner has held for longer, and need not cut `for` short: it ends before the limit
                let whole = found <= at + rules.hold.as_secs_f64() && path.at(found) < gib * GIB;
                // whether `eta` still tells of a rise that has just ended is a matter of one bucket
                let is_over = rules.eta.is_some() && path.at(at) < gib * GIB * 9 / 10 && path.at(at) <= path.at(at - 3.0);
                // a slope that only just is one may be so a bucket or two later, by the readings that the bucket of a jump has
                let is_border = rules.slope.is_some() && found <= at + 10.0;
                border += u32::from(is_border && !(found <= at + slack || whole));
                assert!(
                    found <= at + slack || whole || is_over || is_border,
                    "seed {seed}: the fixed poll fires at {at} s, this at {found} s"
                );
                fired += 1;
                sooner += u32::from(found + 0.05 < at);
            } else {
                (fixed_readings, readings) = (fixed_readings + polls, readings + more);
            }
        }
        assert!(border <= fired / 500, "{border} slopes of {fired} rules that fired are late");
        assert!(fired > 1_000 && sooner > fired / 10, "{fired} fired, {sooner} of them sooner");
        assert!(readings < fixed_readings, "{readings} readings where nothing fires, of {fixed_readings} of the fixed poll");
    }
}
