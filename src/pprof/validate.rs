//! Is a body a complete profile, and what does its first value add up to? In one pass and constant memory,
//! so that a capture can ask while the profile may be larger than memtrap itself.
//!
//! It checks the gzip trailer, the structure of every message, the string indexes and the number of values per sample.
//! It does not check that ids of locations, functions and mappings exist: [`Profile::parse`](super::Profile::parse) does.

use std::io::Read;

use super::Limits;
use super::error::{DecodeError, name_by_content};
use super::inflate::Plain;
use super::wire::{FIXED32, FIXED64, LEN, VARINT};
use crate::units::ByteSize;

/// What a complete profile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Size after decompression.
    pub inflated_bytes: u64,
    pub sample_types: u64,
    pub samples: u64,
    /// Sum of the first value of all samples: the number of goroutines in `goroutine`, objects in `heap`.
    pub total: i64,
}

/// Reads `reader` to its end and says whether it is a complete profile, gzipped or not.
/// Holds about 60 KiB, whatever the size. Only `limits.inflated_bytes` applies.
pub fn check(reader: impl Read, limits: &Limits) -> Result<Summary, DecodeError> {
    check_within(reader, &mut limits.inflated_bytes.clone())
}

/// The same of several profiles that share a budget: what this one inflates to, complete or not, is taken off `left`.
pub fn check_within(reader: impl Read, left: &mut u64) -> Result<Summary, DecodeError> {
    let mut walk = Walk::new(Plain::open(reader)?, *left);
    let checked = walk.profile().map_err(|e| {
        walk.see_head();
        name_by_content(walk.head.get(..walk.head_len).unwrap_or(&[]), e)
    });
    *left = left.saturating_sub(walk.at);
    checked
}

/// The sum of the first value of all samples of a complete profile: [`check`] for those who want one number.
pub fn total(reader: impl Read, limits: &Limits) -> Result<i64, DecodeError> {
    check(reader, limits).map(|summary| summary.total)
}

#[derive(Clone, Copy)]
enum Message {
    Profile,
    ValueType,
    Sample,
    Label,
    Mapping,
    Location,
    Line,
    Function,
}

/// What a field of a message holds.
enum Holds {
    Unknown,
    Number,
    Numbers,
    /// Index into the string table.
    Text,
    Texts,
    /// The values of a sample.
    Values,
    /// An entry of the string table itself.
    Entry,
    One(Message),
}

fn holds(message: Message, field: u64) -> Holds {
    use Holds::*;
    match (message, field) {
        (Message::Profile, 1 | 11) => One(Message::ValueType),
        (Message::Profile, 2) => One(Message::Sample),
        (Message::Profile, 3) => One(Message::Mapping),
        (Message::Profile, 4) => One(Message::Location),
        (Message::Profile, 5) => One(Message::Function),
        (Message::Profile, 6) => Entry,
        (Message::Profile, 7 | 8 | 14 | 15) => Text,
        (Message::Profile, 9 | 10 | 12) => Number,
        (Message::Profile, 13) => Texts,
        (Message::ValueType, 1 | 2) => Text,
        (Message::Sample, 1) => Numbers,
        (Message::Sample, 2) => Values,
        (Message::Sample, 3) => One(Message::Label),
        (Message::Label, 1 | 2 | 4) => Text,
        (Message::Label, 3) => Number,
        (Message::Mapping, 5 | 6) => Text,
        (Message::Mapping, 1..=10) => Number,
        (Message::Location, 4) => One(Message::Line),
        (Message::Location, 1..=5) => Number,
        (Message::Line, 1..=3) => Number,
        (Message::Function, 2..=4) => Text,
        (Message::Function, 1 | 5) => Number,
        _ => Unknown,
    }
}

struct Walk<R> {
    source: Plain<R>,
    buf: Box<[u8]>,
    pos: usize,
    len: usize,
    /// Position in the inflated profile.
    at: u64,
    limit: u64,
    /// The first bytes, to name what is no profile.
    head: [u8; 128],
    head_len: usize,

    sample_types: u64,
    samples: u64,
    total: i64,
    /// Values of the sample being read.
    values: u64,
    /// Fewest and most values that a sample had.
    value_counts: Option<(u64, u64)>,
    strings: u64,
    /// The highest string index used, and where.
    last_text: (u64, u64),
}

impl<R: Read> Walk<R> {
    fn new(source: Plain<R>, limit: u64) -> Walk<R> {
        Walk {
            source,
            buf: vec![0; 8 << 10].into_boxed_slice(),
            pos: 0,
            len: 0,
            at: 0,
            limit,
            head: [0; 128],
            head_len: 0,
            sample_types: 0,
            samples: 0,
            total: 0,
            values: 0,
            value_counts: None,
            strings: 0,
            last_text: (0, 0),
        }
    }

    fn profile(&mut self) -> Result<Summary, DecodeError> {
        self.message(Message::Profile, u64::MAX)?;
        if self.at == 0 {
            return Err(DecodeError::Empty);
        }
        if self.sample_types == 0 {
            return Err(DecodeError::NoSampleTypes);
        }
        let (index, at) = self.last_text;
        if index >= self.strings {
            return Err(DecodeError::malformed(at, format!("string {index} of a table of {}", self.strings)));
        }
        if self.value_counts.is_some_and(|counts| counts != (self.sample_types, self.sample_types)) {
            return Err(DecodeError::malformed(self.at, "samples with more or fewer values than there are sample types"));
        }
        Ok(Summary { inflated_bytes: self.at, sample_types: self.sample_types, samples: self.samples, total: self.total })
    }

    /// Reads the fields of one message, which ends at `end`; `u64::MAX` is the end of the stream.
    fn message(&mut self, kind: Message, end: u64) -> Result<(), DecodeError> {
        while self.at < end {
            let start = self.at;
            let Some(first) = self.byte()? else {
                return if end == u64::MAX { Ok(()) } else { Err(self.cut_off()) };
            };
            let tag = self.varint_after(first, end)?;
            self.field(holds(kind, tag >> 3), tag, start, end)?;
        }
        Ok(())
    }

    fn field(&mut self, holds: Holds, tag: u64, start: u64, end: u64) -> Result<(), DecodeError> {
        let wire = (tag & 7) as u8;
        match (holds, wire) {
            (Holds::Number | Holds::Numbers, VARINT) => {
                self.varint(end)?;
            }
            (Holds::Text | Holds::Texts, VARINT) => {
                let index = self.varint(end)?;
                self.text(index, start);
            }
            (Holds::Values, VARINT) => {
                let value = self.varint(end)?;
                self.value(value);
            }
            (Holds::Numbers, LEN) => self.packed(end, |_, _| {})?,
            (Holds::Texts, LEN) => self.packed(end, |walk, index| walk.text(index, start))?,
            (Holds::Values, LEN) => self.packed(end, Walk::value)?,
            (Holds::Entry, LEN) => {
                let len = self.length(end)?;
                if self.strings == 0 && len > 0 {
                    return Err(DecodeError::malformed(start, "the first string is not empty"));
                }
                self.strings += 1;
                self.skip(len)?;
            }
            (Holds::One(inner), LEN) => {
                let len = self.length(end)?;
                self.nested(inner, tag >> 3, self.at + len)?;
            }
            (Holds::Unknown, VARINT) => {
                self.varint(end)?;
            }
            (Holds::Unknown, LEN) => {
                let len = self.length(end)?;
                self.skip(len)?;
            }
            (Holds::Unknown, FIXED64 | FIXED32) => {
                let width = if wire == FIXED64 { 8 } else { 4 };
                if end - self.at < width {
                    return Err(self.cut_off());
                }
                self.skip(width)?;
            }
            (_, VARINT | LEN | FIXED64 | FIXED32) => {
                return Err(DecodeError::malformed(start, format!("field {} has the wrong wire type", tag >> 3)));
            }
            _ => return Err(DecodeError::malformed(start, format!("unknown wire type {wire}"))),
        }
        Ok(())
    }

    fn nested(&mut self, inner: Message, field: u64, end: u64) -> Result<(), DecodeError> {
        match inner {
            Message::ValueType if field == 1 => self.sample_types += 1,
            Message::Sample => self.values = 0,
            _ => {}
        }
        self.message(inner, end)?;
        if matches!(inner, Message::Sample) {
            self.samples += 1;
            let (least, most) = self.value_counts.unwrap_or((self.values, self.values));
            self.value_counts = Some((least.min(self.values), most.max(self.values)));
        }
        Ok(())
    }

    fn value(&mut self, value: u64) {
        if self.values == 0 {
            self.total = self.total.wrapping_add(value as i64);
        }
        self.values += 1;
    }

    fn text(&mut self, index: u64, at: u64) {
        if index >= self.last_text.0 {
            self.last_text = (index, at);
        }
    }

    fn packed(&mut self, end: u64, mut f: impl FnMut(&mut Walk<R>, u64)) -> Result<(), DecodeError> {
        let end = self.length(end).map(|len| self.at + len)?;
        while self.at < end {
            let value = self.varint(end)?;
            f(self, value);
        }
        Ok(())
    }

    /// The length of a field that must end by `end`.
    fn length(&mut self, end: u64) -> Result<u64, DecodeError> {
        let len = self.varint(end)?;
        // At the top level the end is not known yet: the stream or the limit will tell.
        let left = if end == u64::MAX { i64::MAX as u64 - self.at } else { end - self.at };
        if len > left {
            return Err(DecodeError::malformed(self.at, format!("a field of {len} bytes where {left} are left")));
        }
        Ok(len)
    }

    fn varint(&mut self, end: u64) -> Result<u64, DecodeError> {
        if self.at >= end {
            return Err(self.cut_off());
        }
        let first = self.byte()?.ok_or_else(|| self.cut_off())?;
        self.varint_after(first, end)
    }

    fn varint_after(&mut self, first: u8, end: u64) -> Result<u64, DecodeError> {
        let mut value = u64::from(first & 0x7f);
        let mut byte = first;
        let mut shift = 7;
        while byte & 0x80 != 0 {
            if shift == 70 {
                return Err(DecodeError::malformed(self.at, "a number that does not end"));
            }
            if self.at >= end {
                return Err(self.cut_off());
            }
            byte = self.byte()?.ok_or_else(|| self.cut_off())?;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Ok(value)
    }

    fn cut_off(&self) -> DecodeError {
        DecodeError::malformed(self.at, "it ends in the middle of a field")
    }

    fn byte(&mut self) -> Result<Option<u8>, DecodeError> {
        if self.pos == self.len && !self.fill()? {
            return Ok(None);
        }
        let byte = self.buf.get(self.pos).copied();
        self.pos += 1;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, mut n: u64) -> Result<(), DecodeError> {
        while n > 0 {
            if self.pos == self.len && !self.fill()? {
                return Err(self.cut_off());
            }
            let step = n.min((self.len - self.pos) as u64);
            self.pos += step as usize;
            self.at += step;
            n -= step;
        }
        Ok(())
    }

    /// Reads on until the head is full, so that an error can quote it.
    fn see_head(&mut self) {
        while self.head_len < self.head.len() && matches!(self.fill(), Ok(true)) {}
    }

    /// Reads the next piece; false at the end.
    fn fill(&mut self) -> Result<bool, DecodeError> {
        self.len = 0;
        self.pos = 0;
        let n = self.source.read(&mut self.buf, self.at)?;
        if self.at + n as u64 > self.limit {
            return Err(DecodeError::TooLarge { limit: ByteSize(self.limit) });
        }
        for (to, from) in self.head.iter_mut().skip(self.head_len).zip(self.buf.iter().take(n)) {
            *to = *from;
            self.head_len += 1;
        }
        self.len = n;
        Ok(n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Pb, gzip, profile};
    use super::*;

    fn goroutines() -> Vec<u8> {
        profile(&[("goroutine", "count")], &[(&["main.wait", "main.main"], &[40]), (&["main.serve"], &[2])]).0
    }

    fn checked(body: &[u8]) -> Result<Summary, String> {
        check(body, &Limits::default()).map_err(|e| e.to_string())
    }

    #[test]
    fn goroutines_are_counted_without_building_the_profile() {
        let plain = goroutines();
        let want = Summary { inflated_bytes: plain.len() as u64, sample_types: 1, samples: 2, total: 42 };
        assert_eq!(checked(&plain), Ok(want));
        assert_eq!(checked(&gzip(&plain)), Ok(want));
        assert_eq!(total(&gzip(&plain)[..], &Limits::default()).unwrap(), 42);
    }

    #[test]
    fn members_of_a_gzip_stream_are_one_profile() {
        let plain = goroutines();
        let (a, b) = plain.split_at(plain.len() / 2);
        assert_eq!(checked(&[gzip(a), gzip(b)].concat()).map(|s| s.total), Ok(42));
    }

    #[test]
    fn a_gzip_stream_cut_anywhere_is_rejected() {
        let body = gzip(&goroutines());
        for cut in 2..body.len() {
            let error = checked(&body[..cut]).unwrap_err();
            assert!(error.starts_with("cut off"), "{cut}: {error}");
        }
    }

    #[test]
    fn a_plain_profile_cut_inside_of_its_strings_is_rejected() {
        let body = goroutines();
        for cut in 0..body.len() {
            assert!(checked(&body[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_wrong_checksum_is_rejected() {
        let mut body = gzip(&goroutines());
        let crc = body.len() - 8;
        body[crc] ^= 1;
        assert!(checked(&body).unwrap_err().starts_with("damaged gzip stream"));
        let trailing = [gzip(&goroutines()), b"some more bytes here".to_vec()].concat();
        assert!(checked(&trailing).unwrap_err().starts_with("damaged gzip stream"));
    }

    #[test]
    fn what_is_no_profile_is_called_by_its_name() {
        assert_eq!(checked(b""), Err("empty".into()));
        assert_eq!(checked(b"<!DOCTYPE html><html><body>Sign in</body>"), Err("a web page, not a profile".into()));
        assert_eq!(checked(&gzip(b"<html>\n<head>")), Err("a web page, not a profile".into()));
        for text in [
            "Could not enable CPU profiling: cpu profiling already in use\n",
            "Unknown profile\n",
            "heap profile: 3: 4096 [5: 8192] @ heap/1048576\n",
            "goroutine 1 [running]:\nmain.main()\n",
            "goroutine profile: total 5\n5 @ 0x43\n",
            "--- contention:\n",
            "2024/01/01 panic\n",
            "\n\nsorry\n",
            "服务不可用",
        ] {
            let error = checked(text.as_bytes()).unwrap_err();
            assert!(error.starts_with("text, not a profile"), "{text}: {error}");
        }
        assert!(check(&b"heap profile: 3: 4096"[..], &Limits::default()).unwrap_err().advice().contains("debug="));
    }

    #[test]
    fn a_gzip_bomb_is_stopped_at_the_limit() {
        let limits = Limits { inflated_bytes: 1 << 20, ..Limits::default() };
        let bomb = gzip(&Pb::default().len(6, &vec![0; 8 << 20]).0);
        assert_eq!(check(&bomb[..], &limits).unwrap_err().to_string(), "malformed profile at byte 0: the first string is not empty");
        let bomb = gzip(&Pb::default().len(6, b"").len(6, &vec![0; 8 << 20]).0);
        assert_eq!(check(&bomb[..], &limits).unwrap_err().to_string(), "more than 1.00MiB after decompression");
    }

    #[test]
    fn strings_that_do_not_exist_are_rejected() {
        let body = Pb::default().message(1, Pb::default().int(1, 7)).len(6, b"").len(6, b"x");
        assert_eq!(checked(&body.0), Err("malformed profile at byte 2: string 7 of a table of 2".into()));
    }

    #[test]
    fn samples_need_one_value_per_type() {
        let types = Pb::default().message(1, Pb::default().int(1, 0)).len(6, b"");
        for (values, ok) in [(&[][..], false), (&[1], true), (&[1, 2], false)] {
            let packed = types.clone().message(2, Pb::default().packed(2, values));
            assert_eq!(checked(&packed.0).is_ok(), ok);
            let unpacked = types.clone().message(2, values.iter().fold(Pb::default(), |m, v| m.int(2, *v)));
            assert_eq!(checked(&unpacked.0).is_ok(), ok);
        }
    }

    #[test]
    fn a_reader_that_fails_is_not_called_a_bad_profile() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied))
            }
        }
        assert!(matches!(check(Broken, &Limits::default()), Err(DecodeError::Io(_))));
        let body = gzip(&goroutines());
        assert!(matches!(check((&body[..20]).chain(Broken), &Limits::default()), Err(DecodeError::Io(_))));
    }
}
