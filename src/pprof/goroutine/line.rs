//! What one line of a dump says, by its shape.

use std::io::{self, BufRead};

use super::Elided;
use super::grouping::MAX_STATES;

const GOROUTINE: &[u8] = b"goroutine ";
pub(super) const DECLARED: &[u8] = b"goroutine profile: total ";

pub(super) fn cut(line: &[u8], most: usize) -> &[u8] {
    line.get(..most).unwrap_or(line)
}

pub(super) enum End {
    OfLine,
    /// The file ends, the line does not.
    Missing,
    OfFile,
}

/// Reads a line without its newline into `line`, at most `max` bytes of it.
pub(super) fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<End> {
    line.clear();
    let mut any = false;
    loop {
        let piece = match reader.fill_buf() {
            Ok(piece) => piece,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if piece.is_empty() {
            return Ok(if any { End::Missing } else { End::OfFile });
        }
        any = true;
        let newline = piece.iter().position(|b| *b == b'\n');
        let text = piece.get(..newline.unwrap_or(piece.len())).unwrap_or(piece);
        let room = max.saturating_sub(line.len());
        line.extend_from_slice(text.get(..room).unwrap_or(text));
        let used = newline.map(|n| n + 1).unwrap_or(piece.len());
        reader.consume(used);
        if newline.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(End::OfLine);
        }
    }
}

/// A goroutine being read, or a counted stack.
#[derive(Default)]
pub(super) struct Current {
    pub count: u64,
    pub id: Option<u64>,
    pub state: String,
    pub wait: Option<u64>,
    pub is_leaked: bool,
    pub is_locked: bool,
    pub labels: String,
    /// Of counted goroutines, where the dump tells.
    pub counted: Option<Counted>,
    pub frames: Vec<u32>,
    pub created_by: Option<u32>,
    pub elided: Option<Elided>,
    pub unavailable: bool,
    /// A function whose file is on the next line, and whether it is the creator.
    pub pending: Option<(Vec<u8>, bool)>,
    /// A frame had to be left out.
    pub is_incomplete: bool,
    /// What follows are the stacks of its ancestors.
    pub is_done: bool,
}

/// What a `debug=1` dump of memtrap's own tells of a stack's goroutines.
#[derive(Default)]
pub(super) struct Counted {
    pub states: Vec<(String, u64)>,
    pub locked: u64,
    pub leaked: u64,
}

impl Current {
    /// Takes a comment that `goruntime::goroutine_files` writes, without its mark.
    pub fn told(&mut self, comment: &[u8]) -> bool {
        let Some(comment) = comment.strip_prefix(b" ").and_then(|text| std::str::from_utf8(text).ok()) else { return false };
        if comment.starts_with("stack unavailable") {
            self.unavailable = true;
        } else if let Some(elided) = elided(comment) {
            self.elided = Some(Elided { after: self.frames.len(), frames: elided });
        } else if let Some((what, value)) = comment.split_once(": ") {
            let counted = self.counted.get_or_insert_default();
            let number = value.parse().unwrap_or(0);
            match what {
                "states" => {
                    let state = |part: &str| part.split_once(' ').and_then(|(n, state)| Some((state.to_owned(), n.parse().ok()?)));
                    counted.states = value.split(", ").filter_map(state).take(MAX_STATES).collect();
                }
                "longest wait" => self.wait = value.strip_suffix(" minutes").and_then(|minutes| minutes.parse().ok()),
                "locked to thread" => counted.locked = number,
                "leaked" => counted.leaked = number,
                _ => return false,
            }
        } else {
            return false;
        }
        true
    }
}

/// Frames that `...23 frames elided...` leaves out; Go does not always say how many.
pub(super) fn elided(line: &str) -> Option<Option<u64>> {
    let rest = line.strip_prefix("...").filter(|rest| rest.ends_with(" elided..."))?;
    Some(rest.trim_start_matches('.').split(' ').next().and_then(|n| n.parse().ok()))
}

/// What a log puts before a line, by its shape: runs of digits are numbers that differ, all else stays the same.
#[derive(Default)]
pub(super) struct Prefix(Vec<Piece>);

#[derive(PartialEq, Eq)]
enum Piece {
    Digits,
    Byte(u8),
}

impl Prefix {
    pub fn of(text: &[u8]) -> Prefix {
        let mut pieces = Vec::new();
        for byte in text {
            match byte {
                b'0'..=b'9' if pieces.last() == Some(&Piece::Digits) => {}
                b'0'..=b'9' => pieces.push(Piece::Digits),
                byte => pieces.push(Piece::Byte(*byte)),
            }
        }
        Prefix(pieces)
    }

    /// The line without it, or as it is where it has none.
    pub fn strip<'l>(&self, line: &'l [u8]) -> &'l [u8] {
        let mut rest = line;
        for piece in &self.0 {
            let used = match piece {
                Piece::Digits => rest.iter().take_while(|b| b.is_ascii_digit()).count(),
                Piece::Byte(byte) => usize::from(rest.first() == Some(byte)),
            };
            // a blank at the end of an empty line may have been cut
            if used == 0 && !(rest.is_empty() && *piece == Piece::Byte(b' ')) {
                return line;
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        rest
    }
}

/// A header after something that a log put there. `line` is `raw` without what is known to stand there.
pub(super) fn prefixed<'l>(raw: &'l [u8], line: &[u8]) -> Option<(&'l [u8], Current)> {
    // few lines end so
    if line.last() != Some(&b':') {
        return None;
    }
    let (at, text) = (find(raw, GOROUTINE)?, raw.trim_ascii_end());
    Some((raw.get(..at)?, header(text.get(at..)?)?))
}

pub(super) fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// The function and `file:line` of `# 0x4875c9 main.wait+0x14 main.go:134`, without its mark. Tabs stand between them, or blanks.
pub(in crate::pprof) fn named_frame(rest: &[u8]) -> (&[u8], &[u8]) {
    let rest = rest.trim_ascii();
    let is_gap = |b: &u8| b.is_ascii_whitespace();
    let (address, rest) = rest.split_at(rest.iter().position(is_gap).unwrap_or(rest.len()));
    let rest = rest.trim_ascii();
    if rest.is_empty() {
        return (address, b"");
    }
    // the name of a function of type parameters may have blanks, too
    let offset = rest.windows(3).rposition(|w| w == b"+0x");
    let end = offset.map(|at| rest.get(at..).unwrap_or_default().iter().position(is_gap).map_or(rest.len(), |n| at + n));
    let end = end.or(rest.iter().position(|b| *b == b'\t')).unwrap_or(rest.len());
    (rest.get(..offset.unwrap_or(end)).unwrap_or(rest), rest.get(end..).unwrap_or_default().trim_ascii())
}

/// `goroutine 7 [chan receive, 3 minutes, locked to thread] {key: value}:`, perhaps with pointers after the id.
pub(super) fn header(line: &[u8]) -> Option<Current> {
    let line = std::str::from_utf8(line.strip_prefix(b"goroutine ")?.strip_suffix(b":")?).ok()?;
    let (head, rest) = line.split_once('[')?;
    let (status, labels) = rest.split_once(']')?;
    let id = head.split(' ').next()?.parse().ok()?;
    let mut current = Current { count: 1, id: Some(id), ..Current::default() };
    let mut parts = status.split(", ");
    let mut state = parts.next().unwrap_or("");
    for mark in [" (scan)", " (leaked)"] {
        if let Some(bare) = state.strip_suffix(mark) {
            state = bare;
            current.is_leaked |= mark == " (leaked)";
        }
    }
    current.state = state.to_owned();
    for part in parts {
        if let Some(minutes) = part.strip_suffix(" minutes") {
            current.wait = minutes.parse().ok();
        }
        current.is_locked |= part == "locked to thread";
    }
    current.labels = labels.trim().to_owned();
    Some(current)
}

/// `300 @ 0x4875ca 0x41776e`
pub(super) fn counted(line: &[u8]) -> Option<Current> {
    let at = line.iter().position(|b| *b == b' ').filter(|at| line.get(at + 1) == Some(&b'@'))?;
    let count = std::str::from_utf8(line.get(..at)?).ok()?.parse().ok()?;
    Some(Current { count, ..Current::default() })
}

/// `goroutine profile: total 363`
pub(super) fn declared(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.split_once(" profile: total ")?.1.parse().ok()
}

pub(super) fn until<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    text.windows(end.len()).position(|w| w == end).and_then(|at| text.get(..at)).unwrap_or(text)
}

pub(super) fn until_last(text: &[u8], end: u8) -> &[u8] {
    text.iter().rposition(|b| *b == end).and_then(|at| text.get(..at)).unwrap_or(text)
}

/// `/src/main.go:134 +0x15`; the line is 0 where there is none.
pub(in crate::pprof) fn split_place(place: &[u8]) -> (&[u8], u64) {
    let colon = place.iter().rposition(|b| *b == b':');
    let Some((file, rest)) = colon.and_then(|at| Some((place.get(..at)?, place.get(at + 1..)?))) else { return (place, 0) };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    match rest.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
        Some(line) => (file, line),
        None => (place, 0),
    }
}
