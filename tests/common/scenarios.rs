//! Real Go programs that grow for one known reason each (`tests/go/scenarios`), and what a verdict has to say of them.
//!
//! The table is the truth that verdicts are held against, not a record of what they say: where more than one answer is listed, an
//! engineer with the same evidence could defend each, and the line says why.

use std::process::Command;

use tempfile::TempDir;

use super::{GoVersion, Svc, go_program};

/// A reason to grow.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// It can only be built with cgo.
    pub cgo: bool,
    /// Before Go 1.23 only.
    pub old_go: bool,
    /// The causes that would be right, the best first.
    pub expect: &'static [&'static str],
    /// What would be right for `go_heap_explains`, the best first.
    pub go_heap_explains: &'static [&'static str],
}

const fn scenario(name: &'static str, expect: &'static [&'static str], go_heap_explains: &'static [&'static str]) -> Scenario {
    Scenario { name, cgo: false, old_go: false, expect, go_heap_explains }
}

const fn cgo(name: &'static str, expect: &'static [&'static str], go_heap_explains: &'static [&'static str]) -> Scenario {
    Scenario { cgo: true, ..scenario(name, expect, go_heap_explains) }
}

const YES: &[&str] = &["yes"];
const PARTLY: &[&str] = &["partly"];
const NO: &[&str] = &["no"];

/// All of them; a test compares it with what the programs list.
pub const SCENARIOS: &[Scenario] = &[
    scenario("heap_few_big", &["live_heap"], YES),
    scenario("heap_small_objects", &["small_objects"], YES),
    // 16 bytes of each body are wanted; what is live is the bodies, 1 MiB each
    scenario("subslice", &["live_heap"], YES),
    // one live string, the freed copies that it grew through, and garbage: none has more than half
    scenario("strings_builder", &["live_heap", "mixed", "unreleased_heap"], &["yes", "partly"]),
    scenario("finalizer_held", &["live_heap"], YES),
    // in use in bursts, in the pool between them: live either way; what the buffers grew through is garbage, a third
    scenario("pool_buffers", &["live_heap"], &["yes", "partly"]),
    scenario("timer_per_request", &["small_objects"], YES),
    Scenario { old_go: true, ..scenario("time_after", &["small_objects"], YES) },
    // free, but in pages that one live object each keeps: SPEC has no cause of its own for it
    scenario("fragmentation", &["unreleased_heap", "mixed"], &["no", "partly"]),
    scenario("churn", &["allocation_churn"], YES),
    // at this moment most of it is free memory, but the heap's goal and the allocation rate say what for
    scenario("churn_just_collected", &["allocation_churn"], &["yes", "partly"]),
    scenario("gomemlimit", &["allocation_churn"], YES),
    // MemStats cannot tell that the ballast, half of HeapAlloc, was never touched; smaps says only how much is not there
    scenario("ballast", &["allocation_churn", "live_heap", "mixed"], &["yes", "partly"]),
    scenario("unreleased", &["unreleased_heap"], NO),
    scenario("unreleased_goal", &["unreleased_heap"], NO),
    scenario("metadata", &["runtime_metadata"], NO),
    // nothing is wrong: RSS of twice what is live is what GOGC=100 means; what matters is what it is not called
    scenario("healthy", &["live_heap", "small_objects", "mixed"], &["yes", "partly"]),
    scenario("goroutine_chan", &["goroutine_pileup"], &["no", "partly"]),
    scenario("goroutine_mutex", &["goroutine_pileup"], NO),
    scenario("goroutine_io", &["goroutine_pileup"], &["no", "partly"]),
    // the bytes are in the heap, and live; the goroutines that hold them are the leak
    scenario("goroutine_pins_heap", &["goroutine_pileup"], &["yes", "partly"]),
    scenario("goroutine_grown_stacks", &["goroutine_pileup"], NO),
    // half of it and more is idle heap that the stacks have shrunk out of: a pile-up made it, and the number of goroutines says so
    scenario("goroutine_shrunk_stacks", &["goroutine_pileup"], NO),
    // no leak by intent, but the same thing: a stack and buffers for each connection
    scenario("goroutine_idle_keepalive", &["goroutine_pileup"], &["yes", "partly"]),
    scenario("deep_stacks", &["deep_stacks"], NO),
    scenario("deep_among_idle", &["deep_stacks"], NO),
    // many goroutines stand where all of it was allocated, and hold none of it
    scenario("cache_of_workers", &["live_heap"], YES),
    scenario("cache_and_leak", &["live_heap"], YES),
    scenario("mmap_anon", &["native_memory"], NO),
    scenario("mmap_file", &["file_mappings"], NO),
    scenario("shmem", &["shmem"], NO),
    // each thread has its goroutine: both are counted in thousands, and the threads are the dearer half
    scenario("threads_go", &["thread_pileup", "goroutine_pileup"], NO),
    scenario("mixed", &["mixed"], PARTLY),
    scenario("stacks_and_native", &["mixed"], NO),
    cgo("cgo_malloc", &["native_memory"], NO),
    cgo("cgo_malloc_big", &["native_memory"], NO),
    // the heap is healthy, and a part of RSS that is no reason for its growth
    cgo("cgo_and_churn", &["native_memory"], &["no", "partly"]),
    cgo("threads_c", &["thread_pileup"], NO),
];

/// The scenario of this name.
pub fn named(name: &str) -> Scenario {
    *SCENARIOS.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no scenario {name}"))
}

impl Scenario {
    /// Whether this version can show it.
    pub fn is_for(&self, version: GoVersion) -> bool {
        !self.old_go || version == GoVersion::Oldest
    }

    /// Starts it, and returns when RSS has grown by about `mib` MiB.
    pub fn start(&self, version: GoVersion, mib: u64) -> Grown {
        self.start_with(version, mib, &[])
    }

    /// Starts it healthy; `grow` lets it grow by about `mib` MiB.
    pub fn start_healthy(&self, version: GoVersion, mib: u64) -> Grown {
        self.start_with(version, mib, &["-baseline"])
    }

    fn start_with(&self, version: GoVersion, mib: u64, args: &[&str]) -> Grown {
        let files = TempDir::new().unwrap();
        let mut command = Command::new(go_program(version, "scenarios", self.cgo));
        // a killed program cannot remove what it has mapped
        command.env("TMPDIR", files.path()).args(["-scenario", self.name, "-mib", &mib.to_string()]);
        Grown { svc: Svc::start_in(command, args), _files: files }
    }
}

/// A running scenario; its service first, then its files, end with it.
pub struct Grown {
    svc: Svc,
    _files: TempDir,
}

impl std::ops::Deref for Grown {
    type Target = Svc;

    fn deref(&self) -> &Svc {
        &self.svc
    }
}
