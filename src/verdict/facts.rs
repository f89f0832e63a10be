//! What a verdict wants to know besides the anatomy. Plain numbers and names: whoever can read profiles fills them in.

use serde::{Deserialize, Serialize};

use crate::anatomy::Anatomy;

/// Objects up to this size, in bytes on average, are small: their number is the problem, and what points to them.
pub const SMALL_OBJECT: u64 = 512;

/// Whatever is not known is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The same process while it was healthy.
    pub baseline: Option<Anatomy>,
    pub baseline_goroutines: Option<u64>,
    pub baseline_threads: Option<u64>,
    /// The profile taken with the forced collection, else the one before.
    pub heap: Option<HeapProfile>,
    /// What that profile has more than the baseline's.
    pub heap_growth: Option<HeapGrowth>,
    pub allocs: Option<Allocs>,
    pub goroutines: Option<Goroutines>,
    pub goroutine_growth: Option<GoroutineGrowth>,
    pub deepest: Option<Deepest>,
    /// OS threads.
    pub threads: Option<u64>,
    pub go_version: Option<String>,
    /// From the environment; `None` where that could not be read.
    pub gogc: Option<Gogc>,
    /// Bytes; `None` where there is no limit.
    pub gomemlimit: Option<u64>,
    pub age_seconds: Option<f64>,
    /// Between the two MemStats.
    pub memstats_gap_seconds: Option<f64>,
    /// Between the forced collections at the two ends of the capture.
    pub allocated: Option<Allocated>,
    pub end: Option<Ending>,
    /// Why the profiles may not be of this process: sentences of the capture.
    pub mistaken: Vec<String>,
}

/// `inuse_space` that came since the baseline: sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeapGrowth {
    /// Of all functions that have more than they had.
    pub bytes: u64,
    pub top_space: TopFunction,
    /// Of the function that most of the new goroutines stand in, with what it calls.
    pub where_goroutines_stand: u64,
}

/// Where most of the goroutines stand that came since the baseline.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GoroutineGrowth {
    pub function: String,
    pub more: u64,
}

/// The deepest stack, and how many goroutines have it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deepest {
    pub function: String,
    pub count: u64,
    /// Those that a dump leaves out; `None` where a profile, which ends after 128, has one function in most of what it shows.
    pub frames: Option<u64>,
}

/// `GOGC`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gogc {
    Percent(u32),
    Off,
}

impl Gogc {
    /// Reads the variable's value as the runtime does: what is no number is 100.
    pub fn parse(value: &str) -> Gogc {
        match value.parse::<i64>() {
            _ if value == "off" => Gogc::Off,
            Ok(percent) if percent < 0 => Gogc::Off,
            Ok(percent) => u32::try_from(percent).map_or(Gogc::Off, Gogc::Percent),
            Err(_) => Gogc::Percent(100),
        }
    }
}

/// What a process allocated within a time: sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allocated {
    pub bytes: u64,
    pub seconds: f64,
}

/// Totals of a heap profile: sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeapProfile {
    pub inuse_space: u64,
    pub inuse_objects: u64,
    /// `inuse_space` of the samples whose objects have at most [`SMALL_OBJECT`] bytes on average.
    pub small_space: Option<u64>,
    pub top_space: Option<TopFunction>,
    pub top_objects: Option<TopFunction>,
    /// The stack that allocated most of `inuse_space`: function names, the innermost first.
    pub top_stack: Vec<String>,
    pub top_stack_space: u64,
}

/// Totals since the start of the process: sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocs {
    pub alloc_space: u64,
    pub alloc_objects: u64,
    pub top_space: Option<TopFunction>,
    pub top_objects: Option<TopFunction>,
}

/// The function with the largest flat value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopFunction {
    pub function: String,
    pub flat: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goroutines {
    pub total: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline_total: Option<u64>,
    /// What the garbage collector found to be blocked for ever (Go 1.26 and later).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub leaked: Option<u64>,
    /// By identical stack, the largest first; the caller bounds their number.
    pub groups: Vec<Group>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Group {
    pub count: u64,
    /// `chan receive`; known from goroutine.txt only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub longest_wait_seconds: Option<u64>,
    /// Function names, the innermost first.
    pub stack: Vec<String>,
}

impl Group {
    /// Where its goroutines stand, for their owner: the frames on top say how they wait, not where.
    pub fn stands_in(&self) -> Option<&str> {
        let waits = |f: &&String| ["runtime.", "internal/", "sync.", "time."].iter().any(|package| f.starts_with(package));
        self.stack.iter().find(|f| !waits(f)).or(self.stack.first()).map(String::as_str)
    }
}

/// How the process ended during the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    pub gone: bool,
    /// `None`: unknown.
    pub oom_killed: Option<bool>,
}
