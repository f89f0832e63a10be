//! One profile minus another, as `-base` does it.

use std::collections::HashMap;

use super::measure::{convertible, scale};
use super::profile::{Function, Label, LabelValue, Line, Location, Mapping, Profile, Str, ValueType};
use super::top::TopError;
use crate::text;

/// `now - base`: samples with the same stack and labels are one, and gone where nothing is left. Locations are the same
/// when they have the same offset in the same binary. Sample types that only one of them has are left out.
pub(super) fn subtract(now: &Profile, base: &Profile) -> Result<Profile, TopError> {
    let sources = [Source::new(now, base, 1.0), Source::new(base, now, -1.0)];
    let [now_source, base_source] = &sources;
    if now_source.types.is_empty() {
        let names = |p: &Profile| text::lines(&p.sample_type_names().collect::<Vec<_>>().join(", "));
        return Err(TopError::NothingInCommon { now: names(now), base: names(base) });
    }
    let mut merger = Merger::default();
    merger.header(now, base);
    let (period, ..) = common_unit(now, base, now.period_type, base.period_type)?;
    merger.out.period_type = ValueType { kind: merger.str(now, now.period_type.kind), unit: merger.text(period) };
    let mut ratios = [Vec::new(), Vec::new()];
    for (a, b) in now_source.types.iter().zip(&base_source.types) {
        let (unit, of_now, of_base) = common_unit(now, base, *a, *b)?;
        let value_type = ValueType { kind: merger.str(now, a.kind), unit: merger.text(unit) };
        merger.out.sample_types.push(value_type);
        ratios[0].push(of_now);
        ratios[1].push(of_base);
    }
    merger.out.default_sample_type = match now_source.default_type(now) {
        Str(0) => merger.str(base, base_source.default_type(base)),
        kind => merger.str(now, kind),
    };
    for (source, ratios) in sources.iter().zip(&ratios) {
        merger.add(source, ratios);
    }
    Ok(merger.finish())
}

/// A profile seen through the sample types that both have, in the order of the first.
struct Source<'a> {
    profile: &'a Profile,
    types: Vec<ValueType>,
    /// Index of each type's value.
    indexes: Vec<usize>,
    sign: f64,
}

impl<'a> Source<'a> {
    fn new(profile: &'a Profile, other: &Profile, sign: f64) -> Source<'a> {
        // The order is that of the profile which is not the base.
        let (first, second) = if sign > 0.0 { (profile, other) } else { (other, profile) };
        let common = first.sample_type_names().filter(|kind| second.sample_type_names().any(|other| other == *kind));
        let indexes: Vec<usize> = common.filter_map(|kind| profile.sample_type_names().position(|own| own == kind)).collect();
        let types = indexes.iter().filter_map(|i| profile.sample_types.get(*i).copied()).collect();
        Source { profile, types, indexes, sign }
    }

    /// Where types were left out or moved, the default must be one that is left.
    fn default_type(&self, profile: &Profile) -> Str {
        let unchanged = self.indexes.iter().copied().eq(0..profile.sample_types.len());
        let default = profile.default_sample_type;
        let left = self.types.iter().any(|t| profile.str(t.kind) == profile.str(default));
        if unchanged || left { default } else { self.types.first().map(|t| t.kind).unwrap_or_default() }
    }
}

/// The finer unit of the two, and what their values are multiplied with.
fn common_unit<'a>(now: &'a Profile, base: &'a Profile, a: ValueType, b: ValueType) -> Result<(&'a str, f64, f64), TopError> {
    let ((kind, unit), (base_kind, base_unit)) = ((now.str(a.kind), now.str(a.unit)), (base.str(b.kind), base.str(b.unit)));
    if kind != base_kind || !convertible(unit, base_unit) {
        let measure = |kind: &str, unit: &str| text::lines(&format!("{kind}/{unit}"));
        return Err(TopError::Incompatible { now: measure(kind, unit), base: measure(base_kind, base_unit) });
    }
    let finest = if scale(1, base_unit, unit).0 < 1.0 { base_unit } else { unit };
    Ok((finest, scale(1, unit, finest).0, scale(1, base_unit, finest).0))
}

#[derive(PartialEq, Eq, Hash)]
struct LocationKey {
    mapping: Option<u32>,
    /// Relative to the mapping, which may have been loaded elsewhere.
    address: u64,
    is_folded: bool,
    lines: Vec<(u32, i64)>,
    /// Of the outermost line: pprof looks at no other.
    column: i64,
}

#[derive(PartialEq, Eq, Hash)]
struct SampleKey {
    locations: Vec<u32>,
    labels: Vec<Label>,
}

#[derive(Default)]
struct Merger {
    out: Profile,
    strings: HashMap<String, Str>,
    mappings: HashMap<(u64, u64, Str), u32>,
    functions: HashMap<Function, u32>,
    locations: HashMap<LocationKey, u32>,
    /// To the index into `values`.
    samples: HashMap<SampleKey, usize>,
    values: Vec<Vec<i64>>,
}

impl Merger {
    fn text(&mut self, text: &str) -> Str {
        if self.out.strings.len() == 0 {
            self.strings.insert(String::new(), self.out.strings.push(b"").unwrap_or_default());
        }
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        // Beyond 4 GiB of text names are lost: two profiles within `Limits` do not get there.
        let id = self.out.strings.push(text.as_bytes()).unwrap_or_default();
        self.strings.insert(text.to_owned(), id);
        id
    }

    fn str(&mut self, from: &Profile, id: Str) -> Str {
        self.text(from.str(id))
    }

    fn header(&mut self, now: &Profile, base: &Profile) {
        self.text("");
        for p in [now, base] {
            if self.out.time_nanos == 0 || p.time_nanos < self.out.time_nanos {
                self.out.time_nanos = p.time_nanos;
            }
            self.out.duration_nanos = self.out.duration_nanos.wrapping_add(p.duration_nanos);
            for comment in &p.comments {
                let comment = self.str(p, *comment);
                if !self.out.comments.contains(&comment) {
                    self.out.comments.push(comment);
                }
            }
            if self.out.doc_url == Str(0) {
                self.out.doc_url = self.str(p, p.doc_url);
            }
        }
        self.out.drop_frames = self.str(now, now.drop_frames);
        self.out.keep_frames = self.str(now, now.keep_frames);
    }

    fn add(&mut self, source: &Source<'_>, ratios: &[f64]) {
        let p = source.profile;
        let functions: Vec<u32> = p.functions.iter().map(|f| self.function(p, f)).collect();
        // Of mappings that are the same binary the first one used gives the name, and the first of all is the program.
        let mut mappings = vec![None; p.mappings.len().max(1)];
        if self.out.mappings.is_empty() {
            self.mapping(p, 0, &mut mappings);
        }
        let mut locations = vec![None; p.locations.len()];
        for sample in p.samples() {
            let Some(values) = scaled(source, sample.values, ratios) else { continue };
            let mut stack = Vec::with_capacity(sample.locations.len());
            for index in sample.locations {
                let (Some(known), Some(location)) = (locations.get_mut(*index as usize), p.locations.get(*index as usize)) else {
                    continue;
                };
                stack.push(*known.get_or_insert_with(|| self.location(p, location, &mut mappings, &functions)));
            }
            let key = SampleKey { locations: stack, labels: self.labels(p, sample.labels) };
            match self.samples.get(&key) {
                Some(index) => {
                    for (sum, value) in self.values.iter_mut().skip(*index).take(1).flatten().zip(&values) {
                        *sum = sum.wrapping_add(*value);
                    }
                }
                None => {
                    self.samples.insert(key, self.values.len());
                    self.values.push(values);
                }
            }
        }
    }

    fn function(&mut self, p: &Profile, f: &Function) -> u32 {
        let f = Function {
            name: self.str(p, f.name),
            system_name: self.str(p, f.system_name),
            file: self.str(p, f.file),
            start_line: f.start_line,
        };
        let functions = &mut self.out.functions;
        *self.functions.entry(f).or_insert_with_key(|f| {
            functions.push(f.clone());
            functions.len() as u32 - 1
        })
    }

    /// The merged index and the source's start of a mapping; `known` are those already merged. A profile without mappings has one that
    /// says nothing, as in pprof.
    fn mapping(&mut self, p: &Profile, index: usize, known: &mut [Option<(u32, u64)>]) -> Option<(u32, u64)> {
        let slot = known.get_mut(index)?;
        if slot.is_none() {
            let nothing = Mapping { start: 0, limit: 0, offset: 0, file: Str(0), build_id: Str(0), has_functions: false };
            let m = p.mappings.get(index).unwrap_or(&nothing);
            let mapping = Mapping { file: self.str(p, m.file), build_id: self.str(p, m.build_id), ..m.clone() };
            const PAGE: u64 = 0x1000;
            let size = m.limit.wrapping_sub(m.start).wrapping_add(PAGE - 1) & !(PAGE - 1);
            let name = if mapping.build_id == Str(0) { mapping.file } else { mapping.build_id };
            let mappings = &mut self.out.mappings;
            let merged = *self.mappings.entry((size, m.offset, name)).or_insert_with(|| {
                mappings.push(mapping);
                mappings.len() as u32 - 1
            });
            *slot = Some((merged, m.start));
        }
        *slot
    }

    fn location(&mut self, p: &Profile, location: &Location, mappings: &mut [Option<(u32, u64)>], functions: &[u32]) -> u32 {
        let index = location.mapping.map(|m| m as usize).or(p.mappings.is_empty().then_some(0));
        let mapping = index.and_then(|index| self.mapping(p, index, mappings));
        let lines =
            || p.lines(location).iter().map(|line| Line { function: functions.get(line.function as usize).copied().unwrap_or(0), ..*line });
        let key = LocationKey {
            mapping: mapping.map(|(index, _)| index),
            address: location.address.wrapping_sub(mapping.map(|(_, start)| start).unwrap_or(0)),
            is_folded: location.is_folded,
            lines: lines().map(|line| (line.function, line.line)).collect(),
            column: p.lines(location).last().map(|line| line.column).unwrap_or(0),
        };
        let out = &mut self.out;
        *self.locations.entry(key).or_insert_with_key(|key| {
            let first_line = out.lines.len() as u32;
            out.lines.extend(lines());
            out.locations.push(Location { mapping: key.mapping, first_line, ..location.clone() });
            out.locations.len() as u32 - 1
        })
    }

    /// In an order that is the same for equal sets: the values of one key keep theirs.
    fn labels(&mut self, p: &Profile, labels: &[Label]) -> Vec<Label> {
        let mut labels: Vec<Label> = labels
            .iter()
            .map(|label| Label {
                key: self.str(p, label.key),
                value: match label.value {
                    LabelValue::Text(text) => LabelValue::Text(self.str(p, text)),
                    LabelValue::Number { value, unit } => LabelValue::Number { value, unit: self.str(p, unit) },
                },
            })
            .collect();
        labels.sort_by_key(|label| (matches!(label.value, LabelValue::Number { .. }), label.key.0));
        labels
    }

    fn finish(mut self) -> Profile {
        let mut samples: Vec<(SampleKey, usize)> = self.samples.into_iter().collect();
        samples.sort_unstable_by_key(|(_, index)| *index);
        for ((key, _), values) in samples.iter().zip(&self.values) {
            if values.iter().any(|value| *value != 0) {
                self.out.samples.push(values, &key.locations, &key.labels);
            }
        }
        self.out
    }
}

/// The sample's values in the common types and units; `None` where nothing is left: as in pprof, of what was
/// rescaled, if anything was.
fn scaled(source: &Source<'_>, values: &[i64], ratios: &[f64]) -> Option<Vec<i64>> {
    let times = |value: i64, factor: f64| if factor == 1.0 { value } else { (value as f64 * factor).round() as i64 };
    let signed = source.indexes.iter().map(|i| times(values.get(*i).copied().unwrap_or(0), source.sign));
    let scaled: Vec<i64> = signed.zip(ratios).map(|(value, ratio)| times(value, *ratio)).collect();
    if scaled.iter().all(|value| *value == 0) {
        return None;
    }
    let mut rescaled = scaled.iter().zip(ratios).filter(|(_, ratio)| **ratio != 1.0).map(|(value, _)| *value).peekable();
    match rescaled.peek() {
        Some(_) => rescaled.any(|value| value != 0).then_some(scaled),
        None => Some(scaled),
    }
}
