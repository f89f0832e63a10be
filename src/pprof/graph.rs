//! Who called whom: flat and cumulative values by function, and which calls were inlined.

use std::collections::HashMap;

use super::frames::Frames;
use super::profile::{Mapping, Profile};

/// A function, or a binary where the profile has no name for the code.
pub(super) struct Node<'a> {
    pub name: &'a str,
    /// Only where there is no name.
    object: &'a str,
    start_line: i64,
    pub file: &'a str,
    pub flat: i64,
    pub cum: i64,
}

impl Node<'_> {
    /// What is printed, and sorted by.
    pub fn printable(&self) -> String {
        match (self.name, self.object) {
            ("", "") => "<unknown>".to_owned(),
            ("", object) => format!("[{}]", base_name(object)),
            (name, _) => name.to_owned(),
        }
    }

    /// Orders nodes that print alike.
    pub fn details(&self) -> String {
        format!("{} {} {}", self.name, self.start_line, self.object)
    }
}

/// The file of a mapping. Where it is a URL, it only says where the profile came from.
pub(super) fn object_name<'a>(profile: &'a Profile, mapping: &Mapping) -> &'a str {
    let file = profile.str(mapping.file);
    let is_url = file.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    });
    if is_url && profile.str(mapping.build_id).is_empty() { "" } else { file }
}

/// The last component of a path, as Go's `filepath.Base` has it.
pub(super) fn base_name(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// How often a node was called inline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inline {
    Never,
    /// From some callers.
    Partly,
    Always,
}

pub(super) struct Graph<'a> {
    profile: &'a Profile,
    frames: &'a Frames<'a>,
    value: usize,
    pub nodes: Vec<Node<'a>>,
    /// By line of the profile; and by location, for those without lines.
    of_line: Vec<u32>,
    of_location: Vec<u32>,
}

struct Edge {
    weight: i64,
    inline: bool,
    /// The last sample that added to it: a sample counts once per edge.
    sample: usize,
}

impl<'a> Graph<'a> {
    /// Sums up the values with index `value`.
    pub fn new(profile: &'a Profile, frames: &'a Frames<'a>, value: usize) -> Graph<'a> {
        let mut graph = Graph { profile, frames, value, nodes: Vec::new(), of_line: Vec::new(), of_location: Vec::new() };
        graph.add_nodes();
        graph.add_values();
        graph
    }

    fn add_nodes(&mut self) {
        let mut by_name: HashMap<&str, u32> = HashMap::new();
        let mut unnamed: HashMap<(&str, i64), u32> = HashMap::new();
        for location in &self.profile.locations {
            let object =
                location.mapping.and_then(|m| self.profile.mappings.get(m as usize)).map(|m| object_name(self.profile, m)).unwrap_or("");
            let mut node = |name: &'a str, object: &'a str, start_line, file: &'a str| {
                let next = self.nodes.len() as u32;
                let index = match name {
                    "" => unnamed.entry((object, start_line)).or_insert(next),
                    name => by_name.entry(name).or_insert(next),
                };
                if *index == next {
                    self.nodes.push(Node { name, object, start_line, file, flat: 0, cum: 0 });
                }
                *index
            };
            let lines = self.profile.lines(location);
            for line in lines {
                let function = self.profile.functions.get(line.function as usize);
                let file = function.map(|f| self.profile.str(f.file)).unwrap_or("");
                self.of_line.push(match self.frames.name(line.function) {
                    "" => node("", object, function.map(|f| f.start_line).unwrap_or(0), file),
                    name => node(name, "", 0, file),
                });
            }
            self.of_location.push(if lines.is_empty() { node("", object, 0, "") } else { u32::MAX });
        }
    }

    /// Calls `f` for each frame of a stack, the outermost first, with whether it was inlined into the one before.
    fn walk(&self, locations: &[u32], mut f: impl FnMut(u32, bool)) {
        for index in locations.iter().rev() {
            let Some(location) = self.profile.locations.get(*index as usize) else { continue };
            let (first, lines) = self.frames.lines(*index, location);
            if lines.is_empty() {
                f(self.of_location.get(*index as usize).copied().unwrap_or(0), false);
            }
            for i in (0..lines.len()).rev() {
                f(self.of_line.get(first + i).copied().unwrap_or(0), i + 1 != lines.len());
            }
        }
    }

    fn add_values(&mut self) {
        let mut nodes = std::mem::take(&mut self.nodes);
        let mut last_sample = vec![usize::MAX; nodes.len()];
        for (number, sample) in self.profile.samples().enumerate() {
            let value = sample.values.get(self.value).copied().unwrap_or(0);
            if value == 0 {
                continue;
            }
            let mut leaf = None;
            self.walk(self.frames.locations(number, &sample), |node, _| {
                if let (Some(node), Some(last)) = (nodes.get_mut(node as usize), last_sample.get_mut(node as usize))
                    && *last != number
                {
                    *last = number;
                    node.cum = node.cum.wrapping_add(value);
                }
                leaf = Some(node);
            });
            if let Some(leaf) = leaf.and_then(|leaf| nodes.get_mut(leaf as usize)) {
                leaf.flat = leaf.flat.wrapping_add(value);
            }
        }
        self.nodes = nodes;
    }

    /// For each node, how it is called from the nodes in `kept`; calls that weigh less than `cutoff` do not count, and those over
    /// nodes that are not kept count as direct.
    pub fn inlining(&self, kept: &[bool], cutoff: i64) -> Vec<Inline> {
        let mut edges: HashMap<(u32, u32), Edge> = HashMap::new();
        for (number, sample) in self.profile.samples().enumerate() {
            let value = sample.values.get(self.value).copied().unwrap_or(0);
            if value == 0 {
                continue;
            }
            let mut caller = None;
            self.walk(self.frames.locations(number, &sample), |node, inline| {
                if kept.get(node as usize) != Some(&true) {
                    return;
                }
                if let Some(caller) = caller
                    && caller != node
                {
                    let edge = edges.entry((caller, node)).or_insert(Edge { weight: 0, inline: true, sample: usize::MAX });
                    if edge.sample != number {
                        edge.sample = number;
                        edge.weight = edge.weight.wrapping_add(value);
                        edge.inline &= inline;
                    }
                }
                caller = Some(node);
            });
        }
        let mut calls = vec![(false, false); self.nodes.len()];
        for ((_, callee), edge) in &edges {
            if let Some((inline, direct)) = calls.get_mut(*callee as usize)
                && edge.weight.wrapping_abs() >= cutoff
            {
                *(if edge.inline { inline } else { direct }) = true;
            }
        }
        calls
            .into_iter()
            .map(|calls| match calls {
                (false, _) => Inline::Never,
                (true, true) => Inline::Partly,
                (true, false) => Inline::Always,
            })
            .collect()
    }
}
