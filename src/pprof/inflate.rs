//! Takes the gzip off a profile, or not: both are valid.

use std::io::{self, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::DecodeError;

type Head<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// The plain bytes of a profile that may be gzipped, perhaps in several members.
pub(super) enum Plain<R> {
    Gzip(Box<MultiGzDecoder<BufReader<Head<R>>>>),
    Raw(Head<R>),
}

/// Compressed bytes held at a time.
const WINDOW: usize = 8 << 10;

impl<R: Read> Plain<R> {
    pub fn open(mut reader: R) -> Result<Plain<R>, DecodeError> {
        let mut head = Vec::with_capacity(2);
        reader.by_ref().take(2).read_to_end(&mut head).map_err(DecodeError::Io)?;
        if head.is_empty() {
            return Err(DecodeError::Empty);
        }
        let gzip = head == [0x1f, 0x8b];
        let whole = Cursor::new(head).chain(reader);
        Ok(match gzip {
            true => Plain::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(WINDOW, whole)))),
            false => Plain::Raw(whole),
        })
    }

    /// Reads some bytes; 0 is the end, and then the gzip trailer was seen and is right.
    /// `inflated` bytes were read so far; the error says so.
    pub fn read(&mut self, buf: &mut [u8], inflated: u64) -> Result<usize, DecodeError> {
        loop {
            let result = match self {
                Plain::Gzip(gz) => gz.read(buf),
                Plain::Raw(raw) => raw.read(buf),
            };
            match (result, &self) {
                (Ok(n), _) => return Ok(n),
                (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => continue,
                (Err(e), Plain::Gzip(_)) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(DecodeError::TruncatedGzip { inflated });
                }
                (Err(e), Plain::Gzip(_)) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
                    return Err(DecodeError::DamagedGzip { inflated, reason: e.to_string() });
                }
                (Err(e), _) => return Err(DecodeError::Io(e)),
            }
        }
    }

    /// Everything, up to `limit` bytes.
    pub fn read_all(mut self, limit: u64) -> Result<Vec<u8>, DecodeError> {
        let mut data = Vec::new();
        let mut filled = 0usize;
        loop {
            if filled == data.len() {
                let room = (data.len()).clamp(64 << 10, 16 << 20);
                data.resize(data.len() + room, 0);
            }
            let Some(free) = data.get_mut(filled..) else { break };
            match self.read(free, filled as u64)? {
                0 => break,
                n => filled += n,
            }
            if filled as u64 > limit {
                return Err(DecodeError::TooLarge { limit: crate::units::ByteSize(limit) });
            }
        }
        data.truncate(filled);
        data.shrink_to_fit();
        Ok(data)
    }
}
