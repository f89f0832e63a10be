//! `memtrap capture`: now, cooldown or not.

use std::sync::{Arc, Mutex};

use tokio::signal::unix::SignalKind;
use tokio::sync::watch;

use super::live::Screen;
use super::signals::Signals;
use super::target::{TargetArgs, the_one};
use super::{Failure, print_exactly};
use crate::capture::{self, Captured, Progress};
use crate::clock::{self, Mono};
use crate::host::{ProcFs, limit};
use crate::poll::{Reading, Statm};
use crate::series::{Kept, Sample};
use crate::trigger::Fired;
use crate::units::ByteSize;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap capture --pid 4821
  memtrap capture --unit checkout.service --pprof http://127.0.0.1:6060/debug/pprof -o /var/tmp/bundles
  less \"$(memtrap capture --listen :6060 --cpu-seconds 0)\"/README.md

Exit status: 0 if a bundle with evidence was saved, even if only the kernel's side (its manifest.json says what is missing and why); 1 if none
was; 2 for bad arguments; 128 + N if signal N (Ctrl-C: 130) ended it early, and the bundle holds what was captured until then.")]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let target = args.target.target()?;
    let procfs = ProcFs::host();
    let process = target.source.process().ok_or_else(|| Failure::usage("no process named; see --help"))?;
    let instance = the_one(&procfs, process)?;
    let rss = match Statm::new(procfs.statm_file(instance)?).read() {
        Reading::Rss(rss) => rss,
        Reading::Gone | Reading::Another => return Err(Failure::job(format_args!("pid {} has just ended", instance.pid))),
        Reading::Blind(why) => return Err(Failure::job(format_args!("pid {}: {why}", instance.pid))),
    };
    let limit = limit::effective(&procfs, instance.pid).ok();
    let env = capture::Env::new(procfs.clone(), args.target.bundle_dir()?, procfs.boot_id()?);
    let request = capture::Request {
        incident_id: format!("{}-{}-{}", target.name, clock::compact_utc(clock::wall_now()), instance.pid),
        part: 1,
        scope: capture::Scope::Full,
        target: Arc::new(target),
        instance: Some(instance),
        remote: None,
        no_pprof: None,
        warning: None,
        instance_label: format!("pid {}", instance.pid),
        workload: None,
        fired: Fired::manual(rss, limit.map(|l| l.bytes), format!("asked for at the command line, at RSS {}", ByteSize(rss))),
        started: clock::wall_now(),
        timeline: Arc::new(Mutex::new(vec![Kept::reading(Sample { at: Mono::now(), rss })])),
        floors: Vec::new(),
        oom: None,
        answers_early: true,
        min_free: ByteSize(0),
        hurry: false,
        baselines: None,
        lang: args.target.lang,
    };

    let (stop_tx, stop) = watch::channel(false);
    let mut signals = Signals::listen()?;
    let mut ended_by = None;
    let mut screen = Screen::new();
    screen.line(&format!("capturing pid {} at RSS {}", instance.pid, ByteSize(rss)));
    let mut show = |progress: Progress| screen.step(&progress);
    let mut running = Box::pin(capture::run(request, &env, stop, &mut show));
    let done: Captured = loop {
        tokio::select! {
            result = &mut running => break result?,
            by = signals.recv() => {
                // a lost session may send several others
                if ended_by.is_some() && by == SignalKind::interrupt() {
                    return Err(Failure::signalled(by, "interrupted twice; what was captured is in the directory that ends in .partial"));
                }
                // what is there becomes a bundle
                ended_by.get_or_insert(by);
                stop_tx.send_replace(true);
            }
        }
    };
    drop(running);
    for warning in &done.warnings {
        screen.line(&format!("warning: {warning}"));
    }
    if let Some(verdict) = &done.verdict {
        screen.line(verdict);
    }
    let printed = print_exactly(&format!("{}\n", done.path.display()));
    if let Some(by) = ended_by {
        return Err(Failure::signalled(by, "ended early by a signal; the bundle holds what was captured until then"));
    }
    printed?;
    if done.evidence { Ok(()) } else { Err(Failure::job("nothing could be captured; the bundle's manifest.json says why")) }
}
