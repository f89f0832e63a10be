//! Where the memory is: bars and tables of RSS and of the cgroup.

use crate::anatomy::{Bucket, Cgroup};
use crate::lang::Lang;
use crate::report::guide;
use crate::report::labels;
use crate::report::{clean, growth, percent, size, where_it_is_charged};
use crate::units::ByteSize;
use crate::verdict::Verdict;

/// A stacked bar; widths in percent of the widest.
pub(super) struct Bar {
    pub label: &'static str,
    pub size: String,
    pub width: f64,
    pub parts: Vec<Part>,
}

pub(super) struct Part {
    pub class: &'static str,
    pub flex: f64,
    pub title: String,
}

pub(super) struct BucketRow {
    pub class: &'static str,
    pub words: &'static str,
    pub size: String,
    pub share: String,
    pub baseline: String,
    pub growth: String,
    pub is_nothing: bool,
}

/// What a cgroup's usage is made of.
pub(super) struct ChargedTable {
    pub title: String,
    pub rows: Vec<ChargedRow>,
    /// Other processes, which one of the rows sums up.
    pub processes: Vec<ChargedRow>,
}

pub(super) struct ChargedRow {
    pub words: String,
    pub size: String,
    pub share: String,
}

pub(super) fn bars(v: &Verdict, lang: Lang) -> Vec<Bar> {
    let t = labels::of(lang);
    let now = v.anatomy.iter().map(|l| (l.bucket, l.bytes)).collect::<Vec<_>>();
    let then: Option<Vec<_>> = v.anatomy.iter().map(|l| Some((l.bucket, l.baseline_bytes?))).collect();
    let whole = v.whole_bytes().max(v.baseline_rss_bytes.unwrap_or(0)).max(1) as f64;
    let bar = |label, bytes: u64, parts: Vec<(Bucket, i64)>| Bar {
        label,
        size: ByteSize(bytes).to_string(),
        width: bytes as f64 / whole * 100.0,
        parts: parts
            .into_iter()
            .filter(|(_, part)| *part > 0)
            .map(|(bucket, part)| Part {
                class: bucket.name(),
                flex: part as f64 / bytes.max(1) as f64 * 1000.0,
                title: format!(
                    "{}: {} ({})",
                    guide::bucket(bucket, lang),
                    size(part),
                    percent(part, i64::try_from(bytes).unwrap_or(i64::MAX))
                ),
            })
            .collect(),
    };
    let mut bars = vec![bar(t.now, v.whole_bytes(), now)];
    bars.extend(v.baseline_rss_bytes.zip(then).map(|(bytes, parts)| bar(t.baseline, bytes, parts)));
    bars
}

pub(super) fn buckets(v: &Verdict, lang: Lang) -> Vec<BucketRow> {
    let whole = i64::try_from(v.whole_bytes()).unwrap_or(i64::MAX);
    v.anatomy
        .iter()
        .map(|line| BucketRow {
            class: line.bucket.name(),
            words: guide::bucket(line.bucket, lang),
            size: if line.is_unseen() { labels::of(lang).unknown.into() } else { size(line.bytes) },
            share: if line.is_unseen() { String::new() } else { percent(line.bytes, whole) },
            baseline: line.baseline_bytes.map(size).unwrap_or_default(),
            growth: line.growth_bytes.map(growth).unwrap_or_default(),
            is_nothing: line.bytes == 0 && line.baseline_bytes.unwrap_or(0) == 0 && !line.unknown,
        })
        .collect()
}

pub(super) fn charged(cgroup: &Cgroup, lang: Lang) -> ChargedTable {
    let whole = i64::try_from(cgroup.usage_bytes).unwrap_or(i64::MAX);
    let of = |words: String, bytes: i64| ChargedRow { words, size: size(bytes), share: percent(bytes, whole) };
    ChargedTable {
        title: where_it_is_charged(cgroup, lang),
        rows: cgroup.parts.iter().map(|line| of(guide::charged(line.part, lang).to_owned(), line.bytes)).collect(),
        processes: cgroup
            .processes
            .iter()
            .map(|member| of(format!("{} (pid {})", clean(&member.name), member.pid), i64::try_from(member.bytes).unwrap_or(i64::MAX)))
            .collect(),
    }
}
