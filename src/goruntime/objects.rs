//! Who holds it: the heap's object graph, walked from its roots while the process runs.
//!
//! ```text
//!  spans ──> which object an address lies in
//!  masks ──> edges between objects          variables, frames ──> roots
//!                       └──> dominators <──────┘
//!                               └──> holders, each with the path from it to where its bytes are (types)
//! ```
//!
//! The process is not stopped. What moves meanwhile is torn: an object that is allocated after its holder was read is not seen, one that
//! is dropped may still be. Only pointers that the collector itself would follow are followed, so that what was freed is not held by
//! what it left behind.

use std::cell::RefCell;
use std::collections::HashMap;

use super::dominators::{Children, Graph, Held, Search, Tree, Walk};
use super::frames::called_by;
use super::masks::{IN_SPAN, Masks};
use super::memstats::MemStats;
use super::names::Names;
use super::reach::Reach;
use super::roots::{self, Kind, Root, Roots};
use super::spans::{Span, Spans};
use super::types::{self, Pointee};
use super::variables::Variables;
use super::{Refused, Runtime};
use crate::holders::{Holder, Holders, Others, Step};
use crate::units::ByteSize;

/// What the walk with its dominators takes at its peak for each place of an object, and for each pointer.
const BYTES_PER_SLOT: u64 = 26;
const BYTES_PER_EDGE: u64 = 8;
/// The same of the smaller answer.
const LEAST_PER_SLOT: u64 = 8;
const LEAST_PER_EDGE: u64 = 5;
/// Holders that are listed.
const MAX_HOLDERS: usize = 100;
/// Those that get a path.
const MAX_PATHS: usize = 24;
/// A smaller share of what is reached gets none.
const MIN_SHARE: f64 = 0.002;
const MAX_STEPS: usize = 12;
/// Objects of a step that are looked at for their type.
const SAMPLES: usize = 24;
/// Bytes of an object that are searched for where it points to another.
const MAX_SEARCH: u64 = 64 << 10;
/// Others that look at what a holder has, by name.
const MAX_ALSO: usize = 3;

/// Walks the graph. `variables` name the roots; `own` is the path of the main module; `max_bytes` is what the walk may take.
///
/// Where the dominators do not fit into that, the ways from the holders to the bytes are left out. Refused where the heap is larger still.
pub fn holders(runtime: &Runtime, mut variables: Variables, own: Option<&str>, max_bytes: u64) -> Result<Holders, Refused> {
    let max_slots = u32::try_from(max_bytes / LEAST_PER_SLOT).unwrap_or(u32::MAX - 1);
    let spans = Spans::read(runtime, max_slots)?;
    let roots = roots::read(runtime, &spans, &mut variables, own)?;
    drop(variables);
    let mut masks = Masks::new(runtime)?;
    let slots = u64::from(spans.slots());
    let max_edges = (max_bytes - slots * LEAST_PER_SLOT) / LEAST_PER_EDGE;
    let graph = graph(&spans, &mut masks, &roots, max_edges)?;
    let mut limits = Vec::new();
    if masks.unread > 0 {
        limits.push(format!("{} spans were freed while they were read", masks.unread));
    }
    if roots.unread > 0 {
        limits.push(format!("the stacks of {} goroutines could not be read", roots.unread));
    }
    let marked = MemStats::read(runtime).ok().map(|stats| stats.heap_marked);
    let fits = slots * BYTES_PER_SLOT + graph.edge_count() as u64 * BYTES_PER_EDGE <= max_bytes;
    let holders = if fits {
        let mut walk = Walk::new(graph);
        let roots = search(runtime, &mut walk, roots)?;
        let tree = walk.finish(|slot| spans.size_of(slot));
        let way = Way { runtime, spans: &spans, children: tree.children(), tree: &tree, roots: &roots, masks: RefCell::new(masks) };
        listed(tree.held(), &roots, tree.reached(), &also(&tree, &roots), |held, holder| way.tell(held, holder))
    } else {
        limits.push(format!(
            "its heap has {slots} places for objects: the ways from the holders to the bytes are left out, to stay within {}",
            ByteSize(max_bytes)
        ));
        let mut reach = Reach::new(graph);
        let roots = search(runtime, &mut reach, roots)?;
        let held = reach.held(|slot| spans.size_of(slot));
        let reached = held.iter().fold((0, 0), |(bytes, objects), held| (bytes + held.bytes, objects + held.objects));
        listed(held, &roots, reached, &HashMap::new(), |_, _| {})
    };
    Ok(Holders { marked_bytes: marked, limits, ..holders })
}

fn graph(spans: &Spans, masks: &mut Masks, roots: &Roots, max_edges: u64) -> Result<Graph, Refused> {
    let mut graph = Graph::new(spans.slots());
    for span in spans.all() {
        let mut current = 0;
        masks.pointers(span, &mut |index, word| {
            while current < index {
                graph.end_slot();
                current += 1;
            }
            let slot = span.first_slot + index;
            if let Some(to) = spans.slot_at(word)
                && to != slot
                && graph.last_edge() != Some(to)
                && !roots.standing.contains(&to)
                && !roots.lists.contains(&slot)
            {
                graph.edge(to);
            }
        });
        while current < span.objects {
            graph.end_slot();
            current += 1;
        }
        if graph.edge_count() as u64 > max_edges {
            return Err(Refused::new(format!(
                "its heap has {} places for objects, with more than {max_edges} pointers between them: more than fits into what may be used",
                spans.slots()
            )));
        }
    }
    Ok(graph)
}

/// Roots in the order in which they count; they have the numbers that the search gave them.
fn search(runtime: &Runtime, search: &mut impl Search, roots: Roots) -> Result<Vec<Root>, Refused> {
    let mut names = Names::new(runtime)?;
    let mut all: Vec<Root> = Vec::new();
    let mut add = |search: &mut dyn Search, mut root: Root| {
        search.root(std::mem::take(&mut root.targets));
        all.push(root);
    };
    roots.variables.into_iter().for_each(|root| add(search, root));
    search.next_class();
    roots.running.into_iter().for_each(|root| add(search, root));
    search.next_class();
    roots.possible.into_iter().for_each(|root| add(search, root));
    roots.queued.into_iter().for_each(|root| add(search, root));
    let mut by_function: HashMap<u64, Root> = HashMap::new();
    for special in roots.specials {
        let mut named = || names.frames(special.entry).ok().and_then(|f| f.last().map(|f| f.function.clone())).unwrap_or_default();
        let root = by_function.entry(special.entry).or_insert_with(|| Root { kind: Kind::Finalizer, name: named(), ..Root::default() });
        root.count += 1;
        root.targets.extend(special.function);
        if special.is_finalizer && !search.is_reached(special.object) {
            root.targets.push(special.object);
        }
    }
    let mut finalizers: Vec<Root> = by_function.into_values().collect();
    finalizers.sort_by(|a, b| a.name.cmp(&b.name));
    finalizers.into_iter().for_each(|root| add(search, root));
    search.next_class();
    add(search, roots.runtime);
    Ok(all)
}

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

/// The largest holders by name, `tell` adding the way from each of the first to its bytes.
fn listed(
    held: Vec<Held>,
    roots: &[Root],
    (reached_bytes, reached_objects): (u64, u64),
    also: &HashMap<Vec<u32>, Vec<String>>,
    tell: impl Fn(&Held, &mut Holder),
) -> Holders {
    let mut holders = Vec::new();
    let mut others = Others::default();
    for (at, held) in merged(held, roots).iter().enumerate() {
        if at >= MAX_HOLDERS {
            others.holders += 1;
            others.retained_bytes += held.bytes;
            others.objects += held.objects;
            continue;
        }
        let mut holder = named(held, roots);
        holder.share = held.bytes as f64 / reached_bytes.max(1) as f64;
        holder.also = also.get(&held.roots).cloned().unwrap_or_default();
        if at < MAX_PATHS && holder.share >= MIN_SHARE {
            tell(held, &mut holder);
        }
        holders.push(holder);
    }
    Holders { reached_bytes, reached_objects, holders, others, ..Holders::new() }
}

/// Roots of one kind and name are one holder: what a goroutine holds for sure, and what it may.
fn merged(held: Vec<Held>, roots: &[Root]) -> Vec<Held> {
    let mut first: HashMap<(Kind, &str), u32> = HashMap::new();
    let canonical: Vec<u32> = (0u32..).zip(roots).map(|(at, root)| *first.entry((root.kind, root.name.as_str())).or_insert(at)).collect();
    let mut merged: HashMap<(Vec<u32>, bool), Held> = HashMap::new();
    for held in held {
        let mut roots: Vec<u32> = held.roots.iter().filter_map(|root| canonical.get(*root as usize).copied()).collect();
        roots.sort_unstable();
        roots.dedup();
        let of = (roots.clone(), held.has_others);
        let into = merged.entry(of).or_insert_with(|| Held { roots, has_others: held.has_others, ..Held::default() });
        into.bytes += held.bytes;
        into.objects += held.objects;
        into.heads.extend(held.heads);
    }
    let mut merged: Vec<Held> = merged.into_values().filter(|held| held.bytes > 0).collect();
    merged.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.roots.cmp(&b.roots)));
    merged
}

fn title(root: &Root) -> String {
    Holder { kind: root.kind.name().into(), name: root.name.clone(), ..Holder::default() }.with_count(root).title()
}

fn named(held: &Held, roots: &[Root]) -> Holder {
    let base = Holder { retained_bytes: held.bytes, objects: held.objects, ..Holder::default() };
    let root = |number: &u32| roots.get(*number as usize);
    match &held.roots[..] {
        [one] if !held.has_others => match root(one) {
            Some(root) => Holder { kind: root.kind.name().into(), name: root.name.clone(), ..base }.with_count(root),
            None => base,
        },
        [] => Holder { kind: "shared".into(), name: "more than four together".into(), ..base },
        several => {
            let mut names: Vec<String> = several.iter().filter_map(root).map(title).collect();
            names.extend(held.has_others.then(|| "others".to_owned()));
            Holder { kind: "shared".into(), name: names.join(" and "), ..base }
        }
    }
}

/// Who looks at what a set of roots holds, the most bytes first.
fn also(tree: &Tree, roots: &[Root]) -> HashMap<Vec<u32>, Vec<String>> {
    let mut by_set: HashMap<Vec<u32>, Vec<(u64, String)>> = HashMap::new();
    for ((set, by), bytes) in tree.looks() {
        if let Some(root) = roots.get(by as usize).filter(|root| root.kind != Kind::Runtime) {
            by_set.entry(tree.roots_of_set(set).to_vec()).or_default().push((bytes, title(root)));
        }
    }
    let told = |mut names: Vec<(u64, String)>| {
        names.sort_by(|a, b| b.cmp(a));
        names.dedup_by(|a, b| a.1 == b.1);
        names.into_iter().take(MAX_ALSO).map(|(_, name)| name).collect()
    };
    by_set.into_iter().map(|(set, names)| (set, told(names))).collect()
}

/// What is needed to tell the way from a holder to its bytes.
struct Way<'r> {
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

impl Way<'_> {
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
    fn tell(&self, held: &Held, holder: &mut Holder) {
        let mut stages: Vec<Stage> = Vec::new();
        let mut next: HashMap<Likeness, Alike> = HashMap::new();
        for head in &held.heads {
            match self.tree.slot(*head) {
                Some(_) => self.group(*head, &mut next),
                None => self.children.of(*head).iter().for_each(|child| self.group(*child, &mut next)),
            }
        }
        while let Some((likeness, alike)) = next.drain().max_by(|a, b| a.1.bytes.cmp(&b.1.bytes).then_with(|| a.0.cmp(&b.0))) {
            if alike.bytes * 2 < held.bytes || stages.len() >= MAX_STEPS {
                break;
            }
            // lists and trees come back to what they are made of: all of it is one stage each
            let from = stages.iter().position(|stage| stage.likeness == likeness).unwrap_or_else(|| {
                stages.push(Stage { likeness, objects: 0, own_bytes: 0, bytes: alike.bytes, samples: Vec::new() });
                stages.len() - 1
            });
            let mut work = alike.vertices;
            while let Some(vertex) = work.pop() {
                let like = self.likeness(vertex);
                if let Some(stage) = stages.iter_mut().skip(from).find(|stage| Some(stage.likeness) == like) {
                    stage.objects += 1;
                    stage.own_bytes += stage.likeness.size;
                    if stage.samples.len() < SAMPLES {
                        stage.samples.push(vertex);
                    }
                }
                for child in self.children.of(vertex) {
                    let like = self.likeness(*child);
                    match stages.iter().skip(from).any(|stage| Some(stage.likeness) == like) {
                        true => work.push(*child),
                        false => self.group(*child, &mut next),
                    }
                }
            }
            if stages.last().is_some_and(|stage| stage.own_bytes * 2 >= held.bytes) {
                break;
            }
        }
        self.describe(held, stages, holder);
    }

    fn group(&self, vertex: u32, into: &mut HashMap<Likeness, Alike>) {
        if let Some(likeness) = self.likeness(vertex) {
            let alike = into.entry(likeness).or_default();
            alike.bytes += self.tree.retained(vertex);
            alike.vertices.push(vertex);
        }
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
            let is_row = types::size(self.runtime, at).is_some_and(|size| size > 0 && size * 2 <= span.size);
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
                let at = super::masks::words(&bytes).position(|word| self.spans.slot_at(word) == Some(slot))? as u64 * 8;
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

impl Holder {
    fn with_count(self, root: &Root) -> Holder {
        let count = matches!(root.kind, Kind::Goroutines | Kind::Timer | Kind::Finalizer).then_some(root.count);
        Holder { count, ..self }
    }
}
