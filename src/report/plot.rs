//! RSS over time as geometry: percentages of a plot's width and height, so that a page scales it and a test reads it.

use std::time::Duration;

use crate::bundle::timeline::TimelineRow;
use crate::clock::human;
use crate::lang::{Lang, say};
use crate::plot::Frame;
use crate::units::ByteSize;

/// More points than pixels help nobody.
const MAX_POINTS: usize = 1200;
/// A level further above the RSS than this is not worth flattening the line for.
const FAR: f64 = 1.6;
const MAX_TICKS: u64 = 5;

/// A label at a percentage of the axis: from the left, or from the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    pub at: f64,
    pub label: String,
}

/// A part of the width, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub left: f64,
    pub width: f64,
    pub label: String,
}

/// One plot. Percentages, from the left and from the top.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// `x,y x,y …`, 0 to 1000 each.
    pub points: String,
    pub y: Vec<Mark>,
    pub x: Vec<Mark>,
    /// Horizontal lines: the level that fired, and the limit.
    pub threshold: Option<Mark>,
    pub limit: Option<Mark>,
    /// A vertical line.
    pub fired: Option<f64>,
    /// While the capture ran.
    pub during: Option<Span>,
    pub steps: Vec<Span>,
    /// What does not fit.
    pub notes: Vec<String>,
}

/// What a plot shows besides RSS. Times in milliseconds since 1970, sizes in bytes.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    pub lang: Lang,
    pub fired_at: Option<u64>,
    pub level: Option<u64>,
    pub limit: Option<u64>,
    /// Name, begin, end.
    pub steps: Vec<(String, u64, u64)>,
}

/// All readings. `None` with fewer than two.
pub fn whole(readings: &[TimelineRow], marks: &Marks) -> Option<Plot> {
    let (from, to) = (readings.first()?.unix_ms, readings.last()?.unix_ms);
    let mut plot = draw(readings, marks, from, to)?;
    plot.steps.clear();
    Some(plot)
}

/// The capture alone with its steps, where it is a small part of the whole. `None` if there is nothing to enlarge.
pub fn capture(readings: &[TimelineRow], marks: &Marks) -> Option<Plot> {
    let (first, last) = (readings.first()?.unix_ms, readings.last()?.unix_ms);
    let fired = marks.fired_at?;
    let end = marks.steps.iter().map(|s| s.2).max()?.max(fired.saturating_add(1000));
    let length = end.saturating_sub(fired);
    if length.saturating_mul(3) > last.saturating_sub(first) {
        return None;
    }
    let from = fired.saturating_sub(length / 4);
    let inside: Vec<TimelineRow> = readings.iter().copied().filter(|r| (from..=end).contains(&r.unix_ms)).collect();
    draw(&inside, marks, from, end)
}

/// A plot in which the steps fit: the enlarged capture, else the whole.
pub fn with_steps(readings: &[TimelineRow], marks: &Marks) -> Option<Plot> {
    let (from, to) = (readings.first()?.unix_ms, readings.last()?.unix_ms);
    capture(readings, marks).or_else(|| draw(readings, marks, from, to))
}

fn draw(readings: &[TimelineRow], marks: &Marks, from: u64, to: u64) -> Option<Plot> {
    if readings.len() < 2 || to <= from {
        return None;
    }
    let highest = readings.iter().map(|r| r.rss_bytes).max()?.max(1);
    let lang = marks.lang;
    let near = |bytes: &u64| *bytes as f64 <= highest as f64 * FAR;
    let top = [Some(highest), marks.level.filter(near), marks.limit.filter(near)].into_iter().flatten().max()? as f64 * 1.08;
    let frame = Frame { from, to, top };
    let (x, y) = (|ms| frame.x(ms), |bytes| frame.y(bytes));

    let mut notes = Vec::new();
    let mut line = |bytes: Option<u64>, what: &str| {
        let bytes = bytes?;
        let label = format!("{what} {}", ByteSize(bytes));
        if near(&bytes) {
            return Some(Mark { at: y(bytes), label });
        }
        notes.push(say!(lang; "The {label} is far above."; "{label}，远高于图中范围。"));
        None
    };
    let limit = line(marks.limit, lang.pick("limit", "上限"));
    let threshold = line(marks.level, lang.pick("fired at", "触发于"));
    let inside = |ms: &u64| (from..=to).contains(ms);
    let zero = marks.fired_at.filter(inside).unwrap_or(to);
    let during = marks.fired_at.filter(inside).zip(marks.steps.iter().map(|s| s.2).max()).map(|(begin, end)| Span {
        left: x(begin),
        width: x(end) - x(begin),
        label: lang.pick("capture", "采集").into(),
    });
    let span = |(label, begin, end): &(String, u64, u64)| Span { left: x(*begin), width: x(*end) - x(*begin), label: label.clone() };
    Some(Plot {
        points: frame.line(readings, MAX_POINTS, |r| (r.unix_ms, r.rss_bytes)),
        y: sizes(top as u64).map(|bytes| Mark { at: y(bytes), label: ByteSize(bytes).to_string() }).collect(),
        x: times(from, to, zero).map(|(ms, label)| Mark { at: x(ms), label }).collect(),
        threshold,
        limit,
        fired: marks.fired_at.filter(inside).map(x),
        during,
        steps: marks.steps.iter().filter(|s| s.2 > from && s.1 < to).map(span).collect(),
        notes,
    })
}

/// Powers of two, a few of them from 0 to `top`.
fn sizes(top: u64) -> impl Iterator<Item = u64> {
    let step = (top / MAX_TICKS).max(1).checked_next_power_of_two().unwrap_or(1 << 63);
    (0..=top / step).map(move |i| i * step)
}

/// Ticks around `zero`, labelled by their distance from it.
fn times(from: u64, to: u64, zero: u64) -> impl Iterator<Item = (u64, String)> {
    const STEPS: [u64; 17] = [
        100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000, 1_800_000, 3_600_000,
        7_200_000,
    ];
    let span = to - from;
    let fits = |step: &u64| span / step <= MAX_TICKS;
    let step = STEPS.into_iter().find(fits).unwrap_or_else(|| span.div_ceil(MAX_TICKS));
    let before = (1..=(zero - from) / step).rev().map(move |i| (zero - i * step, format!("−{}", human(Duration::from_millis(i * step)))));
    let after = (1..=(to - zero) / step).map(move |i| (zero + i * step, format!("+{}", human(Duration::from_millis(i * step)))));
    before.chain([(zero, "0".to_owned())]).chain(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ramp(seconds: u64) -> Vec<TimelineRow> {
        (0..=seconds).map(|s| TimelineRow { unix_ms: s * 1000, rss_bytes: (100 + s) * MIB, during: s > seconds * 9 / 10 }).collect()
    }

    fn marks(fired: u64) -> Marks {
        let steps = vec![("heap.pb.gz".into(), fired, fired + 100), ("profile.pb.gz".into(), fired + 100, fired + 30_100)];
        Marks { lang: Lang::En, fired_at: Some(fired), level: Some(500 * MIB), limit: Some(8 << 30), steps }
    }

    #[test]
    fn the_line_runs_from_edge_to_edge_and_stays_inside() {
        let plot = whole(&ramp(600), &marks(570_000)).unwrap();
        let numbers: Vec<f64> = plot.points.split([' ', ',']).map(|n| n.parse().unwrap()).collect();
        assert!(plot.points.starts_with("0.0,") && numbers.len() == 1202 && numbers.iter().all(|n| (0.0..=1000.0).contains(n)));
        assert_eq!(plot.fired, Some(95.0));
        assert!((plot.during.unwrap().width - 5.0).abs() < 0.1);
        assert!((plot.threshold.unwrap().at - (1.0 - 500.0 / 756.0) * 100.0).abs() < 0.1);
        assert_eq!((plot.limit, plot.notes), (None, vec!["The limit 8.00GiB is far above.".to_owned()]));
    }

    #[test]
    fn ticks_are_round_and_few() {
        let plot = whole(&ramp(600), &marks(570_000)).unwrap();
        let labels = |marks: &[Mark]| marks.iter().map(|m| m.label.clone()).collect::<Vec<_>>();
        assert_eq!(labels(&plot.y), ["0B", "256MiB", "512MiB"]);
        assert_eq!(labels(&plot.x), ["−8m", "−6m", "−4m", "−2m", "0"]);
    }

    #[test]
    fn a_short_capture_is_enlarged_and_a_long_one_is_not() {
        let plot = capture(&ramp(600), &marks(560_000)).unwrap();
        assert_eq!(plot.steps.len(), 2);
        assert!(plot.steps[1].width > 70.0, "{:?}", plot.steps);
        assert_eq!(capture(&ramp(60), &marks(29_000)), None);
        assert_eq!(with_steps(&ramp(60), &marks(29_000)).unwrap().steps.len(), 2);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(whole(&[], &Marks::default()), None);
        assert_eq!(whole(&ramp(0), &Marks::default()), None);
        assert!(whole(&ramp(1), &Marks::default()).is_some());
    }

    #[test]
    fn a_clock_that_was_set_back_draws_no_line_backwards() {
        let mut readings = ramp(10);
        readings[5].unix_ms = 0;
        let plot = whole(&readings, &marks(0)).unwrap();
        assert!(plot.points.split([' ', ',']).all(|n| (0.0..=1000.0).contains(&n.parse::<f64>().unwrap())));
    }
}
