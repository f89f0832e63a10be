//! The frames of a profile as a table shows them: names made readable, uninteresting frames dropped.

use std::borrow::Cow;
use std::collections::HashMap;

use regex_lite::{Regex, RegexBuilder};

use super::profile::{Function, Line, Location, Profile, Sample};

/// A profile with its names and without its dropped frames.
pub(super) struct Frames<'a> {
    profile: &'a Profile,
    /// By function.
    names: Vec<Cow<'a, str>>,
    /// How many of the innermost lines of each location, and locations of each sample, are dropped. Empty: none.
    dropped_lines: Vec<u32>,
    dropped_locations: Vec<u32>,
}

impl<'a> Frames<'a> {
    pub fn new(profile: &'a Profile) -> Frames<'a> {
        let names = profile.functions.iter().map(|f| name(profile, f)).collect();
        let mut frames = Frames { profile, names, dropped_lines: Vec::new(), dropped_locations: Vec::new() };
        if let Some(drop) = expression(profile.str(profile.drop_frames)) {
            frames.prune(&drop, expression(profile.str(profile.keep_frames)).as_ref());
        }
        frames
    }

    pub fn name(&self, function: u32) -> &str {
        self.names.get(function as usize).map(|name| name.as_ref()).unwrap_or("")
    }

    /// Indexes of the sample's locations, the innermost first.
    pub fn locations(&self, number: usize, sample: &Sample<'a>) -> &'a [u32] {
        let dropped = self.dropped_locations.get(number).copied().unwrap_or(0);
        sample.locations.get(dropped as usize..).unwrap_or(&[])
    }

    /// Where the location's shown lines begin among all lines of the profile, and the lines.
    pub fn lines(&self, index: u32, location: &Location) -> (usize, &'a [Line]) {
        let dropped = self.dropped_lines.get(index as usize).copied().unwrap_or(0);
        let lines = self.profile.lines(location).get(dropped as usize..).unwrap_or(&[]);
        ((location.first_line + dropped) as usize, lines)
    }

    /// Drops what lies beneath a frame that matches `drop` and not `keep`, and the frame. Frames that nothing else called
    /// stay: a stack of only dropped frames would be lost otherwise.
    fn prune(&mut self, drop: &Regex, keep: Option<&Regex>) {
        let mut matches: HashMap<&str, bool> = HashMap::new();
        for name in self.names.iter().filter(|name| !name.is_empty()) {
            matches.entry(name).or_insert_with(|| {
                let bare = without_arguments(name);
                drop.is_match(bare) && !keep.is_some_and(|keep| keep.is_match(bare))
            });
        }
        /// What a location is to a stack that passes through it.
        #[derive(Clone, Copy, PartialEq)]
        enum Cut {
            None,
            /// Beneath it; some of its own lines go, too.
            Beneath,
            Whole,
        }
        let mut dropped_lines = vec![0; self.profile.locations.len()];
        let mut cuts = vec![Cut::None; self.profile.locations.len()];
        for ((location, dropped), cut) in self.profile.locations.iter().zip(&mut dropped_lines).zip(&mut cuts) {
            let lines = self.profile.lines(location);
            let Some(i) = lines.iter().rposition(|line| matches.get(self.name(line.function)) == Some(&true)) else { continue };
            if i + 1 == lines.len() {
                *cut = Cut::Whole;
            } else {
                *cut = Cut::Beneath;
                *dropped = i as u32 + 1;
            }
        }
        let cut_of = |location: &u32| cuts.get(*location as usize).copied().unwrap_or(Cut::None);
        let dropped_of = |sample: Sample<'_>| {
            let mut callers = sample.locations.iter().enumerate().rev().skip_while(|(_, l)| cut_of(l) != Cut::None);
            match callers.find(|(_, l)| cut_of(l) != Cut::None) {
                Some((i, location)) if cut_of(location) == Cut::Whole => i as u32 + 1,
                Some((i, _)) => i as u32,
                None => 0,
            }
        };
        self.dropped_locations = self.profile.samples().map(dropped_of).collect();
        self.dropped_lines = dropped_lines;
    }
}

/// pprof, too, goes on without an expression that does not compile.
fn expression(pattern: &str) -> Option<Regex> {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN {
        return None;
    }
    RegexBuilder::new(&format!("^({pattern})$")).size_limit(256 << 10).build().ok()
}

const MAX_PATTERN: usize = 64 << 10;

/// Up to the first parenthesis that is not part of a C++ name.
fn without_arguments(name: &str) -> &str {
    let name = name.strip_prefix('.').unwrap_or(name);
    let mut from = 0;
    while let Some(rest) = name.get(from..) {
        let Some(at) = rest.find('(') else { break };
        let reserved = ["(anonymous namespace)", "operator()"].into_iter().find_map(|reserved| {
            let start = at.checked_sub(reserved.find('(')?)?;
            rest.get(start..)?.starts_with(reserved).then_some(start + reserved.len())
        });
        match reserved {
            Some(end) => from += end,
            None => return name.get(..from + at).unwrap_or(name),
        }
    }
    name
}

/// The name to show. Names that look like C++ lose arguments and template parameters; generic Go functions look so, too, and
/// pprof does the same to them. Mangled names (`_Z…`, `_R…`) stay as they are: Go's runtime writes none.
fn name<'a>(profile: &'a Profile, function: &Function) -> Cow<'a, str> {
    let (name, system) = (profile.str(function.name), profile.str(function.system_name));
    if !name.is_empty() && name != system {
        return Cow::Borrowed(name);
    }
    let like_cpp = !system.contains(".<") && !system.contains("]).") && (system.contains(['<', '>', '[', ']']) || system.contains("::"));
    if !like_cpp {
        return Cow::Borrowed(system);
    }
    let system = without_pairs(Cow::Borrowed(system), '(', ')');
    without_pairs(system, '<', '>')
}

/// Removes each outermost `open … close`. At a `close` too many it stops, with what it removed so far.
fn without_pairs(name: Cow<'_, str>, open: char, close: char) -> Cow<'_, str> {
    if !name.contains([open, close]) {
        return name;
    }
    let mut kept = String::with_capacity(name.len());
    let (mut nesting, mut first) = (0, 0);
    // Up to here the name was copied or removed.
    let mut done = 0;
    for (i, c) in name.char_indices().filter(|(_, c)| *c == open || *c == close) {
        if c == open {
            nesting += 1;
            if nesting == 1 {
                first = i;
            }
        } else if nesting == 0 {
            break;
        } else {
            nesting -= 1;
            if nesting == 0 {
                kept.push_str(name.get(done..first).unwrap_or(""));
                done = i + close.len_utf8();
            }
        }
    }
    kept.push_str(name.get(done..).unwrap_or(""));
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_cut_off_but_not_reserved_names() {
        for (name, bare) in [
            ("main.main", "main.main"),
            ("main.(*T).Get", "main."),
            ("f(int)", "f"),
            (".f(int)", "f"),
            ("(anonymous namespace)::f(int)", "(anonymous namespace)::f"),
            ("T::operator()(int)", "T::operator()"),
            ("operator()", "operator()"),
        ] {
            assert_eq!(without_arguments(name), bare);
        }
    }

    #[test]
    fn pairs_are_removed_outermost_first() {
        for (name, left) in
            [("a(b(c)d)e", "ae"), ("a(b)c(d)", "ac"), ("a)b(c)", "a)b(c)"), ("a(b)c)d(e)", "ac)d(e)"), ("a(b", "a(b"), ("ä(ö)ü", "äü")]
        {
            assert_eq!(without_pairs(Cow::Borrowed(name), '(', ')'), left);
        }
    }
}
