//! The line of an instance's last hour as geometry: shares of a width and a height, which SVG takes as attributes, so that the page needs no
//! inline style. Pure.

use std::time::Duration;

use crate::clock::{Mono, human};
use crate::lang::Lang;
use crate::plot::Frame;
use crate::series::Sample;
use crate::units::ByteSize;

/// A level further above the RSS than this is not worth flattening the line for.
const FAR: f64 = 2.5;
/// The height, in heights of the highest RSS, where no level needs more: a flat line is no full one.
const ROOM: f64 = 1.5;
/// A line of less time is drawn at the right edge of this.
const SHORTEST: Duration = Duration::from_secs(120);
const MAX_POINTS: usize = 300;
/// Words take so much of the smallest picture's height, in percent.
const NARROW: f64 = 18.0;

/// Percentages from the left and from the top; `points` in thousandths.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plot {
    /// `x,y x,y …`
    pub points: String,
    /// The same, closed at the bottom.
    pub area: String,
    pub levels: Vec<Level>,
    pub marks: Vec<Mark>,
    /// What the left edge and the upper edge are.
    pub from: String,
    pub top: String,
}

/// A horizontal line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Level {
    pub class: &'static str,
    pub at: f64,
    /// Its words stand below the line: there is no place above.
    pub is_below: bool,
    /// Its words stand at the right edge: those of the level next to it are at the left.
    pub is_right: bool,
    pub label: String,
}

/// A bundle.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    pub at: f64,
    pub label: String,
    pub link: String,
}

/// What stands beside the samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside<'b> {
    pub thresholds: &'b [u64],
    pub limit: Option<u64>,
    pub lang: Lang,
    /// When it was taken, its name, its report.
    pub bundles: Vec<(Mono, String, String)>,
}

/// `None` with fewer than two samples. `samples` are in order of time and end before `now`.
pub(super) fn draw(samples: &[Sample], beside: &Beside<'_>, now: Mono) -> Option<Plot> {
    let first = samples.first().filter(|_| samples.len() > 1)?;
    let span = now.since(first.at).max(SHORTEST);
    let from = now - span;
    let highest = samples.iter().map(|s| s.rss).max()?.max(1);
    let near = |bytes: &u64| *bytes as f64 <= highest as f64 * FAR;
    let levels = || beside.thresholds.iter().map(|t| ("threshold", *t)).chain(beside.limit.map(|l| ("limit", l)));
    let top = levels().map(|l| l.1).filter(near).max().map_or(highest as f64 * ROOM, |level| level.max(highest) as f64 * 1.1);
    let ms = |at: Mono| at.since(from).as_millis() as u64;
    let frame = Frame { from: 0, to: span.as_millis() as u64, top };
    let points = frame.line(samples, MAX_POINTS, |s| (ms(s.at), s.rss));
    let words = |class: &'static str| match (beside.lang, class) {
        (Lang::En, class) => class,
        (Lang::Zh, "limit") => "上限",
        (Lang::Zh, _) => "阈值",
    };
    let last = points.rsplit([' ', ',']).nth(1).unwrap_or("1000").to_owned();
    let mut levels: Vec<Level> = levels()
        .filter(|(_, bytes)| near(bytes))
        .map(|(class, bytes)| {
            let at = frame.y(bytes);
            Level { class, at, is_below: at < NARROW, is_right: false, label: format!("{} {}", words(class), ByteSize(bytes)) }
        })
        .collect();
    levels.sort_by(|a, b| b.at.total_cmp(&a.at));
    let mut before: Option<(f64, bool)> = None;
    for level in &mut levels {
        level.is_right = before.is_some_and(|(at, is_right)| at - level.at < NARROW && !is_right);
        before = Some((level.at, level.is_right));
    }
    Some(Plot {
        area: format!("{:.1},1000 {points} {last},1000", frame.x(ms(first.at)) * 10.0),
        points,
        levels,
        marks: beside
            .bundles
            .iter()
            .filter(|(at, ..)| *at >= from && *at <= now)
            .map(|(at, label, link)| Mark { at: frame.x(ms(*at)), label: label.clone(), link: link.clone() })
            .collect(),
        from: format!("−{}", human(Duration::from_secs(span.as_secs()))),
        top: ByteSize(highest).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ramp(seconds: u64) -> Vec<Sample> {
        (0..=seconds).map(|s| Sample { at: Mono::from_secs(1_000 + s), rss: (100 + s) * MIB }).collect()
    }

    fn numbers(points: &str) -> Vec<f64> {
        points.split([' ', ',']).map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn the_line_runs_from_edge_to_edge_and_stays_inside() {
        let beside = Beside { thresholds: &[500 * MIB], limit: Some(9_000 * MIB), lang: Lang::En, bundles: Vec::new() };
        let plot = draw(&ramp(600), &beside, Mono::from_secs(1_600)).unwrap();
        let line = numbers(&plot.points);
        assert!(line.len() <= 2 * MAX_POINTS && line.iter().all(|n| (0.0..=1000.0).contains(n)), "{}", plot.points);
        assert!(line[0] < 5.0 && line[line.len() - 2] == 1000.0);
        assert_eq!(plot.levels.iter().map(|l| l.label.as_str()).collect::<Vec<_>>(), ["threshold 500MiB"], "the limit is far above");
        assert_eq!((plot.from.as_str(), plot.top.as_str()), ("−10m", "700MiB"));
    }

    #[test]
    fn the_words_of_levels_stand_on_no_line_and_not_on_each_other() {
        let beside = Beside { thresholds: &[600 * MIB, 620 * MIB, 900 * MIB], ..Beside::default() };
        let plot = draw(&ramp(600), &beside, Mono::from_secs(1_600)).unwrap();
        let told: Vec<(bool, bool)> = plot.levels.iter().map(|l| (l.is_below, l.is_right)).collect();
        assert_eq!(told, [(false, false), (false, true), (true, false)], "{:?}", plot.levels);
    }

    #[test]
    fn a_short_life_is_drawn_at_the_right_edge() {
        let plot = draw(&ramp(12), &Beside::default(), Mono::from_secs(1_012)).unwrap();
        assert_eq!(numbers(&plot.points)[0], 900.0);
        assert_eq!(plot.from, "−2m");
    }

    #[test]
    fn bundles_of_the_shown_time_are_marked() {
        let bundle = |s| (Mono::from_secs(s), "threshold".to_owned(), "/x".to_owned());
        let beside = Beside { bundles: vec![bundle(10), bundle(1_300), bundle(9_000)], ..Beside::default() };
        let plot = draw(&ramp(600), &beside, Mono::from_secs(1_600)).unwrap();
        assert_eq!(plot.marks.iter().map(|m| m.at).collect::<Vec<_>>(), [50.0]);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(draw(&[], &Beside::default(), Mono::from_secs(1)), None);
        assert_eq!(draw(&ramp(0), &Beside::default(), Mono::from_secs(1_000)), None);
    }
}
