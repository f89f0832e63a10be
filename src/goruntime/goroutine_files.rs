//! Goroutines as the files of a bundle: `goroutine.pb.gz` as `/debug/pprof/goroutine` gives it, and `goroutine.txt` in the form of `?debug=1`.
//!
//! The text says more than Go's: states, waits and creators stand in comments, which `go tool pprof` skips and
//! [`crate::pprof::goroutine`] reads.

use std::borrow::Cow;
use std::fmt::Write;

use super::functions::Frame;
use super::goroutines::{Goroutines, Group};
use super::names::{Names, is_of_runtime, is_shown, lines};
use super::{Refused, Runtime};
use crate::pprof::encode::{Builder, Call, Type};

/// The profile in pprof's format, gzipped.
pub fn profile(runtime: &Runtime, goroutines: &Goroutines, taken_unix_ns: u64) -> Result<Vec<u8>, Refused> {
    let mut shown = Shown::new(runtime)?;
    let kind = Type { kind: "goroutine", unit: "count" };
    let mut builder = Builder::new(&[kind], kind, 1);
    builder.time_nanos(taken_unix_ns);
    for group in &goroutines.groups {
        let mut calls = Vec::new();
        for (address, frames) in shown.stack(group)? {
            let lines = lines(&frames);
            if !lines.is_empty() {
                calls.push(Call { address: address + 1, lines });
            }
        }
        builder.sample(&[i64::try_from(group.count).unwrap_or(i64::MAX)], &calls, None);
    }
    if goroutines.others > 0 {
        builder.sample(&[i64::try_from(goroutines.others).unwrap_or(i64::MAX)], &[], None);
    }
    builder.finish().map_err(|e| Refused::new(format!("the profile cannot be written: {e}")))
}

/// The text, a stack once.
pub fn text(runtime: &Runtime, goroutines: &Goroutines) -> Result<String, Refused> {
    let mut shown = Shown::new(runtime)?;
    let mut text = format!("goroutine profile: total {}\n", goroutines.total);
    for group in &goroutines.groups {
        // writing to a string does not fail
        let _ = shown.group(&mut text, group)?;
    }
    if goroutines.others > 0 {
        let _ = writeln!(text, "{} @\n# stack unavailable: too many different ones\n", goroutines.others);
    }
    Ok(text)
}

/// What of the functions at an address is shown.
struct Shown<'r> {
    names: Names<'r>,
}

impl<'r> Shown<'r> {
    fn new(runtime: &'r Runtime<'r>) -> Result<Shown<'r>, Refused> {
        Ok(Shown { names: Names::new(runtime)? })
    }

    /// The calls with what is inlined at each, without the compiler's wrappers. Of a running one, the function that it was started with.
    fn stack(&mut self, group: &Group) -> Result<Vec<(u64, Vec<Frame>)>, Refused> {
        let Some(stack) = &group.stack else {
            return Ok(vec![(group.start, self.names.frames(group.start)?.to_vec())]);
        };
        let mut calls = Vec::with_capacity(stack.calls.len());
        let mut callee: Option<String> = None;
        for address in &stack.calls {
            let mut frames = self.names.frames(*address)?.to_vec();
            frames.retain(|frame| {
                let is_shown = !self.names.is_wrapper(frame, callee.as_deref());
                callee = Some(frame.function.clone());
                is_shown
            });
            calls.push((*address, frames));
        }
        Ok(calls)
    }

    fn group(&mut self, text: &mut String, group: &Group) -> Result<std::fmt::Result, Refused> {
        let calls = self.stack(group)?;
        // as Go does: the way into the runtime is hidden, unless there is nothing else
        let all = || calls.iter().flat_map(|(_, frames)| frames).filter(is_shown);
        let hidden = all().take_while(|frame| is_of_runtime(&frame.function)).count();
        let hidden = if hidden == all().count() { 0 } else { hidden };
        let mut lines = String::new();
        let mut nth = 0;
        for (address, frames) in &calls {
            for frame in frames.iter().filter(is_shown) {
                if nth >= hidden {
                    lines.push_str(&self.line(*address, frame)?);
                }
                nth += 1;
            }
        }
        let creator = match group.created_at {
            0 => None,
            at => self.names.frames(at - 1)?.first().map(|frame| self.line(at - 1, frame)).transpose()?,
        };
        Ok(write_group(text, group, &calls, &lines, creator.as_deref()))
    }

    /// `# 0x4875c9 main.wait+0x14 /src/main.go:134`
    fn line(&self, address: u64, frame: &Frame) -> Result<String, Refused> {
        let entry = self.names.functions.find(address)?.map_or(address, |function| function.entry);
        Ok(format!("#\t{address:#x}\t{}+{:#x}\t{}:{}\n", shown(&frame.function), address.wrapping_sub(entry), frame.file, frame.line))
    }
}

/// Without type arguments, as Go's texts have it (`funcNameForPrint`).
fn shown(function: &str) -> Cow<'_, str> {
    match (function.split_once('['), function.rsplit_once(']')) {
        (Some((before, _)), Some((_, after))) if before.len() < function.len() - after.len() => format!("{before}[...]{after}").into(),
        _ => function.into(),
    }
}

fn write_group(text: &mut String, group: &Group, calls: &[(u64, Vec<Frame>)], lines: &str, creator: Option<&str>) -> std::fmt::Result {
    write!(text, "{} @", group.count)?;
    for (address, _) in calls {
        write!(text, " {:#x}", address + 1)?;
    }
    let states: Vec<String> = group.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    writeln!(text, "\n# states: {}", states.join(", "))?;
    if let Some(minutes) = group.longest_wait_ns.map(|ns| ns / 60_000_000_000).filter(|minutes| *minutes > 0) {
        writeln!(text, "# longest wait: {minutes} minutes")?;
    }
    if group.locked_to_thread > 0 {
        writeln!(text, "# locked to thread: {}", group.locked_to_thread)?;
    }
    if group.leaked > 0 {
        writeln!(text, "# leaked: {}", group.leaked)?;
    }
    text.push_str(lines);
    match &group.stack {
        None => writeln!(text, "# stack unavailable: of what runs, only where it began is known")?,
        Some(stack) if stack.deeper > 0 => writeln!(text, "# ...{} frames elided...", stack.deeper)?,
        Some(_) => {}
    }
    if let Some(creator) = creator {
        write!(text, "# created by:{}", creator.trim_start_matches('#'))?;
    }
    text.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_arguments_are_not_shown() {
        assert_eq!(shown("main.(*queue[go.shape.int]).take"), "main.(*queue[...]).take");
        assert_eq!(shown("main.held[go.shape.struct { a []int }]"), "main.held[...]");
        assert_eq!((shown("main.main"), shown("odd]["), shown("")), ("main.main".into(), "odd][".into(), "".into()));
    }
}
