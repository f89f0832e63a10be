//! The heap profile from the runtime's buckets (`runtime/mprof.go`), un-sampled as `runtime/pprof` does it.

use std::collections::HashSet;

use super::functions::Frame;
use super::globals::found;
use super::layout::Field;
use super::memory::Record;
use super::names::{Names, is_of_runtime, is_shown, line};
use super::{Refused, Runtime};
use crate::pprof::encode::{Builder, Call, Type};

/// `bucketType` of the heap profile.
const MEM_PROFILE: u64 = 1;
/// `maxStack` was 32 up to Go 1.22; `GODEBUG=profstackdepth` allows 1024.
const MAX_DEPTH: u64 = 1024;
/// Allocation sites. A process was seen with 262,144.
const MAX_BUCKETS: usize = 1 << 20;
/// `future` holds the next cycles.
const CYCLES: u64 = 3;

/// A profile in pprof's format, gzipped, with the four sample types of `/debug/pprof/heap`.
#[derive(Clone, Debug)]
pub struct HeapProfile {
    pub gzipped: Vec<u8>,
    /// No collection has counted anything yet: it is of this moment, garbage and all, as `/debug/pprof/heap` is then.
    pub is_before_collection: bool,
}

/// Objects of one size that were allocated by one stack; sampled counts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SizeBucket {
    stack: Vec<u64>,
    object_size: u64,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    allocs: u64,
    frees: u64,
}

impl Counts {
    fn plus(self, other: Counts) -> Counts {
        Counts { allocs: self.allocs.wrapping_add(other.allocs), frees: self.frees.wrapping_add(other.frees) }
    }
}

/// The heap profile as of the last finished collection.
///
/// Refused where the program has no heap profile (nothing in it uses `runtime.MemProfile`, or its rate is 0), and where the buckets are
/// no buckets. `taken_unix_ns` is what the profile says of its time.
pub fn profile(runtime: &Runtime, taken_unix_ns: u64) -> Result<HeapProfile, Refused> {
    let rate = sampling_rate(runtime)?;
    let (buckets, is_before_collection) = read(runtime)?;
    let mut names = Names::new(runtime)?;
    let types = [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")];
    let mut builder = Builder::new(&types.map(|(kind, unit)| Type { kind, unit }), Type { kind: "space", unit: "bytes" }, rate);
    builder.time_nanos(taken_unix_ns);
    for bucket in &buckets {
        let in_use = bucket.counts.allocs - bucket.counts.frees;
        let (allocs, alloc_bytes) = unsampled(bucket.counts.allocs, bucket.object_size, rate);
        let (objects, bytes) = unsampled(in_use, bucket.object_size, rate);
        let own = own_frames(&mut names, &bucket.stack)?;
        let calls = calls(&mut names, own)?;
        builder.sample(&[allocs, alloc_bytes, objects, bytes], &calls, Some(("bytes", bucket.object_size)));
    }
    let gzipped = builder.finish().map_err(|e| Refused::new(format!("the profile cannot be written: {e}")))?;
    Ok(HeapProfile { gzipped, is_before_collection })
}

/// Bytes per sample on average.
fn sampling_rate(runtime: &Runtime) -> Result<u64, Refused> {
    if !runtime.globals.has_mem_profile {
        return Err(Refused::new(
            "this program keeps no heap profile: nothing linked into it uses runtime.MemProfile, as net/http/pprof does",
        ));
    }
    let at = found(runtime.globals.mem_profile_rate, "MemProfileRate")?;
    match runtime.memory.u64(at)? {
        0 => Err(Refused::new("this program keeps no heap profile: its runtime.MemProfileRate is 0")),
        rate if rate < 1 << 40 => Ok(rate),
        rate => Err(Refused::new(format!("its runtime.MemProfileRate would be {rate}: the layout does not fit"))),
    }
}

/// An average of `rate` bytes lies between two samples, so an object of `size` bytes is in the sample with the probability
/// 1 − exp(−size/rate) (`scaleHeapSample` in `runtime/pprof/protomem.go`). Objects and bytes, truncated as Go does.
fn unsampled(count: u64, size: u64, rate: u64) -> (i64, i64) {
    let bytes = count.saturating_mul(size);
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    if count == 0 || size == 0 {
        return (0, 0);
    }
    if rate <= 1 {
        return (whole(count), whole(bytes));
    }
    let scale = 1.0 / (1.0 - (-(size as f64) / rate as f64).exp());
    ((count as f64 * scale) as i64, (bytes as f64 * scale) as i64)
}

/// Where the parts of a bucket are.
struct At {
    head: u32,
    next: Field,
    kind: Field,
    size: Field,
    depth: Field,
    active: u64,
    future: u64,
    cycle: u64,
    record: u64,
    allocs: Field,
    frees: Field,
    /// Not in Go 1.27, which counts objects only.
    bytes: Option<(Field, Field)>,
}

impl At {
    fn of(runtime: &Runtime) -> Result<At, Refused> {
        const BUCKET: &str = "runtime.bucket";
        const RECORD: &str = "runtime.memRecord";
        const CYCLE: &str = "runtime.memRecordCycle";
        let layout = &runtime.layout;
        Ok(At {
            head: layout.size(BUCKET)?,
            next: layout.field(BUCKET, "allnext")?,
            kind: layout.field(BUCKET, "typ")?,
            size: layout.field(BUCKET, "size")?,
            depth: layout.field(BUCKET, "nstk")?,
            active: layout.field(RECORD, "active")?.offset.into(),
            future: layout.field(RECORD, "future")?.offset.into(),
            cycle: layout.size(CYCLE)?.into(),
            record: layout.size(RECORD)?.into(),
            allocs: layout.field(CYCLE, "allocs")?,
            frees: layout.field(CYCLE, "frees")?,
            bytes: layout.find(CYCLE, "alloc_bytes").zip(layout.find(CYCLE, "free_bytes")),
        })
    }

    fn counts(&self, body: &Record, at: u64, size: u64) -> Result<Counts, Refused> {
        let word = |field: Field| body.at(at + u64::from(field.offset), field.size);
        let counts = Counts { allocs: word(self.allocs)?, frees: word(self.frees)? };
        if let Some((alloc_bytes, free_bytes)) = self.bytes
            && (word(alloc_bytes)? != counts.allocs.wrapping_mul(size) || word(free_bytes)? != counts.frees.wrapping_mul(size))
        {
            return Err(Refused::new(
                "a bucket's bytes are not its objects times their size: the layout does not fit, or it was just written",
            ));
        }
        Ok(counts)
    }
}

/// The counts of a bucket, as they are shown after a collection and before the first.
#[derive(Clone, Copy)]
struct Both {
    collected: Counts,
    all: Counts,
}

impl Both {
    fn are_sound(self) -> bool {
        [self.collected, self.all].iter().all(|counts| counts.frees <= counts.allocs)
    }
}

/// The buckets that count anything, and whether that is before any collection (`clear` in `memProfileInternal`).
fn read(runtime: &Runtime) -> Result<(Vec<SizeBucket>, bool), Refused> {
    let read = read_both(runtime)?;
    let is_before_collection = read.iter().all(|(_, both)| both.collected == Counts::default());
    let shown = |both: &Both| if is_before_collection { both.all } else { both.collected };
    let buckets = read.into_iter().map(|(bucket, both)| SizeBucket { counts: shown(&both), ..bucket });
    Ok((buckets.filter(|bucket| bucket.counts.allocs > 0).collect(), is_before_collection))
}

fn read_both(runtime: &Runtime) -> Result<Vec<(SizeBucket, Both)>, Refused> {
    let memory = runtime.memory;
    let at = At::of(runtime)?;
    let cycle = memory.u64(found(runtime.globals.mprof_cycle, "mProfCycle")?)? & 0xffff_ffff;
    // the low bit says that the cycle's counts have gone into `active` already
    let unflushed = (cycle & 1 == 0).then_some((cycle >> 1) % CYCLES);
    let mut buckets = Vec::new();
    let mut seen = HashSet::new();
    let mut next = memory.u64(found(runtime.globals.mbuckets, "mbuckets")?)?;
    while next != 0 {
        if !seen.insert(next) {
            return Err(Refused::new("its buckets form a ring: the layout does not fit"));
        }
        if seen.len() > MAX_BUCKETS {
            return Err(Refused::new(format!("it has more than {MAX_BUCKETS} allocation sites")));
        }
        let head = memory.record(next, at.head)?;
        let (kind, size, depth) = (head.get(at.kind)?, head.get(at.size)?, head.get(at.depth)?);
        if kind != MEM_PROFILE || depth == 0 || depth > MAX_DEPTH {
            return Err(Refused::new(format!("what should be a bucket is none (type {kind}, {depth} frames): the layout does not fit")));
        }
        let body = next.wrapping_add(at.head.into());
        let stack = memory.words(body, depth, MAX_DEPTH)?;
        if let Some(stray) = stack.iter().find(|pc| !runtime.module.text.contains(pc.wrapping_sub(1))) {
            return Err(Refused::new(format!("a bucket's stack leads to {stray:#x}, outside of the program's code")));
        }
        let both = settled(|| {
            let record = memory.record(body.wrapping_add(depth * 8), at.record as u32)?;
            let active = at.counts(&record, at.active, size)?;
            let mut both = Both { collected: active, all: active };
            for cycle in 0..CYCLES {
                let future = at.counts(&record, at.future + cycle * at.cycle, size)?;
                both.all = both.all.plus(future);
                if unflushed == Some(cycle) {
                    both.collected = active.plus(future);
                }
            }
            Ok(both)
        })?;
        if !both.are_sound() {
            return Err(Refused::new("a bucket has more frees than allocations: the layout does not fit"));
        }
        if both.all.allocs > 0 {
            buckets.push((SizeBucket { stack, object_size: size, counts: both.all }, both));
        }
        next = head.get(at.next)?;
    }
    Ok(buckets)
}

/// A record that is being written may contradict itself for a moment.
fn settled(mut read: impl FnMut() -> Result<Both, Refused>) -> Result<Both, Refused> {
    const TRIES: usize = 3;
    let mut last = read();
    for _ in 1..TRIES {
        match last {
            Ok(both) if both.are_sound() => return last,
            _ => last = read(),
        }
    }
    last
}

/// The call behind a return address.
fn called_at(pc: u64) -> u64 {
    pc.wrapping_sub(1)
}

/// A call that a bucket's stack names, inlined or not.
struct Logical {
    pc: u64,
    /// Of the function that has it inlined, or is it.
    entry: u64,
    is_inlined: bool,
    frame: Frame,
}

/// A bucket's stack has an address for each inlined call too, and none for wrappers; a profile has one for all that are inlined into
/// one another (`pcDeck` and `runtime_expandFinalInlineFrame`).
fn calls(names: &mut Names, stack: &[u64]) -> Result<Vec<Call>, Refused> {
    let mut logical = Vec::with_capacity(stack.len());
    for (i, pc) in (1..).zip(stack) {
        let frames = names.frames(called_at(*pc))?;
        let entry = names.functions.find(called_at(*pc))?.map_or(0, |function| function.entry);
        // the last may have been cut off from those that it is inlined into
        let kept = if i == stack.len() { names.without_wrappers(&frames) } else { vec![0] };
        let call = |nth: usize| Some(Logical { pc: *pc, entry, is_inlined: nth + 1 < frames.len(), frame: frames.get(nth)?.clone() });
        logical.extend(kept.into_iter().filter_map(call));
    }
    let mut calls: Vec<Call> = Vec::with_capacity(logical.len());
    let mut before: Option<Logical> = None;
    for call in logical {
        if is_shown(&&call.frame) {
            let is_part = before.as_ref().is_some_and(|b| b.is_inlined && b.entry == call.entry && b.frame.function != call.frame.function);
            match calls.last_mut().filter(|_| is_part) {
                Some(outer) => outer.lines.push(line(&call.frame)),
                None => calls.push(Call { address: call.pc, lines: vec![line(&call.frame)] }),
            }
        }
        before = Some(call);
    }
    Ok(calls)
}

/// The stack without the allocator's own frames; all of it, if there are no others.
fn own_frames<'s>(names: &mut Names, stack: &'s [u64]) -> Result<&'s [u64], Refused> {
    for (i, pc) in stack.iter().enumerate() {
        // as Go does: at the address that the call returns to
        let frames = names.frames(*pc)?;
        if !frames.first().is_some_and(|f| is_of_runtime(&f.function)) {
            return Ok(stack.get(i..).unwrap_or_default());
        }
    }
    Ok(stack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_stands_for_as_many_objects_as_its_probability_says() {
        // runtime/pprof's own: 1/(1-exp(-1024/524288)) = 512.5
        assert_eq!(unsampled(1, 1024, 512 << 10), (512, 524_800));
        assert_eq!(unsampled(3, 64 << 20, 512 << 10), (3, 3 * (64 << 20)), "a large object is always in the sample");
        assert_eq!(unsampled(5, 16, 1), (5, 80), "every object was sampled");
        assert_eq!((unsampled(0, 16, 512 << 10), unsampled(7, 0, 512 << 10)), ((0, 0), (0, 0)));
        assert_eq!(unsampled(u64::MAX, u64::MAX, 1), (i64::MAX, i64::MAX));
    }
}
