//! What an incident is compared with: the same process while it was healthy, or another bundle.

use std::path::Path;

use super::files::Files;
use super::metadata::Provenance;
use super::told::InUse;
use super::{AnalysisError, identity, profiles};
use crate::anatomy::{self, Anatomy, Evidence};
use crate::bundle::{BaselineFacts, Manifest};
use crate::holders::{self, Holder, Holders};
use crate::pprof::Profile;
use crate::verdict::MORE_GOROUTINES;

pub(super) struct Healthy {
    pub files: Files,
    pub heap: Option<Profile>,
    pub goroutines: Option<Profile>,
    holders: Option<Holders>,
    /// Another bundle, with its kernel evidence where a bundle has it.
    is_whole: bool,
    /// Its profiles are of the same process, or are meant to be another's.
    is_comparable: bool,
}

pub(super) struct BaselineAnatomy {
    pub anatomy: Anatomy,
    pub threads: Option<u64>,
}

impl Healthy {
    /// `base`: another bundle than the baseline inside. What the profiles take counts together with those of `files`.
    pub fn read(files: &mut Files, base: Option<&Path>, evidence: &Evidence, whose: &Provenance) -> Result<Healthy, AnalysisError> {
        let mut healthy = match base {
            Some(base) => Files::open(base, files.lang)?,
            None => files.below("baseline"),
        };
        (healthy.profiles, healthy.inflatable) = (files.profiles, files.inflatable);
        let heap = base.and_then(|_| healthy.profile("heap_gc.pb.gz")).or_else(|| healthy.profile("heap.pb.gz"));
        let goroutines = healthy.profile("goroutine.pb.gz");
        let holders = healthy.json(holders::FILE);
        (files.profiles, files.inflatable) = (healthy.profiles, healthy.inflatable);

        let vdso = evidence.smaps.as_ref().and_then(|smaps| smaps.vdso);
        // another bundle may well be of another process
        let was_here = |profile: &Profile| base.is_some() || vdso.zip(identity::vdso(profile)).is_none_or(|(now, then)| now == then);
        let is_comparable = whose.foreign.is_empty() && [&heap, &goroutines].into_iter().flatten().all(was_here);
        let [heap, goroutines] = if is_comparable { [heap, goroutines] } else { [None, None] };
        Ok(Healthy { files: healthy, heap, goroutines, holders, is_whole: base.is_some(), is_comparable })
    }

    /// Its RSS in the buckets of `now`.
    pub fn baseline(&mut self, now: &Anatomy) -> Option<BaselineAnatomy> {
        if !self.is_comparable {
            return None;
        }
        let files = &mut self.files;
        let mut evidence = files.kernel(if self.is_whole { "proc/" } else { "" });
        evidence.memstats = files.memstats("memstats.txt");
        if self.is_whole {
            evidence.memstats_gc = files.memstats("memstats_gc.txt");
        }
        evidence.heap_inuse = self.heap.as_ref().and_then(|p| profiles::total(p, "inuse_space"));
        evidence.reached = self.holders.as_ref().and_then(Holders::live_bytes);
        let said = match self.is_whole {
            true => files.json::<Manifest>("manifest.json").map(|m| m.trigger.rss_bytes),
            false => files.json::<BaselineFacts>("baseline.json").map(|b| b.rss_bytes),
        };
        evidence.rss_bytes = said.or(evidence.status.map(|s| s.rss()))?;
        Some(BaselineAnatomy { threads: evidence.status.and_then(|s| s.threads), anatomy: anatomy::build_baseline(&evidence, now) })
    }

    /// How much each of these holders has grown.
    pub fn compare(&self, now: &mut Option<Holders>) {
        if let Some((now, then)) = now.as_mut().zip(self.holders.as_ref()) {
            now.compare(then);
        }
    }

    /// What goroutines hold, by the object graph where it was walked: that they stand where it was allocated is less.
    pub fn by_graph(&self, in_use: &mut InUse, now: Option<&Holders>) {
        let Some((now, live)) = now.and_then(|now| Some((now, now.live_bytes()?))) else { return };
        let (surely, perhaps) = now.of_goroutines(MORE_GOROUTINES, |holder| holder.retained_bytes);
        in_use.held = Some(in_use.held.take().unwrap_or_default().by_graph(surely, perhaps, live));
        let then = self.holders.as_ref().and_then(Holders::live_bytes);
        in_use.held_growth = in_use.held_growth.take().zip(then).map(|(grown, then)| {
            let growth = |holder: &Holder| holder.growth_bytes.map_or(0, |bytes| u64::try_from(bytes).unwrap_or(0));
            let (surely, perhaps) = now.of_goroutines(MORE_GOROUTINES, growth);
            grown.by_graph(surely, perhaps, live.saturating_sub(then))
        });
    }
}
