//! `memtrap top`: what `go tool pprof -top` prints, where no Go toolchain is installed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::rules::whole;
use super::target::MAX_PID;
use super::{Failure, core};
use crate::analysis::single::{self, Single, SingleError};
use crate::clock;
use crate::goruntime;
use crate::host::ProcFs;
use crate::pprof::{Limits, Profile, TimeZone, top};

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  memtrap top heap_gc.pb.gz
  memtrap top allocs.pb.gz --sample-index alloc_objects -n 20
  memtrap top heap_gc.pb.gz --base baseline/heap.pb.gz
  memtrap top profile.pb.gz --cum
  memtrap top --pid 4821
  memtrap top core.4821 --exe ./checkout")]
pub struct Args {
    /// A profile as /debug/pprof serves it, gzipped or not; heap?debug=1 and goroutines as text will do, and the core file of a Go process
    #[arg(value_name = "PROFILE", required_unless_present = "pid", conflicts_with = "pid")]
    pub profile: Option<PathBuf>,

    /// The heap of this Go process, read from its memory: it need not serve pprof, is not stopped, and may be stripped
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1..=MAX_PID, "4821"))]
    pub pid: Option<u32>,

    /// The executable that a core file is of [default: the path that the core names]
    #[arg(long, value_name = "BINARY", conflicts_with = "pid")]
    pub exe: Option<PathBuf>,

    /// What to count: a sample type's name, such as inuse_space, or its number from 0 [default: the profile's own choice]
    #[arg(long, short = 'i', value_name = "I")]
    pub sample_index: Option<String>,

    /// Order by cumulative value, that is with everything a function called
    #[arg(long)]
    pub cum: bool,

    /// Subtract this profile: shows what grew since it was taken
    #[arg(long, value_name = "PROFILE")]
    pub base: Option<PathBuf>,

    /// Rows to show at most; 0 shows all that are not too small
    #[arg(short = 'n', long = "nodecount", value_name = "N", allow_negative_numbers = true, value_parser = whole(0..=1_000_000usize, "20"))]
    pub count: Option<usize>,
}

/// Prints the table. Times are in the zone of `TZ`, or else of /etc/localtime.
pub fn run(args: Args) -> Result<(), Failure> {
    let (profile, name) = match (&args.profile, args.pid) {
        (Some(path), _) => (read(path, args.exe.as_deref())?, path.display().to_string()),
        (None, pid) => live(pid.unwrap_or_default())?,
    };
    let base = args.base.as_deref().map(|base| read(base, None)).transpose()?;
    let options = top::Options { sample_index: args.sample_index, cum: args.cum, node_count: args.count, ..top::Options::default() };
    let text = top::text(&profile, base.as_ref(), &options, &local_zone());
    super::print(&text.map_err(|e| Failure::usage(format_args!("{name}: {e}")))?)
}

/// The heap profile of a process, out of its memory, and what to call it.
fn live(pid: u32) -> Result<(Profile, String), Failure> {
    let refused = |e: &dyn std::fmt::Display| Failure::job(format_args!("the heap of process {pid} cannot be read: {e}"));
    let process = ProcFs::host().dir(pid).map_err(|e| refused(&e))?;
    let read = goruntime::heap_of(&process, clock::wall_now()).map_err(|e| refused(&e))?;
    let profile = Profile::parse(&read.gzipped, &Limits::default()).map_err(|e| refused(&e))?;
    Ok((profile, format!("process {pid}")))
}

/// Decodes a profile, gzipped or not, or its form as text; of a core file, the heap profile in it.
fn read(path: &Path, exe: Option<&Path>) -> Result<Profile, Failure> {
    if !core::is_core(path)? {
        return match exe {
            Some(_) => Err(Failure::usage(format_args!("{} is no core file: --exe goes with one", path.display()))),
            None => Ok(single(path)?.profile),
        };
    }
    let refused = |e: &dyn std::fmt::Display| Failure::job(format_args!("the heap of {} cannot be read: {e}", path.display()));
    let core = core::open(path, exe)?;
    let read = core.program.heap(core.taken).map_err(|e| refused(&e))?;
    Profile::parse(&read.gzipped, &Limits::default()).map_err(|e| refused(&e))
}

pub fn single(path: &Path) -> Result<Single, Failure> {
    single::read(path).map_err(|e| match e {
        SingleError::Directory { .. } => Failure::usage(e),
        e => Failure::job(e),
    })
}

/// The zone that Go's `time.Local` would be.
fn local_zone() -> TimeZone {
    let load = |path: &Path| {
        let mut bytes = Vec::new();
        File::open(path).ok()?.take(MAX_ZONE_FILE).read_to_end(&mut bytes).ok()?;
        TimeZone::tzif("", &bytes).ok()
    };
    let zone = match std::env::var("TZ") {
        Err(_) => load(Path::new("/etc/localtime")),
        Ok(name) => match name.strip_prefix(':').unwrap_or(&name) {
            "" | "UTC" => None,
            path if path.starts_with('/') => load(Path::new(path)),
            name => {
                ZONE_DIRS.iter().map(|dir| Path::new(dir).join(name)).filter(|path| fs::metadata(path).is_ok()).find_map(|path| load(&path))
            }
        },
    };
    zone.unwrap_or(TimeZone::UTC)
}

const MAX_ZONE_FILE: u64 = 64 << 10;
const ZONE_DIRS: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];
