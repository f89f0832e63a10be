//! What the Go runtime says of its own memory: the `# runtime.MemStats` footer of `heap?debug=1`.

use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use super::lines::Lines;

const MARKER: &[u8] = b"# runtime.MemStats";

/// Sizes in bytes, as of the moment of the request; exact, not sampled. `None` where that Go version has no such line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GoMemory {
    /// Live objects and garbage that is not swept yet.
    pub heap_alloc: u64,
    /// Spans with at least one object.
    pub heap_inuse: u64,
    /// Spans without objects, returned to the kernel or not.
    pub heap_idle: u64,
    pub heap_released: u64,
    /// Address space of the heap's spans, goroutine stacks excluded.
    pub heap_sys: u64,
    pub heap_objects: u64,
    /// Goroutine stacks. They live in the heap's arenas.
    pub stack_inuse: u64,
    pub stack_sys: u64,
    pub mspan_sys: u64,
    pub mcache_sys: u64,
    pub buck_hash_sys: u64,
    pub gc_sys: u64,
    pub other_sys: u64,
    /// All bytes ever allocated.
    pub total_alloc: u64,
    pub mallocs: Option<u64>,
    pub next_gc: Option<u64>,
    pub num_gc: Option<u64>,
    pub num_forced_gc: Option<u64>,
    /// Nanoseconds since 1970; 0 before the first collection.
    pub last_gc_unix_ns: Option<u64>,
    pub gc_cpu_fraction: Option<f64>,
    /// What the last collection found to be reachable; only memtrap's own reading of the process's memory has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub heap_marked: Option<u64>,
    /// The GOGC in force, -1 where it is off, and the memory limit, if there is one; also only of memory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gc_percent: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_limit: Option<u64>,
    /// When it was read, in nanoseconds since 1970; also only of memory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub read_unix_ns: Option<u64>,
    /// The most RSS that the process which answered ever had.
    pub max_rss: Option<u64>,
}

impl GoMemory {
    /// What the runtime holds outside its arenas, at most: parts of it may never have been touched.
    pub fn metadata(&self) -> u64 {
        let stacks_of_threads = self.stack_sys.saturating_sub(self.stack_inuse);
        [self.mspan_sys, self.mcache_sys, self.buck_hash_sys, self.gc_sys, self.other_sys, stacks_of_threads]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// What is mapped inside the arenas, touched or not.
    pub fn arena_bytes(&self) -> u64 {
        self.heap_sys.saturating_add(self.stack_inuse)
    }

    /// What the runtime has from the kernel and has not returned, touched or not: `Sys` less `HeapReleased`.
    pub fn mapped(&self) -> u64 {
        self.arena_bytes().saturating_sub(self.heap_released).saturating_add(self.metadata())
    }

    /// Freed, not returned to the kernel.
    pub fn unreleased(&self) -> u64 {
        self.heap_idle.saturating_sub(self.heap_released)
    }
}

/// Reads the footer, with or without the profile before it. `None` if there is none, or it lacks the heap's numbers.
/// Memory does not grow with the input.
pub fn parse(input: impl BufRead) -> io::Result<Option<GoMemory>> {
    let mut lines = Lines::new(input);
    let mut found = false;
    let mut heap = Heap::default();
    let mut stats = GoMemory::default();
    while let Some(line) = lines.next()? {
        if line.starts_with(MARKER) {
            // what came before may be the text of a stack frame
            (found, heap, stats) = (true, Heap::default(), GoMemory::default());
        } else if found && let Some((key, value)) = key_value(line) {
            heap.take(key, value);
            take(&mut stats, key, value);
        }
    }
    let Heap { alloc: Some(heap_alloc), inuse: Some(heap_inuse), idle: Some(heap_idle), released: Some(heap_released) } = heap else {
        return Ok(None);
    };
    Ok(Some(GoMemory { heap_alloc, heap_inuse, heap_idle, heap_released, ..stats }))
}

/// Without these there is nothing to say.
#[derive(Default)]
struct Heap {
    alloc: Option<u64>,
    inuse: Option<u64>,
    idle: Option<u64>,
    released: Option<u64>,
}

impl Heap {
    fn take(&mut self, key: &str, value: &str) {
        let field = match key {
            "HeapAlloc" => &mut self.alloc,
            "HeapInuse" => &mut self.inuse,
            "HeapIdle" => &mut self.idle,
            "HeapReleased" => &mut self.released,
            _ => return,
        };
        *field = value.parse().ok();
    }
}

fn take(stats: &mut GoMemory, key: &str, value: &str) {
    let number = || value.parse::<u64>().ok();
    // `inuse / sys`
    let pair = || value.split_once('/').and_then(|(inuse, sys)| Some((inuse.trim().parse().ok()?, sys.trim().parse().ok()?)));
    match key {
        "HeapSys" => stats.heap_sys = number().unwrap_or_default(),
        "HeapObjects" => stats.heap_objects = number().unwrap_or_default(),
        "Stack" => (stats.stack_inuse, stats.stack_sys) = pair().unwrap_or_default(),
        "MSpan" => stats.mspan_sys = pair().unwrap_or_default().1,
        "MCache" => stats.mcache_sys = pair().unwrap_or_default().1,
        "BuckHashSys" => stats.buck_hash_sys = number().unwrap_or_default(),
        "GCSys" => stats.gc_sys = number().unwrap_or_default(),
        "OtherSys" => stats.other_sys = number().unwrap_or_default(),
        "TotalAlloc" => stats.total_alloc = number().unwrap_or_default(),
        "Mallocs" => stats.mallocs = number(),
        "NextGC" => stats.next_gc = number(),
        "NumGC" => stats.num_gc = number(),
        "NumForcedGC" => stats.num_forced_gc = number(),
        "LastGC" => stats.last_gc_unix_ns = number(),
        "ReadAt" => stats.read_unix_ns = number().filter(|at| *at > 0),
        "HeapMarked" => stats.heap_marked = number().filter(|marked| *marked > 0),
        "GCPercent" => stats.gc_percent = value.parse().ok(),
        "MemoryLimit" => stats.memory_limit = number(),
        "MaxRSS" => stats.max_rss = number(),
        "GCCPUFraction" => stats.gc_cpu_fraction = value.parse().ok().filter(|f: &f64| f.is_finite()),
        _ => {}
    }
}

fn key_value(line: &[u8]) -> Option<(&str, &str)> {
    let (key, value) = std::str::from_utf8(line).ok()?.strip_prefix("# ")?.split_once('=')?;
    Some((key.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy::tests::recorded;

    #[test]
    fn the_footer_of_every_recorded_version_is_read() {
        for version in ["1.21.13", "1.27.3"] {
            let stats = parse(recorded(version, "stacks", "memstats.txt").as_slice()).unwrap().unwrap();
            assert_eq!(stats.stack_inuse, 123_305_984, "{version}");
            assert_eq!(stats.heap_sys, stats.heap_inuse + stats.heap_idle);
            assert!(stats.num_gc == Some(1) && stats.next_gc > Some(20 << 20) && stats.gc_cpu_fraction > Some(0.0));
            assert!(stats.metadata() > 4 << 20 && stats.metadata() < 10 << 20, "{stats:?}");
        }
    }

    #[test]
    fn a_frame_that_looks_like_a_number_is_not_taken_for_one() {
        let text = "# HeapAlloc = 1\n# runtime.MemStats\n# HeapAlloc = 2\n# HeapInuse = 3\n# HeapIdle = 4\n# HeapReleased = 5\n";
        assert_eq!(parse(text.as_bytes()).unwrap().unwrap().heap_alloc, 2);
    }

    #[test]
    fn a_footer_cut_short_is_none() {
        let whole = "# runtime.MemStats\n# HeapAlloc = 2\n# HeapInuse = 3\n# HeapIdle = 4\n# HeapReleased = 5\n";
        for cut in 0..whole.len() - 1 {
            assert_eq!(parse(&whole.as_bytes()[..cut]).unwrap(), None, "{cut}");
        }
    }
}
