//! All goroutines, grouped by identical stack while they are read: state, wait, creator, start function.
//!
//! Each is looked at again after its stack was read: one that ran meanwhile is read anew, and then counts as running. A running goroutine
//! has its registers in the kernel's hands: of it, only where it was started is known. The runtime's own goroutines are left out as
//! `isSystemGoroutine` in `runtime/traceback.go` says.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::functions::Functions;
use super::globals::found;
use super::layout::{Field, Layout};
use super::memory::Record;
use super::names::is_of_runtime;
use super::unwind::{Place, Stack, Unwinder};
use super::wait_reasons::WaitReasons;
use super::{Refused, Runtime};

/// A goroutine takes 2 KiB of stack at least: 8 GiB.
const MAX_GOROUTINES: u64 = 4 << 20;
/// Words of all distinct stacks together: 64 MiB.
const MAX_WORDS: usize = 8 << 20;
/// Reads of one that goes on running.
const TRIES: u32 = 3;
/// A goroutine in so many may have no stack that can be read, and one more: the layout fits, and it was just being made.
const ONE_IN: u64 = 50;

/// `runtime2.go`: states of a goroutine.
const IDLE: u64 = 0;
const RUNNABLE: u64 = 1;
const RUNNING: u64 = 2;
const SYSCALL: u64 = 3;
const WAITING: u64 = 4;
const DEAD: u64 = 6;
const COPYING_STACK: u64 = 8;
const PREEMPTED: u64 = 9;
const LEAKED: u64 = 10;
/// Belongs to a thread of C; since 1.26.
const DEAD_EXTRA: u64 = 11;
/// The collector looks at its stack.
const SCAN: u64 = 0x1000;

/// Goroutines with the same stack that were started at the same place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub count: u64,
    /// As `goroutine?debug=2` names them.
    pub states: BTreeMap<&'static str, u64>,
    /// How long the longest waiting one has been blocked, in nanoseconds; a collection has to have seen it.
    pub longest_wait_ns: Option<u64>,
    pub locked_to_thread: u64,
    /// What the collector found to be blocked for ever.
    pub leaked: u64,
    /// `None`: it ran, or could not be read.
    pub stack: Option<Stack>,
    /// The instruction after the `go` statement; 0 for the main goroutine.
    pub created_at: u64,
    pub start: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Goroutines {
    /// Without the runtime's own.
    pub total: u64,
    /// The most goroutines first.
    pub groups: Vec<Group>,
    /// In `total`, but in no group: beyond what is kept of distinct stacks.
    pub others: u64,
}

/// The fields of `runtime.g`.
pub(super) struct At {
    pub size: u32,
    status: Field,
    id: Field,
    wait_reason: Field,
    wait_since: Field,
    created_at: Field,
    start: Field,
    locked: Field,
    low: Field,
    high: Field,
    sp: Field,
    pc: Field,
    syscall_sp: Field,
    syscall_pc: Field,
}

impl At {
    pub fn of(layout: &Layout) -> Result<At, Refused> {
        const G: &str = "runtime.g";
        let field = |name| layout.field(G, name);
        Ok(At {
            size: layout.size(G)?,
            status: field("atomicstatus.value")?,
            id: field("goid")?,
            wait_reason: field("waitreason")?,
            wait_since: field("waitsince")?,
            created_at: field("gopc")?,
            start: field("startpc")?,
            locked: field("lockedm")?,
            low: field("stack.lo")?,
            high: field("stack.hi")?,
            sp: field("sched.sp")?,
            pc: field("sched.pc")?,
            syscall_sp: field("syscallsp")?,
            syscall_pc: field("syscallpc")?,
        })
    }

    pub fn read(&self, record: &Record) -> Result<G, Refused> {
        let syscall_sp = record.get(self.syscall_sp)?;
        let (pc, sp) = match syscall_sp {
            0 => (record.get(self.pc)?, record.get(self.sp)?),
            sp => (record.get(self.syscall_pc)?, sp),
        };
        let status = record.get(self.status)? & !SCAN;
        Ok(G {
            status,
            id: record.get(self.id)?,
            wait_reason: record.get(self.wait_reason)?,
            wait_since: record.get(self.wait_since)?,
            created_at: record.get(self.created_at)?,
            start: record.get(self.start)?,
            is_locked: record.get(self.locked)? != 0,
            low: record.get(self.low)?,
            place: Place { pc, sp, top: record.get(self.high)? },
            has_place: (status != RUNNING || syscall_sp != 0) && status != COPYING_STACK,
        })
    }

    /// A goroutine, with what `walk` finds on its stack: looked at before and after, so that both are of one moment. Refused is the walk of one that
    /// runs, or goes on running. `None`: the goroutine has ended, or has not begun.
    pub fn settled<T>(
        &self,
        runtime: &Runtime,
        address: u64,
        mut walk: impl FnMut(&G) -> Result<T, Refused>,
    ) -> Result<Option<Settled<T>>, Refused> {
        let look = || self.read(&runtime.memory.record(address, self.size)?);
        let mut g = look()?;
        for _ in 0..TRIES {
            let walked = match g.has_place {
                _ if is_none(&g) => return Ok(None),
                true if (g.low..g.place.top).contains(&g.place.sp) => walk(&g),
                true => Err(Refused::new("its stack pointer is outside of its stack")),
                false => return Ok(Some((g, Err(Refused::new("it runs"))))),
            };
            let again = look()?;
            if again == g {
                return Ok(Some((g, walked)));
            }
            g = again;
        }
        Ok((!is_none(&g)).then(|| (g, Err(Refused::new("it ran meanwhile")))))
    }
}

/// A goroutine with what its stack was walked for.
pub(super) type Settled<T> = (G, Result<T, Refused>);

/// One goroutine, at a moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct G {
    status: u64,
    id: u64,
    wait_reason: u64,
    wait_since: u64,
    created_at: u64,
    pub start: u64,
    is_locked: bool,
    pub low: u64,
    pub place: Place,
    /// The place is where it stands, not where it stood when it was last stopped.
    pub has_place: bool,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    calls: Vec<u64>,
    created_at: u64,
    start: u64,
}

impl Goroutines {
    /// `now_ns` is the process's monotonic clock (`CLOCK_MONOTONIC`); `None`: the latest moment that the goroutines know of.
    pub fn read(runtime: &Runtime, now_ns: Option<u64>) -> Result<Goroutines, Refused> {
        let mut walk = Walk::new(runtime)?;
        for g in all(runtime)? {
            walk.goroutine(g)?;
        }
        walk.finish(now_ns)
    }
}

/// Addresses of all goroutines that ever were at once: they are used again.
pub(super) fn all(runtime: &Runtime) -> Result<Vec<u64>, Refused> {
    let at = found(runtime.globals.allgs, "allgs")?;
    runtime.memory.list(at, MAX_GOROUTINES, "goroutines")
}

/// Whose a start function is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Program,
    Runtime,
    /// The runtime's, but while it calls a function of the program.
    CallsBack,
}

struct Walk<'r> {
    runtime: &'r Runtime<'r>,
    at: At,
    reasons: WaitReasons,
    unwinder: Unwinder<'r>,
    functions: Functions<'r>,
    owners: HashMap<u64, Owner>,
    /// With since when the longest waiting one waits.
    groups: HashMap<Key, (Group, Option<u64>)>,
    words: usize,
    ids: HashSet<u64>,
    total: u64,
    others: u64,
    /// Looked at, the runtime's own too.
    seen: u64,
    misfits: u64,
    latest: u64,
}

impl<'r> Walk<'r> {
    fn new(runtime: &'r Runtime<'r>) -> Result<Walk<'r>, Refused> {
        Ok(Walk {
            at: At::of(&runtime.layout)?,
            reasons: WaitReasons::of(runtime.layout.minor),
            unwinder: Unwinder::new(runtime)?,
            functions: runtime.functions()?,
            owners: HashMap::new(),
            groups: HashMap::new(),
            words: 0,
            ids: HashSet::new(),
            total: 0,
            others: 0,
            seen: 0,
            misfits: 0,
            latest: 0,
            runtime,
        })
    }

    fn goroutine(&mut self, address: u64) -> Result<(), Refused> {
        let unwinder = &mut self.unwinder;
        let settled = self.at.settled(self.runtime, address, |g| unwinder.stack(g.place))?;
        let Some((g, stack)) = settled else { return Ok(()) };
        self.seen += 1;
        let is_odd = g.status > DEAD_EXTRA || !self.ids.insert(g.id) || (g.has_place && stack.is_err());
        self.misfits += u64::from(is_odd);
        let stack = stack.ok();
        if self.is_of_the_runtime(&g, stack.as_ref())? {
            return Ok(());
        }
        self.total += 1;
        self.count(&g, stack);
        Ok(())
    }

    fn count(&mut self, g: &G, stack: Option<Stack>) {
        let calls = stack.as_ref().map(|s| s.calls.clone()).unwrap_or_default();
        let is_blocked = matches!(g.status, WAITING | SYSCALL | LEAKED);
        let since = Some(g.wait_since).filter(|since| is_blocked && *since != 0 && *since < 1 << 62);
        self.latest = self.latest.max(since.unwrap_or(0));
        let state = self.state(g);
        let key = Key { calls, created_at: g.created_at, start: g.start };
        if !self.groups.contains_key(&key) {
            let words = key.calls.len() + size_of::<Group>() / 8;
            if self.words + words > MAX_WORDS {
                self.others += 1;
                return;
            }
            self.words += words;
        }
        let (group, earliest) = self.groups.entry(key).or_insert_with(|| {
            let group = Group { created_at: g.created_at, start: g.start, ..Group::default() };
            (group, None)
        });
        let deepest = group.stack.as_ref().map_or(0, |kept| kept.deeper);
        group.stack = stack.map(|stack| Stack { deeper: stack.deeper.max(deepest), ..stack });
        group.count += 1;
        *group.states.entry(state).or_default() += 1;
        group.locked_to_thread += u64::from(g.is_locked);
        group.leaked += u64::from(g.status == LEAKED);
        *earliest = [*earliest, since].into_iter().flatten().min();
    }

    fn state(&self, g: &G) -> &'static str {
        match g.status {
            RUNNABLE => "runnable",
            RUNNING => "running",
            SYSCALL => "syscall",
            WAITING | LEAKED => self.reasons.name(g.wait_reason).unwrap_or("waiting"),
            COPYING_STACK => "copystack",
            PREEMPTED => "preempted",
            _ => "???",
        }
    }

    fn is_of_the_runtime(&mut self, g: &G, stack: Option<&Stack>) -> Result<bool, Refused> {
        let owner = match self.owners.get(&g.start) {
            Some(owner) => *owner,
            None => {
                let function = self.functions.find(g.start)?;
                let owner = match function {
                    Some(function) => owner(&self.functions.name(&function)?),
                    None => Owner::Program,
                };
                self.owners.insert(g.start, owner);
                owner
            }
        };
        Ok(match owner {
            Owner::Program => false,
            Owner::Runtime => true,
            Owner::CallsBack => !stack.is_some_and(|stack| self.leaves_the_runtime(stack)),
        })
    }

    fn leaves_the_runtime(&self, stack: &Stack) -> bool {
        let name = |call: &u64| self.functions.find(*call).ok().flatten().and_then(|f| self.functions.name(&f).ok());
        stack.calls.iter().filter_map(name).any(|name| !is_of_runtime(&name))
    }

    fn finish(self, now_ns: Option<u64>) -> Result<Goroutines, Refused> {
        if self.misfits > self.seen / ONE_IN + 1 {
            let Walk { misfits, seen, .. } = self;
            return Err(Refused::new(format!(
                "{misfits} of {seen} goroutines are none, or their stacks lead nowhere: the layout does not fit"
            )));
        }
        if self.total == 0 {
            return Err(Refused::new("it has no goroutine of its own, though main has one: the layout does not fit"));
        }
        let now = now_ns.unwrap_or(self.latest);
        let waits = |(mut group, since): (Group, Option<u64>)| {
            group.longest_wait_ns = since.map(|since| now.saturating_sub(since));
            group
        };
        let mut groups: Vec<Group> = self.groups.into_values().map(waits).collect();
        groups
            .sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (a.start, a.created_at, &a.stack).cmp(&(b.start, b.created_at, &b.stack))));
        Ok(Goroutines { total: self.total, groups, others: self.others })
    }
}

/// Its place in the list waits for another goroutine.
pub(super) fn is_none(g: &G) -> bool {
    matches!(g.status, IDLE | DEAD | DEAD_EXTRA)
}

fn owner(start: &str) -> Owner {
    match start {
        "runtime.main" | "runtime.corostart" | "runtime.handleAsyncEvent" => Owner::Program,
        "runtime.runfinq" | "runtime.runFinalizers" | "runtime.runCleanups" => Owner::CallsBack,
        name if name.starts_with("runtime.") => Owner::Runtime,
        _ => Owner::Program,
    }
}
