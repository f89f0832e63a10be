//! All that is read of a Go process at once, each part on its own: what one refuses, the others may still have.

use std::time::SystemTime;

use super::goroutines::Goroutines;
use super::heap;
use super::image::Image;
use super::memory::{Memory, Reader};
use super::memstats::MemStats;
use super::{Refused, Runtime, goroutine_files, unix_ns};

/// A file that a reading can fill, in the format that pprof gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Heap,
    Allocs,
    MemStats,
    Goroutine,
    GoroutineText,
}

impl Part {
    pub const ALL: [Part; 5] = [Part::Heap, Part::MemStats, Part::Goroutine, Part::Allocs, Part::GoroutineText];

    /// What it is called in a bundle.
    pub fn file(self) -> &'static str {
        match self {
            Part::Heap => "heap.pb.gz",
            Part::Allocs => "allocs.pb.gz",
            Part::MemStats => "memstats.txt",
            Part::Goroutine => "goroutine.pb.gz",
            Part::GoroutineText => "goroutine.txt",
        }
    }

    /// The step of a capture that it can take the place of.
    pub fn name(self) -> &'static str {
        match self {
            Part::Heap => "heap",
            Part::Allocs => "allocs",
            Part::MemStats => "memstats",
            Part::Goroutine => "goroutine",
            Part::GoroutineText => "goroutine_text",
        }
    }
}

/// What was read.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// `go1.27.3`
    pub go_version: String,
    /// The layout is that of an older release, and nothing that was read contradicts it.
    pub is_guess: bool,
    /// The heap profile is of this moment, garbage and all.
    pub is_before_collection: bool,
    pub bytes: u64,
    pub parts: Vec<(Part, Result<Vec<u8>, Refused>)>,
}

/// `now_ns` is `CLOCK_MONOTONIC`, where the process lives; `taken` is what the profiles say of their time.
pub fn read(memory: &dyn Memory, image: &Image, now_ns: Option<u64>, taken: SystemTime) -> Result<Evidence, Refused> {
    let reader = Reader::new(memory);
    let runtime = Runtime::find(&reader, image)?;
    let taken = unix_ns(taken);
    let stats = MemStats::read(&runtime).map(|stats| MemStats { read_unix_ns: taken, ..stats });
    let profile = heap::profile(&runtime, taken);
    let is_before_collection = profile.as_ref().is_ok_and(|profile| profile.is_before_collection);
    let heap = profile.map(|profile| profile.gzipped);
    let goroutines = Goroutines::read(&runtime, now_ns);
    let of_goroutines = |make: &dyn Fn(&Goroutines) -> Result<Vec<u8>, Refused>| goroutines.as_ref().map_err(Clone::clone).and_then(make);
    let parts = vec![
        (Part::Heap, heap.clone()),
        (Part::MemStats, stats.map(|stats| stats.to_string().into_bytes())),
        (Part::Goroutine, of_goroutines(&|read| goroutine_files::profile(&runtime, read, taken))),
        (Part::Allocs, heap),
        (Part::GoroutineText, of_goroutines(&|read| goroutine_files::text(&runtime, read).map(String::into_bytes))),
    ];
    let Runtime { layout, .. } = &runtime;
    Ok(Evidence { go_version: image.go_version.clone(), is_guess: layout.is_guess, is_before_collection, bytes: reader.bytes(), parts })
}
