//! What `go tool pprof -top` prints: the same lines, numbers and order, by function; and the same table as values.
//!
//! Not here: filters (`-focus` and its kin), other granularities, symbolization from binaries, demangling of C++ and Rust names.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::frames::Frames;
use super::graph::{Graph, base_name, object_name};
use super::measure::{AUTO, label, percentage, scale};
use super::merge::subtract;
use super::profile::Profile;
use crate::text;

pub use super::graph::Inline;

/// What to count and what to show.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Name or number of a sample type; `None` is the profile's default, or else its last.
    pub sample_index: Option<String>,
    /// Order by cumulative value.
    pub cum: bool,
    /// Rows to show at most.
    pub node_count: Option<usize>,
    /// Functions whose cumulative value is below this share of the total are dropped.
    pub node_fraction: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options { sample_index: None, cum: false, node_count: None, node_fraction: 0.005 }
    }
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum TopError {
    #[error("the profile has no sample type `{index}`; it has {available}: name one of them, or its number counted from 0")]
    UnknownSampleIndex { index: String, available: String },
    #[error("the profile and its base have no sample type in common: {now} against {base}; compare two profiles of the same kind")]
    NothingInCommon { now: String, base: String },
    #[error("the profile measures {now} and its base {base}; compare two profiles of the same kind")]
    Incompatible { now: String, base: String },
}

/// One function.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    /// The source file as the compiler saw it; of several with one name, the first. Empty where unknown.
    pub file: String,
    /// Its own value, in the unit of the table's sample type.
    pub flat: i64,
    /// With that of everything it called.
    pub cum: i64,
    pub inline: Inline,
}

/// The rows in pprof's order, and what they are part of.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// For example `inuse_space`.
    pub sample_type: String,
    /// For example `bytes`.
    pub unit: String,
    /// The sum of the absolute values of all samples: what percentages are of.
    pub total: i64,
    pub rows: Vec<Row>,
    /// Rows there were before `node_count` cut them.
    pub out_of: usize,
    /// Functions that were too small to be rows.
    pub dropped: usize,
    /// The cumulative value that was too small.
    pub cutoff: i64,
    /// The unit that the numbers are printed in.
    shown_in: String,
}

impl Table {
    /// A number of this table with its unit, as pprof prints it here: one unit for the whole table.
    pub fn show(&self, value: i64) -> String {
        label(value, &self.unit, &self.shown_in)
    }
}

/// The table of one profile.
pub fn rows(profile: &Profile, options: &Options) -> Result<Table, TopError> {
    let value = sample_index(profile, options.sample_index.as_deref())?;
    let total = profile.samples().fold(0i64, |total, sample| {
        let value = sample.values.get(value).copied().unwrap_or(0);
        total.wrapping_add(value.wrapping_abs())
    });
    let frames = Frames::new(profile);
    let graph = Graph::new(profile, &frames, value);

    let flat_sum = graph.nodes.iter().fold(0i64, |sum, node| sum.wrapping_add(node.flat));
    let share = |of: i64, fraction: f64| ((of as f64 * fraction) as i64).wrapping_abs();
    let cutoff = share(flat_sum, options.node_fraction);
    let mut shown: Vec<usize> = graph.nodes.iter().enumerate().filter(|(_, n)| n.flat != 0 || n.cum != 0).map(|(i, _)| i).collect();
    let all = shown.len();
    shown.retain(|i| graph.nodes.get(*i).is_some_and(|node| cutoff <= 0 || node.cum.wrapping_abs() >= cutoff));
    let out_of = shown.len();

    let mut shown: Vec<(usize, String)> = shown.into_iter().filter_map(|i| graph.nodes.get(i).map(|node| (i, node.printable()))).collect();
    let key = |i: usize| graph.nodes.get(i).map(|n| (n.flat, n.cum)).unwrap_or_default();
    let details = |i: usize| graph.nodes.get(i).map(|n| n.details());
    shown.sort_unstable_by(|(a, a_name), (b, b_name)| {
        let ((a_flat, a_cum), (b_flat, b_cum)) = (key(*a), key(*b));
        let larger = |a: i64, b: i64| b.wrapping_abs().cmp(&a.wrapping_abs());
        let (first, second) = match options.cum {
            true => (larger(a_cum, b_cum), larger(a_flat, b_flat)),
            false => (larger(a_flat, b_flat), larger(a_cum, b_cum)),
        };
        first.then_with(|| a_name.cmp(b_name)).then(second).then_with(|| match a == b {
            true => Ordering::Equal,
            false => details(*a).cmp(&details(*b)),
        })
    });
    if let Some(count) = options.node_count.filter(|count| *count > 0) {
        shown.truncate(count);
    }

    let kept: HashSet<usize> = shown.iter().map(|(i, _)| *i).collect();
    // Functions whose values cancel out are no rows, but calls go through them as long as no row is left out.
    let kept: Vec<bool> = (0..graph.nodes.len()).map(|i| kept.len() == all || kept.contains(&i)).collect();
    let inlining = graph.inlining(&kept, share(flat_sum, EDGE_FRACTION));
    let rows: Vec<Row> = shown
        .into_iter()
        .filter_map(|(i, name)| {
            let node = graph.nodes.get(i)?;
            let inline = inlining.get(i).copied().unwrap_or(Inline::Never);
            Some(Row { name, file: node.file.to_owned(), flat: node.flat, cum: node.cum, inline })
        })
        .collect();
    let sample_type = profile.sample_types.get(value).copied().unwrap_or_default();
    let unit = profile.str(sample_type.unit);
    Ok(Table {
        sample_type: profile.str(sample_type.kind).to_owned(),
        unit: unit.to_owned(),
        total,
        shown_in: unit_for(&rows, total, unit),
        rows,
        out_of,
        dropped: all - out_of,
        cutoff: share(total, options.node_fraction),
    })
}

/// What grew from `base` to `now`, and what shrank: the table of `-base`, whose rows may be negative. `sample_index` as in [`Options`].
pub fn growth(now: &Profile, base: &Profile, sample_index: Option<&str>) -> Result<Table, TopError> {
    let options = Options { sample_index: sample_index.map(str::to_owned), ..Options::default() };
    rows(&subtract(now, base)?, &options)
}

/// The whole text that `go tool pprof -top` prints, with the time in `zone`. Control characters in names are replaced: the text is
/// for terminals, and the profile may be anyone's.
pub fn text(now: &Profile, base: Option<&Profile>, options: &Options, zone: &TimeZone) -> Result<String, TopError> {
    let difference = base.map(|base| subtract(now, base)).transpose()?;
    let profile = difference.as_ref().unwrap_or(now);
    let table = rows(profile, options)?;
    let mut out = String::new();
    for line in header(profile, &table, zone) {
        out.push_str(&line);
        out.push('\n');
    }
    let _ = writeln!(out, "{:>10} {:>5}% {:>5}% {:>10} {:>5}%", "flat", "flat", "sum", "cum", "cum");
    let mut sum = 0i64;
    for row in &table.rows {
        sum = sum.wrapping_add(row.flat);
        let inline = match row.inline {
            Inline::Never => "",
            Inline::Partly => " (partial-inline)",
            Inline::Always => " (inline)",
        };
        let share = |value| percentage(value, table.total);
        let (flat, cum) = (table.show(row.flat), table.show(row.cum));
        let _ = writeln!(out, "{flat:>10} {} {} {cum:>10} {}  {}{inline}", share(row.flat), share(sum), share(row.cum), row.name);
    }
    Ok(text::lines(&out))
}

/// Calls that weigh less than this share do not decide whether a function counts as inlined.
const EDGE_FRACTION: f64 = 0.001;

fn sample_index(profile: &Profile, name: Option<&str>) -> Result<usize, TopError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        let default = profile.str(profile.default_sample_type);
        let named = profile.sample_type_names().position(|kind| !default.is_empty() && kind == default);
        return Ok(named.unwrap_or(profile.sample_types.len().saturating_sub(1)));
    };
    let found = match name.parse::<i64>() {
        Ok(number) => usize::try_from(number).ok().filter(|number| *number < profile.sample_types.len()),
        // Older profiles say `space` where newer ones say `inuse_space`.
        Err(_) => {
            let short = name.strip_prefix("inuse_").unwrap_or(name);
            profile.sample_type_names().position(|kind| kind == name || kind == short)
        }
    };
    found.ok_or_else(|| TopError::UnknownSampleIndex {
        index: name.to_owned(),
        available: text::lines(&profile.sample_type_names().collect::<Vec<_>>().join(", ")),
    })
}

/// The unit for all numbers of a table: that of the smallest, or of its hundredfold where the total needs a larger one.
fn unit_for(rows: &[Row], total: i64, unit: &str) -> String {
    if rows.is_empty() {
        return AUTO.to_owned();
    }
    let sizes = rows.iter().map(|row| if row.flat != 0 { row.flat } else { row.cum }.wrapping_abs());
    let smallest = sizes.filter(|size| *size > 0).min().unwrap_or(total);
    let of_smallest = scale(smallest, unit, AUTO).1;
    let chosen = match scale(total, unit, AUTO).1 != of_smallest && smallest.wrapping_mul(100) < total {
        true => scale(smallest.wrapping_mul(100), unit, AUTO).1,
        false => of_smallest,
    };
    if chosen.is_empty() { unit.to_owned() } else { chosen.into_owned() }
}

fn header(profile: &Profile, table: &Table, zone: &TimeZone) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(program) = profile.mappings.first() {
        let (file, build_id) = (object_name(profile, program), profile.str(program.build_id));
        if !file.is_empty() {
            lines.push(format!("File: {}", base_name(file)));
        }
        if !build_id.is_empty() {
            lines.push(format!("Build ID: {build_id}"));
        }
    }
    lines.extend(profile.comments.iter().map(|c| profile.str(*c)).filter(|c| !c.starts_with('#')).map(str::to_owned));
    if !table.sample_type.is_empty() {
        lines.push(format!("Type: {}", table.sample_type));
    }
    if !profile.str(profile.doc_url).is_empty() {
        lines.push(format!("Doc: {}", profile.str(profile.doc_url)));
    }
    if profile.time_nanos != 0 {
        let at = Timestamp::from_nanosecond(profile.time_nanos.into()).unwrap_or(Timestamp::UNIX_EPOCH);
        lines.push(format!("Time: {}", at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z")));
    }
    if profile.duration_nanos != 0 {
        let (nanos, unit) = scale(table.total, &table.unit, "nanoseconds");
        let ratio = match unit == "ns" && nanos != 0.0 {
            true => format!("({})", percentage(nanos as i64, profile.duration_nanos)),
            false => String::new(),
        };
        let duration = label(profile.duration_nanos, "nanoseconds", AUTO);
        lines.push(format!("Duration: {duration}, Total samples = {} {ratio}", table.show(table.total)));
    }
    let shown = table.rows.iter().fold(0i64, |sum, row| sum.wrapping_add(row.flat));
    lines.push(format!(
        "Showing nodes accounting for {}, {} of {} total",
        table.show(shown),
        percentage(shown, table.total).trim(),
        table.show(table.total)
    ));
    if table.total != 0 && table.dropped > 0 {
        let plural = if table.dropped > 1 { "s" } else { "" };
        lines.push(format!("Dropped {} node{plural} (cum <= {})", table.dropped, table.show(table.cutoff)));
    }
    if table.total != 0 && !table.rows.is_empty() && table.rows.len() < table.out_of {
        lines.push(format!("Showing top {} nodes out of {}", table.rows.len(), table.out_of));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::testing::{profile, profile_with};
    use super::*;

    fn parse(types: &[(&str, &str)], stacks: &[(&[&str], &[i64])]) -> Profile {
        Profile::parse(&profile(types, stacks).0, &Limits::default()).unwrap()
    }

    fn brief(table: &Table) -> Vec<(&str, i64, i64)> {
        table.rows.iter().map(|row| (row.name.as_str(), row.flat, row.cum)).collect()
    }

    const SPACE: &[(&str, &str)] = &[("space", "bytes")];

    #[test]
    fn recursion_counts_once() {
        let p = parse(SPACE, &[(&["f", "f", "main", "f"], &[8])]);
        assert_eq!(brief(&rows(&p, &Options::default()).unwrap()), [("f", 8, 8), ("main", 0, 8)]);
    }

    #[test]
    fn equal_values_are_in_the_order_of_names() {
        let p = parse(SPACE, &[(&["b"], &[5]), (&["a"], &[5]), (&["c"], &[-9])]);
        assert_eq!(brief(&rows(&p, &Options::default()).unwrap()), [("c", -9, -9), ("a", 5, 5), ("b", 5, 5)]);
    }

    #[test]
    fn functions_below_the_fraction_are_dropped_and_counted() {
        let p = parse(SPACE, &[(&["big", "main"], &[997]), (&["small", "main"], &[3])]);
        let table = rows(&p, &Options::default()).unwrap();
        assert_eq!(brief(&table), [("big", 997, 997), ("main", 0, 1000)]);
        assert_eq!((table.dropped, table.cutoff, table.total), (1, 5, 1000));
        let table = rows(&p, &Options { node_fraction: 0.0, ..Options::default() }).unwrap();
        assert_eq!((table.dropped, table.rows.len()), (0, 3));
    }

    #[test]
    fn dropped_frames_count_for_their_callers() {
        let stacks: &[(&[&str], &[i64])] = &[
            (&["alloc", "runtime.new", "main"], &[1]),
            (&["alloc", "runtime.kept", "main"], &[2]),
            (&["alloc", "runtime.new<user", "main"], &[4]),
            (&["alloc", "runtime.new"], &[8]),
        ];
        let header = [(7, r"runtime\..*"), (8, "runtime.kept")];
        let p = Profile::parse(&profile_with(SPACE, stacks, &header).0, &Limits::default()).unwrap();
        let table = rows(&p, &Options::default()).unwrap();
        assert_eq!(brief(&table), [("alloc", 10, 10), ("user", 4, 4), ("main", 1, 7), ("runtime.kept", 0, 2), ("runtime.new", 0, 8)]);
        let broken = Profile::parse(&profile_with(SPACE, stacks, &[(7, "(")]).0, &Limits::default()).unwrap();
        assert_eq!(brief(&rows(&broken, &Options::default()).unwrap())[0], ("alloc", 15, 15));
    }

    #[test]
    fn inlining_is_told_by_all_callers() {
        let p = parse(SPACE, &[(&["a<f", "main"], &[10]), (&["b<f", "main"], &[10]), (&["b", "main"], &[10])]);
        let table = rows(&p, &Options::default()).unwrap();
        let inline = |name: &str| table.rows.iter().find(|row| row.name == name).unwrap().inline;
        assert_eq!((inline("a"), inline("b"), inline("f")), (Inline::Always, Inline::Partly, Inline::Never));
    }

    #[test]
    fn a_base_takes_away_what_was_there() {
        let now = parse(SPACE, &[(&["kept", "main"], &[100]), (&["grown", "main"], &[100])]);
        let base = parse(SPACE, &[(&["grown", "main"], &[30]), (&["kept", "main"], &[100]), (&["gone", "main"], &[5])]);
        let table = growth(&now, &base, None).unwrap();
        assert_eq!(brief(&table), [("grown", 70, 70), ("gone", -5, -5), ("main", 0, 65)]);
        assert_eq!(table.total, 75);
    }

    #[test]
    fn a_base_may_have_other_units_and_more_types() {
        let now = parse(&[("space", "bytes")], &[(&["f"], &[4096])]);
        let base = parse(&[("objects", "count"), ("space", "kilobytes")], &[(&["f"], &[7, 1])]);
        assert_eq!(brief(&growth(&now, &base, None).unwrap()), [("f", 3072, 3072)]);
        let other = parse(&[("space", "seconds")], &[(&["f"], &[1])]);
        assert!(matches!(growth(&now, &other, None), Err(TopError::Incompatible { .. })));
    }

    #[test]
    fn the_default_is_named_by_the_profile_or_the_last() {
        let p = parse(&[("objects", "count"), ("space", "bytes")], &[(&["f"], &[1, 2])]);
        assert_eq!(rows(&p, &Options::default()).unwrap().sample_type, "space");
        let by = |name: &str| rows(&p, &Options { sample_index: Some(name.into()), ..Options::default() }).map(|t| t.sample_type);
        assert_eq!(by("0"), Ok("objects".into()));
        assert_eq!(by("inuse_objects"), Ok("objects".into()));
        assert!(by("-1").is_err() && by("2").is_err() && by("bytes").is_err());
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let p = parse(SPACE, &[(&["\u{1b}[2Jf"], &[1])]);
        let text = text(&p, None, &Options::default(), &TimeZone::UTC).unwrap();
        assert!(text.ends_with("  \\u{1b}[2Jf\n"), "{text}");
    }

    #[test]
    fn the_time_is_that_of_the_zone_which_may_be_any_that_a_profile_can_hold() {
        let time = |nanos: i64, zone: &str| {
            let p = Profile { time_nanos: nanos, ..parse(SPACE, &[]) };
            let lines = header(&p, &rows(&p, &Options::default()).unwrap(), &TimeZone::posix(zone).unwrap());
            lines.into_iter().find(|line| line.starts_with("Time: ")).unwrap()
        };
        assert_eq!(time(1_774_745_999_999_999_999, "CET-1CEST,M3.5.0,M10.5.0/3"), "Time: 2026-03-29 01:59:59 CET");
        assert_eq!(time(1_774_746_000_000_000_000, "CET-1CEST,M3.5.0,M10.5.0/3"), "Time: 2026-03-29 03:00:00 CEST");
        assert_eq!(time(1, "<+0545>-5:45"), "Time: 1970-01-01 05:45:00 +0545");
        assert_eq!(time(-1, "UTC0"), "Time: 1969-12-31 23:59:59 UTC");
        assert_eq!(time(i64::MAX, "UTC0"), "Time: 2262-04-11 23:47:16 UTC");
        assert_eq!(time(i64::MIN, "UTC0"), "Time: 1677-09-21 00:12:43 UTC");
    }

    #[test]
    fn a_profile_without_samples_prints_its_header() {
        let p = parse(SPACE, &[]);
        let text = text(&p, None, &Options::default(), &TimeZone::UTC).unwrap();
        assert_eq!(text, "Type: space\nShowing nodes accounting for 0, 0% of 0 total\n      flat  flat%   sum%        cum   cum%\n");
    }
}
