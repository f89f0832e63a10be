//! Steps whose answer pprof gives or, in its place, the process's memory.
//!
//! What a bundle needs most does not wait for a service that hangs: a step that pprof does not answer soon is tried in memory, and those
//! that only pprof can answer are left to the end of the plan, with all the patience that they ever had.

use std::sync::Arc;
use std::time::Duration;

use super::super::fetch::Failure;
use super::super::memory::{self, Reading};
use super::super::plan::{Step, Work};
use super::super::step_result::{StepOutcome, StepResult};
use super::super::{Env, Request};
use super::{Pprof, Runner, endpoint};
use crate::bundle::{ANOTHERS, Warning};
use crate::clock::{Mono, human};
use crate::config::ReadMemory;
use crate::goruntime::evidence::Part;
use crate::units::ByteSize;

/// A service that is well answers within this; it is not asked any less for it.
const SOON: Duration = Duration::from_secs(2);
/// While the kernel slows it down: what does not answer at once sleeps, for longer than the process lives.
const SOON_WHILE_SLOWED: Duration = Duration::from_millis(250);
/// After so many steps in a row that were not answered soon, what memory has is taken from there at once.
const PATIENCE: u32 = 2;
/// Between two MemStats: over less, one request or one pause of the scheduler decides.
const APART: Duration = Duration::from_secs(1);
const UNANSWERED: &str = "the service had not answered";

/// What is to be expected of pprof.
pub(super) struct Silence {
    /// Steps in a row that it did not answer soon; that it has not been heard of yet counts as one.
    steps: u32,
    /// It may be another process that answers: memory is asked first.
    pub is_doubted: bool,
}

impl Default for Silence {
    fn default() -> Silence {
        Silence { steps: 1, is_doubted: false }
    }
}

impl Runner<'_> {
    /// There is a process here whose memory may be read.
    pub(super) fn may_read(&self) -> bool {
        self.request.target.capture.read_memory != ReadMemory::Off && self.request.instance.is_some() && self.env.reader.is_some()
    }

    fn soon(&self) -> Duration {
        if self.slowing.is_so() { SOON_WHILE_SLOWED } else { SOON }
    }

    /// What only pprof tells.
    pub(super) async fn take_told(&mut self, step: &Step, is_late: bool) -> StepResult {
        if let Some(why) = &self.anothers {
            return StepResult::skipped(format!("{why}: its answers are left aside"), false);
        }
        if is_late || !self.may_read() {
            return self.asked(step).await;
        }
        if self.silence.steps >= PATIENCE {
            return unanswered();
        }
        // what makes it work is not asked twice
        let is_light = matches!(&step.work, Work::Get { rest, seconds: 0, .. } if !rest.contains("gc="));
        if self.silence.steps == 0 || !is_light {
            return self.asked(step).await;
        }
        self.asked_beside(step).await.unwrap_or_else(unanswered)
    }

    /// pprof's answer. `None`: none came soon, and by now memory has been read.
    async fn asked_beside(&mut self, step: &Step) -> Option<StepResult> {
        let (known, soon) = (self.reading.clone(), self.soon());
        let (env, request) = (self.env, self.request);
        let (answer, reading) = {
            let asked = self.asked(step);
            tokio::pin!(asked);
            match tokio::time::timeout(soon, &mut asked).await {
                Ok(taken) => (Some((taken, true)), None),
                Err(_) => {
                    let read = async {
                        match known {
                            Some(reading) => reading,
                            None => Arc::new(memory_of(env, request).await),
                        }
                    };
                    tokio::select! {
                        biased;
                        taken = &mut asked => (Some((taken, false)), None),
                        reading = read => match *reading {
                            Ok(_) => (None, Some(reading)),
                            Err(_) => (Some((asked.await, false)), Some(reading)),
                        },
                    }
                }
            }
        };
        self.reading = self.reading.take().or(reading);
        match answer {
            Some((taken, is_soon)) => {
                if is_soon || taken.ending == StepOutcome::Ok {
                    self.silence.steps = 0;
                }
                Some(taken)
            }
            None => {
                self.silence.steps += 1;
                if matches!(self.pprof, Pprof::Unasked) {
                    // it was being looked for
                    self.preparing = Some(endpoint::prepare(&self.request.target, self.request.instance, self.env));
                }
                None
            }
        }
    }

    /// Says that pprof is another process's. Where memory can be read, what pprof says is not used.
    pub(super) async fn leave_aside(&mut self, why: String) {
        let instead = !self.told && self.may_read() && self.reading().await.is_ok();
        let said = match instead {
            true => format!("{why}: its answers are left aside, and the memory of the process is read instead").into(),
            false => Warning::mistaken(&why),
        };
        let note = self.partial.warn(said);
        self.written(note).await;
        if instead {
            self.anothers = Some(why);
        }
    }

    /// pprof's answer, or what the process's memory has in its place.
    pub(super) async fn take_either(&mut self, step: &Step, part: Part, is_late: bool) -> StepResult {
        let target = &self.request.target;
        let is_asked = target.pprof.is_some() && self.request.no_pprof.is_none() && self.anothers.is_none();
        // the full text has more than memory gives
        let preferred = target.capture.read_memory == ReadMemory::Always && part != Part::GoroutineText;
        let first = preferred || self.silence.is_doubted || self.silence.steps >= PATIENCE;
        if first || !is_asked {
            let mut read = self.read(part, &step.file).await;
            if read.ending == StepOutcome::Ok {
                let instead = match () {
                    () if preferred || !is_asked && self.anothers.is_none() => None,
                    () if self.silence.steps >= PATIENCE => Some(UNANSWERED.to_owned()),
                    () => Some(self.anothers.clone().unwrap_or_else(|| ANOTHERS.into())),
                };
                read.notes.splice(0..0, instead.map(|why| format!("instead of pprof: {why}")));
                return read;
            }
            let why = read.notes.join("; ");
            if is_asked && !is_late && self.silence.steps >= PATIENCE {
                return unanswered();
            }
            if is_asked {
                let mut asked = self.asked(step).await;
                asked.notes.insert(0, why);
                return asked;
            }
            let no_pprof =
                self.request.no_pprof.as_deref().or(self.anothers.as_deref()).unwrap_or("no `pprof` address is configured for this target");
            read.notes.insert(0, no_pprof.to_owned());
            // who wants no pprof has not asked for more than there is
            let wanted = self.request.no_pprof.is_none() && self.anothers.is_none();
            return StepResult { ending: StepOutcome::Skipped { wanted }, ..read };
        }
        let Some(mut asked) = self.asked_beside(step).await else {
            let mut read = self.read(part, &step.file).await;
            if read.ending != StepOutcome::Ok {
                return unanswered();
            }
            read.notes.insert(0, format!("instead of pprof: no answer within {}", human(self.soon())));
            return read;
        };
        self.told |= asked.ending == StepOutcome::Ok;
        if !matches!(asked.ending, StepOutcome::Failed | StepOutcome::Skipped { wanted: false }) || self.watch.check().is_some() {
            return asked;
        }
        let mut read = self.read(part, &step.file).await;
        if read.ending != StepOutcome::Ok {
            // what ended it comes last: steps that pprof failed for one cause are told together
            asked.notes.splice(0..0, read.notes);
            return asked;
        }
        if let Some((rejected, _)) = asked.file.filter(|(name, _)| *name != step.file) {
            // what answered instead of pprof; the reason says as much
            let files = self.partial.files();
            let _ = self.lane.run(move || files.remove(&rejected)).await;
        }
        read.attempts += asked.attempts;
        read.notes.insert(0, format!("instead of pprof: {}", asked.notes.join("; ")));
        read
    }

    /// Who holds what is live. A bundle is complete without it: not every process is one whose objects can be walked.
    pub(super) async fn holders(&mut self, file: &str) -> StepResult {
        let taken = StepResult { source: Some("memory".into()), attempts: 1, ..StepResult::default() };
        let (Some(id), Some(program)) = (self.request.instance, &self.env.reader) else {
            return taken.skip("its memory is not read", true);
        };
        match memory::ask_holders(program, &self.env.threads, id).await {
            Ok(bytes) => self.write(taken, file, bytes).await,
            Err(why) => taken.skip(why, true),
        }
    }

    /// How fast it allocates is seen over a second at least; only where pprof does not tell it.
    pub(super) async fn memstats_after(&mut self, file: &str) -> StepResult {
        let taken = StepResult { source: Some("memory".into()), attempts: 1, ..StepResult::default() };
        let (Some(id), Some(program), Some(before)) = (self.request.instance, &self.env.reader, self.memstats_read) else {
            return StepResult::skipped("memstats.txt is not of its memory: what pprof said tells how fast it allocates", true);
        };
        let wait = APART.saturating_sub(Mono::now().since(before));
        if let Some(why) = self.watch.pause(wait).await {
            return StepResult::skipped(why.to_string(), true);
        }
        match memory::ask_memstats(program, &self.env.threads, id).await {
            Ok(bytes) => self.write(taken, file, bytes).await,
            Err(why) => taken.skip(why, true),
        }
    }

    /// The process's memory is read once, when it is first wanted, so that all parts are of one moment.
    async fn reading(&mut self) -> Arc<Result<Reading, String>> {
        if let Some(reading) = &self.reading {
            return reading.clone();
        }
        let reading = Arc::new(memory_of(self.env, self.request).await);
        self.reading.insert(reading).clone()
    }

    async fn read(&mut self, part: Part, file: &str) -> StepResult {
        let taken = StepResult { source: Some("memory".into()), attempts: 1, ..StepResult::default() };
        let reading = self.reading().await;
        let reading = match reading.as_ref() {
            Ok(reading) => reading,
            Err(why) => return taken.failed(format!("its memory is not read: {why}")),
        };
        let bytes = match reading.of(part) {
            Ok(bytes) => bytes.to_vec(),
            Err(why) => return taken.failed(format!("its memory does not give it: {why}")),
        };
        let notes = vec![format!("read from its memory: {}", reading.rests_on)];
        if part == Part::MemStats {
            self.memstats_read = Some(Mono::now());
        }
        self.write(StepResult { notes, ..taken }, file, bytes).await
    }

    async fn write(&self, taken: StepResult, file: &str, bytes: Vec<u8>) -> StepResult {
        if bytes.len() as u64 > self.max_file_size().0 {
            return taken.failed(format!("its memory gives {}, which is above the limit of a file", ByteSize(bytes.len() as u64)));
        }
        let (files, name) = (self.partial.files(), file.to_owned());
        let written = self.lane.run(move || {
            let mut out = files.create(&name)?;
            std::io::Write::write_all(&mut out, &bytes)?;
            Ok::<_, std::io::Error>((name, out.finish()))
        });
        match written.await.map_err(std::io::Error::other).and_then(|written| written) {
            Ok(written) => StepResult { file: Some(written), ..taken },
            Err(e) => taken.failed(Failure::Disk(e).to_string()),
        }
    }
}

async fn memory_of(env: &Env, request: &Request) -> Result<Reading, String> {
    match (request.instance, &env.reader) {
        (Some(id), Some(program)) => memory::ask(program, &env.threads, id).await,
        _ => Err("there is no process here".into()),
    }
}

fn unanswered() -> StepResult {
    StepResult { ending: StepOutcome::Late(UNANSWERED), notes: vec![UNANSWERED.into()], ..StepResult::default() }
}
