//! Did a rule fire, and with which numbers? Pure: readings in, [`Fired`] out.
//!
//! A [`Detector`] holds one life of one process: its series, and since when each rule holds. Whether firing means a
//! capture (cooldowns, incidents, budgets) is `incident`'s business.
//!
//! ```text
//!  levels   the rules against one instance's limit, and a reading
//!  held     for how long a condition has been met
//!  rise     a line over a window, and whether it goes on   ── slope, eta
//!  gc       what the collector takes
//!  leak     floors over days
//!  fired    which rule, with the numbers                    words  why nothing fires
//! ```

mod eta;
mod fired;
pub mod gc;
mod held;
pub mod leak;
mod levels;
mod rise;
mod slope;
mod words;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use fired::{Fired, Measure, Trigger};
pub use gc::{Collections, GcNumbers};
pub use held::STALE_AFTER;
use held::{Held, passed};
use leak::Leak;
pub use levels::{Levels, Reading, Stage};
pub use rise::time_to;
use rise::{At, Standing, Tracked};
use words::{charge_words, threshold_words};

use crate::charge::Charge;
use crate::clock::{self, Mono};
use crate::config;
use crate::lang::Lang;
use crate::series::{Kept, Sample, Series, Window};
use crate::units::ByteSize;

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
    gc: Option<Box<gc::Watched>>,
    /// Boxed: most targets have no such rule.
    leak: Option<Box<Leak>>,
}

impl Detector {
    pub fn new(rules: &config::Rules, interval: Duration) -> Detector {
        let eta = rules.eta.map(|eta| eta::windows(eta, interval));
        Detector {
            series: Series::new(),
            measured: None,
            charge: None,
            above: Held::default(),
            stage: 0,
            slope: rules.slope.map(|rate| Tracked::new(rate.window, interval)),
            eta: eta.map(|(longest, _)| Tracked::new(longest, interval)),
            eta_short: eta.and_then(|(_, short)| Some(Box::new(Tracked::new(short?, interval)))),
            gc: rules.gc.map(|gc| Box::new(gc::Watched::new(gc))),
            leak: rules.leak.map(|_| Box::default()),
        }
    }

    /// The same process under changed rules: what was seen stays, what it meant is measured anew.
    pub fn with_rules(self, rules: &config::Rules, interval: Duration) -> Detector {
        let mut fresh = Detector { series: self.series, measured: self.measured, charge: self.charge, ..Detector::new(rules, interval) };
        if let Some(known) = self.leak {
            fresh.take_up(*known);
        }
        fresh
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

    /// What the collector has done, or why that is not known; for the next readings.
    pub fn collected(&mut self, found: Result<Collections, String>) {
        if let Some(gc) = &mut self.gc {
            gc.collected(found);
        }
    }

    pub fn is_collector_met(&self) -> bool {
        self.gc.as_ref().is_some_and(|gc| gc.is_met())
    }

    /// Of an incident by `gc`: whether it is over, if that is known; `rearm` is a part of the level, 0 to 1.
    pub fn is_collector_calm(&self, rearm: f64) -> Option<bool> {
        self.gc.as_ref()?.is_over(rearm)
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
        if let Some(gc) = &mut self.gc {
            gc.observe(sample.at, age >= levels.warmup, passed, levels.hold);
        }
        if let Some(leak) = &mut self.leak {
            leak.observe(sample, age, levels);
        }
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
        if let Some((tracked, rule)) = self.slope.as_mut().zip(levels.slope) {
            slope::measure(tracked, reading, rule);
        }
        let Some((eta, limit)) = levels.eta.zip(levels.limit) else { return };
        for tracked in self.eta.iter_mut().chain(self.eta_short.as_deref_mut()) {
            eta::measure(tracked, reading, eta, limit);
        }
    }

    /// RSS could not be read for too long: nothing is known to hold any more.
    pub fn interrupt(&mut self) {
        self.above = Held::default();
        self.tracked_mut().for_each(|tracked| tracked.held = Held::default());
        self.gc.iter_mut().for_each(|gc| gc.held = Held::default());
    }

    /// The incident is over: what rose before it ended is no part of what comes.
    pub fn recovered(&mut self) {
        self.interrupt();
        for tracked in self.tracked_mut() {
            tracked.window.clear();
            tracked.standing = Standing::Off;
            tracked.peaks.came_back();
        }
        self.gc.iter_mut().for_each(|gc| gc.clear());
    }

    fn tracked(&self) -> impl Iterator<Item = &Tracked> {
        self.slope.iter().chain(&self.eta).chain(self.eta_short.as_deref())
    }

    fn tracked_mut(&mut self) -> impl Iterator<Item = &mut Tracked> {
        self.slope.iter_mut().chain(&mut self.eta).chain(self.eta_short.as_deref_mut())
    }

    /// Is any rule's condition met, held long enough or not? For how long so far, less its dips.
    pub fn pending_for(&self) -> Option<Duration> {
        std::iter::once(&self.above)
            .chain(self.tracked().map(|t| &t.held))
            .chain(self.gc.iter().map(|gc| &gc.held))
            .filter(|held| held.is_pending())
            .map(|held| held.time)
            .max()
    }

    /// The rule that has held long enough as of the last reading, with its numbers.
    pub fn fired(&self, levels: &Levels) -> Option<Fired> {
        let last = self.last()?;
        let how_long = || format!("for {}", clock::human(levels.hold));
        let held = self.pick(last, levels, |held| held.for_long(levels), how_long);
        let sudden = held.or_else(|| self.at_the_limit(last, levels)).or_else(|| self.cut_short(last, levels));
        sudden.or_else(|| self.leaked(last, levels))
    }

    /// The next stage of the threshold, once it has held long enough. Slopes do not escalate.
    pub fn fired_stage(&self, levels: &Levels) -> Option<Fired> {
        self.fired(levels).filter(|f| f.trigger == Trigger::Threshold)
    }

    /// What was pending when the process went away, with its numbers.
    pub fn unfinished(&self, levels: &Levels) -> Option<Fired> {
        let last = self.last()?;
        self.pick(last, levels, Held::is_pending, || "when the process ended".into()).or_else(|| self.leaked(last, levels))
    }

    /// Holds since days, if it holds: `for` adds nothing.
    fn leaked(&self, last: Reading, levels: &Levels) -> Option<Fired> {
        self.leak.as_ref()?.fired(last, levels).map(|fired| self.with_measure(fired, last.rss))
    }

    pub fn leak(&self) -> Option<&Leak> {
        self.leak.as_deref()
    }

    /// Floors of the same life, seen by an earlier memtrap or under another rule; nothing without the rule.
    pub fn take_up(&mut self, known: Leak) {
        if let Some(leak) = &mut self.leak {
            **leak = known.under_other_rules();
        }
    }

    /// The leak is being captured; over once the floor is below so many bytes.
    pub fn leak_told(&mut self, below: u64) {
        self.leak.iter_mut().for_each(|leak| leak.told(below));
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

    /// Nothing is waited for once the kernel has met the limit and little of what is in the cgroup can go: the processes are slowed or killed from here on. A
    /// line that `eta` would extend is not needed either.
    fn at_the_limit(&self, last: Reading, levels: &Levels) -> Option<Fired> {
        let charge = self.charge.as_ref().filter(|charge| charge.is_trouble())?;
        let (limit, cgroup) = (ByteSize(charge.limit), &charge.cgroup);
        let why = || format!("not waiting {}: the kernel has met the limit of {limit} of cgroup {cgroup}", clock::human(levels.hold));
        self.pick(last, levels, |held| held.met, why).or_else(|| {
            self.eta.as_ref().filter(|tracked| tracked.standing != Standing::Warming)?;
            let fired = eta::fired_at_the_limit(charge, last, levels, self.measured().recent_slope())?;
            Some(self.with_measure(fired, last.most))
        })
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
            return eta::fired(tracked, last, levels).map(|fired| self.with_measure(fired, last.most));
        }
        if let Some(gc) = self.gc.as_ref().filter(|gc| enough(&gc.held)) {
            return gc.fired(last, levels, &how_long()).map(|fired| self.with_measure(fired, last.rss));
        }
        self.slope
            .as_ref()
            .filter(|t| enough(&t.held))
            .and_then(|tracked| slope::fired(tracked, last, levels))
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
