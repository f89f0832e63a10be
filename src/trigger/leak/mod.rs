//! `leak`: the floor of RSS rises by so much over days.
//!
//! ```text
//!  hours ──lowest of four──> blocks ──lowest of six──> floors of days: where the rise begins
//!                               │
//!                               └── the same time of day, a day or more apart ──> a rate, and whether it bends   (trend)
//! ```
//!
//! What differs from `slope` is what is healthy over days: load by day and week, caches that fill, collectors that wait. So times of day are compared
//! with themselves; a rise counts once its lowest part (not one step) carries it; and how long it is watched before it is judged follows from how
//! long there is: an eighth or so of the time that it needs to the limit, two days at least, and no longer than the rule's own window. A cache
//! that takes less of what is free than that is full before it is judged. One that takes more bends, and what bends is waited for.

mod trend;
#[cfg(test)]
mod labelled;
#[cfg(test)]
mod tests;

use std::time::Duration;

use super::fired::{Fired, Trigger};
use super::{Levels, Reading};
use crate::clock;
use crate::floors::{Floors, HOUR, SavedFloors, UNIT};
use crate::lang::{Lang, say};
use crate::series::Sample;
use crate::units::{ByteSize, Rate};
pub use trend::{Asked, Standing, judge};

/// Judged each hour at first, then each fourth: no leak that is judged by weeks is in a hurry.
const HURRY: usize = 6 * 24;
const EACH: u32 = 4;

/// What `leak` knows of one life.
#[derive(Clone, Debug)]
pub struct Leak {
    floors: Floors,
    /// `None` before it was judged.
    standing: Option<Standing>,
    /// It was captured, and stands until the floor of an hour is below this, bytes.
    told: Option<u64>,
}

/// The same on disk.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SavedLeak {
    #[serde(flatten)]
    pub floors: SavedFloors,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<u64>,
}

impl Default for Leak {
    fn default() -> Leak {
        Leak { floors: Floors::new(HOUR), standing: None, told: None }
    }
}

impl Leak {
    pub fn restore(saved: SavedLeak, elapsed: Duration, now: crate::clock::Mono) -> Leak {
        Leak { floors: Floors::restore(saved.floors, elapsed, HOUR, now), standing: None, told: saved.told }
    }

    /// With the newest hours, at most so many; `None` before anything was read.
    pub fn save(&self, most: usize, now: crate::clock::Mono) -> Option<SavedLeak> {
        (!self.floors.is_empty()).then(|| SavedLeak { floors: self.floors.save(most, now), told: self.told })
    }

    pub fn floors(&self) -> &Floors {
        &self.floors
    }

    /// Under another rule: the floors stay.
    pub(super) fn under_other_rules(self) -> Leak {
        Leak { standing: None, ..self }
    }

    /// Takes a reading of RSS. `age` is how long the process had been running: its first hour tells nothing.
    pub(super) fn observe(&mut self, sample: Sample, age: Duration, levels: &Levels) {
        if age < self.floors.hour() && self.floors.is_empty() {
            return;
        }
        let is_over = self.floors.push(sample);
        if is_over && self.told.is_some_and(|below| self.floors.hours().next_back().is_some_and(|f| f > 0 && u64::from(f) * UNIT < below)) {
            // it came back: what rises from here on is another leak
            self.told = None;
            self.floors.forget();
            self.standing = None;
        }
        let is_due = self.floors.len() <= HURRY || self.floors.total().is_multiple_of(EACH);
        if self.standing.is_none() || (is_over && is_due) {
            self.standing = levels.leak.map(|leak| judge(&self.floors, asked(leak, levels)));
        }
    }

    /// It is being captured; over once the floor of an hour is below so many bytes.
    pub(super) fn told(&mut self, below: u64) {
        self.told = Some(below);
    }

    /// The reason lacks what was compared; see [`super::Detector::with_measure`].
    pub(super) fn fired(&self, last: Reading, levels: &Levels) -> Option<Fired> {
        let (amount, rate) = levels.leak?;
        let Some(Standing::Met(met)) = self.standing.filter(|_| self.told.is_none()) else { return None };
        // what has fallen since does not stand any more
        if last.rss < met.floor.saturating_sub(met.grew / 4) {
            return None;
        }
        let per_second = met.per_day as f64 / 86_400.0;
        let left = levels.limit.and_then(|limit| super::time_to(limit, met.floor, per_second));
        let until = left.map_or(String::new(), |left| format!(", and would reach the limit in {}", clock::human(left)));
        let reason = format!(
            "; its floor, {}, has grown by {} in {}, {} a day, at or above {} in {}{until}",
            ByteSize(met.floor),
            ByteSize(met.grew),
            span(met.hours),
            ByteSize(met.per_day),
            ByteSize(amount),
            clock::human(rate.window),
        );
        Some(Fired {
            trigger: Trigger::Leak,
            level_bytes: met.floor,
            slope_bytes_per_second: Some(per_second),
            window_seconds: Some(f64::from(met.hours) * 3_600.0),
            eta_seconds: left.map(|left| left.as_secs_f64()),
            ..Fired::manual(last.rss, levels.limit, reason)
        })
    }

    /// How far the floor rose, in what was asked for: bytes in the rule's window. For a replay.
    pub fn pace(&self, levels: &Levels) -> Option<u64> {
        let (_, rate) = levels.leak?;
        let per_day = self.standing?.per_day()? as f64;
        Some((per_day * rate.window.as_secs_f64() / 86_400.0) as u64)
    }

    /// Where it stands: why it does not fire.
    pub fn words(&self, levels: &Levels, lang: Lang) -> Option<String> {
        let (amount, rate) = levels.leak?;
        let (amount, window) = (ByteSize(amount), clock::human(rate.window));
        let stands = match (self.standing, self.told) {
            (_, Some(below)) => {
                let below = ByteSize(below);
                say!(lang; "captured; again once the floor has been below {below}"; "已采集；谷值降到 {below} 以下后重新计算")
            }
            (None, None) => lang.pick("no hour seen yet", "尚未满一小时").into(),
            (Some(standing), None) => standing.words(lang),
        };
        Some(say!(lang; "leak: {stands} (fires at {amount} in {window})"; "leak：{stands}（{window} 内达到 {amount} 触发）"))
    }
}

fn asked((amount, rate): (u64, Rate), levels: &Levels) -> Asked {
    Asked { amount, window: rate.window, limit: levels.limit }
}

/// Days and hours.
fn span(hours: u32) -> String {
    clock::human(HOUR * hours)
}

impl Standing {
    fn words(self, lang: Lang) -> String {
        match self {
            Standing::Seen { hours, need } => {
                let (hours, need) = (span(hours), span(need));
                say!(lang; "{hours} of {need} seen"; "已观察 {hours}，需 {need}")
            }
            Standing::Grew { grew, hours, .. } => {
                let (grew, hours) = (ByteSize(grew), span(hours));
                say!(lang; "floor grew {grew} in {hours}"; "谷值在 {hours} 内增长 {grew}")
            }
            Standing::Early { per_day, hours, need } => {
                let (per_day, hours, need) = (ByteSize(per_day), span(hours), span(need));
                say!(lang;
                    "floor grows {per_day} a day, seen for {hours} of the {need} that tell it from a cache that fills";
                    "谷值每天增长 {per_day}，已观察 {hours}，需 {need} 才能与正在填充的缓存区分"
                )
            }
            Standing::Slower { per_day } => {
                let per_day = ByteSize(per_day);
                say!(lang;
                    "floor grows {per_day} a day, but slower and slower: a cache that fills";
                    "谷值每天增长 {per_day}，但越来越慢：缓存正在填充"
                )
            }
            Standing::Uneven { grew, hours } => {
                let (grew, hours) = (ByteSize(grew), span(hours));
                say!(lang;
                    "floor grew {grew} in {hours}, but unevenly: a step, or scatter";
                    "谷值在 {hours} 内增长 {grew}，但不均匀：阶跃或波动"
                )
            }
            Standing::Known { peak } => {
                let peak = ByteSize(peak);
                say!(lang; "floor stood at {peak} before and came back"; "谷值此前曾达 {peak} 并自行回落")
            }
            Standing::Met(met) => {
                let (grew, hours) = (ByteSize(met.grew), span(met.hours));
                say!(lang; "floor grew {grew} in {hours}, steadily"; "谷值在 {hours} 内持续增长 {grew}")
            }
        }
    }
}
