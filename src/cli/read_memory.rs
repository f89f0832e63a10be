//! `memtrap read-memory`: the child of a capture that reads a process's memory; not for people.

use std::io::Write;

use super::Failure;
use super::analyze::confine;
use crate::capture::memory as child;
use crate::clock::{self, Mono};
use crate::goruntime::Program;
use crate::goruntime::collector::NoPlaces;
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
    /// MemStats, and nothing else
    #[arg(long, conflicts_with = "holders")]
    memstats: bool,
    /// Where the counts of what collections cost are, and nothing else; `null` before the first
    #[arg(long, conflicts_with_all = ["holders", "memstats"])]
    collector: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    confine()?;
    let process = ProcFs::host().dir_of(InstanceId { pid: args.pid, start_ticks: args.start_ticks })?;
    let program = Program::of_process(&process)?;
    if args.holders {
        return super::print(&serde_json::to_string(&program.holders(child::WALK.0)?)?);
    }
    if args.memstats {
        return super::print(&program.memstats(clock::wall_now())?.to_string());
    }
    if args.collector {
        let places = match program.collector() {
            Ok(places) => Some(places),
            Err(NoPlaces::Yet) => None,
            Err(NoPlaces::Never(why)) => return Err(why.into()),
        };
        return super::print(&serde_json::to_string(&places)?);
    }
    let read = program.evidence(Some(Mono::now().as_nanos()), clock::wall_now())?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&child::printed(&read)?)?;
    Ok(stdout.flush()?)
}
