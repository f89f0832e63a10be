//! `memtrap holders`: who holds what is live on the heap, of a process, a core file or a bundle.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Failure, core};
use crate::goruntime;
use crate::holders::{self, Holders};
use crate::host::ProcFs;

const EXAMPLES: &str = "\
Examples:
  memtrap holders --pid 4821                     what would be freed without each variable, goroutine, timer
  memtrap holders /var/lib/memtrap/bundles/checkout/20261123T081336Z-threshold-1.52GiB
  memtrap holders core.4821 --exe ./checkout
  memtrap holders --pid 4821 --format json | jq '.holders[0].path'";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[group(id = "of", required = true)]
pub struct Args {
    /// A bundle, its holders.json, or the core file of a Go process
    #[arg(value_name = "BUNDLE", group = "of")]
    bundle: Option<PathBuf>,

    /// The executable that a core file is of [default: the path that the core names]
    #[arg(long, value_name = "BINARY", conflicts_with = "pid")]
    exe: Option<PathBuf>,

    /// A Go process, which is not stopped and need not serve pprof: its memory is read
    #[arg(long, value_name = "N", group = "of")]
    pid: Option<u32>,

    /// Holders to show at most
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 20)]
    count: usize,

    /// How to print them
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,

    /// Memory that the walk may take: about 35 bytes for each place for an object
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    memory: crate::units::ByteSize,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let holders = match (&args.bundle, args.pid) {
        (Some(path), _) if core::is_core(path)? => of_core(path, args.exe.as_deref(), args.memory.0)?,
        (Some(path), _) if args.exe.is_some() => {
            return Err(Failure::usage(format_args!("{} is no core file: --exe goes with one", path.display())));
        }
        (Some(path), _) => of_bundle(path)?,
        (None, pid) => of_process(pid.unwrap_or_default(), args.memory.0)?,
    };
    match args.format {
        Format::Text => super::print(&holders.text(args.count)),
        Format::Json => super::print(&format!("{}\n", serde_json::to_string_pretty(&holders)?)),
    }
}

fn of_process(pid: u32, memory: u64) -> Result<Holders, Failure> {
    let refused = |e: &dyn std::fmt::Display| Failure::job(format_args!("the objects of process {pid} cannot be read: {e}"));
    let process = ProcFs::host().dir(pid).map_err(|e| refused(&e))?;
    goruntime::holders_of(&process, memory).map_err(|e| refused(&e))
}

fn of_core(path: &Path, exe: Option<&Path>, memory: u64) -> Result<Holders, Failure> {
    let holders = core::open(path, exe)?.program.holders(memory);
    holders.map_err(|e| Failure::job(format_args!("the objects of {} cannot be read: {e}", path.display())))
}

fn of_bundle(path: &Path) -> Result<Holders, Failure> {
    let file = if path.is_dir() { path.join(holders::FILE) } else { path.to_owned() };
    let failed = |e: &dyn std::fmt::Display| Failure::job(format_args!("{}: {e}", file.display()));
    let mut text = Vec::new();
    File::open(&file).and_then(|open| open.take(holders::MAX_BYTES).read_to_end(&mut text)).map_err(|e| failed(&e))?;
    Holders::parse(&text).map_err(|e| failed(&e))
}
