//! Recorded readings: memtrap's own `timeline.csv`, any CSV with a time and an RSS, or a Prometheus range query's JSON.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::clock::{self, Mono};
use crate::text::one_line;
use crate::units::ByteSize;

/// More than a year of one series each 15 s.
const MAX_READINGS: usize = 4_000_000;
const MAX_SERIES: usize = 1_000;
/// A century.
const MAX_MILLIS: u64 = 3_155_760_000_000;
/// Times without a unit: below this they are seconds since 1970, above it milliseconds.
const MILLISECONDS_FROM: f64 = 1e11;

/// RSS at a time, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub at: SystemTime,
    pub rss: u64,
    /// What memtrap's own timeline tells besides.
    pub kept: Option<Kept>,
}

/// What memtrap knew of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The time around it that it stands for; zero for a reading as it was.
    pub span: Duration,
    /// By the clock that nobody sets.
    pub boot: Mono,
    pub age: Duration,
    pub limit: Option<u64>,
    /// What the rules went by instead of RSS.
    pub charge: Option<u64>,
}

/// One instance's readings, in order of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The series' labels; empty for a CSV.
    pub name: String,
    pub readings: Vec<Reading>,
}

/// Why a file holds no readings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("line {line}: {why}; a line is TIME,RSS: RFC 3339 or seconds since 1970, and bytes or a size such as 512MiB")]
    Line { line: usize, why: String },
    #[error("no reading in it; write lines of TIME,RSS, or save the JSON of a Prometheus range query (/api/v1/query_range)")]
    Empty,
    #[error(
        "{0}; save the answer of a Prometheus range query: /api/v1/query_range?query=process_resident_memory_bytes&start=…&end=…&step=15s"
    )]
    Json(String),
    #[error("more than {MAX_READINGS} readings; cut the file")]
    TooMany,
}

/// Reads either form. Readings are put in order; of several at one time the last counts.
pub fn read(text: &str) -> Result<Vec<Recorded>, Unreadable> {
    let mut found = if text.trim_start().starts_with('{') { json(text)? } else { vec![csv(text)?] };
    for recorded in &mut found {
        recorded.readings.reverse();
        recorded.readings.sort_by_key(|r| r.at);
        recorded.readings.dedup_by_key(|r| r.at);
    }
    found.retain(|recorded| !recorded.readings.is_empty());
    if found.is_empty() { Err(Unreadable::Empty) } else { Ok(found) }
}

/// Which columns hold what.
struct Columns {
    time: usize,
    rss: usize,
    /// `span_ms,boot_ms,age_ms,limit_bytes`
    kept: Option<[usize; 4]>,
    charge: Option<usize>,
}

impl Columns {
    /// Of a line that names them.
    fn named(line: &str) -> Option<Columns> {
        let names: Vec<String> = line.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
        let find = |wanted: &[&str]| wanted.iter().find_map(|w| names.iter().position(|name| name == w));
        let kept = find(&["span_ms"]).zip(find(&["boot_ms"])).zip(find(&["age_ms"]).zip(find(&["limit_bytes"])));
        let kept = kept.map(|((span, boot), (age, limit))| [span, boot, age, limit]);
        let charge = find(&["charge_bytes"]);
        Some(Columns { kept, charge, time: find(&["unix_ms", "time", "timestamp", "unix"])?, rss: find(&["rss_bytes", "rss", "value"])? })
    }
}

fn csv(text: &str) -> Result<Recorded, Unreadable> {
    let mut columns = Columns { time: 0, rss: 1, kept: None, charge: None };
    let mut readings = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        if readings.is_empty()
            && let Some(named) = Columns::named(line)
        {
            columns = named;
            continue;
        }
        if readings.len() == MAX_READINGS {
            return Err(Unreadable::TooMany);
        }
        let wrong = |why: String| Unreadable::Line { line: index + 1, why };
        let cell = |column: usize, what: &str| match line.split(',').nth(column).map(str::trim) {
            Some(cell) if !cell.is_empty() => Ok(cell),
            _ => Err(wrong(format!("no {what}"))),
        };
        let (when, rss) = (cell(columns.time, "time")?, cell(columns.rss, "RSS")?);
        let at = time(when).ok_or_else(|| wrong(format!("`{}` is no time", one_line(when, 40))))?;
        let rss = bytes(rss).ok_or_else(|| wrong(format!("`{}` is no RSS", one_line(rss, 40))))?;
        let kept = match columns.kept {
            Some(places) => Some(kept(line, places, columns.charge).ok_or_else(|| wrong("no span, time since boot or age".into()))?),
            None => None,
        };
        readings.push(Reading { at, rss, kept });
    }
    Ok(Recorded { name: String::new(), readings })
}

fn kept(line: &str, places: [usize; 4], charge: Option<usize>) -> Option<Kept> {
    let [span, boot, age, limit] = places.map(|place| line.split(',').nth(place).map(str::trim).unwrap_or_default());
    let millis = |text: &str| text.parse::<u64>().ok().filter(|ms| *ms <= MAX_MILLIS);
    let limit = if limit.is_empty() { None } else { Some(limit.parse().ok()?) };
    Some(Kept {
        span: Duration::from_millis(millis(span)?),
        boot: Mono::from_millis(millis(boot)?),
        age: Duration::from_millis(millis(age)?),
        limit,
        charge: charge.and_then(|place| line.split(',').nth(place)?.trim().parse().ok()),
    })
}

fn time(text: &str) -> Option<SystemTime> {
    let Ok(number) = text.parse::<f64>() else {
        // "2026-11-23 08:13:36" is what spreadsheets write
        let text = text.replacen(' ', "T", 1);
        return humantime::parse_rfc3339_weak(&text).ok();
    };
    let seconds = if number >= MILLISECONDS_FROM { number / 1e3 } else { number };
    clock::unix(seconds)
}

fn bytes(text: &str) -> Option<u64> {
    match text.parse::<f64>() {
        // exporters write 1.23e+09
        Ok(number) if number.is_finite() && (0.0..1e18).contains(&number) => Some(number as u64),
        Ok(_) => None,
        Err(_) => text.parse::<ByteSize>().ok().map(|size| size.0),
    }
}

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Matrix {
    metric: BTreeMap<String, String>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

fn json(text: &str) -> Result<Vec<Recorded>, Unreadable> {
    let answer: Answer = serde_json::from_str(text).map_err(|e| Unreadable::Json(format!("no Prometheus answer: {e}")))?;
    let Some(data) = answer.data.filter(|_| answer.status == "success") else {
        return Err(Unreadable::Json(format!("the answer is an error: {}", one_line(&answer.error, 200))));
    };
    if data.kind != "matrix" {
        return Err(Unreadable::Json(format!("the answer is a {}, not a matrix", one_line(&data.kind, 40))));
    }
    let series: Vec<Matrix> = serde_json::from_value(data.result).map_err(|e| Unreadable::Json(format!("no matrix: {e}")))?;
    if series.len() > MAX_SERIES || series.iter().map(|s| s.values.len()).sum::<usize>() > MAX_READINGS {
        return Err(Unreadable::TooMany);
    }
    let recorded = |series: Matrix| {
        let labels: Vec<String> = series.metric.iter().filter(|(k, _)| *k != "__name__").map(|(k, v)| format!("{k}={v:?}")).collect();
        let reading = |(at, value): &(f64, String)| {
            // NaN marks a stale series
            Some(Reading { at: clock::unix(*at)?, rss: bytes(value)?, kept: None })
        };
        Recorded { name: one_line(&format!("{{{}}}", labels.join(",")), 200), readings: series.values.iter().filter_map(reading).collect() }
    };
    Ok(series.into_iter().map(recorded).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(u64, u64)> {
        let ms = |r: &Reading| r.at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
        read(text).unwrap().remove(0).readings.iter().map(|r| (ms(r), r.rss)).collect()
    }

    #[test]
    fn memtraps_own_timeline_is_read() {
        let text = "time,unix_ms,rss_bytes,phase\n2026-11-23T08:13:35.500Z,1795421615500,7,before\n2026-11-23T08:13:36.750Z,1795421616750,9,during\n";
        assert_eq!(pairs(text), [(1_795_421_615_500, 7), (1_795_421_616_750, 9)]);
    }

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        let text = "# by hand\n2026-11-23T08:13:35Z, 1.5MiB\n2026-11-23 08:13:36,2000\n\n1795421617.5,3e3\n1795421618000,4kB\n";
        let at = |ms: u64| 1_795_421_600_000 + ms;
        assert_eq!(pairs(text), [(at(15_000), 3 << 19), (at(16_000), 2_000), (at(17_500), 3_000), (at(18_000), 4_000)]);
        assert_eq!(pairs("value,instance,timestamp\n5,a,1795421600\n"), [(at(0), 5)]);
    }

    #[test]
    fn readings_come_in_order_and_the_last_of_a_time_counts() {
        assert_eq!(pairs("20,2\n10,1\n20,3\n"), [(10_000, 1), (20_000, 3)]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, why) in [
            ("", "no reading in it"),
            ("time,rss\n", "no reading in it"),
            ("10,1\nyesterday,2", "line 2: `yesterday` is no time"),
            ("10,1\n11,lots", "line 2: `lots` is no RSS"),
            ("10,-1", "line 1: `-1` is no RSS"),
            ("10,NaN", "line 1: `NaN` is no RSS"),
            ("10", "line 1: no RSS"),
            ("-10,1", "line 1: `-10` is no time"),
            ("{", "no Prometheus answer"),
            (r#"{"status":"error","error":"bad \u001b query"}"#, "the answer is an error: bad"),
            (r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#, "is a vector, not a matrix"),
            (r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#, "no reading in it"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn a_range_query_gives_a_series_for_each_instance() {
        let text = r#"{"status":"success","data":{"resultType":"matrix","result":[
            {"metric":{"__name__":"process_resident_memory_bytes","instance":"a:1"},"values":[[1795421600.5,"1048576"],[1795421615.5,"NaN"]]},
            {"metric":{"instance":"b:1"},"values":[[1795421600,"2"]]}]}}"#;
        let found = read(text).unwrap();
        assert_eq!((found.len(), found[0].name.as_str(), found[0].readings.len()), (2, "{instance=\"a:1\"}", 1));
        assert_eq!(found[1].readings[0].rss, 2);
    }
}
