//! What pprof said: the profiles and texts of a directory, and what a verdict wants of them together.

use super::files::Files;
use super::goroutines;
use super::identity::Said;
use super::profiles;
use super::sites::{Place, Sites};
use crate::anatomy::GoMemory;
use crate::pprof::{Profile, goroutine};
use crate::verdict::{Allocated, Allocs, Deepest, GoroutineGrowth, Goroutines, HeapProfile, Held, Top, TopLine};

/// Of each table.
const TOP_ROWS: usize = 20;

/// What [`Told`] is read from.
pub const FILES: [&str; 10] = [
    "heap.pb.gz",
    "heap_gc.pb.gz",
    "heap_gc_after.pb.gz",
    "allocs.pb.gz",
    "goroutine.pb.gz",
    "goroutineleak.pb.gz",
    "goroutine.txt",
    "memstats.txt",
    "memstats_gc.txt",
    "memstats_after.txt",
];

#[derive(Default)]
pub struct Told {
    pub heap: Option<Profile>,
    pub heap_gc: Option<Profile>,
    /// Taken with another forced collection, at the end.
    pub after: Option<Profile>,
    allocs: Option<Profile>,
    goroutine: Option<Profile>,
    leak: Option<Profile>,
    dump: Option<goroutine::Dump>,
    pub memstats: Option<GoMemory>,
    pub memstats_gc: Option<GoMemory>,
    /// At the end of the capture, where they are read from memory.
    pub memstats_after: Option<GoMemory>,
}

/// Who stands where.
#[derive(Default)]
pub struct Standing {
    pub goroutines: Option<Goroutines>,
    pub growth: Option<GoroutineGrowth>,
    pub deepest: Option<Deepest>,
    crowd: Vec<Place>,
    /// Of those that came since the baseline.
    new_crowd: Vec<Place>,
    for_ever: bool,
}

/// What is in use, and by whom.
#[derive(Default)]
pub struct InUse {
    pub heap: Option<HeapProfile>,
    pub growth: Option<HeapProfile>,
    pub held: Option<Held>,
    pub held_growth: Option<Held>,
    pub passing: Option<u64>,
    /// Of what counts as live: allocated while the forced collection marked, at most.
    pub floating: u64,
    pub allocs: Option<Allocs>,
}

impl Told {
    pub fn read(files: &mut Files) -> Told {
        let heap_gc = files.profile("heap_gc.pb.gz");
        Told {
            // what other tools save is often the whole text, with the samples above the numbers
            heap: files.profile("heap.pb.gz").or_else(|| files.heap_text("memstats.txt")),
            after: files.profile("heap_gc_after.pb.gz"),
            // what counts allocations is as of the last collection: the forced one, where there was one
            allocs: if heap_gc.is_none() { files.profile("allocs.pb.gz") } else { None },
            goroutine: files.profile("goroutine.pb.gz"),
            leak: files.profile("goroutineleak.pb.gz"),
            dump: files.goroutines("goroutine.txt"),
            memstats: files.memstats("memstats.txt"),
            memstats_gc: files.memstats("memstats_gc.txt"),
            memstats_after: files.memstats("memstats_after.txt"),
            heap_gc,
        }
    }

    /// For [`identity::of`](super::identity::of), besides what the kernel says of the process.
    pub fn said(&self, vdso: Option<u64>, rss: Option<u64>) -> Said<'_> {
        let all = [
            ("heap.pb.gz", &self.heap),
            ("goroutine.pb.gz", &self.goroutine),
            ("heap_gc.pb.gz", &self.heap_gc),
            ("goroutineleak.pb.gz", &self.leak),
            ("allocs.pb.gz", &self.allocs),
            ("heap_gc_after.pb.gz", &self.after),
        ];
        let profiles = all.into_iter().filter_map(|(name, profile)| Some((name, profile.as_ref()?))).collect();
        Said { vdso, rss, profiles, memstats: self.memstats, memstats_gc: self.memstats_gc }
    }

    /// The heap after the forced collection, else before it.
    pub fn live(&self) -> Option<&Profile> {
        self.heap_gc.as_ref().or(self.heap.as_ref())
    }

    /// Who counts allocations.
    pub fn allocs(&self) -> Option<&Profile> {
        self.heap_gc.as_ref().or(self.allocs.as_ref()).or(self.heap.as_ref())
    }

    pub fn into_heap(self) -> Option<Profile> {
        self.heap_gc.or(self.heap)
    }

    /// Who has most; with who grew most since the baseline, if `base` is its heap.
    pub fn top(&self, base: Option<&Profile>) -> Top {
        let of = |profile: Option<&Profile>, kind| profile.map(|p| profiles::top(p, kind, TOP_ROWS)).unwrap_or_default();
        let (live, allocs) = (self.live(), self.allocs());
        Top {
            inuse_space: of(live, "inuse_space"),
            inuse_objects: of(live, "inuse_objects"),
            alloc_space: of(allocs, "alloc_space"),
            alloc_objects: of(allocs, "alloc_objects"),
            growth: live.zip(base).map(|(now, then)| profiles::growth(now, then, TOP_ROWS)).unwrap_or_default(),
        }
    }

    /// Who grew between the two forced collections.
    pub fn grown_during(&self) -> Vec<TopLine> {
        let both = self.heap_gc.as_ref().zip(self.after.as_ref());
        both.map(|(gc, after)| profiles::growth(after, gc, TOP_ROWS)).unwrap_or_default()
    }

    pub fn is_nothing(&self) -> bool {
        self.allocs().is_none() && self.goroutine.is_none() && self.dump.is_none() && self.memstats.is_none()
    }

    /// What was allocated between the two forced collections, or between two looks at its memory.
    pub fn allocated(&self) -> Option<Allocated> {
        let told = self.heap_gc.as_ref().zip(self.after.as_ref()).and_then(|(first, last)| profiles::allocated(first, last));
        told.or_else(|| {
            let (first, last) = self.memstats.zip(self.memstats_after)?;
            let nanoseconds = last.read_unix_ns?.checked_sub(first.read_unix_ns?)?;
            let bytes = last.total_alloc.checked_sub(first.total_alloc)?;
            Some(Allocated { bytes, seconds: nanoseconds as f64 / 1e9, is_undisturbed: true })
        })
    }

    /// `module` is the path of the main module.
    pub fn standing(&self, base: Option<&Profile>, module: Option<&str>) -> Standing {
        let (counted, dump) = (self.goroutine.as_ref(), self.dump.as_ref());
        // states and waits are in the text only; one that Go cut off has not all that the profile counts
        let is_whole = |dump: &&goroutine::Dump| counted.is_none_or(|p| dump.total >= profiles::first_total(p) / 10 * 9);
        let stated = dump.filter(|dump| goroutines::tells_states(dump)).filter(is_whole).map(|dump| goroutines::groups(dump, module));
        let total = counted.map(profiles::first_total).or(dump.map(|dump| dump.declared.unwrap_or(dump.total)));
        let now = counted.map(|p| profiles::groups(p, module));
        let then = base.map(|p| profiles::groups(p, module));
        let both = now.as_deref().map(profiles::places).zip(then.as_deref().map(profiles::places));
        let goroutines = total.map(|total| Goroutines {
            total,
            baseline_total: base.map(profiles::first_total),
            leaked: self.leak.as_ref().map(profiles::leaked),
            groups: stated.or(now).or(dump.map(|dump| goroutines::groups(dump, module))).unwrap_or_default(),
        });
        Standing {
            growth: both.as_ref().and_then(|(now, then)| profiles::goroutine_growth(now, then)),
            deepest: dump.and_then(goroutines::deepest).or_else(|| counted.and_then(profiles::recursion)),
            crowd: profiles::crowded(&profiles::places(goroutines.as_ref().map_or(&[], |g| &g.groups))),
            new_crowd: both.map(|(now, then)| profiles::crowded(&profiles::newcomers(&now, &then))).unwrap_or_default(),
            for_ever: goroutines.as_ref().is_some_and(|g| g.leaked.is_some_and(|leaked| leaked.saturating_mul(2) >= g.total)),
            goroutines,
        }
    }

    /// `marking`: for how long the forced collection marked, at most, in seconds.
    pub fn in_use(&self, base: Option<&Profile>, standing: &Standing, module: Option<&str>, marking: Option<f64>) -> InUse {
        let allocs = self.allocs().and_then(|p| Sites::of(p, module, &[])).map(|sites| sites.allocs());
        let Some(live) = self.live() else { return InUse { allocs, ..InUse::default() } };
        let settled = |places: &[Place]| {
            let mut sites = Sites::of(live, module, places)?;
            let floating = self.factor(marking).map(|(first, last, factor)| {
                let of = |profile| Sites::of(profile, module, places).unwrap_or_default();
                sites.sink(&of(last).minus(&of(first)), factor)
            });
            Some((sites, floating.unwrap_or(0)))
        };
        let Some((sites, floating)) = settled(&standing.crowd) else { return InUse { allocs, ..InUse::default() } };
        let after = self.heap_gc.as_ref().and(self.after.as_ref()).and_then(|p| Sites::of(p, module, &standing.crowd));
        let grown = base.and_then(|base| Some(settled(&standing.new_crowd)?.0.minus(&Sites::of(base, module, &standing.new_crowd)?)));
        let growth = grown.as_ref().map(Sites::heap).filter(|heap| heap.inuse_space > 0);
        InUse {
            heap: Some(sites.heap()),
            held: Some(sites.held(&standing.crowd, standing.for_ever)),
            held_growth: grown.map(|sites| sites.held(&standing.new_crowd, standing.for_ever)),
            passing: after.map(|after| sites.went(&after)),
            growth,
            floating,
            allocs,
        }
    }

    /// Two profiles that tell how fast each site allocates, and what that between them is to be multiplied with for the time of marking.
    fn factor(&self, marking: Option<f64>) -> Option<(&Profile, &Profile, f64)> {
        let gc = self.heap_gc.as_ref()?;
        let (first, last) = match (&self.after, &self.heap) {
            (Some(after), _) => (gc, after),
            (None, Some(heap)) => (heap, gc),
            _ => return None,
        };
        let nanoseconds = last.time_nanos.checked_sub(first.time_nanos).filter(|n| *n > 0 && first.time_nanos > 0)?;
        Some((first, last, marking? * 1e9 / nanoseconds as f64))
    }
}
