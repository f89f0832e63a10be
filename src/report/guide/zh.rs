//! 中文。

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
    title: "存活对象，少而大",
    means: "这些字节仍然可达：是程序自己持有它们。",
    steps: &[
        "看 inuse_space：flat 高的函数分配了现在存活的内存。它说明谁分配，不说明谁持有。",
        "看谁持有（holders.json）：没有哪个变量、goroutine 或 timer 就会释放多少，以及从它到这些字节的路径。",
        "看相对 baseline 的增长，或两次强制 GC 之间的增长：只增不减的是泄漏，大而平稳的不是。",
        "沿调用者往上找（top -cum、-traces、火焰图），直到自己的代码，再看是什么留住了结果：map、缓存、队列、全局变量。",
        "手边有源码时，在 go tool pprof 里用 list 函数名 可以看到具体的行。",
    ],
    usual: &[
        "没有上限或过期时间的缓存、map",
        "因为一小段子切片或子串而留住的整块 buffer",
        "整个请求体或响应体留在内存或队列里",
        "持有大 buffer 的 finalizer 或对象池",
    ],
};

const SMALL_OBJECTS: Guide = Guide {
    title: "存活对象，多而小",
    means: "这些对象仍然可达：是程序自己持有它们。每个都很小，问题在数量，而且会拖慢 GC。",
    steps: &[
        "先看 inuse_objects 再看 inuse_space：对象最多的函数不一定是字节最多的。",
        "看相对 baseline 的增长：哪些元素只来不走。",
        "看谁持有（holders.json）：它们是什么的元素，只加不删的 map、slice、链表或队列。",
    ],
    usual: &["从不删除的 map 项或链表元素", "每个请求注册一个、却从不停掉的 timer、context 或回调", "取值无界的监控或日志 label"],
};

const CHURN: Guide = Guide {
    title: "分配过于频繁",
    means: "GC 之后存活的很少；RSS 是两次 GC 之间的垃圾及其占用的空间。这是分配压力，不是泄漏。",
    steps: &[
        "看 alloc_space 和 alloc_objects：谁在分配。那里高而 inuse_space 低，就是频繁分配。",
        "看 CPU profile：runtime.mallocgc 和 runtime.gcBgMarkWorker 说明代价。",
        "复用（buffer、sync.Pool）、预分配，或避免转换：[]byte 与 string 互转、fmt、基于反射的 encoding/json。",
        "GOGC 和 GOMEMLIMIT 决定垃圾能堆多高：先把 GOMEMLIMIT 设得略低于容器上限，通常能救急。",
    ],
    usual: &["一阵请求高峰，或某个接口构造很大的临时值", "GOGC 大于 100，或 off", "整体解码请求体，而不是流式解码"],
};

const UNRELEASED: Guide = Guide {
    title: "Go 已释放，未归还内核",
    means: "对象已经没有了；runtime 留着这些页以备后用，并在后台慢慢归还。",
    steps: &[
        "看 RSS 随时间的变化：如果只是如此，高峰过后几分钟内会下降。没有内存压力时，内核可能让这些页显示为常驻更久。",
        "找出留下它的高峰：alloc_space 说明谁分配，timeline 说明何时。",
        "容器上限逼近时，GOMEMLIMIT 会让 runtime 及时归还；debug.FreeOSMemory 调一次只是验证，不是修复。",
        "如果 span 大半为空却留着（heap_fragmentation），是少数长寿对象混在大量短命对象里分配的。",
    ],
    usual: &["已经结束的批处理或突发流量", "容器里没有设 GOMEMLIMIT", "GODEBUG=madvdontneed=0"],
};

const PILEUP: Guide = Guide {
    title: "goroutine 堆积",
    means: "许多 goroutine 停在同一处。内存就是它们的栈，以及它们留住的堆。",
    steps: &[
        "看分组：最大的一组、它的状态和最长等待时间。在一处等了几分钟，是泄漏，不是负载。",
        "最上面的栈帧说明怎么等，第一个属于自己代码的栈帧说明等什么；goroutine.txt 里有 created by。",
        "问谁本该唤醒它们：发送方、关闭方、deadline、持锁者。",
    ],
    usual: &[
        "在 channel 上收发，而另一端已经返回",
        "请求没有 context deadline，而对方挂住不应答",
        "持锁期间做了会阻塞的调用",
        "每来一项就起一个 worker，没有上限",
    ],
};

const DEEP: Guide = Guide {
    title: "goroutine 栈过深",
    means: "goroutine 不多，但每个的栈都很大。栈按倍数增长，只在 GC 时收缩。",
    steps: &["看 goroutine.txt 里的栈：递归表现为重复的栈帧。", "找栈上的大值：按值传递的数组、生成代码的深调用链。"],
    usual: &["对用户数据（树、JSON、正则）的无界递归", "按值传递的大数组"],
};

const GC_THRASH: Guide = Guide {
    title: "空间不足的 GC：回收器占满 CPU",
    means: "存活对象已逼近内存上限（GOMEMLIMIT），或 GOGC 过低，GC 一次接一次。RSS 不再变化，服务却会一直缓慢，直到情况改变。",
    steps: &[
        "比较存活量与上限。如果存活的都是必需的，就调高 GOMEMLIMIT，并同时调高容器上限：至少留出存活量一半的空间。",
        "如果并非必需，就找占满它的泄漏：看 inuse_space、谁持有它（holders.json），以及与 baseline 相比的增长。只调高上限，不过是推迟。",
        "如果重启好过缓慢，就关掉 GOMEMLIMIT：到容器上限时内核会结束进程，而这是看得见的。",
        "再看还有什么计入上限：goroutine 栈、runtime 自身、已释放的内存。cgo 与 mmap 不计入，GOMEMLIMIT 要在容器里为它们留出空间。",
    ],
    usual: &["GOMEMLIMIT 之下的泄漏，或变大的缓存", "GOMEMLIMIT 低于服务在负载下所需", "GOGC 远低于 100"],
};

pub fn of_detail(detail: Detail) -> &'static Guide {
    match detail {
        Detail::HugePages => &HUGE_PAGES,
        Detail::MadvFree => &MADV_FREE,
    }
}

const HUGE_PAGES: Guide = Guide {
    title: "Go 已释放并归还，又因大页而常驻",
    means: "runtime 已经归还这些页，但内核用大页（THP）承载堆：只要用到其中一页，整个 2 MiB 都会常驻。",
    steps: &[
        "看 /sys/kernel/mm/transparent_hugepage/enabled：为 always 时，khugepaged 会填满堆里的空洞；改为 madvise 或 never 即可。",
        "如果不能改，把 /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none 设为 0，khugepaged 就不再填充空页。",
        "GOMEMLIMIT 和 debug.FreeOSMemory 没有用：该归还的都已归还。",
    ],
    usual: &["transparent_hugepage/enabled = always", "khugepaged/max_ptes_none 为默认的 511", "Go 1.21.1 到 1.21.5 自己会要求大页"],
};

const MADV_FREE: Guide = Guide {
    title: "Go 已释放，并以 MADV_FREE 归还",
    means: "内核随时可以收走这些页，只是还不需要：它们计入 RSS，但本身没有危险。",
    steps: &[
        "对照 smaps 中的 LazyFree：内存紧张时这部分 RSS 会直接消失，进程不会察觉。",
        "如果告警或上限看的是 RSS，GODEBUG=madvdontneed=1（Go 1.16 起为默认）会让归还的内存立即离开 RSS。",
    ],
    usual: &["GODEBUG=madvdontneed=0", "Go 1.12 到 1.15"],
};

const NATIVE: Guide = Guide {
    title: "native 内存：cgo、mmap、外部库",
    means: "Go runtime 完全不知道的匿名内存，任何 heap profile 都看不到。",
    steps: &[
        "看 proc/smaps：[heap] 和许多 64 MiB 的区域是 C 的 malloc；单个大区域是 mmap 或很大的 malloc。",
        "在 Go 代码里找没有 C.free 的 C.malloc 和 C.CString，以及封装 C 的库：数据库、压缩、图像、TLS、Kafka。",
        "检查 syscall.Mmap 及其封装：谁映射，谁就要解除。",
        "C 的 malloc 可以用 C 的堆分析器（jemalloc 自带的、heaptrack）找到调用；MALLOC_ARENA_MAX=2 可以快速验证是否只是 arena 碎片。",
    ],
    usual: &["C.CString 或 C.malloc 没有 C.free", "从不关闭的 C 库句柄", "嵌入式数据库的缓存", "glibc 每个线程一个 arena"],
};

const FILES: Guide = Guide {
    title: "文件映射",
    means: "映射到进程里的文件页。内存紧张时内核会收回干净的页；它们计入 RSS，在这里首次使用的还计入 cgroup。",
    steps: &["看 proc/smaps：每个映射的路径、Rss，以及多少是 Private_Dirty。", "干净的页除非上限很紧，否则无害；脏页要先写回。"],
    usual: &["把文件映射进来的嵌入式数据库或索引（bbolt、Badger、类 Lucene 的存储）", "很大的可执行文件，或嵌入其中的数据"],
};

const SHMEM: Guide = Guide {
    title: "共享内存",
    means: "tmpfs、memfd 或共享匿名映射。直到文件被删除或最后一个映射解除才会释放，并计入 cgroup。",
    steps: &["看 proc/smaps：名为 /dev/shm、/memfd:、/SYSV 的映射及其 Rss。", "找出谁创建这些段，谁该删除它们。"],
    usual: &["/dev/shm 或其他 tmpfs 里映射后从不删除的文件", "与 sidecar 共享的环形缓冲区"],
};

const THREADS: Guide = Guide {
    title: "OS 线程堆积",
    means: "超出最初 GOMAXPROCS 个之后，每个阻塞的系统调用或 cgo 调用都会让 Go runtime 再起一个 OS 线程，而且很少结束它们。",
    steps: &[
        "看 goroutine.txt：处于 syscall 状态或在 cgo 中的 goroutine，就是这些线程在跑的。",
        "threadcreate.pb.gz 给出线程数；新版 Go 不再说明是谁创建的。",
        "限制会阻塞的操作的并发：慢磁盘上的文件访问、经 cgo 的 DNS、C 库。",
    ],
    usual: &[
        "阻塞的 cgo 调用",
        "解析器挂住时经 cgo 的 DNS（可用 GODEBUG=netdns=go）",
        "挂住的磁盘或 FUSE 访问",
        "runtime.LockOSThread 之后没有结束",
    ],
};

const METADATA: Guide = Guide {
    title: "Go runtime 自身的内存",
    means: "span 表、GC 位图、profile 的 bucket 等。随堆的历史最大值增长，不会收缩。",
    steps: &[
        "看 memstats.txt 里的 BuckHashSys、GCSys、OtherSys 和 MSpan。",
        "BuckHashSys 很大，是 profiler 自己：不同的调用栈太多，或 MemProfileRate 太小。",
    ],
    usual: &["MemProfileRate 设成了 1", "曾经非常大的堆"],
};

const CGROUP_SHMEM: Guide = Guide {
    title: "内存中的文件占满了 cgroup 的上限",
    means: "tmpfs、medium: Memory 的 emptyDir、/dev/shm 和共享映射都计入首先写入它们的 cgroup。任何 heap profile 里都没有它们，进程只在映射它们期间才把它们计入 RSS。只有删除文件才会释放。",
    steps: &[
        "找到这些文件：在容器的 mount namespace 里执行 df -h -t tmpfs，再对每个挂载点执行 du -x；已删除但仍打开的文件见 ls -l /proc/PID/fd。",
        "给挂载设上限：emptyDir 的 sizeLimit、tmpfs 的 size=；或者改放到磁盘上。",
        "如果这些文件本该在那里，就把它们算进上限：上限要同时容纳堆和文件。",
    ],
    usual: &["放在 medium: Memory 的 emptyDir 上的缓存或上传目录", "/dev/shm 里没人删除的文件", "放在 tmpfs 上的日志或 socket 暂存"],
};

const CGROUP_NEIGHBOURS: Guide = Guide {
    title: "其他进程占满了 cgroup 的上限",
    means: "上限是共享的：同一上限之下的子进程、worker 和 sidecar 一起计算，内核会杀死其中最大的一个。占满它的并不是本进程。",
    steps: &[
        "看其他进程的列表：proc/cgroup_members.txt 列出了每个进程的 pid、名称和 cgroup。",
        "如果是本进程的子进程，限制同时运行的数量，并看每个占了什么；为它们单独设一个 target。",
        "如果是 sidecar，给每个容器设自己的上限。",
    ],
    usual: &[
        "用 os/exec 启动的辅助程序（转换器、shell、git、ffmpeg），同时运行太多",
        "不断增长的 sidecar 或 agent",
        "prefork 的 worker，把单个进程持有的内存成倍放大",
    ],
};

const CGROUP_KERNEL: Guide = Guide {
    title: "内核自身的内存占满了 cgroup 的上限",
    means: "内核为 cgroup 的进程保存的内容都计入该 cgroup：页表、线程的内核栈、inode 和 dentry、socket 与 pipe 的缓冲区。它们不在任何进程的 RSS 里。",
    steps: &[
        "看 proc/cgroup.txt 里的 memory.stat（v2）：pagetables、kernel_stack、slab_unreclaimable、sock。v1 只有总和，在 memory.kmem.usage_in_bytes；页表由各进程累加得出。",
        "页表：稀疏地访问很大的映射（映射的文件、零星触碰的 ballast），每触碰 2 MiB 就要一页页表。socket 与 pipe：读的一方跟不上。slab：文件、inode 或连接太多。",
        "数一数描述符和连接：proc/process.json 里的 fds；在该网络 namespace 里执行 ss -tm 看 socket 占用多少。",
    ],
    usual: &["很大的 mmap 文件，被稀疏地访问", "成千上万个连接，对端不读", "tmpfs 上数以百万计的小文件", "没人读的 pipe"],
};

const MIXED: Guide = Guide {
    title: "没有单一主因",
    means: "几部分共同构成 RSS，没有哪一部分占到一半。从增长的那部分看起。",
    steps: &["逐项与 baseline 对比。", "依次看最大的两部分；表格和命令在下面。"],
    usual: &["服务本来就需要这么多：把上限与健康时的 RSS 对比"],
};

const UNKNOWN: Guide = Guide {
    title: "未知",
    means: "缺少能说明问题的证据；缺什么、为什么缺，见“缺少的证据”。",
    steps: &[
        "看缺少什么，并让它变得可得：给出 pprof 地址，或读取该进程 /proc 的权限。",
        "memtrap check --probe 不必等到出事就能验证这两项。",
    ],
    usual: &[],
};
