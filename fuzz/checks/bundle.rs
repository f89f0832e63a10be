use std::fs;
use std::path::Path;

use memtrap::analysis;
use memtrap::lang::Lang;

/// The files of a bundle that are read, as the first byte of the input counts them.
const FILES: [&str; 17] = [
    "heap_gc.pb.gz",
    "heap.pb.gz",
    "heap_gc_after.pb.gz",
    "allocs.pb.gz",
    "goroutine.pb.gz",
    "goroutineleak.pb.gz",
    "goroutine.txt",
    "memstats.txt",
    "memstats_gc.txt",
    "proc/status",
    "proc/smaps",
    "proc/process.json",
    "manifest.json",
    "timeline.csv",
    "end.json",
    "baseline/heap.pb.gz",
    "holders.json",
];

/// The file that the first byte names, whatever it holds, with a small healthy bundle around it: there is a verdict that adds up,
/// or an error.
pub fn bundle(data: &[u8]) {
    let Some((which, content)) = data.split_first() else { return };
    let name = FILES[usize::from(*which) % FILES.len()];
    let dir = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() }).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
    fs::create_dir(dir.path().join("proc")).unwrap();
    fs::create_dir(dir.path().join("baseline")).unwrap();
    let heap: &[u8] = include_bytes!("../../tests/data/pprof/go1.27/heap_before.pb.gz");
    let healthy: [(&str, &[u8]); 8] = [
        ("heap_gc.pb.gz", heap),
        ("heap.pb.gz", heap),
        ("baseline/heap.pb.gz", heap),
        ("goroutine.pb.gz", include_bytes!("../../tests/data/pprof/go1.27/goroutine.pb.gz")),
        ("memstats.txt", include_bytes!("../../tests/data/anatomy/1.27.3/static/memstats.txt")),
        ("memstats_gc.txt", include_bytes!("../../tests/data/anatomy/1.27.3/static/memstats_gc.txt")),
        ("proc/status", include_bytes!("../../tests/data/anatomy/1.27.3/static/status")),
        ("proc/smaps", include_bytes!("../../tests/data/anatomy/1.27.3/static/smaps")),
    ];
    healthy.iter().for_each(|(name, content)| write(name, content));
    write(name, content);
    let Ok(analysis) = analysis::of_directory(dir.path(), Path::new("/bundle"), None, None, Lang::Zh) else { return };
    let verdict = analysis.verdict;
    assert_eq!(verdict.anatomy.iter().map(|line| i128::from(line.bytes)).sum::<i128>(), i128::from(verdict.rss_bytes.min(1 << 57)));
    assert!(!verdict.summary.is_empty());
    let json = serde_json::to_string(&verdict).unwrap();
    assert!(json.len() < 1 << 20, "a verdict of {} bytes", json.len());
    serde_json::from_str::<memtrap::verdict::Verdict>(&json).expect("a verdict can be read back");
}
