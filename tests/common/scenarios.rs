//! Real Go programs that grow for one known reason each (`tests/go/scenarios`), and what a verdict has to say of them.
//!
//! The table is the truth that verdicts are held against, not a record of what they say: where more than one answer is listed, an
//! engineer with the same evidence could defend each, and the line says why.

use std::process::Command;

use tempfile::TempDir;

use super::{Build, GoVersion, Svc, go_program};

/// A reason to grow.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// What the program calls it, where it is one that is built in another way.
    program: &'static str,
    pub build: Build,
    /// Before Go 1.23 only.
    old_go: bool,
    /// What is right of the whole RSS.
    pub expect: Answers,
    /// What is right of its growth since a baseline, where that is another.
    grown: Option<Answers>,
    /// Its own speed is what it shows: it runs with no other beside it.
    pub alone: bool,
    /// Every run of the tests has it; the others are for `make corpus`.
    pub daily: bool,
}

/// The answers that are right, the best first.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    pub causes: &'static [&'static str],
    /// These as well, but not with high confidence: there is evidence against them.
    pub doubtful: &'static [&'static str],
    pub go_heap_explains: &'static [&'static str],
}

const fn scenario(name: &'static str, causes: &'static [&'static str], go_heap_explains: &'static [&'static str]) -> Scenario {
    let expect = Answers { causes, doubtful: &[], go_heap_explains };
    Scenario { name, program: name, build: Build::Plain, old_go: false, expect, grown: None, alone: false, daily: false }
}

impl Scenario {
    const fn cgo(self) -> Scenario {
        Scenario { build: Build::Cgo, ..self }
    }

    const fn narrow(self, program: &'static str) -> Scenario {
        Scenario { build: Build::Narrow, program, ..self }
    }

    const fn old_go(self) -> Scenario {
        Scenario { old_go: true, ..self }
    }

    const fn doubtful(self, doubtful: &'static [&'static str]) -> Scenario {
        Scenario { expect: Answers { doubtful, ..self.expect }, ..self }
    }

    const fn grown(self, causes: &'static [&'static str], go_heap_explains: &'static [&'static str]) -> Scenario {
        Scenario { grown: Some(Answers { causes, doubtful: &[], go_heap_explains }), ..self }
    }

    const fn alone(self) -> Scenario {
        Scenario { alone: true, ..self }
    }

    const fn daily(self) -> Scenario {
        Scenario { daily: true, ..self }
    }
}

const YES: &[&str] = &["yes"];
const YES_OR_PARTLY: &[&str] = &["yes", "partly"];
const PARTLY: &[&str] = &["partly"];
const NO_OR_PARTLY: &[&str] = &["no", "partly"];
const NO: &[&str] = &["no"];
const ANY: &[&str] = &["yes", "partly", "no", "unknown"];

/// All of them; a test compares it with what the programs list.
pub const SCENARIOS: &[Scenario] = &[
    scenario("heap_few_big", &["live_heap"], YES).daily(),
    scenario("heap_small_objects", &["small_objects"], YES).daily(),
    // 16 bytes of each body are wanted; what is live is the bodies, 1 MiB each
    scenario("subslice", &["live_heap"], YES),
    // one live string, the freed copies that it grew through, and garbage: none has clearly more than half
    scenario("strings_builder", &["live_heap", "mixed", "unreleased_heap"], YES_OR_PARTLY).doubtful(&["allocation_churn"]).daily(),
    scenario("finalizer_held", &["live_heap"], YES),
    // in use in bursts, and live; between them in the pool, which two collections empty. What the buffers grew through is garbage, a third
    scenario("pool_buffers", &["live_heap", "allocation_churn"], YES_OR_PARTLY).daily(),
    scenario("timer_per_request", &["small_objects"], YES),
    scenario("time_after", &["small_objects"], YES).old_go(),
    // free, but in pages that one live object each keeps: SPEC has no cause of its own for it
    scenario("fragmentation", &["unreleased_heap", "mixed"], NO_OR_PARTLY).daily(),
    scenario("churn", &["allocation_churn"], YES).alone().daily(),
    // at this moment most of it is free memory, but the heap's goal and the allocation rate say what for
    scenario("churn_just_collected", &["allocation_churn"], YES_OR_PARTLY).alone().daily(),
    scenario("gomemlimit", &["allocation_churn"], YES).alone().daily(),
    // MemStats cannot tell that the ballast, half of HeapAlloc, was never touched; smaps says only how much is not there
    scenario("ballast", &["allocation_churn", "live_heap", "mixed"], YES_OR_PARTLY).alone().daily(),
    scenario("unreleased", &["unreleased_heap"], NO).daily(),
    scenario("unreleased_goal", &["unreleased_heap"], NO).daily(),
    scenario("metadata", &["runtime_metadata"], NO).daily(),
    // nothing is wrong: RSS of twice what is live is what GOGC=100 means; what matters is what it is not called
    scenario("healthy", &["live_heap", "small_objects", "mixed"], YES_OR_PARTLY).alone(),
    scenario("goroutine_chan", &["goroutine_pileup"], NO_OR_PARTLY).daily(),
    scenario("goroutine_mutex", &["goroutine_pileup"], NO),
    scenario("goroutine_io", &["goroutine_pileup"], NO_OR_PARTLY),
    // the bytes are in the heap, and live; the goroutines that hold them are the leak
    scenario("goroutine_pins_heap", &["goroutine_pileup"], YES_OR_PARTLY).daily(),
    scenario("goroutine_grown_stacks", &["goroutine_pileup"], NO),
    // half of it and more is idle heap that the stacks have shrunk out of: a pile-up made it, and the number of goroutines says so
    scenario("goroutine_shrunk_stacks", &["goroutine_pileup"], NO).daily(),
    // no leak by intent, but the same thing: a stack and buffers for each connection
    scenario("goroutine_idle_keepalive", &["goroutine_pileup"], YES_OR_PARTLY),
    scenario("deep_stacks", &["deep_stacks"], NO),
    scenario("deep_among_idle", &["deep_stacks"], NO).daily(),
    // many goroutines stand where all of it was allocated, and hold none of it
    scenario("cache_of_workers", &["live_heap"], YES).daily(),
    // all of it is on the stacks of a pool's workers, and of one of them
    scenario("one_of_many_workers", &["live_heap"], YES),
    scenario("cache_and_leak", &["live_heap"], YES),
    scenario("mmap_anon", &["native_memory"], NO).daily(),
    scenario("mmap_file", &["file_mappings"], NO).daily(),
    scenario("shmem", &["shmem"], NO).daily(),
    // each thread has its goroutine: both are counted in thousands, and the threads are the dearer half
    scenario("threads_go", &["thread_pileup", "goroutine_pileup"], NO),
    scenario("mixed", &["mixed"], PARTLY).daily(),
    // half and half by what was asked for; the stacks are as large as doubling makes them
    scenario("stacks_and_native", &["mixed"], NO).doubtful(&["goroutine_pileup"]),
    scenario("cgo_malloc", &["native_memory"], NO).cgo().daily(),
    scenario("cgo_malloc_big", &["native_memory"], NO).cgo(),
    // the heap is healthy, and a part of RSS that is no reason for its growth
    scenario("cgo_and_churn", &["native_memory"], NO_OR_PARTLY).cgo().alone(),
    scenario("threads_c", &["thread_pileup"], NO).cgo().daily(),
    // what each request holds is heap and stack by turns
    scenario("http_lock", &["goroutine_pileup"], ANY).daily(),
    scenario("http_backend", &["goroutine_pileup"], ANY),
    scenario("http_pool", &["goroutine_pileup"], ANY),
    scenario("http_database", &["goroutine_pileup"], ANY),
    scenario("http_objects", &["goroutine_pileup"], YES_OR_PARTLY),
    // forty handlers that hang with 4 MiB each: SPEC's "few, large" and "a goroutine leak that holds heap" are both true of it
    scenario("http_few_large", &["goroutine_pileup", "live_heap"], YES),
    scenario("http_bodies_unclosed", &["goroutine_pileup"], ANY).daily(),
    scenario("rows_unclosed", &["live_heap"], YES),
    scenario("idle_and_cache", &["live_heap"], YES).daily(),
    scenario("idle_many_and_sessions", &["small_objects"], YES_OR_PARTLY),
    scenario("cache_and_idle", &["live_heap"], YES),
    scenario("idle_and_burst", &["unreleased_heap"], NO).daily(),
    // the goroutines have a quarter of it
    scenario("idle_and_mmap", &["native_memory"], NO),
    scenario("ingest_workers", &["live_heap"], YES),
    // what each session needs, the compiler has put on the stack
    scenario("ticker_goroutines", &["goroutine_pileup"], NO_OR_PARTLY),
    scenario("sleeping_goroutines", &["goroutine_pileup"], NO_OR_PARTLY),
    scenario("context_goroutines", &["goroutine_pileup"], ANY),
    scenario("waitgroup_goroutines", &["goroutine_pileup"], YES_OR_PARTLY),
    scenario("parser_pool", &["goroutine_pileup"], NO),
    // sixty stacks of some MiB: few, and very large
    scenario("deep_several", &["deep_stacks"], NO),
    // descriptors of goroutines are objects of the heap, of 400 bytes, that are never freed; they are the runtime's own as well
    scenario("ended_goroutines", &["small_objects", "runtime_metadata"], ANY),
    scenario("burst_then_idle", &["unreleased_heap"], NO).daily(),
    // the heap's goal is some MiB: what is free above it waits for nobody
    scenario("burst_then_serve", &["unreleased_heap"], NO_OR_PARTLY).alone(),
    scenario("gc_percent_set", &["allocation_churn"], YES_OR_PARTLY).alone().daily(),
    scenario("memory_limit_set", &["allocation_churn"], YES_OR_PARTLY).alone(),
    // nine tenths of it are live; a collector that never rests is how it shows
    scenario("memory_limit_tight", &["gc_thrash"], YES).doubtful(&["small_objects"]).grown(&["small_objects"], YES).alone(),
    scenario("churn_fast", &["allocation_churn"], YES_OR_PARTLY).alone(),
    // live until the second collection after its last use: garbage that waits, in a pool
    scenario("pool_left", &["allocation_churn"], YES_OR_PARTLY).doubtful(&["live_heap", "mixed"]),
    scenario("freed_lazily", &["unreleased_heap"], NO).daily(),
    scenario("huge_again", &["unreleased_heap"], NO_OR_PARTLY),
    scenario("titles", &["live_heap"], YES),
    scenario("interned", &["small_objects"], YES),
    scenario("map_emptied", &["live_heap"], YES),
    scenario("map_of_numbers", &["live_heap"], YES),
    scenario("ring_buffers", &["live_heap"], YES),
    scenario("channel_buffers", &["live_heap"], YES),
    scenario("channel_backlog", &["live_heap"], YES),
    scenario("closures", &["live_heap"], YES),
    scenario("timers_with_records", &["live_heap"], YES),
    scenario("tickers", &["small_objects"], YES),
    scenario("contexts", &["small_objects"], YES),
    scenario("templates", &["small_objects"], YES),
    scenario("json_kept", &["small_objects"], YES),
    scenario("log_kept", &["small_objects"], YES),
    scenario("finalizer_chain", &["live_heap"], YES),
    scenario("tree", &["small_objects"], YES),
    scenario("many_sites", &["live_heap"], YES),
    // which of two live things was never touched, MemStats does not tell; what came since the baseline does
    scenario("slab_and_sessions", &["small_objects"], ANY).doubtful(&["live_heap", "mixed", "unknown"]).grown(&["small_objects"], YES),
    scenario("slab_and_mmap", &["native_memory"], NO),
    scenario("slab_and_burst", &["unreleased_heap"], ANY)
        .doubtful(&["live_heap", "mixed", "unknown"])
        .grown(&["unreleased_heap"], NO)
        .daily(),
    scenario("slab_and_goroutines", &["goroutine_pileup"], ANY)
        .doubtful(&["live_heap", "mixed", "unknown"])
        .grown(&["goroutine_pileup"], NO_OR_PARTLY),
    // both are few and large
    scenario("index_and_pages", &["live_heap"], YES),
    scenario("guard_pages", &["native_memory"], NO).daily(),
    scenario("guard_pages_small", &["native_memory"], NO),
    // private copies of a file's pages are anonymous memory, and not Go's
    scenario("file_private", &["native_memory"], NO),
    scenario("file_store", &["file_mappings"], NO),
    scenario("shared_anonymous", &["shmem"], NO),
    scenario("mmap_huge", &["native_memory"], NO),
    scenario("cgo_fragmented", &["native_memory"], NO).cgo(),
    scenario("cgo_own_arenas", &["native_memory"], NO).cgo(),
    // a goroutine for each thread, and the bytes are on the threads' stacks
    scenario("cgo_calls_that_block", &["thread_pileup"], NO).cgo(),
    scenario("cgo_beside_subscribers", &["native_memory"], NO).cgo(),
    scenario("narrow_cache", &["live_heap"], YES).narrow("heap_few_big"),
    scenario("narrow_sessions", &["small_objects"], YES).narrow("heap_small_objects"),
    scenario("narrow_unreleased", &["unreleased_heap"], NO).narrow("unreleased").daily(),
    scenario("narrow_freed_lazily", &["unreleased_heap"], NO).narrow("freed_lazily"),
    scenario("narrow_goroutines", &["goroutine_pileup"], NO_OR_PARTLY).narrow("goroutine_chan"),
    scenario("narrow_mmap", &["native_memory"], NO).narrow("mmap_anon"),
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

    /// What is right of it, with a baseline or without.
    pub fn answers(&self, baseline: bool) -> Answers {
        self.grown.filter(|_| baseline).unwrap_or(self.expect)
    }

    /// Starts it, and returns when RSS has grown by about `mib` MiB.
    pub fn start(&self, version: GoVersion, mib: u64) -> Grown {
        self.start_with(version, mib, &[])
    }

    /// The same in another build, where it has none of its own.
    pub fn built(&self, build: Build) -> Scenario {
        let build = if self.build == Build::Plain { build } else { self.build };
        Scenario { build, ..*self }
    }

    /// Starts it healthy; `grow` lets it grow by about `mib` MiB.
    pub fn start_healthy(&self, version: GoVersion, mib: u64) -> Grown {
        self.start_with(version, mib, &["-baseline"])
    }

    fn start_with(&self, version: GoVersion, mib: u64, args: &[&str]) -> Grown {
        let files = TempDir::new().unwrap();
        let mut command = Command::new(go_program(version, "scenarios", self.build));
        // a killed program cannot remove what it has mapped
        command.env("TMPDIR", files.path()).args(["-scenario", self.program, "-mib", &mib.to_string()]);
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
