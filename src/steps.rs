//! The steps of a capture, in the order they are taken: what each is called, which file it leaves, and what is in it.
//!
//! One table. The plan of a capture follows it, `skip` in the configuration accepts what it marks, the README of a bundle reads it out, and a
//! test holds the documentation against it. Not here: what a step asks for (`capture::plan`), and the extra profiles of a configuration.

use crate::holders;

#[derive(Clone, Copy, Debug)]
pub struct StepKind {
    pub name: &'static str,
    /// Below the bundle's directory.
    pub file: &'static str,
    /// What is in the file.
    pub describes: &'static str,
    /// Not taken where the disk is nearly full: large, and not needed for the first answer.
    pub big: bool,
    /// A baseline has it too.
    pub baseline: bool,
    /// `skip` in the configuration may name it.
    pub skippable: bool,
    /// It makes the service work (a whole collection, or for seconds): not while the kernel slows that one down.
    pub heavy: bool,
}

impl StepKind {
    const fn big(self) -> StepKind {
        StepKind { big: true, ..self }
    }

    const fn heavy(self) -> StepKind {
        StepKind { heavy: true, ..self }
    }

    const fn baseline(self) -> StepKind {
        StepKind { baseline: true, ..self }
    }
}

/// What the kernel tells, and what follows from another step, is not skipped by name.
const fn fixed(name: &'static str, file: &'static str, describes: &'static str) -> StepKind {
    StepKind { name, file, describes, big: false, baseline: false, skippable: false, heavy: false }
}

const fn step(name: &'static str, file: &'static str, describes: &'static str) -> StepKind {
    StepKind { skippable: true, ..fixed(name, file, describes) }
}

pub const ALL: [StepKind; 26] = [
    fixed("status", "proc/status", "the kernel's summary: VmRSS split into RssAnon, RssFile, RssShmem; threads").baseline(),
    fixed("stat", "proc/stat", "one line of counters of the process"),
    fixed("cgroup", "proc/cgroup.txt", "memory limits, usage and events of its cgroups"),
    fixed("cgroup_members", "proc/cgroup_members.txt", "the processes that share its limited cgroups, with what each has resident"),
    fixed("smaps_rollup", "proc/smaps_rollup", "the kernel's sums over all mappings").baseline(),
    fixed("limits", "proc/limits", "resource limits of the process"),
    fixed("process", "proc/process.json", "counts, sockets, Go build information and the GC settings from the environment"),
    fixed("smaps", "proc/smaps", "every mapping with its resident part: what is neither heap nor stack shows here").big(),
    fixed("cmdline", "cmdline.txt", "the arguments that the process reports of itself; the arguments are separated by NUL bytes"),
    step("heap", "heap.pb.gz", "heap profile as of the last finished GC cycle, taken before anything was disturbed").baseline(),
    step("memstats", "memstats.txt", "`runtime.MemStats`: the Go runtime's own, exact account of its memory").baseline(),
    step("goroutine", "goroutine.pb.gz", "all goroutines, as a profile of their stacks").baseline(),
    step("threadcreate", "threadcreate.pb.gz", "the stacks that made new OS threads"),
    step("allocs", "allocs.pb.gz", "everything allocated since the process started, freed or not").big(),
    step("heap_gc", "heap_gc.pb.gz", "heap profile right after a forced GC: what is really live").heavy(),
    fixed("memstats_gc", "memstats_gc.txt", "`runtime.MemStats` again, after that GC").heavy(),
    step(
        "goroutine_text",
        "goroutine.txt",
        "all goroutine stacks as text, with states and waiting times (or, with many goroutines, grouped by stack)",
    )
    .big(),
    // after the collection: what is reached is then what that one marked
    step("holders", holders::FILE, "who holds what is live: what would be freed without each variable, goroutine or timer").baseline(),
    // a whole collection, which the first answer does not need: the text must not wait for it
    step("goroutineleak", "goroutineleak.pb.gz", "goroutines that the garbage collector proved to be blocked for ever").heavy(),
    step("mutex", "mutex.pb.gz", "contended mutexes; empty unless the service sets a mutex profile fraction"),
    step("block", "block.pb.gz", "blocking operations; empty unless the service sets a block profile rate"),
    step("profile", "profile.pb.gz", "CPU profile").big().heavy(),
    step(
        "heap_gc_after",
        "heap_gc_after.pb.gz",
        "heap profile after a second forced GC, at the end of the capture: compare with `heap_gc.pb.gz`",
    )
    .big()
    .heavy(),
    fixed(
        "memstats_after",
        "memstats_after.txt",
        "where `memstats.txt` was read from the process's memory: the same at the end of the capture, so that it is known how fast it allocates",
    ),
    fixed("status_after", "proc_after/status", "`status` at the end of the capture"),
    fixed("smaps_rollup_after", "proc_after/smaps_rollup", "`smaps_rollup` at the end of the capture"),
];

pub fn named(name: &str) -> Option<&'static StepKind> {
    ALL.iter().find(|step| step.name == name)
}

/// The step that leaves this file.
pub fn of_file(file: &str) -> Option<&'static StepKind> {
    ALL.iter().find(|step| step.file == file)
}

/// Those that `skip` may name.
pub fn skippable() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter(|step| step.skippable).map(|step| step.name)
}

/// Whether a baseline has it too.
pub fn is_of_baseline(name: &str) -> bool {
    named(name).is_some_and(|step| step.baseline)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(path: &str) -> String {
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    #[test]
    fn the_documentation_names_the_file_of_each_step_or_its_directory() {
        let page = shipped("docs/bundle.md");
        for step in ALL {
            let dir = step.file.split_once('/').map(|(dir, _)| format!("`{dir}/`"));
            let is_there = page.contains(&format!("`{}`", step.file)) || dir.is_some_and(|dir| page.contains(&dir));
            assert!(is_there, "docs/bundle.md says nothing of {}", step.file);
        }
    }

    #[test]
    fn the_shipped_configuration_lists_what_skip_accepts() {
        let text = shipped("config/memtrap.toml").replace("\n# ", " ");
        let listed = format!("Steps to leave out: {}.", skippable().collect::<Vec<_>>().join(", "));
        assert!(text.contains(&listed), "config/memtrap.toml lacks: {listed}");
    }
}
