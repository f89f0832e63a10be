//! What would be freed without a root, or without an object: reachability and dominators of an object graph.
//!
//! Pure: objects are *slots*, numbered from 0. The tree is made by semi-NCA (Georgiadis, Tarjan, Werneck: "Finding Dominators in
//! Practice", 2006) over a depth-first numbering. About 30 bytes for each slot at its peak, 5 of them for an average of 1.2 edges.
//!
//! Roots have a class. What a root reaches of an earlier class's objects does not count: so a goroutine that looks at a cache at this
//! moment does not share it with the variable that keeps it. Such looks are kept, to be told.

use std::collections::{HashMap, HashSet, VecDeque};

/// Owners that are told apart: more share as `many`.
const MAX_OWNERS: usize = 4;
/// Of what more share, as many objects are told by the nearest roots, and so many of those.
const MAX_NEAREST: usize = 256;
const NEAREST: usize = 2;
/// Vertices that are looked at for them.
const MAX_BACK: usize = 50_000;
/// Different sets of owners; beyond them all are `many`.
const MAX_SETS: usize = 1 << 16;
/// Rounds in which sets of owners grow along chains of shared objects.
const MAX_ROUNDS: usize = 16;
/// Edges into what an earlier class reaches, that are kept.
const MAX_LOOKS: usize = 1 << 20;
/// Above every root.
const TOP: u32 = 0;

/// Edges by the slot that they leave, in its order.
#[derive(Debug, Default)]
pub struct Graph {
    /// Where the edges of each slot begin, and the end.
    first: Vec<u32>,
    edges: Vec<u32>,
}

impl Graph {
    pub fn new(slots: u32) -> Graph {
        let mut first = Vec::with_capacity(slots as usize + 1);
        first.push(0);
        Graph { first, edges: Vec::new() }
    }

    /// The next slot has no more edges than those added up to now.
    pub fn end_slot(&mut self) {
        self.first.push(u32::try_from(self.edges.len()).unwrap_or(u32::MAX));
    }

    pub fn edge(&mut self, to: u32) {
        self.edges.push(to);
    }

    /// The edges that were added since the last slot ended.
    pub fn last_edge(&self) -> Option<u32> {
        let from = *self.first.last()? as usize;
        self.edges.get(from..)?.last().copied()
    }

    pub fn slots(&self) -> u32 {
        (self.first.len() as u32).saturating_sub(1)
    }

    pub fn edge_count(&self) -> usize {
        self.edges.len()
    }

    pub fn from(&self, slot: u32) -> &[u32] {
        let place = |slot: u32| self.first.get(slot as usize).map_or(0, |at| *at as usize);
        self.edges.get(place(slot)..place(slot + 1)).unwrap_or_default()
    }
}

/// A search over the graph, root by root: those of one class, then those of the next.
pub trait Search {
    /// Adds a root with all that it reaches. Roots are numbered in this order.
    fn root(&mut self, targets: Vec<u32>);

    /// Roots from now on count only for what no root up to now reaches.
    fn next_class(&mut self);

    fn is_reached(&self, slot: u32) -> bool;
}

/// A walk over the graph, root by root.
#[derive(Debug)]
pub struct Walk {
    graph: Graph,
    /// By slot: its vertex, 0 while it is not reached.
    number: Vec<u32>,
    /// Vertices in depth-first order: a slot, or the number of slots and a root's number. The first is above the roots.
    vertex: Vec<u32>,
    parent: Vec<u32>,
    /// By root.
    roots: Vec<Root>,
    /// Where each class begins.
    classes: Vec<u32>,
}

#[derive(Debug)]
struct Root {
    vertex: u32,
    targets: Vec<u32>,
}

impl Search for Walk {
    fn root(&mut self, mut targets: Vec<u32>) {
        targets.sort_unstable();
        targets.dedup();
        targets.retain(|slot| *slot < self.graph.slots());
        let root = self.vertex.len() as u32;
        self.vertex.push(self.graph.slots() + self.roots.len() as u32);
        self.parent.push(TOP);
        let mut cursor = Vec::new();
        for target in &targets {
            self.descend(*target, root, &mut cursor);
        }
        self.roots.push(Root { vertex: root, targets });
    }

    fn next_class(&mut self) {
        self.classes.push(self.vertex.len() as u32);
    }

    fn is_reached(&self, slot: u32) -> bool {
        self.number.get(slot as usize).is_some_and(|n| *n != 0)
    }
}

impl Walk {
    pub fn new(graph: Graph) -> Walk {
        let number = vec![0; graph.slots() as usize];
        Walk { graph, number, vertex: vec![u32::MAX], parent: vec![TOP], roots: Vec::new(), classes: vec![1] }
    }

    /// Everything below a slot that is not reached yet. The way back is the parents'; `cursor` says which edge of a vertex is next.
    fn descend(&mut self, start: u32, root: u32, cursor: &mut Vec<u32>) {
        if self.is_reached(start) {
            return;
        }
        let base = self.vertex.len() as u32;
        cursor.clear();
        self.reach(start, root, cursor);
        let mut at = base;
        while at != root {
            let slot = self.vertex.get(at as usize).copied().unwrap_or(u32::MAX);
            let Some(edge) = cursor.get_mut((at - base) as usize) else { return };
            let next = self.graph.from(slot).get(*edge as usize).copied();
            *edge += 1;
            match next {
                Some(next) if !self.is_reached(next) => {
                    let vertex = self.vertex.len() as u32;
                    self.reach(next, at, cursor);
                    at = vertex;
                }
                Some(_) => {}
                None => at = self.parent.get(at as usize).copied().unwrap_or(root),
            }
        }
    }

    fn reach(&mut self, slot: u32, parent: u32, cursor: &mut Vec<u32>) {
        if let Some(number) = self.number.get_mut(slot as usize) {
            *number = self.vertex.len() as u32;
        }
        self.vertex.push(slot);
        self.parent.push(parent);
        cursor.push(0);
    }

    fn class(&self, vertex: u32) -> usize {
        self.classes.partition_point(|start| *start <= vertex)
    }

    /// Calls `visit` with each edge between vertices.
    fn edges(&self, mut visit: impl FnMut(u32, u32)) {
        for (from, node) in (0u32..).zip(&self.vertex).skip(1) {
            let targets = match node.checked_sub(self.graph.slots()) {
                None => self.graph.from(*node),
                Some(root) => self.roots.get(root as usize).map_or(&[][..], |root| &root.targets),
            };
            for target in targets {
                match self.number.get(*target as usize) {
                    Some(to) if *to != 0 => visit(from, *to),
                    _ => {}
                }
            }
        }
    }

    /// `size_of` a slot's object in bytes.
    pub fn finish(self, size_of: impl Fn(u32) -> u64) -> Tree {
        let count = self.vertex.len();
        let mut looks = Vec::new();
        let mut before = vec![0u32; count + 1];
        let is_look = |from, to| self.classes.len() > 1 && self.class(from) > self.class(to);
        self.edges(|from, to| match is_look(from, to) {
            true if looks.len() < MAX_LOOKS => looks.push((from, to)),
            true => {}
            false => before.get_mut(to as usize).into_iter().for_each(|n| *n += 1),
        });
        let mut sum = 0;
        for place in &mut before {
            sum += *place;
            *place = sum;
        }
        let mut preds = vec![0u32; sum as usize];
        // each place counts down to where its vertex's begin
        self.edges(|from, to| {
            if !is_look(from, to)
                && let Some(place) = before.get_mut(to as usize)
            {
                *place -= 1;
                preds.get_mut(*place as usize).into_iter().for_each(|pred| *pred = from);
            }
        });
        let Walk { graph, number, vertex, parent, roots, .. } = self;
        let slots = graph.slots();
        drop((graph, number));
        let preds = Preds { first: before, all: preds };
        let dominator = semi_nca(&preds, parent);

        let mut retained = vec![0u64; count];
        let mut objects = vec![0u32; count];
        for at in (1..count).rev() {
            let slot = vertex.get(at).copied().unwrap_or(u32::MAX);
            let (own, one) = if slot < slots { (size_of(slot), 1) } else { (0, 0) };
            let (Some(bytes), Some(n), Some(up)) = (retained.get_mut(at), objects.get_mut(at), dominator.get(at)) else { continue };
            *bytes += own;
            *n += one;
            let (bytes, n) = (*bytes, *n);
            retained.get_mut(*up as usize).into_iter().for_each(|up| *up += bytes);
            objects.get_mut(*up as usize).into_iter().for_each(|up| *up += n);
        }
        let roots: Vec<u32> = roots.iter().map(|root| root.vertex).collect();
        let mut owners = Owners::new(&dominator, &preds, &roots, &vertex, slots);
        owners.tell_more(&dominator, &preds, &roots, &retained);
        Tree { slots, vertex, dominator, retained, objects, owners, looks }
    }
}

/// Edges by the vertex that they lead to.
struct Preds {
    first: Vec<u32>,
    all: Vec<u32>,
}

impl Preds {
    fn of(&self, vertex: u32) -> &[u32] {
        let place = |at: usize| self.first.get(at).map_or(0, |n| *n as usize);
        self.all.get(place(vertex as usize)..place(vertex as usize + 1)).unwrap_or_default()
    }
}

fn get(of: &[u32], at: u32) -> u32 {
    of.get(at as usize).copied().unwrap_or(0)
}

fn set(of: &mut [u32], at: u32, value: u32) {
    of.get_mut(at as usize).into_iter().for_each(|place| *place = value);
}

/// The dominator of each vertex; `parent` is that of the depth-first tree.
fn semi_nca(preds: &Preds, parent: Vec<u32>) -> Vec<u32> {
    let count = parent.len() as u32;
    let mut semi: Vec<u32> = (0..count).collect();
    let mut label: Vec<u32> = (0..count).collect();
    // vertices above `linked` are linked to their ancestors
    let mut ancestor = parent.clone();
    let mut path = Vec::new();
    for at in (1..count).rev() {
        // a root has none but what is above all
        let mut best = get(&parent, at);
        for pred in preds.of(at) {
            let through = match *pred <= at {
                true => *pred,
                false => {
                    compress(*pred, at, &mut ancestor, &mut label, &semi, &mut path);
                    get(&semi, get(&label, *pred))
                }
            };
            best = best.min(through);
        }
        set(&mut semi, at, best);
    }
    drop((ancestor, label));
    let mut dominator = parent;
    for at in 1..count {
        let (mut up, semi) = (get(&dominator, at), get(&semi, at));
        while up > semi {
            up = get(&dominator, up);
        }
        set(&mut dominator, at, up);
    }
    dominator
}

/// Shortens the way from a vertex up to those that are not linked yet, and keeps the vertex with the least semidominator on it.
fn compress(vertex: u32, linked: u32, ancestor: &mut [u32], label: &mut [u32], semi: &[u32], path: &mut Vec<u32>) {
    path.clear();
    let mut at = vertex;
    while get(ancestor, at) > linked {
        path.push(at);
        at = get(ancestor, at);
    }
    while let Some(below) = path.pop() {
        let up = get(ancestor, below);
        if get(semi, get(label, up)) < get(semi, get(label, below)) {
            let better = get(label, up);
            set(label, below, better);
        }
        let higher = get(ancestor, up);
        set(ancestor, below, higher);
    }
}

/// What dominates what.
#[derive(Debug)]
pub struct Tree {
    slots: u32,
    vertex: Vec<u32>,
    dominator: Vec<u32>,
    retained: Vec<u64>,
    objects: Vec<u32>,
    owners: Owners,
    looks: Vec<(u32, u32)>,
}

/// What is held by the same roots together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Numbers of the roots; none: more than are told apart.
    pub roots: Vec<u32>,
    /// These are the nearest of more.
    pub has_others: bool,
    pub bytes: u64,
    pub objects: u64,
    /// Vertices below which it all is: the root's own, or the first objects that are shared.
    pub heads: Vec<u32>,
}

impl Tree {
    /// All that is reached, by who holds it: the most bytes first.
    pub fn held(&self) -> Vec<Held> {
        let mut held: HashMap<u32, Held> = HashMap::new();
        for at in 1..self.vertex.len() as u32 {
            if get(&self.dominator, at) != TOP {
                continue;
            }
            let of = held.entry(get(&self.owners.of_head, at)).or_default();
            of.bytes += self.retained.get(at as usize).copied().unwrap_or(0);
            of.objects += u64::from(get(&self.objects, at));
            of.heads.push(at);
        }
        let named = |(set, held): (u32, Held)| {
            let roots = self.owners.sets.get(set as usize).cloned().unwrap_or_default();
            Held { roots, has_others: set >= self.owners.first_of_more, ..held }
        };
        let mut held: Vec<Held> = held.into_iter().map(named).collect();
        held.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.roots.cmp(&b.roots)));
        held
    }

    /// Roots of later classes that look at what these heads hold, with how many bytes they look at.
    pub fn looks(&self) -> HashMap<(u32, u32), u64> {
        let mut top: Vec<u32> = (0..self.vertex.len() as u32).collect();
        for at in 1..top.len() as u32 {
            let up = get(&self.dominator, at);
            if up != TOP {
                let of_up = get(&top, up);
                set(&mut top, at, of_up);
            }
        }
        let mut looks = HashMap::new();
        for (from, to) in &self.looks {
            let looks_from = self.owners.sets.get(get(&self.owners.of_head, get(&top, *from)) as usize);
            let set_of_to = get(&self.owners.of_head, get(&top, *to));
            for root in looks_from.into_iter().flatten() {
                *looks.entry((set_of_to, *root)).or_default() += self.retained.get(*to as usize).copied().unwrap_or(0);
            }
        }
        looks
    }

    /// The set that [`Tree::looks`] names.
    pub fn roots_of_set(&self, set: u32) -> &[u32] {
        self.owners.sets.get(set as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// The slot of a vertex; `None` of a root.
    pub fn slot(&self, vertex: u32) -> Option<u32> {
        self.vertex.get(vertex as usize).copied().filter(|slot| *slot < self.slots)
    }

    pub fn dominator(&self, vertex: u32) -> u32 {
        get(&self.dominator, vertex)
    }

    pub fn retained(&self, vertex: u32) -> u64 {
        self.retained.get(vertex as usize).copied().unwrap_or(0)
    }

    pub fn objects(&self, vertex: u32) -> u32 {
        get(&self.objects, vertex)
    }

    /// All that is reached, in bytes and objects.
    pub fn reached(&self) -> (u64, u64) {
        (self.retained(TOP), self.objects(TOP).into())
    }

    /// The children of each vertex.
    pub fn children(&self) -> Children {
        let count = self.dominator.len();
        let mut first = vec![0u32; count + 1];
        for up in self.dominator.iter().skip(1) {
            first.get_mut(*up as usize).into_iter().for_each(|n| *n += 1);
        }
        let mut sum = 0;
        for place in &mut first {
            sum += *place;
            *place = sum;
        }
        let mut all = vec![0u32; sum as usize];
        for (at, up) in (0u32..).zip(&self.dominator).skip(1) {
            if let Some(place) = first.get_mut(*up as usize) {
                *place -= 1;
                all.get_mut(*place as usize).into_iter().for_each(|child| *child = at);
            }
        }
        Children(Preds { first, all })
    }
}

/// The dominator tree downwards.
pub struct Children(Preds);

impl Children {
    pub fn of(&self, vertex: u32) -> &[u32] {
        self.0.of(vertex)
    }
}

/// Which roots reach the first objects that several of them reach.
#[derive(Debug)]
struct Owners {
    /// By vertex, for those that only the top dominates.
    of_head: Vec<u32>,
    sets: Vec<Vec<u32>>,
    /// Sets from here on are the nearest of more.
    first_of_more: u32,
}

/// The set of no root: what is not known yet.
pub(super) const NOBODY: u32 = 0;
/// The set of more than can be told.
pub(super) const MANY: u32 = 1;

impl Owners {
    fn new(dominator: &[u32], preds: &Preds, roots: &[u32], vertex: &[u32], slots: u32) -> Owners {
        let mut top: Vec<u32> = (0..dominator.len() as u32).collect();
        for at in 1..top.len() as u32 {
            let up = get(dominator, at);
            if up != TOP {
                let of_up = get(&top, up);
                set(&mut top, at, of_up);
            }
        }
        let mut sets = Sets::default();
        let mut of_head = vec![NOBODY; dominator.len()];
        for (index, root) in (0u32..).zip(roots) {
            let only = sets.intern(vec![index]);
            set(&mut of_head, *root, only);
        }
        for _ in 0..MAX_ROUNDS {
            let mut is_done = true;
            for at in 1..dominator.len() as u32 {
                if get(dominator, at) != TOP || get(vertex, at) >= slots {
                    continue;
                }
                let old = get(&of_head, at);
                let new = preds.of(at).iter().fold(old, |all, pred| sets.union(all, get(&of_head, get(&top, *pred))));
                if new != old {
                    set(&mut of_head, at, new);
                    is_done = false;
                }
            }
            if is_done {
                break;
            }
        }
        Owners { of_head, first_of_more: sets.sets.len() as u32, sets: sets.sets }
    }

    /// What more roots share than are told apart is told by the nearest of them: the largest of it.
    fn tell_more(&mut self, dominator: &[u32], preds: &Preds, roots: &[u32], retained: &[u64]) {
        let is_shared = |at: &u32| get(dominator, *at) == TOP && get(&self.of_head, *at) == MANY;
        let mut heads: Vec<u32> = (1..dominator.len() as u32).filter(is_shared).collect();
        heads.sort_by_key(|at| std::cmp::Reverse(retained.get(*at as usize).copied().unwrap_or(0)));
        let of_vertex: HashMap<u32, u32> = roots.iter().copied().zip(0..).collect();
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        for head in heads.into_iter().take(MAX_NEAREST) {
            let mut nearest = nearest_roots(head, preds, &of_vertex);
            nearest.sort_unstable();
            let set_of = *known.entry(nearest.clone()).or_insert_with(|| {
                self.sets.push(nearest);
                self.sets.len() as u32 - 1
            });
            set(&mut self.of_head, head, set_of);
        }
    }
}

/// The first roots on the way back from a vertex, breadth first.
fn nearest_roots(vertex: u32, preds: &Preds, roots: &HashMap<u32, u32>) -> Vec<u32> {
    let (mut seen, mut found) = (HashSet::from([vertex]), Vec::new());
    let mut next = VecDeque::from([vertex]);
    while let Some(at) = next.pop_front() {
        for pred in preds.of(at) {
            if seen.len() < MAX_BACK && seen.insert(*pred) {
                match roots.get(pred) {
                    Some(root) => found.push(*root),
                    None => next.push_back(*pred),
                }
                if found.len() >= NEAREST {
                    return found;
                }
            }
        }
    }
    found
}

/// Sets of roots, by number.
#[derive(Debug)]
pub(super) struct Sets {
    sets: Vec<Vec<u32>>,
    known: HashMap<Vec<u32>, u32>,
    unions: HashMap<(u32, u32), u32>,
}

impl Default for Sets {
    fn default() -> Sets {
        Sets { sets: vec![Vec::new(), Vec::new()], known: HashMap::new(), unions: HashMap::new() }
    }
}

impl Sets {
    /// A further set of more than can be told.
    pub fn another_many(&mut self) -> u32 {
        self.sets.push(Vec::new());
        self.sets.len() as u32 - 1
    }

    pub fn roots(&self, set: u32) -> &[u32] {
        self.sets.get(set as usize).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn intern(&mut self, roots: Vec<u32>) -> u32 {
        if let Some(known) = self.known.get(&roots) {
            return *known;
        }
        if roots.len() > MAX_OWNERS || self.sets.len() >= MAX_SETS {
            return MANY;
        }
        let number = self.sets.len() as u32;
        self.sets.push(roots.clone());
        self.known.insert(roots, number);
        number
    }

    pub fn union(&mut self, a: u32, b: u32) -> u32 {
        match (a.min(b), a.max(b)) {
            (NOBODY, other) => other,
            (MANY, _) => MANY,
            (a, b) if a == b => a,
            pair => {
                if let Some(known) = self.unions.get(&pair) {
                    return *known;
                }
                let of = |set: u32| self.sets.get(set as usize).cloned().unwrap_or_default();
                let mut all = of(pair.0);
                all.extend(of(pair.1));
                all.sort_unstable();
                all.dedup();
                let union = self.intern(all);
                self.unions.insert(pair, union);
                union
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn graph(edges: &[Vec<u32>]) -> Graph {
        let mut graph = Graph::new(edges.len() as u32);
        for of in edges {
            of.iter().for_each(|to| graph.edge(*to));
            graph.end_slot();
        }
        graph
    }

    /// All that these roots reach, without going through a slot.
    fn reach(edges: &[Vec<u32>], roots: &[&Vec<u32>], without: Option<u32>) -> BTreeSet<u32> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<u32> = roots.iter().flat_map(|r| r.iter().copied()).collect();
        while let Some(slot) = next.pop() {
            if Some(slot) != without && seen.insert(slot) {
                next.extend(&edges[slot as usize]);
            }
        }
        seen
    }

    fn size(slot: u32) -> u64 {
        16 + u64::from(slot)
    }

    #[test]
    fn two_caches_of_the_same_values_share_them_by_name() {
        // 0 and 1 are the maps, 2 to 5 the values, 6 what a value holds
        let edges = [vec![2, 3, 4, 5], vec![2, 3, 4], vec![6], vec![], vec![], vec![], vec![]];
        let mut walk = Walk::new(graph(&edges));
        let (by_id, by_name) = (0, 1);
        walk.root(vec![0]);
        walk.root(vec![1]);
        let held = walk.finish(|_| 10).held();
        let of = |roots: &[u32]| held.iter().find(|h| h.roots == roots).map(|h| (h.bytes, h.objects));
        assert_eq!(of(&[by_id, by_name]), Some((40, 4)));
        assert_eq!((of(&[by_id]), of(&[by_name])), (Some((20, 2)), Some((10, 1))));
    }

    #[test]
    fn a_later_class_has_what_nobody_before_it_reaches() {
        let edges = [vec![1], vec![], vec![0, 3], vec![]];
        let mut walk = Walk::new(graph(&edges));
        let (cache, worker) = (0, 1);
        walk.root(vec![0]);
        walk.next_class();
        walk.root(vec![2, 1]);
        let tree = walk.finish(|_| 1);
        let held = tree.held();
        assert_eq!(held.iter().map(|h| (h.roots.clone(), h.bytes)).collect::<Vec<_>>(), [(vec![cache], 2), (vec![worker], 2)]);
        let looks: Vec<_> = tree.looks().into_iter().map(|((set, by), bytes)| (tree.roots_of_set(set).to_vec(), by, bytes)).collect();
        assert_eq!(looks, [(vec![cache], worker, 3)], "at slot 0 with all below it, and at slot 1");
    }

    #[test]
    fn a_list_of_a_million_is_walked() {
        let n = 1_000_000;
        let mut long = Graph::new(n);
        for at in 0..n {
            if at + 1 < n {
                long.edge(at + 1);
            }
            long.end_slot();
        }
        let mut walk = Walk::new(long);
        walk.root(vec![0]);
        assert_eq!(walk.finish(|_| 1).held()[0].bytes, u64::from(n));
    }

    #[test]
    fn what_many_share_is_told_by_the_nearest() {
        // eight roots lead to 8, two of them directly
        let mut edges: Vec<Vec<u32>> = (0..6).map(|at| vec![at + 10]).collect();
        edges.resize(20, Vec::new());
        (10..16).for_each(|at| edges[at] = vec![8]);
        let mut walk = Walk::new(graph(&edges));
        let (far, near) = (0..6, [6, 7]);
        (0..6).for_each(|at| walk.root(vec![at]));
        near.iter().for_each(|_| walk.root(vec![8]));
        let held = walk.finish(|slot| if slot == 8 { 1000 } else { 1 }).held();
        assert_eq!((&held[0].roots[..], held[0].has_others, held[0].bytes), (&near[..], true, 1000));
        assert!(held[1..].iter().filter(|held| held.bytes > 0).all(|held| !held.has_others && far.contains(&held.roots[0])));
    }

    proptest! {
        #[test]
        fn retained_is_what_is_not_reached_without_it(
            edges in prop::collection::vec(prop::collection::vec(0u32..24, 0..4), 24),
            roots in prop::collection::vec(prop::collection::vec(0u32..24, 0..3), 1..5),
        ) {
            let mut walk = Walk::new(graph(&edges));
            for root in &roots {
                walk.root(root.clone());
            }
            let tree = walk.finish(size);
            let all: Vec<&Vec<u32>> = roots.iter().collect();
            let reached = reach(&edges, &all, None);
            let bytes = |slots: &BTreeSet<u32>| slots.iter().map(|s| size(*s)).sum::<u64>();
            prop_assert_eq!(tree.reached(), (bytes(&reached), reached.len() as u64));
            for vertex in 1..tree.vertex.len() as u32 {
                if let Some(slot) = tree.slot(vertex) {
                    let without = reach(&edges, &all, Some(slot));
                    prop_assert_eq!(tree.retained(vertex), bytes(&reached) - bytes(&without), "slot {}", slot);
                }
            }
            // by the sets of roots that reach each slot
            let mut expected: HashMap<Vec<u32>, u64> = HashMap::new();
            for slot in &reached {
                let by = (0..roots.len() as u32).filter(|r| reach(&edges, &[&roots[*r as usize]], None).contains(slot)).collect();
                *expected.entry(by).or_default() += size(*slot);
            }
            let held: HashMap<Vec<u32>, u64> = tree.held().into_iter().filter(|h| h.bytes > 0).map(|h| (h.roots, h.bytes)).collect();
            prop_assert_eq!(held, expected);
        }
    }
}
