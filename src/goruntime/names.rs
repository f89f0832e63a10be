//! Functions by address, looked up once, as profiles and texts show them.

use std::collections::HashMap;
use std::rc::Rc;

use super::functions::{Frame, Functions};
use super::{Refused, Runtime};
use crate::pprof::encode::Line;

const GOEXIT: &str = "runtime.goexit";
/// What a wrapper may be called by and is shown all the same: a panic says more with it (`elideWrapperCalling`).
const SHOWS_WRAPPERS: [&str; 3] = ["runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap"];

/// `abi.FuncIDWrapper`, which moves when an id is put before it.
fn wrapper(minor: u32) -> u8 {
    match minor {
        ..=21 => 21,
        22..=24 => 22,
        _ => 23,
    }
}

pub(super) struct Names<'r> {
    pub functions: Functions<'r>,
    known: HashMap<u64, Rc<[Frame]>>,
    wrapper: u8,
}

impl<'r> Names<'r> {
    pub fn new(runtime: &'r Runtime<'r>) -> Result<Names<'r>, Refused> {
        Ok(Names { functions: runtime.functions()?, known: HashMap::new(), wrapper: wrapper(runtime.layout.minor) })
    }

    /// The call at this address, and those that it is inlined into.
    pub fn frames(&mut self, address: u64) -> Result<Rc<[Frame]>, Refused> {
        if let Some(frames) = self.known.get(&address) {
            return Ok(frames.clone());
        }
        let frames: Rc<[Frame]> = self.functions.frames(address)?.into();
        self.known.insert(address, frames.clone());
        Ok(frames)
    }

    /// Is it one of the compiler's wrappers, which are not shown? `callee` is what it calls.
    pub fn is_wrapper(&self, frame: &Frame, callee: Option<&str>) -> bool {
        frame.func_id == self.wrapper && !callee.is_some_and(|callee| SHOWS_WRAPPERS.contains(&callee))
    }

    /// Which of the frames at an address are shown.
    pub fn without_wrappers(&self, frames: &[Frame]) -> Vec<usize> {
        let callee = |i: usize| frames.get(i.checked_sub(1)?).map(|frame| frame.function.as_str());
        frames.iter().enumerate().filter(|(i, frame)| !self.is_wrapper(frame, callee(*i))).map(|(i, _)| i).collect()
    }

    /// The function at this address, without what is inlined into it.
    pub fn function(&mut self, address: u64) -> Option<String> {
        self.frames(address).ok()?.last().map(|frame| frame.function.clone())
    }
}

/// Where every stack begins is not shown.
pub(super) fn is_shown(frame: &&Frame) -> bool {
    frame.function != GOEXIT
}

/// As a profile has them.
pub(super) fn lines(frames: &[Frame]) -> Vec<Line> {
    frames.iter().filter(is_shown).map(line).collect()
}

pub(super) fn line(frame: &Frame) -> Line {
    Line { function: frame.function.clone(), file: frame.file.clone(), line: frame.line }
}

/// A function of the runtime itself.
pub(super) fn is_of_runtime(name: &str) -> bool {
    name.starts_with("runtime.") || name.starts_with("internal/runtime/")
}
