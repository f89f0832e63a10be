//! Names and fields of the program's types (`internal/abi/type.go`), as far as a path through its objects needs them.

use super::masks::rtype;
use super::memory::Record;
use super::{Refused, Runtime};

const MAX_NAME: u64 = 1 << 10;
const MAX_FIELDS: u64 = 1 << 12;
/// Structs within structs within arrays.
const MAX_DEPTH: u32 = 16;
/// `TFlagExtraStar`: the name is that of the pointer to it.
const EXTRA_STAR: u64 = 2;
/// `abi.Kind`.
const KIND_MASK: u64 = 31;
const ARRAY: u64 = 17;
const CHAN: u64 = 18;
const FUNC: u64 = 19;
const INTERFACE: u64 = 20;
const MAP: u64 = 21;
const POINTER: u64 = 22;
const SLICE: u64 = 23;
const STRING: u64 = 24;
const STRUCT: u64 = 25;

/// Behind the common part: what it points to, or holds.
const ELEMENT: u64 = 48;
/// `StructType.Fields`, and one of them: name, type, offset.
const FIELDS: u64 = 56;
const FIELD_BYTES: u64 = 24;

/// What a pointer at some place of an object leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pointee {
    /// An object of this type.
    Of(u64),
    /// Its name is all that is known.
    Named(String),
    /// The word before tells: a type, or a table whose second word is the type.
    Dynamic,
    Unknown,
}

/// The name, as Go prints it.
pub fn name(runtime: &Runtime, at: u64) -> Option<String> {
    let record = common(runtime, at).ok()?;
    let offset = record.get(rtype::NAME).ok()?;
    let has_star = record.get(rtype::FLAGS).ok()? & EXTRA_STAR != 0;
    // flags, the length as a varint, the name
    let start = runtime.module.types.start.wrapping_add(offset);
    if offset == 0 || !runtime.module.types.contains(start) {
        return None;
    }
    let mut head = [0; 3];
    runtime.memory.constant(start, &mut head).ok()?;
    let [_, low, high] = head;
    let (len, skip) = if low & 0x80 == 0 { (u64::from(low), 2) } else { (u64::from(low & 0x7f) | u64::from(high) << 7, 3) };
    let mut bytes = vec![0; len.min(MAX_NAME) as usize];
    runtime.memory.constant(start.wrapping_add(skip), &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).replace(char::is_control, "\u{fffd}");
    let text = if has_star { text.strip_prefix('*').map(str::to_owned).unwrap_or(text) } else { text };
    (!text.is_empty()).then_some(text)
}

fn common(runtime: &Runtime, at: u64) -> Result<Record, Refused> {
    if at == 0 || !at.is_multiple_of(8) {
        return Err(Refused::new("no type is there"));
    }
    runtime.memory.record(at, rtype::SIZE)
}

fn kind(record: &Record) -> Result<u64, Refused> {
    Ok(record.get(rtype::KIND)? & KIND_MASK)
}

/// Bytes of one such.
pub fn size(runtime: &Runtime, at: u64) -> Option<u64> {
    common(runtime, at).ok()?.get(rtype::BYTES).ok()
}

/// What the pointer at an offset of an object of this type, or of a row of them, leads to.
pub fn pointee(runtime: &Runtime, at: u64, offset: u64) -> Pointee {
    match size(runtime, at) {
        Some(size) if size > 0 => within(runtime, at, offset % size, 0).unwrap_or(Pointee::Unknown),
        _ => Pointee::Unknown,
    }
}

fn within(runtime: &Runtime, at: u64, offset: u64, depth: u32) -> Result<Pointee, Refused> {
    if depth > MAX_DEPTH {
        return Ok(Pointee::Unknown);
    }
    let record = common(runtime, at)?;
    let element = || runtime.memory.u64(at.wrapping_add(ELEMENT));
    Ok(match kind(&record)? {
        POINTER if offset == 0 => Pointee::Of(element()?),
        SLICE if offset == 0 => match name(runtime, element()?) {
            Some(element) => Pointee::Named(format!("[]{element}")),
            None => Pointee::Unknown,
        },
        STRING => Pointee::Named("string".into()),
        MAP | CHAN => name(runtime, at).map_or(Pointee::Unknown, Pointee::Named),
        FUNC => Pointee::Named("func".into()),
        INTERFACE if offset == 8 => Pointee::Dynamic,
        ARRAY => {
            let element = element()?;
            let size = common(runtime, element)?.get(rtype::BYTES)?;
            if size == 0 {
                return Ok(Pointee::Unknown);
            }
            within(runtime, element, offset % size, depth + 1)?
        }
        STRUCT => {
            let fields = runtime.memory.u64(at.wrapping_add(FIELDS))?;
            let count = runtime.memory.u64(at.wrapping_add(FIELDS + 8))?.min(MAX_FIELDS);
            let words = runtime.memory.words(fields, count.saturating_mul(FIELD_BYTES / 8), MAX_FIELDS * 3)?;
            let mut found = None;
            for field in words.chunks_exact(3) {
                if let [_, of, start] = field
                    && *start <= offset
                {
                    found = Some((*of, *start));
                }
            }
            match found {
                Some((of, start)) => within(runtime, of, offset - start, depth + 1)?,
                None => Pointee::Unknown,
            }
        }
        _ => Pointee::Unknown,
    })
}

/// The type that the word before a pointer in an interface names; `None` if it names none.
pub fn dynamic(runtime: &Runtime, word: u64) -> Option<u64> {
    let is_type = |at: u64| runtime.module.types.contains(at) && at.is_multiple_of(8);
    if word < 4096 {
        return None;
    }
    // of a table of methods the second word is the type; of a type it is a count of bytes
    match runtime.memory.u64(word.wrapping_add(8)) {
        Ok(second) if is_type(second) => Some(second),
        _ => is_type(word).then_some(word),
    }
}

/// What a value of this type in an interface points to.
pub fn boxed(runtime: &Runtime, at: u64) -> Option<Pointee> {
    let record = common(runtime, at).ok()?;
    match kind(&record).ok()? {
        POINTER => runtime.memory.u64(at.wrapping_add(ELEMENT)).ok().map(Pointee::Of),
        MAP | CHAN => name(runtime, at).map(Pointee::Named),
        FUNC => Some(Pointee::Named("func".into())),
        _ => Some(Pointee::Of(at)),
    }
}
