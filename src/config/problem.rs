//! What is wrong with a file, and where: collected while it is read, printed in the order of the file.

use crate::text;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Printed at most; a file that is no configuration at all should not fill the terminal.
const MAX_SHOWN: usize = 100;
/// Kept at most while reading.
const MAX_KEPT: usize = 1_000;
/// Longest key that is quoted or compared.
const MAX_QUOTED: usize = 64;

/// One mistake; prints as `FILE:LINE:COL: message`, or as `FILE: message` where the whole file is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: Arc<str>,
    pub place: Option<Place>,
    pub message: String,
}

/// Both count from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(Place { line, column }) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Why a file is no configuration: never empty, in the order of the file; prints one mistake a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    first: Problem,
    others: Vec<Problem>,
    left_out: usize,
}

impl Errors {
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        std::iter::once(&self.first).chain(&self.others)
    }

    pub(super) fn of_file(file: &str, message: String) -> Errors {
        Errors { first: Problem { file: file.into(), place: None, message }, others: Vec::new(), left_out: 0 }
    }

    /// For a file that is not text: `valid` is the part before the first bad byte.
    pub(super) fn not_utf8(file: &str, valid: &str) -> Errors {
        let place = Some(Lines::new(valid).place(valid, valid.len()));
        let message = "not UTF-8: save the file as UTF-8 text".to_owned();
        Errors { first: Problem { file: file.into(), place, message }, others: Vec::new(), left_out: 0 }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        self.others.iter().try_for_each(|problem| write!(f, "\n{problem}"))?;
        match self.left_out {
            0 => Ok(()),
            n => write!(f, "\n{}: and {n} more", self.first.file),
        }
    }
}

/// Something that is allowed and probably not meant; prints as `FILE:LINE:COL: warning: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { file, place, message } = &self.0;
        match place {
            Some(Place { line, column }) => write!(f, "{file}:{line}:{column}: warning: {message}"),
            None => write!(f, "{file}: warning: {message}"),
        }
    }
}

/// Where lines begin, so that many places of a big file are cheap to find.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Lines {
        Lines(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// From 0.
    fn index(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at).saturating_sub(1)
    }

    fn place(&self, text: &str, at: usize) -> Place {
        let index = self.index(at);
        let start = self.0.get(index).copied().unwrap_or_default();
        let before = text.get(start..at.min(text.len())).unwrap_or_default();
        // editors do not count a byte order mark
        Place { line: index + 1, column: before.trim_start_matches('\u{feff}').chars().count() + 1 }
    }
}

struct Found {
    at: Range<usize>,
    message: String,
    /// Something is missing; not to be believed of a file that was read only in part.
    absence: bool,
}

struct UnknownKey {
    at: Range<usize>,
    label: String,
    key: String,
    allowed: Rc<[&'static str]>,
}

/// Collects what is wrong while a file is read. Mistakes are byte ranges here; they become lines at the end.
pub(super) struct Report {
    lines: Lines,
    syntax: Vec<(usize, String)>,
    errors: Vec<Found>,
    warnings: Vec<Found>,
    unknown: Vec<UnknownKey>,
    /// (key, section): which sections know a key, to say where a misplaced one belongs.
    known: BTreeSet<(&'static str, &'static str)>,
    left_out: usize,
}

impl Report {
    pub fn new(text: &str) -> Report {
        Report {
            lines: Lines::new(text),
            syntax: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            unknown: Vec::new(),
            known: BTreeSet::new(),
            left_out: 0,
        }
    }

    pub fn syntax(&mut self, at: usize, message: &str) {
        self.syntax.push((at, message.to_owned()));
    }

    pub fn error(&mut self, at: Range<usize>, message: String) {
        self.keep(Found { at, message, absence: false });
    }

    pub fn missing(&mut self, at: Range<usize>, message: String) {
        self.keep(Found { at, message, absence: true });
    }

    pub fn warning(&mut self, at: Range<usize>, message: String) {
        if self.warnings.len() < MAX_SHOWN {
            self.warnings.push(Found { at, message, absence: false });
        }
    }

    fn keep(&mut self, found: Found) {
        if self.errors.len() < MAX_KEPT {
            self.errors.push(found);
        } else {
            self.left_out += 1;
        }
    }

    pub fn knows(&mut self, key: &'static str, section: &'static str) {
        self.known.insert((key, section));
    }

    /// Judged at the end, when every section has said which keys it knows.
    pub fn unknown_key(&mut self, at: Range<usize>, label: &str, key: &str, allowed: &Rc<[&'static str]>) {
        if self.unknown.len() < MAX_KEPT {
            let key = key.chars().take(MAX_QUOTED).collect();
            self.unknown.push(UnknownKey { at, label: label.to_owned(), key, allowed: allowed.clone() });
        } else {
            self.left_out += 1;
        }
    }

    /// From 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.index(at) + 1
    }

    /// The warnings; or, if anything was wrong, all of that.
    pub fn finish(mut self, text: &str, file: &str) -> Result<Vec<Warning>, Errors> {
        for unknown in std::mem::take(&mut self.unknown) {
            let message = self.explain(&unknown);
            self.errors.push(Found { at: unknown.at, message, absence: false });
        }
        self.drop_echoes();
        let mut found: Vec<(usize, String)> = std::mem::take(&mut self.syntax);
        found.extend(std::mem::take(&mut self.errors).into_iter().map(|f| (f.at.start, f.message)));
        found.sort();
        found.dedup();
        let left_out = self.left_out + found.len().saturating_sub(MAX_SHOWN);

        let file: Arc<str> = file.into();
        let problem = |(at, message): (usize, String)| Problem {
            file: file.clone(),
            place: Some(self.lines.place(text, at)),
            message: text::lines(&message),
        };
        let mut problems = found.into_iter().take(MAX_SHOWN).map(problem);
        if let Some(first) = problems.next() {
            return Err(Errors { first, others: problems.collect(), left_out });
        }
        let mut warnings: Vec<_> = self.warnings.iter().map(|f| (f.at.start, f.message.clone())).collect();
        warnings.sort();
        Ok(warnings.into_iter().map(problem).map(Warning).collect())
    }

    /// What a syntax error makes up in its own lines, or seems to take away elsewhere, is no mistake of its own.
    fn drop_echoes(&mut self) {
        self.syntax.sort();
        // an unclosed bracket swallows what follows, so that all of it looks wrong
        let inside = |(_, message): &(usize, String)| ["array", "inline table", "key-value pair"].iter().any(|w| message.contains(w));
        if self.syntax.iter().any(|(_, m)| m.starts_with("unclosed array,") || m.starts_with("unclosed inline table"))
            && let Some(first) = self.syntax.iter().position(inside)
        {
            self.syntax.truncate(first + 1);
            if let Some((at, message)) = self.syntax.last_mut() {
                *message = "a list or table that begins above is not closed, or lacks a comma here".to_owned();
                self.errors.retain(|found| found.at.start < *at);
            }
        }
        let lines = &self.lines;
        self.syntax.dedup_by_key(|(at, _)| lines.index(*at));
        let broken: BTreeSet<usize> = self.syntax.iter().map(|(at, _)| lines.index(*at)).collect();
        let touched = |at: &Range<usize>| broken.range(lines.index(at.start)..=lines.index(at.end.max(at.start))).next().is_some();
        self.errors.retain(|found| broken.is_empty() || !(found.absence || touched(&found.at)));
    }

    fn explain(&self, unknown: &UnknownKey) -> String {
        let UnknownKey { label, key, allowed, .. } = unknown;
        let homes: Vec<&str> = self.known.iter().filter(|(known, _)| known == key).map(|(_, section)| *section).collect();
        let hint = if !homes.is_empty() {
            format!("; it belongs in {}", homes.join(" or "))
        } else {
            nearest(key, allowed).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
        };
        format!("{label}{key}: unknown key{hint} (allowed here: {})", allowed.join(", "))
    }
}

/// The allowed key that was probably meant: one that the written key begins or completes, or one a few edits away.
fn nearest<'a>(key: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let begins = |known: &&&str| key.len() >= 3 && (known.starts_with(key) || key.starts_with(**known));
    let near = allowed.iter().map(|known| (strsim::damerau_levenshtein(key, known), known)).min();
    let close = near.filter(|(distance, known)| *distance <= (known.len() / 3).max(1)).map(|(_, known)| known);
    close.or_else(|| allowed.iter().find(begins)).copied()
}
