//! What to run next, of what is there.

use std::path::Path;

use super::files::Files;
use crate::holders;
use crate::text::shell;
use crate::verdict::Cause;

/// How a file is looked at.
#[derive(Clone, Copy)]
enum Viewer {
    Top(&'static str),
    Traces,
    Page,
    Holders,
}

impl Viewer {
    /// `memtrap top` prints what `go tool pprof -top` does, where there is no Go.
    fn command(self, has_go: bool, path: &str) -> String {
        match (self, has_go) {
            (Viewer::Top(index), true) => format!("go tool pprof -top -sample_index={index} {path}"),
            (Viewer::Top(index), false) => format!("memtrap top --sample-index {index} {path}"),
            (Viewer::Traces, true) => format!("go tool pprof -traces {path}"),
            (Viewer::Traces, false) => format!("memtrap top {path}"),
            (Viewer::Page, _) => format!("less {path}"),
            (Viewer::Holders, _) => format!("memtrap holders {path}"),
        }
    }
}

pub(super) fn has_go() -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("go").is_file()))
}

/// What to run next, in reading order, of what is there: what the cause is about comes first.
pub(super) fn commands(shown: &Path, files: &Files, cause: Cause, has_go: bool) -> Vec<String> {
    const HEAP: &[(&str, Viewer)] = &[
        ("heap_gc.pb.gz", Viewer::Top("inuse_space")),
        ("heap_gc.pb.gz", Viewer::Top("inuse_objects")),
        ("heap.pb.gz", Viewer::Top("inuse_space")),
        ("heap.pb.gz", Viewer::Top("inuse_objects")),
        (holders::FILE, Viewer::Holders),
    ];
    const ALLOCS: &[(&str, Viewer)] = &[("allocs.pb.gz", Viewer::Top("alloc_space")), ("allocs.pb.gz", Viewer::Top("alloc_objects"))];
    const GOROUTINES: &[(&str, Viewer)] = &[("goroutine.pb.gz", Viewer::Traces), ("goroutine.txt", Viewer::Page)];
    const KERNEL: &[(&str, Viewer)] = &[("proc/smaps", Viewer::Page)];
    const CGROUP: &[(&str, Viewer)] = &[("proc/cgroup_members.txt", Viewer::Page), ("proc/cgroup.txt", Viewer::Page)];
    const RUNTIME: &[(&str, Viewer)] = &[("memstats.txt", Viewer::Page)];
    let order = match cause {
        Cause::AllocationChurn => [ALLOCS, HEAP, GOROUTINES, RUNTIME, KERNEL],
        Cause::UnreleasedHeap => [RUNTIME, ALLOCS, HEAP, GOROUTINES, KERNEL],
        Cause::GoroutinePileup | Cause::DeepStacks => [GOROUTINES, HEAP, ALLOCS, RUNTIME, KERNEL],
        Cause::ThreadPileup => [GOROUTINES, KERNEL, HEAP, ALLOCS, RUNTIME],
        Cause::CgroupShmem | Cause::CgroupNeighbours | Cause::CgroupKernel => [CGROUP, KERNEL, HEAP, GOROUTINES, RUNTIME],
        Cause::NativeMemory | Cause::FileMappings | Cause::Shmem => [KERNEL, RUNTIME, HEAP, ALLOCS, GOROUTINES],
        Cause::RuntimeMetadata => [RUNTIME, KERNEL, HEAP, ALLOCS, GOROUTINES],
        _ => [HEAP, ALLOCS, GOROUTINES, RUNTIME, KERNEL],
    };
    // the heap before the collection says nothing more than the one after it
    let is_older = |file: &str| file == "heap.pb.gz" && files.has("heap_gc.pb.gz");
    let there = order.into_iter().flatten().filter(|(file, _)| files.has(file) && !is_older(file));
    let mut commands: Vec<String> = there.map(|(file, look)| look.command(has_go, &shell(shown.join(file)))).collect();
    let heaps = ["heap_gc.pb.gz", "heap.pb.gz"];
    if files.has("baseline/heap.pb.gz")
        && let Some(heap) = heaps.into_iter().find(|heap| files.has(heap))
    {
        let (now, then) = (shell(shown.join(heap)), shell(shown.join("baseline/heap.pb.gz")));
        commands.push(match has_go {
            true => format!("go tool pprof -top -sample_index=inuse_space -diff_base={then} {now}"),
            false => format!("memtrap top --sample-index inuse_space --base {then} {now}"),
        });
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lang::Lang;

    #[test]
    fn what_is_to_be_run_next_can_be_run_without_go() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["heap_gc.pb.gz", "goroutine.pb.gz"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let files = Files::open(dir.path(), Lang::En).unwrap();
        let next = |has_go| commands(Path::new("/b"), &files, Cause::GoroutinePileup, has_go);
        assert_eq!(
            next(true)[..2],
            ["go tool pprof -traces '/b/goroutine.pb.gz'", "go tool pprof -top -sample_index=inuse_space '/b/heap_gc.pb.gz'"]
        );
        assert_eq!(next(false)[..2], ["memtrap top '/b/goroutine.pb.gz'", "memtrap top --sample-index inuse_space '/b/heap_gc.pb.gz'"]);
    }
}
