//! Sizes over time as geometry: percentages for pages, columns for terminals. Pure.

use std::fmt::Write;

/// Eighths of a character, from nothing to all of it.
pub const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What the edges of a plot stand for.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Left and right, in milliseconds.
    pub from: u64,
    pub to: u64,
    /// The upper edge, in bytes; the lower is 0.
    pub top: f64,
}

impl Frame {
    /// Percent of the width, from the left.
    pub fn x(&self, ms: u64) -> f64 {
        let span = self.to.saturating_sub(self.from).max(1);
        (ms.saturating_sub(self.from) as f64 / span as f64 * 100.0).clamp(0.0, 100.0)
    }

    /// Percent of the height, from the top.
    pub fn y(&self, bytes: u64) -> f64 {
        ((1.0 - bytes as f64 / self.top) * 100.0).clamp(0.0, 100.0)
    }

    /// `x,y x,y …`, 0 to 1000 each: at most so many points, each the highest of its stretch, so that no peak is lost.
    pub fn line<T>(&self, readings: &[T], most: usize, point: impl Fn(&T) -> (u64, u64)) -> String {
        let stretches = readings.chunks(readings.len().div_ceil(most).max(1));
        let highest = stretches.filter_map(|stretch| stretch.iter().map(&point).max_by_key(|(_, bytes)| *bytes));
        highest.fold(String::new(), |mut line, (ms, bytes)| {
            let space = if line.is_empty() { "" } else { " " };
            // writing to a String does not fail
            let _ = write!(line, "{space}{:.1},{:.1}", self.x(ms) * 10.0, self.y(bytes) * 10.0);
            line
        })
    }
}

/// The highest of each column; one without a reading has what the column before it has. Readings are a share of the width (0 to 1), and bytes.
pub fn columns(width: usize, readings: impl IntoIterator<Item = (f64, u64)>) -> Vec<u64> {
    let mut columns: Vec<Option<u64>> = vec![None; width];
    for (share, bytes) in readings {
        if let Some(highest) = columns.get_mut(column(width, share)) {
            *highest = (*highest).max(Some(bytes));
        }
    }
    let mut before = 0;
    let filled = columns.into_iter().map(|bytes| {
        before = bytes.unwrap_or(before);
        before
    });
    filled.collect()
}

/// Which column a share of the width (0 to 1) is in.
pub fn column(width: usize, share: f64) -> usize {
    ((share * width as f64) as usize).min(width.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_the_peak_of_each_stretch_and_stays_inside() {
        let frame = Frame { from: 1_000, to: 2_000, top: 200.0 };
        let readings = [(1_000, 0), (1_100, 150), (1_500, 50), (1_600, 10), (2_500, 400)];
        assert_eq!(frame.line(&readings, 3, |r| *r), "100.0,250.0 500.0,750.0 1000.0,0.0");
        assert_eq!(frame.line(&readings[..0], 3, |r| *r), "");
    }

    #[test]
    fn a_column_without_a_reading_stands_as_the_one_before() {
        assert_eq!(columns(4, [(0.0, 1), (0.1, 7), (0.8, 3), (1.0, 5)]), [7, 7, 7, 5]);
        assert!(columns(0, [(0.5, 1)]).is_empty());
    }
}
