//! What the collectors of processes have done, for the watcher. Where that is told is found out by a process of its own, one at a time; the reading
//! itself is a few words of the process's memory and its CPU time.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::aside::Threads;
use crate::capture;
use crate::clock::Mono;
use crate::error::chain;
use crate::goruntime::collector::{Collector, Places};
use crate::goruntime::memory_of;
use crate::host::ProcFs;
use crate::identity::InstanceId;
use crate::poll::{CollectorAnswer, CollectorAsk, CollectorTold, Command};
use crate::trigger::{Collections, gc};

/// Readings that may hang, each with all that are asked for at the same time.
const THREADS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Collectors {
    env: Arc<capture::Env>,
    commands: Sender<Command>,
    threads: Threads,
    finder: Arc<Semaphore>,
}

impl Collectors {
    pub fn new(env: Arc<capture::Env>, commands: Sender<Command>) -> Collectors {
        Collectors { env, commands, threads: Threads::new("collectors", THREADS), finder: Arc::new(Semaphore::new(1)) }
    }

    /// Answers all of them, sooner or later, but for what hangs.
    pub fn ask(&self, asks: Vec<CollectorAsk>) {
        let (known, unknown): (Vec<_>, Vec<_>) = asks.into_iter().partition(|ask| ask.places.is_some());
        let (lost, known): (Vec<_>, Vec<_>) = known.into_iter().partition(|ask| ask.is_lost);
        let batches = std::iter::once(known).chain(lost.into_iter().map(|ask| vec![ask])).filter(|batch| !batch.is_empty());
        batches.for_each(|batch| self.read(batch));
        unknown.into_iter().for_each(|ask| self.find(ask));
    }

    fn find(&self, ask: CollectorAsk) {
        let (env, commands, finder) = (self.env.clone(), self.commands.clone(), self.finder.clone());
        tokio::spawn(async move {
            let Ok(_turn) = finder.acquire().await else { return };
            let found = match capture::collector_places(ask.instance, &env).await {
                Ok(Some(places)) => Ok(CollectorAnswer::Places(Arc::new(places))),
                Ok(None) => Ok(CollectorAnswer::NotYet),
                Err(why) => Err(why),
            };
            tell(&commands, ask, found);
        });
    }

    fn read(&self, batch: Vec<CollectorAsk>) {
        let (procfs, commands, threads) = (self.env.procfs.clone(), self.commands.clone(), self.threads.clone());
        tokio::spawn(async move {
            let read = move || {
                for ask in batch {
                    let Some(places) = ask.places.clone() else { continue };
                    let found = counts(&procfs, ask.instance, &places).map(CollectorAnswer::Counts);
                    tell(&commands, ask, found);
                }
            };
            // what hangs is asked for again by the watcher
            if let Err(why) = threads.run(PATIENCE, read).await {
                tracing::debug!(error = chain(&why), "collectors were not read");
            }
        });
    }
}

/// A watcher that is gone needs no answer.
fn tell(commands: &Sender<Command>, ask: CollectorAsk, found: Result<CollectorAnswer, String>) {
    let _ = commands.send(Command::Collector(CollectorTold { target: ask.target, slot: ask.slot, instance: ask.instance.into(), found }));
}

/// May wait for the process.
fn counts(procfs: &ProcFs, id: InstanceId, places: &Places) -> Result<Collections, String> {
    let process = procfs.dir_of(id).map_err(|e| chain(&e))?;
    let memory = memory_of(&process).map_err(|why| why.to_string())?;
    let Collector { num_gc, ended, collecting, idle_workers, busy, live_bytes, goal_bytes, by_limit, gogc, limit_bytes } =
        places.read(&memory).map_err(|why| why.to_string())?;
    let stat = process.stat().map_err(|e| chain(&e))?;
    let hz = rustix::param::clock_ticks_per_second().max(1);
    let heap = gc::Heap { live_bytes, goal_bytes, by_limit, memory_limit_bytes: limit_bytes, gogc: Some(gogc.map_or(-1, i64::from)) };
    Ok(Collections {
        at: Mono::now(),
        cpu: Duration::from_secs_f64((stat.utime.saturating_add(stat.stime)) as f64 / hz as f64),
        count: num_gc,
        ended,
        collecting,
        ps: Some(gc::Ps { busy, idle_workers }),
        heap: Some(heap),
        live_at_most: false,
    })
}
