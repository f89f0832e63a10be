//! The protobuf wire format over a slice.

use super::error::DecodeError;

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const LEN: u8 = 2;
pub(super) const FIXED32: u8 = 5;

/// A message, or a packed list, that is being read. It knows where it lies in the whole.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    data: &'a [u8],
    at: u64,
}

/// One field: its number, where its value begins, and the value.
pub(super) struct Field<'a> {
    pub number: u64,
    pub at: u64,
    value: Value<'a>,
}

enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(Cursor<'a>),
}

impl<'a> Cursor<'a> {
    pub fn new(data: &'a [u8]) -> Cursor<'a> {
        Cursor { data, at: 0 }
    }

    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.data
    }

    fn advance(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.data.split_at_checked(n)?;
        self.data = rest;
        self.at += n as u64;
        Some(head)
    }

    /// `None` at the end.
    pub fn varint(&mut self) -> Result<Option<u64>, DecodeError> {
        // One byte is by far the most common.
        match self.data {
            [] => return Ok(None),
            [byte, rest @ ..] if *byte < 0x80 => {
                self.data = rest;
                self.at += 1;
                return Ok(Some(u64::from(*byte)));
            }
            _ => {}
        }
        let mut value = 0u64;
        for (i, byte) in self.data.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.advance(i + 1);
                return Ok(Some(value));
            }
        }
        Err(DecodeError::malformed(self.at, "a number that does not end"))
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        self.varint()?.ok_or_else(|| DecodeError::malformed(self.at, "a field without its value"))
    }

    /// The next field, or `None` at the end.
    pub fn field(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        let start = self.at;
        let Some(tag) = self.varint()? else { return Ok(None) };
        let at = self.at;
        let value = match (tag & 7) as u8 {
            VARINT => Value::Varint(self.number()?),
            LEN => {
                let len = self.number()?;
                let at = self.at;
                let data = usize::try_from(len)
                    .ok()
                    .and_then(|len| self.advance(len))
                    .ok_or_else(|| DecodeError::malformed(at, format!("a field of {len} bytes where {} are left", self.data.len())))?;
                Value::Bytes(Cursor { data, at })
            }
            kind @ (FIXED64 | FIXED32) => {
                let width = if kind == FIXED64 { 8 } else { 4 };
                self.advance(width).ok_or_else(|| DecodeError::malformed(at, "a field without its value"))?;
                Value::Fixed
            }
            kind => return Err(DecodeError::malformed(start, format!("unknown wire type {kind}"))),
        };
        Ok(Some(Field { number: tag >> 3, at, value }))
    }
}

impl<'a> Field<'a> {
    fn mismatch<T>(&self) -> Result<T, DecodeError> {
        Err(DecodeError::malformed(self.at, format!("field {} has the wrong wire type", self.number)))
    }

    pub fn u64(&self) -> Result<u64, DecodeError> {
        match self.value {
            Value::Varint(value) => Ok(value),
            _ => self.mismatch(),
        }
    }

    pub fn i64(&self) -> Result<i64, DecodeError> {
        self.u64().map(|v| v as i64)
    }

    pub fn message(&self) -> Result<Cursor<'a>, DecodeError> {
        match self.value {
            Value::Bytes(cursor) => Ok(cursor),
            _ => self.mismatch(),
        }
    }

    /// Each number of a repeated field, packed or not, with its position.
    pub fn each(&self, mut f: impl FnMut(u64, u64) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        match self.value {
            Value::Varint(value) => f(value, self.at),
            Value::Bytes(mut packed) => loop {
                let at = packed.at();
                match packed.varint()? {
                    Some(value) => f(value, at)?,
                    None => return Ok(()),
                }
            },
            Value::Fixed => self.mismatch(),
        }
    }
}
