//! Whether collections took the CPU for want of room, by what a bundle holds: the numbers of the rule that fired, else the two MemStats.

use crate::anatomy::{EffectiveGogc, GoMemory};
use crate::trigger::Fired;
use crate::verdict::{Seen, Thrash};

/// Beside the one that memtrap asks for.
const MIN_COLLECTIONS: u64 = 3;
/// Since the start: fewer are of a process that has just come up.
const MANY_COLLECTIONS: u64 = 10;
/// Of all CPU that the process may use, whether it does or not.
const MUCH: f64 = 0.15;
/// The heap may grow by less than so many percent of what is live.
const LITTLE_ROOM: u64 = 30;
/// Over less, the clock that the start of the process is known by decides.
const MIN_SECONDS: f64 = 0.1;

/// By the rule `gc`.
pub(super) fn of_rule(fired: &Fired) -> Option<Thrash> {
    let (gc, window_seconds) = (fired.gc?, fired.window_seconds?);
    let heap = gc.heap?;
    let limit_bytes = heap.memory_limit_bytes.filter(|_| heap.by_limit);
    let seen = Seen::ByRule { window_seconds, live_bytes: heap.live_bytes, goal_bytes: heap.goal_bytes, limit_bytes };
    Some(Thrash { seen, collections: gc.collections, share: gc.share })
}

/// Between two MemStats, how many collections there were and what they took: `GCCPUFraction` is a share of all CPU since the start of the process, as of the end of the last collection, so the difference of two
/// is what lay between them. A single collection that was asked for is no thrash.
fn of_two(before: &GoMemory, after: &GoMemory, started_unix: f64, room: u64) -> Option<(u64, f64)> {
    let collections = after.num_gc?.checked_sub(before.num_gc?).filter(|n| *n > MIN_COLLECTIONS)?;
    let taken = |go: &GoMemory| {
        let at = go.last_gc_unix_ns? as f64 / 1e9 - started_unix;
        Some((at, go.gc_cpu_fraction? * at))
    };
    let ((from, taken_before), (to, taken_after)) = (taken(before)?, taken(after)?);
    let seconds = Some(to - from).filter(|seconds| from > 0.0 && *seconds >= MIN_SECONDS)?;
    let share = Some((taken_after - taken_before) / seconds).filter(|share| (MUCH..=1.0).contains(share))?;
    (room < LITTLE_ROOM).then_some((collections, share))
}

/// By what pprof told before and after the collection that was asked for.
pub(super) fn of_pprof(before: &GoMemory, after: &GoMemory, started_unix: f64, room: &EffectiveGogc) -> Option<Thrash> {
    let between = of_two(before, after, started_unix, room.most);
    let between = between.map(|(n, share)| (Seen::Between { by_memory: false, room_at_most: room.most }, n, share));
    // a capture is over before many of a large heap have ended
    let (seen, collections, share) = between.or_else(|| {
        let (collections, share) = (before.num_gc?, before.gc_cpu_fraction?);
        let is_so = collections >= MANY_COLLECTIONS && (MUCH..=1.0).contains(&share) && room.most < LITTLE_ROOM;
        is_so.then_some((Seen::SinceStart { room_at_most: room.most }, collections, share))
    })?;
    Some(Thrash { seen, collections, share })
}

/// By two looks at the process's memory.
pub(super) fn of_memory(before: &GoMemory, after: &GoMemory, started_unix: f64) -> Option<Thrash> {
    let (live, goal) = (after.heap_marked?, after.next_gc?);
    let room = u64::try_from(u128::from(goal.saturating_sub(live)) * 100 / u128::from(live.max(1))).unwrap_or(u64::MAX);
    let (collections, share) = of_two(before, after, started_unix, room)?;
    Some(Thrash { seen: Seen::Between { by_memory: true, room_at_most: room }, collections, share })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_795_737_000;

    fn memstats(after_start: f64, num_gc: u64, fraction: f64) -> GoMemory {
        let at = (START as f64 + after_start) * 1e9;
        GoMemory { num_gc: Some(num_gc), last_gc_unix_ns: Some(at as u64), gc_cpu_fraction: Some(fraction), ..GoMemory::default() }
    }

    #[test]
    fn what_lies_between_two_memstats_is_told_and_one_forced_collection_is_none() {
        let of = |after: GoMemory, room| of_two(&memstats(100.0, 50, 0.05), &after, START as f64, room);
        // 5 of 100 s until then, and 0.45 of the second that follows
        let (collections, share) = of(memstats(101.0, 57, 5.45 / 101.0), 9).unwrap();
        assert!((share - 0.45).abs() < 0.001 && collections == 7, "{collections} {share}");
        assert_eq!(of(memstats(101.0, 51, 5.45 / 101.0), 9), None, "the one that was asked for");
        assert_eq!(of(memstats(101.0, 57, 5.05 / 101.0), 9), None, "they cost little");
        assert_eq!(of(memstats(101.0, 57, 5.45 / 101.0), 40), None, "there is room");
        let since = |fraction, count| {
            let (before, room) = (memstats(9.0, count, fraction), EffectiveGogc { goal: 110, least: 0, most: 9 });
            of_pprof(&before, &memstats(9.05, count + 1, fraction), START as f64, &room).map(|thrash| thrash.seen)
        };
        assert_eq!(since(0.2, 31), Some(Seen::SinceStart { room_at_most: 9 }));
        assert_eq!((since(0.1, 31), since(0.2, 5)), (None, None));
        assert_eq!(of(memstats(100.01, 57, 5.009 / 100.01), 9), None, "too short to tell");
    }
}
