//! `holders.json`: who holds what is live on the heap, and what would be freed without them.
//!
//! The file's format, its table, and how two of them compare. Who fills it in is [`crate::goruntime::objects`].

use std::collections::HashMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::units::ByteSize;

/// Its name in a bundle.
pub const FILE: &str = "holders.json";
const SCHEMA: u32 = 1;
/// One larger than this is none.
pub const MAX_BYTES: u64 = 8 << 20;

/// Bytes are those that the objects take on the heap, rounded up to their size classes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holders {
    pub schema: u32,
    /// All objects that are reached from a root.
    pub reached_bytes: u64,
    pub reached_objects: u64,
    /// What the last collection found to be reachable; what was allocated or dropped since is the difference.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub marked_bytes: Option<u64>,
    /// The most bytes first.
    pub holders: Vec<Holder>,
    /// What those hold that are too small to be listed.
    pub others: Others,
    /// Why this may be less than exact, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub limits: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Others {
    pub holders: u64,
    pub retained_bytes: u64,
    pub objects: u64,
}

/// A root, or several that hold the same objects together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Holder {
    /// `global`, `goroutines`, `timer`, `finalizer`, `runtime` or `shared`.
    pub kind: String,
    pub name: String,
    /// Goroutines, timers or finalizers that are one holder here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub count: Option<u64>,
    /// A `sync.Pool`: the second collection from now drops what it has.
    #[serde(rename = "pool", skip_serializing_if = "std::ops::Not::not", default)]
    pub is_pool: bool,
    /// The most goroutines of one group among those that hold it, alone or with others; no more than could each have as much as is held in one
    /// piece.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub goroutines: Option<u64>,
    /// The most of one group that only point into it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub also_goroutines: Option<u64>,
    /// What would be freed without it.
    pub retained_bytes: u64,
    pub objects: u64,
    /// Of all that is reached.
    pub share: f64,
    /// The type of what it points to first, where that is known.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub type_name: Option<String>,
    /// From it to where the bytes are.
    pub path: Vec<Step>,
    /// Goroutines, timers and the like that point into it at this moment, and do not own it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub also: Vec<String>,
    /// Since the baseline.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub growth_objects: Option<i64>,
}

/// Objects of one kind on the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// A type (`*main.Session`), or `object of 48 bytes` where it is not known.
    pub what: String,
    pub objects: u64,
    /// Of their own, without what they hold.
    pub own_bytes: u64,
    pub retained_bytes: u64,
}

impl Holders {
    pub fn new() -> Holders {
        Holders { schema: SCHEMA, ..Holders::default() }
    }

    /// All that is live, where nothing was left out: what only pools have is on its way out.
    pub fn live_bytes(&self) -> Option<u64> {
        let in_pools = self.holders.iter().filter(|holder| holder.is_pool).map(|holder| holder.retained_bytes).sum();
        self.limits.is_empty().then(|| self.reached_bytes.saturating_sub(in_pools))
    }

    /// What many goroutines hold, alone or together with others, and what they only point into; bytes. `many` of one group are.
    pub fn of_goroutines(&self, many: u64, bytes: impl Fn(&Holder) -> u64) -> (u64, u64) {
        let are_many = |count: Option<u64>| count.is_some_and(|count| count >= many);
        let (holding, others): (Vec<&Holder>, Vec<&Holder>) = self.holders.iter().partition(|holder| are_many(holder.goroutines));
        let sum = |holders: Vec<&Holder>| holders.into_iter().map(&bytes).fold(0, u64::saturating_add);
        (sum(holding), sum(others.into_iter().filter(|holder| are_many(holder.also_goroutines)).collect()))
    }

    pub fn parse(text: &[u8]) -> Result<Holders, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Says of each holder how it grew since an earlier walk of the same process.
    pub fn compare(&mut self, base: &Holders) {
        let before: HashMap<(&str, &str), (u64, u64)> =
            base.holders.iter().map(|h| ((h.kind.as_str(), h.name.as_str()), (h.retained_bytes, h.objects))).collect();
        for holder in &mut self.holders {
            let known = before.get(&(holder.kind.as_str(), holder.name.as_str())).copied();
            // too small to be listed then, or not there
            let (bytes, objects) = known.unwrap_or_default();
            holder.growth_bytes = Some(difference(holder.retained_bytes, bytes));
            holder.growth_objects = Some(difference(holder.objects, objects));
        }
    }

    /// The table that `memtrap holders` prints: at most `count` holders, each with its path.
    pub fn text(&self, count: usize) -> String {
        let mut text = String::new();
        let marked = self.marked_bytes.map_or(String::new(), |bytes| format!("; the last collection marked {}", ByteSize(bytes)));
        // writing to a String does not fail
        let _ = writeln!(text, "{} in {} objects are reached{marked}", ByteSize(self.reached_bytes), self.reached_objects);
        let _ = writeln!(text, "{:>10} {:>7} {:>11}  holder", "retained", "share", "objects");
        for holder in self.holders.iter().take(count) {
            let share = format!("{:.1}%", holder.share * 100.0);
            let _ =
                writeln!(text, "{:>10} {share:>7} {:>11}  {}", ByteSize(holder.retained_bytes).to_string(), holder.objects, holder.title());
            if !holder.path.is_empty() {
                let _ = writeln!(text, "{:32}→ {}", "", holder.path_text());
            }
            if let (Some(bytes), Some(objects)) = (holder.growth_bytes, holder.growth_objects) {
                let _ = writeln!(text, "{:32}{} in {objects:+} objects since the baseline", "", signed(bytes));
            }
            if !holder.also.is_empty() {
                let _ = writeln!(text, "{:32}also reached by {}", "", holder.also.join("; "));
            }
        }
        let hidden = self.holders.len().saturating_sub(count);
        let rest = self.holders.iter().skip(count).map(|h| h.retained_bytes).sum::<u64>() + self.others.retained_bytes;
        if rest > 0 {
            let _ = writeln!(
                text,
                "{:>10} {:>7} {:>11}  {} smaller holders",
                ByteSize(rest).to_string(),
                "",
                "",
                hidden as u64 + self.others.holders
            );
        }
        for limit in &self.limits {
            let _ = writeln!(text, "{limit}");
        }
        text
    }
}

impl Holder {
    /// Its name with what it is: `main.sessions`, `1000 goroutines main.worker`.
    pub fn title(&self) -> String {
        match (self.kind.as_str(), self.count) {
            ("goroutines", Some(1)) => format!("goroutine {}", self.name),
            ("goroutines", Some(n)) => format!("{n} goroutines {}", self.name),
            ("timer", Some(1)) => format!("a timer for {}", self.name),
            ("timer", Some(n)) => format!("{n} timers for {}", self.name),
            ("finalizer", Some(1)) => format!("a finalizer {}", self.name),
            ("finalizer", Some(n)) => format!("{n} finalizers {}", self.name),
            _ if self.is_pool => format!("{} (a sync.Pool)", self.name),
            _ => self.name.clone(),
        }
    }

    /// `map[string]*main.Session → main.Session ×412,000 → []uint8 ×412,000`
    pub fn path_text(&self) -> String {
        let step = |step: &Step| if step.objects == 1 { step.what.clone() } else { format!("{} ×{}", step.what, step.objects) };
        self.path.iter().map(step).collect::<Vec<_>>().join(" → ")
    }
}

fn difference(now: u64, before: u64) -> i64 {
    i64::try_from(i128::from(now) - i128::from(before)).unwrap_or(i64::MAX)
}

fn signed(bytes: i64) -> String {
    format!("{}{}", if bytes < 0 { "-" } else { "+" }, ByteSize(bytes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, bytes: u64, objects: u64) -> Holder {
        Holder { kind: "global".into(), name: name.into(), retained_bytes: bytes, objects, ..Holder::default() }
    }

    #[test]
    fn a_holder_that_was_too_small_before_has_grown_by_all_it_holds() {
        let base = Holders { holders: vec![holder("main.a", 100, 10)], ..Holders::new() };
        let mut now = Holders { holders: vec![holder("main.b", 1 << 20, 7), holder("main.a", 40, 4)], ..Holders::new() };
        now.compare(&base);
        let grown: Vec<_> = now.holders.iter().map(|h| (h.growth_bytes, h.growth_objects)).collect();
        assert_eq!(grown, [(Some(1 << 20), Some(7)), (Some(-60), Some(-6))]);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut holders = Holders { reached_bytes: 5, holders: vec![holder("main.a", 5, 1)], ..Holders::new() };
        holders.holders[0].path.push(Step { what: "[]uint8".into(), objects: 1, own_bytes: 5, retained_bytes: 5 });
        let written = serde_json::to_vec(&holders).unwrap();
        assert_eq!(Holders::parse(&written).unwrap(), holders);
        assert!(Holders::parse(b"{}").is_err() && Holders::parse(b"").is_err());
    }
}
