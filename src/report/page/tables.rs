//! Functions by what they allocated.

use super::flame::short;
use crate::analysis::Analysis;
use crate::report::{clean, size};
use crate::verdict::{Cause, TopLine};

const ROWS: usize = 12;
const LEAD_ROWS: usize = 5;

pub(super) struct Table {
    pub title: &'static str,
    pub note: &'static str,
    pub rows: Vec<Row>,
}

pub(super) struct Row {
    pub flat: String,
    pub cum: String,
    /// Of the largest flat value, for the bar behind the number.
    pub share: f64,
    pub function: String,
    /// Without the path of its package.
    pub short: String,
}

pub(super) fn tables(analysis: &Analysis) -> Vec<Table> {
    let top = &analysis.verdict.top;
    let plans: [(&[TopLine], bool); 6] = [
        (&top.growth, true),
        (&top.inuse_space, true),
        (&top.inuse_objects, false),
        (&analysis.grown_during, true),
        (&top.alloc_space, true),
        (&top.alloc_objects, false),
    ];
    let words = analysis.lang.pick(
        [
            ("Grown since the baseline", "inuse_space now, less that of the healthy process"),
            ("Live bytes", "inuse_space, after the forced collection"),
            ("Live objects", "inuse_objects, after the forced collection"),
            ("Grown during the capture", "inuse_space between two forced collections"),
            ("Allocated bytes", "alloc_space, since the process started"),
            ("Allocated objects", "alloc_objects, since the process started"),
        ],
        [
            ("相对 baseline 的增长", "现在的 inuse_space 减去健康时的"),
            ("存活字节", "inuse_space，强制 GC 之后"),
            ("存活对象", "inuse_objects，强制 GC 之后"),
            ("采集期间的增长", "两次强制 GC 之间的 inuse_space"),
            ("分配字节", "alloc_space，进程启动以来"),
            ("分配对象", "alloc_objects，进程启动以来"),
        ],
    );
    plans
        .into_iter()
        .zip(words)
        .filter(|((lines, _), _)| !lines.is_empty())
        .map(|((lines, bytes), (title, note))| Table { title, note, rows: rows(lines, bytes, ROWS) })
        .collect()
}

fn rows(lines: &[TopLine], bytes: bool, count: usize) -> Vec<Row> {
    let number = |n: i64| if bytes { size(n) } else { n.to_string() };
    let largest = lines.iter().map(|l| l.flat).max().unwrap_or(1).max(1);
    let row = |l: &TopLine| {
        let function = clean(&l.function);
        let share = l.flat.max(0) as f64 / largest as f64 * 100.0;
        Row { flat: number(l.flat), cum: number(l.cum), share, short: short(&function).to_owned(), function }
    };
    lines.iter().take(count).map(row).collect()
}

/// The functions that the cause is about.
pub(super) fn lead(analysis: &Analysis) -> Option<Table> {
    let (top, lang) = (&analysis.verdict.top, analysis.lang);
    let grown =
        (lang.pick("What grew", "增长的是什么"), lang.pick("live bytes since the baseline", "相对 baseline 的存活字节"), &top.growth, true);
    let live = (
        lang.pick("What holds it", "谁占着"),
        lang.pick("live bytes by the allocating function", "存活字节，按分配的函数"),
        &top.inuse_space,
        true,
    );
    let objects = (
        lang.pick("What holds it", "谁占着"),
        lang.pick("live objects by the allocating function", "存活对象，按分配的函数"),
        &top.inuse_objects,
        false,
    );
    let allocated = (
        lang.pick("What allocates", "谁在分配"),
        lang.pick("bytes allocated since the process started", "进程启动以来分配的字节"),
        &top.alloc_space,
        true,
    );
    let (title, note, lines, bytes) = match analysis.verdict.cause {
        Cause::LiveHeap | Cause::Mixed if !top.growth.is_empty() => grown,
        Cause::LiveHeap | Cause::Mixed => live,
        Cause::SmallObjects => objects,
        Cause::AllocationChurn | Cause::UnreleasedHeap => allocated,
        _ => return None,
    };
    // of itself: what only calls others holds nothing
    let own: Vec<TopLine> = lines.iter().filter(|line| line.flat != 0).take(LEAD_ROWS).cloned().collect();
    (!own.is_empty()).then(|| Table { title, note, rows: rows(&own, bytes, LEAD_ROWS) })
}
