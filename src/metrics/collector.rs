//! What Go's collector has done, as the official client library exposes the runtime's own metrics: `go_cpu_classes_*` where a service exposes them
//! all, else `go_memstats_gc_cpu_fraction`. See `goruntime::collector` for what counts.

use std::time::Duration;

/// As of the end of the last collection. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CollectorSaid {
    /// CPU time of the process.
    pub cpu: Duration,
    pub count: u64,
    /// When the last collection ended, since 1970, where that is told.
    pub ended: Option<Duration>,
    pub collecting: Duration,
    /// What the Ps were busy for without idle workers, and what these took.
    pub busy: Option<(Duration, Duration)>,
    pub goal_bytes: Option<u64>,
    pub live_bytes: Option<u64>,
    /// What is not freed yet: at least what is live.
    pub alloc_bytes: Option<u64>,
    pub gogc: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
}

/// Gathers the numbers of one page.
#[derive(Clone, Debug, Default)]
pub(super) struct Gathered {
    cpu: Option<f64>,
    cycles: Option<f64>,
    pauses: Option<f64>,
    assist: Option<f64>,
    dedicated: Option<f64>,
    idle_workers: Option<f64>,
    idle: Option<f64>,
    total: Option<f64>,
    fraction: Option<f64>,
    last_gc: Option<f64>,
    procs: Option<f64>,
    goal: Option<f64>,
    next_gc: Option<f64>,
    live: Option<f64>,
    alloc: Option<f64>,
    gogc: Option<f64>,
    limit: Option<f64>,
}

impl Gathered {
    /// Whether a metric of this name may be wanted: most are not.
    pub fn wants(name: &[u8]) -> bool {
        name.starts_with(b"go_") || name == b"process_cpu_seconds_total"
    }

    pub fn take(&mut self, name: &[u8], value: f64) {
        let field = match name {
            b"process_cpu_seconds_total" => &mut self.cpu,
            b"go_gc_cycles_total_gc_cycles_total" => &mut self.cycles,
            b"go_gc_duration_seconds_count" => &mut self.pauses,
            b"go_cpu_classes_gc_mark_assist_cpu_seconds_total" => &mut self.assist,
            b"go_cpu_classes_gc_mark_dedicated_cpu_seconds_total" => &mut self.dedicated,
            b"go_cpu_classes_gc_mark_idle_cpu_seconds_total" => &mut self.idle_workers,
            b"go_cpu_classes_idle_cpu_seconds_total" => &mut self.idle,
            b"go_cpu_classes_total_cpu_seconds_total" => &mut self.total,
            b"go_memstats_gc_cpu_fraction" => &mut self.fraction,
            b"go_memstats_last_gc_time_seconds" => &mut self.last_gc,
            b"go_sched_gomaxprocs_threads" => &mut self.procs,
            b"go_gc_heap_goal_bytes" => &mut self.goal,
            b"go_memstats_next_gc_bytes" => &mut self.next_gc,
            b"go_gc_heap_live_bytes" => &mut self.live,
            b"go_memstats_heap_alloc_bytes" => &mut self.alloc,
            b"go_gc_gogc_percent" => &mut self.gogc,
            b"go_gc_gomemlimit_bytes" => &mut self.limit,
            _ => return,
        };
        *field = Some(value).filter(|value| value.is_finite() && *value >= 0.0);
    }

    /// `started` is when the process did, in seconds since 1970. `None` where the page does not tell what collections cost.
    pub fn finish(self, started: Option<f64>) -> Option<CollectorSaid> {
        let bytes = |value: Option<f64>| value.map(|value| value as u64);
        let collecting = match self.assist.zip(self.dedicated) {
            Some((assist, dedicated)) => assist + dedicated,
            // of all that the Ps could have done since the start, pauses included
            None => self.fraction? * self.procs? * (self.last_gc? - started?).max(0.0),
        };
        let busy =
            self.total.zip(self.idle).zip(self.idle_workers).and_then(|((total, idle), idle_workers)| {
                Some((duration((total - idle - idle_workers).max(0.0))?, duration(idle_workers)?))
            });
        Some(CollectorSaid {
            cpu: duration(self.cpu?)?,
            count: self.cycles.or(self.pauses)? as u64,
            ended: self.last_gc.and_then(duration),
            collecting: duration(collecting)?,
            busy,
            goal_bytes: bytes(self.goal.or(self.next_gc)),
            live_bytes: bytes(self.live).filter(|live| *live > 0),
            alloc_bytes: bytes(self.alloc),
            gogc: bytes(self.gogc),
            // "no limit" is the largest number
            memory_limit_bytes: bytes(self.limit.filter(|limit| *limit < 9e18)),
        })
    }
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gathered(lines: &[(&str, f64)]) -> Gathered {
        let mut gathered = Gathered::default();
        lines.iter().for_each(|(name, value)| gathered.take(name.as_bytes(), *value));
        gathered
    }

    const COMMON: [(&str, f64); 4] = [
        ("process_cpu_seconds_total", 50.0),
        ("go_gc_duration_seconds_count", 40.0),
        ("go_memstats_last_gc_time_seconds", 1_100.0),
        ("go_memstats_next_gc_bytes", 4e6),
    ];

    #[test]
    fn the_classes_are_taken_where_they_are_and_the_fraction_else() {
        let classes = [
            ("go_cpu_classes_gc_mark_assist_cpu_seconds_total", 1.0),
            ("go_cpu_classes_gc_mark_dedicated_cpu_seconds_total", 4.0),
            ("go_cpu_classes_gc_mark_idle_cpu_seconds_total", 2.0),
            ("go_cpu_classes_idle_cpu_seconds_total", 150.0),
            ("go_cpu_classes_total_cpu_seconds_total", 200.0),
            ("go_gc_gomemlimit_bytes", 9.223372036854776e18),
            ("go_gc_heap_live_bytes", 2e6),
        ];
        let said = gathered(&[&COMMON[..], &classes[..]].concat()).finish(None).unwrap();
        assert_eq!((said.collecting, said.busy), (Duration::from_secs(5), Some((Duration::from_secs(48), Duration::from_secs(2)))));
        assert_eq!((said.memory_limit_bytes, said.live_bytes, said.goal_bytes, said.count), (None, Some(2_000_000), Some(4_000_000), 40));
        let fraction = [("go_memstats_gc_cpu_fraction", 0.25), ("go_sched_gomaxprocs_threads", 2.0)];
        let of_fraction = gathered(&[&COMMON[..], &fraction[..]].concat());
        assert_eq!(of_fraction.clone().finish(Some(1_000.0)).unwrap().collecting, Duration::from_secs(50));
        assert_eq!(of_fraction.finish(None), None, "without a start");
    }

    #[test]
    fn a_page_that_lies_or_tells_nothing_is_none() {
        assert_eq!(gathered(&COMMON).finish(Some(1_000.0)), None);
        let bad = gathered(&[
            ("process_cpu_seconds_total", f64::NAN),
            ("go_gc_duration_seconds_count", 1.0),
            ("go_cpu_classes_gc_mark_assist_cpu_seconds_total", 1.0),
            ("go_cpu_classes_gc_mark_dedicated_cpu_seconds_total", 1e300),
        ]);
        assert_eq!(bad.finish(None), None);
    }
}
