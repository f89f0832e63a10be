//! What fired in a life of made-up readings fires in the replay of what was kept of them.

use std::time::{Duration, SystemTime};

use super::read::{Kept, Reading};
use super::{LONG, Setup, replay};
use crate::clock::Mono;
use crate::config::{Capture, Rules};
use crate::identity::InstanceId;
use crate::incident::Slot;
use crate::series::{self, Sample};
use crate::trigger::{Levels, Trigger};

const MIB: f64 = (1 << 20) as f64;
const LIMIT: u64 = 2 << 30;
/// How long RSS goes on to be read while it is captured.
const CAPTURE: Duration = Duration::from_secs(20);

fn rules(threshold: Option<&str>, slope: Option<&str>, eta: Option<u64>, hold: u64) -> Rules {
    Rules {
        threshold: threshold.map(|t| t.parse().unwrap()).into_iter().collect(),
        slope: slope.map(|s| s.parse().unwrap()),
        eta: eta.map(Duration::from_secs),
        hold: Duration::from_secs(hold),
        ..Rules::default()
    }
}

/// Readings of one life until something fires and is captured; then what is kept, with what fired when. `seed` decides how it grows, swings, scatters, and
/// how far its readings are apart.
fn life(rules: &Rules, seed: u64) -> Option<(Vec<Reading>, Trigger, Mono)> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let interval = Duration::from_secs(1);
    let levels = Levels::resolve(rules, interval, Some(LIMIT));
    let mut slot = Slot::default();
    slot.arrive(InstanceId { pid: 1, start_ticks: 1 }, rules, interval);
    let (born, calm) = (Mono::from_secs(100_000 + seed % 977), 60.0 + random() * 900.0);
    let (rate, swing, noise) = (random() * 3.0, random() * 60.0, random() * 20.0);
    let period = 20.0 + random() * 900.0;
    let mut at = born + Duration::from_millis(5);
    let mut fired: Option<(Trigger, Mono, Vec<Reading>)> = None;
    let wall = |at: Mono| SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000) + at.since(born);
    let of = |kept: series::Kept| Reading {
        at: wall(kept.sample.at),
        rss: kept.sample.rss,
        kept: Some(Kept { span: kept.span, boot: kept.sample.at, age: LONG, limit: Some(LIMIT), charge: kept.charge }),
    };
    loop {
        let t = at.since(born).as_secs_f64();
        let grown = (t - calm).max(0.0) * rate;
        let rss = 300.0 + grown + swing * (t / period * std::f64::consts::TAU).sin() + noise * (random() - 0.5);
        if t > 4_000.0 || grown > 1_700.0 {
            return None;
        }
        let sample = Sample { at, rss: (rss * MIB) as u64 };
        if let Some((trigger, when, readings)) = &mut fired {
            readings.push(of(series::Kept::reading(sample)));
            if at.since(*when) > CAPTURE {
                return Some((std::mem::take(readings), *trigger, *when));
            }
        } else if let Some(order) = slot.observe(sample, at.since(born) + LONG, &levels, rules) {
            fired = Some((order.fired.trigger, at, slot.kept(&levels).into_iter().map(of).collect()));
        }
        let far = if random() < 0.02 {
            7_000
        } else if grown > 0.0 && rate > 1.5 {
            100
        } else {
            1_000
        };
        at = at + Duration::from_millis(far);
    }
}

#[test]
fn what_fired_fires_in_the_replay_of_what_was_kept() {
    let sets = [
        rules(Some("40%"), None, None, 3),
        rules(Some("500MiB"), None, None, 60),
        rules(None, Some("60MiB/1m"), None, 3),
        rules(None, Some("200MiB/10m"), None, 3),
        rules(None, None, Some(300), 3),
        rules(None, None, Some(1_800), 10),
    ];
    let (mut fired, mut missed) = (0, Vec::new());
    for (set, rules) in sets.iter().enumerate() {
        for seed in 1..=10 {
            let Some((readings, trigger, at)) = life(rules, seed * 7 + set as u64) else { continue };
            let setup = Setup {
                rules: rules.clone(),
                capture: Capture::default(),
                interval: Duration::from_secs(1),
                limit: None,
                age: None,
                ended: false,
            };
            let again = replay(&readings, &setup);
            fired += 1;
            if again.fired().next().is_none_or(|(_, fired)| fired.trigger != trigger) {
                let how = again.events.last().map(|e| format!("{:?}", e.what));
                missed.push(format!("rules {set}, seed {seed}: {trigger:?}, at {at:?}: {how:?}"));
            }
        }
    }
    assert!(fired > 30, "{fired}");
    assert!(missed.is_empty(), "{} of {fired}:\n{}", missed.len(), missed.join("\n"));
}
