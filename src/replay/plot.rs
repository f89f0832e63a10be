//! RSS over time in a terminal's characters.

use std::time::SystemTime;

use super::read::Reading;
use crate::plot::{BARS, column, columns};
use crate::units::ByteSize;

const WIDTH: usize = 64;
const HEIGHT: usize = 10;
/// A level further above the RSS than this would flatten it.
const FAR: f64 = 2.0;

/// The plot: the highest RSS of each column, a line at `level` where it is not too far above, and a mark below each time in `fired`.
pub fn plot(readings: &[Reading], level: Option<u64>, fired: &[SystemTime]) -> String {
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else { return String::new() };
    let span = last.at.duration_since(first.at).unwrap_or_default().as_secs_f64().max(1e-3);
    let share = |at: SystemTime| at.duration_since(first.at).unwrap_or_default().as_secs_f64() / span;
    let columns = columns(WIDTH, readings.iter().map(|reading| (share(reading.at), reading.rss)));
    let highest = columns.iter().copied().max().unwrap_or(0).max(1);
    let level = level.filter(|level| *level as f64 <= highest as f64 * FAR);
    let top = highest.max(level.unwrap_or(0)) as f64;
    let eighths = |bytes: u64| (bytes as f64 / top * (HEIGHT * 8) as f64).round() as usize;
    let level_row = level.map(|level| (eighths(level).saturating_sub(1)) / 8);
    let mut text = String::new();
    for row in (0..HEIGHT).rev() {
        let label = match row {
            _ if Some(row) == level_row => format!("{} ─", ByteSize(level.unwrap_or(0))),
            _ if row == HEIGHT - 1 => ByteSize(top as u64).to_string(),
            _ => String::new(),
        };
        text.push_str(&format!("{label:>12} "));
        for rss in &columns {
            let bar = eighths(*rss).saturating_sub(row * 8).min(8);
            let bar = BARS.get(bar).copied().unwrap_or(' ');
            text.push(if bar == ' ' && Some(row) == level_row { '─' } else { bar });
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    let marked: Vec<usize> = fired.iter().map(|at| column(WIDTH, share(*at))).collect();
    let marks: String = (0..WIDTH).map(|c| if marked.contains(&c) { '▲' } else { '·' }).collect();
    let time = crate::clock::rfc3339_seconds;
    let (from, to) = (time(first.at), time(last.at));
    text.push_str(&format!("{:>12} {marks}\n{:>12} {from}{to:>width$}\n", "", "", width = WIDTH - from.len()));
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn readings(rss: impl Fn(u64) -> u64) -> Vec<Reading> {
        (0..640)
            .map(|s| Reading { at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_600 + s), rss: rss(s) << 20, kept: None })
            .collect()
    }

    #[test]
    fn a_plot_shows_the_rise_the_level_and_when_it_fired() {
        let readings = readings(|s| s);
        let text = plot(&readings, Some(320 << 20), &[readings[320].at]);
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_level_far_above_does_not_flatten_the_line() {
        let text = plot(&readings(|_| 100), Some(10 << 30), &[]);
        assert!(text.starts_with("      100MiB █") && !text.contains('─'), "{text}");
        assert_eq!(plot(&[], None, &[]), "");
    }
}
