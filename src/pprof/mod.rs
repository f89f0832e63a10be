//! What Go's profiles say: bytes in, values out.
//!
//! | | reads | gives |
//! | --- | --- | --- |
//! | [`validate`] | a profile, streamed | is it whole, and the sum of its first value; constant memory |
//! | [`Profile::parse`] | a profile in memory | samples, locations, functions, labels |
//! | [`top`] | a `Profile`, perhaps a base | the table that `go tool pprof -top` prints; growth since the base |
//! | [`flame`] | a `Profile` | its call tree, cut to what a picture can show |
//! | [`own`] | a function's name | whose it is: the service's, a module's, Go's |
//! | [`goroutine`] | the text of `goroutine?debug=1` and `debug=2` | goroutines grouped by identical stack |
//! | `unlogged` | a line of a log that has escaped a dump | its lines |
//! | [`heap_text`], [`of_goroutines`] | the text of `heap?debug=1`, a dump of goroutines | a `Profile` |
//!
//! Deliberately not here: fetching, files, threads, clocks, symbolization of profiles that carry no names,
//! and writing of profiles. Everything read comes from outside: sizes and counts are bounded by [`Limits`],
//! and no input makes this code panic.

mod decode;
pub mod encode;
mod error;
pub mod flame;
mod frames;
pub mod goroutine;
mod graph;
mod inflate;
mod measure;
mod merge;
mod named;
pub mod own;
mod profile;
pub mod validate;
#[cfg(test)]
pub(crate) mod testing;
pub mod top;
mod unlogged;
mod wire;

pub use error::DecodeError;
/// When a profile was taken is told in one.
pub use jiff::tz::TimeZone;
pub use named::{goroutines as of_goroutines, heap as heap_text, is_heap_text};
pub use profile::{Function, Label, LabelValue, Line, Location, Mapping, Profile, Sample, Str, ValueType};

/// Bounds on one profile. The defaults are far above what the Go runtime writes and keep a hostile body
/// from using the memory of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after decompression; at most 4 GiB is ever accepted by [`Profile::parse`].
    pub inflated_bytes: u64,
    pub strings: usize,
    pub mappings: usize,
    pub functions: usize,
    pub locations: usize,
    /// Lines of all locations: a location has one line more for each call inlined there.
    pub lines: usize,
    pub samples: usize,
    /// Of all samples and sample types.
    pub values: usize,
    /// Frames of all samples together.
    pub frames: usize,
    pub labels: usize,
    /// Bytes of all comments together, counted as often as they are named.
    pub comment_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            inflated_bytes: 512 << 20,
            strings: 8_000_000,
            mappings: 250_000,
            functions: 4_000_000,
            locations: 4_000_000,
            lines: 16_000_000,
            samples: 8_000_000,
            values: 32_000_000,
            frames: 64_000_000,
            labels: 16_000_000,
            comment_bytes: 1 << 20,
        }
    }
}
