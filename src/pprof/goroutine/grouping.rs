//! Goroutines with the same stack, each stack kept once, within bounds.

use std::collections::{BTreeMap, HashMap};

use super::line::Current;
use super::{Dump, Elided, Frame, Group, Limits};

/// Beyond these, the rest is counted as `other`.
pub(super) const MAX_STATES: usize = 32;
const MAX_LABEL_SETS: usize = 16;

#[derive(PartialEq, Eq, Hash)]
struct Key {
    frames: Vec<u32>,
    created_by: Option<u32>,
    elided: Option<Elided>,
    unavailable: bool,
}

/// The dump as far as it was read.
pub(super) struct Grouping {
    pub dump: Dump,
    limits: Limits,
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

impl Grouping {
    pub fn new(limits: Limits) -> Grouping {
        Grouping {
            dump: Dump::default(),
            limits,
            groups: HashMap::new(),
            frames: HashMap::new(),
            kept: Kept { left: limits.bytes },
            scratch: Vec::new(),
        }
    }

    /// The number of a frame; `None` where there is no memory for it.
    pub fn intern(&mut self, function: &[u8], file: &[u8], line: u64) -> Option<u32> {
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

    /// Counts a goroutine, or a counted stack.
    pub fn add(&mut self, current: Current) {
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
}
