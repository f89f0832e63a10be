//! Takes the steps of a plan, one after the other, and records how each ended.

mod either;
mod slowing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch::Receiver;

use super::attempts::{Got, Want};
use super::fetch::{self, Bounds, Endpoint, Failure};
use super::kernel::{KernelError, KernelOptions, KernelStep};
use super::memory::Reading;
use super::plan::{Step, Work, from_memory, is_heavy};
use super::reach::Reach;
use super::sink::{Body, Inflatable};
use super::step_result::{StepOutcome, StepResult};
use super::watch::{Ended, Watch};
use super::{Env, Progress, Request, collected, discover, endpoint};
use crate::aside::Lane;
use crate::bundle::{BundleFile, Note, Outcome, Partial};
use crate::clock::{self, Mono};
use crate::host::ProcError;
use crate::units::ByteSize;

/// Per file, where the disk is nearly full.
const MAX_ON_LOW_DISK: ByteSize = ByteSize::mib(16);
/// Allocation sites of a service whose `heap?debug=1` is not asked for: it names every frame of every one, for some 0.3 ms each, and goes on
/// with that after nobody waits any more.
const MAX_SITES: u64 = 20_000;
/// More would not be compared.
const MAX_CMDLINE: usize = 60 << 10;

pub(super) struct Runner<'a> {
    pub(super) request: &'a Request,
    env: &'a Env,
    pub(super) partial: Partial,
    /// Where the disk is used.
    pub(super) lane: Lane,
    low_disk: bool,
    pub(super) inflatable: Inflatable,
    pub(super) watch: Watch,
    pub(super) reach: Reach,
    preparing: Option<endpoint::Preparing>,
    pprof: Pprof,
    /// Of the process's memory, once it was wanted.
    reading: Option<Arc<Result<Reading, String>>>,
    /// When MemStats were taken from that.
    memstats_read: Option<Mono>,
    silence: either::Silence,
    pub(super) slowing: slowing::Slowing,
    /// Why what pprof says is of another process, if that is known and memory is read instead.
    anothers: Option<String>,
    /// Something of the process was told by pprof.
    told: bool,
    /// What is tried again at the end of the plan, and why.
    late: Vec<(Step, &'static str)>,
    /// As the goroutine profile counts them.
    goroutines: Option<u64>,
    /// As the heap profile has them.
    sites: u64,
    /// `heap?debug=1` was too much for it once.
    no_memstats: bool,
    /// Something is missing that was wanted.
    lacking: bool,
    tell: &'a Tell<'a>,
}

/// Whoever wants to know how it goes on; told by the steps and by what goes on beside them.
pub(super) struct Tell<'a>(Mutex<&'a mut (dyn FnMut(Progress) + Send + Sync)>);

impl<'a> Tell<'a> {
    pub fn new(progress: &'a mut (dyn FnMut(Progress) + Send + Sync)) -> Tell<'a> {
        Tell(Mutex::new(progress))
    }

    pub fn say(&self, progress: Progress) {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner))(progress);
    }
}

/// What is known about the service's pprof handlers.
enum Pprof {
    Unasked,
    Ready {
        endpoint: Arc<Endpoint>,
        index: Option<Vec<u8>>,
    },
    /// Nothing can be asked: why.
    Unusable(String),
}

pub(super) struct Walked {
    pub partial: Partial,
    pub gone: Option<SystemTime>,
    pub stopped: bool,
    lacking: bool,
}

impl Walked {
    pub fn outcome(&self) -> Outcome {
        match (self.stopped, self.lacking) {
            (true, _) => Outcome::Interrupted,
            (false, true) => Outcome::Partial,
            (false, false) => Outcome::Complete,
        }
    }
}

impl<'a> Runner<'a> {
    pub fn new(
        request: &'a Request,
        env: &'a Env,
        partial: Partial,
        lane: Lane,
        low_disk: bool,
        stop: Receiver<bool>,
        tell: &'a Tell<'a>,
    ) -> Runner<'a> {
        let watch = Watch::new(env.procfs.clone(), request.instance, stop);
        let reach = Reach::default();
        let preparing = Some(endpoint::prepare(&request.target, request.instance, env));
        let slowing = slowing::Slowing::of(&partial);
        Runner {
            request,
            env,
            partial,
            lane,
            low_disk,
            inflatable: Inflatable::new(env.inflatable),
            watch,
            reach,
            preparing,
            pprof: Pprof::Unasked,
            reading: None,
            memstats_read: None,
            silence: either::Silence::default(),
            slowing,
            anothers: None,
            told: false,
            late: Vec::new(),
            goroutines: None,
            sites: 0,
            no_memstats: false,
            lacking: false,
            tell,
        }
    }

    /// Takes the steps in turn. What is not to be had now is left to [`Runner::walk_late`].
    pub async fn walk(&mut self, plan: Vec<Step>) {
        for step in plan {
            self.pass(step, None).await;
        }
    }

    pub fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// The other try of what was not to be had before.
    pub async fn walk_late(&mut self) {
        for (step, why) in std::mem::take(&mut self.late) {
            self.pass(step, Some(why)).await;
        }
    }

    async fn pass(&mut self, step: Step, late: Option<&'static str>) {
        self.tell.say(Progress::Started { file: step.file.clone() });
        let began = Mono::now();
        let mut taken = self.take(&step, late.is_some()).await;
        if let Some(why) = late {
            taken.attempts += 1;
            taken.notes.insert(0, format!("taken at the end of the plan, as {why}"));
        }
        let again = match taken.ending {
            StepOutcome::Late(why) if late.is_none() => Some(why),
            _ => None,
        };
        self.lacking |= again.is_none() && !matches!(taken.ending, StepOutcome::Ok | StepOutcome::Skipped { wanted: true });
        let milliseconds = Mono::now().since(began).as_millis() as u64;
        let entry = taken.entry(&step, milliseconds);
        self.tell.say(Progress::Done(entry.clone()));
        let note = self.partial.note(entry);
        self.written(note).await;
        self.late.extend(again.map(|why| (step, why)));
    }

    pub fn finish(mut self) -> Walked {
        let stopped = matches!(self.watch.check(), Some(Ended::Stopped)) && self.lacking;
        Walked { gone: self.watch.gone(), partial: self.partial, stopped, lacking: self.lacking }
    }

    async fn take(&mut self, step: &Step, is_late: bool) -> StepResult {
        if let Some(out) = &step.left_out {
            return StepResult::skipped(&out.reason, out.wanted);
        }
        if let Some(why) = self.watch.check() {
            return StepResult::skipped(why.to_string(), false);
        }
        if is_heavy(step)
            && let Some(slowed) = self.is_slowed().await
        {
            return slowing::put_off(&slowed, is_late);
        }
        if let Work::Kernel(kernel) = step.work {
            return self.kernel(kernel, &step.file).await;
        }
        match step.work {
            Work::Holders => return self.holders(&step.file).await,
            Work::MemStatsAfter => return self.memstats_after(&step.file).await,
            _ => {}
        }
        match from_memory(step, &self.request.target).filter(|_| self.may_read()) {
            Some(part) => self.take_either(step, part, is_late).await,
            None => self.take_told(step, is_late).await,
        }
    }

    async fn asked(&mut self, step: &Step) -> StepResult {
        let endpoint = match self.endpoint().await {
            Ok(endpoint) => endpoint,
            Err(reason) => return StepResult::default().failed(reason),
        };
        match &step.work {
            Work::Get { body: Body::MemStats, .. } if self.sites > MAX_SITES => StepResult::skipped(
                format!("{} allocation sites: `heap?debug=1`, which has MemStats, would keep the service busy naming them all", self.sites),
                false,
            ),
            Work::Get { body: Body::MemStats, .. } if self.no_memstats => {
                StepResult::skipped("it took too long before, and the service may still be busy with it", false)
            }
            Work::Get { rest, body, optional, seconds } => {
                let got = self.fetch(&endpoint, Want { file: &step.file, rest, body: *body, seconds: *seconds }).await;
                self.learn(step, &got).await;
                self.no_memstats |= *body == Body::MemStats && matches!(got.failure, Some(Failure::TimedOut { .. }));
                match got.failure {
                    Some(Failure::Status { code, .. }) if *optional && code.as_u16() == 404 => {
                        StepResult { ending: StepOutcome::Skipped { wanted: true }, ..got.taken }
                    }
                    _ => got.taken,
                }
            }
            Work::Kernel(_) | Work::Holders | Work::MemStatsAfter => StepResult::default(),
            Work::GoroutineText => self.goroutine_text(&endpoint, &step.file).await,
            Work::GoroutineLeak => self.goroutine_leak(&endpoint, &step.file).await,
            Work::Cpu { seconds } => self.cpu(&endpoint, &step.file, *seconds).await,
        }
    }

    /// For the reader of the bundle.
    pub(super) async fn say(&mut self, what: String) {
        let note = self.partial.warn(what);
        self.written(note).await;
    }

    async fn written(&self, note: Note) {
        // a journal that cannot be written costs the capture nothing
        let _ = self.lane.run(move || note.write()).await;
    }

    pub(super) fn max_file_size(&self) -> ByteSize {
        let max = self.request.target.capture.max_file_size;
        if self.low_disk { max.min(MAX_ON_LOW_DISK) } else { max }
    }

    async fn kernel(&mut self, step: KernelStep, name: &str) -> StepResult {
        let Some(id) = self.request.instance else { return StepResult::skipped("no process", false) };
        let (files, procfs, file) = (self.partial.files(), self.env.procfs.clone(), name.to_owned());
        let options = KernelOptions { max_file_size: self.max_file_size(), ..KernelOptions::default() };
        let patience = collected::patience(&self.request.target.capture);
        let unanswered = self.env.unanswered.clone();
        if unanswered.is_stuck(id) {
            return StepResult::default().failed("the kernel has not answered an earlier question about this process");
        }
        let collect = move |out: &mut BundleFile| unanswered.ask(id, || step.collect(&procfs, id, &options, out));
        let done = collected::within(patience, &self.lane, files, &file, collect).await;
        let source = match step {
            KernelStep::Cgroup | KernelStep::CgroupMembers => "/cgroup",
            KernelStep::Process => "",
            _ => &format!("/{}", step.file_name()),
        };
        let mut taken = StepResult { source: Some(format!("/proc/{}{source}", id.pid)), attempts: 1, ..StepResult::default() };
        let Some(done) = done else { return taken.failed(format!("the kernel has not answered within {}", clock::human(patience))) };
        let (result, sum) = match done {
            Ok(done) => done,
            Err(e) => return taken.failed(Failure::Disk(e).to_string()),
        };
        taken.file = sum.map(|sum| (file, sum));
        match result {
            Ok(_) => taken,
            Err(KernelError::Proc(ProcError::Gone { .. })) => {
                let why = self.watch.check().map_or_else(|| "process exited".to_owned(), |why| why.to_string());
                if taken.file.is_some() { taken.failed(format!("incomplete: {why}")) } else { taken.skip(why, false) }
            }
            Err(e) if e.is_skip() => {
                // what this kernel does not have is not missing
                let wanted = matches!(e, KernelError::NoCgroup { .. } | KernelError::Proc(ProcError::Absent { .. }));
                taken.skip(e.to_string(), wanted)
            }
            Err(e) => {
                let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
                taken.failed(format!("{e}{cause}"))
            }
        }
    }

    /// Why it answers nobody now. It may go on, so nothing is kept of this.
    fn halted(&self) -> Option<String> {
        let stat = self.env.procfs.dir_of(self.request.instance?).and_then(|dir| dir.stat()).ok()?;
        matches!(stat.state, 'T' | 't').then(|| "the process is stopped: it answers nothing until it gets SIGCONT".to_owned())
    }

    async fn endpoint(&mut self) -> Result<Arc<Endpoint>, String> {
        if let Some(why) = self.halted() {
            return Err(why);
        }
        if let Some(preparing) = self.preparing.take() {
            self.pprof = match preparing.finish(&mut self.watch).await {
                Ok(found) => {
                    for warning in found.warnings {
                        self.silence.is_doubted |= warning.is_mistaken();
                        let note = self.partial.warn(warning);
                        self.written(note).await;
                    }
                    Pprof::Ready { endpoint: found.endpoint, index: found.index }
                }
                Err(unusable) => {
                    if unusable.is_withheld {
                        let note = self.partial.warn(unusable.why.clone());
                        self.written(note).await;
                    }
                    Pprof::Unusable(unusable.why)
                }
            };
        }
        match &self.pprof {
            Pprof::Ready { endpoint, .. } => Ok(endpoint.clone()),
            Pprof::Unusable(reason) => Err(reason.clone()),
            Pprof::Unasked => Err("pprof was not asked".into()),
        }
    }

    /// What later steps want to know of this one's file.
    async fn learn(&mut self, step: &Step, got: &Got) {
        if got.taken.ending != StepOutcome::Ok {
            return;
        }
        if step.name == "goroutine" {
            self.goroutines = got.summary.and_then(|summary| summary.total.try_into().ok());
        } else if step.name == "heap" {
            self.sites = got.summary.map_or(0, |summary| summary.samples);
        } else if step.name == "cmdline"
            && let Some(id) = self.request.instance
        {
            let (files, file) = (self.partial.files(), step.file.clone());
            let said = self.lane.run(move || {
                let mut said = Vec::new();
                std::io::Read::read_to_end(&mut std::io::Read::take(files.read(&file).ok()?, MAX_CMDLINE as u64), &mut said).ok()?;
                Some(said)
            });
            let Ok(Some(said)) = said.await else { return };
            let (procfs, unanswered) = (self.env.procfs.clone(), self.env.unanswered.clone());
            let patience = collected::patience(&self.request.target.capture);
            let key = format!("pid {}", id.pid);
            let argv = self.env.threads.run_for(&key, patience, move || endpoint::argv(&procfs, id, &unanswered));
            let differs = |argv: Vec<u8>| said.len() < MAX_CMDLINE && said.strip_suffix(b"\0").unwrap_or(&said) != argv;
            if argv.await.ok().flatten().is_some_and(differs) {
                let why = format!("the service behind `pprof` reports other arguments (cmdline.txt) than process {} has", id.pid);
                self.leave_aside(why).await;
            }
        }
    }

    async fn goroutine_text(&mut self, endpoint: &Endpoint, file: &str) -> StepResult {
        let max = self.request.target.capture.max_goroutines_debug2;
        let (rest, note) = match self.goroutines {
            Some(n) if n <= max => ("goroutine?debug=2", None),
            Some(n) => {
                ("goroutine?debug=1", Some(format!("debug=1 instead of debug=2: {n} goroutines, above max_goroutines_debug2 = {max}")))
            }
            None => ("goroutine?debug=1", Some("debug=1 instead of debug=2: the number of goroutines is not known".to_owned())),
        };
        let mut taken = self.fetch(endpoint, Want { file, rest, body: Body::GoroutineText, seconds: 0 }).await.taken;
        taken.notes.splice(0..0, note);
        taken
    }

    async fn goroutine_leak(&mut self, endpoint: &Endpoint, file: &str) -> StepResult {
        let known = match &self.pprof {
            Pprof::Ready { index: Some(index), .. } => Some(discover::lists(index, "goroutineleak")),
            _ => None,
        };
        let listed = match known {
            Some(listed) => Ok(listed),
            None => {
                let bounds = Bounds { timeout: discover::INDEX.timeout.min(self.request.target.capture.step_timeout), ..discover::INDEX };
                let index = fetch::get_small(endpoint, endpoint.url(""), bounds, &mut self.watch).await;
                index.map(|page| discover::lists(&page, "goroutineleak"))
            }
        };
        match listed {
            Ok(true) => self.fetch(endpoint, Want { file, rest: "goroutineleak", body: Body::Profile, seconds: 0 }).await.taken,
            Ok(false) => StepResult::skipped("the index of this service does not list it: Go has it from 1.27 on", true),
            Err(Failure::Ended(why)) => StepResult::skipped(why.to_string(), false),
            Err(e) => StepResult::skipped(format!("the index, which would list it, cannot be read: {e}"), true),
        }
    }

    async fn cpu(&mut self, endpoint: &Endpoint, file: &str, wanted: u64) -> StepResult {
        let mut seconds = wanted;
        let mut attempts = 0;
        let mut notes = Vec::new();
        loop {
            let rest = format!("profile?seconds={seconds}");
            let mut got = self.fetch(endpoint, Want { file, rest: &rest, body: Body::Profile, seconds }).await;
            got.taken.attempts += attempts;
            match &got.failure {
                Some(Failure::Status { code, line, .. }) if code.as_u16() == 400 && line.contains("WriteTimeout") && seconds > 1 => {
                    notes.push(format!("{seconds} s are refused: longer than the server's WriteTimeout"));
                    seconds /= 2;
                    attempts = got.taken.attempts;
                    continue;
                }
                Some(Failure::Status { code, line, .. }) if code.as_u16() == 500 && line.contains("already in use") => {
                    got.taken.ending = StepOutcome::Late("CPU profiling was in use before");
                }
                _ if seconds != wanted => notes.push(format!("{seconds} s instead of {wanted} s")),
                _ => {}
            }
            got.taken.notes.splice(0..0, notes);
            return got.taken;
        }
    }
}
