//! Who holds the live heap.

use crate::analysis::Analysis;
use crate::holders::Holder;
use crate::report::labels;
use crate::report::{clean, growth};
use crate::units::ByteSize;

const ROWS: usize = 12;

/// A holder, with the way from it.
pub(super) struct HolderRow {
    pub retained: String,
    pub share: String,
    /// Of all that is reached, in percent.
    pub width: f64,
    pub objects: u64,
    pub growth: String,
    pub title: String,
    pub type_name: String,
    pub path: Vec<PathStep>,
    pub also: String,
}

pub(super) struct PathStep {
    pub indent: f64,
    pub what: String,
    pub objects: u64,
    pub own: String,
    pub retained: String,
}

pub(super) fn holders(analysis: &Analysis) -> Vec<HolderRow> {
    let Some(holders) = &analysis.holders else { return Vec::new() };
    let row = |holder: &Holder| HolderRow {
        retained: ByteSize(holder.retained_bytes).to_string(),
        share: crate::report::part(holder.retained_bytes, holders.reached_bytes),
        width: holder.share * 100.0,
        objects: holder.objects,
        growth: holder.growth_bytes.map(growth).unwrap_or_default(),
        title: clean(&holder.title()),
        type_name: holder.type_name.as_deref().map(clean).unwrap_or_default(),
        path: (0u32..)
            .zip(&holder.path)
            .map(|(depth, step)| PathStep {
                indent: f64::from(depth),
                what: clean(&step.what),
                objects: step.objects,
                own: ByteSize(step.own_bytes).to_string(),
                retained: ByteSize(step.retained_bytes).to_string(),
            })
            .collect(),
        also: holder.also.iter().map(|by| clean(by)).collect::<Vec<_>>().join(labels::of(analysis.lang).comma),
    };
    holders.holders.iter().take(ROWS).map(row).collect()
}
