//! What would be freed without a root, or without an object: reachability and dominators of an object graph.
//!
//! Pure. The tree is made by semi-NCA (Georgiadis, Tarjan, Werneck: "Finding Dominators in
//! Practice", 2006) over a depth-first numbering. About 35 bytes for each slot at its peak, with an average of 1.2 edges.
//!
//! Roots have a class. What a root reaches of an earlier class's objects does not count: so a goroutine that looks at a cache at this
//! moment does not share it with the variable that keeps it. Such looks are kept, to be told.

use std::collections::HashMap;

use super::graph::{Graph, Incoming, Search, get, set};
use super::owners::{Held, Owners, TOP, tops};

/// Edges into what an earlier class reaches, that are kept.
const MAX_LOOKS: usize = 1 << 20;

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
        let is_look = |from, to| self.classes.len() > 1 && self.class(from) > self.class(to);
        let mut looks = Vec::new();
        self.edges(|from, to| {
            if looks.len() < MAX_LOOKS && is_look(from, to) {
                looks.push((from, to));
            }
        });
        let preds = Incoming::new(count, |visit| {
            self.edges(|from, to| {
                if !is_look(from, to) {
                    visit(from, to);
                }
            });
        });
        let Walk { graph, number, vertex, parent, roots, .. } = self;
        let slots = graph.slots();
        drop((graph, number));
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
        let mut owners = Owners::new(&dominator, &preds, &roots, |at| get(&vertex, at) >= slots);
        owners.tell_more(&dominator, &preds, &roots, &retained);
        Tree { slots, vertex, dominator, retained, objects, owners, looks }
    }
}

/// The dominator of each vertex; `parent` is that of the depth-first tree.
fn semi_nca(preds: &Incoming, parent: Vec<u32>) -> Vec<u32> {
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

impl Tree {
    /// All that is reached, by who holds it: the most bytes first.
    pub fn held(&self) -> Vec<Held> {
        let mut held: HashMap<u32, Held> = HashMap::new();
        for at in 1..self.vertex.len() as u32 {
            if get(&self.dominator, at) != TOP {
                continue;
            }
            let of = held.entry(self.owners.of(at)).or_default();
            of.bytes += self.retained(at);
            of.objects += u64::from(get(&self.objects, at));
            of.heads.push(at);
        }
        Held::by_bytes(held, |set| (self.owners.roots(set).to_vec(), self.owners.has_others(set)))
    }

    /// Roots of later classes that look at what these heads hold, with how many bytes they look at.
    pub fn looks(&self) -> HashMap<(u32, u32), u64> {
        let top = tops(&self.dominator);
        let mut looks = HashMap::new();
        for (from, to) in &self.looks {
            let set_of = |vertex: &u32| self.owners.of(get(&top, *vertex));
            for root in self.owners.roots(set_of(from)) {
                *looks.entry((set_of(to), *root)).or_default() += self.retained(*to);
            }
        }
        looks
    }

    /// The set that [`Tree::looks`] names.
    pub fn roots_of_set(&self, set: u32) -> &[u32] {
        self.owners.roots(set)
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

    /// All that is reached, in bytes and objects.
    pub fn reached(&self) -> (u64, u64) {
        (self.retained(TOP), get(&self.objects, TOP).into())
    }

    /// The children of each vertex.
    pub fn children(&self) -> Children {
        let upwards = |visit: &mut dyn FnMut(u32, u32)| (0u32..).zip(&self.dominator).skip(1).for_each(|(at, up)| visit(at, *up));
        Children(Incoming::new(self.dominator.len(), upwards))
    }
}

/// The dominator tree downwards.
pub struct Children(Incoming);

impl Children {
    pub fn of(&self, vertex: u32) -> &[u32] {
        self.0.of(vertex)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

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
        let mut walk = Walk::new(Graph::of(&edges));
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
        let mut walk = Walk::new(Graph::of(&edges));
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
        let mut walk = Walk::new(Graph::of(&edges));
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
            let mut walk = Walk::new(Graph::of(&edges));
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
