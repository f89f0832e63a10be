//! Is this a whole profile, and how many does it count? One pass over the stream in constant memory; nothing is decoded
//! beyond that.

use std::io::{self, BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;

/// What a profile may inflate to. Real ones stay far below; a gzip bomb does not.
const MAX_INFLATED: u64 = 1 << 30;

/// The first sample type of a `Profile` message, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quick {
    /// Of a goroutine profile, the number of goroutines.
    pub total: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NotAProfile {
    #[error("it is not gzipped, or broken off or damaged ({0})")]
    Gzip(io::Error),
    #[error("it inflates to more than a profile can be")]
    TooLarge,
    #[error("its content is no pprof profile")]
    Content,
}

/// Reads all of `gzipped`. The sums at the end of each gzip member are checked.
pub(super) fn scan(gzipped: impl Read) -> Result<Quick, NotAProfile> {
    let inflated = MultiGzDecoder::new(BufReader::with_capacity(64 << 10, gzipped)).take(MAX_INFLATED);
    let mut wire = Wire { from: BufReader::with_capacity(64 << 10, inflated), read: 0 };
    let (mut sample_types, mut strings, mut total) = (0, 0, 0u64);
    while let Some((field, kind)) = wire.tag()? {
        // profile.proto: 9, 10, 12 and 14 are numbers, the others messages and strings
        match (field, kind) {
            (1, 2) => sample_types += wire.skip_block()?,
            (2, 2) => total = total.saturating_add(wire.sample()?),
            (6, 2) => strings += wire.skip_block()?,
            (3 | 4 | 5 | 7 | 8 | 11 | 13 | 15.., 2) => {
                wire.skip_block()?;
            }
            (7..=10 | 12..=14 | 15.., 0) => {
                wire.number()?;
            }
            _ => return Err(NotAProfile::Content),
        }
    }
    if wire.read >= MAX_INFLATED {
        return Err(NotAProfile::TooLarge);
    }
    if sample_types > 0 && strings > 0 { Ok(Quick { total }) } else { Err(NotAProfile::Content) }
}

/// Protobuf's wire format.
struct Wire<R> {
    from: BufReader<R>,
    read: u64,
}

impl<R: Read> Wire<R> {
    fn byte(&mut self) -> Result<Option<u8>, NotAProfile> {
        let Some(byte) = self.from.fill_buf().map_err(NotAProfile::Gzip)?.first().copied() else { return Ok(None) };
        self.from.consume(1);
        self.read += 1;
        Ok(Some(byte))
    }

    /// `None` at the end, between two fields.
    fn tag(&mut self) -> Result<Option<(u64, u64)>, NotAProfile> {
        match self.byte()? {
            Some(first) => self.varint(first).map(|tag| Some((tag >> 3, tag & 7))),
            None => Ok(None),
        }
    }

    fn number(&mut self) -> Result<u64, NotAProfile> {
        let first = self.byte()?.ok_or_else(|| self.broken_off())?;
        self.varint(first)
    }

    fn varint(&mut self, first: u8) -> Result<u64, NotAProfile> {
        let mut value = u64::from(first & 0x7f);
        let (mut byte, mut shift) = (first, 7);
        while byte & 0x80 != 0 {
            if shift > 63 {
                return Err(NotAProfile::Content);
            }
            byte = self.byte()?.ok_or_else(|| self.broken_off())?;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
        }
        Ok(value)
    }

    fn skip_block(&mut self) -> Result<u64, NotAProfile> {
        let length = self.number()?;
        self.skip(length)?;
        Ok(1)
    }

    fn skip(&mut self, mut left: u64) -> Result<(), NotAProfile> {
        while left > 0 {
            let here = self.from.fill_buf().map_err(NotAProfile::Gzip)?.len();
            if here == 0 {
                return Err(self.broken_off());
            }
            let step = here.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.from.consume(step);
            self.read += step as u64;
            left -= step as u64;
        }
        Ok(())
    }

    /// The first value of a sample: field 2, packed or not.
    fn sample(&mut self) -> Result<u64, NotAProfile> {
        let length = self.number()?;
        let end = self.read.checked_add(length).ok_or(NotAProfile::Content)?;
        let mut first = None;
        while self.read < end {
            let tag = self.number()?;
            match (tag >> 3, tag & 7) {
                (2, 0) => {
                    let value = self.number()?;
                    first.get_or_insert(value);
                }
                (2, 2) => {
                    let block = self.number()?;
                    let after = self.read.saturating_add(block);
                    if block > 0 {
                        let value = self.number()?;
                        first.get_or_insert(value);
                    }
                    self.skip(after.checked_sub(self.read).ok_or(NotAProfile::Content)?)?;
                }
                (_, 0) => {
                    self.number()?;
                }
                (_, 2) => {
                    self.skip_block()?;
                }
                _ => return Err(NotAProfile::Content),
            }
        }
        // negative in a profile that is a difference; none that a service serves
        if self.read == end { Ok(first.filter(|v| *v <= i64::MAX as u64).unwrap_or(0)) } else { Err(NotAProfile::Content) }
    }

    /// The message ends within a field: at the bound, or cut.
    fn broken_off(&self) -> NotAProfile {
        if self.read >= MAX_INFLATED { NotAProfile::TooLarge } else { NotAProfile::Content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::tests::{gzip, profile};

    #[test]
    fn goroutines_are_counted_without_decoding_the_profile() {
        for count in [0, 1, 300, 100_000] {
            assert_eq!(scan(profile(count).as_slice()).unwrap().total, count);
        }
    }

    #[test]
    fn a_profile_that_breaks_off_anywhere_is_none() {
        let whole = profile(300);
        for end in 0..whole.len() {
            assert!(scan(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_flipped_byte_of_the_content_is_noticed() {
        let mut damaged = profile(300);
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        assert!(matches!(scan(damaged.as_slice()), Err(NotAProfile::Gzip(_))));
    }

    #[test]
    fn other_gzipped_things_are_no_profile() {
        for other in [b"hello".to_vec(), Vec::new(), vec![0; 1 << 20], b"\x0a\x04\x08\x01\x10\x02".to_vec(), vec![0xff; 100]] {
            assert!(scan(gzip(&other).as_slice()).is_err(), "{:?}", &other[..other.len().min(8)]);
        }
        assert!(matches!(scan(&b"<html>"[..]), Err(NotAProfile::Gzip(_))));
    }

    #[test]
    fn a_bomb_ends_at_the_bound() {
        // one string as long as the bound, after an honest beginning
        let mut bytes = vec![0x0a, 4, 0x08, 1, 0x10, 2, 0x32, 0xff, 0xff, 0xff, 0xff, 0x7f];
        bytes.resize(64 << 20, b'a');
        assert!(scan(gzip(&bytes).as_slice()).is_err());
    }
}
