//! The lowest RSS of each hour of an instance's life, for a month: what `leak` judges by. Pure.
//!
//! A collector, a request or a batch lifts RSS for seconds or minutes; what is left at the lowest moment of an hour is what the process keeps.
//! One comparison per reading; three KiB per instance, and only where the rule is on. Floors belong to one life of one process: a new one starts
//! with nothing, and whoever sees it starts new floors.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Mono;
use crate::series::Sample;

pub const HOUR: Duration = Duration::from_secs(3_600);
/// Hours that are kept: a month, and the day that its first is compared with.
pub const KEPT: usize = 31 * 24;
/// Floors are counted in these.
pub const UNIT: u64 = 64 << 10;
const DAY: usize = 24;
/// How many hours the room grows by.
const GROWTH: usize = 2 * DAY;

/// Floors of the hours of one life.
#[derive(Clone, Debug, PartialEq)]
pub struct Floors {
    /// How long an hour is.
    hour: Duration,
    /// Of the hours that are over, oldest first, in [`UNIT`]s; 0 where nothing was read.
    closed: VecDeque<u32>,
    /// The same of the hour in progress.
    open: u32,
    /// When that ends; `None` before the first reading.
    until: Option<Mono>,
    /// How many hours are over, forgotten ones too.
    total: u32,
    /// The lowest of the second day: how it began, when those hours themselves are forgotten.
    second_day: u32,
}

/// Floors on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedFloors {
    /// The lowest RSS of each hour, oldest first, in units of 64 KiB; 0 where nothing was read.
    pub hours: Vec<u32>,
    /// The same of the hour in progress, and how long that had lasted.
    pub open: u32,
    pub open_ms: u64,
    /// How many hours were over, forgotten ones too.
    pub total: u32,
    pub second_day: u32,
}

impl Floors {
    pub fn new(hour: Duration) -> Floors {
        Floors { hour: hour.max(Duration::from_millis(1)), closed: VecDeque::new(), open: 0, until: None, total: 0, second_day: 0 }
    }

    /// Takes a reading; true if that ended an hour.
    pub fn push(&mut self, sample: Sample) -> bool {
        let until = *self.until.get_or_insert(sample.at + self.hour);
        let is_over = sample.at >= until;
        if is_over {
            self.close(until, sample.at);
        }
        let floor = u32::try_from(sample.rss / UNIT).unwrap_or(u32::MAX).max(1);
        if floor < self.open || self.open == 0 {
            self.open = floor;
        }
        is_over
    }

    /// Ends the hour that lasted until then, and those in which nothing was read.
    fn close(&mut self, until: Mono, now: Mono) {
        let missed = self.end_hour(now.since(until));
        self.until = Some(until + self.hour.saturating_mul(missed.saturating_add(1)));
    }

    /// The hour in progress ended so long ago: keeps it, and the hours since, in which nothing was read. How many these were.
    fn end_hour(&mut self, since: Duration) -> u32 {
        let missed = u32::try_from(since.as_nanos() / self.hour.as_nanos().max(1)).unwrap_or(u32::MAX);
        self.keep(self.open);
        (0..missed.min(KEPT as u32)).for_each(|_| self.keep(0));
        self.total = self.total.saturating_add(missed.saturating_sub(KEPT as u32));
        self.open = 0;
        missed
    }

    fn keep(&mut self, floor: u32) {
        if self.closed.len() >= KEPT {
            self.closed.pop_front();
        } else if self.closed.len() == self.closed.capacity() {
            self.closed.reserve_exact(GROWTH);
        }
        self.closed.push_back(floor);
        self.total = self.total.saturating_add(1);
        if self.total as usize == 2 * DAY {
            self.second_day = self.closed.iter().rev().take(DAY).copied().filter(|f| *f > 0).min().unwrap_or(0);
        }
    }

    pub fn hour(&self) -> Duration {
        self.hour
    }

    /// Of the hours that are over, oldest first, in [`UNIT`]s; 0 where nothing was read.
    pub fn hours(&self) -> impl ExactSizeIterator<Item = u32> + DoubleEndedIterator {
        self.closed.iter().copied()
    }

    /// The lowest RSS of each hour that is known, in bytes, oldest first, with how long ago it began; the hour in progress is the last.
    pub fn readings(&self, now: Mono) -> Vec<(Duration, u64)> {
        let Some(until) = self.until else { return Vec::new() };
        let into = self.hour.saturating_sub(until.since(now)) + now.since(until);
        let newest = (0..self.closed.len() as u32).rev();
        let closed = self.closed.iter().zip(newest).map(|(floor, after)| (into + self.hour * (after + 1), *floor));
        let known = closed.chain([(into, self.open)]).filter(|(_, floor)| *floor > 0);
        known.map(|(ago, floor)| (ago, u64::from(floor) * UNIT)).collect()
    }

    /// How many of them are known.
    pub fn len(&self) -> usize {
        self.closed.len()
    }

    /// Nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.until.is_none()
    }

    /// How many hours are over, forgotten ones too.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The lowest of the second day, and how many hours lie between it and the first that is still known; `None` while that day is known itself.
    pub fn second_day(&self) -> Option<(u32, usize)> {
        let forgotten = (self.total as usize).saturating_sub(self.closed.len());
        let between = forgotten.checked_sub(2 * DAY)?;
        (self.second_day > 0).then_some((self.second_day, between))
    }

    /// Begins anew with what is read from now on.
    pub fn forget(&mut self) {
        (self.total, self.second_day, self.open, self.until) = (0, 0, 0, None);
        self.closed.clear();
    }

    /// When something was read last, to the hour, lies further back than what is kept.
    pub fn is_out_of_date(&self, now: Mono) -> bool {
        self.until.is_none_or(|until| now.since(until) > self.hour * KEPT as u32)
    }

    /// The newest hours, at most so many.
    pub fn save(&self, most: usize, now: Mono) -> SavedFloors {
        let left = self.until.map_or(self.hour, |until| until.since(now));
        let late = self.until.map_or(Duration::ZERO, |until| now.since(until));
        SavedFloors {
            hours: self.closed.iter().skip(self.closed.len().saturating_sub(most)).copied().collect(),
            open: self.open,
            open_ms: u64::try_from((self.hour.saturating_sub(left) + late).as_millis()).unwrap_or(u64::MAX),
            total: self.total,
            second_day: self.second_day,
        }
    }

    /// Takes up what was stored so long ago.
    pub fn restore(saved: SavedFloors, elapsed: Duration, hour: Duration, now: Mono) -> Floors {
        let mut floors = Floors::new(hour);
        let surplus = saved.hours.len().saturating_sub(KEPT);
        floors.closed.extend(saved.hours.into_iter().skip(surplus));
        floors.total = saved.total.max(floors.closed.len() as u32);
        (floors.open, floors.second_day) = (saved.open, saved.second_day);
        let lasted = Duration::from_millis(saved.open_ms).saturating_add(elapsed);
        match hour.checked_sub(lasted) {
            Some(left) if !left.is_zero() => floors.until = Some(now + left),
            // after a boot it may have begun before the clock
            _ => {
                let over = lasted.saturating_sub(hour);
                floors.end_hour(over);
                let into = Duration::from_nanos(u64::try_from(over.as_nanos() % floors.hour.as_nanos().max(1)).unwrap_or(0));
                floors.until = Some(now + floors.hour.saturating_sub(into));
            }
        }
        floors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Mono {
        Mono::from_secs(1_000_000 + seconds)
    }

    fn of(readings: impl IntoIterator<Item = (u64, u64)>) -> Floors {
        let mut floors = Floors::new(HOUR);
        for (second, mib) in readings {
            floors.push(Sample { at: at(second), rss: mib * MIB });
        }
        floors
    }

    fn mib(floors: &Floors) -> Vec<u64> {
        floors.hours().map(|f| u64::from(f) * UNIT / MIB).collect()
    }

    #[test]
    fn an_hour_leaves_its_lowest_reading() {
        let floors = of((0..3 * 3_600).map(|s| (s, 100 + s / 3_600 * 10 + s % 60)));
        assert_eq!(mib(&floors), [100, 110]);
    }

    #[test]
    fn hours_without_a_reading_are_known_to_be_unknown() {
        let floors = of([(0, 100), (3_600 * 4 + 10, 90), (3_600 * 5 + 1, 80)]);
        assert_eq!(mib(&floors), [100, 0, 0, 0, 90]);
        assert_eq!(floors.total(), 5);
    }

    #[test]
    fn a_month_is_kept_and_of_what_was_before_how_it_began() {
        let floors = of((0..40 * 24).map(|h| (h * 3_600, 100 + h)));
        assert_eq!((floors.len(), floors.total()), (KEPT, 40 * 24 - 1));
        assert_eq!(mib(&floors).first(), Some(&(100 + 40 * 24 - 1 - KEPT as u64)));
        assert_eq!(floors.second_day(), Some(((124 * MIB / UNIT) as u32, 40 * 24 - 1 - KEPT - 48)));
        assert!(of((0..50).map(|h| (h * 3_600, 100))).second_day().is_none(), "that day is known itself");
    }

    #[test]
    fn what_is_stored_goes_on_where_it_was_after_any_time() {
        let floors = of((0..100 * 60).map(|m| (m * 60, 100 + m / 60)));
        let now = at(100 * 60 * 60);
        for away in [0, 60, 1_700, 3_600, 3_601, 86_400, 40 * 86_400] {
            let then = now + Duration::from_secs(away);
            let mut went_on = floors.clone();
            let mut restored = Floors::restore(floors.save(KEPT, now), then.since(now), HOUR, then);
            for floors in [&mut went_on, &mut restored] {
                floors.push(Sample { at: then, rss: 50 * MIB });
                floors.push(Sample { at: then + HOUR, rss: 50 * MIB });
            }
            assert_eq!(mib(&restored), mib(&went_on), "{away}");
            assert_eq!((restored.until, restored.open), (went_on.until, went_on.open), "{away}");
        }
    }

    #[test]
    fn readings_are_as_long_ago_as_their_hour() {
        let floors = of([(0, 100), (3_600, 90), (3_600 * 4, 80)]);
        let readings = floors.readings(at(3_600 * 4 + 600));
        let hours: Vec<(u64, u64)> = readings.iter().map(|(ago, bytes)| (ago.as_secs(), bytes / MIB)).collect();
        assert_eq!(hours, [(600 + 4 * 3_600, 100), (600 + 3 * 3_600, 90), (600, 80)]);
        assert!(Floors::new(HOUR).readings(at(0)).is_empty());
    }

    #[test]
    fn absurd_files_are_taken_for_what_they_can_be() {
        let saved = SavedFloors { hours: vec![u32::MAX; 5_000], open: u32::MAX, open_ms: u64::MAX, total: u32::MAX, second_day: u32::MAX };
        let floors = Floors::restore(saved, Duration::MAX, HOUR, at(0));
        assert_eq!(floors.len(), KEPT);
        assert!(floors.until.is_some_and(|until| until <= at(0) + HOUR), "{:?}", floors.until);
    }
}
