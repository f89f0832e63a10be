//! In English.

use super::Guide;
use crate::verdict::{Cause, Detail};

pub fn of(cause: Cause) -> &'static Guide {
    match cause {
        Cause::LiveHeap => &LIVE_HEAP,
        Cause::SmallObjects => &SMALL_OBJECTS,
        Cause::AllocationChurn => &CHURN,
        Cause::UnreleasedHeap => &UNRELEASED,
        Cause::GoroutinePileup => &PILEUP,
        Cause::DeepStacks => &DEEP,
        Cause::NativeMemory => &NATIVE,
        Cause::FileMappings => &FILES,
        Cause::Shmem => &SHMEM,
        Cause::ThreadPileup => &THREADS,
        Cause::RuntimeMetadata => &METADATA,
        Cause::GcThrash => &GC_THRASH,
        Cause::CgroupShmem => &CGROUP_SHMEM,
        Cause::CgroupNeighbours => &CGROUP_NEIGHBOURS,
        Cause::CgroupKernel => &CGROUP_KERNEL,
        Cause::Mixed => &MIXED,
        Cause::Unknown => &UNKNOWN,
    }
}

const LIVE_HEAP: Guide = Guide {
    title: "live objects, few and large",
    means: "These bytes are reachable: the program holds them.",
    steps: &[
        "Read inuse_space: the functions with a high flat value allocated what is live. It names who allocated, not who holds.",
        "Read who holds it (holders.json): what would be freed without each variable, goroutine or timer, and the way from it to the bytes.",
        "Read the growth since the baseline, or between the two forced collections: what only ever grows is the leak, what is large and flat is not.",
        "Follow the callers (top -cum, -traces, the flame graph) until the code is yours, then look for what keeps the result: a map, a cache, a queue, a global.",
        "list FUNCTION in go tool pprof shows the line, where the source is at hand.",
    ],
    usual: &[
        "a cache or map without a bound or an expiry",
        "buffers kept through a small sub-slice or sub-string of them",
        "whole request or response bodies held in memory, or queued",
        "finalizers or pools that keep large buffers",
    ],
};

const SMALL_OBJECTS: Guide = Guide {
    title: "live objects, many and small",
    means: "These objects are reachable: the program holds them. Each is small; their number is the problem, and it costs the collector time too.",
    steps: &[
        "Read inuse_objects before inuse_space: the function that makes the most objects may not be the one with the most bytes.",
        "Read the growth since the baseline: elements that come and never go.",
        "Read who holds it (holders.json): what they are elements of, a map, slice, list or queue that is only added to.",
    ],
    usual: &[
        "map entries or list elements that are never deleted",
        "timers, contexts or callbacks registered per request and never stopped",
        "metric or log labels with unbounded values",
    ],
};

const CHURN: Guide = Guide {
    title: "allocation churn",
    means: "Little is live after a collection; the RSS is garbage between two collections, and the room that it needs. This is load on the allocator, not a leak.",
    steps: &[
        "Read alloc_space and alloc_objects: who allocates. High there and low in inuse_space is churn.",
        "Look at the CPU profile: runtime.mallocgc and runtime.gcBgMarkWorker tell what it costs.",
        "Reuse (buffers, sync.Pool), preallocate, or do not convert: []byte to string and back, fmt, encoding/json by reflection.",
        "GOGC and GOMEMLIMIT set how much garbage may pile up: GOMEMLIMIT a little below the container's limit is the usual first aid.",
    ],
    usual: &[
        "a burst of requests, or one endpoint that builds large temporary values",
        "GOGC above 100, or off",
        "decoding whole bodies instead of streams",
    ],
};

const UNRELEASED: Guide = Guide {
    title: "freed by Go, not returned to the kernel",
    means: "The objects are gone; the runtime keeps their pages for what it expects to need next, and returns them slowly in the background.",
    steps: &[
        "Look at the RSS over time: after a spike it falls within minutes if this is all. A kernel without memory pressure may show pages as resident for longer.",
        "Find the spike that left it: alloc_space says who allocates, the timeline says when.",
        "If the container's limit is near, GOMEMLIMIT makes the runtime return memory in time; debug.FreeOSMemory once is a test, not a fix.",
        "If spans stay although they are mostly empty (heap_fragmentation), a few long-lived objects were allocated among many short-lived ones.",
    ],
    usual: &["a batch job or a burst that is over", "GOMEMLIMIT not set in a container", "GODEBUG=madvdontneed=0"],
};

const PILEUP: Guide = Guide {
    title: "goroutines piling up",
    means: "Many goroutines stand in the same place. Their stacks, and the heap that they hold on to, are the memory.",
    steps: &[
        "Read the groups: the largest one, its state and its longest wait. Minutes of waiting in one place is a leak, not load.",
        "The top frames say how they wait, the first frame of yours says for what; goroutine.txt has created by lines.",
        "Ask who should have woken them: the sender, the closer, the deadline, the holder of the lock.",
    ],
    usual: &[
        "a send or receive on a channel whose other side has returned",
        "a request without a context deadline against something that hangs",
        "a lock held across a call that blocks",
        "a worker started per item and never bounded",
    ],
};

const DEEP: Guide = Guide {
    title: "deep goroutine stacks",
    means: "Few goroutines, each with a large stack. Stacks double when they grow, and shrink only at collections.",
    steps: &[
        "Read the stacks in goroutine.txt: recursion shows as repeated frames.",
        "Look for large values on the stack: arrays by value, deep call chains of generated code.",
    ],
    usual: &["unbounded recursion over user data (trees, JSON, regular expressions)", "large arrays passed by value"],
};

const GC_THRASH: Guide = Guide {
    title: "collections without room: the GC takes the CPU",
    means: "What is live has come so near the memory limit (GOMEMLIMIT), or GOGC is so low, that collections follow each other at once. RSS stands still; the service is slow until something gives.",
    steps: &[
        "Compare what is live with the limit. If all of it is needed, raise GOMEMLIMIT, and the container's limit with it: room of half of what is live, at least.",
        "If it is not needed, find the leak that fills it: read inuse_space and who holds it (holders.json), and the growth since the baseline. A higher limit only puts the day off.",
        "If a restart is better than a service that crawls, turn GOMEMLIMIT off: the kernel then ends the process at the container's limit, and that is seen.",
        "Look at what else counts for the limit: goroutine stacks, the runtime's own, freed memory. cgo and mmap do not, and GOMEMLIMIT has to leave room for them in the container.",
    ],
    usual: &["a leak, or a cache that grew, under GOMEMLIMIT", "GOMEMLIMIT below what the service needs under load", "GOGC far below 100"],
};

pub fn of_detail(detail: Detail) -> &'static Guide {
    match detail {
        Detail::HugePages => &HUGE_PAGES,
        Detail::MadvFree => &MADV_FREE,
    }
}

const HUGE_PAGES: Guide = Guide {
    title: "freed and returned by Go, made resident again as huge pages",
    means: "The runtime returned these pages, but the kernel backs the heap with huge pages (THP): a single used page makes its 2 MiB resident.",
    steps: &[
        "Read /sys/kernel/mm/transparent_hugepage/enabled: with always, khugepaged fills the holes of the heap. madvise or never ends it.",
        "Where that cannot be set, /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none at 0 keeps khugepaged from filling what is empty.",
        "GOMEMLIMIT and debug.FreeOSMemory cannot help: all of it has been returned already.",
    ],
    usual: &[
        "transparent_hugepage/enabled = always",
        "khugepaged/max_ptes_none at its default of 511",
        "Go 1.21.1 to 1.21.5, which ask for huge pages themselves",
    ],
};

const MADV_FREE: Guide = Guide {
    title: "freed by Go and given back with MADV_FREE",
    means: "The kernel may take these pages at any time and has not needed to: they count in RSS and are no danger by themselves.",
    steps: &[
        "Compare with LazyFree in smaps: that part of RSS goes when memory is short, without a word to the process.",
        "If RSS is what alerts or limits look at, GODEBUG=madvdontneed=1 (the default since Go 1.16) makes returned memory leave RSS at once.",
    ],
    usual: &["GODEBUG=madvdontneed=0", "Go 1.12 to 1.15"],
};

const NATIVE: Guide = Guide {
    title: "native memory: cgo, mmap, foreign libraries",
    means: "Anonymous memory that the Go runtime knows nothing of. No heap profile can show it.",
    steps: &[
        "Read proc/smaps: [heap] and many regions of 64 MiB are malloc in C; single large regions are mmap or very large malloc.",
        "In the Go code, look for C.malloc and C.CString without C.free, and at libraries that wrap C: databases, compression, images, TLS, Kafka.",
        "Look at syscall.Mmap and its wrappers: whoever maps must unmap.",
        "For malloc in C, a heap profiler of C (jemalloc's, heaptrack) names the call; MALLOC_ARENA_MAX=2 is a quick test for arenas that are merely fragmented.",
    ],
    usual: &[
        "C.CString or C.malloc without C.free",
        "handles of a C library that are never closed",
        "an embedded database's cache",
        "glibc arenas, one per thread",
    ],
};

const FILES: Guide = Guide {
    title: "mapped files",
    means: "Pages of files that are mapped into the process. The kernel takes clean ones back under pressure; they count as RSS, and those that were first used here count for the cgroup.",
    steps: &[
        "Read proc/smaps: the path of each mapping with its Rss, and how much is Private_Dirty.",
        "Clean pages are harmless unless the limit is tight; dirty ones must be written first.",
    ],
    usual: &[
        "an embedded database or index that maps its files (bbolt, Badger, Lucene-like stores)",
        "a large binary, or data embedded into it",
    ],
};

const SHMEM: Guide = Guide {
    title: "shared memory",
    means: "tmpfs, memfd or shared anonymous mappings. It stays until the file is removed or the last mapping is gone, and it counts against the cgroup.",
    steps: &[
        "Read proc/smaps: /dev/shm, /memfd: and /SYSV names with their Rss.",
        "Find who creates these segments, and who should remove them.",
    ],
    usual: &["files in /dev/shm or another tmpfs that are mapped and never removed", "a ring buffer shared with a sidecar"],
};

const THREADS: Guide = Guide {
    title: "OS threads piling up",
    means: "The Go runtime starts an OS thread for each blocking system call or cgo call beyond the first GOMAXPROCS, and rarely ends one.",
    steps: &[
        "Read goroutine.txt: goroutines in syscall state, or in cgo, are what the threads run.",
        "threadcreate.pb.gz counts threads; in recent Go it does not name who made them.",
        "Bound the concurrency of what blocks: file access on slow disks, DNS through cgo, C libraries.",
    ],
    usual: &[
        "cgo calls that block",
        "DNS by cgo while the resolver hangs (GODEBUG=netdns=go)",
        "disk or FUSE access that hangs",
        "runtime.LockOSThread without an end",
    ],
};

const METADATA: Guide = Guide {
    title: "the Go runtime's own memory",
    means: "Span tables, GC bitmaps, profile buckets and the like. It grows with the heap's largest extent and does not shrink.",
    steps: &[
        "Read BuckHashSys, GCSys, OtherSys and MSpan in memstats.txt.",
        "A large BuckHashSys is the profiler itself: too many distinct stacks, or a very small MemProfileRate.",
    ],
    usual: &["MemProfileRate set to 1", "a heap that was once very large"],
};

const CGROUP_SHMEM: Guide = Guide {
    title: "files in memory fill the cgroup's limit",
    means: "tmpfs, emptyDir volumes with medium: Memory, /dev/shm and shared mappings are charged to the cgroup that wrote them first. They are in no heap profile, and in the RSS of a process only while it maps them. Only deleting the files frees them.",
    steps: &[
        "Find the files: df -h -t tmpfs within the container's mount namespace, then du -x on each of these mounts; deleted files that are still open show in ls -l /proc/PID/fd.",
        "Bound the mount: sizeLimit of the emptyDir, size= of the tmpfs; or put it on a disk.",
        "If the files are meant to be there, count them into the limit: it must hold heap and files together.",
    ],
    usual: &[
        "a cache or upload directory on an emptyDir with medium: Memory",
        "files in /dev/shm that nobody removes",
        "a log or a socket spool on a tmpfs",
    ],
};

const CGROUP_NEIGHBOURS: Guide = Guide {
    title: "other processes fill the cgroup's limit",
    means: "The limit is shared: child processes, workers and sidecars below the same limit are charged together, and the kernel kills whichever is the largest. This process is not what fills it.",
    steps: &[
        "Read the list of other processes: proc/cgroup_members.txt has each with its pid, name and cgroup.",
        "If they are children of this process, bound how many run at a time, and look at what each holds; watch them with a target of their own.",
        "If they are sidecars, give each container its own limit.",
    ],
    usual: &[
        "helpers started with os/exec (converters, shells, git, ffmpeg), too many at a time",
        "a sidecar or an agent that grows",
        "prefork workers that multiply what one holds",
    ],
};

const CGROUP_KERNEL: Guide = Guide {
    title: "the kernel's own memory fills the cgroup's limit",
    means: "What the kernel keeps for the processes of a cgroup is charged to it: page tables, stacks of threads, inodes and dentries, buffers of sockets and pipes. No process has it in its RSS.",
    steps: &[
        "Read memory.stat in proc/cgroup.txt (v2): pagetables, kernel_stack, slab_unreclaimable, sock. On v1 only the sum is known, in memory.kmem.usage_in_bytes; page tables are summed up from the processes.",
        "Page tables: sparse access to very large mappings (a mapped file, a ballast that is touched here and there) costs a page of table for each 2 MiB touched. Sockets and pipes: readers that do not keep up. Slab: very many files, inodes or connections.",
        "Count descriptors and connections: fds in proc/process.json, ss -tm within the network namespace for what sockets hold.",
    ],
    usual: &[
        "large mmap'd files, touched sparsely",
        "thousands of connections whose peers do not read",
        "millions of small files on a tmpfs",
        "pipes that nobody reads",
    ],
};

const MIXED: Guide = Guide {
    title: "no single part",
    means: "Several parts share the RSS and none has half of it. Begin with the one that grew.",
    steps: &["Compare now with the baseline, part by part.", "Take the heaviest two parts in turn; the tables and commands are below."],
    usual: &["a service that simply needs this much: compare its limit with its healthy RSS"],
};

const UNKNOWN: Guide = Guide {
    title: "unknown",
    means: "The evidence that would tell is missing; the list of what is missing says which, and why.",
    steps: &[
        "Read what is missing, and make it possible: an address for pprof, or the right to read /proc of the process.",
        "memtrap check --probe tries both without waiting for an incident.",
    ],
    usual: &[],
};
