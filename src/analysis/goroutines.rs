//! What a verdict wants of a goroutine dump: groups of identical stacks, with their states and waits.

use std::collections::BTreeMap;

use super::profiles::{MAX_FRAMES, MAX_GROUPS, shown};
use crate::pprof::goroutine::{self, Dump};
use crate::pprof::own;
use crate::verdict::{Deepest, Group};

/// `debug=2` does, `debug=1` does not.
pub fn tells_states(dump: &Dump) -> bool {
    dump.groups.iter().any(|g| !g.states.is_empty())
}

/// By identical stack of functions, the largest first.
pub fn groups(dump: &Dump, module: Option<&str>) -> Vec<Group> {
    // different lines of one function are one stack of functions
    let mut named: BTreeMap<Vec<&str>, Merged> = BTreeMap::new();
    for group in &dump.groups {
        let stack = dump.stack(group).take(MAX_FRAMES).map(|frame| frame.function.as_str()).collect();
        let merged = named.entry(stack).or_default();
        merged.count = merged.count.saturating_add(group.count);
        merged.longest_minutes = merged.longest_minutes.max(group.longest_wait);
        for (state, count) in &group.states {
            let sum = merged.states.entry(state).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
    let mut groups: Vec<(Vec<&str>, Merged)> = named.into_iter().collect();
    groups.sort_by_key(|(_, merged)| std::cmp::Reverse(merged.count));
    groups.truncate(MAX_GROUPS);
    groups.into_iter().map(|(stack, merged)| merged.group(stack, module)).collect()
}

/// The stack with the most frames that Go did not print; `None` if it printed all.
pub fn deepest(dump: &Dump) -> Option<Deepest> {
    let frames = |group: &&goroutine::Group| group.elided.and_then(|elided| elided.frames).unwrap_or(0);
    let group = dump.groups.iter().max_by_key(frames).filter(|group| frames(group) > 0)?;
    let stack: Vec<String> = dump.stack(group).take(MAX_FRAMES).map(|frame| shown(&frame.function)).collect();
    let function = Group { stack, ..Group::default() }.stands_in()?.to_owned();
    Some(Deepest { function, count: group.count, frames: Some(frames(&group)) })
}

#[derive(Default)]
struct Merged<'a> {
    count: u64,
    longest_minutes: Option<u64>,
    states: BTreeMap<&'a str, u64>,
}

impl Merged<'_> {
    fn group(self, stack: Vec<&str>, module: Option<&str>) -> Group {
        let most = self.states.into_iter().max_by_key(|(_, count)| *count);
        Group {
            count: self.count,
            state: most.map(|(state, _)| shown(state)),
            longest_wait_seconds: self.longest_minutes.map(|minutes| minutes.saturating_mul(60)),
            place: own::place(stack.iter().copied(), module).map(shown),
            stack: stack.into_iter().map(shown).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pprof::goroutine::{Limits, parse};

    fn dump(text: &str) -> Dump {
        parse(text.as_bytes(), &Limits::default()).unwrap()
    }

    #[test]
    fn groups_have_the_state_of_most_and_the_longest_wait() {
        let one = |id: u32, state: &str| {
            format!(
                "goroutine {id} [{state}]:\nmain.wait(0xc0)\n\t/x/main.go:{id} +0x1\ncreated by main.main in goroutine 1\n\t/x/main.go:3 +0x1\n\n"
            )
        };
        let text = [one(5, "chan receive, 7 minutes"), one(6, "chan receive, 9 minutes"), one(7, "select")].concat();
        let groups = groups(&dump(&text), None);
        assert_eq!(groups.len(), 1, "{groups:?}");
        let g = &groups[0];
        assert_eq!((g.count, g.state.as_deref(), g.longest_wait_seconds), (3, Some("chan receive"), Some(540)));
        assert_eq!(g.stack, ["main.wait"]);
    }

    #[test]
    fn counts_beyond_all_numbers_do_not_overflow() {
        let one = |line: u32| format!("{} @ 0x1\n#\t0x1\tmain.wait+0x1\t/x/main.go:{line}\n\n", u64::MAX);
        let text = ["goroutine 1 [select]:\nmain.wait()\n\t/x/main.go:9 +0x1\n\n", &one(1), &one(2)].concat();
        assert_eq!(groups(&dump(&text), None)[0].count, u64::MAX);
    }

    #[test]
    fn a_dump_of_debug_1_tells_no_states() {
        assert!(!tells_states(&dump("goroutine profile: total 1\n1 @ 0x1 0x2\n#\t0x1\tmain.wait+0x1\t/x/main.go:1\n\n")));
    }
}
