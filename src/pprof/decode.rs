//! Decoder of profile.proto: gzipped, in several gzip members, or plain.
//!
//! It takes what the profile says and checks every index; pruning, merging and counting are [`top`](super::top)'s.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Limits;
use super::error::{DecodeError, name_by_content};
use super::inflate::Plain;
use super::profile::{Function, Label, LabelValue, Line, Location, Mapping, Profile, Str, ValueType};
use super::wire::{Cursor, Field};
use crate::units::ByteSize;

impl Profile {
    /// Decodes a whole profile.
    ///
    /// Errors name what is wrong and at which byte of the inflated profile; they are the same cases that Go's own reader
    /// refuses: an index outside of its table, an id that is missing, doubled or 0, a first string that is not empty,
    /// samples with more or fewer values than there are types, two profiles written after one another.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Profile, DecodeError> {
        Profile::parse_within(bytes, limits, &mut u64::MAX.clone())
    }

    /// The same of several profiles that share a budget: what this one inflates to, good or not, is taken off `left`.
    pub fn parse_within(bytes: &[u8], limits: &Limits, left: &mut u64) -> Result<Profile, DecodeError> {
        let limit = limits.inflated_bytes.min(*left).min(u64::from(u32::MAX));
        let too_large = DecodeError::TooLarge { limit: ByteSize(limit) };
        let inflated;
        let data = match bytes {
            [0x1f, 0x8b, ..] => {
                let all = Plain::open(bytes)?.read_all(limit);
                *left = left.saturating_sub(match &all {
                    Ok(all) => all.len() as u64,
                    Err(DecodeError::TruncatedGzip { inflated } | DecodeError::DamagedGzip { inflated, .. }) => *inflated,
                    Err(_) => limit,
                });
                inflated = all?;
                inflated.as_slice()
            }
            plain if plain.len() as u64 > limit => return Err(too_large),
            plain => plain,
        };
        if data.is_empty() {
            return Err(DecodeError::Empty);
        }
        decode(data, limits).map_err(|e| name_by_content(data.get(..data.len().min(128)).unwrap_or(data), e))
    }
}

/// From the ids of a profile to the indexes of ours. Go numbers from 1 without gaps, others do not.
struct Ids {
    dense: Vec<Option<u32>>,
    sparse: HashMap<u64, u32>,
    what: &'static str,
}

impl Ids {
    fn new(count: usize, what: &'static str) -> Ids {
        Ids { dense: vec![None; count + 1], sparse: HashMap::new(), what }
    }

    fn get(&self, id: u64) -> Option<u32> {
        match usize::try_from(id).ok().and_then(|id| self.dense.get(id)) {
            Some(index) => *index,
            None => self.sparse.get(&id).copied(),
        }
    }

    fn insert(&mut self, id: u64, index: usize, at: u64) -> Result<(), DecodeError> {
        let what = self.what;
        if id == 0 {
            return Err(DecodeError::malformed(at, format!("a {what} has the reserved id 0")));
        }
        let twice = || DecodeError::malformed(at, format!("two {what}s have the id {id}"));
        match usize::try_from(id).ok().and_then(|id| self.dense.get_mut(id)) {
            Some(Some(_)) => return Err(twice()),
            Some(slot) => *slot = Some(index as u32),
            None => match self.sparse.entry(id) {
                Entry::Occupied(_) => return Err(twice()),
                Entry::Vacant(slot) => {
                    slot.insert(index as u32);
                }
            },
        }
        Ok(())
    }
}

fn bounded(len: usize, limit: usize, what: &'static str) -> Result<(), DecodeError> {
    if len >= limit { Err(DecodeError::TooMany { what, limit }) } else { Ok(()) }
}

/// Strings and samples may stand in any order, so the top level is walked twice: the tables first, then the samples.
fn decode(data: &[u8], limits: &Limits) -> Result<Profile, DecodeError> {
    let mut p = Profile::default();
    let mut header = Header::default();
    let mut samples = 0;
    let mut top = Cursor::new(data);
    while let Some(field) = top.field()? {
        match field.number {
            1 => {
                bounded(header.sample_types.len(), MAX_SAMPLE_TYPES, "sample types")?;
                header.sample_types.push(field.message()?);
            }
            2 => {
                bounded(samples, limits.samples, "samples")?;
                field.message()?;
                samples += 1;
            }
            3 => {
                bounded(header.mappings.len(), limits.mappings, "mappings")?;
                header.mappings.push(field.message()?);
            }
            4 => {
                bounded(header.locations.len(), limits.locations, "locations")?;
                header.locations.push(field.message()?);
            }
            5 => {
                bounded(header.functions.len(), limits.functions, "functions")?;
                header.functions.push(field.message()?);
            }
            6 => {
                bounded(p.strings.len(), limits.strings, "strings")?;
                let text = field.message()?;
                if p.strings.len() == 0 && !text.bytes().is_empty() {
                    return Err(DecodeError::malformed(text.at(), "the first string is not empty"));
                }
                p.strings.push(text.bytes()).ok_or(DecodeError::TooLarge { limit: ByteSize(u64::from(u32::MAX)) })?;
            }
            _ => header.scalar(&field, &mut p)?,
        }
    }
    if header.sample_types.is_empty() {
        return Err(DecodeError::NoSampleTypes);
    }
    header.resolve(&mut p, limits)?;
    let mappings = mappings(&header.mappings, &mut p)?;
    let functions = functions(&header.functions, &mut p)?;
    let locations = locations(&header.locations, &mappings, &functions, &mut p, limits)?;
    p.samples.location_ends.reserve_exact(samples);
    p.samples.label_ends.reserve_exact(samples);
    p.samples.values.reserve_exact(samples.saturating_mul(p.sample_types.len()).min(data.len()).min(limits.values));
    let mut top = Cursor::new(data);
    while let Some(field) = top.field()? {
        if field.number == 2 {
            sample(field.message()?, &locations, &mut p, limits)?;
        }
    }
    Ok(p)
}

const MAX_SAMPLE_TYPES: usize = 256;

/// What the top level says apart from tables and samples; indexes are resolved once all strings were seen.
#[derive(Default)]
struct Header<'a> {
    sample_types: Vec<Cursor<'a>>,
    mappings: Vec<Cursor<'a>>,
    locations: Vec<Cursor<'a>>,
    functions: Vec<Cursor<'a>>,
    period_type: Option<Cursor<'a>>,
    default_sample_type: (u64, u64),
    drop_frames: (u64, u64),
    keep_frames: (u64, u64),
    doc_url: (u64, u64),
    comments: Vec<(u64, u64)>,
    /// The highest string index of all fields that a later one may replace, and where.
    highest: (u64, u64),
}

impl<'a> Header<'a> {
    fn scalar(&mut self, field: &Field<'a>, p: &mut Profile) -> Result<(), DecodeError> {
        match field.number {
            7 => self.drop_frames = self.text(field)?,
            8 => self.keep_frames = self.text(field)?,
            9 => {
                if p.time_nanos != 0 {
                    return Err(DecodeError::malformed(field.at, "a second profile follows the first; split them"));
                }
                p.time_nanos = field.i64()?;
            }
            10 => p.duration_nanos = field.i64()?,
            11 => {
                let message = field.message()?;
                self.period_type = Some(message);
                let mut fields = message;
                while let Some(field) = fields.field()? {
                    if matches!(field.number, 1 | 2) {
                        self.text(&field)?;
                    }
                }
            }
            12 => p.period = field.i64()?,
            13 => field.each(|index, at| {
                bounded(self.comments.len(), MAX_COMMENTS, "comments")?;
                self.comments.push((index, at));
                Ok(())
            })?,
            14 => self.default_sample_type = self.text(field)?,
            15 => self.doc_url = self.text(field)?,
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, field: &Field<'a>) -> Result<(u64, u64), DecodeError> {
        let index = (field.u64()?, field.at);
        self.highest = self.highest.max(index);
        Ok(index)
    }

    fn resolve(&self, p: &mut Profile, limits: &Limits) -> Result<(), DecodeError> {
        let texts = Texts(p.strings.len());
        texts.get(self.highest)?;
        for message in &self.sample_types {
            p.sample_types.push(value_type(*message, texts)?);
        }
        if let Some(message) = self.period_type {
            p.period_type = value_type(message, texts)?;
        }
        p.default_sample_type = texts.get(self.default_sample_type)?;
        p.drop_frames = texts.get(self.drop_frames)?;
        p.keep_frames = texts.get(self.keep_frames)?;
        p.doc_url = texts.get(self.doc_url)?;
        let mut bytes = 0;
        for comment in &self.comments {
            let comment = texts.get(*comment)?;
            bytes += p.str(comment).len();
            bounded(bytes, limits.comment_bytes, "bytes of comments")?;
            p.comments.push(comment);
        }
        Ok(())
    }
}

const MAX_COMMENTS: usize = 100_000;

/// The number of strings, to check indexes against.
#[derive(Clone, Copy)]
struct Texts(usize);

impl Texts {
    fn get(self, (index, at): (u64, u64)) -> Result<Str, DecodeError> {
        if index >= self.0 as u64 {
            return Err(DecodeError::malformed(at, format!("string {} of a table of {}", index as i64, self.0)));
        }
        Ok(Str(index as u32))
    }

    fn field(self, field: &Field<'_>) -> Result<Str, DecodeError> {
        self.get((field.u64()?, field.at))
    }
}

fn value_type(mut message: Cursor<'_>, texts: Texts) -> Result<ValueType, DecodeError> {
    let mut value = ValueType::default();
    texts.get((0, message.at()))?;
    while let Some(field) = message.field()? {
        match field.number {
            1 => value.kind = texts.field(&field)?,
            2 => value.unit = texts.field(&field)?,
            _ => {}
        }
    }
    Ok(value)
}

fn mappings(messages: &[Cursor<'_>], p: &mut Profile) -> Result<Ids, DecodeError> {
    let texts = Texts(p.strings.len());
    let mut ids = Ids::new(messages.len(), "mapping");
    p.mappings.reserve_exact(messages.len());
    for message in messages {
        let (mut message, at) = (*message, message.at());
        let mut id = 0;
        let mut m = Mapping { start: 0, limit: 0, offset: 0, file: Str(0), build_id: Str(0), has_functions: false };
        while let Some(field) = message.field()? {
            match field.number {
                1 => id = field.u64()?,
                2 => m.start = field.u64()?,
                3 => m.limit = field.u64()?,
                4 => m.offset = field.u64()?,
                5 => m.file = texts.field(&field)?,
                6 => m.build_id = texts.field(&field)?,
                7 => m.has_functions = field.u64()? != 0,
                8..=10 => {
                    field.u64()?;
                }
                _ => {}
            }
        }
        ids.insert(id, p.mappings.len(), at)?;
        p.mappings.push(m);
    }
    Ok(ids)
}

fn functions(messages: &[Cursor<'_>], p: &mut Profile) -> Result<Ids, DecodeError> {
    let texts = Texts(p.strings.len());
    let mut ids = Ids::new(messages.len(), "function");
    p.functions.reserve_exact(messages.len());
    for message in messages {
        let (mut message, at) = (*message, message.at());
        let mut id = 0;
        let mut f = Function { name: Str(0), system_name: Str(0), file: Str(0), start_line: 0 };
        while let Some(field) = message.field()? {
            match field.number {
                1 => id = field.u64()?,
                2 => f.name = texts.field(&field)?,
                3 => f.system_name = texts.field(&field)?,
                4 => f.file = texts.field(&field)?,
                5 => f.start_line = field.i64()?,
                _ => {}
            }
        }
        ids.insert(id, p.functions.len(), at)?;
        p.functions.push(f);
    }
    Ok(ids)
}

fn locations(messages: &[Cursor<'_>], mappings: &Ids, functions: &Ids, p: &mut Profile, limits: &Limits) -> Result<Ids, DecodeError> {
    let mut ids = Ids::new(messages.len(), "location");
    p.locations.reserve_exact(messages.len());
    for message in messages {
        let (mut message, at) = (*message, message.at());
        let mut id = 0;
        let mut location = Location { mapping: None, address: 0, is_folded: false, first_line: p.lines.len() as u32, line_count: 0 };
        while let Some(field) = message.field()? {
            match field.number {
                1 => id = field.u64()?,
                // Go's reader, too, takes an unknown mapping for none.
                2 => location.mapping = mappings.get(field.u64()?),
                3 => location.address = field.u64()?,
                4 => {
                    bounded(p.lines.len(), limits.lines.min(u32::MAX as usize), "lines")?;
                    p.lines.push(line(field.message()?, functions)?);
                    location.line_count += 1;
                }
                5 => location.is_folded = field.u64()? != 0,
                _ => {}
            }
        }
        ids.insert(id, p.locations.len(), at)?;
        p.locations.push(location);
    }
    Ok(ids)
}

fn line(mut message: Cursor<'_>, functions: &Ids) -> Result<Line, DecodeError> {
    let at = message.at();
    let (mut function, mut line, mut column) = (0, 0, 0);
    while let Some(field) = message.field()? {
        match field.number {
            1 => function = field.u64()?,
            2 => line = field.i64()?,
            3 => column = field.i64()?,
            _ => {}
        }
    }
    match functions.get(function) {
        Some(function) => Ok(Line { function, line, column }),
        None => Err(DecodeError::malformed(at, format!("a line of function {function}, which does not exist"))),
    }
}

fn sample(mut message: Cursor<'_>, locations: &Ids, p: &mut Profile, limits: &Limits) -> Result<(), DecodeError> {
    let at = message.at();
    let texts = Texts(p.strings.len());
    let types = p.sample_types.len();
    let mut values = 0;
    while let Some(field) = message.field()? {
        match field.number {
            1 => field.each(|id, at| {
                bounded(p.samples.locations.len(), limits.frames.min(u32::MAX as usize), "frames")?;
                let index = locations.get(id);
                let index = index.ok_or_else(|| DecodeError::malformed(at, format!("a sample in location {id}, which does not exist")))?;
                p.samples.locations.push(index);
                Ok(())
            })?,
            2 => field.each(|value, at| {
                if values == types {
                    return Err(DecodeError::malformed(at, format!("a sample with more than {types} values")));
                }
                values += 1;
                bounded(p.samples.values.len(), limits.values, "values")?;
                p.samples.values.push(value as i64);
                Ok(())
            })?,
            3 => {
                let label = label(field.message()?, texts)?;
                if let Some(label) = label {
                    bounded(p.samples.labels.len(), limits.labels.min(u32::MAX as usize), "labels")?;
                    p.samples.labels.push(label);
                }
            }
            _ => {}
        }
    }
    if values != types {
        return Err(DecodeError::malformed(at, format!("a sample with {values} values where there are {types} types")));
    }
    p.samples.end_sample();
    Ok(())
}

/// `None` for a label without a value.
fn label(mut message: Cursor<'_>, texts: Texts) -> Result<Option<Label>, DecodeError> {
    let (mut key, mut text, mut value, mut unit) = (Str(0), Str(0), 0, Str(0));
    while let Some(field) = message.field()? {
        match field.number {
            1 => key = texts.field(&field)?,
            2 => text = texts.field(&field)?,
            3 => value = field.i64()?,
            4 => unit = texts.field(&field)?,
            _ => {}
        }
    }
    Ok(match (text, value, unit) {
        (Str(0), 0, Str(0)) => None,
        (Str(0), value, unit) => Some(Label { key, value: LabelValue::Number { value, unit } }),
        (text, ..) => Some(Label { key, value: LabelValue::Text(text) }),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pb, gzip, profile};
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Profile, String> {
        Profile::parse(bytes, &Limits::default()).map_err(|e| e.to_string())
    }

    fn heap() -> Pb {
        profile(&[("objects", "count"), ("space", "bytes")], &[(&["main.inner<main.outer", "main.main"], &[3, 4096])])
    }

    #[test]
    fn a_stack_comes_out_as_it_went_in() {
        for bytes in [heap().0, gzip(&heap().0)] {
            let p = parse(&bytes).unwrap();
            assert_eq!(p.sample_type_names().collect::<Vec<_>>(), ["objects", "space"]);
            let samples: Vec<_> = p.samples().collect();
            assert_eq!(samples.len(), 1);
            assert_eq!(samples[0].values, [3, 4096]);
            let names: Vec<Vec<&str>> = samples[0]
                .locations
                .iter()
                .map(|l| p.lines(&p.locations[*l as usize]).iter().map(|l| p.str(p.functions[l.function as usize].name)).collect())
                .collect();
            assert_eq!(names, [vec!["main.inner", "main.outer"], vec!["main.main"]]);
        }
    }

    #[test]
    fn a_header_field_is_checked_even_if_another_replaces_it() {
        let types = Pb::default().message(1, Pb::default().int(1, 0)).len(6, b"").len(6, b"cpu");
        for field in [7, 8, 14, 15] {
            assert!(parse(&types.clone().int(field, 1).int(field, 0).0).is_ok());
            let error = parse(&types.clone().int(field, 2).int(field, 1).0).unwrap_err();
            assert!(error.contains("string 2 of a table of 2"), "field {field}: {error}");
        }
        let period = |kind| Pb::default().int(1, kind).int(2, 0);
        assert!(parse(&types.clone().message(11, period(1)).message(11, period(0)).0).is_ok());
        assert!(parse(&types.clone().message(11, period(2)).message(11, period(1)).0).unwrap_err().contains("string 2 of a table of 2"));
    }

    #[test]
    fn the_header_is_kept() {
        let strings = ["", "cpu", "nanoseconds", "dropped", "kept", "a comment", "https://example.org/doc"];
        let p = Pb::default()
            .message(1, Pb::default().int(1, 1).int(2, 2))
            .int(7, 3)
            .int(8, 4)
            .int(9, 1_700_000_000_000_000_000)
            .int(10, 30_000_000_000)
            .message(11, Pb::default().int(1, 1).int(2, 2))
            .int(12, 10_000_000)
            .int(13, 5)
            .packed(13, &[5, 4])
            .int(14, 1)
            .int(15, 6)
            .message(3, Pb::default().int(1, 9).int(2, 0x400000).int(3, 0x500000).int(4, 0x1000).int(5, 4).int(6, 3).int(7, 1));
        let p = parse(&strings.iter().fold(p, |p, s| p.len(6, s.as_bytes())).0).unwrap();
        assert_eq!((p.str(p.drop_frames), p.str(p.keep_frames)), ("dropped", "kept"));
        assert_eq!((p.time_nanos, p.duration_nanos, p.period), (1_700_000_000_000_000_000, 30_000_000_000, 10_000_000));
        assert_eq!((p.str(p.period_type.kind), p.str(p.default_sample_type)), ("cpu", "cpu"));
        assert_eq!(p.comments.iter().map(|c| p.str(*c)).collect::<Vec<_>>(), ["a comment", "a comment", "kept"]);
        assert_eq!(p.str(p.doc_url), "https://example.org/doc");
        let m = &p.mappings[0];
        assert_eq!((m.start, m.limit, m.offset, p.str(m.file), p.str(m.build_id)), (0x400000, 0x500000, 0x1000, "kept", "dropped"));
    }

    #[test]
    fn labels_are_text_or_numbers_with_units() {
        let strings = ["", "x", "route", "/pay", "bytes"];
        let label = |m: Pb| Pb::default().message(3, m.int(1, 2)).0;
        let sample = Pb::default()
            .int(2, 1)
            .0
            .into_iter()
            .chain(label(Pb::default().int(2, 3)))
            .chain(label(Pb::default().int(3, -5).int(4, 4)))
            .chain(label(Pb::default().int(3, 7)))
            .chain(label(Pb::default()))
            .collect();
        let p = Pb::default().message(1, Pb::default().int(1, 1)).message(2, Pb(sample));
        let p = parse(&strings.iter().fold(p, |p, s| p.len(6, s.as_bytes())).0).unwrap();
        let labels: Vec<_> = p.samples().flat_map(|s| s.labels.to_vec()).map(|l| (p.str(l.key), l.value)).collect();
        let number = |value, unit| LabelValue::Number { value, unit: Str(unit) };
        assert_eq!(labels, [("route", LabelValue::Text(Str(3))), ("route", number(-5, 4)), ("route", number(7, 0))]);
    }

    #[test]
    fn ids_need_not_be_dense() {
        let p = Pb::default()
            .message(1, Pb::default().int(1, 1))
            .message(2, Pb::default().int(1, i64::MAX).int(2, 5))
            .message(4, Pb::default().int(1, i64::MAX).message(4, Pb::default().int(1, -1)))
            .message(5, Pb::default().int(1, -1).int(2, 1))
            .len(6, b"")
            .len(6, b"f");
        let p = parse(&p.0).unwrap();
        assert_eq!(p.samples().next().unwrap().locations, [0]);
    }

    #[test]
    fn what_is_missing_or_doubled_is_refused_by_name() {
        let base = || Pb::default().message(1, Pb::default().int(1, 1)).len(6, b"").len(6, b"n");
        let function = || Pb::default().int(1, 1).int(2, 1);
        let location = || Pb::default().int(1, 1);
        for (body, why) in [
            (base().message(2, Pb::default().int(1, 4).int(2, 1)), "a sample in location 4, which does not exist"),
            (base().message(2, Pb::default()), "a sample with 0 values where there are 1 types"),
            (base().message(2, Pb::default().packed(2, &[1, 2])), "a sample with more than 1 values"),
            (base().message(4, location().message(4, Pb::default().int(1, 3))), "a line of function 3, which does not exist"),
            (base().message(4, location()).message(4, location()), "two locations have the id 1"),
            (base().message(5, function()).message(5, function()), "two functions have the id 1"),
            (base().message(5, Pb::default()), "a function has the reserved id 0"),
            (base().message(3, Pb::default()), "a mapping has the reserved id 0"),
            (base().message(5, function().int(4, 2)), "string 2 of a table of 2"),
            (base().message(5, function().int(4, -1)), "string -1 of a table of 2"),
            (base().int(14, 9), "string 9 of a table of 2"),
            (base().int(9, 1).int(9, 2), "a second profile follows the first; split them"),
            (base().len(9, b"x"), "field 9 has the wrong wire type"),
            (Pb::default().message(1, Pb::default()), "string 0 of a table of 0"),
            (Pb::default().len(6, b"x"), "the first string is not empty"),
        ] {
            let error = parse(&body.0).unwrap_err();
            assert!(error.starts_with("malformed profile at byte ") && error.ends_with(why), "{error} / {why}");
        }
    }

    #[test]
    fn counts_and_sizes_are_bounded() {
        let refuse = |limits: Limits| Profile::parse(&heap().0, &limits).unwrap_err().to_string();
        let all = Limits::default;
        assert_eq!(refuse(Limits { inflated_bytes: 10, ..all() }), "more than 10B after decompression");
        assert_eq!(refuse(Limits { samples: 0, ..all() }), "more than 0 samples");
        assert_eq!(refuse(Limits { strings: 3, ..all() }), "more than 3 strings");
        assert_eq!(refuse(Limits { functions: 2, ..all() }), "more than 2 functions");
        assert_eq!(refuse(Limits { locations: 1, ..all() }), "more than 1 locations");
        assert_eq!(refuse(Limits { lines: 2, ..all() }), "more than 2 lines");
        assert_eq!(refuse(Limits { frames: 1, ..all() }), "more than 1 frames");
        let bomb = gzip(&vec![0; 4 << 20]);
        let error = Profile::parse(&bomb, &Limits { inflated_bytes: 1 << 20, ..all() }).unwrap_err();
        assert_eq!(error.to_string(), "more than 1.00MiB after decompression");
    }
}
