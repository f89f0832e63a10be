//! `memtrap read-memory`: the child of a capture that reads a process's memory; not for people.

use std::io::Write;

use super::Failure;
use super::analyze::confine;
use crate::capture::memory as child;
use crate::clock::{self, Mono};
use crate::goruntime::image::Image;
use crate::goruntime::{self, evidence, memory_of};
use crate::host::ProcFs;
use crate::identity::InstanceId;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pid: u32,
    /// Field 22 of its stat: another process of this number is not read
    #[arg(long)]
    start_ticks: u64,
    /// Who holds what is live, and nothing else
    #[arg(long)]
    holders: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    confine()?;
    let process = ProcFs::host().dir_of(InstanceId { pid: args.pid, start_ticks: args.start_ticks })?;
    if args.holders {
        let holders = goruntime::holders_of(&process, child::WALK.0)?;
        return super::print(&serde_json::to_string(&holders)?);
    }
    let memory = memory_of(&process)?;
    let read = evidence::read(&memory, &Image::of(&process)?, Some(Mono::now().as_nanos()), clock::wall_now())?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&child::printed(&read)?)?;
    Ok(stdout.flush()?)
}
