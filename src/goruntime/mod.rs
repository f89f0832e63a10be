//! Go's runtime, read from outside: what `/debug/pprof` would say of a process, out of its memory.
//!
//! No request, no stop, no collection, nothing written: `/proc/PID/mem` is read while the process runs, hangs or is frozen. Nothing in
//! the process has to be prepared, and its executable may be stripped.
//!
//! ```text
//!  image      which Go, where its segments lie                      (ELF headers, build info, maps)
//!    └ layout     where this Go keeps its fields                    (a table: one column per minor release)
//!    └ module     runtime.firstmoduledata                           (found by the function table that it points to)
//!        └ functions   names, files, lines, inlined calls           (pclntab)
//!        └ globals     mheap_, memstats, mbuckets, allp …           (read off the runtime's own code)
//!            ├ memstats   MemStats
//!            ├ heap       the buckets as a pprof profile
//!            ├ goroutines grouped by stack                        (unwind; goroutine_files: as a profile and as text)
//!            └ objects    who holds what                          (spans, masks, roots, dominators; see there)
//! ```
//!
//! Every address, length and count is the target's word: reads are bounded by [`memory::Reader`], and each part checks what it reads
//! against something else that it reads. A part that does not fit is [`Refused`], with the reason, and others go on.
//!
//! [`evidence`] reads all but the objects. Deliberately not here: what is done with it, and contents: only names, addresses, counts and sizes leave this room.

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

use std::fmt;
use std::time::SystemTime;

use crate::holders::Holders;
use crate::host::ProcDir;
use functions::Functions;
use globals::Globals;
use heap::HeapProfile;
use image::Image;
use layout::Layout;
use memory::{LiveMemory, Reader};
use module::Module;
use variables::Variables;

/// Objects with pointers in them, of the largest heaps.
const MAX_OBJECT_BYTES: u64 = 1 << 40;
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
}

impl<'m> Runtime<'m> {
    pub fn find(memory: &'m Reader<'m>, image: &Image) -> Result<Runtime<'m>, Refused> {
        let layout = Layout::of(&image.go_version)?;
        let module = Module::find(memory, image, &layout)?;
        let globals = Globals::find(memory, &module, &Functions::new(memory, &module, &layout)?, &layout)?;
        Ok(Runtime { memory, layout, module, globals })
    }

    pub fn functions(&self) -> Result<Functions<'_>, Refused> {
        Functions::new(self.memory, &self.module, &self.layout)
    }

    /// Addresses of the Ps.
    fn ps(&self) -> Result<Vec<u64>, Refused> {
        let at = self.globals.allp.ok_or_else(|| Refused::new("runtime.allp was not found in its code"))?;
        self.memory.words(self.memory.u64(at)?, self.memory.u64(at.wrapping_add(8))?, MAX_PS)
    }

    /// Where `mheap_.allspans` is.
    fn list_of_spans(&self) -> Result<u64, Refused> {
        let heap = self.globals.mheap.ok_or_else(|| Refused::new("runtime.mheap_ was not found in its code"))?;
        Ok(heap.wrapping_add(self.layout.field("runtime.mheap", "allspans")?.offset.into()))
    }
}

/// The heap profile of a process, `taken` now. See [`heap::profile`].
pub fn heap_of(process: &ProcDir, taken: SystemTime) -> Result<HeapProfile, Refused> {
    let memory = memory_of(process)?;
    let reader = Reader::new(&memory);
    let runtime = Runtime::find(&reader, &Image::of(process)?)?;
    heap::profile(&runtime, unix_ns(taken))
}

/// Who holds what is live on the heap of a process. `max_bytes` is what the walk may take for itself. See [`objects::holders`].
pub fn holders_of(process: &ProcDir, max_bytes: u64) -> Result<Holders, Refused> {
    let memory = memory_of(process)?;
    let reader = Reader::within(&memory, MAX_OBJECT_BYTES);
    let image = Image::of(process)?;
    let runtime = Runtime::find(&reader, &image)?;
    let exe = process.open("exe").map_err(|e| Refused::new(format!("its executable cannot be read: {e}")))?;
    let others = runtime.module.others(&reader, &runtime.layout);
    let modules: Vec<&Module> = std::iter::once(&runtime.module).chain(&others).collect();
    let mut variables = Variables::of_symbols(exe, image.bias, &modules)?;
    if variables.is_empty() {
        variables = Variables::of_code(&runtime, &runtime.functions()?)?;
    }
    objects::holders(&runtime, variables, image.main_module.as_deref(), max_bytes)
}

/// As a profile says when it was taken.
fn unix_ns(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The memory of a process. Needs its uid, or CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
pub fn memory_of(process: &ProcDir) -> Result<LiveMemory, Refused> {
    process.open("mem").map(LiveMemory::new).map_err(|e| Refused::new(format!("its memory cannot be opened: {e}")))
}
