//! What the floors of hours say about the weeks: a rate, and whether it lasts. Pure arithmetic, without a clock.
//!
//! Four hours make a block, so that a collector that runs seldom leaves no scatter; six blocks make a day. A process's own rhythm is taken out by
//! comparing blocks of the same time of day only.

use std::time::Duration;

use crate::floors::{Floors, UNIT};
use crate::series::median;

/// Hours of a block.
const BLOCK: usize = 4;
/// Blocks of a day.
const DAY: usize = 6;
/// Two days, so that each time of day can be compared with itself, and a block more: else a step a day ago looks like a rise.
const LEAST: usize = 2 * DAY + 1;
const LEAST_DAYS: f64 = LEAST as f64 / DAY as f64;
/// A rise is judged once it was seen for this share of the time that it takes from its beginning to the limit.
const SHARE: f64 = 0.115;
/// No rise needs to be seen for longer: it is what is kept, less what is unknown of its beginning.
const LONGEST_DAYS: f64 = 24.0;
/// Share of the rule's own window that must be seen.
const COVERAGE: f64 = 0.8;
/// The rate at the end must be this share of that at the beginning: strictly while there is little to see, less strictly once twice that was seen.
const STRICT_BEND: f64 = 0.85;
const LOOSE_BEND: f64 = 0.6;
/// The rate of the second half, of the whole.
const LATE: f64 = 0.65;
/// The rate at the end, of what was asked for.
const STILL: f64 = 0.7;
/// A rate counts from so many standard errors above what was asked for.
const ERRORS: f64 = 2.5;
/// Of the rates from one day to another the low ones must be this share of the middle one, while few days are known: a step has none.
const EVEN: f64 = 0.25;
/// A step is one if it leaves this share of the squares that a bent line leaves.
const STEP: f64 = 0.8;
const FEW_DAYS: f64 = 5.0;
/// Until a week has shown what weekends are like, load may hide so much of a bend: a share of what it swings by in a day.
const UNREST: f64 = 0.5;
const UNREST_DAYS: f64 = 8.0;
const VERY_FEW_DAYS: f64 = 3.0;
/// The rise begins where the floor of a day is within this share of it above the lowest.
const ONSET: f64 = 0.1;
/// It must exceed by this share of it what was there before.
const BEYOND: f64 = 0.25;
/// Starts that are tried within the first half of the rise, so that what filled up before it does not count.
const STARTS: usize = 6;
/// It must have been so twice before, this share of the needed time apart: an estimate wanders in and out.
const AGAIN: f64 = 0.04;
/// Where the beginning is forgotten: the rate now, of that since then.
const SINCE_BIRTH: f64 = 0.6;
/// So many hours from the second day to what is kept, before they say anything.
const FORGOTTEN: usize = 96;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// Bytes.
    pub amount: u64,
    pub window: Duration,
    /// Bytes. Without one, a rise is judged as if twice the floor were the limit.
    pub limit: Option<u64>,
}

/// What the floors say; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// Too little was seen, in hours.
    Seen {
        hours: u32,
        need: u32,
    },
    /// It did not rise enough.
    Grew {
        grew: u64,
        hours: u32,
        per_day: u64,
    },
    /// It rises; it was not seen for long enough to tell what it is.
    Early {
        per_day: u64,
        hours: u32,
        need: u32,
    },
    /// It rises ever more slowly.
    Slower {
        per_day: u64,
    },
    /// By a step, or no more than it scatters.
    Uneven {
        grew: u64,
        hours: u32,
    },
    /// It stood nearly as high before, and came back.
    Known {
        peak: u64,
    },
    Met(Met),
}

/// A leak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Met {
    /// The floor of the last day.
    pub floor: u64,
    /// How much it rose in so many hours.
    pub grew: u64,
    pub hours: u32,
    pub per_day: u64,
    /// How many days it had to be seen for.
    need_days: f64,
}

impl Standing {
    /// How much the floor rises, bytes in a day.
    pub fn per_day(self) -> Option<u64> {
        match self {
            Standing::Grew { per_day, .. } | Standing::Early { per_day, .. } | Standing::Slower { per_day } => Some(per_day),
            Standing::Met(met) => Some(met.per_day),
            Standing::Uneven { .. } | Standing::Seen { .. } | Standing::Known { .. } => None,
        }
    }
}

/// Judges floors of hours.
pub fn judge(floors: &Floors, asked: Asked) -> Standing {
    let hours: Vec<u32> = floors.hours().collect();
    let per_day = 86_400.0 / floors.hour().as_secs_f64() / (BLOCK * DAY) as f64;
    let window = asked.window.as_secs_f64() / 86_400.0 * per_day;
    let rule = Rule {
        least: asked.amount as f64 / UNIT as f64 / window.max(1e-9),
        window,
        limit: asked.limit.map(|limit| limit as f64 / UNIT as f64),
        before: floors.second_day().filter(|(_, between)| *between >= FORGOTTEN),
    };
    let said = at(&hours, &rule);
    let Standing::Met(met) = said else { return said };
    for again in [1.0, 2.0] {
        let back = ((met.need_days * (BLOCK * DAY) as f64 * AGAIN * again) as usize).max(again as usize * 2);
        let then = at(hours.get(..hours.len().saturating_sub(back)).unwrap_or_default(), &rule);
        if !matches!(then, Standing::Met(_)) {
            return then;
        }
    }
    said
}

/// The rule in units, days and blocks.
struct Rule {
    /// Units a day.
    least: f64,
    window: f64,
    limit: Option<f64>,
    before: Option<(u32, usize)>,
}

impl Rule {
    /// For how many days a rise of this rate must have been seen, for it to be a leak whatever the rule's window is.
    fn full_days(&self, days: f64, level: f64, per_day: f64) -> f64 {
        let limit = self.limit.unwrap_or(level * 2.0);
        ((days + (limit - level).max(0.0) / per_day) * SHARE).clamp(LEAST_DAYS, LONGEST_DAYS)
    }

    fn need_days(&self, full: f64) -> f64 {
        full.min(self.window * COVERAGE).max(LEAST_DAYS)
    }
}

fn at(hours: &[u32], rule: &Rule) -> Standing {
    let blocks = blocks(hours);
    let days = floors_of_days(&blocks);
    let known = || days.iter().copied().filter(|d| !d.is_nan());
    let need = (LEAST * BLOCK) as u32;
    let Some(level) = known().next_back().filter(|_| blocks.len() >= LEAST) else {
        return Standing::Seen { hours: hours.len() as u32, need };
    };
    let least = known().fold(f64::INFINITY, f64::min);
    let rise = level - least;
    let is_low = |d: &f64| *d <= least + rise * ONSET;
    let onset = days.iter().rposition(is_low).unwrap_or(0);
    let history = blocks.len().saturating_sub(onset);
    let seen = history as f64 / DAY as f64;
    let grew = Standing::Grew { grew: bytes(rise), hours: (history * BLOCK) as u32, per_day: bytes(rise / seen.max(1.0)) };
    // no rate over any part of it could be enough
    if rise < rule.least * (seen - 1.0).max(0.5).min(rule.window) * STILL {
        return grew;
    }
    let peak = days.iter().take(onset).copied().filter(|d| !d.is_nan()).fold(0.0, f64::max);
    if level < peak + rise * BEYOND {
        return Standing::Known { peak: bytes(peak) };
    }
    let first = days.iter().position(is_low).unwrap_or(0);
    let later = (0..=STARTS).map(|k| onset + k * history / (2 * STARTS));
    let mut said = None;
    let mut before = None;
    for start in [first, (first + onset) / 2].into_iter().chain(later) {
        let Some(part) = blocks.get(start..).filter(|part| part.len() >= LEAST && before != Some(start)) else { continue };
        before = Some(start);
        let stands = weigh(part, level, rule);
        if let Standing::Met(met) = stands {
            return match slower_than_before(&days, rule, met) {
                Some(slower) => slower,
                None => stands,
            };
        }
        // of the whole rise
        if start == onset || said.is_none() {
            said = Some(stands);
        }
    }
    said.unwrap_or(grew)
}

/// What is kept of its last weeks rises steadily, and since its first days it has slowed down.
fn slower_than_before(days: &[f64], rule: &Rule, met: Met) -> Option<Standing> {
    let (second_day, between) = rule.before?;
    let first = days.iter().copied().find(|d| !d.is_nan())?;
    let before = (first - f64::from(second_day)) / between as f64 * (BLOCK * DAY) as f64;
    let now = met.per_day as f64 / UNIT as f64;
    (now < before * SINCE_BIRTH).then_some(Standing::Slower { per_day: met.per_day })
}

/// The lowest of each four hours, counted from the last; NaN where nothing was read.
fn blocks(hours: &[u32]) -> Vec<f64> {
    let lowest = |block: &[u32]| block.iter().filter(|f| **f > 0).min().map_or(f64::NAN, |f| f64::from(*f));
    let mut blocks: Vec<f64> = hours.rchunks_exact(BLOCK).map(lowest).collect();
    blocks.reverse();
    blocks
}

/// The lowest of each day, one for each block that it may begin with; NaN where a block is unknown: it may have been the lowest.
fn floors_of_days(blocks: &[f64]) -> Vec<f64> {
    let lowest = |day: &[f64]| day.iter().fold(f64::INFINITY, |least, b| if b.is_nan() { f64::NAN } else { least.min(*b) });
    blocks.windows(DAY).map(lowest).collect()
}

/// Whether this part of the floors is a leak to `level`.
fn weigh(part: &[f64], level: f64, rule: &Rule) -> Standing {
    let days = part.len() as f64 / DAY as f64;
    let hours = (part.len() * BLOCK) as u32;
    // over a quarter of it, so that a step is in fewer than half of them
    let lag = ((part.len() / DAY) / 4).max(1) * DAY;
    let rate = |(now, then): (&f64, &f64)| (now - then) * DAY as f64 / lag as f64;
    let mut rates: Vec<f64> = part.iter().skip(lag).zip(part).map(rate).filter(|r| !r.is_nan()).collect();
    let grew = |per_day: f64| Standing::Grew { grew: bytes(per_day * days), hours, per_day: bytes(per_day) };
    if rates.len() < DAY.max(part.len().saturating_sub(lag) / 2) {
        return grew(0.0);
    }
    let mut late: Vec<f64> = rates.iter().skip(rates.len() / 2).copied().collect();
    let (half, late) = (median(&mut rates), median(&mut late));
    if half < rule.least {
        return grew(half);
    }
    let need = rule.need_days(rule.full_days(days, level, half));
    if days < need {
        return Standing::Early { per_day: bytes(half), hours, need: (need * (DAY * BLOCK) as f64).ceil() as u32 };
    }
    if late < half * LATE {
        return Standing::Slower { per_day: bytes(late) };
    }
    let Some(line) = bent_line(part) else { return grew(0.0) };
    let per_day = half.min(line.per_day);
    let uneven = Standing::Uneven { grew: bytes(per_day * days), hours };
    if per_day - ERRORS * line.error < rule.least {
        return if per_day < rule.least { grew(per_day) } else { uneven };
    }
    let low = if days < VERY_FEW_DAYS { 0 } else { rates.len() / 5 };
    if line.is_step || (days < FEW_DAYS && quantile(&mut rates, low) < half * EVEN) {
        return uneven;
    }
    let (start, end) = (line.per_day - line.bend, line.per_day + line.bend);
    let full = rule.full_days(days, level, per_day.min(late.max(end)).max(1e-9));
    let seen_twice = (days / full - 1.0).clamp(0.0, 1.0);
    let bend = STRICT_BEND + (LOOSE_BEND - STRICT_BEND) * seen_twice;
    let hidden = if days < UNREST_DAYS { UNREST * (swing(part) - per_day).max(0.0) / days.powf(1.5) } else { 0.0 };
    if end < start * bend + hidden || end < rule.least * STILL {
        return Standing::Slower { per_day: bytes(end) };
    }
    let need = rule.need_days(full);
    if days < need {
        return Standing::Early { per_day: bytes(per_day), hours, need: (need * (DAY * BLOCK) as f64).ceil() as u32 };
    }
    Standing::Met(Met { floor: bytes(level), grew: bytes(per_day * days), hours, per_day: bytes(per_day), need_days: full })
}

/// How far the floors of a day lie apart, in the middle of all days.
fn swing(part: &[f64]) -> f64 {
    let range = |day: &[f64]| {
        let known = day.iter().copied().filter(|b| !b.is_nan());
        known.clone().fold(0.0, f64::max) - known.fold(f64::INFINITY, f64::min)
    };
    let mut ranges: Vec<f64> = part.chunks_exact(DAY).map(range).filter(|r| r.is_finite()).collect();
    median(&mut ranges)
}

/// The rate of the middle, what it is more by at the end and less by at the beginning, and the standard error of the first: units a day.
struct BentLine {
    per_day: f64,
    bend: f64,
    error: f64,
    /// One step explains the floors better.
    is_step: bool,
}

/// One block: time from the middle in halves of the whole, its square, its floor.
#[derive(Clone, Copy)]
struct Point {
    t: f64,
    square: f64,
    floor: f64,
}

/// A parabola by least squares with a level of its own for each time of day; twice, the second time without what lies far off.
fn bent_line(part: &[f64]) -> Option<BentLine> {
    let half = part.len() as f64 / 2.0;
    let middle = (part.len() as f64 - 1.0) / 2.0;
    let point = |(i, floor): (usize, &f64)| {
        let t = (i as f64 - middle) / half;
        Point { t, square: t * t, floor: *floor }
    };
    let all: Vec<Point> = part.iter().enumerate().map(point).collect();
    let mut kept: Vec<bool> = part.iter().map(|floor| !floor.is_nan()).collect();
    let rough = fit(&all, &kept)?;
    let mut distances: Vec<f64> = rough.residuals.iter().map(|r| r.abs()).filter(|r| !r.is_nan()).collect();
    let far = median(&mut distances) * 1.4826 * 4.0 + 1.0;
    kept.iter_mut().zip(&rough.residuals).for_each(|(kept, r)| *kept &= r.abs() <= far);
    let fit = fit(&all, &kept)?;
    // blocks of one day err together: days are what is counted
    let clipped: Vec<f64> = fit.residuals.iter().map(|r| r.clamp(-far, far)).collect();
    let mean = |day: &[f64]| {
        let known = day.iter().filter(|r| !r.is_nan());
        let count = known.clone().count();
        (count > 0).then(|| known.sum::<f64>() / count as f64)
    };
    let (days, sum) = clipped.chunks(DAY).filter_map(mean).fold((0.0, 0.0), |(n, sum), mean| (n + 1.0, sum + mean * mean));
    let (count, squares) = clipped.iter().filter(|r| !r.is_nan()).fold((0.0, 0.0), |(n, sum), r| (n + 1.0, sum + r * r));
    let by_day = sum / f64::max(days - 1.5, 0.5);
    let by_block = squares / f64::max(count - DAY as f64 - 2.0, 1.0) / DAY as f64;
    let length = part.len() as f64 / DAY as f64;
    // of a line's slope through evenly spread points
    let error = f64::max(by_day, by_block).sqrt() * 12.0_f64.sqrt() / length.powf(1.5);
    let per_day = DAY as f64 / half;
    let risen = |(p, r): (&Point, &f64)| fit.linear * p.t + fit.square * p.square + r.clamp(-far, far);
    let risen: Vec<f64> = all.iter().zip(&fit.residuals).filter(|(_, r)| !r.is_nan()).map(risen).collect();
    let is_step = beside_one_step(&risen) < squares * STEP;
    Some(BentLine { per_day: fit.linear * per_day, bend: 2.0 * fit.square * per_day, error, is_step })
}

/// The squares that are left beside the best single step.
fn beside_one_step(numbers: &[f64]) -> f64 {
    let count = numbers.len() as f64;
    let (sum, squares) = numbers.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    let mut low = 0.0;
    let explained = numbers.iter().enumerate().map(|(i, x)| {
        low += x;
        let (n, rest) = (i as f64 + 1.0, count - i as f64 - 1.0);
        low * low / n + if rest > 0.0 { (sum - low) * (sum - low) / rest } else { 0.0 }
    });
    squares - explained.fold(0.0, f64::max)
}

struct Fit {
    linear: f64,
    square: f64,
    /// NaN where nothing was read.
    residuals: Vec<f64>,
}

fn fit(all: &[Point], kept: &[bool]) -> Option<Fit> {
    let mean = |time: usize| {
        let of_time = all.iter().zip(kept).skip(time).step_by(DAY).filter(|(_, kept)| **kept);
        let add = |(n, sum): (f64, Point), (p, _): (&Point, _)| {
            (n + 1.0, Point { t: sum.t + p.t, square: sum.square + p.square, floor: sum.floor + p.floor })
        };
        let (n, sum) = of_time.fold((0.0, Point { t: 0.0, square: 0.0, floor: 0.0 }), add);
        // NaN where that time of day is not known at all
        Point { t: sum.t / n, square: sum.square / n, floor: sum.floor / n }
    };
    let means: Vec<Point> = (0..DAY).map(mean).collect();
    let centred = all.iter().zip(means.iter().cycle());
    let centred: Vec<Point> = centred.map(|(p, m)| Point { t: p.t - m.t, square: p.square - m.square, floor: p.floor - m.floor }).collect();
    let (mut tt, mut ts, mut ss, mut tf, mut sf) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (p, _) in centred.iter().zip(kept).filter(|(_, kept)| **kept) {
        tt += p.t * p.t;
        ts += p.t * p.square;
        ss += p.square * p.square;
        tf += p.t * p.floor;
        sf += p.square * p.floor;
    }
    let determinant = tt * ss - ts * ts;
    if determinant.is_nan() || determinant <= 1e-9 * tt * ss {
        return None;
    }
    let linear = (tf * ss - sf * ts) / determinant;
    let square = (sf * tt - tf * ts) / determinant;
    let residuals = centred.iter().map(|p| p.floor - linear * p.t - square * p.square).collect();
    Some(Fit { linear, square, residuals })
}

/// The number that has `place` others below it; 0 of none.
fn quantile(numbers: &mut [f64], place: usize) -> f64 {
    let Some(last) = numbers.len().checked_sub(1) else { return 0.0 };
    *numbers.select_nth_unstable_by(place.min(last), f64::total_cmp).1
}

fn bytes(units: f64) -> u64 {
    (units.max(0.0) * UNIT as f64) as u64
}
