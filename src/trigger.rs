//! Did a rule fire, and with which numbers? Pure: readings in, [`Fired`] out.
//!
//! A [`Detector`] holds one life of one process: its series, and since when each rule holds. Whether firing means a
//! capture (cooldowns, incidents, budgets) is `incident`'s business.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Mono};
use crate::config;
use crate::lang::{Lang, say};
use crate::series::{Sample, Series, TooFew, Window, bucket_width};
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
}

impl Trigger {
    pub const fn name(self) -> &'static str {
        match self {
            Trigger::Threshold => "threshold",
            Trigger::Slope => "slope",
            Trigger::Eta => "eta",
            Trigger::Manual => "manual",
            Trigger::Alert => "alert",
        }
    }

    /// Whether a rule of the configuration fired, and not a person.
    pub const fn by_rule(self) -> bool {
        !matches!(self, Trigger::Manual)
    }

    /// Whether it came from outside: a person, a program, an alert.
    pub const fn is_asked(self) -> bool {
        matches!(self, Trigger::Manual | Trigger::Alert)
    }
}

/// A trigger with the numbers that fired it, as the manifest keeps them. Sizes in bytes, times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fired {
    pub trigger: Trigger,
    /// RSS at the moment of firing.
    pub rss_bytes: u64,
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
            rss_bytes,
            level_bytes: rss_bytes,
            limit_bytes,
            slope_bytes_per_second: None,
            window_seconds: None,
            eta_seconds: None,
            reason,
        }
    }
}

/// One stage of `threshold` in bytes, with the words of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub bytes: u64,
    pub as_written: SizeOrPercent,
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
    interval: Duration,
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

    /// The window of the line that `eta` extends.
    pub fn eta_window(&self) -> Option<Duration> {
        self.eta.map(|eta| eta_window(eta, self.interval))
    }

    /// The lowest stage above a reading, or the limit.
    pub fn next_above(&self, rss: u64) -> Option<u64> {
        self.stages.iter().map(|s| s.bytes).chain(self.limit).filter(|bytes| *bytes > rss).min()
    }

    /// The width of the narrowest bucket that a rule's window is cut into; `None` without such a rule.
    pub fn narrowest_bucket(&self) -> Option<Duration> {
        let spans = self.slope.map(|(_, rate)| rate.window).into_iter().chain(self.eta_window());
        spans.map(|span| bucket_width(span, self.interval)).min()
    }

    /// How many stages a reading has reached.
    pub fn stages_reached(&self, rss: u64) -> usize {
        self.stages.iter().take_while(|s| rss >= s.bytes).count()
    }
}

/// The window of the line that `eta` extends: a fifth of it, 10 s to 60 s, at least ten polls. Short, because a
/// fast leak leaves no time for more; robust, because one allocation burst must not look like a leak.
fn eta_window(eta: Duration, interval: Duration) -> Duration {
    (eta / 5).clamp(Duration::from_secs(10), Duration::from_secs(60)).max(interval * 10)
}

/// Rises smaller than this over `eta`'s window are noise: RSS counters lag by a few hundred KiB per CPU.
fn eta_noise(limit: u64) -> u64 {
    (limit / 1000).max(512 << 10)
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
    Slope(f64),
}

/// One rule over a window: when it was last measured, and since when it holds.
#[derive(Clone, Debug)]
struct Tracked {
    window: Window,
    standing: Standing,
    since: Option<Mono>,
}

/// Watches one life of one process.
#[derive(Clone, Debug)]
pub struct Detector {
    series: Series,
    above_since: Option<Mono>,
    /// The stage that `above_since` speaks of.
    stage: usize,
    slope: Option<Tracked>,
    eta: Option<Tracked>,
}

impl Detector {
    pub fn new(rules: &config::Rules, interval: Duration) -> Detector {
        let track = |span| Tracked { window: Window::new(span, interval), standing: Standing::Off, since: None };
        Detector {
            series: Series::new(),
            above_since: None,
            stage: 0,
            slope: rules.slope.map(|rate| track(rate.window)),
            eta: rules.eta.map(|eta| track(eta_window(eta, interval))),
        }
    }

    /// The same process under changed rules: what was seen stays, what it meant is measured anew.
    pub fn with_rules(self, rules: &config::Rules, interval: Duration) -> Detector {
        Detector { series: self.series, ..Detector::new(rules, interval) }
    }

    pub fn series(&self) -> &Series {
        &self.series
    }

    /// Takes a reading. `age` is how long the process had been running, `stage` which stage of the threshold is next.
    pub fn observe(&mut self, sample: Sample, age: Duration, levels: &Levels, stage: usize) {
        self.series.push(sample);
        let above = levels.stages.get(stage).is_some_and(|s| sample.rss >= s.bytes);
        let since = self.above_since.filter(|_| self.stage == stage);
        self.above_since = above.then(|| since.unwrap_or(sample.at));
        self.stage = stage;

        let warm = age >= levels.warmup;
        if let Some((tracked, (rise, rate))) = self.slope.as_mut().zip(levels.slope) {
            tracked.update(sample, warm, |window, now| {
                // 80 % of the window may be all there is, so 80 % of the rise must be there to see
                if window.range(now)? < rise / 5 * 4 {
                    return Ok((Standing::Flat, false));
                }
                let slope = window.line(now)?.bytes_per_second;
                Ok((Standing::Slope(slope), slope * rate.window.as_secs_f64() >= rise as f64))
            });
        }
        if let Some(((tracked, eta), limit)) = self.eta.as_mut().zip(levels.eta).zip(levels.limit) {
            tracked.update(sample, warm, |window, now| {
                if window.range(now)? < eta_noise(limit) {
                    return Ok((Standing::Flat, false));
                }
                let slope = window.line(now)?.bytes_per_second;
                let reached = time_to(limit, sample.rss, slope).is_some_and(|t| t <= eta);
                let rises = slope * window.span().as_secs_f64() >= eta_noise(limit) as f64;
                Ok((Standing::Slope(slope), reached && rises))
            });
        }
    }

    /// RSS could not be read: nothing is known to hold any more.
    pub fn interrupt(&mut self) {
        self.above_since = None;
        for tracked in [&mut self.slope, &mut self.eta].into_iter().flatten() {
            tracked.since = None;
        }
    }

    /// Is any rule's condition met by the last reading, held long enough or not?
    pub fn pending_since(&self) -> Option<Mono> {
        let windows = [&self.slope, &self.eta].into_iter().flatten().filter_map(|t| t.since);
        self.above_since.into_iter().chain(windows).min()
    }

    /// The rule that has held long enough as of the last reading, with its numbers.
    pub fn fired(&self, levels: &Levels) -> Option<Fired> {
        let last = self.series.last()?;
        let held = |since: &Mono| last.at.since(*since) >= levels.hold;
        let how_long = || format!("for {}", clock::human(levels.hold));
        self.pick(last, levels, held, how_long).or_else(|| self.cut_short(last, levels))
    }

    /// The next stage of the threshold, once it has held long enough. Slopes do not escalate.
    pub fn fired_stage(&self, levels: &Levels) -> Option<Fired> {
        self.fired(levels).filter(|f| f.trigger == Trigger::Threshold)
    }

    /// What was pending when the process went away, with its numbers.
    pub fn unfinished(&self, levels: &Levels) -> Option<Fired> {
        let last = self.series.last()?;
        self.pick(last, levels, |_| true, || "when the process ended".into())
    }

    /// `for` must not outlast the process: if RSS goes on to rise as it does now, would the limit come first?
    fn cut_short(&self, last: Sample, levels: &Levels) -> Option<Fired> {
        let since = self.pending_since()?;
        // the next reading, and with it the next chance, is an interval away
        let left = levels.hold.saturating_sub(last.at.since(since)) + levels.interval;
        let rise = self.series.rise()?;
        // a step that has ended goes on in the slope of the last few readings
        let reached = time_to(levels.limit?, last.rss, rise.confirmed.min(rise.seen)).filter(|t| *t <= left)?;
        let why = || format!("not waiting {}: the limit would be reached in {}", clock::human(levels.hold), clock::human(reached));
        self.pick(last, levels, |_| true, why)
    }

    /// The first rule whose condition has been met since a time that is `enough`.
    fn pick(&self, last: Sample, levels: &Levels, enough: impl Fn(&Mono) -> bool, how_long: impl FnOnce() -> String) -> Option<Fired> {
        let met = |tracked: &Option<Tracked>| tracked.as_ref().and_then(|t| t.since).filter(&enough).is_some();
        if self.above_since.filter(&enough).is_some() {
            self.threshold_fired(last, levels, how_long())
        } else if met(&self.eta) {
            self.eta_fired(last, levels)
        } else if met(&self.slope) {
            self.slope_fired(last, levels)
        } else {
            None
        }
    }

    fn threshold_fired(&self, last: Sample, levels: &Levels, how_long: String) -> Option<Fired> {
        let reached = levels.stages_reached(last.rss).max(self.stage + 1);
        let stage = levels.stages.get(reached - 1)?;
        Some(Fired {
            trigger: Trigger::Threshold,
            rss_bytes: last.rss,
            level_bytes: stage.bytes,
            limit_bytes: levels.limit,
            slope_bytes_per_second: self.series.recent_slope(),
            window_seconds: None,
            eta_seconds: None,
            reason: format!("RSS {} at or above {}, {how_long}", ByteSize(last.rss), threshold_words(stage, levels.limit, Lang::En)),
        })
    }

    fn slope_fired(&self, last: Sample, levels: &Levels) -> Option<Fired> {
        let (rise, rate) = levels.slope?;
        let Standing::Slope(slope) = self.slope.as_ref()?.standing else { return None };
        let window = rate.window.as_secs_f64();
        Some(Fired {
            trigger: Trigger::Slope,
            rss_bytes: last.rss,
            level_bytes: last.rss,
            limit_bytes: levels.limit,
            slope_bytes_per_second: Some(slope),
            window_seconds: Some(window),
            eta_seconds: levels.limit.and_then(|l| time_to(l, last.rss, slope)).map(|t| t.as_secs_f64()),
            reason: format!(
                "RSS {} rises by {} in {}, at or above {}",
                ByteSize(last.rss),
                ByteSize((slope * window) as u64),
                clock::human(rate.window),
                ByteSize(rise),
            ),
        })
    }

    fn eta_fired(&self, last: Sample, levels: &Levels) -> Option<Fired> {
        let (limit, eta, tracked) = (levels.limit?, levels.eta?, self.eta.as_ref()?);
        let Standing::Slope(slope) = tracked.standing else { return None };
        let left = time_to(limit, last.rss, slope)?;
        Some(Fired {
            trigger: Trigger::Eta,
            rss_bytes: last.rss,
            level_bytes: last.rss,
            limit_bytes: Some(limit),
            slope_bytes_per_second: Some(slope),
            window_seconds: Some(tracked.window.span().as_secs_f64()),
            eta_seconds: Some(left.as_secs_f64()),
            reason: format!(
                "RSS {} rises by {} a second and would reach the limit of {} in {}, within {}",
                ByteSize(last.rss),
                ByteSize(slope as u64),
                ByteSize(limit),
                clock::human(left),
                clock::human(eta),
            ),
        })
    }

    /// Where each rule stands, in words: why nothing fires.
    pub fn standing(&self, levels: &Levels, lang: Lang) -> String {
        let mut words = Vec::new();
        if let Some((stage, last)) = levels.stages.get(self.stage).or(levels.stages.last()).zip(self.series.last()) {
            let share = last.rss as f64 / stage.bytes.max(1) as f64 * 100.0;
            let of = threshold_words(stage, levels.limit, lang);
            words.push(say!(lang; "RSS is {share:.0}% of {of}"; "RSS 为{of}的 {share:.0}%"));
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
            let left = |slope| match levels.limit.zip(self.series.last()).and_then(|(limit, s)| time_to(limit, s.rss, slope)) {
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

    /// Bytes per second: the robust line where a rule keeps one, else of the last readings.
    pub fn slope(&self) -> Option<f64> {
        let measured = [&self.slope, &self.eta].into_iter().flatten().find_map(|t| match t.standing {
            Standing::Slope(slope) => Some(slope),
            Standing::Flat => Some(0.0),
            _ => None,
        });
        measured.or_else(|| self.series.recent_slope())
    }
}

impl Tracked {
    fn update(&mut self, sample: Sample, warm: bool, measure: impl FnOnce(&Window, Mono) -> Result<(Standing, bool), TooFew>) {
        let closed = self.window.push(sample);
        if !warm {
            self.standing = Standing::Warming;
            self.since = None;
        } else if closed || matches!(self.standing, Standing::Warming | Standing::Off) {
            let (standing, holds) = measure(&self.window, sample.at).unwrap_or_else(|few| (Standing::Gathering(few), false));
            self.standing = standing;
            self.since = holds.then(|| self.since.unwrap_or(sample.at));
        }
    }
}

impl Standing {
    fn words(self, measured: impl FnOnce(f64) -> String, lang: Lang) -> String {
        match self {
            Standing::Off => lang.pick("no reading yet", "尚无读数").into(),
            Standing::Warming => lang.pick("ignored during warm-up", "预热期不计").into(),
            Standing::Gathering(few) => say!(lang; "gathering, {} of {} buckets"; "收集中，{}/{} 个区间", few.have, few.need),
            Standing::Flat => lang.pick("flat", "平稳").into(),
            Standing::Slope(slope) => measured(slope),
        }
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
        assert!(first(&rules, None, 0, [100, 100, 100, 99, 100, 100, 100]).is_none(), "a dip starts the wait anew");
    }

    #[test]
    fn percentages_are_of_the_limit_and_silent_without_one() {
        let rules = config::Rules { threshold: vec!["80%".parse().unwrap()], hold: Duration::ZERO, ..Default::default() };
        assert_eq!(first(&rules, Some(100), 0, [79, 80]).unwrap().0, 1);
        assert!(first(&rules, None, 0, [79, 80, 10_000]).is_none());
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
