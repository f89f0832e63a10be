//! What a verdict wants to know besides the anatomy. Plain numbers and names: whoever can read profiles fills them in.

use serde::{Deserialize, Serialize};

use super::Confidence;
use crate::anatomy::{Anatomy, Cgroup};
use crate::holders::Holders;
use crate::pprof::own::{self, Whose};

/// Objects up to this size, in bytes on average, are small: their number is the problem, and what points to them.
pub const SMALL_OBJECT: u64 = 512;

/// Helpers of the library name the place where the others are fewer than one of so many.
const OUTNUMBERED: u64 = 4;

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
    pub heap_growth: Option<HeapProfile>,
    /// What of the heap profile the goroutines hold, as far as their number tells.
    pub held: Option<Held>,
    /// The same of what came since the baseline.
    pub held_growth: Option<Held>,
    /// What was live after the forced collection and gone after a later one, in bytes of that profile.
    pub passing: Option<u64>,
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
    /// What the runtime itself says of both, where it was asked: SetGCPercent and SetMemoryLimit are in it.
    pub gogc_in_force: Option<Gogc>,
    pub memory_limit: Option<u64>,
    /// Collections that take the CPU for want of room.
    pub thrash: Option<Thrash>,
    pub age_seconds: Option<f64>,
    /// Between the two MemStats.
    pub memstats_gap_seconds: Option<f64>,
    /// Between the forced collections at the two ends of the capture.
    pub allocated: Option<Allocated>,
    pub end: Option<Ending>,
    /// The table of the process's cgroup, where one has a limit.
    pub cgroup: Option<Cgroup>,
    /// Its charge is what fired.
    pub by_charge: bool,
    /// A rule about RSS is: what else fills the limit is not what was asked.
    pub by_rss: bool,
    /// By the object graph, compared with the baseline's.
    pub holders: Option<Holders>,
    /// What is explained.
    pub whole: Whole,
    /// Why the profiles may not be of this process: sentences of the capture.
    pub mistaken: Vec<String>,
    /// Why they are not, and were left aside.
    pub foreign: Vec<String>,
}

/// What the anatomy adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whole {
    #[default]
    Rss,
    /// What a core file has stored; it knows no RSS.
    Core,
    /// What Go's runtime has from the kernel and has not returned: nothing tells the RSS.
    Mapped,
}

/// So many goroutines more than usual are a pile, and so many that stand where the heap was allocated, or hold it, are worth a word.
pub(crate) const MORE_GOROUTINES: u64 = 100;

/// What goroutines hold of a heap profile's `inuse_space`, in bytes: sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// All of it.
    pub of: u64,
    /// Allocated where many goroutines stand, or below, and as much as so many would hold.
    pub linked: u64,
    /// Allocated elsewhere, and as many objects as there are goroutines, or twice as many.
    pub alike: u64,
    /// The place that most of `linked` was allocated at.
    pub function: Option<String>,
    /// What many goroutines hold by the object graph: no guess. The others are beyond it then.
    pub surely: u64,
    /// What many goroutines only point into, and variables hold.
    pub pointed_into: u64,
}

impl Held {
    /// By the object graph: `surely` is what many goroutines hold, `perhaps` what they only point into, `of` all that is live.
    pub fn by_graph(self, surely: u64, perhaps: u64, of: u64) -> Held {
        // what a profile counts is sampled, and may be of another moment
        let scaled = |bytes: u64| u64::try_from(u128::from(bytes) * u128::from(of) / u128::from(self.of.max(1))).unwrap_or(u64::MAX);
        let linked = scaled(self.linked).saturating_sub(surely).min(perhaps);
        let alike = scaled(self.alike).min(perhaps - linked);
        Held { of, surely, linked, alike, function: self.function, pointed_into: perhaps }
    }
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

/// Collections that take the CPU because the heap has no room. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thrash {
    pub seen: Seen,
    /// Collections that ended meanwhile.
    pub collections: u64,
    pub share: f64,
}

impl Thrash {
    pub(super) fn confidence(&self) -> Confidence {
        match self.seen {
            Seen::ByRule { .. } => Confidence::High,
            Seen::Between { .. } | Seen::SinceStart { .. } => Confidence::Medium,
        }
    }
}

/// By what it was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// The rule `gc` fired: a share of the process's CPU over a window.
    ByRule {
        window_seconds: f64,
        live_bytes: u64,
        goal_bytes: u64,
        /// The memory limit sets the goal.
        limit_bytes: Option<u64>,
    },
    /// A share of all CPU that the process may use, between two MemStats. Where pprof told them, the collection that memtrap asked for is one of
    /// those that ended meanwhile.
    Between {
        by_memory: bool,
        /// How far the heap may grow beyond what is live, in percent.
        room_at_most: u64,
    },
    /// A share of all CPU that the process could use since it started.
    SinceStart { room_at_most: u64 },
}

/// What a process allocated within a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allocated {
    pub bytes: u64,
    pub seconds: f64,
    /// It was asked for nothing meanwhile, which it would have allocated for.
    pub is_undisturbed: bool,
}

/// What is in use by a heap profile, or came since another: sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeapProfile {
    pub inuse_space: u64,
    pub inuse_objects: u64,
    /// `None`: the sizes of the objects are not known.
    pub sizes: Option<Sizes>,
    /// The heaviest first.
    pub holders: Vec<Holder>,
    /// The one with the most objects.
    pub most_objects: Option<Holder>,
}

/// Bytes in objects of some size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Clearly below [`SMALL_OBJECT`].
    pub surely_small: u64,
    /// At most [`SMALL_OBJECT`].
    pub small: u64,
    /// Little above it at most.
    pub perhaps_small: u64,
    /// Of whole pages: they may never have been touched.
    pub large: u64,
}

/// A function of the service's own, and what was allocated in it or by what it called for that; of a library's where there is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holder {
    pub function: String,
    /// The innermost function that allocated most of it, if another.
    pub leaf: Option<String>,
    pub bytes: u64,
    pub objects: u64,
    /// The part of the bytes in objects that may never have been touched.
    pub large: u64,
}

/// Totals since the start of the process: sampled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allocs {
    pub alloc_space: u64,
    pub top_space: Option<TopFunction>,
}

/// The function that allocated most, as a [`Holder`] is named.
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
    /// The frame that tells its owner where it stands, where the main module is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub place: Option<String>,
}

impl Group {
    /// Where its goroutines stand, for their owner: the frames on top say how they wait, not where.
    pub fn stands_in(&self) -> Option<&str> {
        self.place.as_deref().or_else(|| own::place(self.stack.iter().map(String::as_str), None))
    }

    /// Whether nothing but Go's library is in it: it made these goroutines for itself.
    fn is_helper(&self) -> bool {
        self.stands_in().is_none_or(|place| own::whose(place, None) >= Whose::Library)
    }
}

impl Goroutines {
    /// The group to speak of: the largest that stands in someone's code, unless those that the library made for itself are far more.
    pub fn main_group(&self) -> Option<&Group> {
        let largest = self.groups.first()?;
        let own = self.groups.iter().find(|group| !group.is_helper());
        own.filter(|own| own.count.saturating_mul(OUTNUMBERED) >= largest.count).or(Some(largest))
    }
}

/// How the process ended during the capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    pub gone: bool,
    /// `None`: unknown.
    pub oom_killed: Option<bool>,
}
