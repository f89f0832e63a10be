//! Did a rule fire, and with which numbers? Pure: readings in, [`Fired`] out.
//!
//! A [`Detector`] holds one life of one process: its series, and since when each rule holds. Whether firing means a
//! capture (cooldowns, incidents, budgets) is `incident`'s business.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::charge::Charge;
use crate::clock::{self, Mono};
use crate::config;
use crate::lang::{Lang, say};
use crate::series::{Kept, Line, Peaks, Sample, Series, TooFew, Window, bucket_width};
use crate::units::{ByteSize, Rate, SizeOrPercent};

/// The rule that fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Threshold,
    Slope,
    Eta,
    Manual,
    Alert,
    /// The kernel killed in its cgroup, and no rule had announced it.
    #[serde(rename = "oom_kill")]
    OomKill,
}

impl Trigger {
    pub const fn name(self) -> &'static str {
        match self {
            Trigger::Threshold => "threshold",
            Trigger::Slope => "slope",
            Trigger::Eta => "eta",
            Trigger::Manual => "manual",
            Trigger::Alert => "alert",
            Trigger::OomKill => "oom_kill",
        }
    }

    /// Whether a rule of the configuration fired, and not a person or the kernel.
    pub const fn by_rule(self) -> bool {
        !matches!(self, Trigger::Manual | Trigger::OomKill)
    }

    /// Whether it came from outside: a person, a program, an alert.
    pub const fn is_asked(self) -> bool {
        matches!(self, Trigger::Manual | Trigger::Alert)
    }
}

/// What a rule compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    #[default]
    Rss,
    /// What the kernel cannot drop of the process's cgroup; it was more than RSS.
    Charge,
}

impl Measure {
    pub const fn name(self) -> &'static str {
        match self {
            Measure::Rss => "rss",
            Measure::Charge => "charge",
        }
    }
}

/// A trigger with the numbers that fired it, as the manifest keeps them. Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fired {
    pub trigger: Trigger,
    #[serde(default)]
    pub measure: Measure,
    /// RSS at the moment of firing.
    pub rss_bytes: u64,
    /// The charge of the cgroup that is nearest to its limit, and that limit, where it is what was compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charge_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charge_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub charge_cgroup: Option<String>,
    /// The level that was crossed; below `rearm` of it the incident is over.
    pub level_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_bytes: Option<u64>,
    /// Robust slope, where one was known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slope_bytes_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub window_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eta_seconds: Option<f64>,
    /// One sentence with the numbers.
    pub reason: String,
}

impl Fired {
    /// Asked for by a person or by memtrap itself, not by a rule.
    pub fn manual(rss_bytes: u64, limit_bytes: Option<u64>, reason: String) -> Fired {
        Fired {
            trigger: Trigger::Manual,
            measure: Measure::Rss,
            rss_bytes,
            charge_bytes: None,
            charge_limit_bytes: None,
            charge_cgroup: None,
            level_bytes: rss_bytes,
            limit_bytes,
            slope_bytes_per_second: None,
            window_seconds: None,
            eta_seconds: None,
            reason,
        }
    }

    /// The reading that it fired at.
    pub fn reading(&self, at: Mono) -> Reading {
        Reading { at, rss: self.rss_bytes, most: self.measured_bytes() }
    }

    /// What was compared, in bytes against the limit.
    pub fn measured_bytes(&self) -> u64 {
        let charge = self.charge_bytes.zip(self.charge_limit_bytes).filter(|_| self.measure == Measure::Charge);
        let against = |(bytes, limit)| Charge { bytes, limit, cgroup: "".into() }.against(self.limit_bytes.unwrap_or(limit));
        charge.map_or(self.rss_bytes, against)
    }
}

/// One stage of `threshold` in bytes, with the words of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub bytes: u64,
    pub as_written: SizeOrPercent,
}

impl Stage {
    /// A share of the limit: the charge counts for it.
    fn is_share(&self) -> bool {
        matches!(self.as_written, SizeOrPercent::Percent(_))
    }

    fn is_reached(&self, reading: Reading) -> bool {
        reading.of(self) >= self.bytes
    }
}

/// A reading: RSS, and what shares of the limit, `slope` and `eta` go by, which is the charge where that is more. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub at: Mono,
    pub rss: u64,
    pub most: u64,
}

impl Reading {
    fn of(self, stage: &Stage) -> u64 {
        if stage.is_share() { self.most } else { self.rss }
    }
}

impl From<Sample> for Reading {
    fn from(Sample { at, rss }: Sample) -> Reading {
        Reading { at, rss, most: rss }
    }
}

/// The rules of a target, resolved against one instance's limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels {
    /// Ascending; percentages are left out while the limit is unknown.
    pub stages: Vec<Stage>,
    slope: Option<(u64, Rate)>,
    eta: Option<Duration>,
    pub limit: Option<u64>,
    pub hold: Duration,
    warmup: Duration,
    pub interval: Duration,
}

impl Levels {
    pub fn resolve(rules: &config::Rules, interval: Duration, limit: Option<u64>) -> Levels {
        let mut stages: Vec<Stage> =
            rules.threshold.iter().filter_map(|t| Some(Stage { bytes: t.resolve(limit)?, as_written: *t })).collect();
        stages.sort_by_key(|s| s.bytes);
        Levels {
            stages,
            slope: rules.slope.and_then(|rate| Some((rate.rise.resolve(limit)?, rate))),
            eta: rules.eta,
            limit,
            hold: rules.hold,
            warmup: rules.warmup,
            interval,
        }
    }

    /// The windows of the lines that `eta` extends, the longest first.
    pub fn eta_windows(&self) -> impl Iterator<Item = Duration> {
        self.eta.into_iter().flat_map(|eta| {
            let (longest, short) = eta_windows(eta, self.interval);
            std::iter::once(longest).chain(short)
        })
    }

    /// The lowest stage above a reading, or the limit.
    pub fn next_above(&self, rss: u64) -> Option<u64> {
        self.stages.iter().map(|s| s.bytes).chain(self.limit).filter(|bytes| *bytes > rss).min()
    }

    /// The width of the narrowest bucket that a rule's window is cut into; `None` without such a rule.
    pub fn narrowest_bucket(&self) -> Option<Duration> {
        let spans = self.slope.map(|(_, rate)| rate.window).into_iter().chain(self.eta_windows());
        spans.map(|span| bucket_width(span, self.interval)).min()
    }

    /// How many stages a reading has reached.
    pub fn stages_reached(&self, reading: Reading) -> usize {
        self.stages.iter().take_while(|stage| stage.is_reached(reading)).count()
    }

    /// The lowest stage that the charge counts for, or the limit.
    pub fn lowest_share(&self) -> Option<u64> {
        self.stages.iter().filter(|stage| stage.is_share()).map(|stage| stage.bytes).next().or(self.limit)
    }

    /// Whether the charge counts for what fired: an incident by it is over when neither RSS nor the charge is above.
    pub fn counts_charge(&self, fired: &Fired) -> bool {
        match fired.trigger {
            Trigger::Slope | Trigger::Eta => true,
            Trigger::Threshold => self.stages.iter().any(|stage| stage.bytes == fired.level_bytes && stage.is_share()),
            _ => fired.measure == Measure::Charge,
        }
    }
}

/// A line is extended by no more than so many times the window that it was seen over.
const REACH: u32 = 5;
/// The window that sees a fast leak in time.
const SHORT: Duration = Duration::from_secs(60);

/// The windows of the lines that `eta` extends: a fifth of it, 10 s and ten polls at least. Where that is long, a short one too: a
/// fast leak leaves no time for more.
fn eta_windows(eta: Duration, interval: Duration) -> (Duration, Option<Duration>) {
    let longest = (eta / REACH).max(Duration::from_secs(10)).max(interval * 10);
    let short = SHORT.max(interval * 10);
    (longest, (longest > short * 2).then_some(short))
}

/// Rises smaller than this over `eta`'s window are noise: RSS counters lag by a few hundred KiB per CPU.
fn eta_noise(limit: u64) -> u64 {
    (limit / 1000).max(512 << 10)
}

/// Readings further apart than so many intervals are of different times: what held before is not known to hold still.
pub const STALE_AFTER: u32 = 5;
/// A rise counts from so many standard errors on: a flat series passes by chance once in 30,000 windows.
const ERRORS: f64 = 4.0;
/// How long a height is remembered that RSS came back from, at least; and in windows of the rule.
const REMEMBERED: Duration = Duration::from_secs(4 * 3_600);
const REMEMBERED_WINDOWS: u32 = 12;

/// For how long a condition has been met, less the time for which it was not: a dip costs what it lasts, and what is met less than
/// half of the time never adds up.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    met: bool,
    time: Duration,
}

impl Held {
    /// `passed` since the reading before, `None` where that says nothing about now. Between a reading that meets the condition and one
    /// that does not, nobody knows when that changed: that time counts for neither.
    fn update(&mut self, met: bool, passed: Option<Duration>, hold: Duration) {
        match (passed, self.met, met) {
            (None, ..) => self.time = Duration::ZERO,
            (Some(passed), true, true) => self.time = (self.time + passed).min(hold),
            (Some(passed), false, false) => self.time = self.time.saturating_sub(passed),
            _ => {}
        }
        self.met = met;
    }

    /// A poll may be some milliseconds early.
    fn for_long(&self, levels: &Levels) -> bool {
        self.met && self.time + levels.interval / 10 >= levels.hold
    }

    fn is_pending(&self) -> bool {
        self.met || !self.time.is_zero()
    }
}

/// Where a rule stands, for people to read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    Off,
    Warming,
    Gathering(TooFew),
    /// Flat: the range within the window is too small for the rule to hold.
    Flat,
    /// Measured, bytes per second.
    Slope(f64, Means),
}

/// What a measured slope means.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Means {
    /// The rule's condition is met.
    Met,
    TooSlow,
    /// The readings scatter so much that there may be no rise.
    Scatter,
    /// RSS has fallen since, or swings within the window.
    NotStill,
    /// RSS stood as high before and came back: this height, bytes.
    Known(u64),
}

/// One rule over a window: when it was last measured, and for how long it has been met.
#[derive(Clone, Debug)]
struct Tracked {
    window: Window,
    standing: Standing,
    held: Held,
    peaks: Peaks,
    /// RSS below this has fallen out of the rise that was measured.
    floor: u64,
}

/// Watches one life of one process.
#[derive(Clone, Debug)]
pub struct Detector {
    series: Series,
    /// What the rules go by, from the first reading on at which the charge was more than RSS.
    measured: Option<Box<Series>>,
    /// As of the next reading, or the last.
    charge: Option<Charge>,
    above: Held,
    /// The stage that `above` speaks of.
    stage: usize,
    slope: Option<Tracked>,
    eta: Option<Tracked>,
    /// `eta` over a short window, where its own is long.
    eta_short: Option<Box<Tracked>>,
}

impl Detector {
    pub fn new(rules: &config::Rules, interval: Duration) -> Detector {
        let eta = rules.eta.map(|eta| eta_windows(eta, interval));
        Detector {
            series: Series::new(),
            measured: None,
            charge: None,
            above: Held::default(),
            stage: 0,
            slope: rules.slope.map(|rate| Tracked::new(rate.window, interval)),
            eta: eta.map(|(longest, _)| Tracked::new(longest, interval)),
            eta_short: eta.and_then(|(_, short)| Some(Box::new(Tracked::new(short?, interval)))),
        }
    }

    /// The same process under changed rules: what was seen stays, what it meant is measured anew.
    pub fn with_rules(self, rules: &config::Rules, interval: Duration) -> Detector {
        Detector { series: self.series, measured: self.measured, charge: self.charge, ..Detector::new(rules, interval) }
    }

    /// Of RSS.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// Of what the rules go by.
    pub fn measured(&self) -> &Series {
        self.measured.as_deref().unwrap_or(&self.series)
    }

    pub fn charge(&self) -> Option<&Charge> {
        self.charge.as_ref()
    }

    /// The cgroup's charge as of the next reading, if it is known.
    pub fn charged(&mut self, charge: Option<Charge>) {
        self.charge = charge;
    }

    /// The last reading.
    pub fn last(&self) -> Option<Reading> {
        let Sample { at, rss } = self.series.last()?;
        Some(Reading { at, rss, most: self.measured().last().map_or(rss, |s| s.rss) })
    }

    /// The last hour as the rules have seen it, oldest first.
    pub fn kept(&self, levels: &Levels) -> Vec<Kept> {
        let mut windows: Vec<&Window> = self.tracked().map(|t| &t.window).collect();
        windows.sort_by_key(|window| window.bucket());
        let Some(measured) = &self.measured else { return self.series.kept(&windows, levels.interval) };
        let rss = self.series.kept(&[], levels.interval);
        let rules = measured.kept(&windows, levels.interval);
        let from = rules.first().map_or(Mono::default(), |first| first.sample.at);
        let before = rss.iter().take_while(|kept| kept.sample.at < from).copied();
        let with_charge = |kept: Kept| {
            let Sample { at, rss: most } = kept.sample;
            // the reading of the same time, or the highest of the quarter of a minute around it
            let next = rss.partition_point(|k| k.sample.at < at);
            let near = [next.checked_sub(1), Some(next)].into_iter().flatten().filter_map(|i| rss.get(i));
            let near = near.min_by_key(|k| k.sample.at.since(at).max(at.since(k.sample.at))).map_or(most, |k| k.sample.rss.min(most));
            Kept { sample: Sample { at, rss: near }, charge: (most > near).then_some(most), ..kept }
        };
        before.chain(rules.iter().copied().map(with_charge)).collect()
    }

    /// Takes a reading. `age` is how long the process had been running, `stage` which stage of the threshold is next.
    pub fn observe(&mut self, sample: Sample, age: Duration, levels: &Levels, stage: usize) {
        let passed = self.series.last().and_then(|last| passed(sample.at.since(last.at), levels.interval));
        let reading = self.read(sample, levels);
        if self.stage != stage {
            (self.stage, self.above) = (stage, Held::default());
        }
        let above = levels.stages.get(stage).is_some_and(|s| s.is_reached(reading));
        self.above.update(above, passed, levels.hold);
        self.measure(Sample { rss: reading.most, ..sample }, age, levels, passed);
        let is_undecided = |held: &Held| held.is_pending() && held.time < levels.hold;
        let is_undecided = is_undecided(&self.above) || self.tracked().any(|t| is_undecided(&t.held));
        self.series.keep_more(is_undecided);
        self.measured.iter_mut().for_each(|series| series.keep_more(is_undecided));
    }

    fn read(&mut self, sample: Sample, levels: &Levels) -> Reading {
        let charge = self.charge.as_ref().zip(levels.limit).map(|(charge, limit)| charge.against(limit));
        let charge = charge.filter(|charge| *charge > sample.rss);
        if charge.is_some() && self.measured.is_none() {
            self.measured = Some(Box::new(self.series.recent_only()));
        }
        let most = charge.unwrap_or(sample.rss);
        self.series.push(sample);
        self.measured.iter_mut().for_each(|series| series.push(Sample { rss: most, ..sample }));
        Reading { at: sample.at, rss: sample.rss, most }
    }

    /// What is seen over windows.
    fn measure(&mut self, sample: Sample, age: Duration, levels: &Levels, passed: Option<Duration>) {
        let reading = At { sample, passed, warm: age >= levels.warmup, hold: levels.hold, recent_top: self.measured().recent_top() };
        if let Some((tracked, (rise, rate))) = self.slope.as_mut().zip(levels.slope) {
            tracked.update(reading, rise / 2, |tracked| {
                // 80 % of the window may be all there is, so 80 % of the rise must be there to see
                if tracked.window.range(sample.at)? < rise / 5 * 4 {
                    return Ok(Standing::Flat);
                }
                let line = tracked.window.line(sample.at)?;
                let is_fast = line.bytes_per_second * rate.window.as_secs_f64() >= rise as f64;
                let means = if is_fast { tracked.weigh(line, sample.at, rise as f64, None)? } else { Means::TooSlow };
                Ok(Standing::Slope(line.bytes_per_second, means))
            });
        }
        let Some((eta, limit)) = levels.eta.zip(levels.limit) else { return };
        for tracked in self.eta.iter_mut().chain(self.eta_short.as_deref_mut()) {
            let reach = eta.min(tracked.window.span() * REACH);
            // a tenth of the way to the limit is half of what the rule asks for within its window
            let fall = (limit.saturating_sub(sample.rss) / u64::from(REACH) / 2).max(eta_noise(limit));
            tracked.update(reading, fall, |tracked| {
                if tracked.window.range(sample.at)? < eta_noise(limit) {
                    return Ok(Standing::Flat);
                }
                let line = tracked.window.line(sample.at)?;
                let slope = line.bytes_per_second;
                let rise = slope * tracked.window.span().as_secs_f64();
                let is_near = time_to(limit, sample.rss, slope).is_some_and(|t| t <= reach) && rise >= eta_noise(limit) as f64;
                let means = if is_near { tracked.weigh(line, sample.at, rise, Some(limit))? } else { Means::TooSlow };
                Ok(Standing::Slope(slope, means))
            });
        }
    }

    /// RSS could not be read for too long: nothing is known to hold any more.
    pub fn interrupt(&mut self) {
        self.above = Held::default();
        self.tracked_mut().for_each(|tracked| tracked.held = Held::default());
    }

    /// The incident is over: what rose before it ended is no part of what comes.
    pub fn recovered(&mut self) {
        self.interrupt();
        for tracked in self.tracked_mut() {
            tracked.window.clear();
            tracked.standing = Standing::Off;
            tracked.peaks.came_back();
        }
    }

    fn tracked(&self) -> impl Iterator<Item = &Tracked> {
        self.slope.iter().chain(&self.eta).chain(self.eta_short.as_deref())
    }

    fn tracked_mut(&mut self) -> impl Iterator<Item = &mut Tracked> {
        self.slope.iter_mut().chain(&mut self.eta).chain(self.eta_short.as_deref_mut())
    }

    /// Is any rule's condition met, held long enough or not? For how long so far, less its dips.
    pub fn pending_for(&self) -> Option<Duration> {
        std::iter::once(&self.above).chain(self.tracked().map(|t| &t.held)).filter(|held| held.is_pending()).map(|held| held.time).max()
    }

    /// The rule that has held long enough as of the last reading, with its numbers.
    pub fn fired(&self, levels: &Levels) -> Option<Fired> {
        let last = self.last()?;
        let how_long = || format!("for {}", clock::human(levels.hold));
        self.pick(last, levels, |held| held.for_long(levels), how_long).or_else(|| self.cut_short(last, levels))
    }

    /// The next stage of the threshold, once it has held long enough. Slopes do not escalate.
    pub fn fired_stage(&self, levels: &Levels) -> Option<Fired> {
        self.fired(levels).filter(|f| f.trigger == Trigger::Threshold)
    }

    /// What was pending when the process went away, with its numbers.
    pub fn unfinished(&self, levels: &Levels) -> Option<Fired> {
        let last = self.last()?;
        self.pick(last, levels, Held::is_pending, || "when the process ended".into())
    }

    /// The kernel killed in the cgroup, `why` in words.
    pub fn killed(&self, why: &str, levels: &Levels) -> Fired {
        let last = self.last().unwrap_or(Reading { at: Mono::default(), rss: 0, most: 0 });
        let fired = Fired {
            trigger: Trigger::OomKill,
            level_bytes: levels.limit.unwrap_or(last.most),
            slope_bytes_per_second: self.measured().recent_slope(),
            ..Fired::manual(last.rss, levels.limit, format!(" at the last reading; {why}"))
        };
        self.with_measure(fired, last.most)
    }

    /// `for` must not outlast the process: if RSS goes on to rise as it does now, would the limit come first?
    fn cut_short(&self, last: Reading, levels: &Levels) -> Option<Fired> {
        // the next reading, and with it the next chance, is an interval away
        let left = levels.hold.saturating_sub(self.pending_for()?) + levels.interval;
        let rise = self.measured().rise()?;
        // a step that has ended goes on in the slope of the last few readings
        let reached = time_to(levels.limit?, last.most, rise.confirmed.max(rise.lately).min(rise.seen)).filter(|t| *t <= left)?;
        let why = || format!("not waiting {}: the limit would be reached in {}", clock::human(levels.hold), clock::human(reached));
        self.pick(last, levels, |held| held.met, why)
    }

    /// The first rule whose condition has held `enough`.
    fn pick(&self, last: Reading, levels: &Levels, enough: impl Fn(&Held) -> bool, how_long: impl FnOnce() -> String) -> Option<Fired> {
        if enough(&self.above) {
            return self.threshold_fired(last, levels, how_long());
        }
        if let Some(tracked) = self.eta.iter().chain(self.eta_short.as_deref()).find(|t| enough(&t.held)) {
            return eta_fired(tracked, last, levels).map(|fired| self.with_measure(fired, last.most));
        }
        self.slope
            .as_ref()
            .filter(|t| enough(&t.held))
            .and_then(|tracked| slope_fired(tracked, last, levels))
            .map(|fired| self.with_measure(fired, last.most))
    }

    fn threshold_fired(&self, last: Reading, levels: &Levels, how_long: String) -> Option<Fired> {
        let reached = levels.stages_reached(last).max(self.stage + 1);
        let stage = levels.stages.get(reached - 1)?;
        let level = threshold_words(stage, levels.limit, Lang::En);
        let fired = Fired {
            trigger: Trigger::Threshold,
            level_bytes: stage.bytes,
            slope_bytes_per_second: self.measured().recent_slope(),
            reason: match stage.is_reached(last) {
                false => format!(", and until just before at or above {level}"),
                true => format!(" at or above {level}, {how_long}"),
            },
            ..Fired::manual(last.rss, levels.limit, String::new())
        };
        Some(self.with_measure(fired, last.of(stage)))
    }

    /// Says which of the two was compared, and puts it before the reason.
    fn with_measure(&self, fired: Fired, compared: u64) -> Fired {
        let Some(charge) = self.charge.as_ref().filter(|_| compared > fired.rss_bytes) else {
            return Fired { reason: format!("RSS {}{}", ByteSize(fired.rss_bytes), fired.reason), ..fired };
        };
        Fired {
            measure: Measure::Charge,
            charge_bytes: Some(charge.bytes),
            charge_limit_bytes: Some(charge.limit),
            charge_cgroup: Some(charge.cgroup.to_string()),
            reason: format!("{} (RSS {}){}", charge_words(charge, Lang::En), ByteSize(fired.rss_bytes), fired.reason),
            ..fired
        }
    }

    /// Where each rule stands, in words: why nothing fires.
    pub fn standing(&self, levels: &Levels, lang: Lang) -> String {
        let mut words = Vec::new();
        if let Some((stage, last)) = levels.stages.get(self.stage).or(levels.stages.last()).zip(self.last()) {
            let compared = last.of(stage);
            let share = compared as f64 / stage.bytes.max(1) as f64 * 100.0;
            let of = threshold_words(stage, levels.limit, lang);
            words.push(match self.charge.as_ref().filter(|_| compared > last.rss) {
                None => say!(lang; "RSS is {share:.0}% of {of}"; "RSS 为{of}的 {share:.0}%"),
                Some(charge) => {
                    let (charge, rss) = (charge_words(charge, lang), ByteSize(last.rss));
                    say!(lang; "{charge} (RSS {rss}) is {share:.0}% of {of}"; "{charge}（RSS {rss}）为{of}的 {share:.0}%")
                }
            });
        }
        if let Some((tracked, (rise, rate))) = self.slope.as_ref().zip(levels.slope) {
            let over = |slope: f64| {
                let (rise, window) = (signed(slope * rate.window.as_secs_f64()), clock::human(rate.window));
                say!(lang; "{rise} in {window}"; "{window} 内 {rise}")
            };
            let (stands, rise) = (tracked.standing.words(over, lang), ByteSize(rise));
            words.push(say!(lang; "slope: {stands} (fires at {rise})"; "slope：{stands}（达到 {rise} 触发）"));
        }
        if let Some((tracked, eta)) = self.eta.as_ref().zip(levels.eta) {
            let left = |slope| match levels.limit.zip(self.last()).and_then(|(limit, last)| time_to(limit, last.most, slope)) {
                Some(t) => {
                    let left = clock::human(t);
                    say!(lang; "limit in {left}"; "{left} 后到上限")
                }
                None => lang.pick("not rising", "没有上升").into(),
            };
            let (stands, eta) = (tracked.standing.words(left, lang), clock::human(eta));
            words.push(say!(lang; "eta: {stands} (fires within {eta})"; "eta：{stands}（{eta} 以内触发）"));
        }
        if words.is_empty() {
            let (en, zh) = ("no rule can hold: the limit that its percentages are of is unknown", "没有规则能成立：百分比所依据的上限未知");
            words.push(lang.pick(en, zh).into());
        }
        words.join(lang.pick("; ", "；"))
    }

    /// Why a rise that is steep enough for `slope` is not taken for one.
    pub fn why_no_slope(&self, lang: Lang) -> Option<String> {
        match self.slope.as_ref()?.standing {
            Standing::Slope(_, means) => means.why_not(lang),
            _ => None,
        }
    }

    /// Bytes per second: the robust line where a rule keeps one, else of the last readings.
    pub fn slope(&self) -> Option<f64> {
        let measured = self.tracked().find_map(|t| match t.standing {
            Standing::Slope(slope, _) => Some(slope),
            Standing::Flat => Some(0.0),
            _ => None,
        });
        measured.or_else(|| self.measured().recent_slope())
    }
}

/// The reason lacks what was compared; see [`Detector::with_measure`].
fn slope_fired(tracked: &Tracked, last: Reading, levels: &Levels) -> Option<Fired> {
    let (rise, rate) = levels.slope?;
    let Standing::Slope(slope, _) = tracked.standing else { return None };
    let window = rate.window.as_secs_f64();
    let reason =
        format!(" rises by {} in {}, at or above {}", ByteSize((slope * window) as u64), clock::human(rate.window), ByteSize(rise),);
    Some(Fired {
        trigger: Trigger::Slope,
        level_bytes: last.most,
        slope_bytes_per_second: Some(slope),
        window_seconds: Some(window),
        eta_seconds: levels.limit.and_then(|l| time_to(l, last.most, slope)).map(|t| t.as_secs_f64()),
        ..Fired::manual(last.rss, levels.limit, reason)
    })
}

/// The reason lacks what was compared; see [`Detector::with_measure`].
fn eta_fired(tracked: &Tracked, last: Reading, levels: &Levels) -> Option<Fired> {
    let (limit, eta) = (levels.limit?, levels.eta?);
    let Standing::Slope(slope, _) = tracked.standing else { return None };
    let left = time_to(limit, last.most, slope)?;
    let reason = format!(
        " rises by {} a second and would reach the limit of {} in {}, within {}",
        ByteSize(slope as u64),
        ByteSize(limit),
        clock::human(left),
        clock::human(eta),
    );
    Some(Fired {
        trigger: Trigger::Eta,
        level_bytes: last.most,
        slope_bytes_per_second: Some(slope),
        window_seconds: Some(tracked.window.span().as_secs_f64()),
        eta_seconds: Some(left.as_secs_f64()),
        ..Fired::manual(last.rss, Some(limit), reason)
    })
}

/// What every rule over a window must know of a reading.
#[derive(Clone, Copy)]
struct At {
    sample: Sample,
    passed: Option<Duration>,
    warm: bool,
    hold: Duration,
    /// The highest of the last few readings.
    recent_top: u64,
}

/// How much of the time between two readings is known: all if they are neighbours, else what one reading stands for; `None` if they are of
/// different times.
fn passed(between: Duration, interval: Duration) -> Option<Duration> {
    if between > interval * STALE_AFTER {
        None
    } else if between > interval * 3 / 2 {
        // a reading is missing between the two
        Some(interval)
    } else {
        Some(between)
    }
}

impl Tracked {
    fn new(span: Duration, interval: Duration) -> Tracked {
        Tracked { window: Window::new(span, interval), standing: Standing::Off, held: Held::default(), peaks: Peaks::default(), floor: 0 }
    }

    /// `fall` is what counts as having come back, bytes.
    fn update(&mut self, at: At, fall: u64, measure: impl FnOnce(&mut Tracked) -> Result<Standing, TooFew>) {
        let closed = self.window.push(at.sample);
        if let Some(point) = self.window.newest().filter(|_| closed) {
            self.peaks.push(point, fall);
        }
        if !at.warm {
            (self.standing, self.held) = (Standing::Warming, Held::default());
            return;
        }
        if closed || matches!(self.standing, Standing::Warming | Standing::Off) {
            self.standing = measure(self).unwrap_or_else(Standing::Gathering);
        }
        let met = matches!(self.standing, Standing::Slope(_, Means::Met)) && at.recent_top >= self.floor;
        self.held.update(met, at.passed, at.hold);
    }

    /// Whether a line that is steep enough is a rise that goes on; `least` is what it must amount to over the window, bytes.
    fn weigh(&mut self, line: Line, now: Mono, least: f64, limit: Option<u64>) -> Result<Means, TooFew> {
        let course = self.window.course(line, now)?;
        let rise = course.line.bytes_per_second * self.window.span().as_secs_f64();
        self.floor = course.floor;
        if rise < course.error * ERRORS {
            return Ok(Means::Scatter);
        }
        if course.floor_rise < rise / 3.0 || course.below_top as f64 > (rise / 4.0).max(course.scatter) {
            return Ok(Means::NotStill);
        }
        // a step that stays is a rise, but it leads to no limit; a steady line rises by a quarter
        if limit.is_some() && course.late_rise < rise / 8.0 {
            return Ok(Means::NotStill);
        }
        let remembered = now - REMEMBERED.max(self.window.span() * REMEMBERED_WINDOWS);
        self.peaks.forget(remembered);
        // a peak within the rise is a part of it
        let Some(peak) = self.peaks.highest(remembered, course.from + self.window.span() / 4) else {
            return Ok(Means::Met);
        };
        // near the limit, nothing is known to be harmless
        let above = limit.map_or(least / 2.0, |limit| (least / 2.0).min(limit.saturating_sub(peak) as f64 / 4.0));
        Ok(if course.top as f64 <= peak as f64 + above { Means::Known(peak) } else { Means::Met })
    }
}

impl Standing {
    fn words(self, measured: impl FnOnce(f64) -> String, lang: Lang) -> String {
        match self {
            Standing::Off => lang.pick("no reading yet", "尚无读数").into(),
            Standing::Warming => lang.pick("ignored during warm-up", "预热期不计").into(),
            Standing::Gathering(few) => say!(lang; "gathering, {} of {} buckets"; "收集中，{}/{} 个区间", few.have, few.need),
            Standing::Flat => lang.pick("flat", "平稳").into(),
            Standing::Slope(slope, means) => match means.why_not(lang) {
                None => measured(slope),
                Some(why) => {
                    let measured = measured(slope);
                    say!(lang; "{measured}, but {why}"; "{measured}，但{why}")
                }
            },
        }
    }
}

impl Means {
    /// Why a slope that is steep enough does not count.
    fn why_not(self, lang: Lang) -> Option<String> {
        let why = match self {
            Means::Met | Means::TooSlow => return None,
            Means::Scatter => lang.pick("the readings scatter by as much", "读数本身的波动就有这么大").into(),
            Means::NotStill => lang.pick("RSS swings or has fallen since", "RSS 在波动或已回落").into(),
            Means::Known(peak) => {
                let peak = ByteSize(peak);
                say!(lang; "RSS came back from {peak} before"; "此前曾从 {peak} 自行回落")
            }
        };
        Some(why)
    }
}

/// When a line reaches `limit`: zero if it is there already, `None` if it never will.
pub fn time_to(limit: u64, rss: u64, bytes_per_second: f64) -> Option<Duration> {
    if bytes_per_second <= 0.0 || !bytes_per_second.is_finite() {
        return None;
    }
    Duration::try_from_secs_f64(limit.saturating_sub(rss) as f64 / bytes_per_second).ok()
}

fn threshold_words(stage: &Stage, limit: Option<u64>, lang: Lang) -> String {
    let level = ByteSize(stage.bytes);
    match (stage.as_written, limit.map(ByteSize)) {
        (SizeOrPercent::Percent(share), Some(limit)) => {
            say!(lang; "the threshold of {level} ({share} of the limit of {limit})"; "阈值 {level}（上限 {limit} 的 {share}）")
        }
        _ => say!(lang; "the threshold of {level}"; "阈值 {level} "),
    }
}

fn charge_words(charge: &Charge, lang: Lang) -> String {
    let (bytes, limit, cgroup) = (ByteSize(charge.bytes), ByteSize(charge.limit), &charge.cgroup);
    say!(lang;
        "the charge of cgroup {cgroup}, {bytes} of {limit}"; "cgroup {cgroup} 中不可回收的 {bytes}（上限 {limit}）"
    )
}

fn signed(bytes: f64) -> String {
    format!("{}{}", if bytes < 0.0 { "-" } else { "+" }, ByteSize(bytes.abs() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn size(mib: u64) -> SizeOrPercent {
        SizeOrPercent::Size(ByteSize::mib(mib))
    }

    /// Feeds one reading a second (MiB) to a process started `age` seconds before; what fired first, and at which second.
    fn first(rules: &config::Rules, limit_mib: Option<u64>, age: u64, readings: impl IntoIterator<Item = u64>) -> Option<(usize, Fired)> {
        let second = Duration::from_secs(1);
        let levels = Levels::resolve(rules, second, limit_mib.map(|l| l * MIB));
        let mut detector = Detector::new(rules, second);
        readings.into_iter().enumerate().find_map(|(i, mib)| {
            let sample = Sample { at: Mono::from_secs(1_000 + i as u64), rss: mib * MIB };
            detector.observe(sample, Duration::from_secs(age + i as u64), &levels, 0);
            detector.fired(&levels).map(|f| (i, f))
        })
    }

    #[test]
    fn a_threshold_fires_once_it_has_held() {
        let rules = config::Rules { threshold: vec![size(100)], ..Default::default() };
        let (when, fired) = first(&rules, None, 0, [50, 100, 100, 100, 100]).unwrap();
        assert_eq!((when, fired.trigger, fired.level_bytes), (4, Trigger::Threshold, 100 * MIB));
        assert_eq!(fired.reason, "RSS 100MiB at or above the threshold of 100MiB, for 3s");
        assert_eq!(first(&rules, None, 0, [100, 100, 99, 100, 100, 100]).unwrap().0, 5, "a dip counts for neither");
        assert!(first(&rules, None, 0, [100, 100, 99, 99, 99, 100, 100, 100]).is_none(), "a longer one takes back what it lasts");
    }

    #[test]
    fn percentages_are_of_the_limit_and_silent_without_one() {
        let rules = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
        assert_eq!(first(&rules, Some(100), 0, [79, 80]).unwrap().0, 1);
        assert!(first(&rules, None, 0, [79, 80, 10_000]).is_none());
    }

    /// As [`first`], with the cgroup's charge (MiB) of a limit of its own (MiB).
    fn first_charged(
        rules: &config::Rules,
        limit_mib: u64,
        of_mib: u64,
        readings: impl IntoIterator<Item = (u64, u64)>,
    ) -> Option<(usize, Fired, Detector)> {
        let second = Duration::from_secs(1);
        let levels = Levels::resolve(rules, second, Some(limit_mib * MIB));
        let mut detector = Detector::new(rules, second);
        for (i, (mib, charge)) in readings.into_iter().enumerate() {
            detector.charged(Some(Charge { bytes: charge * MIB, limit: of_mib * MIB, cgroup: "/pod".into() }));
            detector.observe(Sample { at: Mono::from_secs(1_000 + i as u64), rss: mib * MIB }, Duration::from_secs(1_000), &levels, 0);
            if let Some(fired) = detector.fired(&levels) {
                return Some((i, fired, detector));
            }
        }
        None
    }

    #[test]
    fn a_share_of_the_limit_counts_the_charge_and_a_size_does_not() {
        let share = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
        let (when, fired, _) = first_charged(&share, 100, 100, [(6, 60), (6, 79), (6, 80)]).unwrap();
        assert_eq!((when, fired.measure, fired.rss_bytes, fired.measured_bytes()), (2, Measure::Charge, 6 * MIB, 80 * MIB));
        assert_eq!(
            fired.reason,
            "the charge of cgroup /pod, 80.0MiB of 100MiB (RSS 6.00MiB) at or above the threshold of 80.0MiB (80% of the limit of 100MiB), for 0s"
        );
        let (_, fired, _) = first_charged(&share, 100, 100, [(85, 70)]).unwrap();
        assert_eq!((fired.measure, fired.charge_bytes), (Measure::Rss, None));
        let size = config::Rules { threshold: vec![size(80)], hold: Duration::ZERO, ..Default::default() };
        assert!(first_charged(&size, 100, 100, [(6, 60), (6, 99), (79, 99)]).is_none());
    }

    #[test]
    fn a_share_of_an_ancestors_limit_is_as_near_as_the_same_share_of_the_own() {
        let rules = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
        let (when, fired, _) = first_charged(&rules, 100, 1_000, [(50, 799), (50, 800)]).unwrap();
        assert_eq!((when, fired.charge_bytes, fired.measured_bytes()), (1, Some(800 * MIB), 80 * MIB));
    }

    #[test]
    fn a_charge_that_rises_fires_by_eta_and_its_readings_are_kept_beside_rss() {
        let rules = config::Rules { eta: Some(Duration::from_secs(300)), ..Default::default() };
        let (_, fired, detector) = first_charged(&rules, 1_000, 1_000, (0..900).map(|i| (150, 100 + i))).unwrap();
        assert_eq!((fired.trigger, fired.measure, fired.rss_bytes), (Trigger::Eta, Measure::Charge, 150 * MIB));
        let levels = Levels::resolve(&rules, Duration::from_secs(1), Some(1_000 * MIB));
        let kept = detector.kept(&levels);
        assert!(kept.iter().all(|k| k.sample.rss == 150 * MIB), "{kept:?}");
        assert_eq!(kept.last().unwrap().charge, Some(fired.measured_bytes()));
        assert!(kept.first().unwrap().charge.is_none() && kept.is_sorted_by_key(|k| k.sample.at), "{kept:?}");
    }

    #[test]
    fn the_wait_is_cut_short_when_the_limit_would_come_first() {
        let rules = config::Rules { threshold: vec![size(100)], hold: Duration::from_secs(10), ..Default::default() };
        let (when, fired) = first(&rules, Some(200), 0, [50, 80, 110, 140, 170]).unwrap();
        assert_eq!(when, 2, "{}", fired.reason);
        assert!(fired.reason.contains("not waiting"), "{}", fired.reason);
        assert_eq!(first(&rules, Some(200_000), 0, (0..20).map(|i| 50 + 30 * i)).unwrap().0, 12);
    }

    #[test]
    fn a_step_over_the_line_that_ends_there_waits_as_long_as_any() {
        let rules = config::Rules { threshold: vec![size(100)], ..Default::default() };
        let (when, fired) = first(&rules, Some(200), 0, [50, 50, 50, 50, 50, 150, 150, 150, 150, 150]).unwrap();
        assert_eq!(when, 8, "{}", fired.reason);
    }

    #[test]
    fn a_slope_fires_after_its_window_and_not_during_warm_up() {
        let rules = config::Rules { slope: Some("100MiB/100s".parse().unwrap()), ..Default::default() };
        let (when, fired) = first(&rules, None, 1000, (0..300).map(|i| 100 + i * 2)).unwrap();
        assert_eq!(fired.trigger, Trigger::Slope);
        assert!((80..95).contains(&when), "{when}");
        assert!(first(&rules, None, 0, (0..59).map(|i| 100 + i * 20)).is_none());
        assert!(first(&rules, None, 1000, (0..600).map(|i| 100 + i / 2)).is_none(), "half the slope");
    }

    #[test]
    fn a_sawtooth_and_a_short_spike_are_no_slope() {
        let rules = config::Rules { slope: Some("100MiB/100s".parse().unwrap()), ..Default::default() };
        assert!(first(&rules, None, 1000, (0..1000).map(|i| 300 + (i % 20) * 10)).is_none());
        assert!(first(&rules, None, 1000, (0..1000).map(|i| if i % 200 < 25 { 900 } else { 300 })).is_none());
    }

    #[test]
    fn a_step_that_stays_is_a_rise_over_the_window() {
        let rules = config::Rules { slope: Some("100MiB/100s".parse().unwrap()), ..Default::default() };
        let (when, _) = first(&rules, None, 1000, (0..1000).map(|i| if i < 500 { 300 } else { 900 })).unwrap();
        assert!((520..560).contains(&when), "only once a good part of the window has seen it: {when}");
    }

    #[test]
    fn eta_fires_when_the_limit_is_near_and_rss_rises() {
        let rules = config::Rules { eta: Some(Duration::from_secs(300)), ..Default::default() };
        let (when, fired) = first(&rules, Some(1000), 1000, (0..900).map(|i| 100 + i)).unwrap();
        assert_eq!(fired.trigger, Trigger::Eta);
        assert!((598..612).contains(&when), "300 s before 1000 MiB, plus `for`: {when}");
        assert!(first(&rules, Some(1000), 1000, std::iter::repeat_n(999, 900)).is_none(), "near, but flat");
    }

    #[test]
    fn jitter_next_to_the_limit_is_no_eta() {
        let rules = config::Rules { eta: Some(Duration::from_secs(300)), ..Default::default() };
        assert!(first(&rules, Some(10_000), 1000, (0..2000).map(|i| 9_985 + i * 7 % 11)).is_none());
    }

    #[test]
    fn standing_says_why_not() {
        let rules = config::Rules {
            threshold: vec!["80%".parse().unwrap()],
            slope: Some("200MiB/10m".parse().unwrap()),
            eta: Some(Duration::from_secs(300)),
            ..Default::default()
        };
        let second = Duration::from_secs(1);
        let levels = Levels::resolve(&rules, second, Some(1000 * MIB));
        let mut detector = Detector::new(&rules, second);
        for i in 0..200 {
            detector.observe(Sample { at: Mono::from_secs(i), rss: 400 * MIB }, Duration::from_secs(500 + i), &levels, 0);
        }
        assert_eq!(
            detector.standing(&levels, Lang::En),
            "RSS is 50% of the threshold of 800MiB (80% of the limit of 1000MiB); slope: gathering, 13 of 32 buckets (fires at 200MiB); \
             eta: flat (fires within 5m)"
        );
    }

    #[test]
    fn a_reading_of_twice_the_limit_has_no_time_left() {
        assert_eq!(time_to(100, 200, 1.0), Some(Duration::ZERO));
        assert_eq!(time_to(100, 50, 0.0), None);
        assert_eq!(time_to(100, 50, f64::NAN), None);
        assert_eq!(time_to(u64::MAX, 0, 1e-300), None);
    }
}
