//! Go's runtime, read from outside: what `/debug/pprof` would say of a process, out of its memory.
//!
//! No request, no stop, no collection, nothing written: `/proc/PID/mem` is read while the process runs, hangs or is frozen. Nothing in
//! the process has to be prepared, and its executable may be stripped. Of one that is gone, its core file will do ([`corefile`]).
//!
//! ```text
//!  image      which Go, where its segments lie                      (ELF headers, build info, maps)
//!    └ layout     where this Go keeps its fields                    (a table: one column per minor release)
//!    └ module     runtime.firstmoduledata                           (found by the function table that it points to)
//!        └ functions   names, files, lines, inlined calls           (pclntab)
//!        └ globals     mheap_, memstats, mbuckets, allp …           (read off the runtime's own code)
//!            ├ memstats   MemStats
//!            ├ collector  what collections cost, in some twenty small reads
//!            ├ heap       the buckets as a pprof profile
//!            ├ goroutines grouped by stack                        (unwind; goroutine_files: as a profile and as text)
//!            └ objects    who holds what                          (spans, masks, roots, dominators; see there)
//! ```
//!
//! Every address, length and count is the target's word: reads are bounded by [`memory::Reader`], and each part checks what it reads
//! against something else that it reads. A part that does not fit is [`Refused`], with the reason, and others go on.
//!
//! [`evidence`] reads all but the objects. Deliberately not here: what is done with it, and contents: only names, addresses, counts and sizes leave this room.

pub mod collector;
mod constants;
pub mod corefile;
pub mod dominators;
pub mod evidence;
pub mod frames;
pub mod functions;
pub mod globals;
pub mod goroutine_files;
pub mod goroutines;
pub mod graph;
pub mod heap;
pub mod image;
pub mod layout;
pub mod masks;
pub mod memory;
pub mod memstats;
pub mod module;
mod names;
pub mod objects;
pub mod owners;
pub mod reach;
pub mod roots;
pub mod spans;
pub mod types;
pub mod unwind;
pub mod variables;
mod wait_reasons;
mod way;

use std::cell::OnceCell;
use std::fmt;
use std::fs::File;
use std::time::SystemTime;

use crate::holders::Holders;
use crate::host::ProcDir;
use constants::Constants;
use corefile::CoreFile;
use evidence::Evidence;
use functions::Functions;
use globals::{Globals, found};
use heap::HeapProfile;
use image::Image;
use layout::Layout;
use memory::{LiveMemory, Memory, Reader};
use memstats::MemStats;
use module::Module;
use variables::Variables;

/// Objects with pointers in them, of the largest heaps.
const MAX_OBJECT_BYTES: u64 = 1 << 40;
/// `heapArenaBytes`, and minus `arenaBaseOffset`, of amd64.
pub const ARENA: u64 = 64 << 20;
const ARENA_BASE: u64 = 1 << 47;
/// GOMAXPROCS is at most the number of CPUs, unless someone asked for more.
const MAX_PS: u64 = 1 << 16;

/// Why something of the process cannot be known: one sentence, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl Refused {
    pub(crate) fn new(why: impl Into<String>) -> Refused {
        Refused(why.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// A Go program in memory: where everything is.
pub struct Runtime<'m> {
    pub memory: &'m Reader<'m>,
    pub layout: Layout,
    pub module: Module,
    pub globals: Globals,
    /// Those of plugins, once they were asked for.
    pub others: OnceCell<Vec<Module>>,
}

impl<'m> Runtime<'m> {
    pub fn find(memory: &'m Reader<'m>, image: &Image) -> Result<Runtime<'m>, Refused> {
        let layout = Layout::of(&image.go_version)?;
        let module = Module::find(memory, image, &layout)?;
        let globals = Globals::find(memory, &module, &Functions::new(memory, &module, &layout)?, &layout)?;
        Ok(Runtime { memory, layout, module, globals, others: OnceCell::new() })
    }

    pub fn functions(&self) -> Result<Functions<'_>, Refused> {
        Functions::new(self.memory, &self.module, &self.layout)
    }

    /// Addresses of the Ps.
    fn ps(&self) -> Result<Vec<u64>, Refused> {
        let at = found(self.globals.allp, "allp")?;
        self.memory.words(self.memory.u64(at)?, self.memory.u64(at.wrapping_add(8))?, MAX_PS)
    }

    /// The program's, and those of its plugins.
    fn modules(&self) -> impl Iterator<Item = &Module> + Clone {
        let others = self.others.get_or_init(|| self.module.others(self.memory, &self.layout));
        std::iter::once(&self.module).chain(others)
    }

    /// Where a field of `mheap_` is.
    fn of_heap(&self, field: &'static str) -> Result<u64, Refused> {
        self.field(found(self.globals.mheap, "mheap_")?, "runtime.mheap", field)
    }

    /// Where a field of `gcController` is.
    fn of_collector(&self, field: &'static str) -> Result<u64, Refused> {
        self.field(found(self.globals.gc_controller, "gcController")?, "runtime.gcControllerState", field)
    }

    /// Where a field of `memstats` is.
    fn of_memstats(&self, field: &'static str) -> Result<u64, Refused> {
        self.field(found(self.globals.memstats, "memstats")?, "runtime.mstats", field)
    }

    fn field(&self, at: u64, of: &'static str, field: &'static str) -> Result<u64, Refused> {
        Ok(at.wrapping_add(self.layout.field(of, field)?.offset.into()))
    }

    /// The directory of arenas.
    fn arenas(&self) -> Result<Arenas<'_>, Refused> {
        Ok(Arenas { memory: self.memory, directory: self.memory.u64(self.of_heap("arenas")?)? })
    }
}

/// `mheap_.arenas`, which has one level on amd64: an entry for each arena of the user's half.
#[derive(Clone, Copy)]
struct Arenas<'m> {
    memory: &'m Reader<'m>,
    directory: u64,
}

impl Arenas<'_> {
    /// The `heapArena` of an address; 0 where the heap has none.
    fn at(&self, address: u64) -> Result<u64, Refused> {
        let index = address.wrapping_add(ARENA_BASE) / ARENA;
        self.memory.u64(self.directory.wrapping_add(index.wrapping_mul(8)))
    }
}

/// A Go program whose memory can be read: of a process, or of a core file.
pub struct Program<M> {
    pub memory: M,
    pub image: Image,
    /// For its symbols; `None` where only its memory is at hand.
    exe: Option<File>,
}

impl Program<LiveMemory> {
    /// Of a process. Needs its uid, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
    pub fn of_process(process: &ProcDir) -> Result<Program<LiveMemory>, Refused> {
        let exe = || process.open("exe").map_err(|e| Refused::new(format!("its executable cannot be read: {e}")));
        let image = Image::of(process)?;
        let memory = memory_of(process)?.with(Constants::of(exe()?, &image));
        Ok(Program { memory, image, exe: Some(exe()?) })
    }
}

impl Program<CoreFile> {
    /// Of a core file, with the executable if it was completed with one.
    pub fn of_core(core: CoreFile, image: Image) -> Result<Program<CoreFile>, Refused> {
        let exe = core.program().map(|(_, file)| file.try_clone()).transpose();
        let exe = exe.map_err(|e| Refused::new(format!("its executable cannot be opened twice: {e}")))?;
        Ok(Program { memory: core, image, exe })
    }
}

impl<M: Memory> Program<M> {
    /// Its heap profile. See [`heap::profile`].
    pub fn heap(&self, taken: SystemTime) -> Result<HeapProfile, Refused> {
        let reader = Reader::new(&self.memory);
        heap::profile(&Runtime::find(&reader, &self.image)?, unix_ns(taken))
    }

    /// Its MemStats alone, read `now`. See [`MemStats::read`].
    pub fn memstats(&self, now: SystemTime) -> Result<MemStats, Refused> {
        let reader = Reader::new(&self.memory);
        let stats = MemStats::read(&Runtime::find(&reader, &self.image)?)?;
        Ok(MemStats { read_unix_ns: unix_ns(now), ..stats })
    }

    /// Where its counts of what collections cost are. See [`collector::Places`].
    pub fn collector(&self) -> Result<collector::Places, collector::NoPlaces> {
        let reader = Reader::new(&self.memory);
        collector::Places::find(&Runtime::find(&reader, &self.image)?)
    }

    /// Who holds what is live on its heap. `max_bytes` is what the walk may take for itself. See [`objects::holders`].
    pub fn holders(&self, max_bytes: u64) -> Result<Holders, Refused> {
        let reader = Reader::within(&self.memory, MAX_OBJECT_BYTES);
        let runtime = Runtime::find(&reader, &self.image)?;
        let exe = self.exe.as_ref().map(File::try_clone).transpose();
        let exe = exe.map_err(|e| Refused::new(format!("its executable cannot be opened twice: {e}")))?;
        let mut variables = exe.map(|exe| Variables::of_symbols(exe, self.image.bias, runtime.modules())).transpose()?.unwrap_or_default();
        if variables.is_empty() {
            variables = Variables::of_code(&runtime, &runtime.functions()?)?;
        }
        objects::holders(&runtime, variables, self.image.main_module.as_deref(), max_bytes)
    }

    /// All but the objects; see [`evidence::read`].
    pub fn evidence(&self, now_ns: Option<u64>, taken: SystemTime) -> Result<Evidence, Refused> {
        evidence::read(&self.memory, &self.image, now_ns, taken)
    }

    /// Which of these addresses lie in arenas of the heap, by the runtime's own directory (`mheap_.arenas`).
    pub fn in_arenas(&self, addresses: impl Iterator<Item = u64>) -> Result<Vec<bool>, Refused> {
        let reader = Reader::new(&self.memory);
        let runtime = Runtime::find(&reader, &self.image)?;
        let arenas = runtime.arenas()?;
        // the user's half
        let is_arena = |address: u64| address < 1 << 47 && arenas.at(address).is_ok_and(|arena| arena != 0);
        Ok(addresses.map(is_arena).collect())
    }
}

/// The heap profile of a process, `taken` now. See [`heap::profile`].
pub fn heap_of(process: &ProcDir, taken: SystemTime) -> Result<HeapProfile, Refused> {
    Program::of_process(process)?.heap(taken)
}

/// Who holds what is live on the heap of a process. See [`Program::holders`].
pub fn holders_of(process: &ProcDir, max_bytes: u64) -> Result<Holders, Refused> {
    Program::of_process(process)?.holders(max_bytes)
}

/// As a profile says when it was taken.
fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The memory of a process. Needs its uid, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
pub fn memory_of(process: &ProcDir) -> Result<LiveMemory, Refused> {
    process.open("mem").map(LiveMemory::new).map_err(|e| Refused::new(format!("its memory cannot be opened: {e}")))
}
