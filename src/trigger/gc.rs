//! `gc`: the collector takes at least this share of the process's CPU over a window, and its heap has next to no room: what is live has come so
//! near a memory limit (GOMEMLIMIT) that collections follow each other at once. RSS stands still meanwhile.
//!
//! What the collector takes is what assists and dedicated workers take. Workers on idle Ps are left out, since nobody else wanted these. The share is
//! the lesser of two, each taken between the ends of two collections: of the CPU time that the kernel counts for the process, which C code has a
//! part in; and of the time for which the runtime's Ps were busy. In a spiral the runtime's own limiter holds the second at half, whatever the
//! number of Ps (`runtime/mgclimit.go`).
//!
//! Where there are more Ps than CPUs to run them (a cgroup's quota below GOMAXPROCS, a busy machine), the Ps' clock goes on while the kernel gives the
//! CPU to others: they are busy for longer than they had CPU. There the first of the two is too high, and an idle P is no idle CPU: what it marks, it
//! takes from the rest. So then the share is that of all workers in the time of all Ps that did anything.
//!
//! A share alone is no spiral: with GOGC=100 a program that allocates as fast as it can, and points to much, spends as much on collections, and
//! is healthy. There the heap doubles between two of them; so what counts too is its room, and less than half of what is live is too little. A
//! GOGC below 50 leaves as little, and counts as well.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fired::{Fired, Trigger};
use super::held::Held;
use super::{Levels, Reading};
use crate::clock::{self, Mono};
use crate::lang::{Lang, say};
use crate::units::{ByteSize, Share};

/// The heap may grow by less than this share of what is live between two collections.
const LITTLE_ROOM: f64 = 0.5;
/// Less CPU than this share of a core is no work that collections could disturb.
const BUSY: f64 = 0.02;
/// The Ps ran for so many times the CPU time that they had: they wait for it.
const CROWDED: f64 = 1.25;
/// One collection now and then is none too many, whatever else the process does.
const MIN_COLLECTIONS: u64 = 2;
/// So much of the window must lie between the first and the last reading.
const SPANNED: f64 = 0.9;
const MAX_READINGS: usize = 4_096;
/// Readings of a window.
const A_WINDOW: u32 = 10;

/// What the collector of a process had done by a moment. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Collections {
    pub at: Mono,
    /// CPU time of the process until then.
    pub cpu: Duration,
    /// Collections that had ended.
    pub count: u64,
    /// When the last of them did, by whatever clock. What follows is as of then.
    pub ended: Duration,
    /// What they took, workers on idle Ps left out.
    pub collecting: Duration,
    pub ps: Option<Ps>,
    pub heap: Option<Heap>,
    /// So much is not freed yet; what is live may be less.
    pub live_at_most: bool,
}

/// What the runtime's Ps did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ps {
    /// For how long they were busy, workers on idle ones left out.
    pub busy: Duration,
    /// For how long these marked.
    pub idle_workers: Duration,
}

/// What the collector works towards. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heap {
    /// What the last collection left: what it found to be reachable, and what was allocated while it marked.
    pub live_bytes: u64,
    /// How far the heap may grow before the next.
    pub goal_bytes: u64,
    /// The memory limit sets the goal, and not GOGC.
    pub by_limit: bool,
    /// The memory limit in force, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_limit_bytes: Option<u64>,
    /// The GOGC in force; -1 is off.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gogc: Option<i64>,
}

impl Heap {
    /// By how much it may grow, as a share of what is live.
    fn room(&self) -> f64 {
        self.goal_bytes.saturating_sub(self.live_bytes) as f64 / self.live_bytes.max(1) as f64
    }

    fn words(&self, lang: Lang) -> String {
        let (live, goal) = (ByteSize(self.live_bytes), ByteSize(self.goal_bytes));
        match (self.memory_limit_bytes.map(ByteSize).filter(|_| self.by_limit), self.gogc) {
            (Some(limit), _) => say!(lang;
                "{live} are in use, and the memory limit of {limit} lets the heap grow to {goal}";
                "在用 {live}，内存上限 {limit} 只让堆长到 {goal}"
            ),
            (None, Some(gogc)) => {
                say!(lang; "{live} are in use, and GOGC={gogc} lets the heap grow to {goal}"; "在用 {live}，GOGC={gogc} 让堆长到 {goal}")
            }
            (None, None) => say!(lang; "{live} are in use, and the heap may grow to {goal}"; "在用 {live}，堆可长到 {goal}"),
        }
    }
}

/// The numbers that fired it, as the manifest keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GcNumbers {
    /// Of the process's CPU, 0 to 1.
    pub share: f64,
    /// From which on it fires.
    pub level: f64,
    /// Collections that ended within the window.
    pub collections: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heap: Option<Heap>,
}

/// How often it is read.
pub fn every(window: Duration) -> Duration {
    (window / A_WINDOW).clamp(Duration::from_secs(1), Duration::from_secs(3))
}

/// The rule, and what it has seen.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    rule: Share,
    readings: VecDeque<Collections>,
    standing: Standing,
    pub held: Held,
}

#[derive(Clone, Debug, PartialEq)]
enum Standing {
    /// Nothing was told yet.
    Off,
    Warming,
    NotKnown(String),
    /// For so long there have been readings.
    Gathering(Duration),
    Measured(Measured),
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Measured {
    share: f64,
    collections: u64,
    /// That of the window.
    room: Option<f64>,
}

impl Watched {
    pub fn new(rule: Share) -> Watched {
        Watched { rule, readings: VecDeque::new(), standing: Standing::Off, held: Held::default() }
    }

    /// Takes a reading, or why there is none.
    pub fn collected(&mut self, found: Result<Collections, String>) {
        let reading = match found {
            Ok(reading) => reading,
            Err(why) => {
                self.readings.clear();
                self.standing = Standing::NotKnown(why);
                return;
            }
        };
        // counts that fall are another process's
        let goes_back = |last: &Collections| reading.collecting < last.collecting || reading.cpu < last.cpu || reading.count < last.count;
        if self.readings.back().is_some_and(goes_back) {
            self.readings.clear();
        }
        if self.readings.back().is_some_and(|last| reading.at <= last.at) {
            return;
        }
        self.readings.push_back(reading);
        // the newest of those that are a window old is the one to compare with
        let from = reading.at - self.rule.window;
        while self.readings.get(1).is_some_and(|second| second.at <= from) || self.readings.len() > MAX_READINGS {
            self.readings.pop_front();
        }
        self.standing = self.measure(&reading).map_or_else(Standing::Gathering, Standing::Measured);
    }

    fn measure(&self, now: &Collections) -> Result<Measured, Duration> {
        let first = self.readings.front().unwrap_or(now);
        let span = now.at.since(first.at);
        if span.as_secs_f64() < self.rule.window.as_secs_f64() * SPANNED {
            return Err(span);
        }
        let mut rooms: Vec<f64> = self.readings.iter().filter_map(|r| Some(r.heap?.room())).collect();
        rooms.sort_unstable_by(f64::total_cmp);
        // of what is not freed yet, the least is the nearest to what is live
        let typical = if now.live_at_most { rooms.len().saturating_sub(1) } else { rooms.len() / 2 };
        let collections = now.count.saturating_sub(first.count);
        let share = if collections < MIN_COLLECTIONS { 0.0 } else { share(first, now) };
        Ok(Measured { share, collections, room: rooms.get(typical).copied() })
    }

    /// A reading of RSS, before or after which it was told what there is to judge.
    pub fn observe(&mut self, now: Mono, warm: bool, passed: Option<Duration>, hold: Duration) {
        if !warm {
            self.held = Held::default();
            self.readings.clear();
            if !matches!(self.standing, Standing::NotKnown(_)) {
                self.standing = Standing::Warming;
            }
            return;
        }
        let stale = self.readings.back().map(|last| now.since(last.at)).filter(|age| *age > every(self.rule.window) * 5);
        if let Some(age) = stale {
            self.collected(Err(format!("it was not told of for {}", clock::human(age))));
        }
        self.held.update(self.is_met(), passed, hold);
    }

    pub fn is_met(&self) -> bool {
        matches!(&self.standing, Standing::Measured(measured) if measured.share >= self.rule.share.fraction() && measured.is_tight())
    }

    /// What is known to be over: the share has fallen below this part of the level, or there is room again.
    pub fn is_over(&self, rearm: f64) -> Option<bool> {
        match &self.standing {
            Standing::Measured(m) => Some(m.share < self.rule.share.fraction() * rearm || !m.is_tight()),
            _ => None,
        }
    }

    pub fn clear(&mut self) {
        (self.standing, self.held) = (Standing::Off, Held::default());
        self.readings.clear();
    }

    /// The reason lacks what was compared; see [`super::Detector::with_measure`].
    pub fn fired(&self, last: Reading, levels: &Levels, how_long: &str) -> Option<Fired> {
        let Standing::Measured(measured) = self.standing else { return None };
        let heap = self.readings.back().and_then(|reading| reading.heap);
        let (share, level, window) = (measured.share * 100.0, self.rule.share, clock::human(self.rule.window));
        let heap_words = heap.map_or(String::new(), |heap| format!(": {}", heap.words(Lang::En)));
        let reason = format!("; the collector takes {share:.0}% of its CPU in {window}, at or above {level}, {how_long}{heap_words}");
        Some(Fired {
            trigger: Trigger::Gc,
            level_bytes: last.rss,
            window_seconds: Some(self.rule.window.as_secs_f64()),
            gc: Some(GcNumbers { share: measured.share, level: level.fraction(), collections: measured.collections, heap }),
            ..Fired::manual(last.rss, levels.limit, reason)
        })
    }

    /// Where it stands.
    pub fn words(&self, lang: Lang) -> String {
        let (level, window) = (self.rule.share, clock::human(self.rule.window));
        let stands = match &self.standing {
            Standing::Off => lang.pick("no reading yet", "尚无读数").into(),
            Standing::Warming => lang.pick("ignored during warm-up", "预热期不计").into(),
            Standing::NotKnown(why) => say!(lang; "not known: {why}"; "未知：{why}"),
            Standing::Gathering(span) => {
                let span = clock::human(*span);
                say!(lang; "gathering, {span} of {window}"; "收集中，{span}/{window}")
            }
            Standing::Measured(measured) => {
                let share = measured.share * 100.0;
                let taken = say!(lang; "{share:.0}% of its CPU in {window}"; "{window} 内占其 CPU 的 {share:.0}%");
                match measured.room.filter(|_| measured.share >= level.fraction() && !measured.is_tight()) {
                    Some(room) => {
                        let room = room * 100.0;
                        say!(lang;
                            "{taken}, but its heap grows by {room:.0}% between collections: that is what it allocates, and no lack of room";
                            "{taken}，但两次回收之间堆可增长 {room:.0}%：这是分配的代价，并非空间不足"
                        )
                    }
                    None => taken,
                }
            }
        };
        say!(lang; "gc: {stands} (fires at {level})"; "gc：{stands}（达到 {level} 触发）")
    }
}

impl Measured {
    fn is_tight(&self) -> bool {
        self.room.is_none_or(|room| room < LITTLE_ROOM)
    }
}

/// What the collector took between two readings, of what the process took.
fn share(first: &Collections, now: &Collections) -> f64 {
    let seconds = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
    // what the runtime counts is of the time between two ends of collections, CPU of the time between two readings
    let collections = seconds(first.ended, now.ended);
    let readings = now.at.since(first.at).as_secs_f64();
    let cpu = seconds(first.cpu, now.cpu) / readings;
    if !(cpu >= BUSY && collections > 0.0) {
        return 0.0;
    }
    let collecting = seconds(first.collecting, now.collecting) / collections;
    let of_cpu = collecting / cpu;
    let Some((first, now)) = first.ps.zip(now.ps) else { return of_cpu.clamp(0.0, 1.0) };
    let busy = seconds(first.busy, now.busy) / collections;
    let idle_workers = seconds(first.idle_workers, now.idle_workers) / collections;
    let share = match busy + idle_workers > cpu * CROWDED {
        true => (collecting + idle_workers) / (busy + idle_workers),
        false => of_cpu.min(collecting / busy.max(f64::MIN_POSITIVE)),
    };
    share.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A process that is read each 3 s: so many seconds of collecting, of busy Ps and of CPU a second, and a heap that may grow by so much.
    fn fed(seconds: u64, collecting: f64, busy: f64, cpu: f64, room: f64) -> Watched {
        fed_beside(seconds, collecting, busy, 0.0, cpu, room)
    }

    /// The same, with so many seconds of idle workers a second.
    fn fed_beside(seconds: u64, collecting: f64, busy: f64, idle_workers: f64, cpu: f64, room: f64) -> Watched {
        let mut watched = Watched::new("40%/30s".parse().unwrap());
        for i in 0..=seconds / 3 {
            let (at, t) = (Mono::from_secs(1_000 + i * 3), (i * 3) as f64);
            let heap = Heap {
                live_bytes: 100 * MIB,
                goal_bytes: ((1.0 + room) * 100.0) as u64 * MIB,
                by_limit: true,
                memory_limit_bytes: Some(120 * MIB),
                gogc: Some(100),
            };
            watched.collected(Ok(Collections {
                at,
                cpu: Duration::from_secs_f64(50.0 + t * cpu),
                count: 7 + i * 40,
                ended: Duration::from_secs_f64(4_000.0 + t),
                collecting: Duration::from_secs_f64(1.0 + t * collecting),
                ps: Some(Ps {
                    busy: Duration::from_secs_f64(20.0 + t * busy),
                    idle_workers: Duration::from_secs_f64(3.0 + t * idle_workers),
                }),
                heap: Some(heap),
                live_at_most: false,
            }));
            watched.observe(at, true, Some(Duration::from_secs(3)), Duration::from_secs(3));
        }
        watched
    }

    #[test]
    fn a_spiral_is_met_once_the_window_is_full_and_says_how_far_it_is_before() {
        assert_eq!(fed(15, 1.0, 2.0, 2.0, 0.02).words(Lang::En), "gc: gathering, 15s of 30s (fires at 40%)");
        let spiral = fed(30, 1.0, 2.0, 2.0, 0.02);
        assert!(spiral.is_met());
        let levels = Levels::resolve(&crate::config::Rules::default(), Duration::from_secs(1), None);
        let fired = spiral.fired(Reading { at: Mono::from_secs(1_030), rss: 130 * MIB, most: 130 * MIB }, &levels, "for 3s").unwrap();
        let gc = fired.gc.unwrap();
        assert_eq!((fired.trigger, gc.share, gc.level, gc.collections), (Trigger::Gc, 0.5, 0.4, 400));
        assert_eq!(
            fired.reason,
            "; the collector takes 50% of its CPU in 30s, at or above 40%, for 3s: 100MiB are in use, and the memory limit of 120MiB lets the heap grow to 102MiB"
        );
        let calm = fed(60, 0.06, 2.0, 2.0, 1.0);
        assert!(!calm.is_met());
        assert_eq!(calm.words(Lang::En), "gc: 3% of its CPU in 30s (fires at 40%)");
    }

    #[test]
    fn what_a_heap_with_room_costs_is_no_spiral() {
        let watched = fed(60, 1.0, 2.0, 2.0, 1.0);
        assert!(!watched.is_met());
        assert!(
            watched.words(Lang::En).contains("50% of its CPU in 30s, but its heap grows by 100% between collections"),
            "{}",
            watched.words(Lang::En)
        );
        assert!(!fed(60, 1.0, 2.0, 2.0, 0.5).is_met(), "GOGC=50");
        assert!(fed(60, 1.0, 2.0, 2.0, 0.2).is_met(), "GOGC=20");
    }

    #[test]
    fn ps_that_wait_for_the_cpu_inflate_nothing() {
        // eight Ps on one CPU: two of them collect for a third of the time
        assert!(!fed(60, 0.67, 8.0, 1.0, 0.02).is_met());
        assert!(fed(60, 4.0, 8.0, 1.0, 0.02).is_met(), "half of what they do");
        // one goroutine, and four Ps: what the others mark is free where there are CPUs for it
        assert!(!fed_beside(60, 0.8, 2.2, 1.6, 3.8, 0.02).is_met());
        assert!(fed_beside(60, 0.8, 2.2, 1.6, 1.0, 0.02).is_met(), "and taken from it where there are none");
        // C code takes three CPUs beside it
        assert!(!fed(60, 0.5, 1.0, 4.0, 0.02).is_met());
        assert!(!fed(60, 0.005, 0.01, 0.01, 0.02).is_met(), "next to nothing is done");
    }

    #[test]
    fn what_is_over_is_known_by_its_share_or_its_room() {
        assert_eq!(fed(60, 1.0, 2.0, 2.0, 0.02).is_over(0.9), Some(false));
        assert_eq!(fed(60, 0.74, 2.0, 2.0, 0.02).is_over(0.9), Some(false), "37 % is above 90 % of 40 %");
        assert_eq!(fed(60, 0.6, 2.0, 2.0, 0.02).is_over(0.9), Some(true));
        assert_eq!(fed(60, 1.0, 2.0, 2.0, 1.0).is_over(0.9), Some(true));
        assert_eq!(fed(9, 1.0, 2.0, 2.0, 0.02).is_over(0.9), None);
    }

    #[test]
    fn a_gap_or_a_reason_begins_anew_and_says_so() {
        let mut watched = fed(60, 1.0, 2.0, 2.0, 0.02);
        watched.observe(Mono::from_secs(1_090), true, None, Duration::ZERO);
        assert!(!watched.is_met());
        assert_eq!(watched.words(Lang::En), "gc: not known: it was not told of for 30s (fires at 40%)");
        watched.collected(Err("read_memory is off".into()));
        assert_eq!(watched.words(Lang::En), "gc: not known: read_memory is off (fires at 40%)");
        let mut young = fed(60, 1.0, 2.0, 2.0, 0.02);
        young.observe(Mono::from_secs(1_061), false, None, Duration::ZERO);
        assert!(!young.is_met());
    }
}
