use memtrap::pprof::top::{self, Options, Table};
use memtrap::pprof::{DecodeError, Limits, Profile, TimeZone, validate as check};

use super::{Dripping, somewhere};

/// Small, so that they are met.
const LIMITS: Limits = Limits {
    inflated_bytes: 2 << 20,
    strings: 20_000,
    mappings: 1_000,
    functions: 20_000,
    locations: 20_000,
    lines: 40_000,
    samples: 20_000,
    values: 50_000,
    frames: 100_000,
    labels: 20_000,
    comment_bytes: 16 << 10,
};

pub fn profile(data: &[u8]) {
    let parsed = Profile::parse(data, &LIMITS);
    let Ok(profile) = parsed else {
        let error = parsed.unwrap_err();
        assert!(!error.to_string().is_empty() && !error.advice().is_empty());
        return;
    };
    limits_are_kept(data, &profile);
    every_index_is_valid(&profile);
    cut_off_it_is_rejected_or_says_less(data, &profile);
    for index in 0..profile.sample_types.len().min(5) {
        tables_add_up(&profile, index);
    }
    nothing_grew_since_itself(&profile);
}

/// What decodes passes the check, with the same sum; and the check does not depend on how the bytes come in.
pub fn quick(data: &[u8]) {
    let checked = check::check(data, &LIMITS);
    let dripped = check::check(Dripping::new(data), &LIMITS);
    // of what is wrong in two ways, either may be named
    assert_eq!(checked.as_ref().ok(), dripped.as_ref().ok(), "the same in one piece and in many");
    if let Ok(summary) = &checked {
        assert!(summary.inflated_bytes <= LIMITS.inflated_bytes);
        assert!(data.starts_with(&[0x1f, 0x8b]) || summary.inflated_bytes == data.len() as u64);
        let limits = Limits { inflated_bytes: summary.inflated_bytes - 1, ..LIMITS };
        assert!(matches!(check::check(data, &limits), Err(DecodeError::TooLarge { .. })));
    }
    if let Ok(profile) = Profile::parse(data, &LIMITS) {
        let summary = checked.expect("what decodes is a complete profile");
        assert_eq!(summary.samples, profile.samples().len() as u64);
        assert_eq!(summary.sample_types, profile.sample_types.len() as u64);
        assert_eq!(summary.total, profile.samples().fold(0i64, |sum, sample| sum.wrapping_add(sample.values[0])));
    }
}

fn limits_are_kept(data: &[u8], profile: &Profile) {
    let count = |of: fn(top: memtrap::pprof::Sample<'_>) -> usize| profile.samples().map(of).sum::<usize>();
    let lines = profile.locations.iter().map(|location| profile.lines(location).len()).sum::<usize>();
    let (frames, labels) = (count(|s| s.locations.len()), count(|s| s.labels.len()));
    let samples = profile.samples().len();
    assert!(samples <= LIMITS.samples && frames <= LIMITS.frames && labels <= LIMITS.labels && lines <= LIMITS.lines);
    assert!(profile.mappings.len() <= LIMITS.mappings && profile.functions.len() <= LIMITS.functions);
    assert!(profile.locations.len() <= LIMITS.locations);
    let values = samples * profile.sample_types.len();
    assert!(values <= LIMITS.values);
    // one less than there are is too few
    let (tight, there) = match somewhere(data) % 7 {
        6 => (Limits { values: values.wrapping_sub(1), ..LIMITS }, values),
        0 => (Limits { samples: samples.wrapping_sub(1), ..LIMITS }, samples),
        1 => (Limits { frames: frames.wrapping_sub(1), ..LIMITS }, frames),
        2 => (Limits { lines: lines.wrapping_sub(1), ..LIMITS }, lines),
        3 => (Limits { locations: profile.locations.len().wrapping_sub(1), ..LIMITS }, profile.locations.len()),
        4 => (Limits { functions: profile.functions.len().wrapping_sub(1), ..LIMITS }, profile.functions.len()),
        _ => (Limits { mappings: profile.mappings.len().wrapping_sub(1), ..LIMITS }, profile.mappings.len()),
    };
    if there > 0 {
        assert!(matches!(Profile::parse(data, &tight), Err(DecodeError::TooMany { .. })), "{tight:?}");
    }
}

fn every_index_is_valid(profile: &Profile) {
    assert!(!profile.sample_types.is_empty());
    for location in &profile.locations {
        assert!(location.mapping.is_none_or(|m| (m as usize) < profile.mappings.len()));
        assert!(profile.lines(location).iter().all(|line| (line.function as usize) < profile.functions.len()));
    }
    for sample in profile.samples() {
        assert_eq!(sample.values.len(), profile.sample_types.len());
        assert!(sample.locations.iter().all(|l| (*l as usize) < profile.locations.len()));
    }
}

fn cut_off_it_is_rejected_or_says_less(data: &[u8], whole: &Profile) {
    let Ok(part) = Profile::parse(&data[..somewhere(data)], &LIMITS) else { return };
    assert!(part.samples().len() <= whole.samples().len());
    for (part, whole) in part.samples().zip(whole.samples()) {
        assert_eq!((part.values, part.locations.len()), (whole.values, whole.locations.len()));
    }
}

fn tables_add_up(profile: &Profile, index: usize) {
    let all = Options { sample_index: Some(index.to_string()), node_fraction: 0.0, ..Options::default() };
    let table = top::rows(profile, &all).unwrap();
    assert_eq!((table.dropped, table.out_of), (0, table.rows.len()));
    let flat = table.rows.iter().fold(0i64, |sum, row| sum.wrapping_add(row.flat));
    let with_stack = profile.samples().filter(|sample| !sample.locations.is_empty());
    assert_eq!(flat, with_stack.fold(0i64, |sum, sample| sum.wrapping_add(sample.values[index])), "flat values add up to the samples'");
    assert!(table.rows.iter().all(|row| !row.name.is_empty()));

    let values: Vec<i128> = profile.samples().map(|sample| i128::from(sample.values[index])).collect();
    let sum: i128 = values.iter().sum();
    if values.iter().all(|value| *value >= 0) && sum <= i128::from(i64::MAX) {
        assert_eq!(i128::from(table.total), sum);
        assert!(table.rows.iter().all(|row| 0 <= row.flat && row.flat <= row.cum && row.cum <= table.total));
    }
    let magnitudes = |table: &Table, of: fn(&top::Row) -> i64| table.rows.iter().map(of).map(i64::wrapping_abs).collect::<Vec<_>>();
    assert!(magnitudes(&table, |row| row.flat).is_sorted_by(|a, b| a >= b), "by flat value");

    let few = Options { cum: true, node_count: Some(3), ..all.clone() };
    let table = top::rows(profile, &few).unwrap();
    assert!(table.rows.len() <= 3 && magnitudes(&table, |row| row.cum).is_sorted_by(|a, b| a >= b), "by cumulative value");

    for options in [few, Options { node_fraction: Options::default().node_fraction, ..all }] {
        let text = top::text(profile, None, &options, &TimeZone::UTC).unwrap();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "a terminal cannot be steered");
    }
}

fn nothing_grew_since_itself(profile: &Profile) {
    let grown = top::growth(profile, profile, None).expect("a profile is comparable with itself");
    // beyond that pprof itself loses digits
    let exact = profile.samples().all(|sample| sample.values.iter().all(|value| value.unsigned_abs() <= 1 << 53));
    if exact {
        assert_eq!((grown.total, grown.rows.len()), (0, 0));
    }
}
