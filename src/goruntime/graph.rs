//! A graph of objects, and who searches it. Pure: objects are *slots*, numbered from 0.

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
        part(&self.first, &self.edges, slot)
    }
}

#[cfg(test)]
impl Graph {
    /// The graph in which each slot has these edges.
    pub fn of(edges: &[Vec<u32>]) -> Graph {
        let mut graph = Graph::new(edges.len() as u32);
        for of in edges {
            of.iter().for_each(|to| graph.edge(*to));
            graph.end_slot();
        }
        graph
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

/// Edges by the vertex that they lead to.
pub(super) struct Incoming {
    first: Vec<u32>,
    all: Vec<u32>,
}

impl Incoming {
    /// `edges` calls what it is given with each edge, from and to, between `count` vertices; it is called twice.
    pub fn new(count: usize, edges: impl Fn(&mut dyn FnMut(u32, u32))) -> Incoming {
        let mut first = vec![0u32; count + 1];
        edges(&mut |_, to| first.get_mut(to as usize).into_iter().for_each(|n| *n += 1));
        let mut sum = 0;
        for place in &mut first {
            sum += *place;
            *place = sum;
        }
        let mut all = vec![0u32; sum as usize];
        // each place counts down to where its vertex's begin
        edges(&mut |from, to| {
            if let Some(place) = first.get_mut(to as usize) {
                *place -= 1;
                set(&mut all, *place, from);
            }
        });
        Incoming { first, all }
    }

    pub fn of(&self, vertex: u32) -> &[u32] {
        part(&self.first, &self.all, vertex)
    }
}

fn part<'a>(first: &[u32], all: &'a [u32], at: u32) -> &'a [u32] {
    let place = |at: usize| first.get(at).map_or(0, |n| *n as usize);
    all.get(place(at as usize)..place(at as usize + 1)).unwrap_or_default()
}

pub(super) fn get(of: &[u32], at: u32) -> u32 {
    of.get(at as usize).copied().unwrap_or(0)
}

pub(super) fn set(of: &mut [u32], at: u32, value: u32) {
    of.get_mut(at as usize).into_iter().for_each(|place| *place = value);
}
