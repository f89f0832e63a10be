//! Functions by address, looked up once, as profiles and texts show them.

use std::collections::HashMap;
use std::rc::Rc;

use super::functions::{Frame, Functions};
use super::{Refused, Runtime};
use crate::pprof::encode::Line;

const GOEXIT: &str = "runtime.goexit";

pub(super) struct Names<'r> {
    pub functions: Functions<'r>,
    known: HashMap<u64, Rc<[Frame]>>,
}

impl<'r> Names<'r> {
    pub fn new(runtime: &'r Runtime<'r>) -> Result<Names<'r>, Refused> {
        Ok(Names { functions: runtime.functions()?, known: HashMap::new() })
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
    let lines = frames.iter().filter(is_shown);
    lines.map(|f| Line { function: f.function.clone(), file: f.file.clone(), line: f.line }).collect()
}

/// A function of the runtime itself.
pub(super) fn is_of_runtime(name: &str) -> bool {
    name.starts_with("runtime.") || name.starts_with("internal/runtime/")
}
