//! Reader of goroutine dumps as text: `goroutine?debug=2` (one goroutine after the other, with states and waits; `debug=3` is the
//! same) and `debug=1` (counted stacks, without states).
//!
//! Goroutines are grouped by identical stack while they are read: each distinct stack is kept once, so a dump of 100,000
//! goroutines in three stacks is small. Arguments of functions are not kept: they are addresses.
//! Not here: crash output mixed with logs, and dumps of other runtimes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead};

use super::error::harmless;

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
    /// How many are in which state, such as `chan receive` or `IO wait`. Empty for `debug=1`, which does not tell.
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
        match read_line(&mut reader, &mut line, limits.line_bytes)? {
            End::OfFile => break,
            End::Missing => parser.dump.truncated = true,
            End::OfLine => parser.line(&line),
        }
        is_empty = false;
        if first.is_empty() {
            first = String::from_utf8_lossy(&line).trim().chars().take(60).collect();
        }
    }
    match parser.finish() {
        Some(dump) => Ok(dump),
        None if is_empty => Err(GoroutineError::Empty),
        None => Err(GoroutineError::NotADump { start: harmless(&first).into_owned() }),
    }
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

struct Parser {
    limits: Limits,
    dump: Dump,
    current: Option<Current>,
    groups: HashMap<Key, usize>,
    /// From `function\nfile:line` to the frame.
    frames: HashMap<Vec<u8>, u32>,
    kept: Kept,
    scratch: Vec<u8>,
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
        }
    }

    fn line(&mut self, line: &[u8]) {
        if line.is_empty() {
            self.end_goroutine();
        } else if let Some(current) = header(line).or_else(|| counted(line)) {
            self.end_goroutine();
            self.current = Some(current);
        } else if self.current.is_some() {
            self.goroutine_line(line);
        } else if self.dump.declared.is_none() && self.dump.total == 0 {
            self.dump.declared = declared(line);
        }
    }

    fn goroutine_line(&mut self, line: &[u8]) {
        let Some(current) = self.current.as_mut().filter(|current| !current.is_done) else { return };
        if let Some(rest) = line.strip_prefix(b"#") {
            match rest.strip_prefix(b" labels: ") {
                Some(labels) => current.labels = String::from_utf8_lossy(labels).into_owned(),
                None => self.counted_frame(rest),
            }
        } else if let Some(place) = line.strip_prefix(b"\t") {
            match current.pending.take() {
                Some((function, is_creator)) => self.frame(&function, place, is_creator),
                None => current.unavailable |= place.ends_with(b"stack unavailable"),
            }
        } else if line.starts_with(b"...") && line.ends_with(b" elided...") {
            let frames = std::str::from_utf8(line).ok().and_then(|line| line.trim_start_matches('.').split(' ').next()?.parse().ok());
            current.elided = Some(Elided { after: current.frames.len(), frames });
        } else if line.starts_with(b"[originating from goroutine ") {
            current.is_done = true;
        } else {
            let (function, is_creator) = match line.strip_prefix(b"created by ") {
                Some(creator) => (until(creator, b" in goroutine "), true),
                None => (until_last(line, b'('), false),
            };
            if let Some((function, is_creator)) = current.pending.replace((function.to_vec(), is_creator)) {
                self.frame(&function, b"", is_creator);
            }
        }
    }

    /// Address, `main.wait+0x14` and `main.go:134`, with one tab or more between them.
    fn counted_frame(&mut self, rest: &[u8]) {
        let mut cells = rest.split(|b| *b == b'\t').filter(|cell| !cell.is_empty());
        let address = cells.next().unwrap_or(b"");
        match cells.next() {
            Some(function) => {
                let function = match function.windows(3).rposition(|w| w == b"+0x") {
                    Some(at) => function.get(..at).unwrap_or(function),
                    None => function,
                };
                self.frame(function, cells.next().unwrap_or(b""), false);
            }
            None => self.frame(address, b"", false),
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
        let Some(current) = self.current.take() else { return };
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

/// `/src/main.go:134 +0x15`
fn split_place(place: &[u8]) -> (&[u8], u64) {
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
        let many: String = (0..100).map(|i| format!("goroutine {i} [select]:\nf{i}()\n\tx.go:1 +0x1\n\n")).collect();
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
        let dump: String = (0..800).map(long).collect();
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        let dump = parse(dump.as_bytes(), &limits).unwrap();
        let grouped: u64 = dump.groups.iter().map(|group| group.count).sum();
        assert_eq!((dump.total, grouped + dump.others), (800, 800));
        let text = |group: &Group| group.states.keys().chain(group.labels.keys()).map(String::len).sum::<usize>();
        assert!(dump.groups.iter().map(text).sum::<usize>() < limits.bytes);
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        assert!(matches!(parse(&b""[..], &Limits::default()), Err(GoroutineError::Empty)));
        let error = parse(&b"<html>\n"[..], &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("begins with `<html>`; fetch"), "{error}");
    }
}
