//! What is remembered of an instance's RSS: enough for the rules and for an hour of timeline, in a few KiB.
//!
//! Readings are thinned into buckets of fixed width as they arrive. A bucket of the rules' tiers holds
//! the mean (noise cancels), one of the timeline holds the maximum (peaks are what people look for). The last few readings are
//! kept as they are. A series belongs to one life of one process: whoever sees a new process starts a new series.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Mono;

/// One reading: when, and how many bytes were resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at: Mono,
    pub rss: u64,
}

/// A reading as a bundle keeps it, so that the rules can be tried on it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub sample: Sample,
    /// From the first to the last of the readings that it stands for, it in their middle; zero for a reading as it was.
    pub span: Duration,
    /// How long its process had been running.
    pub age: Duration,
    /// The limit at that time.
    pub limit: Option<u64>,
    /// What the rules went by instead of RSS, where the cgroup's charge was higher.
    pub charge: Option<u64>,
}

impl Kept {
    pub fn reading(sample: Sample) -> Kept {
        Kept { sample, span: Duration::ZERO, age: Duration::ZERO, limit: None, charge: None }
    }

    /// How many readings it stands for, where one comes each `interval`.
    pub fn count(&self, interval: Duration) -> u32 {
        let count = self.span.as_secs_f64() / interval.as_secs_f64().max(1e-3);
        (count as u32).saturating_add(1).min(MAX_IN_KEPT)
    }

    /// Them: evenly from the first to the last.
    pub fn readings(&self, interval: Duration) -> impl Iterator<Item = Sample> + use<> {
        let (count, Sample { at, rss }) = (self.count(interval), self.sample);
        let (first, step) = if count > 1 { (at - self.span / 2, self.span / (count - 1)) } else { (at, Duration::ZERO) };
        (0..count).map(move |n| Sample { at: first + step * n, rss })
    }
}

/// The last reading of a bucket is before its end.
const EDGE: Duration = Duration::from_millis(1);
/// One kept reading stands for no more than so many.
const MAX_IN_KEPT: u32 = 10_000;
/// Readings kept unthinned.
const RECENT: usize = 16;
/// Steps of a rise that are further apart are seen one by one.
const LATELY: Duration = Duration::from_millis(300);
/// The same while a rule is met that has not held long enough yet: they are what it is judged by.
const RECENT_PENDING: usize = 512;
/// Of those, the ones that tell how it goes on.
const FEW: usize = 5;
/// Buckets that a rule's window is cut into, unless polling is coarser.
const WINDOW_BUCKETS: u32 = 40;
/// The timeline's bucket: 15 s, 240 of them in an hour.
const TIMELINE_WIDTH: Duration = Duration::from_secs(15);
const TIMELINE_SPAN: Duration = Duration::from_secs(3600);
/// Share of a window's buckets that must be covered before a slope over it means anything.
const MIN_COVERAGE: f64 = 0.8;
/// From one bucket with a reading to the next there may be so many: a source that answers every other time leaves such holes.
const BRIDGED: u64 = 3;
/// Fewer buckets with readings than this make no line, however they lie.
const MIN_POINTS: usize = 4;

/// A fitted line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Median of the slopes of all pairs of buckets (Theil–Sen): up to 29 % of outliers do not move it.
    pub bytes_per_second: f64,
}

/// How RSS rises right now, bytes per second; negative where it falls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rise {
    /// What one outlier does not make: by the last few readings, or by each of the last two, whichever is steeper.
    pub confirmed: f64,
    /// Between the last two readings: the first to see a jump, and as easily an outlier.
    pub seen: f64,
    /// Over the last third of a second, with the last reading and without, whichever is less: of a rise in steps, several readings may fall between two
    /// of them. What one outlier does not make either.
    pub lately: f64,
}

/// A line over a window, and what tells a rise from a swing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    pub line: Line,
    /// How far the line's rise over the window may be off by the readings' own scatter about it, bytes: one standard error.
    pub error: f64,
    /// Scatter of the buckets about the line, bytes: robust, as a standard deviation.
    pub scatter: f64,
    /// Lowest bucket of the second half minus that of the first, bytes. A swing that fits into half of the window leaves none, nor does
    /// a rise that is over.
    pub floor_rise: f64,
    /// Highest bucket.
    pub top: u64,
    /// Lowest bucket of the second half.
    pub floor: u64,
    /// How far the highest bucket of the last quarter lies below `top`.
    pub below_top: u64,
    /// Mean of the last quarter minus that of the quarter before, bytes: what is over does not go on.
    pub late_rise: f64,
    /// When the first bucket was.
    pub from: Mono,
}

/// Why there is no line over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFew {
    pub have: usize,
    pub need: usize,
}

/// How wide the buckets of a window are; `interval` is how often readings come: a bucket is never narrower.
///
/// Whole milliseconds, as a timeline has them: a reading is in the same bucket when it is replayed.
pub fn bucket_width(span: Duration, interval: Duration) -> Duration {
    Duration::from_millis((span / WINDOW_BUCKETS).max(interval).as_millis() as u64)
}

/// RSS over a sliding window, in forty means.
#[derive(Clone, Debug)]
pub struct Window {
    span: Duration,
    buckets: Thinned,
}

impl Window {
    /// `interval` is how often readings come: a bucket is never narrower.
    pub fn new(span: Duration, interval: Duration) -> Window {
        let width = bucket_width(span, interval);
        let count = span.as_nanos().div_ceil(width.as_nanos().max(1)) as usize;
        Window { span, buckets: Thinned::new(width, count.max(2), Keep::Mean) }
    }

    pub fn span(&self) -> Duration {
        self.span
    }

    pub fn bucket(&self) -> Duration {
        self.buckets.width
    }

    /// Takes a reading; true if that closed a bucket, which is when a line can have changed.
    pub fn push(&mut self, sample: Sample) -> bool {
        self.buckets.push(sample)
    }

    /// The robust line over the window that ends at `now`, once at least 80 % of it are sampled.
    pub fn line(&self, now: Mono) -> Result<Line, TooFew> {
        let points: Vec<Sample> = self.sampled(now)?.collect();
        Ok(Line { bytes_per_second: theil_sen(&points) })
    }

    /// How RSS lies about the [`Window::line`] of the same moment.
    pub fn course(&self, line: Line, now: Mono) -> Result<Course, TooFew> {
        let points: Vec<Sample> = self.sampled(now)?.collect();
        Ok(course(&points, line, self.span))
    }

    /// The bucket that was closed last.
    pub fn newest(&self) -> Option<Sample> {
        self.buckets.closed().next_back()
    }

    /// Forgets its readings.
    pub fn clear(&mut self) {
        self.buckets.points.clear();
        self.buckets.open = None;
    }

    /// What it holds of the time before `from`; `after` is what is kept from then on, oldest first. Put together they make the same means.
    fn kept(&self, from: Mono, after: &[Kept], interval: Duration) -> Vec<Kept> {
        let width = self.buckets.width;
        let open = self.buckets.open.map(|open| Sample { at: open.first + open.last.since(open.first) / 2, rss: open.mean() });
        let row = |p: Sample| {
            let start = self.buckets.start_of(p.at);
            let end = start + width;
            if start >= from {
                return None;
            }
            // of readings that lie evenly about their middle
            let half = p.at.since(start).min((end - EDGE).since(p.at));
            if end <= from {
                return Some(Kept { span: half * 2, ..Kept::reading(p) });
            }
            let rest = after.iter().take_while(|k| k.sample.at < end).flat_map(|k| k.readings(interval));
            let (sum, count, last) = rest.fold((0.0, 0.0, p.at), |(sum, count, _), s| (sum + s.rss as f64, count + 1.0, s.at));
            let first = (p.at - last.since(p.at)).max(start);
            let span = (from - interval).since(first);
            let kept = Kept { span, ..Kept::reading(Sample { at: first + span / 2, rss: p.rss }) };
            if first >= from {
                return None;
            }
            let own = f64::from(kept.count(interval));
            let rss = (p.rss as f64 * (own + count) - sum) / own;
            Some(Kept { sample: Sample { rss: rss.max(0.0) as u64, ..kept.sample }, ..kept })
        };
        self.buckets.closed().chain(open).filter_map(row).collect()
    }

    /// Highest minus lowest bucket, bytes. No robust line over the sampled part can rise by more,
    /// so this spares the flat their quadratic fit.
    pub fn range(&self, now: Mono) -> Result<u64, TooFew> {
        let (min, max) = self.sampled(now)?.fold((u64::MAX, 0), |(lo, hi), p| (lo.min(p.rss), hi.max(p.rss)));
        Ok(max.saturating_sub(min))
    }

    fn sampled(&self, now: Mono) -> Result<impl Iterator<Item = Sample>, TooFew> {
        // the newest bucket is still filling, so the window ends at the last one closed
        let from = now - self.span - self.buckets.width;
        let points = self.buckets.closed().filter(move |p| p.at >= from);
        let need = ((self.buckets.capacity as f64 * MIN_COVERAGE).ceil() as usize).max(2);
        let count = points.clone().count();
        let have = if count < MIN_POINTS.min(need) { count } else { self.buckets.covered(points.clone()) };
        if have < need { Err(TooFew { have, need }) } else { Ok(points) }
    }
}

/// `points` in order of time, over a window of `span`.
fn course(points: &[Sample], line: Line, span: Duration) -> Course {
    let slope = line.bytes_per_second;
    let (from, to) = (points.first().map_or(Mono::default(), |p| p.at), points.last().map_or(Mono::default(), |p| p.at));
    let (middle, last_quarter) = (from + to.since(from) / 2, from + to.since(from) / 4 * 3);
    let lowest = |half: &dyn Fn(&Sample) -> bool| points.iter().filter(|p| half(p)).map(|p| p.rss).min().unwrap_or(0);
    let highest = |part: &dyn Fn(&Sample) -> bool| points.iter().filter(|p| part(p)).map(|p| p.rss).max().unwrap_or(0);
    let mean = |part: &dyn Fn(&Sample) -> bool| {
        let (sum, count) = points.iter().filter(|p| part(p)).fold((0.0, 0.0), |(sum, count), p| (sum + p.rss as f64, count + 1.0));
        sum / f64::max(count, 1.0)
    };
    let (floor, top) = (lowest(&|p| p.at > middle), highest(&|_| true));
    let mut residuals: Vec<f64> = points.iter().map(|p| p.rss as f64 - slope * p.at.since(from).as_secs_f64()).collect();
    let level = median(&mut residuals);
    residuals.iter_mut().for_each(|r| *r = (*r - level).abs());
    // the median distance of normal scatter is 0.67 of its standard deviation
    let scatter = median(&mut residuals) * 1.4826;
    let seen = to.since(from).as_secs_f64().max(1e-9);
    // of a line's slope through evenly spread points; the median of slopes is nearly as exact
    let error = scatter * (12.0 / points.len().max(1) as f64).sqrt() * span.as_secs_f64() / seen;
    Course {
        line,
        error,
        scatter,
        floor_rise: floor as f64 - lowest(&|p| p.at <= middle) as f64,
        top,
        floor,
        below_top: top.saturating_sub(highest(&|p| p.at >= last_quarter)),
        late_rise: mean(&|p| p.at >= last_quarter) - mean(&|p| p.at > middle && p.at < last_quarter),
        from,
    }
}

/// Heights that RSS reached and came back from by itself: what is not higher has been seen to be harmless.
#[derive(Clone, Debug, Default)]
pub struct Peaks {
    /// The last few, oldest first.
    recent: VecDeque<Sample>,
    /// The highest of those before.
    older: Option<Sample>,
    /// Where RSS has been since it last came back.
    top: Option<Sample>,
}

impl Peaks {
    const RECENT: usize = 8;

    /// Takes a thinned reading; a fall by `fall` bytes from the top makes that a peak.
    pub fn push(&mut self, point: Sample, fall: u64) {
        match self.top {
            Some(top) if top.rss > point.rss && top.rss - point.rss >= fall.max(1) => {
                self.keep(top);
                self.top = Some(point);
            }
            Some(top) if top.rss >= point.rss => {}
            _ => self.top = Some(point),
        }
    }

    /// RSS has come back, however far that is.
    pub fn came_back(&mut self) {
        if let Some(top) = self.top.take() {
            self.keep(top);
        }
    }

    fn keep(&mut self, peak: Sample) {
        if self.recent.len() == Peaks::RECENT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.older = self.older.into_iter().chain([oldest]).max_by_key(|p| p.rss);
        }
        self.recent.push_back(peak);
    }

    /// The highest between `from` and `to`.
    pub fn highest(&self, from: Mono, to: Mono) -> Option<u64> {
        self.older.iter().chain(&self.recent).filter(|p| p.at >= from && p.at <= to).map(|p| p.rss).max()
    }

    /// Forgets what was before `from`.
    pub fn forget(&mut self, from: Mono) {
        self.older = self.older.filter(|p| p.at >= from);
        self.recent.retain(|p| p.at >= from);
    }
}

/// Median of the slopes (bytes per second) of all pairs of points with distinct times; 0 for fewer than two.
pub fn theil_sen(points: &[Sample]) -> f64 {
    let mut slopes = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
    slopes.extend(pairwise(points.iter()));
    median(&mut slopes)
}

fn pairwise<'a>(points: impl Iterator<Item = &'a Sample> + Clone) -> impl Iterator<Item = f64> {
    points.clone().enumerate().flat_map(move |(i, a)| {
        points.clone().skip(i + 1).filter_map(move |b| {
            let seconds = b.at.since(a.at).as_secs_f64();
            (seconds > 0.0).then(|| (b.rss as f64 - a.rss as f64) / seconds)
        })
    })
}

/// The slopes from each point to the next.
fn pairwise_in_turn<'a>(points: impl Iterator<Item = &'a Sample> + Clone) -> impl Iterator<Item = f64> {
    points.clone().zip(points.skip(1)).flat_map(|(a, b)| pairwise([a, b].into_iter()))
}

/// 0 of none.
pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    if numbers.is_empty() {
        return 0.0;
    }
    let middle = numbers.len() / 2;
    *numbers.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// An instance's memory of itself: raw recent readings and the thinned hour.
#[derive(Clone, Debug)]
pub struct Series {
    recent: VecDeque<Sample>,
    /// A rule is pending.
    keeps_more: bool,
    /// When the first reading was.
    began: Option<Mono>,
    timeline: Thinned,
}

impl Default for Series {
    fn default() -> Series {
        Series::new()
    }
}

impl Series {
    pub fn new() -> Series {
        let buckets = (TIMELINE_SPAN.as_secs() / TIMELINE_WIDTH.as_secs()) as usize;
        let timeline = Thinned::new(TIMELINE_WIDTH, buckets, Keep::Max);
        Series { recent: VecDeque::with_capacity(RECENT), keeps_more: false, began: None, timeline }
    }

    /// Its last few readings alone, to be gone on from with others.
    pub fn recent_only(&self) -> Series {
        let timeline = Thinned::new(TIMELINE_WIDTH, 1, Keep::Max);
        Series { recent: self.recent.clone(), keeps_more: self.keeps_more, began: self.began, timeline }
    }

    pub fn push(&mut self, sample: Sample) {
        let most = if self.keeps_more { RECENT_PENDING } else { RECENT };
        while self.recent.len() >= most {
            self.recent.pop_front();
        }
        if !self.keeps_more && self.recent.capacity() > RECENT * 2 {
            self.recent.shrink_to(RECENT);
        }
        self.recent.push_back(sample);
        self.began.get_or_insert(sample.at);
        self.timeline.push(sample);
    }

    pub fn last(&self) -> Option<Sample> {
        self.recent.back().copied()
    }

    /// From the next reading on: whether a rule is pending, so that the readings that decide about it are kept as they were.
    pub fn keep_more(&mut self, more: bool) {
        self.keeps_more = more;
    }

    /// The last hour as the rules have seen it, oldest first: the readings as they were as far as they are kept, before them what the
    /// rules' windows hold, the finest first, and before that the highest of each quarter of a minute.
    pub fn kept(&self, windows: &[&Window], interval: Duration) -> Vec<Kept> {
        let mut kept: Vec<Kept> = self.recent.iter().copied().map(Kept::reading).collect();
        let Some(mut from) = self.recent.front().map(|first| first.at) else { return kept };
        for window in windows {
            let mut earlier = window.kept(from, &kept, interval);
            // the bucket that it began with is all there
            from = earlier.first().map_or(from, |first| window.buckets.start_of(first.sample.at));
            earlier.append(&mut kept);
            kept = earlier;
        }
        let width = self.timeline.width;
        let open = self.timeline.open.map(|open| open.max);
        let before = self.timeline.closed().chain(open).filter_map(|p| {
            let bucket = self.timeline.start_of(p.at);
            // nothing was read before the first reading
            let start = self.began.map_or(bucket, |began| bucket.max(began));
            let span = ((bucket + width).min(from) - EDGE).since(start);
            let sample = Sample { at: start + span / 2, rss: p.rss };
            // of a part of its time only if the highest was in that; a closed bucket tells when by the tick
            (whole_ticks(p.at) < whole_ticks(from)).then_some(Kept { span, ..Kept::reading(sample) })
        });
        before.chain(kept.iter().copied()).collect()
    }

    /// Slope of the last few readings, bytes per second: quick to see a jump, and as easily fooled by one.
    /// `None` with fewer than two readings. Asked for at every poll, so it does not allocate.
    pub fn recent_slope(&self) -> Option<f64> {
        let from = self.recent.len().saturating_sub(FEW);
        let few = || self.recent.range(from..);
        let first = few().next().filter(|_| few().len() >= 2)?;
        if few().all(|sample| sample.rss == first.rss) {
            return Some(0.0);
        }
        let mut slopes = [0.0; FEW * (FEW - 1) / 2];
        let count = slopes.iter_mut().zip(pairwise(few())).map(|(place, slope)| *place = slope).count();
        Some(median(slopes.get_mut(..count)?))
    }

    /// Over [`LATELY`] before a reading: the last, or as many before it.
    fn slope_lately(&self, before: usize) -> Option<f64> {
        let mut readings = self.recent.iter().rev().skip(before);
        let last = readings.next()?;
        let first = readings.clone().find(|sample| last.at.since(sample.at) >= LATELY).or_else(|| readings.last())?;
        pairwise([first, last].into_iter()).next()
    }

    /// The rise at the last reading; `None` with fewer than two.
    pub fn rise(&self) -> Option<Rise> {
        let few = self.recent_slope()?;
        let mut last = pairwise_in_turn(self.recent.range(self.recent.len().saturating_sub(3)..));
        let [lately, but_last] = [0, 1].map(|before| self.slope_lately(before).unwrap_or(few));
        let lately = lately.min(but_last);
        let (Some(before), seen) = (last.next(), last.next()) else { return Some(Rise { confirmed: few, seen: few, lately }) };
        let confirmed = seen.map_or(few, |seen| few.max(before.min(seen)));
        Some(Rise { confirmed, seen: seen.unwrap_or(before), lately })
    }

    /// The highest of the last few readings; 0 of none.
    pub fn recent_top(&self) -> u64 {
        self.recent.range(self.recent.len().saturating_sub(FEW)..).map(|s| s.rss).max().unwrap_or(0)
    }

    /// The last hour for people, oldest first: the highest of each quarter of a minute, then the recent readings as they were.
    pub fn timeline(&self) -> Vec<Sample> {
        let raw_from = self.recent.front().map_or(Mono::default(), |s| s.at);
        let open = self.timeline.open.map(|o| o.max);
        self.timeline.closed().chain(open).take_while(|p| p.at < raw_from).chain(self.recent.iter().copied()).collect()
    }
}

const TICK: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Keep {
    Mean,
    Max,
}

/// Readings thinned to one per bucket; the newest `capacity` closed buckets are kept.
#[derive(Clone, Debug)]
struct Thinned {
    width: Duration,
    capacity: usize,
    keep: Keep,
    /// Times of points are offsets from here.
    base: Mono,
    points: VecDeque<Point>,
    open: Option<Open>,
}

/// Eight bytes a bucket: [`TICK`]s since the base, and pages of 4 KiB (16 TiB at most).
#[derive(Clone, Copy, Debug)]
struct Point {
    ticks: u32,
    pages: u32,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    number: u64,
    first: Mono,
    last: Mono,
    sum: u128,
    count: u32,
    max: Sample,
}

impl Open {
    fn mean(&self) -> u64 {
        (self.sum / u128::from(self.count.max(1))) as u64
    }
}

impl Thinned {
    /// When the bucket of this time began.
    fn start_of(&self, at: Mono) -> Mono {
        let width = self.width.as_nanos().max(1) as u64;
        Mono::from_nanos(at.as_nanos() / width * width)
    }

    fn new(width: Duration, capacity: usize, keep: Keep) -> Thinned {
        Thinned { width, capacity, keep, base: Mono::default(), points: VecDeque::new(), open: None }
    }

    /// Returns whether a bucket was closed.
    fn push(&mut self, sample: Sample) -> bool {
        let number = sample.at.as_nanos() / self.width.as_nanos().max(1) as u64;
        let mut closed = false;
        match &mut self.open {
            Some(open) if open.number == number => {
                open.last = sample.at;
                open.sum += u128::from(sample.rss);
                open.count += 1;
                if sample.rss > open.max.rss {
                    open.max = sample;
                }
            }
            open => {
                let fresh = Open { number, first: sample.at, last: sample.at, sum: sample.rss.into(), count: 1, max: sample };
                if let Some(done) = open.replace(fresh) {
                    self.close(done);
                    closed = true;
                }
            }
        }
        closed
    }

    fn close(&mut self, bucket: Open) {
        let sample = match self.keep {
            Keep::Max => bucket.max,
            Keep::Mean => Sample { at: bucket.first + bucket.last.since(bucket.first) / 2, rss: bucket.mean() },
        };
        if self.points.len() >= self.capacity {
            self.points.pop_front();
        }
        // whole ticks, and in its own bucket: one and the same series makes the same points, whichever of its readings came first
        let (whole, start) = (whole_ticks(sample.at), self.start_of(sample.at));
        let at = if whole < start { whole + TICK } else { whole };
        if self.points.is_empty() {
            self.base = at;
        }
        let mut ticks = ticks_since(self.base, at);
        if ticks > u64::from(u32::MAX / 2) {
            ticks = self.rebase(at);
        }
        if self.points.len() == self.points.capacity() {
            // no more than will ever be used: there may be thousands of series
            let len = self.points.len();
            self.points.reserve_exact(len.max(8).min(self.capacity.saturating_sub(len)).max(1));
        }
        self.points.push_back(Point {
            ticks: u32::try_from(ticks).unwrap_or(u32::MAX),
            pages: u32::try_from(sample.rss >> 12).unwrap_or(u32::MAX),
        });
    }

    /// After most of a year the offsets would overflow: counts them from the oldest point instead.
    fn rebase(&mut self, newest: Mono) -> u64 {
        let shift = self.points.front().map_or(0, |p| p.ticks);
        self.base = self.base + TICK * shift;
        self.points.iter_mut().for_each(|p| p.ticks -= shift);
        ticks_since(self.base, newest)
    }

    /// How many buckets these points cover, with the holes between them that are short enough.
    fn covered(&self, points: impl Iterator<Item = Sample>) -> usize {
        let mut before: Option<u64> = None;
        let mut covered = 0;
        for point in points {
            let number = point.at.as_nanos() / self.width.as_nanos().max(1) as u64;
            let step = before.map_or(1, |before| number.saturating_sub(before));
            covered += if step <= BRIDGED { step as usize } else { 1 };
            before = Some(number);
        }
        covered.min(self.capacity)
    }

    fn closed(&self) -> impl DoubleEndedIterator<Item = Sample> + Clone {
        let base = self.base;
        self.points.iter().map(move |p| Sample { at: base + TICK * p.ticks, rss: u64::from(p.pages) << 12 })
    }
}

fn ticks_since(base: Mono, at: Mono) -> u64 {
    (at.since(base).as_nanos() / TICK.as_nanos()) as u64
}

fn whole_ticks(at: Mono) -> Mono {
    Mono::from_nanos(at.as_nanos() / TICK.as_nanos() as u64 * TICK.as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;

    const MIB: u64 = 1 << 20;

    fn at(seconds: f64, mib: f64) -> Sample {
        Sample { at: Mono::from_nanos((seconds * 1e9) as u64 + 1_000_000_000_000), rss: (mib * MIB as f64) as u64 }
    }

    fn filled(span: u64, seconds: u64, f: impl Fn(f64) -> f64) -> (Window, Mono) {
        let mut w = Window::new(Duration::from_secs(span), Duration::from_secs(1));
        for s in 0..=seconds {
            w.push(at(s as f64, f(s as f64)));
        }
        (w, at(seconds as f64, 0.0).at)
    }

    fn mib_per_s(line: Line) -> f64 {
        line.bytes_per_second / MIB as f64
    }

    #[test]
    fn a_steady_leak_has_its_slope() {
        let (w, now) = filled(600, 700, |s| 100.0 + s * 0.5);
        assert!((mib_per_s(w.line(now).unwrap()) - 0.5).abs() < 0.01);
    }

    #[test]
    fn a_quarter_of_outliers_does_not_move_the_slope() {
        let (w, now) = filled(600, 700, |s| if s % 60.0 < 15.0 { 2000.0 } else { 300.0 });
        assert!(mib_per_s(w.line(now).unwrap()).abs() < 0.05);
    }

    #[test]
    fn a_step_at_the_end_is_no_slope_yet() {
        let (w, now) = filled(600, 700, |s| if s < 690.0 { 300.0 } else { 600.0 });
        assert_eq!(mib_per_s(w.line(now).unwrap()), 0.0);
    }

    #[test]
    fn no_line_before_four_fifths_of_the_window() {
        let (w, now) = filled(100, 70, |s| s);
        assert!(w.line(now).is_err());
        let (w, now) = filled(100, 90, |s| s);
        assert!(w.line(now).is_ok());
    }

    #[test]
    fn a_gap_of_more_than_a_fifth_silences_the_line() {
        let mut w = Window::new(Duration::from_secs(100), Duration::from_secs(1));
        for s in (0..150).chain(180..200) {
            w.push(at(s as f64, 100.0));
        }
        assert!(w.line(at(200.0, 0.0).at).is_err());
    }

    #[test]
    fn what_a_window_covers_does_not_hang_on_when_its_first_reading_was() {
        for first in (0..1000).map(|n| f64::from(n) / 1000.0) {
            let mut w = Window::new(Duration::from_secs(16), Duration::from_secs(1));
            w.push(at(first, 100.0));
            // after a gap, and each at the very beginning of its bucket
            for s in 10..24 {
                w.push(at(f64::from(s), 100.0));
            }
            assert_eq!(w.line(at(23.0, 0.0).at).map(mib_per_s), Ok(0.0), "{first}");
        }
    }

    #[test]
    fn old_buckets_leave_the_window() {
        let (w, _) = filled(60, 100, |s| s * 10.0);
        assert!(w.line(at(1000.0, 0.0).at).is_err(), "a line must not be drawn through samples of another time");
    }

    #[test]
    fn recent_slope_needs_two_readings() {
        let mut s = Series::new();
        assert_eq!(s.recent_slope(), None);
        s.push(at(0.0, 100.0));
        assert_eq!(s.recent_slope(), None);
        s.push(at(1.0, 120.0));
        assert_eq!(s.recent_slope(), Some((20 * MIB) as f64));
    }

    #[test]
    fn the_timeline_holds_an_hour_in_order_and_keeps_peaks() {
        let mut s = Series::new();
        for t in 0..10_000 {
            s.push(at(t as f64, if t == 8_000 { 999.0 } else { 100.0 }));
        }
        let line = s.timeline();
        assert!(line.windows(2).all(|w| w[0].at < w[1].at));
        let span = line[line.len() - 1].at.since(line[0].at);
        assert!(span >= Duration::from_secs(3590), "{span:?}");
        assert!(line.iter().any(|p| p.rss == 999 * MIB));
        assert!(line.len() < 300);
    }

    #[test]
    fn the_recent_slope_is_that_of_the_last_five_readings() {
        let mut series = Series::new();
        let mut seen = Vec::new();
        for (n, rss) in [5, 900, 20, 21, 24, 80, 23, 23, 26].into_iter().enumerate() {
            assert_eq!(series.recent_slope().is_some(), n >= 2);
            let sample = Sample { at: Mono::from_secs(100 + n as u64), rss };
            seen.push(sample);
            series.push(sample);
            let last = &seen[seen.len().saturating_sub(5)..];
            assert_eq!(series.recent_slope().unwrap_or_default(), theil_sen(last), "{last:?}");
        }
        (0..5).for_each(|n| series.push(Sample { at: Mono::from_secs(200 + n), rss: 7 }));
        assert_eq!(series.recent_slope(), Some(0.0));
    }

    #[test]
    fn a_jump_is_seen_by_the_first_reading_and_confirmed_by_the_second() {
        let mut s = Series::new();
        (0..5).for_each(|t| s.push(at(f64::from(t), 100.0)));
        assert_eq!(s.rise(), Some(Rise::default()));
        let mib = |n: f64| n * MIB as f64;
        s.push(at(5.0, 600.0));
        let (confirmed, seen, lately) = (0.0, mib(500.0), 0.0);
        assert_eq!(s.rise(), Some(Rise { confirmed, seen, lately }), "one reading may be an outlier");
        s.push(at(5.5, 900.0));
        let (confirmed, seen, lately) = (mib(500.0), mib(600.0), mib(500.0));
        assert_eq!(s.rise(), Some(Rise { confirmed, seen, lately }));
        (0..10).for_each(|n| s.push(at(5.51 + f64::from(n) / 100.0, 900.0)));
        let rise = s.rise().unwrap();
        assert_eq!((rise.confirmed, rise.seen), (0.0, 0.0));
        assert!(rise.lately > mib(450.0), "it stands still between two steps: {rise:?}");
    }

    #[test]
    fn what_is_kept_begins_with_the_first_reading_and_not_with_its_bucket() {
        for (first, every) in (0..150).flat_map(|n| [0.1, 0.7].map(|every| (f64::from(n) / 10.0 + 0.007, every))) {
            let mut s = Series::new();
            // those that are kept as they were, and more
            for readings in [RECENT, 8 * RECENT, 40 * RECENT] {
                (0..readings).for_each(|n| s.push(at(first + every * n as f64, 100.0)));
                let kept = s.kept(&[], Duration::from_secs_f64(every));
                let begins = kept[0].sample.at - kept[0].span / 2;
                assert_eq!(begins, at(first, 0.0).at, "{readings} readings, each {every} s: {:?}", kept[0]);
                s = Series::new();
                s.keep_more(readings == RECENT);
            }
        }
    }

    #[test]
    fn the_timeline_survives_years() {
        let mut s = Series::new();
        let year = 365.0 * 86_400.0;
        for i in 0..2_000 {
            s.push(at(f64::from(i) * year / 200.0, 100.0));
        }
        let line = s.timeline();
        assert!(line.windows(2).all(|w| w[0].at < w[1].at));
    }

    #[test]
    fn an_hour_of_an_instance_fits_in_a_few_kib() {
        assert!(240 * size_of::<Point>() + RECENT * size_of::<Sample>() < ByteSize::kib(3).0 as usize);
    }
}
