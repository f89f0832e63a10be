//! Reader of goroutine dumps as text: `goroutine?debug=2` (one goroutine after the other, with states and waits; `debug=3` is the
//! same) and `debug=1` (counted stacks; states only in those that memtrap read from memory itself).
//!
//! Goroutines are grouped by identical stack while they are read: each distinct stack is kept once, so a dump of 100,000
//! goroutines in three stacks is small. Arguments of functions are not kept: they are addresses.
//!
//! Dumps come through logs and chats: what stands before each line (a time, a pod, a quote's mark) is told by its shape and left out, tabs may have
//! become blanks, empty lines may be gone. In the output of a crash some goroutines stand twice: each counts once, and the scheduler's own
//! stacks (`goroutine 0`) do not count. Lines that a log has escaped are undone by `unlogged`. Not here: dumps of other runtimes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead};

use super::unlogged;
use crate::text;

/// Bounds on what is kept of a dump; what is beyond them is counted in [`Dump::others`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Distinct stacks.
    pub groups: usize,
    /// Memory for all that is kept: frames, stacks, states and labels. Roughly; what holds them is counted, too.
    pub bytes: usize,
    /// Frames of one stack; deeper ones are cut, and then say [`Elided`].
    pub frames: usize,
    /// Bytes of one line; the rest of a longer one is skipped.
    pub line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { groups: 20_000, bytes: 64 << 20, frames: 256, line_bytes: 16 << 10 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum GoroutineError {
    #[error("no goroutine dump: empty")]
    Empty,
    #[error("no goroutine dump: it begins with `{start}`; fetch /debug/pprof/goroutine?debug=2")]
    NotADump { start: String },
    #[error("the goroutine dump cannot be read")]
    Io(#[from] io::Error),
}

/// Of one line of a log that holds a dump.
const MAX_ESCAPED: usize = 32 << 20;

/// A call. The line is 0 where it is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    pub function: String,
    pub file: String,
    pub line: u64,
}

/// Frames that the dump leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Elided {
    /// How many frames stand above the gap.
    pub after: usize,
    /// `None`: it does not say how many.
    pub frames: Option<u64>,
}

/// Goroutines with the same stack: the same functions at the same lines, started at the same place.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub count: u64,
    /// How many are in which state, such as `chan receive` or `IO wait`. Empty for Go's `debug=1`, which does not tell.
    pub states: BTreeMap<String, u64>,
    /// Minutes that the longest waiting one is blocked; Go tells from one minute on.
    pub longest_wait: Option<u64>,
    /// How many the garbage collector found to be blocked for ever (Go 1.26 and later, after a leak profile).
    pub leaked: u64,
    pub locked_to_thread: u64,
    /// The id of the first; `None` for `debug=1`.
    pub first_id: Option<u64>,
    /// Sets of labels as the dump writes them, with how many have them; the first few sets only.
    pub labels: BTreeMap<String, u64>,
    pub elided: Option<Elided>,
    /// The dump says that it was running and could not be looked at.
    pub unavailable: bool,
    frames: Vec<u32>,
    created_by: Option<u32>,
}

/// What a dump says.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Goroutines that were read.
    pub total: u64,
    /// The number that the head of a `debug=1` dump names.
    pub declared: Option<u64>,
    /// The most goroutines first.
    pub groups: Vec<Group>,
    /// Goroutines that are in `total` and in no group: those beyond the limits, and one that was cut off.
    pub others: u64,
    /// The dump ends in the middle. Go itself cuts `debug=2` at 64 MB.
    pub truncated: bool,
    frames: Vec<Frame>,
}

impl Dump {
    /// The stack of a group, the innermost call first.
    pub fn stack<'a>(&'a self, group: &'a Group) -> impl ExactSizeIterator<Item = &'a Frame> + Clone {
        group.frames.iter().map(|id| self.frame(*id))
    }

    /// Where the goroutines of a group were started; `None` for the main goroutine and for `debug=1`.
    pub fn created_by(&self, group: &Group) -> Option<&Frame> {
        group.created_by.map(|id| self.frame(id))
    }

    fn frame(&self, id: u32) -> &Frame {
        static UNKNOWN: Frame = Frame { function: String::new(), file: String::new(), line: 0 };
        self.frames.get(id as usize).unwrap_or(&UNKNOWN)
    }
}

/// Reads a dump to its end. A dump that is cut off gives what was read and says so; a last line without its end counts as cut off.
pub fn parse(mut reader: impl BufRead, limits: &Limits) -> Result<Dump, GoroutineError> {
    let mut parser = Parser::new(*limits);
    let mut line = Vec::new();
    let mut first = String::new();
    let mut is_empty = true;
    loop {
        // a log may have put a whole dump into one line
        let end = read_line(&mut reader, &mut line, limits.line_bytes.max(MAX_ESCAPED))?;
        match (&end, unlogged::lines(&line)) {
            (End::OfFile, _) => break,
            (_, Some(inner)) => inner.iter().for_each(|line| parser.line(cut(line.as_bytes(), limits.line_bytes))),
            (End::Missing, None) => parser.dump.truncated = true,
            (End::OfLine, None) => parser.line(cut(&line, limits.line_bytes)),
        }
        is_empty = false;
        if first.is_empty() {
            first = String::from_utf8_lossy(&line).trim().chars().take(60).collect();
        }
    }
    match parser.finish() {
        Some(dump) => Ok(dump),
        None if is_empty => Err(GoroutineError::Empty),
        None => Err(GoroutineError::NotADump { start: text::lines(&first) }),
    }
}

fn cut(line: &[u8], most: usize) -> &[u8] {
    line.get(..most).unwrap_or(line)
}

enum End {
    OfLine,
    /// The file ends, the line does not.
    Missing,
    OfFile,
}

/// Reads a line without its newline into `line`, at most `max` bytes of it.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, max: usize) -> io::Result<End> {
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

#[derive(PartialEq, Eq, Hash)]
struct Key {
    frames: Vec<u32>,
    created_by: Option<u32>,
    elided: Option<Elided>,
    unavailable: bool,
}

/// A goroutine being read, or a counted stack.
#[derive(Default)]
struct Current {
    count: u64,
    id: Option<u64>,
    state: String,
    wait: Option<u64>,
    is_leaked: bool,
    is_locked: bool,
    labels: String,
    /// Of counted goroutines, where the dump tells.
    counted: Option<Counted>,
    frames: Vec<u32>,
    created_by: Option<u32>,
    elided: Option<Elided>,
    unavailable: bool,
    /// A function whose file is on the next line, and whether it is the creator.
    pending: Option<(Vec<u8>, bool)>,
    /// A frame had to be left out.
    is_incomplete: bool,
    /// What follows are the stacks of its ancestors.
    is_done: bool,
}

/// What a `debug=1` dump of memtrap's own tells of a stack's goroutines.
#[derive(Default)]
struct Counted {
    states: Vec<(String, u64)>,
    locked: u64,
    leaked: u64,
}

impl Current {
    /// Takes a comment that `goruntime::goroutine_files` writes, without its mark.
    fn told(&mut self, comment: &[u8]) -> bool {
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
fn elided(line: &str) -> Option<Option<u64>> {
    let rest = line.strip_prefix("...").filter(|rest| rest.ends_with(" elided..."))?;
    Some(rest.trim_start_matches('.').split(' ').next().and_then(|n| n.parse().ok()))
}

struct Parser {
    limits: Limits,
    dump: Dump,
    current: Option<Current>,
    groups: HashMap<Key, usize>,
    /// From `function\nfile:line` to the frame.
    frames: HashMap<Vec<u8>, u32>,
    kept: Kept,
    scratch: Vec<u8>,
    /// Before each line.
    prefix: Prefix,
    /// Of those that were counted.
    ids: HashSet<u64>,
}

/// What a log puts before a line, by its shape: runs of digits are numbers that differ, all else stays the same.
#[derive(Default)]
struct Prefix(Vec<Piece>);

#[derive(PartialEq, Eq)]
enum Piece {
    Digits,
    Byte(u8),
}

impl Prefix {
    fn of(text: &[u8]) -> Prefix {
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
    fn strip<'l>(&self, line: &'l [u8]) -> &'l [u8] {
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

/// What is left of [`Limits::bytes`].
struct Kept {
    left: usize,
}

/// What a frame, a group and an entry of a map take beside their text: structs, keys, and what the allocator adds.
const FRAME_BYTES: usize = 200;
const GROUP_BYTES: usize = 600;
const ENTRY_BYTES: usize = 200;

impl Kept {
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.left = self.left.checked_sub(bytes)?;
        Some(())
    }

    /// Beyond `max` entries, and where there is no memory for another, it counts as `other`.
    fn count_in(&mut self, counts: &mut BTreeMap<String, u64>, what: String, count: u64, max: usize) {
        if what.is_empty() {
            return;
        }
        let is_kept = counts.contains_key(&what) || (counts.len() < max && self.take(ENTRY_BYTES + what.len()).is_some());
        let sum = counts.entry(if is_kept { what } else { "other".to_owned() }).or_insert(0);
        *sum = sum.saturating_add(count);
    }
}

/// Beyond, one that comes twice is counted twice.
const MAX_IDS: usize = 1_000_000;
/// Beyond these, the rest is counted as `other`.
const MAX_STATES: usize = 32;
const MAX_LABEL_SETS: usize = 16;

impl Parser {
    fn new(limits: Limits) -> Parser {
        Parser {
            limits,
            dump: Dump::default(),
            current: None,
            groups: HashMap::new(),
            frames: HashMap::new(),
            kept: Kept { left: limits.bytes },
            scratch: Vec::new(),
            prefix: Prefix::default(),
            ids: HashSet::new(),
        }
    }

    fn line(&mut self, raw: &[u8]) {
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
        } else if self.dump.declared.is_none() && self.dump.total == 0 {
            self.dump.declared = declared(line);
            if let Some(at) = self.dump.declared.and_then(|_| find(raw, DECLARED)) {
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
        let id = self.intern(function, file, line);
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

    fn intern(&mut self, function: &[u8], file: &[u8], line: u64) -> Option<u32> {
        self.scratch.clear();
        self.scratch.extend_from_slice(function);
        self.scratch.push(b'\n');
        self.scratch.extend_from_slice(file);
        self.scratch.extend_from_slice(&line.to_le_bytes());
        if let Some(id) = self.frames.get(self.scratch.as_slice()) {
            return Some(*id);
        }
        // once as the key, once as the frame
        self.kept.take(FRAME_BYTES + 2 * self.scratch.len())?;
        let id = u32::try_from(self.dump.frames.len()).ok()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.dump.frames.push(Frame { function: text(function), file: text(file), line });
        self.frames.insert(self.scratch.clone(), id);
        Some(id)
    }

    fn end_goroutine(&mut self) {
        if let Some((function, is_creator)) = self.current.as_mut().and_then(|current| current.pending.take()) {
            self.frame(&function, b"", is_creator);
        }
        let Some(current) = self.current.take().filter(|current| current.count > 0) else { return };
        self.dump.total = self.dump.total.saturating_add(current.count);
        let key = Key { frames: current.frames, created_by: current.created_by, elided: current.elided, unavailable: current.unavailable };
        let index = match self.groups.get(&key) {
            Some(index) => *index,
            None if current.is_incomplete
                || self.dump.groups.len() >= self.limits.groups
                || self.kept.take(GROUP_BYTES + 2 * size_of_val(key.frames.as_slice())).is_none() =>
            {
                self.dump.others = self.dump.others.saturating_add(current.count);
                return;
            }
            None => {
                self.dump.groups.push(Group {
                    first_id: current.id,
                    elided: key.elided,
                    unavailable: key.unavailable,
                    frames: key.frames.clone(),
                    created_by: key.created_by,
                    ..Group::default()
                });
                self.groups.insert(key, self.dump.groups.len() - 1);
                self.dump.groups.len() - 1
            }
        };
        let Some(group) = self.dump.groups.get_mut(index) else { return };
        group.count = group.count.saturating_add(current.count);
        group.longest_wait = group.longest_wait.max(current.wait);
        group.leaked += u64::from(current.is_leaked);
        group.locked_to_thread += u64::from(current.is_locked);
        if let Some(counted) = current.counted {
            group.leaked = group.leaked.saturating_add(counted.leaked);
            group.locked_to_thread = group.locked_to_thread.saturating_add(counted.locked);
            for (state, count) in counted.states {
                self.kept.count_in(&mut group.states, state, count, MAX_STATES);
            }
        }
        self.kept.count_in(&mut group.states, current.state, current.count, MAX_STATES);
        self.kept.count_in(&mut group.labels, current.labels, current.count, MAX_LABEL_SETS);
    }

    /// `None` if there was no goroutine.
    fn finish(mut self) -> Option<Dump> {
        // The last one may have been cut where a line ends.
        let is_cut = |c: &Current| c.pending.is_some() || (c.frames.is_empty() && !c.unavailable);
        if let Some(last) = self.current.take_if(|current| self.dump.truncated || is_cut(current)) {
            self.dump.truncated = true;
            self.dump.total = self.dump.total.saturating_add(last.count);
            self.dump.others = self.dump.others.saturating_add(last.count);
        }
        self.end_goroutine();
        self.dump.truncated |= self.dump.declared.is_some_and(|declared| declared > self.dump.total);
        self.dump.groups.sort_by_key(|group| std::cmp::Reverse((group.count, group.longest_wait)));
        (self.dump.total > 0 || self.dump.declared.is_some()).then_some(self.dump)
    }
}

const GOROUTINE: &[u8] = b"goroutine ";
const DECLARED: &[u8] = b"goroutine profile: total ";

/// Whether a dump of goroutines begins somewhere in this text. Looks at its first part only.
pub fn is_in(text: &[u8]) -> bool {
    const LOOKED_AT: usize = 256 << 10;
    let head = text.get(..LOOKED_AT).unwrap_or(text);
    unlogged::mentions(head)
        || head
            .split(|b| *b == b'\n')
            .any(|line| find(line, DECLARED).is_some() || header(line).is_some() || prefixed(line, line.trim_ascii()).is_some())
}

/// A header after something that a log put there. `line` is `raw` without what is known to stand there.
fn prefixed<'l>(raw: &'l [u8], line: &[u8]) -> Option<(&'l [u8], Current)> {
    // few lines end so
    if line.last() != Some(&b':') {
        return None;
    }
    let (at, text) = (find(raw, GOROUTINE)?, raw.trim_ascii_end());
    Some((raw.get(..at)?, header(text.get(at..)?)?))
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

/// The function and `file:line` of `# 0x4875c9 main.wait+0x14 main.go:134`, without its mark. Tabs stand between them, or blanks.
pub(super) fn named_frame(rest: &[u8]) -> (&[u8], &[u8]) {
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
fn header(line: &[u8]) -> Option<Current> {
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
fn counted(line: &[u8]) -> Option<Current> {
    let at = line.iter().position(|b| *b == b' ').filter(|at| line.get(at + 1) == Some(&b'@'))?;
    let count = std::str::from_utf8(line.get(..at)?).ok()?.parse().ok()?;
    Some(Current { count, ..Current::default() })
}

/// `goroutine profile: total 363`
fn declared(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.split_once(" profile: total ")?.1.parse().ok()
}

fn until<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    text.windows(end.len()).position(|w| w == end).and_then(|at| text.get(..at)).unwrap_or(text)
}

fn until_last(text: &[u8], end: u8) -> &[u8] {
    text.iter().rposition(|b| *b == end).and_then(|at| text.get(..at)).unwrap_or(text)
}

/// `/src/main.go:134 +0x15`; the line is 0 where there is none.
pub(super) fn split_place(place: &[u8]) -> (&[u8], u64) {
    let colon = place.iter().rposition(|b| *b == b':');
    let Some((file, rest)) = colon.and_then(|at| Some((place.get(..at)?, place.get(at + 1..)?))) else { return (place, 0) };
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    match rest.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
        Some(line) => (file, line),
        None => (place, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Dump {
        parse(text.as_bytes(), &Limits::default()).unwrap()
    }

    fn functions<'a>(dump: &'a Dump, group: &'a Group) -> Vec<&'a str> {
        dump.stack(group).map(|f| f.function.as_str()).collect()
    }

    const DUMP: &str = "goroutine 1 [running]:
main.main()
	/src/main.go:9 +0x1d

goroutine 7 [chan receive, 3 minutes]:
main.(*Queue[...]).wait(0xc0000, {0x1, 0x2})
	/src/q x.go:41 +0x15
created by main.start in goroutine 1
	/src/main.go:20 +0x5f

goroutine 8 [chan receive (leaked), 12 minutes, locked to thread] {route: /pay}:
main.(*Queue[...]).wait(...)
	/src/q x.go:41
created by main.start in goroutine 5
	/src/main.go:20 +0x5f

";

    #[test]
    fn goroutines_with_the_same_stack_are_one_group() {
        let dump = read(DUMP);
        assert_eq!((dump.total, dump.groups.len(), dump.others, dump.truncated), (3, 2, 0, false));
        let waiting = &dump.groups[0];
        assert_eq!((waiting.count, waiting.longest_wait, waiting.leaked, waiting.locked_to_thread), (2, Some(12), 1, 1));
        assert_eq!(waiting.states, BTreeMap::from([("chan receive".to_owned(), 2)]));
        assert_eq!(waiting.labels, BTreeMap::from([("{route: /pay}".to_owned(), 1)]));
        assert_eq!(waiting.first_id, Some(7));
        let frame = dump.stack(waiting).next().unwrap();
        assert_eq!((frame.function.as_str(), frame.file.as_str(), frame.line), ("main.(*Queue[...]).wait", "/src/q x.go", 41));
        assert_eq!(dump.created_by(waiting).unwrap().function, "main.start");
        assert_eq!(functions(&dump, &dump.groups[1]), ["main.main"]);
        assert_eq!(dump.created_by(&dump.groups[1]), None);
    }

    #[test]
    fn states_are_taken_as_go_writes_them() {
        for state in [
            "chan receive (nil chan)",
            "select (no cases)",
            "IO wait",
            "sync.Mutex.Lock",
            "semacquire",
            "syscall",
            "force gc (idle)",
            "sleep",
        ] {
            let dump = read(&format!(
                "goroutine 3 [{state}]:\nf()\n\tx.go:1\n\ngoroutine 4 gp=0xc0 m=3 mp=0xc1 [{state} (scan)]:\nf()\n\tx.go:1\n"
            ));
            assert_eq!(dump.groups[0].states, BTreeMap::from([(state.to_owned(), 2)]));
        }
    }

    #[test]
    fn gaps_in_a_stack_are_kept() {
        let dump = read("goroutine 2 [running]:\na()\n\tx.go:1\n...21 frames elided...\nb()\n\tx.go:2\n\n");
        assert_eq!(dump.groups[0].elided, Some(Elided { after: 1, frames: Some(21) }));
        assert_eq!(functions(&dump, &dump.groups[0]), ["a", "b"]);
        let dump = read("goroutine 2 [running]:\na()\n\tx.go:1\n...additional frames elided...\ncreated by b\n\tx.go:2 +0x1\n\n");
        assert_eq!(dump.groups[0].elided, Some(Elided { after: 1, frames: None }));
        assert_eq!(dump.created_by(&dump.groups[0]).unwrap().function, "b");
    }

    #[test]
    fn a_running_goroutine_may_have_no_stack() {
        let dump = read(
            "goroutine 5 [running]:\n\tgoroutine running on other thread; stack unavailable\ncreated by f in goroutine 1\n\tx.go:1 +0x2\n",
        );
        assert_eq!((dump.total, dump.truncated, dump.groups[0].unavailable), (1, false, true));
        assert!(functions(&dump, &dump.groups[0]).is_empty());
    }

    #[test]
    fn ancestors_and_c_frames_do_not_disturb() {
        let dump = read(
            "goroutine 5 [syscall]:\nnon-Go function\n\tpc=0x7f\nf(0x1)\n\tx.go:1 +0x1\n[originating from goroutine 1]:\ng()\n\tx.go:2 +0x1\n\n",
        );
        assert_eq!(functions(&dump, &dump.groups[0]), ["non-Go function", "f"]);
    }

    #[test]
    fn counted_stacks_are_read_too() {
        let dump = read(
            "goroutine profile: total 7\n4 @ 0x1 0x2\n#\t0x1\tmain.wait+0x14\t\t/src/main.go:134\n#\t0x2\tmain.run+0x1\t/src/main.go:9\n\n\
             2 @ 0x1 0x2\n# labels: {\"route\":\"/pay\"}\n#\t0x1\tmain.wait+0x14\t/src/main.go:134\n#\t0x2\tmain.run+0x1\t/src/main.go:9\n\n\
             1 @ 0x5\n#\t0x5\n\n",
        );
        assert_eq!((dump.total, dump.declared, dump.truncated, dump.groups.len()), (7, Some(7), false, 2));
        assert_eq!(dump.groups[0].count, 6);
        assert_eq!(dump.groups[0].labels, BTreeMap::from([("{\"route\":\"/pay\"}".to_owned(), 2)]));
        assert_eq!(functions(&dump, &dump.groups[0]), ["main.wait", "main.run"]);
        assert_eq!(functions(&dump, &dump.groups[1]), ["0x5"]);
    }

    #[test]
    fn a_dump_that_is_cut_off_gives_what_was_read() {
        let mut totals = Vec::new();
        for cut in 1..DUMP.len() {
            match parse(&DUMP.as_bytes()[..cut], &Limits::default()) {
                Ok(dump) => {
                    let grouped: u64 = dump.groups.iter().map(|g| g.count).sum();
                    assert_eq!(dump.total, grouped + dump.others);
                    if !DUMP[..cut].ends_with('\n') {
                        assert!(dump.truncated, "{cut}");
                    }
                    totals.push(dump.total);
                }
                Err(e) => assert!(matches!(e, GoroutineError::NotADump { .. }), "{cut}: {e}"),
            }
        }
        assert!(totals.is_sorted() && totals.last() == Some(&3));
        let dump = read("goroutine profile: total 9\n4 @ 0x1\n#\t0x1\tf+0x1\tx.go:1\n\n");
        assert_eq!((dump.total, dump.truncated), (4, true));
    }

    #[test]
    fn what_is_beyond_the_limits_is_counted() {
        let many: String = (1..=100).map(|i| format!("goroutine {i} [select]:\nf{i}()\n\tx.go:1 +0x1\n\n")).collect();
        let few = Limits { groups: 10, ..Limits::default() };
        let dump = parse(many.as_bytes(), &few).unwrap();
        assert_eq!((dump.total, dump.groups.len(), dump.others), (100, 10, 90));
        let small = Limits { bytes: 16 << 10, ..Limits::default() };
        let dump = parse(many.as_bytes(), &small).unwrap();
        assert_eq!((dump.total, dump.groups.len() as u64 + dump.others), (100, 100));
        assert!(dump.others > 80);
        let shallow = Limits { frames: 2, ..Limits::default() };
        let deep: String = (0..5).map(|i| format!("f{i}()\n\tx.go:{i} +0x1\n")).collect();
        let dump = parse(format!("goroutine 1 [select]:\n{deep}\n").as_bytes(), &shallow).unwrap();
        assert_eq!(dump.groups[0].elided, Some(Elided { after: 2, frames: Some(3) }));
        let long = format!("goroutine 1 [select]:\n{}()\n\tx.go:1 +0x1\n\n", "f".repeat(1 << 20));
        let dump = parse(long.as_bytes(), &Limits { line_bytes: 100, ..Limits::default() }).unwrap();
        assert_eq!(dump.stack(&dump.groups[0]).next().unwrap().function.len(), 100);
    }

    #[test]
    fn states_and_labels_of_any_length_take_no_more_memory_than_is_allowed() {
        let long = |i: usize| format!("goroutine {i} [{i}{}] {{{}}}:\nf{}()\n\tx.go:1 +0x1\n\n", "s".repeat(4000), "l".repeat(4000), i / 8);
        let dump: String = (1..=800).map(long).collect();
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        let dump = parse(dump.as_bytes(), &limits).unwrap();
        let grouped: u64 = dump.groups.iter().map(|group| group.count).sum();
        assert_eq!((dump.total, grouped + dump.others), (800, 800));
        let text = |group: &Group| group.states.keys().chain(group.labels.keys()).map(String::len).sum::<usize>();
        assert!(dump.groups.iter().map(text).sum::<usize>() < limits.bytes);
    }

    /// The dump as it comes out of other programs.
    fn disguised(before: impl Fn(usize) -> String, change: impl Fn(&str) -> String) -> String {
        DUMP.lines().enumerate().map(|(i, line)| format!("{}{}", before(i), change(line)).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_dump_is_read_through_what_logs_and_chats_make_of_it() {
        let same = |line: &str| line.to_owned();
        let blanks = |line: &str| line.replace('\t', "        ");
        let trimmed = |line: &str| line.trim().to_owned();
        let plain = read(DUMP);
        for (how, text) in [
            ("kubectl --timestamps", disguised(|i| format!("2026-11-27T11:10:{:02}.{}Z ", i, 5 + i * 97), same)),
            ("kubectl --prefix", disguised(|i| format!("[pod/shop-7f9c/shop] 2026-11-27T11:10:{:02}.1Z ", i), same)),
            ("journalctl", disguised(|i| format!("Nov 27 11:10:{:02} host-1 shop[482{}]: ", i, i % 10), same)),
            ("docker compose", disguised(|_| "shop-1  | ".into(), blanks)),
            ("a quote", disguised(|_| "> ".into(), blanks)),
            ("indented", disguised(|_| "    ".into(), blanks)),
            ("blanks for tabs", disguised(|_| String::new(), blanks)),
            ("no indentation", disguised(|_| String::new(), trimmed)),
            ("only the first line", format!("2026/11/27 11:10:17 {DUMP}")),
        ] {
            let dump = read(&text);
            assert_eq!((dump.total, dump.groups.len(), dump.others, dump.truncated), (3, 2, 0, false), "{how}:\n{text}");
            for (group, expected) in dump.groups.iter().zip(&plain.groups) {
                let frames = |dump: &Dump, group: &Group| dump.stack(group).cloned().collect::<Vec<_>>();
                assert_eq!(frames(&dump, group), frames(&plain, expected), "{how}");
                assert_eq!(dump.created_by(group), plain.created_by(expected), "{how}");
                assert_eq!((&group.states, group.longest_wait), (&expected.states, expected.longest_wait), "{how}");
            }
        }
    }

    #[test]
    fn counted_stacks_are_read_through_a_log_too() {
        let text = "goroutine profile: total 6\n4 @ 0x1 0x2\n#\t0x1\tmain.(*Q[go.shape.struct { X int }]).wait+0x14\t\t/my src/main.go:134\n\n2 @ 0x5\n#\t0x5\n\n";
        let logged: String = text.lines().map(|l| format!("Nov 27 11:10:17 host shop[1]: {}\n", l.replace('\t', "    "))).collect();
        for text in [text, &logged] {
            let dump = read(text);
            assert_eq!((dump.total, dump.declared, dump.groups.len()), (6, Some(6), 2), "{text}");
            let frame = dump.stack(&dump.groups[0]).next().unwrap();
            assert_eq!(
                (frame.function.as_str(), frame.file.as_str(), frame.line),
                ("main.(*Q[go.shape.struct { X int }]).wait", "/my src/main.go", 134)
            );
            assert_eq!(functions(&dump, &dump.groups[1]), ["0x5"]);
        }
    }

    #[test]
    fn a_goroutine_that_a_crash_prints_twice_counts_once_and_the_scheduler_does_not_count() {
        let crash = format!(
            "SIGQUIT: quit\nPC=0x46 m=0 sigcode=0\n\ngoroutine 0 gp=0x5 m=0 mp=0x6 [idle]:\nruntime.futex(0x1)\n\t/go/sys.s:557 +0x21 fp=0x7f sp=0x7e pc=0x46\n\n\
             {DUMP}rax    0x0\n\n-----\n\nSIGQUIT: quit\ngoroutine 0 gp=0x7 m=2 mp=0x8 [idle]:\nruntime.futex(0x1)\n\t/go/sys.s:557 +0x21\n\n{DUMP}"
        );
        let dump = read(&crash);
        assert_eq!((dump.total, dump.groups.len(), dump.groups[0].count), (3, 2, 2), "{dump:?}");
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        assert!(matches!(parse(&b""[..], &Limits::default()), Err(GoroutineError::Empty)));
        let error = parse(&b"<html>\n"[..], &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("begins with `<html>`; fetch"), "{error}");
    }
}
