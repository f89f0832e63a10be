//! Recorded readings against the rules: when they would have fired, and why not elsewhere. Pure.
//!
//! The same [`Slot`] decides as in the daemon; only the readings, the limit and the length of a capture are given. What a replay cannot
//! know: the budget that all targets share, what a poll would have seen between two readings, and where one process ended and the next began.

pub mod plot;
pub mod read;
#[cfg(test)]
mod own;
#[cfg(test)]
mod table;

use std::time::{Duration, SystemTime};

use crate::charge::Charge;
use crate::clock::{Mono, human, rfc3339_seconds};
use crate::config::{Capture, Rules};
use crate::identity::InstanceId;
use crate::incident::{Captured, Slot, State};
use crate::lang::Lang;
use crate::series::{self, Sample, Window};
use crate::trigger::{Fired, Levels, time_to};
use crate::units::ByteSize;
use read::Reading;

/// What is known besides the readings.
#[derive(Clone, Debug)]
pub struct Setup {
    pub rules: Rules,
    /// How long a capture keeps its instance busy.
    pub capture: Capture,
    /// How often memtrap would poll; readings further apart than that count as they are.
    pub interval: Duration,
    /// Instead of what the readings themselves tell.
    pub limit: Option<u64>,
    /// How long the process had been running at the first reading; `None`: as the readings tell, else for [`LONG`].
    pub age: Option<Duration>,
    /// The process ended after the last reading.
    pub ended: bool,
}

/// Of a process that is not said to be young.
pub const LONG: Duration = Duration::from_secs(24 * 3_600);

/// Something that changed at a reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at: SystemTime,
    pub rss: u64,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    State(State, String),
    /// A bundle would have been captured; `part` of its incident.
    Fired {
        part: u32,
        fired: Box<Fired>,
    },
}

/// What a replay showed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub events: Vec<Event>,
    /// For each rule, how near it came, in a sentence.
    pub nearest: Vec<String>,
    /// The lowest stage of the threshold, for a plot.
    pub level: Option<u64>,
}

impl Outcome {
    pub fn fired(&self) -> impl Iterator<Item = (&Event, &Fired)> {
        self.events.iter().filter_map(|event| match &event.what {
            What::Fired { fired, .. } => Some((event, &**fired)),
            What::State(..) => None,
        })
    }
}

/// Feeds readings, in order of time, to the rules.
pub fn replay(readings: &[Reading], setup: &Setup) -> Outcome {
    let Some(first) = readings.first() else { return Outcome::default() };
    let own = readings.iter().all(|r| r.kept.is_some());
    let interval = if own { setup.interval } else { setup.interval.max(typical_gap(readings)) };
    let resolve = |limit: Option<u64>| Levels::resolve(&setup.rules, interval, setup.limit.or(limit));
    let mut levels = resolve(first.kept.and_then(|kept| kept.limit));
    let mut slot = Slot::default();
    slot.arrive(InstanceId { pid: 1, start_ticks: 1 }, &setup.rules, interval);
    let busy = Duration::from_secs(setup.capture.cpu_seconds + 1);
    let mut nearest = Nearest::new(&setup.rules, interval, &levels);
    let mut outcome = Outcome { level: levels.stages.first().map(|s| s.bytes), ..Outcome::default() };
    let mut ends: Option<Mono> = None;
    let mut shown: Option<State> = None;
    let mut last = None;
    for (reading, now) in readings.iter().flat_map(|reading| points(reading, first, interval)) {
        if let Some(kept) = reading.kept
            && setup.limit.or(kept.limit) != levels.limit
        {
            levels = resolve(kept.limit);
        }
        let given = reading.at.duration_since(first.at).unwrap_or_default();
        let age = match (setup.age, reading.kept) {
            (Some(age), _) => age.saturating_add(given),
            (None, Some(kept)) => kept.age,
            (None, None) => LONG + given,
        };
        if ends.is_some_and(|end| now >= end) {
            slot.captured(Captured::Evidence, &setup.rules, now);
            ends = None;
        }
        let sample = Sample { at: now, rss: reading.rss };
        let charge = reading.kept.and_then(|kept| kept.charge).zip(levels.limit).filter(|_| setup.rules.charge);
        slot.charged(charge.map(|(bytes, limit)| Charge::new(bytes, limit, "of the timeline")));
        let mut happened = |what| outcome.events.push(Event { at: reading.at, rss: reading.rss, what });
        if let Some(order) = slot.observe(sample, age, &levels, &setup.rules) {
            happened(What::Fired { part: order.part, fired: Box::new(order.fired.clone()) });
            let id = order.incident.clone().unwrap_or_else(|| "replay".into());
            slot.admitted(&order, id, &levels, &setup.rules, now);
            ends = Some(now + busy);
        }
        let most = slot.measured().and_then(|series| series.last()).unwrap_or(sample);
        nearest.charged |= most.rss > sample.rss;
        nearest.observe(reading.at, most, age, &slot, &levels);
        let state = slot.state(now);
        if shown != Some(state) && state != State::Capturing {
            happened(What::State(state, slot.reason(&levels, now, Lang::En)));
            shown = Some(state);
        }
        last = Some((reading.at, sample));
    }
    if let Some((at, sample)) = last.filter(|_| setup.ended)
        && let Some(order) = slot.gone(&levels, sample.at)
    {
        outcome.events.push(Event { at, rss: sample.rss, what: What::Fired { part: order.part, fired: Box::new(order.fired) } });
    }
    outcome.nearest = nearest.sentences(&levels);
    outcome
}

/// The readings that a line stands for: one, or of memtrap's own timeline as many as were taken in its time.
fn points<'a>(reading: &'a Reading, first: &Reading, interval: Duration) -> impl Iterator<Item = (&'a Reading, Mono)> + use<'a> {
    // so that ages and windows before the first reading are points in time too
    let start = Mono::from_secs(366 * 24 * 3_600);
    let (at, span) = match reading.kept {
        // buckets lie where they lay
        Some(kept) => (kept.boot, kept.span),
        None => (start + reading.at.duration_since(first.at).unwrap_or_default(), Duration::ZERO),
    };
    let kept = series::Kept { span, ..series::Kept::reading(Sample { at, rss: reading.rss }) };
    kept.readings(interval).map(move |sample| (reading, sample.at))
}

/// The median distance between readings.
pub fn typical_gap(readings: &[Reading]) -> Duration {
    let pairs = readings.iter().zip(readings.iter().skip(1));
    let mut gaps: Vec<Duration> = pairs.map(|(a, b)| b.at.duration_since(a.at).unwrap_or_default()).collect();
    gaps.sort_unstable();
    gaps.get(gaps.len() / 2).copied().unwrap_or_default()
}

/// When RSS rose most, bytes per second, and why the rule did not take that for a rise, if it did not.
struct Steepest {
    at: SystemTime,
    slope: f64,
    why_not: Option<String>,
}

/// How near each rule came.
struct Nearest {
    highest: Option<(SystemTime, u64)>,
    slope: Option<(Window, Option<Steepest>)>,
    eta: Vec<Window>,
    soonest: Option<(SystemTime, Duration)>,
    /// The fastest rise of floors, bytes in the rule's window, and where `leak` stood then; as of the end, where none rose.
    leak: Option<(SystemTime, u64, String)>,
    /// A line towards the limit was seen, rising or not.
    eta_seen: bool,
    /// Somewhere the charge was more than RSS.
    charged: bool,
    rules: Rules,
}

impl Nearest {
    fn new(rules: &Rules, interval: Duration, levels: &Levels) -> Nearest {
        Nearest {
            highest: None,
            slope: rules.slope.map(|rate| (Window::new(rate.window, interval), None)),
            eta: levels.eta_windows().map(|span| Window::new(span, interval)).collect(),
            soonest: None,
            leak: None,
            eta_seen: false,
            charged: false,
            rules: rules.clone(),
        }
    }

    /// The slot has seen this reading.
    fn observe(&mut self, at: SystemTime, sample: Sample, age: Duration, slot: &Slot, levels: &Levels) {
        if self.highest.is_none_or(|(_, rss)| sample.rss > rss) {
            self.highest = Some((at, sample.rss));
        }
        if let Some(leak) = slot.leak()
            && let Some(pace) = leak.pace(levels).or(self.leak.is_none().then_some(0))
            && self.leak.as_ref().is_none_or(|(_, most, _)| pace > *most)
        {
            self.leak = leak.words(levels, Lang::En).map(|words| (at, pace, words));
        }
        let warm = age >= self.rules.warmup;
        if let Some((window, steepest)) = &mut self.slope {
            // between two closed buckets nothing changes
            let line = window.push(sample).then(|| window.line(sample.at).ok()).flatten().filter(|_| warm);
            let slope = line.map(|line| line.bytes_per_second);
            if let Some(slope) = slope.filter(|slope| steepest.as_ref().is_none_or(|most| *slope > most.slope)) {
                *steepest = Some(Steepest { at, slope, why_not: slot.why_no_slope(Lang::En) });
            }
        }
        let Some(limit) = levels.limit else { return };
        for window in &mut self.eta {
            let line = window.push(sample).then(|| window.line(sample.at).ok()).flatten().filter(|_| warm);
            self.eta_seen |= line.is_some();
            let left = line.and_then(|line| time_to(limit, sample.rss, line.bytes_per_second));
            if let Some(left) = left.filter(|left| self.soonest.is_none_or(|(_, least)| *left < least)) {
                self.soonest = Some((at, left));
            }
        }
    }

    fn sentences(&self, levels: &Levels) -> Vec<String> {
        let mut said = Vec::new();
        let time = rfc3339_seconds;
        for written in &self.rules.threshold {
            let what = if self.charged { "RSS or charge" } else { "RSS" };
            let reached =
                self.highest.map_or(String::new(), |(at, most)| format!("the highest {what} was {} at {}", ByteSize(most), time(at)));
            said.push(match written.resolve(levels.limit) {
                Some(bytes) => format!("threshold {written} is {}; {reached}", ByteSize(bytes)),
                None => format!("threshold {written} needs a limit, which is unknown: give one; {reached}"),
            });
        }
        if let (Some(rate), Some((_, steepest))) = (self.rules.slope, &self.slope) {
            let window = rate.window;
            said.push(match steepest {
                Some(Steepest { at, slope, why_not }) if *slope > 0.0 => {
                    let rise = ByteSize((slope * window.as_secs_f64()) as u64);
                    let but = why_not.as_ref().map_or(String::new(), |why| format!(", but {why}"));
                    format!("slope {rate}: the steepest rise was {rise} in {}, at {}{but}", human(window), time(*at))
                }
                Some(_) => format!("slope {rate}: it never rose"),
                None => format!("slope {rate}: too few readings in {} after the warmup of {}", human(window), human(self.rules.warmup)),
            });
        }
        if let Some(rate) = self.rules.leak {
            said.push(match &self.leak {
                Some((at, 0, words)) => format!("leak {rate}: its floor never rose; at {}: {words}", time(*at)),
                Some((at, pace, words)) => {
                    let (pace, window) = (ByteSize(*pace), human(rate.window));
                    format!("leak {rate}: the fastest rise of its floor was {pace} in {window}, at {}: {words}", time(*at))
                }
                None => format!("leak {rate} needs a limit, which is unknown: give one"),
            });
        }
        if let Some(eta) = self.rules.eta {
            said.push(match (levels.limit, self.soonest) {
                (None, _) => format!("eta {} needs a limit, which is unknown: give one", human(eta)),
                (Some(limit), Some((at, left))) => {
                    format!("eta {}: nearest to the limit of {} was {} at {}", human(eta), ByteSize(limit), human(left), time(at))
                }
                (Some(_), None) if !self.eta_seen => {
                    format!("eta {}: too few readings after the warmup of {}", human(eta), human(self.rules.warmup))
                }
                (Some(limit), None) => format!("eta {}: it never rose towards the limit of {}", human(eta), ByteSize(limit)),
            });
        }
        if let Some(gc) = self.rules.gc {
            said.push(format!("gc {gc}: cannot be tried: recorded readings hold RSS, and not what the collector took"));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::Trigger;
    use crate::units::SizeOrPercent;

    const MIB: u64 = 1 << 20;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_600 + second)
    }

    fn each_second(rss: impl Fn(u64) -> u64, seconds: u64) -> Vec<Reading> {
        (0..seconds).map(|s| Reading { at: at(s), rss: rss(s) * MIB, kept: None }).collect()
    }

    fn setup(rules: Rules) -> Setup {
        Setup {
            rules: Rules { cooldown: Duration::from_secs(120), ..rules },
            capture: Capture { cpu_seconds: 5, ..Capture::default() },
            interval: Duration::from_secs(1),
            limit: Some(1000 * MIB),
            age: Some(Duration::from_secs(3_600)),
            ended: false,
        }
    }

    fn threshold(mib: u64) -> Rules {
        Rules { threshold: vec![SizeOrPercent::Size(ByteSize::mib(mib))], ..Rules::default() }
    }

    fn firings(outcome: &Outcome) -> Vec<(u64, Trigger)> {
        outcome.fired().map(|(e, f)| (e.at.duration_since(at(0)).unwrap().as_secs(), f.trigger)).collect()
    }

    #[test]
    fn a_threshold_fires_after_for_once_per_incident_and_again_after_the_cooldown() {
        // over the line at 10 to 40 s, and again from 200 s on
        let rss = |s| if (10..40).contains(&s) || s >= 200 { 120 } else { 50 };
        let outcome = replay(&each_second(rss, 300), &setup(threshold(100)));
        assert_eq!(firings(&outcome), [(13, Trigger::Threshold), (203, Trigger::Threshold)]);
        let states: Vec<State> =
            outcome.events.iter().filter_map(|e| if let What::State(s, _) = e.what { Some(s) } else { None }).collect();
        use State::*;
        assert_eq!(states, [Armed, Pending, Open, Cooldown, Armed, Pending, Open]);
    }

    #[test]
    fn why_nothing_fired_is_told_for_every_rule() {
        let rules = Rules { slope: Some("100MiB/1m".parse().unwrap()), eta: Some(Duration::from_secs(60)), ..threshold(500) };
        let outcome = replay(&each_second(|s| 100 + s / 2, 200), &setup(rules));
        assert_eq!(firings(&outcome), []);
        let [threshold, slope, eta] = outcome.nearest.try_into().unwrap();
        assert!(threshold.starts_with("threshold 500MiB is 500MiB; the highest RSS was 199MiB at 2026-"), "{threshold}");
        assert!(
            slope.starts_with("slope 100MiB/1m: the steepest rise was 3") || slope.starts_with("slope 100MiB/1m: the steepest rise was 29"),
            "{slope}"
        );
        assert!(eta.contains("nearest to the limit of 1000MiB was 26m"), "{eta}");
    }

    #[test]
    fn what_the_warmup_hides_is_said() {
        let rules = Rules { slope: Some("100MiB/1m".parse().unwrap()), eta: Some(Duration::from_secs(300)), ..Rules::default() };
        let readings = each_second(|s| 100 + s * 5, 100);
        let warmup = Duration::from_secs(600);
        let young = replay(&readings, &Setup { age: Some(Duration::ZERO), ..setup(Rules { warmup, ..rules.clone() }) });
        assert!(young.nearest.iter().all(|said| said.contains("too few readings")), "{:?}", young.nearest);
        assert_eq!(firings(&young), []);
        assert_eq!(replay(&readings, &setup(rules)).fired().count(), 1);
    }

    #[test]
    fn a_percentage_without_a_limit_is_said_to_need_one() {
        let rules = Rules {
            threshold: vec![SizeOrPercent::Percent("80%".parse().unwrap())],
            eta: Some(Duration::from_secs(60)),
            ..Rules::default()
        };
        let outcome = replay(&each_second(|_| 900, 60), &Setup { limit: None, ..setup(rules) });
        assert_eq!(firings(&outcome), []);
        assert!(outcome.nearest.iter().all(|said| said.contains("needs a limit")), "{:?}", outcome.nearest);
    }

    #[test]
    fn coarse_readings_count_as_they_are() {
        let readings: Vec<Reading> = (0..60).map(|i| Reading { at: at(i * 15), rss: (100 + i * 10) * MIB, kept: None }).collect();
        let rules = Rules { slope: Some("300MiB/10m".parse().unwrap()), ..Rules::default() };
        let outcome = replay(&readings, &setup(rules));
        assert_eq!(typical_gap(&readings), Duration::from_secs(15));
        assert_eq!(outcome.fired().next().unwrap().1.trigger, Trigger::Slope);
    }

    #[test]
    fn of_nothing_nothing_follows() {
        assert_eq!(replay(&[], &setup(threshold(1))), Outcome::default());
    }
}
