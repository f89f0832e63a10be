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

use std::collections::HashMap;

use super::dominators::{Tree, Walk};
use super::graph::{Graph, Search};
use super::masks::Masks;
use super::memstats;
use super::names::Names;
use super::owners::Held;
use super::reach::Reach;
use super::roots::{self, Kind, Root, Roots};
use super::spans::Spans;
use super::variables::Variables;
use super::way::Way;
use super::{Refused, Runtime};
use crate::holders::{Holder, Holders, Others};
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
    let marked = memstats::heap_marked(runtime).ok();
    let fits = slots * BYTES_PER_SLOT + graph.edge_count() as u64 * BYTES_PER_EDGE <= max_bytes;
    let holders = if fits {
        let mut walk = Walk::new(graph);
        let roots = search(runtime, &mut walk, roots)?;
        let tree = walk.finish(|slot| spans.size_of(slot));
        let way = Way::new(runtime, &spans, &tree, &roots, masks);
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
        let mut named = || names.function(special.entry).unwrap_or_default();
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
    roots.pools.into_iter().for_each(|root| add(search, root));
    search.next_class();
    add(search, roots.runtime);
    Ok(all)
}

/// The largest holders by name, `tell` adding the way from each of the first to its bytes.
fn listed(
    held: Vec<Held>,
    roots: &[Root],
    (reached_bytes, reached_objects): (u64, u64),
    also: &HashMap<Vec<u32>, Also>,
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
        if let Some(also) = also.get(&held.roots) {
            holder.also = also.names.clone();
            holder.also_goroutines = also.goroutines;
        }
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

fn named(held: &Held, roots: &[Root]) -> Holder {
    let root = |number: &u32| roots.get(*number as usize);
    let holder = match &held.roots[..] {
        [one] if !held.has_others => root(one).map(Holder::of).unwrap_or_default(),
        [] => Holder { kind: "shared".into(), name: "more than four together".into(), ..Holder::default() },
        several => {
            let holders: Vec<Holder> = several.iter().filter_map(root).map(Holder::of).collect();
            let mut names: Vec<String> = holders.iter().map(Holder::title).collect();
            names.extend(held.has_others.then(|| "others".to_owned()));
            let goroutines = holders.iter().filter_map(|holder| holder.goroutines).max();
            Holder { kind: "shared".into(), name: names.join(" and "), goroutines, ..Holder::default() }
        }
    };
    Holder { retained_bytes: held.bytes, objects: held.objects, ..holder }
}

/// One of those who look at what a set of roots holds: bytes, name, and how many goroutines it stands for.
type Look = (u64, String, Option<u64>);

/// Who looks at what a set of roots holds.
struct Also {
    /// The most bytes first.
    names: Vec<String>,
    /// The most of one group.
    goroutines: Option<u64>,
}

fn also(tree: &Tree, roots: &[Root]) -> HashMap<Vec<u32>, Also> {
    let mut by_set: HashMap<Vec<u32>, Vec<Look>> = HashMap::new();
    for ((set, by), bytes) in tree.looks() {
        if let Some(root) = roots.get(by as usize).filter(|root| root.kind != Kind::Runtime) {
            let by = Holder::of(root);
            by_set.entry(tree.roots_of_set(set).to_vec()).or_default().push((bytes, by.title(), by.goroutines));
        }
    }
    let told = |mut looks: Vec<Look>| {
        looks.sort_by(|a, b| b.cmp(a));
        looks.dedup_by(|a, b| a.1 == b.1);
        let goroutines = looks.iter().filter_map(|(_, _, goroutines)| *goroutines).max();
        Also { names: looks.into_iter().take(MAX_ALSO).map(|(_, name, _)| name).collect(), goroutines }
    };
    by_set.into_iter().map(|(set, names)| (set, told(names))).collect()
}

impl Holder {
    fn of(root: &Root) -> Holder {
        let count = matches!(root.kind, Kind::Goroutines | Kind::Timer | Kind::Finalizer).then_some(root.count);
        let goroutines = count.filter(|_| root.kind == Kind::Goroutines);
        Holder { kind: root.kind.name().into(), name: root.name.clone(), is_pool: root.is_pool, count, goroutines, ..Holder::default() }
    }
}
