//! A profile in memory: tables and indexes into them, so that a million samples are a few allocations.

use std::borrow::Cow;

/// A string of a profile: [`Profile::str`] gives the text. The default is the empty string; within one profile
/// equal ids mean equal strings, not the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Str(pub(super) u32);

/// What a number measures: kind `inuse_space`, unit `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ValueType {
    pub kind: Str,
    pub unit: Str,
}

/// A mapped binary. The first one is the program.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    pub start: u64,
    pub limit: u64,
    pub offset: u64,
    pub file: Str,
    pub build_id: Str,
    pub has_functions: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    pub name: Str,
    pub system_name: Str,
    pub file: Str,
    pub start_line: i64,
}

/// An address, with its calls inlined there: see [`Profile::lines`].
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// Index into [`Profile::mappings`].
    pub mapping: Option<u32>,
    pub address: u64,
    pub is_folded: bool,
    pub(super) first_line: u32,
    pub(super) line_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Index into [`Profile::functions`].
    pub function: u32,
    pub line: i64,
    pub column: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    pub key: Str,
    pub value: LabelValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LabelValue {
    Text(Str),
    /// The unit may be empty: then it is the key's own.
    Number {
        value: i64,
        unit: Str,
    },
}

/// One stack with its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// One per sample type.
    pub values: &'a [i64],
    /// Indexes into [`Profile::locations`], the innermost first.
    pub locations: &'a [u32],
    pub labels: &'a [Label],
}

/// A decoded profile. Every index in it is valid.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// At least one.
    pub sample_types: Vec<ValueType>,
    /// A kind of `sample_types`, or empty.
    pub default_sample_type: Str,
    pub period_type: ValueType,
    pub period: i64,
    /// When it was taken, since the epoch; 0 is unknown.
    pub time_nanos: i64,
    pub duration_nanos: i64,
    /// Regular expressions of function names whose frames a reader leaves out, and keeps nevertheless.
    pub drop_frames: Str,
    pub keep_frames: Str,
    pub comments: Vec<Str>,
    pub doc_url: Str,
    pub mappings: Vec<Mapping>,
    pub functions: Vec<Function>,
    pub locations: Vec<Location>,
    pub(super) lines: Vec<Line>,
    pub(super) samples: Samples,
    pub(super) strings: Strings,
}

impl Profile {
    /// The text of a string of this profile; invalid UTF-8 was replaced.
    pub fn str(&self, id: Str) -> &str {
        self.strings.get(id)
    }

    pub fn samples(&self) -> impl ExactSizeIterator<Item = Sample<'_>> {
        (0..self.samples.len()).map(|i| self.samples.get(i, self.sample_types.len()))
    }

    /// The lines of a location: the innermost inlined call first, the function that was really called last.
    /// Empty where the profile carries no symbols.
    pub fn lines(&self, location: &Location) -> &[Line] {
        let first = location.first_line as usize;
        self.lines.get(first..first + location.line_count as usize).unwrap_or(&[])
    }

    /// The same with nothing counted for samples that have such a function in their stack.
    pub fn without(&self, is: impl Fn(&str) -> bool) -> Cow<'_, Profile> {
        let functions: Vec<bool> = self.functions.iter().map(|f| is(self.str(f.name))).collect();
        let location = |location: &Location| self.lines(location).iter().any(|line| functions.get(line.function as usize) == Some(&true));
        let locations: Vec<bool> = self.locations.iter().map(location).collect();
        let has = |sample: &Sample<'_>| sample.locations.iter().any(|location| locations.get(*location as usize) == Some(&true));
        let left_out: Vec<usize> = self.samples().enumerate().filter(|(_, sample)| has(sample)).map(|(i, _)| i).collect();
        if left_out.is_empty() {
            return Cow::Borrowed(self);
        }
        let (mut rest, types) = (self.clone(), self.sample_types.len());
        for i in left_out {
            rest.samples.values.get_mut(i * types..(i + 1) * types).unwrap_or_default().fill(0);
        }
        Cow::Owned(rest)
    }

    /// Bytes of memory that it takes, about.
    pub fn memory(&self) -> usize {
        fn bytes<T>(list: &Vec<T>) -> usize {
            list.capacity() * size_of::<T>()
        }
        let Samples { values, locations, location_ends, labels, label_ends } = &self.samples;
        let samples = [bytes(values), bytes(locations), bytes(location_ends), bytes(labels), bytes(label_ends)];
        let tables = [bytes(&self.mappings), bytes(&self.functions), bytes(&self.locations), bytes(&self.lines), bytes(&self.comments)];
        let strings = self.strings.text.capacity() + bytes(&self.strings.ends);
        samples.into_iter().chain(tables).fold(strings, usize::saturating_add)
    }

    /// Names of the sample types, in order.
    pub fn sample_type_names(&self) -> impl Iterator<Item = &str> {
        self.sample_types.iter().map(|t| self.str(t.kind))
    }
}

/// All strings in one allocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Strings {
    text: String,
    ends: Vec<u32>,
}

impl Strings {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// `None` beyond 4 GiB of text.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Str> {
        self.text.push_str(&String::from_utf8_lossy(bytes));
        self.ends.push(u32::try_from(self.text.len()).ok()?);
        u32::try_from(self.ends.len() - 1).ok().map(Str)
    }

    pub fn get(&self, Str(id): Str) -> &str {
        let end = |i: usize| self.ends.get(i).map(|end| *end as usize);
        let start = (id as usize).checked_sub(1).and_then(end).unwrap_or(0);
        end(id as usize).and_then(|end| self.text.get(start..end)).unwrap_or("")
    }
}

/// All samples in six allocations. Ends are those of the sample's part of the flat list.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    pub values: Vec<i64>,
    pub locations: Vec<u32>,
    pub location_ends: Vec<u32>,
    pub labels: Vec<Label>,
    pub label_ends: Vec<u32>,
}

impl Samples {
    pub fn len(&self) -> usize {
        self.location_ends.len()
    }

    pub fn get(&self, i: usize, types: usize) -> Sample<'_> {
        fn part<'a, T>(all: &'a [T], ends: &[u32], i: usize) -> &'a [T] {
            let end = |i: usize| ends.get(i).map(|end| *end as usize).unwrap_or(0);
            let start = i.checked_sub(1).map(end).unwrap_or(0);
            all.get(start..end(i)).unwrap_or(&[])
        }
        Sample {
            values: self.values.get(i * types..(i + 1) * types).unwrap_or(&[]),
            locations: part(&self.locations, &self.location_ends, i),
            labels: part(&self.labels, &self.label_ends, i),
        }
    }

    /// Adds a sample; the counts must stay within `u32`, which [`Limits`](super::Limits) sees to.
    pub fn push(&mut self, values: &[i64], locations: &[u32], labels: &[Label]) {
        self.values.extend_from_slice(values);
        self.locations.extend_from_slice(locations);
        self.labels.extend_from_slice(labels);
        self.end_sample();
    }

    /// What was added to the flat lists since the last end is a sample.
    pub fn end_sample(&mut self) {
        self.location_ends.push(self.locations.len() as u32);
        self.label_ends.push(self.labels.len() as u32);
    }
}
