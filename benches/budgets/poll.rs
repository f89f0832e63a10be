//! A reading and its judgement against the bare `pread` that it needs; what readings cost in memory.

use std::fs::File;
use std::time::Duration;

use memtrap::clock::Mono;
use memtrap::config::Rules;
use memtrap::identity::InstanceId;
use memtrap::incident::Slot;
use memtrap::poll::schedule::{self, Bounds};
use memtrap::poll::{Reading, Statm};
use memtrap::series::Sample;
use memtrap::trigger::Levels;
use rustix::time::{ClockId, clock_gettime};

use super::Row;
use super::measure::{bytes, median, ratio, status};

const READINGS: u32 = 20_000;
const ROUNDS: usize = 9;

/// Seconds.
pub fn thread_cpu() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn statm() -> File {
    File::open("/proc/self/statm").unwrap()
}

fn rules() -> Rules {
    Rules {
        threshold: vec!["64GiB".parse().unwrap(), "80GiB".parse().unwrap()],
        slope: Some("20GiB/10m".parse().unwrap()),
        eta: Some(Duration::from_secs(300)),
        ..Rules::default()
    }
}

pub fn poll() -> Vec<Row> {
    let second = Duration::from_secs(1);
    let rules = rules();
    let levels = Levels::resolve(&rules, second, Some(100 << 30));
    let bounds = Bounds { interval: second, max_interval: second * 5 };
    let mut slot = Slot::default();
    slot.arrive(InstanceId { pid: 1, start_ticks: 1 }, &rules, second);
    let (bare, mut reader) = (statm(), Statm::new(statm()));
    let mut now = Mono::from_secs(1_000_000);
    let (mut reference, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = thread_cpu();
        let mut text = [0u8; 160];
        for _ in 0..READINGS {
            std::hint::black_box(rustix::io::pread(&bare, &mut text, 0).unwrap());
        }
        reference.push((thread_cpu() - start) / f64::from(READINGS));
        let start = thread_cpu();
        for _ in 0..READINGS {
            now = now + second;
            let Reading::Rss(rss) = reader.read() else { panic!("this process is there") };
            let sample = Sample { at: now, rss };
            assert!(slot.observe(sample, Duration::from_secs(3_600), &levels, &rules).is_none());
            std::hint::black_box(schedule::pause(slot.state(now), sample, slot.rise(), &levels, bounds));
        }
        ours.push((thread_cpu() - start) / f64::from(READINGS));
    }
    let ratio = ratio(&ours, &reference);
    let (reference, ours) = (median(reference), median(ours));
    vec![
        Row::new("a poll: reading, two thresholds, slope, eta, next pause", format!("{:.2} µs of CPU (n = {ROUNDS})", ours * 1e6))
            .against(format!("a bare `pread`: {:.2} µs", reference * 1e6), format!("{ratio:.2} ×"))
            .budget("2 ×", ratio <= 2.0),
    ]
}

/// What an hour of readings adds to the memory of an instance that was just found.
pub fn hour() -> Vec<Row> {
    const INSTANCES: u64 = 2_000;
    let second = Duration::from_secs(1);
    let rules = rules();
    let levels = Levels::resolve(&rules, second, Some(100 << 30));
    let mut slots: Vec<Slot> = (0..INSTANCES).map(|_| Slot::default()).collect();
    for slot in &mut slots {
        slot.arrive(InstanceId { pid: 1, start_ticks: 1 }, &rules, second);
    }
    let mut read = |from: u64, until: u64| {
        for at in from..until {
            for (i, slot) in slots.iter_mut().enumerate() {
                // up and down by some MiB
                let rss = (1 << 30) + (at * 7 + i as u64 * 13) % 97 * 100_000;
                let sample = Sample { at: Mono::from_secs(1_000_000 + at), rss };
                std::hint::black_box(slot.observe(sample, Duration::from_secs(3_600), &levels, &rules));
            }
        }
        status(std::process::id(), "RssAnon")
    };
    let before = read(0, 20);
    let each = read(20, 3_600).saturating_sub(before) / INSTANCES;
    vec![Row::new(
        "what an hour of readings adds (before it: the rows above)",
        format!("{each} bytes an instance: {} for 1,000, {} for 10,000", bytes(each * 1_000), bytes(each * 10_000)),
    )]
}
