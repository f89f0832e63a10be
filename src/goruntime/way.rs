//! The way from a holder to where its bytes are: stages of like objects down the dominator tree, each with its type where that is known.

use std::cell::RefCell;
use std::collections::HashMap;

use super::Runtime;
use super::dominators::{Children, Tree};
use super::frames::called_by;
use super::masks::{IN_SPAN, Masks};
use super::memory::words;
use super::owners::Held;
use super::roots::Root;
use super::spans::{Span, Spans};
use super::types::{self, Pointee};
use crate::holders::{Holder, Step};

const MAX_STEPS: usize = 12;
/// Objects of a step that are looked at for their type.
const SAMPLES: usize = 24;
/// Bytes of an object that are searched for where it points to another.
const MAX_SEARCH: u64 = 64 << 10;

/// What tells objects apart without their types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Likeness {
    size: u64,
    is_noscan: bool,
    /// Of a small one: which of its words are pointers.
    mask: u64,
    /// Of a large one.
    large_type: u64,
}

#[derive(Default)]
struct Alike {
    bytes: u64,
    vertices: Vec<u32>,
}

/// What is needed to tell the way from a holder to its bytes.
pub(super) struct Way<'r> {
    runtime: &'r Runtime<'r>,
    spans: &'r Spans,
    tree: &'r Tree,
    children: Children,
    roots: &'r [Root],
    masks: RefCell<Masks<'r>>,
}

/// One kind of objects on the way from a holder, while it is put together.
struct Stage {
    likeness: Likeness,
    objects: u64,
    own_bytes: u64,
    bytes: u64,
    /// A few of them.
    samples: Vec<u32>,
}

impl<'r> Way<'r> {
    pub fn new(runtime: &'r Runtime<'r>, spans: &'r Spans, tree: &'r Tree, roots: &'r [Root], masks: Masks<'r>) -> Way<'r> {
        Way { runtime, spans, children: tree.children(), tree, roots, masks: RefCell::new(masks) }
    }

    fn span(&self, vertex: u32) -> Option<(&Span, u32)> {
        let slot = self.tree.slot(vertex)?;
        self.spans.span_of(slot).map(|span| (span, slot))
    }

    fn likeness(&self, vertex: u32) -> Option<Likeness> {
        let (span, slot) = self.span(vertex)?;
        let mask = self.masks.borrow_mut().of_object(span, slot - span.first_slot);
        Some(Likeness { size: span.size, is_noscan: span.is_noscan, mask, large_type: span.large_type })
    }

    fn address(&self, vertex: u32) -> Option<u64> {
        self.tree.slot(vertex).and_then(|slot| self.spans.address_of(slot))
    }

    /// Down the dominator tree, to where the bytes are: at each stage to the objects that hold the most, as long as that is most of it.
    pub fn tell(&self, held: &Held, holder: &mut Holder) {
        let mut stages: Vec<Stage> = Vec::new();
        let mut next: HashMap<Likeness, Alike> = HashMap::new();
        let mut largest = 1;
        for head in &held.heads {
            let heads = match self.tree.slot(*head) {
                Some(_) => std::slice::from_ref(head),
                None => self.children.of(*head),
            };
            for head in heads {
                largest = self.tree.retained(*head).max(largest);
                if let Some(like) = self.likeness(*head) {
                    self.group(*head, like, &mut next);
                }
            }
        }
        // one of them may have most of it
        holder.goroutines = holder.goroutines.map(|count| count.min(held.bytes / largest));
        while let Some((likeness, alike)) = next.drain().max_by(|a, b| a.1.bytes.cmp(&b.1.bytes).then_with(|| a.0.cmp(&b.0))) {
            if alike.bytes * 2 < held.bytes || stages.len() >= MAX_STEPS {
                break;
            }
            // lists and trees come back to what they are made of: all of it is one stage each
            let from = stages.iter().position(|stage| stage.likeness == likeness).unwrap_or_else(|| {
                stages.push(Stage { likeness, objects: 0, own_bytes: 0, bytes: alike.bytes, samples: Vec::new() });
                stages.len() - 1
            });
            let mut work: Vec<(u32, usize)> = alike.vertices.into_iter().map(|vertex| (vertex, from)).collect();
            while let Some((vertex, at)) = work.pop() {
                if let Some(stage) = stages.get_mut(at) {
                    stage.objects += 1;
                    stage.own_bytes += stage.likeness.size;
                    if stage.samples.len() < SAMPLES {
                        stage.samples.push(vertex);
                    }
                }
                for child in self.children.of(vertex) {
                    let Some(like) = self.likeness(*child) else { continue };
                    match (from..).zip(stages.iter().skip(from)).find(|(_, stage)| stage.likeness == like) {
                        Some((at, _)) => work.push((*child, at)),
                        None => self.group(*child, like, &mut next),
                    }
                }
            }
            if stages.last().is_some_and(|stage| stage.own_bytes * 2 >= held.bytes) {
                break;
            }
        }
        self.describe(held, stages, holder);
    }

    fn group(&self, vertex: u32, like: Likeness, into: &mut HashMap<Likeness, Alike>) {
        let alike = into.entry(like).or_default();
        alike.bytes += self.tree.retained(vertex);
        alike.vertices.push(vertex);
    }

    fn describe(&self, held: &Held, stages: Vec<Stage>, holder: &mut Holder) {
        let mut types: Vec<Known> = Vec::new();
        for (at, stage) in stages.iter().enumerate() {
            let above = at.checked_sub(1).and_then(|at| stages.get(at).zip(types.get(at)));
            types.push(self.type_of(held, stage, above));
        }
        let mut steps: Vec<Step> = Vec::new();
        for (stage, known) in stages.iter().zip(&types) {
            let what = match &known.name {
                Some(name) => name.clone(),
                None => format!("object of {} bytes", stage.likeness.size),
            };
            let step = Step { what, objects: stage.objects, own_bytes: stage.own_bytes, retained_bytes: stage.bytes };
            // the groups and tables of a map, and what leads to them, are the map
            let map = known.name.as_deref().and_then(map_of);
            if let Some(map) = map {
                let inner = |step: &Step| step.what.starts_with("object of ") || step.what == "map" || step.what == map;
                let first = steps.iter().rposition(|step| !inner(step)).map_or(0, |at| at + 1);
                let parts: Vec<Step> = steps.drain(first.max(steps.len().saturating_sub(3))..).collect();
                let own_bytes = step.own_bytes + parts.iter().map(|part| part.own_bytes).sum::<u64>();
                let (objects, retained_bytes) =
                    parts.first().map_or((step.objects, step.retained_bytes), |p| (p.objects, p.retained_bytes));
                steps.push(Step { what: map, objects, own_bytes, retained_bytes });
                continue;
            }
            steps.push(step);
        }
        holder.type_name = steps.first().map(|step| step.what.clone()).filter(|what| !what.starts_with("object of "));
        holder.path = steps;
    }

    /// What most of a stage's samples are: by the type that stands with them, by what points to them, or by the code they begin with.
    fn type_of(&self, held: &Held, stage: &Stage, above: Option<(&Stage, &Known)>) -> Known {
        let mut votes: HashMap<Known, usize> = HashMap::new();
        for vertex in &stage.samples {
            let known = self.own_type(*vertex).or_else(|| self.type_by_holder(held, *vertex, above)).or_else(|| self.closure(*vertex));
            if let Some(known) = known {
                *votes.entry(known).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.name.cmp(&b.0.name)));
        // half of them may be of other types
        most.filter(|(_, votes)| votes * 2 > stage.samples.len()).map(|(known, _)| known).unwrap_or_default()
    }

    fn own_type(&self, vertex: u32) -> Option<Known> {
        let (span, _) = self.span(vertex)?;
        let at = match () {
            () if self.runtime.layout.minor < 22 || span.is_noscan => return None,
            () if span.is_large => span.large_type,
            () if span.size > IN_SPAN => self.runtime.memory.u64(self.address(vertex)?).ok()?,
            () => return None,
        };
        self.known(at).map(|known| {
            // a row of them is a slice's
            let is_row = types::size(self.runtime, at).is_some_and(|size| size > 0 && size <= span.size / 2);
            let name = known.name.map(|name| if is_row && map_of(&name).is_none() { format!("[]{name}") } else { name });
            Known { name, ..known }
        })
    }

    fn known(&self, at: u64) -> Option<Known> {
        types::name(self.runtime, at).map(|name| Known { name: Some(name), at: Some(at) })
    }

    /// By the field of the object above, or by the interface that it is in.
    fn type_by_holder(&self, held: &Held, vertex: u32, above: Option<(&Stage, &Known)>) -> Option<Known> {
        let slot = self.tree.slot(vertex)?;
        let (place, pointee) = match above {
            Some((_, known)) => {
                let holder = self.tree.dominator(vertex);
                let (span, _) = self.span(holder)?;
                let start = self.address(holder)?;
                let mut bytes = vec![0; span.size.min(MAX_SEARCH) as usize];
                if !self.runtime.memory.read(start, &mut bytes) {
                    return None;
                }
                let at = words(&bytes).position(|word| self.spans.slot_at(word) == Some(slot))? as u64 * 8;
                let header = if self.runtime.layout.minor >= 22 && !span.is_large && span.size > IN_SPAN { 8 } else { 0 };
                let pointee = match known.at {
                    Some(of) => types::pointee(self.runtime, of, at.checked_sub(header)?),
                    // no type is known: an interface tells by itself
                    None => Pointee::Dynamic,
                };
                (start.wrapping_add(at), pointee)
            }
            None => {
                let sources = held.roots.iter().filter_map(|root| self.roots.get(*root as usize)).flat_map(|root| &root.sources);
                let (place, _) = sources.into_iter().find(|(_, target)| *target == slot)?;
                (*place, Pointee::Dynamic)
            }
        };
        let pointee = match pointee {
            Pointee::Dynamic => {
                let before = self.runtime.memory.u64(place.checked_sub(8)?).ok()?;
                types::boxed(self.runtime, types::dynamic(self.runtime, before)?)?
            }
            pointee => pointee,
        };
        match pointee {
            Pointee::Of(at) => self.known(at).filter(|_| self.fits(vertex, at)),
            Pointee::Named(name) => Some(Known { name: Some(name), at: None }),
            _ => None,
        }
    }

    /// An object of that type would be of this size.
    fn fits(&self, vertex: u32, at: u64) -> bool {
        let (Some((span, _)), Some(size)) = (self.span(vertex), types::size(self.runtime, at)) else { return false };
        size <= span.size && span.size <= size + size / 4 + 64
    }

    fn closure(&self, vertex: u32) -> Option<Known> {
        let (span, _) = self.span(vertex)?;
        if span.is_noscan || span.size > IN_SPAN {
            return None;
        }
        let entry = called_by(self.runtime, self.address(vertex)?)?;
        let functions = self.runtime.functions().ok()?;
        let function = functions.find(entry).ok()??;
        let name = functions.name(&function).ok()?;
        (function.entry == entry).then(|| Known { name: Some(format!("func {name}")), at: None })
    }
}

/// What is known of the type of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    name: Option<String>,
    /// Where it is described.
    at: Option<u64>,
}

/// The map that a part of it belongs to: a group of its slots, a bucket, or what leads to them.
fn map_of(part: &str) -> Option<String> {
    let part = part.trim_start_matches("[]").trim_start_matches('*');
    if matches!(part, "maps.table" | "maps.Map") {
        return Some("map".into());
    }
    let arguments = ["map.group[", "map.bucket["].iter().find_map(|head| part.strip_prefix(head))?;
    Some(format!("map[{arguments}"))
}
