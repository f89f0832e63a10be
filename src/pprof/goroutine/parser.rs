//! One line after the other, to goroutines.

use std::collections::HashSet;

use super::grouping::Grouping;
use super::line::{
    Current, DECLARED, Prefix, counted, declared, elided, find, header, named_frame, prefixed, split_place, until, until_last,
};
use super::{Dump, Elided, Limits};

/// Beyond, one that comes twice is counted twice.
const MAX_IDS: usize = 1_000_000;

pub(super) struct Parser {
    limits: Limits,
    pub read: Grouping,
    current: Option<Current>,
    /// Before each line.
    prefix: Prefix,
    /// Of those that were counted.
    ids: HashSet<u64>,
}

impl Parser {
    pub fn new(limits: Limits) -> Parser {
        Parser { limits, read: Grouping::new(limits), current: None, prefix: Prefix::default(), ids: HashSet::new() }
    }

    pub fn line(&mut self, raw: &[u8]) {
        let stripped = self.prefix.strip(raw);
        let line = stripped.trim_ascii();
        if line.is_empty() {
            self.end_goroutine();
        } else if let Some(current) = header(line).or_else(|| counted(line)) {
            self.begin(current);
        } else if let Some((prefix, current)) = prefixed(raw, line) {
            self.prefix = Prefix::of(prefix);
            self.begin(current);
        } else if self.current.is_some() {
            self.goroutine_line(line, stripped.first().is_some_and(u8::is_ascii_whitespace));
        } else if self.read.dump.declared.is_none() && self.read.dump.total == 0 {
            self.read.dump.declared = declared(line);
            if let Some(at) = self.read.dump.declared.and_then(|_| find(raw, DECLARED)) {
                self.prefix = Prefix::of(raw.get(..at).unwrap_or_default());
            }
        }
    }

    fn begin(&mut self, mut current: Current) {
        self.end_goroutine();
        if let Some(id) = current.id {
            let is_known = if self.ids.len() < MAX_IDS { !self.ids.insert(id) } else { self.ids.contains(&id) };
            if is_known || id == 0 {
                current.count = 0;
            }
        }
        self.current = Some(current);
    }

    fn goroutine_line(&mut self, line: &[u8], is_indented: bool) {
        let Some(current) = self.current.as_mut().filter(|current| !current.is_done) else { return };
        if let Some(rest) = line.strip_prefix(b"#") {
            if let Some(labels) = rest.strip_prefix(b" labels: ") {
                current.labels = String::from_utf8_lossy(labels).into_owned();
            } else if let Some(creator) = rest.strip_prefix(b" created by:") {
                let (function, place) = named_frame(creator);
                self.frame(function, place, true);
            } else if !current.told(rest) {
                let (function, place) = named_frame(rest);
                self.frame(function, place, false);
            }
        } else if let Some(frames) = std::str::from_utf8(line).ok().and_then(elided) {
            current.elided = Some(Elided { after: current.frames.len(), frames });
        } else if line.starts_with(b"[originating from goroutine ") {
            current.is_done = true;
        } else if let Some(creator) = line.strip_prefix(b"created by ") {
            self.call(until(creator, b" in goroutine "), true);
        } else if current.pending.is_some() && (is_indented || split_place(line).1 != 0) {
            if let Some((function, is_creator)) = current.pending.take() {
                self.frame(&function, line, is_creator);
            }
        } else if line.ends_with(b"stack unavailable") {
            current.unavailable = true;
        } else {
            self.call(until_last(line, b'('), false);
        }
    }

    /// A function whose file is to be on the next line.
    fn call(&mut self, function: &[u8], is_creator: bool) {
        let Some(current) = self.current.as_mut() else { return };
        if let Some((function, is_creator)) = current.pending.replace((function.to_vec(), is_creator)) {
            self.frame(&function, b"", is_creator);
        }
    }

    fn frame(&mut self, function: &[u8], place: &[u8], is_creator: bool) {
        let (file, line) = split_place(place);
        let id = self.read.intern(function, file, line);
        let Some(current) = self.current.as_mut() else { return };
        match id {
            None => current.is_incomplete = true,
            Some(id) if is_creator => current.created_by = Some(id),
            Some(id) if current.frames.len() < self.limits.frames => current.frames.push(id),
            Some(_) => {
                let after = current.frames.len();
                let elided = current.elided.filter(|elided| elided.after == after).and_then(|elided| elided.frames).unwrap_or(0);
                current.elided = Some(Elided { after, frames: Some(elided + 1) });
            }
        }
    }

    fn end_goroutine(&mut self) {
        if let Some((function, is_creator)) = self.current.as_mut().and_then(|current| current.pending.take()) {
            self.frame(&function, b"", is_creator);
        }
        if let Some(current) = self.current.take().filter(|current| current.count > 0) {
            self.read.add(current);
        }
    }

    /// `None` if there was no goroutine.
    pub fn finish(mut self) -> Option<Dump> {
        // The last one may have been cut where a line ends.
        let is_cut = |c: &Current| c.pending.is_some() || (c.frames.is_empty() && !c.unavailable);
        if let Some(last) = self.current.take_if(|current| self.read.dump.truncated || is_cut(current)) {
            self.read.dump.truncated = true;
            self.read.dump.total = self.read.dump.total.saturating_add(last.count);
            self.read.dump.others = self.read.dump.others.saturating_add(last.count);
        }
        self.end_goroutine();
        self.read.dump.truncated |= self.read.dump.declared.is_some_and(|declared| declared > self.read.dump.total);
        self.read.dump.groups.sort_by_key(|group| std::cmp::Reverse((group.count, group.longest_wait)));
        (self.read.dump.total > 0 || self.read.dump.declared.is_some()).then_some(self.read.dump)
    }
}
