//! What only certain roots reach: the smaller answer, for a graph whose dominators would take too much.
//!
//! Pure. For each object the set of the roots that reach it, so that what would be freed without a root, or without several together, is
//! known; the way from there to the bytes is not. Four bytes for each slot beside the graph.

use std::collections::HashMap;

use super::graph::{Graph, Search};
use super::owners::{Held, MANY, NOBODY, Sets};

#[derive(Debug)]
pub struct Reach {
    graph: Graph,
    /// By slot: which set of roots reaches it.
    labels: Vec<u32>,
    sets: Sets,
    roots: u32,
    /// The set of this class's roots that are more than can be told, and the first of its sets: those before are of earlier classes.
    many: u32,
}

impl Reach {
    pub fn new(graph: Graph) -> Reach {
        let labels = vec![NOBODY; graph.slots() as usize];
        let mut sets = Sets::default();
        let many = sets.another_many();
        Reach { graph, labels, sets, roots: 0, many }
    }

    fn label(&self, slot: u32) -> u32 {
        self.labels.get(slot as usize).copied().unwrap_or(NOBODY)
    }

    /// Adds a root to those that reach a slot. False if that changes nothing.
    fn mark(&mut self, slot: u32, own: u32) -> bool {
        let old = self.label(slot);
        if old == self.many || old != NOBODY && old < self.many {
            return false;
        }
        let new = match self.sets.union(old, own) {
            MANY => self.many,
            new => new,
        };
        self.labels.get_mut(slot as usize).into_iter().for_each(|label| *label = new);
        new != old
    }

    /// All that is reached, by who holds it: the most bytes first. `size_of` a slot's object in bytes.
    pub fn held(&self, size_of: impl Fn(u32) -> u64) -> Vec<Held> {
        let mut held: HashMap<u32, Held> = HashMap::new();
        for (slot, label) in (0u32..).zip(&self.labels).filter(|(_, label)| **label != NOBODY) {
            let of = held.entry(*label).or_default();
            of.bytes += size_of(slot);
            of.objects += 1;
        }
        Held::by_bytes(held, |set| (self.sets.roots(set).to_vec(), false))
    }
}

impl Search for Reach {
    fn root(&mut self, targets: Vec<u32>) {
        let own = match self.sets.intern(vec![self.roots]) {
            MANY => self.many,
            own => own,
        };
        self.roots += 1;
        let mut work: Vec<u32> = targets.into_iter().filter(|slot| self.mark(*slot, own)).collect();
        while let Some(slot) = work.pop() {
            for at in 0..self.graph.from(slot).len() {
                let Some(to) = self.graph.from(slot).get(at).copied() else { break };
                if self.mark(to, own) {
                    work.push(to);
                }
            }
        }
    }

    fn next_class(&mut self) {
        self.many = self.sets.another_many();
    }

    fn is_reached(&self, slot: u32) -> bool {
        self.label(slot) != NOBODY
    }
}

#[cfg(test)]
mod tests {
    use super::super::dominators::Walk;
    use super::*;
    use proptest::prelude::*;

    fn size(slot: u32) -> u64 {
        16 + u64::from(slot)
    }

    fn search<S: Search>(mut search: S, roots: &[Vec<u32>], classes: &[usize]) -> S {
        for (at, root) in roots.iter().enumerate() {
            if classes.contains(&at) {
                search.next_class();
            }
            search.root(root.clone());
        }
        search
    }

    proptest! {
        #[test]
        fn the_smaller_answer_is_the_same_as_far_as_it_goes(
            edges in prop::collection::vec(prop::collection::vec(0u32..24, 0..4), 24),
            roots in prop::collection::vec(prop::collection::vec(0u32..24, 0..3), 1..5),
            classes in prop::collection::vec(0usize..5, 0..2),
        ) {
            let told = |held: Vec<Held>| -> HashMap<Vec<u32>, (u64, u64)> {
                held.into_iter().filter(|h| h.bytes > 0).map(|h| (h.roots, (h.bytes, h.objects))).collect()
            };
            let small = search(Reach::new(Graph::of(&edges)), &roots, &classes).held(size);
            let full = search(Walk::new(Graph::of(&edges)), &roots, &classes).finish(size).held();
            prop_assert_eq!(told(small), told(full));
        }
    }
}
