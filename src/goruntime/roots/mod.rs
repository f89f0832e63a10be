//! What keeps objects of the heap: variables, goroutines, timers, finalizers and the runtime itself (`markroot` in `runtime/mgcmark.go`).
//!
//! Goroutines and timers stand on their own. So pointers *to* a goroutine's `g`, which the runtime's lists and every channel that it waits on
//! have, hold nothing here, nor does the runtime's own list of timers hold them.

mod stacks;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::frames::called_by;
use super::masks::bit;
use super::module::{Range, Table};
use super::names::Names;
use super::spans::Spans;
use super::variables::Variables;
use super::{MAX_PS, Refused, Runtime};

/// Variables are read in pieces.
const PIECE: u64 = 256 << 10;
/// Data of one module.
const MAX_DATA: u64 = 4 << 30;
const MAX_MASK: u64 = 64 << 20;
const MAX_POOLS: u64 = 1 << 20;
const MAX_TIMERS: u64 = 16 << 20;
/// Finalizers and the like of all objects.
const MAX_SPECIALS: usize = 4 << 20;
/// Finalizers that wait to be run are in blocks of 4 KiB.
const MAX_BLOCKS: usize = 1 << 20;
/// Words of variables, with the objects that they point to, that are kept to look at their types.
const SOURCES: usize = 64;

/// What a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Global,
    Goroutines,
    Timer,
    Finalizer,
    Runtime,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Global => "global",
            Kind::Goroutines => "goroutines",
            Kind::Timer => "timer",
            Kind::Finalizer => "finalizer",
            Kind::Runtime => "runtime",
        }
    }
}

/// One root, or several alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub kind: Kind,
    pub name: String,
    /// Goroutines, timers or finalizers; 1 of a variable.
    pub count: u64,
    /// Slots that it points to.
    pub targets: Vec<u32>,
    /// Where such pointers stand, a few of them.
    pub sources: Vec<(u64, u32)>,
    /// A `sync.Pool`: collections drop what it has.
    pub is_pool: bool,
}

impl Root {
    fn new(kind: Kind, name: String) -> Root {
        Root { kind, name, count: 0, targets: Vec::new(), sources: Vec::new(), is_pool: false }
    }

    fn add(&mut self, source: u64, slot: u32) {
        self.targets.push(slot);
        if self.sources.len() < SOURCES {
            self.sources.push((source, slot));
        }
    }
}

/// An object with a finalizer or a cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    pub object: u32,
    /// It keeps what it is to run on; a cleanup does not.
    pub is_finalizer: bool,
    /// Held by the runtime: the function with what it closes over.
    pub function: Option<u32>,
    /// Its code.
    pub entry: u64,
}

/// All roots, in the order in which they count.
#[derive(Debug, Default)]
pub struct Roots {
    pub variables: Vec<Root>,
    /// Timers and goroutines.
    pub running: Vec<Root>,
    /// What may be a pointer on a stack, by goroutines.
    pub possible: Vec<Root>,
    pub specials: Vec<Special>,
    /// Finalizers that wait to be run.
    pub queued: Vec<Root>,
    pub pools: Vec<Root>,
    pub runtime: Root,
    /// Pointers to these hold nothing.
    pub standing: HashSet<u32>,
    /// Pointers from these hold nothing.
    pub lists: HashSet<u32>,
    /// Goroutines whose stack could not be read.
    pub unread: u64,
}

impl Default for Root {
    fn default() -> Root {
        Root::new(Kind::Runtime, "the runtime".into())
    }
}

struct Reading<'r> {
    runtime: &'r Runtime<'r>,
    spans: &'r Spans,
    /// The path of the main module.
    own: Option<&'r str>,
    names: Names<'r>,
    roots: Roots,
}

/// `variables` are completed by the initial values that they point to.
pub fn read<'r>(runtime: &'r Runtime<'r>, spans: &'r Spans, variables: &mut Variables, own: Option<&'r str>) -> Result<Roots, Refused> {
    let mut reading = Reading { runtime, spans, own, names: Names::new(runtime)?, roots: Roots::default() };
    reading.variables(variables)?;
    reading.timers()?;
    reading.goroutines()?;
    reading.specials();
    reading.queued_finalizers();
    Ok(reading.roots)
}

impl Reading<'_> {
    fn variables(&mut self, variables: &mut Variables) -> Result<(), Refused> {
        let modules = self.runtime.modules();
        let is_variable = |address: u64| modules.clone().any(|m| m.data.contains(address) || m.bss.contains(address));
        let mut pointers = Vec::new();
        let mut initial = Vec::new();
        for module in modules.clone() {
            for (range, mask) in [(module.data, module.data_mask), (module.bss, module.bss_mask)] {
                self.words_of(range, mask, &mut |at, word| match self.spans.slot_at(word) {
                    Some(slot) => pointers.push((at, slot)),
                    None if is_variable(word) => initial.push((word, at)),
                    None => {}
                })?;
            }
        }
        for (to, of) in initial {
            variables.add_initial_value(to, of);
        }
        variables.settle();
        self.pools(variables);
        let in_pools: HashSet<u32> = self.roots.pools.iter().flat_map(|root| root.targets.iter().copied()).collect();
        pointers.retain(|(_, slot)| !in_pools.contains(slot));
        self.roots.standing.extend(in_pools);
        let mut by_variable: BTreeMap<u64, Root> = BTreeMap::new();
        for (at, slot) in pointers {
            let found = variables.at(at);
            match found {
                Some((_, variable)) if variable.name.is_of_runtime() || variable.name.is_dropped_by_collection() => {
                    self.roots.runtime.add(at, slot);
                }
                found => {
                    // its parts and its initial values are one variable
                    let owner = found.map_or(at, |(_, variable)| variable.owner);
                    let name = || found.map_or_else(|| format!("the variable at {at:#x}"), |(_, v)| v.name.text(owner, self.own));
                    by_variable.entry(owner).or_insert_with(|| Root { count: 1, ..Root::new(Kind::Global, name()) }).add(at, slot);
                }
            }
        }
        self.roots.variables = by_variable.into_values().collect();
        self.roots.variables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// What lies in the `sync.Pool`s that the runtime knows of: a collection makes it the pool's victim, and the next one drops it
    /// (`poolCleanup` in `sync/pool.go`). So the pool's pointers to it do not hold it as others do.
    fn pools(&mut self, variables: &Variables) {
        let memory = self.runtime.memory;
        let word = |at: u64, nth: u64| memory.u64(at.wrapping_add(8 * nth)).unwrap_or(0);
        let mut pools: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for list in variables.dropped_by_collection() {
            let (first, len, capacity) = (word(list, 0), word(list, 1), word(list, 2));
            if len > capacity || self.spans.slot_at(first).is_none() {
                continue;
            }
            for pool in memory.words(first, len, MAX_POOLS).unwrap_or_default() {
                // `local` and `victim`, each with how many Ps have a part of it
                let parts = [0, 2].map(|nth| (word(pool, nth), word(pool, nth + 1)));
                let parts = parts.into_iter().filter(|(_, count)| (1..=MAX_PS).contains(count));
                pools.entry(pool).or_default().extend(parts.filter_map(|(at, _)| self.spans.slot_at(at)));
            }
        }
        let mut by_name: BTreeMap<String, Root> = BTreeMap::new();
        for (pool, targets) in pools.into_iter().filter(|(_, targets)| !targets.is_empty()) {
            let name = match variables.at(pool) {
                Some((_, variable)) if self.runtime.module.is_global(pool) => variable.name.text(variable.owner, self.own),
                _ => "a field of an object".into(),
            };
            let root = by_name.entry(name.clone()).or_insert_with(|| Root { is_pool: true, ..Root::new(Kind::Global, name) });
            root.count += 1;
            root.targets.extend(targets);
        }
        self.roots.pools = by_name.into_values().collect();
    }

    /// The words of a range that its mask calls pointers, without zeros.
    fn words_of(&self, range: Range, mask: Table, found: &mut impl FnMut(u64, u64)) -> Result<(), Refused> {
        let len = range.end.saturating_sub(range.start);
        if len > MAX_DATA {
            return Err(Refused::new(format!("its variables would take {len} bytes: the layout does not fit")));
        }
        let bits = self.runtime.memory.slice(mask.address, mask.len.div_ceil(8), MAX_MASK)?;
        let mut buf = vec![0; PIECE as usize];
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            let part = buf.get_mut(..piece as usize).unwrap_or_default();
            if self.runtime.memory.read(range.start + done, part) {
                let words = (done / 8..).zip(super::memory::words(part));
                let set = words.filter(|(at, word)| *word != 0 && *at < mask.len && bit(&bits, *at));
                set.for_each(|(at, word)| found(range.start + 8 * at, word));
            }
            done += piece;
        }
        Ok(())
    }

    fn function_name(&mut self, entry: u64) -> String {
        self.names.function(entry).unwrap_or_else(|| format!("a function at {entry:#x}"))
    }

    fn timers(&mut self) -> Result<(), Refused> {
        let Runtime { memory, layout, .. } = self.runtime;
        let heap = layout.field("runtime.p", "timers.heap")?;
        let (f, arg) = (layout.field("runtime.timer", "f")?, layout.field("runtime.timer", "arg")?);
        let (stride, timer_in) = match layout.find("runtime.timerWhen", "(size)") {
            Some(size) => (u64::from(size.size), u64::from(layout.field("runtime.timerWhen", "timer")?.offset)),
            None => (8, 0),
        };
        let mut by_name: BTreeMap<String, Root> = BTreeMap::new();
        let mut names: HashMap<(u64, u64), String> = HashMap::new();
        for p in self.runtime.ps()? {
            self.roots.standing.extend(self.spans.slot_at(p));
            let at = p.wrapping_add(heap.offset.into());
            let (Ok(list), Ok(len)) = (memory.u64(at), memory.u64(at.wrapping_add(8))) else { continue };
            self.roots.lists.extend(self.spans.slot_at(list));
            let Ok(words) = memory.words(list, len.saturating_mul(stride / 8), MAX_TIMERS) else { continue };
            for timer in words.iter().skip((timer_in / 8) as usize).step_by((stride / 8).max(1) as usize) {
                let Some(slot) = self.spans.slot_at(*timer) else { continue };
                let word = |offset: u32| memory.u64(timer.wrapping_add(offset.into())).unwrap_or(0);
                let entry = called_by(self.runtime, word(f.offset)).unwrap_or(0);
                // of the functions of package time, what they are to call says more
                let given = called_by(self.runtime, word(arg.offset + 8)).unwrap_or(0);
                let name = match names.get(&(entry, given)) {
                    Some(name) => name.clone(),
                    None => {
                        let name = match self.function_name(entry) {
                            name if name == "time.goFunc" && given != 0 => self.function_name(given),
                            name => name,
                        };
                        names.insert((entry, given), name.clone());
                        name
                    }
                };
                if name.starts_with("runtime.goroutineReady") {
                    // a goroutine that sleeps
                    continue;
                }
                let root = by_name.entry(name.clone()).or_insert_with(|| Root::new(Kind::Timer, name));
                root.count += 1;
                root.targets.push(slot);
            }
        }
        self.roots.running.extend(by_name.into_values());
        Ok(())
    }

    /// Finalizers and cleanups hang off the span of their object.
    fn specials(&mut self) {
        let Runtime { memory, layout, .. } = self.runtime;
        let field = |of, name| layout.find(of, name);
        let (Some(next), Some(offset), Some(kind), Some(size)) = (
            field("runtime.special", "next"),
            field("runtime.special", "offset"),
            field("runtime.special", "kind"),
            field("runtime.special", "(size)"),
        ) else {
            return;
        };
        let fn_of_finalizer = field("runtime.specialfinalizer", "fn");
        let fn_of_cleanup = field("runtime.specialCleanup", "cleanup.fn");
        let (finalizer, cleanup) = match layout.minor {
            ..=23 => (1, None),
            24 => (1, Some(6)),
            _ => (2, Some(7)),
        };
        let mut seen = 0;
        for span in self.spans.all() {
            let mut at = span.specials;
            while at != 0 && seen < MAX_SPECIALS {
                seen += 1;
                let Ok(record) = memory.record(at, size.size) else { break };
                let (Ok(offset), Ok(kind), Ok(following)) = (record.get(offset), record.get(kind), record.get(next)) else { break };
                let is_finalizer = kind == finalizer;
                let place = if is_finalizer { fn_of_finalizer } else { fn_of_cleanup.filter(|_| cleanup == Some(kind)) };
                if let Some(place) = place
                    && let Ok(function) = memory.u64(at.wrapping_add(place.offset.into()))
                    && let Some(entry) = called_by(self.runtime, function)
                    && let Some(object) = self.spans.slot_at(span.start.wrapping_add(offset))
                {
                    self.roots.specials.push(Special { object, is_finalizer, function: self.spans.slot_at(function), entry });
                }
                at = following;
            }
        }
    }

    /// Finalizers whose objects are found to be garbage wait in blocks for the goroutine that runs them.
    fn queued_finalizers(&mut self) {
        let Runtime { memory, layout, globals, .. } = self.runtime;
        let field = |of, name| layout.find(of, name);
        let (Some(all), Some(count), Some(first), Some(size), Some(function), Some(argument)) = (
            field("runtime.finblock", "alllink"),
            field("runtime.finblock", "cnt"),
            field("runtime.finblock", "fin"),
            field("runtime.finalizer", "(size)"),
            field("runtime.finalizer", "fn"),
            field("runtime.finalizer", "arg"),
        ) else {
            return;
        };
        let most = u64::from(first.size / size.size.max(1));
        let mut by_name: BTreeMap<u64, Root> = BTreeMap::new();
        let mut seen = HashSet::new();
        for head in &globals.finalizer_blocks {
            let mut at = memory.u64(*head).unwrap_or(0);
            while at != 0 && seen.len() < MAX_BLOCKS && seen.insert(at) {
                let Ok(record) = memory.record(at, first.offset + first.size) else { break };
                let (Ok(count), Ok(next)) = (record.get(count), record.get(all)) else { break };
                if count > most {
                    break;
                }
                for i in 0..count {
                    let entry = u64::from(first.offset) + i * u64::from(size.size);
                    let word = |field: super::layout::Field| record.at(entry + u64::from(field.offset), 8).unwrap_or(0);
                    let (function, argument) = (word(function), word(argument));
                    let Some(code) = called_by(self.runtime, function) else { continue };
                    let root = by_name.entry(code).or_insert_with(|| Root::new(Kind::Finalizer, String::new()));
                    root.count += 1;
                    root.targets.extend([function, argument].into_iter().filter_map(|at| self.spans.slot_at(at)));
                }
                at = next;
            }
        }
        for (entry, root) in by_name {
            let name = self.function_name(entry);
            self.roots.queued.push(Root { name: format!("{name} (not run yet)"), ..root });
        }
    }
}
