//! The flame graph, and its heavy paths as a list.

use crate::pprof::flame::Flame;
use crate::report::labels::Labels;
use crate::report::{clean, percent, size};

/// Call paths with less of the whole are not listed.
const LEAST_PATH: f64 = 3.0;
const PATHS: usize = 60;

/// A flame graph; geometry in percent and rows.
pub(super) struct Picture {
    pub words: String,
    pub rows: usize,
    pub frames: Vec<PictureFrame>,
    /// The same as a list, for narrow screens.
    pub paths: Vec<PathRow>,
}

pub(super) struct PathRow {
    /// In rem: deeper only where paths part.
    pub indent: f64,
    pub share: f64,
    pub size: String,
    pub short: String,
}

pub(super) struct PictureFrame {
    pub left: f64,
    pub width: f64,
    pub row: usize,
    /// By package, so that a library has one colour.
    pub colour: u8,
    pub short: String,
    pub title: String,
}

pub(super) fn picture(flame: &Flame, t: &Labels) -> Picture {
    let whole = flame.total.max(1) as f64;
    let frames: Vec<PictureFrame> = flame
        .frames
        .iter()
        .map(|f| {
            let function = clean(&f.function);
            PictureFrame {
                left: f.start as f64 / whole * 100.0,
                width: f.cum as f64 / whole * 100.0,
                row: f.depth,
                colour: colour(package(&function)),
                short: short(&function).to_owned(),
                title: format!("{function}\n{} ({}), itself {}", size(f.cum), percent(f.cum, flame.total), size(f.flat)),
            }
        })
        .collect();
    let words = format!("inuse_space, {}{}", size(flame.total), t.flame);
    Picture { words, rows: frames.iter().map(|f| f.row + 1).max().unwrap_or(0), paths: paths(flame), frames }
}

/// The heavy frames as a list, callers before callees; those of one path without a fork stand below each other.
fn paths(flame: &Flame) -> Vec<PathRow> {
    let whole = flame.total.max(1) as f64;
    let share = |cum: i64| cum as f64 / whole * 100.0;
    let mut heavy: Vec<_> = flame.frames.iter().filter(|f| share(f.cum) >= LEAST_PATH).collect();
    heavy.sort_by_key(|f| (f.start, f.depth));
    // forks above each depth of the path that is being walked
    let mut forks: Vec<usize> = Vec::new();
    let mut rows = Vec::new();
    for f in &heavy {
        let children = |depth: usize, start: i64, cum: i64| {
            heavy.iter().filter(|c| c.depth == depth + 1 && c.start >= start && c.start < start.saturating_add(cum)).count()
        };
        let above = f.depth.checked_sub(1).and_then(|parent| forks.get(parent)).copied().unwrap_or(0);
        forks.truncate(f.depth);
        forks.push(above + usize::from(children(f.depth, f.start, f.cum) > 1));
        rows.push(PathRow {
            indent: above.min(12) as f64 * 0.6,
            share: share(f.cum),
            size: size(f.cum),
            short: short(&clean(&f.function)).to_owned(),
        });
    }
    rows.truncate(PATHS);
    rows
}

/// `net/http` of `net/http.(*conn).serve`.
fn package(function: &str) -> &str {
    let last = function.rfind('/').map_or(0, |slash| slash + 1);
    let dot = function.get(last..).and_then(|name| name.find('.')).map(|dot| last + dot);
    dot.and_then(|dot| function.get(..dot)).unwrap_or(function)
}

/// `http.(*conn).serve` of it.
pub(super) fn short(function: &str) -> &str {
    let name = package(function).rfind('/').map_or(0, |slash| slash + 1);
    function.get(name..).unwrap_or(function)
}

/// The runtime is 0; other packages share 1 to 7.
fn colour(package: &str) -> u8 {
    if package == "runtime" || package.starts_with("runtime/") || package.starts_with("internal/") {
        return 0;
    }
    let hash = package.bytes().fold(0xcbf2_9ce4_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % 7) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_shown_without_the_path_of_their_package() {
        for (function, name, of) in [
            ("net/http.(*conn).serve", "http.(*conn).serve", "net/http"),
            ("main.main", "main.main", "main"),
            ("example.com/shop/cart.(*Cart[go.shape.int]).Add", "cart.(*Cart[go.shape.int]).Add", "example.com/shop/cart"),
            ("gopkg.in/yaml%2ev3.Unmarshal", "yaml%2ev3.Unmarshal", "gopkg.in/yaml%2ev3"),
            ("malloc", "malloc", "malloc"),
            ("", "", ""),
        ] {
            assert_eq!((short(function), package(function)), (name, of), "{function}");
        }
    }

    #[test]
    fn a_package_has_one_colour_and_the_runtime_its_own() {
        assert_eq!(colour("runtime"), 0);
        assert_eq!(colour("main"), colour("main"));
        assert!((1..=7).contains(&colour("net/http")));
    }
}
