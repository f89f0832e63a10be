//! `memtrap capture`: now, cooldown or not.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use tokio::signal::unix::SignalKind;
use tokio::sync::watch;

use super::live::Screen;
use super::signals::Signals;
use super::target::{TargetArgs, the_one};
use super::{Failure, print_exactly};
use crate::bundle::RemoteInstance;
use crate::capture::{self, Captured, Progress};
use crate::clock::{self, Mono};
use crate::config::{self, Process, Source};
use crate::host::{ProcFs, limit};
use crate::identity::{InstanceId, SeriesId};
use crate::poll::{Reading, Statm};
use crate::series::{Kept, Sample};
use crate::source;
use crate::trigger::Fired;
use crate::units::ByteSize;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap capture --pid 4821
  memtrap capture --unit checkout.service --pprof http://127.0.0.1:6060/debug/pprof -o /var/tmp/bundles
  less \"$(memtrap capture --listen :6060 --cpu-seconds 0)\"/README.md
  memtrap capture --pprof http://checkout.shop.svc:6060/debug/pprof    whoever serves there; RSS is what its /metrics says

Exit status: 0 if a bundle with evidence was saved, even if only the kernel's side (its manifest.json says what is missing and why); 1 if none
was; 2 for bad arguments; 128 + N if signal N (Ctrl-C: 130) ended it early, and the bundle holds what was captured until then.")]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,
}

/// Whom to capture, and what is known of it before.
struct Who {
    target: config::Target,
    instance: Option<InstanceId>,
    remote: Option<RemoteInstance>,
    /// For people, and within the incident's id.
    label: String,
    mark: String,
    rss: Option<u64>,
    limit: Option<u64>,
    warning: Option<String>,
}

impl Who {
    fn process(procfs: &ProcFs, target: config::Target, instance: InstanceId) -> Result<Who, Failure> {
        let pid = instance.pid;
        let rss = match Statm::new(procfs.statm_file(instance)?).read() {
            Reading::Rss(rss) => rss,
            Reading::Gone | Reading::Another => return Err(Failure::job(format_args!("pid {pid} has just ended"))),
            Reading::Blind(why) => return Err(Failure::job(format_args!("pid {pid}: {why}"))),
        };
        let limit = limit::effective(procfs, pid).ok().map(|limit| limit.bytes);
        let (label, mark) = (format!("pid {pid}"), pid.to_string());
        Ok(Who { target, instance: Some(instance), remote: None, label, mark, rss: Some(rss), limit, warning: None })
    }

    /// Whoever serves at the target's address: the process, if it is one of this host; else what its metrics tell of it.
    async fn at(procfs: &ProcFs, target: config::Target, listener: Option<Process>, env: &capture::Env) -> Result<Who, Failure> {
        let mut warning = None;
        if let Some(process) = listener {
            match the_one(procfs, &process) {
                Ok(instance) => return Who::process(procfs, config::Target { source: process.into(), ..target }, instance),
                Err(why) => {
                    warning =
                        Some(format!("the process behind the address is not known, so there is no evidence of the kernel's: {}", why.why()))
                }
            }
        }
        let asked = source::ask_once(&target, &env.clients).await;
        let read = asked.and_then(|found| match (found.readings.into_iter().next(), found.trouble) {
            (Some(reading), _) => reading.rss.clone().map(|rss| (reading, rss)),
            (None, why) => Err(why.unwrap_or_else(|| "it tells of no process".into())),
        });
        let label = match &target.source {
            Source::Metrics(metrics) => metrics.url.trim_end_matches("/metrics").to_owned(),
            _ => target.name.clone(),
        };
        let mark = "address".to_owned();
        let (remote, rss) = match read {
            Ok((reading, rss)) => {
                let id = SeriesId { series: reading.who.series.clone(), started_unix_ms: reading.started_unix_ms };
                let started = reading.started_unix_ms.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
                let age_seconds = started.and_then(|at| clock::wall_now().duration_since(at).ok()).map(|age| age.as_secs_f64());
                let go_memstats = reading.go.as_deref().copied();
                (Some(RemoteInstance { id, rss_bytes: rss, limit_bytes: None, limit_source: None, age_seconds, go_memstats }), Some(rss))
            }
            Err(why) => {
                let unknown = format!("the RSS is unknown, so nothing says whether the heap explains it: {why}");
                warning = Some(warning.map_or(unknown.clone(), |first| format!("{first}; {unknown}")));
                (None, None)
            }
        };
        Ok(Who { target, instance: None, remote, label, mark, rss, limit: None, warning })
    }
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let procfs = ProcFs::host();
    let env = capture::Env::new(procfs.clone(), args.target.bundle_dir()?, procfs.boot_id()?);
    let who = match args.target.at_address() {
        Some(target) => Who::at(&procfs, target, args.target.listener(), &env).await?,
        None => {
            let target = args.target.target()?;
            let process = target.source.process().ok_or_else(|| Failure::usage("no process named; see --help"))?;
            let instance = the_one(&procfs, process)?;
            Who::process(&procfs, target, instance)?
        }
    };
    let at_rss = who.rss.map_or_else(|| "RSS unknown".to_owned(), |rss| format!("at RSS {}", ByteSize(rss)));
    let mut screen = Screen::new();
    screen.line(&format!("capturing {}, {at_rss}", who.label));
    let request = capture::Request {
        incident_id: format!("{}-{}-{}", who.target.name, clock::compact_utc(clock::wall_now()), who.mark),
        part: 1,
        scope: capture::Scope::Full,
        target: Arc::new(who.target),
        instance: who.instance,
        remote: who.remote,
        no_pprof: None,
        warning: who.warning.map(Into::into),
        instance_label: who.label,
        workload: None,
        fired: Fired::manual(who.rss.unwrap_or(0), who.limit, format!("asked for at the command line, {at_rss}")),
        started: clock::wall_now(),
        timeline: Arc::new(Mutex::new(who.rss.map(|rss| Kept::reading(Sample { at: Mono::now(), rss })).into_iter().collect())),
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
