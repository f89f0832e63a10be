//! Writes profiles in pprof's format, gzipped: those that memtrap makes itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::wire;

/// What a number measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    pub kind: &'a str,
    pub unit: &'a str,
}

/// A call of a stack, with its address; the innermost line is inlined into the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub address: u64,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub function: String,
    pub file: String,
    pub line: u32,
}

/// A profile that is being written. Fields and their numbers are those of `profile.proto`.
#[derive(Debug)]
pub struct Builder {
    out: Vec<u8>,
    strings: Ids<String>,
    functions: Ids<(String, String)>,
    locations: Ids<Call>,
}

/// Numbers of what was seen, in the order of appearance.
#[derive(Debug)]
struct Ids<T>(HashMap<T, u64>);

impl<T: Hash + Eq + Clone> Ids<T> {
    /// The number, and whether it is new.
    fn of(&mut self, it: &T, first: u64) -> (u64, bool) {
        if let Some(id) = self.0.get(it) {
            return (*id, false);
        }
        let id = self.0.len() as u64 + first;
        self.0.insert(it.clone(), id);
        (id, true)
    }
}

impl Builder {
    /// `period` counts in `period_type`.
    pub fn new(types: &[Type], period_type: Type, period: u64) -> Builder {
        let mut builder =
            Builder { out: Vec::new(), strings: Ids(HashMap::new()), functions: Ids(HashMap::new()), locations: Ids(HashMap::new()) };
        builder.string("");
        types.iter().for_each(|t| builder.value_type(1, *t));
        builder.value_type(11, period_type);
        number(&mut builder.out, 12, period);
        builder
    }

    pub fn time_nanos(&mut self, unix_ns: u64) {
        number(&mut self.out, 9, unix_ns);
    }

    /// One stack, the innermost call first, with a value per type and perhaps a numeric label.
    pub fn sample(&mut self, values: &[i64], calls: &[Call], label: Option<(&str, u64)>) {
        let locations: Vec<u64> = calls.iter().map(|call| self.location(call)).collect();
        let mut sample = Vec::new();
        packed(&mut sample, 1, locations);
        packed(&mut sample, 2, values.iter().map(|v| *v as u64));
        if let Some((key, value)) = label {
            let mut numeric = Vec::new();
            number(&mut numeric, 1, self.string(key));
            number(&mut numeric, 3, value);
            bytes(&mut sample, 3, &numeric);
        }
        bytes(&mut self.out, 2, &sample);
    }

    fn location(&mut self, call: &Call) -> u64 {
        let (id, is_new) = self.locations.of(call, 1);
        if is_new {
            let mut location = Vec::new();
            number(&mut location, 1, id);
            number(&mut location, 3, call.address);
            for line in &call.lines {
                let mut message = Vec::new();
                number(&mut message, 1, self.function(line));
                number(&mut message, 2, line.line.into());
                bytes(&mut location, 4, &message);
            }
            bytes(&mut self.out, 4, &location);
        }
        id
    }

    fn function(&mut self, line: &Line) -> u64 {
        let (id, is_new) = self.functions.of(&(line.function.clone(), line.file.clone()), 1);
        if is_new {
            let (name, file) = (self.string(&line.function), self.string(&line.file));
            let mut function = Vec::new();
            [(1, id), (2, name), (3, name), (4, file)].iter().for_each(|(field, value)| number(&mut function, *field, *value));
            bytes(&mut self.out, 5, &function);
        }
        id
    }

    fn value_type(&mut self, field: u64, Type { kind, unit }: Type) {
        let (kind, unit) = (self.string(kind), self.string(unit));
        let mut message = Vec::new();
        number(&mut message, 1, kind);
        number(&mut message, 2, unit);
        bytes(&mut self.out, field, &message);
    }

    fn string(&mut self, text: &str) -> u64 {
        let (id, is_new) = self.strings.of(&text.to_owned(), 0);
        if is_new {
            bytes(&mut self.out, 6, text.as_bytes());
        }
        id
    }

    pub fn finish(self) -> io::Result<Vec<u8>> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&self.out)?;
        gzip.finish()
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3 | u64::from(wire::VARINT));
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | u64::from(wire::LEN));
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn packed(out: &mut Vec<u8>, field: u64, values: impl IntoIterator<Item = u64>) {
    let mut list = Vec::new();
    values.into_iter().for_each(|value| varint(&mut list, value));
    bytes(out, field, &list);
}
