//! Who holds what is live, in sentences.

use super::super::facts::Facts;
use super::super::weigh::Weighed;
use super::super::{Cause, DOMINATES};
use super::evidence::count;
use super::{bytes, line, name, percent, size};
use crate::holders::{Holder, Holders};
use crate::lang::{Lang, say};

/// A holder of less is not named.
const LEAST: f64 = 0.1;
/// Holders that get a sentence.
const TOLD: usize = 3;
/// Less is not worth one.
const WORTH: u64 = 4 << 20;

/// The one that has most of what is to be explained: of the growth, where that is known and decides, else of all that is reached.
fn suspect<'h>(holders: &'h Holders, weighed: &Weighed) -> Option<&'h Holder> {
    let named = |holder: &&Holder| holder.kind != "runtime" && holder.share >= LEAST && holder.retained_bytes >= WORTH;
    let grown = |holder: &Holder| holder.growth_bytes.filter(|_| weighed.growth).map(|grown| grown.max(0).unsigned_abs());
    if holders.holders.iter().any(|holder| grown(holder).is_some()) {
        let all: u64 = holders.holders.iter().filter_map(grown).sum();
        let most = holders.holders.iter().filter(named).max_by_key(|holder| grown(holder))?;
        return grown(most).filter(|grown| *grown as f64 >= all as f64 * DOMINATES && *grown > 0).map(|_| most);
    }
    holders.holders.iter().find(named).filter(|holder| holder.share >= DOMINATES)
}

/// A clause of the summary: of a heap whose live objects are the cause.
pub(super) fn clause(facts: &Facts, weighed: &Weighed, cause: Cause, lang: Lang) -> String {
    let of_live = matches!(cause, Cause::LiveHeap | Cause::SmallObjects);
    let Some(holder) = facts.holders.as_ref().filter(|_| of_live).and_then(|holders| suspect(holders, weighed)) else {
        return String::new();
    };
    let (held, objects, title) = (bytes(holder.retained_bytes), count(holder.objects, lang), name(&holder.title()));
    if let Some(grown) = holder.growth_bytes.filter(|_| weighed.growth) {
        let grown = size(grown);
        return say!(lang;
            "; {title} holds {held} in {objects} objects, {grown} more than at the baseline";
            "；{title} 持有 {held}，共 {objects} 个对象，比 baseline 时多 {grown}"
        );
    }
    let share = percent(holder.share);
    say!(lang;
        "; {title} holds {held} in {objects} objects, {share} of all that is reachable";
        "；{title} 持有 {held}，共 {objects} 个对象，占全部可达对象的 {share}"
    )
}

/// A sentence for each of the largest.
pub(super) fn sentences(said: &mut Vec<String>, facts: &Facts, lang: Lang) {
    let Some(holders) = &facts.holders else { return };
    let worth = |holder: &&Holder| holder.share >= LEAST && holder.retained_bytes >= WORTH;
    for holder in holders.holders.iter().filter(worth).take(TOLD) {
        let (held, objects, title) = (bytes(holder.retained_bytes), count(holder.objects, lang), name(&holder.title()));
        let share = percent(holder.share);
        let grown = match holder.growth_bytes {
            Some(grown) => {
                let grown = if grown > 0 { format!("+{}", size(grown)) } else { size(grown) };
                say!(lang; ", {grown} since the baseline"; "，相对 baseline {grown}")
            }
            None => String::new(),
        };
        let path = match holder.path.is_empty() {
            true => String::new(),
            false => say!(lang; ": {}"; "：{}", line(&holder.path_text())),
        };
        said.push(say!(lang;
            "Without {title}, {held} ({share} of what is reachable) in {objects} objects would be free{grown}{path}.";
            "没有 {title}，就会释放 {held}（占可达对象的 {share}），共 {objects} 个对象{grown}{path}。"
        ));
    }
}
