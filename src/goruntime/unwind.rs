//! Stacks of goroutines that do not run, by the frame sizes in the function table (`runtime/traceback.go`).

use std::collections::HashMap;

use super::functions::{Function, Functions};
use super::memory::Reader;
use super::{Refused, Runtime};

/// Of one stack, the innermost calls; `runtime/pprof` keeps as many. Deeper ones are counted.
pub const MAX_KEPT: usize = 128;
/// A stack of 1 GiB, which is the most that Go allows, has less than this.
const MAX_FRAMES: u64 = 32 << 20;
/// Most stacks fit.
const WINDOW: u64 = 4 << 10;
/// For those that do not.
const WIDE_WINDOW: u64 = 64 << 10;

/// Above the first call, `newproc1` leaves some words.
const MAX_ABOVE: u64 = 256;

/// `abi.FuncFlagTopFrame`: nothing called this function.
const TOP_FRAME: u8 = 1;

/// Where a goroutine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub pc: u64,
    pub sp: u64,
    /// The end of its stack.
    pub top: u64,
}

/// A stack, the innermost call first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stack {
    /// An address within each call's instruction, as [`Functions::frames`] wants it.
    pub calls: Vec<u64>,
    /// How many calls there are beyond those.
    pub deeper: u64,
}

/// One call of a stack, and where its frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The next instruction.
    pub pc: u64,
    /// It was interrupted there by a signal, and did not call.
    pub is_exact: bool,
    /// A signal put it there.
    pub is_injected: bool,
    pub function: Function,
    /// The stack pointer.
    pub low: u64,
    /// Where the return address is.
    pub high: u64,
}

impl Call {
    /// An address within the call's instruction.
    pub fn address(&self) -> u64 {
        // a return address is behind its call
        if !self.is_exact && self.pc > self.function.entry { self.pc - 1 } else { self.pc }
    }
}

/// What is known of a call by its return address.
#[derive(Clone, Copy)]
struct Step {
    /// Bytes between the stack pointer and the return address.
    frame: u64,
    function: Function,
    is_top: bool,
    /// Its caller did not call it: a signal put it there.
    is_injected: bool,
}

pub struct Unwinder<'r> {
    memory: &'r Reader<'r>,
    functions: Functions<'r>,
    known: HashMap<u64, Step>,
}

impl<'r> Unwinder<'r> {
    pub fn new(runtime: &'r Runtime<'r>) -> Result<Unwinder<'r>, Refused> {
        Ok(Unwinder { memory: runtime.memory, functions: runtime.functions()?, known: HashMap::new() })
    }

    /// Up to the function that nothing called. Refused if it does not get there: the goroutine ran meanwhile, or what is read is no stack.
    pub fn stack(&mut self, place: Place) -> Result<Stack, Refused> {
        let mut stack = Stack::default();
        let mut end = 0;
        self.calls(place, |call| {
            end = call.high;
            match stack.calls.len() < MAX_KEPT {
                true => stack.calls.push(call.address()),
                false => stack.deeper += 1,
            }
        })?;
        // flags that are read at the wrong place end a stack anywhere
        match place.top.checked_sub(end) {
            Some(left) if left <= MAX_ABOVE => Ok(stack),
            _ => Err(Refused::new("a stack that ends before its beginning")),
        }
    }

    /// Each call of the stack, the innermost first. Refused as [`Unwinder::stack`] is.
    pub fn calls(&mut self, place: Place, mut found: impl FnMut(&Call)) -> Result<(), Refused> {
        let mut window = Window { memory: self.memory, start: 0, bytes: Vec::new(), top: place.top };
        let (mut pc, mut sp, mut is_exact) = (place.pc, place.sp, false);
        for _ in 0..MAX_FRAMES {
            let step = self.step(pc)?;
            let at = sp.checked_add(step.frame).ok_or_else(|| Refused::new("a frame beyond the end of memory"))?;
            found(&Call { pc, is_exact, is_injected: step.is_injected, function: step.function, low: sp, high: at });
            if step.is_top {
                return Ok(());
            }
            pc = window.word(at)?;
            // always forward, so that it ends
            sp = at + 8;
            is_exact = step.is_injected;
        }
        Err(Refused::new("a stack does not end"))
    }

    fn step(&mut self, pc: u64) -> Result<Step, Refused> {
        if let Some(step) = self.known.get(&pc) {
            return Ok(*step);
        }
        let function =
            self.functions.find(pc)?.ok_or_else(|| Refused::new(format!("a stack leads to {pc:#x}, which is in no function")))?;
        let frame = self.functions.frame_size(&function, pc)?;
        let is_injected =
            matches!(self.functions.name(&function)?.as_str(), "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV2");
        let step = Step {
            frame: frame.ok_or_else(|| Refused::new(format!("the function at {pc:#x} has no frame size")))?,
            function,
            is_top: self.functions.flag(&function)? & TOP_FRAME != 0,
            is_injected,
        };
        self.known.insert(pc, step);
        Ok(step)
    }
}

/// The part of a stack that was read last.
struct Window<'r> {
    memory: &'r Reader<'r>,
    start: u64,
    bytes: Vec<u8>,
    top: u64,
}

impl Window<'_> {
    fn word(&mut self, at: u64) -> Result<u64, Refused> {
        if let Some(word) = self.held(at) {
            return Ok(word);
        }
        let left = self.top.checked_sub(at).filter(|left| *left >= 8).ok_or_else(|| Refused::new("a stack leads beyond its end"))?;
        let size = if self.bytes.is_empty() { WINDOW } else { WIDE_WINDOW };
        self.bytes = self.memory.slice(at, left.min(size), size)?;
        self.start = at;
        self.held(at).ok_or_else(|| Refused::new("a stack leads beyond its end"))
    }

    fn held(&self, at: u64) -> Option<u64> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
    }
}
