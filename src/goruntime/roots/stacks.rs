//! What goroutines hold: the words on their stacks that are or may be pointers, by stack maps and live stack objects.

use std::collections::HashMap;

use super::{Kind, Reading, Root};
use crate::goruntime::Refused;
use crate::goruntime::frames::{FrameMaps, StackObject, Words};
use crate::goruntime::goroutines::{self, At, G};
use crate::goruntime::memory::words_at;
use crate::goruntime::unwind::{self, Unwinder};
use crate::pprof::own;

/// Of one goroutine; its frames end the stack long before.
const MAX_STACK: u64 = 64 << 20;
/// Different stacks whose place is kept.
const MAX_PLACES: usize = 1 << 20;

impl Reading<'_> {
    pub(super) fn goroutines(&mut self) -> Result<(), Refused> {
        let runtime = self.runtime;
        let all = goroutines::all(runtime)?;
        let at = At::of(&runtime.layout)?;
        let deferred = runtime.layout.field("runtime.g", "_defer")?;
        let mut unwinder = Unwinder::new(runtime)?;
        let mut maps = FrameMaps::new(runtime)?;
        let mut groups: HashMap<(u64, Option<String>), (Root, Root)> = HashMap::new();
        let mut places: HashMap<Vec<u64>, Option<String>> = HashMap::new();
        for address in all {
            let Some(seen) = self.look(address, &at, &mut unwinder, &mut maps)? else { continue };
            let place = match places.get(&seen.calls) {
                Some(place) => place.clone(),
                None => {
                    let place = self.place(&seen.calls);
                    if places.len() < MAX_PLACES {
                        places.insert(seen.calls.clone(), place.clone());
                    }
                    place
                }
            };
            let start = self.start(&seen);
            let own_slot = self.spans.slot_at(address);
            self.roots.standing.extend(own_slot);
            self.roots.lists.extend(own_slot);
            let is_runtime = start.starts_with("runtime.") && place.is_none();
            let targets =
                |words: &[(u64, u64)]| words.iter().filter_map(|(at, word)| Some((*at, self.spans.slot_at(*word)?))).collect::<Vec<_>>();
            let (precise, possible) = (targets(&seen.precise), targets(&seen.possible));
            let held = runtime.memory.u64(address.wrapping_add(deferred.offset.into())).ok().and_then(|at| self.spans.slot_at(at));
            if is_runtime {
                precise.into_iter().chain(possible).for_each(|(at, slot)| self.roots.runtime.add(at, slot));
                self.roots.runtime.targets.extend(own_slot.into_iter().chain(held));
                continue;
            }
            let start_at = seen.g.start;
            let name = match &place {
                Some(place) if *place != start => format!("{start} in {place}"),
                _ => start,
            };
            let new = || [(); 2].map(|()| Root::new(Kind::Goroutines, name.clone())).into();
            let (sure, unsure) = groups.entry((start_at, place)).or_insert_with(new);
            sure.count += 1;
            unsure.count += 1;
            precise.into_iter().for_each(|(at, slot)| sure.add(at, slot));
            sure.targets.extend(own_slot.into_iter().chain(held));
            possible.into_iter().for_each(|(at, slot)| unsure.add(at, slot));
        }
        for (sure, unsure) in groups.into_values() {
            self.roots.running.push(sure);
            if !unsure.targets.is_empty() {
                self.roots.possible.push(unsure);
            }
        }
        self.roots.running.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        self.roots.possible.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// The function that the `go` statement names: what the compiler wraps around it to hand over arguments is not shown.
    fn start(&mut self, seen: &Seen) -> String {
        let start = match self.function_name(seen.g.start) {
            main if main == "runtime.main" => "main.main".into(),
            start => start,
        };
        if !start.contains(".gowrap") {
            return start;
        }
        let mut outermost = seen.calls.iter().rev().filter_map(|call| self.names.frames(*call).ok());
        let called = outermost.find_map(|frames| {
            frames.iter().rev().map(|frame| &frame.function).find(|f| !f.starts_with("runtime.") && !f.contains(".gowrap")).cloned()
        });
        called.unwrap_or(start)
    }

    /// The innermost call of the program's own, or of what it uses.
    fn place(&mut self, calls: &[u64]) -> Option<String> {
        let mut functions = Vec::new();
        for call in calls {
            if let Ok(frames) = self.names.frames(*call) {
                functions.extend(frames.iter().map(|frame| frame.function.clone()));
            }
        }
        let place = own::place(functions.iter().map(String::as_str), self.own)?;
        (!place.starts_with("runtime.")).then(|| place.to_owned())
    }

    fn look(&mut self, address: u64, at: &At, unwinder: &mut Unwinder, maps: &mut FrameMaps) -> Result<Option<Seen>, Refused> {
        let memory = self.runtime.memory;
        let settled = at.settled(self.runtime, address, |g| {
            let (mut calls, mut words) = (Vec::new(), Words::default());
            unwinder.calls(g.place, |call| {
                calls.push(call.address());
                maps.words(call, &mut words);
            })?;
            calls.truncate(unwind::MAX_KEPT);
            let (precise, possible) = values(&words, g.place.sp, &memory.slice(g.place.sp, g.place.top - g.place.sp, MAX_STACK)?);
            Ok((calls, precise, possible))
        })?;
        let g = match settled {
            None => return Ok(None),
            Some((g, Ok((calls, precise, possible)))) => return Ok(Some(Seen { g, calls, precise, possible })),
            Some((g, Err(_))) => g,
        };
        // it runs: what lies on its stack is or was in use
        let (low, top) = (g.low, g.place.top);
        let possible = match top.checked_sub(low).map(|len| memory.slice(low, len, MAX_STACK)) {
            Some(Ok(stack)) => words_at(low, &stack).filter(|(_, word)| *word != 0).collect(),
            _ => {
                self.roots.unread += 1;
                Vec::new()
            }
        };
        Ok(Some(Seen { g, calls: Vec::new(), precise: Vec::new(), possible }))
    }
}

/// A goroutine, with the words on its stack that are or may be pointers, and where they stand.
struct Seen {
    g: G,
    calls: Vec<u64>,
    precise: Pointers,
    possible: Pointers,
}

/// Where each stands, and where it leads.
type Pointers = Vec<(u64, u64)>;

/// The words that are pointers, with those of the variables that something on the stack points to.
fn values(words: &Words, sp: u64, stack: &[u8]) -> (Pointers, Pointers) {
    let value = |at: u64| {
        let from = usize::try_from(at.checked_sub(sp)?).ok()?;
        let word = u64::from_le_bytes(*stack.get(from..)?.first_chunk()?);
        (word != 0).then_some((at, word))
    };
    let mut precise: Pointers = words.precise.iter().filter_map(|at| value(*at)).collect();
    let possible: Pointers = words.possible.iter().filter_map(|at| value(*at)).collect();
    let mut objects: Vec<&StackObject> = words.objects.iter().collect();
    objects.sort_by_key(|object| object.start);
    let mut is_live = vec![false; objects.len()];
    let mut next = 0;
    // what is found by a pointer of one variable may be another
    while let Some((_, word)) = precise.get(next).copied() {
        next += 1;
        let after = objects.partition_point(|object| object.start <= word);
        let Some(index) = after.checked_sub(1) else { continue };
        if let (Some(object), Some(is_live)) = (objects.get(index), is_live.get_mut(index))
            && word < object.end
            && !*is_live
        {
            *is_live = true;
            precise.extend(object.pointers.iter().filter_map(|at| value(*at)));
        }
    }
    (precise, possible)
}
