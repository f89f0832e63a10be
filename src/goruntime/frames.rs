//! Which words of a stack are pointers: the compiler's stack maps (`getStackMap` in `runtime/stkframe.go`, `scanframeworker` in
//! `runtime/mgcmark.go`).

use std::collections::HashMap;
use std::rc::Rc;

use super::functions::Functions;
use super::masks::bit;
use super::unwind::Call;
use super::{Refused, Runtime};

/// `PCDATA_StackMapIndex`, `FUNCDATA_ArgsPointerMaps`, `FUNCDATA_LocalsPointerMaps`, `FUNCDATA_StackObjects` of `internal/abi/symtab.go`.
const MAP_INDEX: u64 = 1;
const ARGUMENTS: u64 = 0;
const LOCALS: u64 = 1;
const OBJECTS: u64 = 2;
/// Words of one frame.
const MAX_WORDS: u64 = 1 << 24;
/// Variables of one frame whose address is taken.
const MAX_OBJECTS: u64 = 1 << 14;
/// `stackObjectRecord`: offset, size, bytes with pointers (negative: a program, not a mask), where the mask is.
const OBJECT_BYTES: u64 = 16;
/// Calls whose maps are kept.
const MAX_KNOWN: usize = 1 << 18;

/// Reads stack maps, each once.
pub struct FrameMaps<'r> {
    runtime: &'r Runtime<'r>,
    functions: Functions<'r>,
    known: HashMap<u64, Rc<FrameMap>>,
}

/// What the pointers of a frame are, by offsets.
#[derive(Debug, Default)]
struct FrameMap {
    /// Below the frame pointer's place: as many words, and which of them.
    locals: (u64, Vec<u8>),
    /// Above the return address.
    arguments: (u64, Vec<u8>),
    /// Variables whose address is taken.
    objects: Vec<Object>,
}

#[derive(Debug)]
struct Object {
    /// From the frame pointer's place, or from the arguments if not negative.
    offset: i64,
    bytes: u64,
    pointer_words: u64,
    bits: Vec<u8>,
}

/// A variable on the stack whose address is taken: as long as nothing points to it, it may hold anything.
#[derive(Debug)]
pub struct StackObject {
    pub start: u64,
    pub end: u64,
    pub pointers: Vec<u64>,
}

/// Words of a stack, by their addresses.
#[derive(Debug, Default)]
pub struct Words {
    pub precise: Vec<u64>,
    /// Of a frame that was interrupted, or whose maps are not known: any of them may be a pointer, or has been one.
    pub possible: Vec<u64>,
    pub objects: Vec<StackObject>,
}

impl<'r> FrameMaps<'r> {
    pub fn new(runtime: &'r Runtime<'r>) -> Result<FrameMaps<'r>, Refused> {
        Ok(FrameMaps { runtime, functions: runtime.functions()?, known: HashMap::new() })
    }

    /// Adds the words of a call's frame that are pointers.
    pub fn words(&mut self, call: &Call, into: &mut Words) {
        if call.is_exact || call.is_injected {
            into.possible.extend((call.low..call.high).step_by(8));
            return;
        }
        let Ok(map) = self.map(call) else {
            into.possible.extend((call.low..call.high).step_by(8));
            return;
        };
        // the caller's frame pointer is saved below the return address, in every frame that has one
        let frame = if call.high > call.low { call.high.wrapping_sub(8) } else { call.high };
        let arguments = call.high.wrapping_add(8);
        let mut add = |from: u64, words: u64, bits: &[u8]| {
            let set = (0..words).filter(|at| bit(bits, *at)).map(|at| from.wrapping_add(8 * at));
            into.precise.extend(set);
        };
        add(frame.wrapping_sub(8 * map.locals.0), map.locals.0, &map.locals.1);
        add(arguments, map.arguments.0, &map.arguments.1);
        for object in &map.objects {
            let start = if object.offset < 0 { frame } else { arguments }.wrapping_add_signed(object.offset);
            let set = (0..object.pointer_words).filter(|at| bit(&object.bits, *at));
            let pointers = set.map(|at| start.wrapping_add(8 * at)).collect();
            into.objects.push(StackObject { start, end: start.wrapping_add(object.bytes), pointers });
        }
    }

    fn map(&mut self, call: &Call) -> Result<Rc<FrameMap>, Refused> {
        if let Some(known) = self.known.get(&call.pc) {
            return Ok(known.clone());
        }
        let map = Rc::new(self.read(call)?);
        if self.known.len() < MAX_KNOWN {
            self.known.insert(call.pc, map.clone());
        }
        Ok(map)
    }

    fn read(&self, call: &Call) -> Result<FrameMap, Refused> {
        let index = self.functions.pcdata(&call.function, MAP_INDEX, call.address())?;
        // before the first call of a function the first map holds
        let index = index.and_then(|index| u64::try_from(index).ok()).unwrap_or(0);
        Ok(FrameMap {
            locals: self.stack_map(call, LOCALS, index)?,
            arguments: self.stack_map(call, ARGUMENTS, index)?,
            objects: self.objects(call)?,
        })
    }

    /// `stackmap`: how many maps, of how many bits each, then the maps.
    fn stack_map(&self, call: &Call, which: u64, index: u64) -> Result<(u64, Vec<u8>), Refused> {
        let Some(at) = self.functions.funcdata(&call.function, which)? else { return Ok((0, Vec::new())) };
        let memory = self.runtime.memory;
        let (count, bits) = (u64::from(memory.constant_u32(at)?), u64::from(memory.constant_u32(at.wrapping_add(4))?));
        if index >= count || bits > MAX_WORDS {
            return Err(Refused::new("a stack map that its function does not have"));
        }
        let bytes = bits.div_ceil(8);
        let mut map = vec![0; bytes as usize];
        memory.constant(at.wrapping_add(8 + index * bytes), &mut map)?;
        Ok((bits, map))
    }

    fn objects(&self, call: &Call) -> Result<Vec<Object>, Refused> {
        let Some(at) = self.functions.funcdata(&call.function, OBJECTS)? else { return Ok(Vec::new()) };
        let memory = self.runtime.memory;
        let count = u64::from(memory.constant_u32(at)?);
        if count > MAX_OBJECTS {
            return Err(Refused::new("a frame with more variables than make sense"));
        }
        let mut objects = Vec::new();
        for i in 0..count {
            let record = at.wrapping_add(8 + i * OBJECT_BYTES);
            let word = |n: u64| memory.constant_u32(record.wrapping_add(4 * n)).map(|word| word as i32);
            let (offset, bytes, pointer_bytes) = (word(0)?, word(1)?, word(2)?);
            let (Ok(bytes), Ok(pointer_words)) = (u64::try_from(bytes), u64::try_from(pointer_bytes / 8)) else { continue };
            if pointer_words == 0 || pointer_words > MAX_WORDS {
                continue;
            }
            let mask = self.runtime.module.rodata.wrapping_add(memory.constant_u32(record.wrapping_add(12))?.into());
            let mut bits = vec![0; pointer_words.div_ceil(8) as usize];
            memory.constant(mask, &mut bits)?;
            objects.push(Object { offset: offset.into(), bytes, pointer_words, bits });
        }
        Ok(objects)
    }
}

/// A function that a `func` value calls: its first word is the code's address.
pub(super) fn called_by(runtime: &Runtime, closure: u64) -> Option<u64> {
    let entry = runtime.memory.u64(closure).ok()?;
    runtime.module.text.contains(entry).then_some(entry)
}
