//! Reader of goroutine dumps as text: `goroutine?debug=2` (one goroutine after the other, with states and waits; `debug=3` is the
//! same) and `debug=1` (counted stacks; states only in those that memtrap read from memory itself).
//!
//! Goroutines are grouped by identical stack while they are read: each distinct stack is kept once, so a dump of 100,000
//! goroutines in three stacks is small. Arguments of functions are not kept: they are addresses.
//!
//! Dumps come through logs and chats: what stands before each line (a time, a pod, a quote's mark) is told by its shape and left out, tabs may have
//! become blanks, empty lines may be gone. In the output of a crash some goroutines stand twice: each counts once, and the scheduler's own
//! stacks (`goroutine 0`) do not count. Lines that a log has escaped are undone by `unlogged`. Not here: dumps of other runtimes.

mod grouping;
mod line;
mod parser;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use super::unlogged;
use crate::text;
use line::{DECLARED, End, cut, find, header, prefixed, read_line};
pub(super) use line::{named_frame, split_place};
use parser::Parser;

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
            (End::Missing, None) => parser.read.dump.truncated = true,
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

/// Whether a dump of goroutines begins somewhere in this text. Looks at its first part only.
pub fn is_in(text: &[u8]) -> bool {
    const LOOKED_AT: usize = 256 << 10;
    let head = text.get(..LOOKED_AT).unwrap_or(text);
    unlogged::mentions(head)
        || head
            .split(|b| *b == b'\n')
            .any(|line| find(line, DECLARED).is_some() || header(line).is_some() || prefixed(line, line.trim_ascii()).is_some())
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
