//! What the garbage collector has cost a process so far, and how near its heap is to its goal: a few words of the runtime's own counters.
//!
//! Finding them takes milliseconds and is done once ([`Places::find`]); reading them takes some twenty small reads ([`Places::read`]).
//!
//! `work.cpuStats` (`cpuStats` in `runtime/mstats.go`) is brought up to date at the end of each collection, together with the clock that all of
//! it is measured against (`totalTime`: GOMAXPROCS times the time that has passed), so two readings compare exactly what lies between the ends of two
//! collections. What counts as the collector's is assists and dedicated workers, to which the runtime adds fractional ones. Not counted are:
//!
//! - idle workers (`gcMarkWorkerIdleMode`), which are told apart: they mark on Ps that had nothing else to do. The runtime leaves them out of
//!   `GCCPUFraction` ("it's free", `gcMarkTermination` in `runtime/mgc.go`) and of its CPU limiter (`runtime/mgclimit.go`) for the same reason;
//! - pauses: they are counted as all Ps, though one works.
//!
//! The runtime's clock goes on while the kernel gives the CPU to others ("they're all overestimates", `cpuStats`). So what the Ps were busy for is
//! read too: a share of that is exact where a share of CPU time is too high, and the other way round where Ps wait in system calls.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Refused;
use super::Runtime;
use super::layout::Layout;
use super::memory::{Memory, Reader};

const STATS: &str = "runtime.cpuStats";
/// Fields of `cpuStats`, in the order of [`Counters`].
const FIELDS: [&str; 11] = [
    "GCAssistTime",
    "GCDedicatedTime",
    "GCIdleTime",
    "GCPauseTime",
    "GCTotalTime",
    "ScavengeAssistTime",
    "ScavengeBgTime",
    "ScavengeTotalTime",
    "IdleTime",
    "UserTime",
    "TotalTime",
];
/// They may be read while they are written.
const TRIES: u32 = 8;
/// What the runtime has computed of the same numbers.
const SAME: f64 = 1e-9;
/// `memoryLimitHeapGoalHeadroomPercent` and `memoryLimitMinHeapGoalHeadroom` (`runtime/mgcpacer.go`).
const HEADROOM: u64 = 3;
const MIN_HEADROOM: u64 = 1 << 20;

/// Addresses of the counters in one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// `work.cpuStats`, and the offsets of its fields.
    cpu_stats: u64,
    fields: [u32; 11],
    num_gc: u64,
    last_gc_nanotime: u64,
    gc_cpu_fraction: u64,
    gc_percent: u64,
    memory_limit: u64,
    percent_goal: u64,
    heap_marked: u64,
    heap_free: u64,
    total_alloc: u64,
    total_free: u64,
    mapped_ready: u64,
}

/// As of the end of the last collection; the heap's numbers as of now. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collector {
    /// Collections that have ended.
    pub num_gc: u64,
    /// When the last one did, by the monotonic clock.
    pub ended: Duration,
    /// What assists, dedicated and fractional workers took.
    pub collecting: Duration,
    /// What idle workers took.
    pub idle_workers: Duration,
    /// What the Ps were not idle for, idle workers left out.
    pub busy: Duration,
    /// What the last collection found to be reachable.
    pub live_bytes: u64,
    /// How far the heap may grow before the next one, by GOGC and by the memory limit.
    pub goal_bytes: u64,
    /// The memory limit sets that goal.
    pub by_limit: bool,
    /// The GOGC in force; `None` is off.
    pub gogc: Option<u32>,
    /// The memory limit in force.
    pub limit_bytes: Option<u64>,
}

/// Why there are no places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlaces {
    /// Nothing was collected yet, and so nothing counted.
    Yet,
    Never(Refused),
}

impl From<Refused> for NoPlaces {
    fn from(why: Refused) -> NoPlaces {
        NoPlaces::Never(why)
    }
}

impl Places {
    /// Looks for the counters of a program that has collected at least once.
    pub fn find(runtime: &Runtime) -> Result<Places, NoPlaces> {
        let (memory, layout) = (runtime.memory, &runtime.layout);
        let (gc, stats) = (|field| runtime.of_collector(field), |field| runtime.of_memstats(field));
        let fields = fields(layout)?;
        let (num_gc, fraction) = (stats("numgc")?, stats("gc_cpu_fraction")?);
        if memory.record(num_gc, 4)?.at(0, 4)? == 0 {
            return Err(NoPlaces::Yet);
        }
        let is_it = |at: u64| {
            let fraction = || Some(f64::from_bits(memory.u64(fraction).ok()?));
            (0..TRIES).any(|_| Counters::read(memory, at, &fields).is_some_and(|c| fraction().is_some_and(|f| c.fit(f))))
        };
        let cpu_stats = runtime.globals.mark_termination.iter().copied().find(|at| is_it(*at));
        let cpu_stats = cpu_stats.ok_or_else(|| Refused::new("runtime.work.cpuStats was not found in its code"))?;
        Ok(Places {
            cpu_stats,
            fields,
            num_gc,
            last_gc_nanotime: stats("last_gc_nanotime")?,
            gc_cpu_fraction: fraction,
            gc_percent: gc("gcPercent.value")?,
            memory_limit: gc("memoryLimit.value")?,
            percent_goal: gc("gcPercentHeapGoal.value")?,
            heap_marked: gc("heapMarked")?,
            heap_free: gc("heapFree")?,
            total_alloc: gc("totalAlloc.value")?,
            total_free: gc("totalFree.value")?,
            mapped_ready: gc("mappedReady.value")?,
        })
    }

    /// Reads the counters as they are now. Refused where they contradict each other: the memory is another program's by now.
    pub fn read(&self, memory: &dyn Memory) -> Result<Collector, Refused> {
        let reader = Reader::new(memory);
        for _ in 0..TRIES {
            let before = self.count(&reader)?;
            let ended = reader.u64(self.last_gc_nanotime)?;
            let counters = Counters::read(&reader, self.cpu_stats, &self.fields);
            let fraction = f64::from_bits(reader.u64(self.gc_cpu_fraction)?);
            if let Some(counters) = counters.filter(|counters| counters.fit(fraction))
                && self.count(&reader)? == before
                && reader.u64(self.last_gc_nanotime)? == ended
            {
                return self.collector(&reader, before, ended, counters);
            }
        }
        Err(Refused::new("its counts of what collections cost contradict each other"))
    }

    fn count(&self, reader: &Reader) -> Result<u64, Refused> {
        reader.record(self.num_gc, 4)?.at(0, 4)
    }

    fn collector(&self, reader: &Reader, num_gc: u64, ended: u64, counters: Counters) -> Result<Collector, Refused> {
        let percent = reader.record(self.gc_percent, 4)?.at(0, 4)? as u32 as i32;
        let limit = reader.u64(self.memory_limit)?;
        let live_bytes = reader.u64(self.heap_marked)?;
        let by_percent = reader.u64(self.percent_goal)?;
        let by_limit = limit_goal(&LimitGoal {
            limit,
            marked: live_bytes,
            free: reader.u64(self.heap_free)?,
            allocated: reader.u64(self.total_alloc)?.wrapping_sub(reader.u64(self.total_free)?),
            mapped: reader.u64(self.mapped_ready)?,
        });
        let Counters([assist, dedicated, idle_workers, .., idle, _, total]) = counters;
        Ok(Collector {
            num_gc,
            ended: Duration::from_nanos(ended),
            collecting: Duration::from_nanos(assist.saturating_add(dedicated)),
            idle_workers: Duration::from_nanos(idle_workers),
            busy: Duration::from_nanos(total.saturating_sub(idle).saturating_sub(idle_workers)),
            live_bytes,
            goal_bytes: by_limit.min(by_percent),
            by_limit: by_limit < by_percent,
            gogc: u32::try_from(percent).ok(),
            limit_bytes: Some(limit).filter(|limit| *limit < i64::MAX as u64),
        })
    }
}

fn fields(layout: &Layout) -> Result<[u32; 11], Refused> {
    let mut fields = [0; 11];
    for (field, name) in fields.iter_mut().zip(FIELDS) {
        *field = layout.field(STATS, name)?.offset;
    }
    Ok(fields)
}

/// What a copy of `cpuStats` says, in nanoseconds, in the order of [`FIELDS`].
#[derive(Clone, Copy)]
struct Counters([u64; 11]);

impl Counters {
    fn read(reader: &Reader, at: u64, fields: &[u32; 11]) -> Option<Counters> {
        let size = fields.iter().max()?.checked_add(8)?;
        let record = reader.record(at, size).ok()?;
        let mut words = [0; 11];
        for (word, offset) in words.iter_mut().zip(fields) {
            *word = record.at((*offset).into(), 8).ok()?;
        }
        Some(Counters(words))
    }

    /// Whether they add up, and tell what `memstats.gc_cpu_fraction` tells. A pause of the collection that runs is in one sum and not yet in the
    /// others; what is left for the program may be below zero, since all else is estimated too high.
    fn fit(&self, fraction: f64) -> bool {
        let words = self.0.map(|word| word as i64);
        let [assist, dedicated, idle_workers, pause, collecting, scavenge_assist, scavenge_background, scavenge, idle, user, total] = words;
        let sum = |parts: &[i64]| parts.iter().try_fold(0i64, |sum, part| sum.checked_add(*part));
        let beyond = sum(&[collecting, scavenge, idle, user]).and_then(|all| all.checked_sub(total));
        let as_of_then = collecting.saturating_sub(beyond.unwrap_or(0));
        let told = as_of_then.saturating_sub(idle_workers) as f64 / total.max(1) as f64;
        total > 0
            && [assist, dedicated, idle_workers, pause, scavenge, idle].iter().all(|part| *part >= 0)
            && sum(&[assist, dedicated, idle_workers, pause]) == Some(collecting)
            && sum(&[scavenge_assist, scavenge_background]) == Some(scavenge)
            && beyond.is_some_and(|beyond| (0..=pause).contains(&beyond))
            && (told - fraction).abs() <= SAME
    }
}

/// What the goal by the memory limit depends on, in bytes.
pub(super) struct LimitGoal {
    pub limit: u64,
    pub marked: u64,
    pub free: u64,
    pub allocated: u64,
    /// Mapped and not returned.
    pub mapped: u64,
}

/// The heap goal by the memory limit (`gcControllerState.memoryLimitHeapGoal` in `runtime/mgcpacer.go`).
pub(super) fn limit_goal(of: &LimitGoal) -> u64 {
    let beside_heap = of.mapped.saturating_sub(of.free).saturating_sub(of.allocated);
    let taken = beside_heap.saturating_add(of.mapped.saturating_sub(of.limit));
    if taken >= of.limit {
        return of.marked;
    }
    let goal = of.limit - taken;
    let headroom = (goal / 100 * HEADROOM).max(MIN_HEADROOM);
    let goal = if goal < headroom.saturating_mul(2) { headroom } else { goal - headroom };
    goal.max(of.marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const WITHIN: LimitGoal = LimitGoal { limit: 1000 * MIB, marked: 300 * MIB, free: 100 * MIB, allocated: 500 * MIB, mapped: 700 * MIB };

    #[test]
    fn the_goal_of_a_memory_limit_is_what_it_leaves_for_objects() {
        let within = limit_goal(&WITHIN);
        assert!((870 * MIB..880 * MIB).contains(&within), "1000 less 100 beside the heap, less 3 %: {within}");
        let beyond = LimitGoal { mapped: 1_100 * MIB, marked: 850 * MIB, allocated: 900 * MIB, ..WITHIN };
        assert_eq!(limit_goal(&beyond), 850 * MIB, "no further than what is live");
        let none = LimitGoal { limit: i64::MAX as u64, ..WITHIN };
        assert!(limit_goal(&none) > 1 << 62);
        assert_eq!(limit_goal(&LimitGoal { limit: MIB, ..WITHIN }), 300 * MIB);
    }

    #[test]
    fn counters_that_do_not_add_up_are_of_another_place() {
        let right = Counters([10, 20, 5, 1, 36, 2, 3, 5, 100, 859, 1_000]);
        assert!(right.fit(0.031));
        // the collection that runs has paused everything for half a tenth of the time
        assert!(Counters([10, 20, 5, 51, 86, 2, 3, 5, 100, 859, 1_000]).fit(0.031));
        assert!(!right.fit(0.2) && !Counters([0; 11]).fit(0.0));
        for field in [0, 4, 5, 7, 10] {
            let mut words = right.0;
            words[field] += 7;
            assert!(!Counters(words).fit(0.031), "{field}");
        }
    }
}
