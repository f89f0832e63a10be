//! Which roots reach what several of them reach: sets of roots, and what is held by the same.

use std::collections::{HashMap, HashSet, VecDeque};

use super::graph::{Incoming, get, set};

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
/// Above every root.
pub(super) const TOP: u32 = 0;

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

impl Held {
    /// The most bytes first. `roots` gives those of a set, and whether there are others.
    pub(super) fn by_bytes(of_sets: HashMap<u32, Held>, roots: impl Fn(u32) -> (Vec<u32>, bool)) -> Vec<Held> {
        let named = |(set, held): (u32, Held)| {
            let (roots, has_others) = roots(set);
            Held { roots, has_others, ..held }
        };
        let mut held: Vec<Held> = of_sets.into_iter().map(named).collect();
        held.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.roots.cmp(&b.roots)));
        held
    }
}

/// For each vertex the highest below the top that dominates it.
pub(super) fn tops(dominator: &[u32]) -> Vec<u32> {
    let mut top: Vec<u32> = (0..dominator.len() as u32).collect();
    for at in 1..top.len() as u32 {
        let up = get(dominator, at);
        if up != TOP {
            let of_up = get(&top, up);
            set(&mut top, at, of_up);
        }
    }
    top
}

/// Which roots reach the first objects that several of them reach.
#[derive(Debug)]
pub(super) struct Owners {
    /// By vertex, for those that only the top dominates.
    of_head: Vec<u32>,
    sets: Sets,
    /// Sets from here on are the nearest of more.
    first_of_more: u32,
}

/// The set of no root: what is not known yet.
pub(super) const NOBODY: u32 = 0;
/// The set of more than can be told.
pub(super) const MANY: u32 = 1;

impl Owners {
    /// `roots` are the roots' vertices; `is_root` tells one from an object.
    pub fn new(dominator: &[u32], preds: &Incoming, roots: &[u32], is_root: impl Fn(u32) -> bool) -> Owners {
        let top = tops(dominator);
        let mut sets = Sets::default();
        let mut of_head = vec![NOBODY; dominator.len()];
        for (index, root) in (0u32..).zip(roots) {
            let only = sets.intern(vec![index]);
            set(&mut of_head, *root, only);
        }
        for _ in 0..MAX_ROUNDS {
            let mut is_done = true;
            for at in 1..dominator.len() as u32 {
                if get(dominator, at) != TOP || is_root(at) {
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
        Owners { of_head, first_of_more: sets.sets.len() as u32, sets }
    }

    /// The set of a vertex that only the top dominates.
    pub fn of(&self, head: u32) -> u32 {
        get(&self.of_head, head)
    }

    pub fn roots(&self, set: u32) -> &[u32] {
        self.sets.roots(set)
    }

    /// The set is that of the nearest of more.
    pub fn has_others(&self, set: u32) -> bool {
        set >= self.first_of_more
    }

    /// What more roots share than are told apart is told by the nearest of them: the largest of it.
    pub fn tell_more(&mut self, dominator: &[u32], preds: &Incoming, roots: &[u32], retained: &[u64]) {
        let is_shared = |at: &u32| get(dominator, *at) == TOP && get(&self.of_head, *at) == MANY;
        let mut heads: Vec<u32> = (1..dominator.len() as u32).filter(is_shared).collect();
        heads.sort_by_key(|at| std::cmp::Reverse(retained.get(*at as usize).copied().unwrap_or(0)));
        let of_vertex: HashMap<u32, u32> = roots.iter().copied().zip(0..).collect();
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        for head in heads.into_iter().take(MAX_NEAREST) {
            let mut nearest = nearest_roots(head, preds, &of_vertex);
            nearest.sort_unstable();
            let set_of = *known.entry(nearest.clone()).or_insert_with(|| {
                self.sets.sets.push(nearest);
                self.sets.sets.len() as u32 - 1
            });
            set(&mut self.of_head, head, set_of);
        }
    }
}

/// The first roots on the way back from a vertex, breadth first.
fn nearest_roots(vertex: u32, preds: &Incoming, roots: &HashMap<u32, u32>) -> Vec<u32> {
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
