//! The call tree of a profile, cut to what a picture can show.
//!
//! Not here: how it is drawn.

use std::collections::HashMap;

use super::frames::Frames;
use super::graph::object_name;
use super::profile::Profile;

/// Bounds on a tree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Frames with less than this share of the whole are left out.
    pub least_share: f64,
    /// Deeper frames are left out.
    pub depth: usize,
    /// If there would be more frames than this, the lightest are left out.
    pub frames: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { least_share: 0.002, depth: 80, frames: 1500 }
    }
}

/// A function called in one way.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub function: String,
    /// 0: called by nothing.
    pub depth: usize,
    /// Where it begins, in the unit of the sample type: siblings lie beside each other, above their caller.
    pub start: i64,
    /// Its own value with that of everything it called.
    pub cum: i64,
    pub flat: i64,
}

/// Frames of one sample type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flame {
    pub sample_type: String,
    pub unit: String,
    /// The sum of all samples.
    pub total: i64,
    /// Callers before callees; among siblings, the heaviest first.
    pub frames: Vec<Frame>,
}

/// A frame of the tree while it grows.
#[derive(Default)]
struct Node<'a> {
    function: &'a str,
    depth: usize,
    flat: i64,
    cum: i64,
    children: Vec<usize>,
}

/// The tree by one sample type; `None` if the profile does not have it, or all of its values are nothing. Samples with negative values
/// (differences) are left out.
pub fn flame(profile: &Profile, sample_type: &str, bounds: &Bounds) -> Option<Flame> {
    let index = profile.sample_type_names().position(|n| n == sample_type)?;
    let unit = profile.sample_types.get(index).map(|t| profile.str(t.unit).to_owned()).unwrap_or_default();
    let frames = Frames::new(profile);
    let mut nodes = vec![Node::default()];
    let mut known: HashMap<(usize, &str), usize> = HashMap::new();
    let mut stack = Vec::new();
    for (number, sample) in profile.samples().enumerate() {
        let value = sample.values.get(index).copied().unwrap_or(0);
        if value <= 0 {
            continue;
        }
        stack.clear();
        for location in frames.locations(number, &sample) {
            let Some(found) = profile.locations.get(*location as usize) else { continue };
            let (_, lines) = frames.lines(*location, found);
            if lines.is_empty() {
                let mapping = found.mapping.and_then(|m| profile.mappings.get(m as usize));
                stack.push(mapping.map(|m| object_name(profile, m)).filter(|name| !name.is_empty()).unwrap_or("<unknown>"));
            }
            stack.extend(lines.iter().map(|line| frames.name(line.function)));
        }
        let mut at = 0;
        grow(&mut nodes, at, value);
        for function in stack.iter().rev().take(bounds.depth) {
            let next = nodes.len();
            at = *known.entry((at, function)).or_insert_with(|| {
                let depth = nodes.get(at).map_or(0, |caller| caller.depth) + 1;
                if let Some(caller) = nodes.get_mut(at) {
                    caller.children.push(next);
                }
                nodes.push(Node { function, depth, ..Node::default() });
                next
            });
            grow(&mut nodes, at, value);
        }
        if let Some(last) = nodes.get_mut(at) {
            last.flat = last.flat.saturating_add(value);
        }
    }
    let total = nodes.first().map(|root| root.cum).filter(|total| *total > 0)?;
    let least = least(&nodes, total, bounds);
    Some(Flame { sample_type: sample_type.to_owned(), unit, total, frames: lay_out(&nodes, least) })
}

fn grow(nodes: &mut [Node<'_>], at: usize, value: i64) {
    if let Some(node) = nodes.get_mut(at) {
        node.cum = node.cum.saturating_add(value);
    }
}

/// What a frame must have to be shown.
fn least(nodes: &[Node<'_>], total: i64, bounds: &Bounds) -> i64 {
    let mut heaviest: Vec<i64> = nodes.iter().skip(1).map(|n| n.cum).collect();
    heaviest.sort_unstable_by_key(|cum| std::cmp::Reverse(*cum));
    // of equals, none rather than some
    let too_many = heaviest.get(bounds.frames).map_or(0, |cum| cum.saturating_add(1));
    ((total as f64 * bounds.least_share) as i64).max(too_many).max(1)
}

fn lay_out(nodes: &[Node<'_>], least: i64) -> Vec<Frame> {
    let mut frames = Vec::new();
    // what is left to place, the next at the end
    let mut todo = vec![(0usize, 0i64)];
    while let Some((at, start)) = todo.pop() {
        let Some(node) = nodes.get(at) else { continue };
        if let Some(depth) = node.depth.checked_sub(1) {
            frames.push(Frame { function: node.function.to_owned(), depth, start, cum: node.cum, flat: node.flat });
        }
        let mut callees: Vec<(usize, &Node<'_>)> = node.children.iter().filter_map(|c| Some((*c, nodes.get(*c)?))).collect();
        callees.retain(|(_, callee)| callee.cum >= least);
        callees.sort_by(|(_, a), (_, b)| b.cum.cmp(&a.cum).then_with(|| a.function.cmp(b.function)));
        let mut begin = start;
        let mut placed: Vec<(usize, i64)> = Vec::with_capacity(callees.len());
        for (callee, node) in callees {
            placed.push((callee, begin));
            begin = begin.saturating_add(node.cum);
        }
        todo.extend(placed.into_iter().rev());
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pprof::Limits;
    use crate::pprof::testing::{Pb, profile};

    fn parse(profile: Pb) -> Profile {
        Profile::parse(&profile.0, &Limits::default()).unwrap()
    }

    fn shown(flame: &Flame) -> Vec<(&str, usize, i64, i64, i64)> {
        flame.frames.iter().map(|f| (f.function.as_str(), f.depth, f.start, f.cum, f.flat)).collect()
    }

    #[test]
    fn callees_lie_beside_each_other_above_their_caller() {
        let stacks: [(&[&str], &[i64]); 4] =
            [(&["leaf", "a", "main"], &[60]), (&["a", "main"], &[10]), (&["b", "main"], &[80]), (&["inlined<c", "other"], &[50])];
        let flame = flame(&parse(profile(&[("inuse_space", "bytes")], &stacks)), "inuse_space", &Bounds::default()).unwrap();
        assert_eq!(flame.total, 200);
        let expected = [
            ("main", 0, 0, 150, 0),
            ("b", 1, 0, 80, 80),
            ("a", 1, 80, 70, 10),
            ("leaf", 2, 80, 60, 60),
            ("other", 0, 150, 50, 0),
            ("c", 1, 150, 50, 0),
            ("inlined", 2, 150, 50, 50),
        ];
        assert_eq!(shown(&flame), expected);
    }

    #[test]
    fn what_is_too_light_too_deep_or_too_much_is_left_out() {
        let stacks: [(&[&str], &[i64]); 3] = [(&["d", "c", "b", "a"], &[900]), (&["e", "a"], &[99]), (&["f", "a"], &[1])];
        let profile = parse(profile(&[("inuse_space", "bytes")], &stacks));
        let names =
            |bounds| -> Vec<String> { flame(&profile, "inuse_space", &bounds).unwrap().frames.into_iter().map(|f| f.function).collect() };
        assert_eq!(names(Bounds { least_share: 0.01, ..Bounds::default() }), ["a", "b", "c", "d", "e"]);
        assert_eq!(names(Bounds { depth: 2, ..Bounds::default() }), ["a", "b", "e"]);
        assert_eq!(names(Bounds { frames: 1, ..Bounds::default() }), ["a"]);
    }

    #[test]
    fn a_profile_without_the_sample_type_or_without_values_has_no_tree() {
        let stacks: [(&[&str], &[i64]); 2] = [(&["a"], &[0]), (&["b"], &[-5])];
        let profile = parse(profile(&[("inuse_space", "bytes")], &stacks));
        assert_eq!(flame(&profile, "alloc_space", &Bounds::default()), None);
        assert_eq!(flame(&profile, "inuse_space", &Bounds::default()), None);
    }

    #[test]
    fn a_stack_of_a_hundred_thousand_frames_is_cut_and_costs_no_recursion() {
        let frames = vec!["f"; 100_000];
        let flame = flame(&parse(profile(&[("inuse_space", "bytes")], &[(&frames, &[7])])), "inuse_space", &Bounds::default()).unwrap();
        assert_eq!(flame.frames.len(), 80);
        assert_eq!(flame.frames.last().map(|f| (f.depth, f.cum, f.flat)), Some((79, 7, 7)));
    }
}
