//! Steps whose answer pprof gives or, in its place, the process's memory.

use std::sync::Arc;

use super::super::fetch::Failure;
use super::super::memory;
use super::super::plan::Step;
use super::super::taken::{Ending, Taken};
use super::Runner;
use crate::config::ReadMemory;
use crate::goruntime::evidence::Part;
use crate::units::ByteSize;

impl Runner<'_> {
    /// pprof's answer, or what the process's memory has in its place.
    pub(super) async fn take_either(&mut self, step: &Step, part: Part) -> Taken {
        let target = &self.request.target;
        let is_asked = target.pprof.is_some() && self.request.no_pprof.is_none();
        // the full text has more than memory gives
        let first = target.capture.read_memory == ReadMemory::Always && part != Part::GoroutineText;
        if first || !is_asked {
            let mut read = self.read(part, &step.file).await;
            if read.ending == Ending::Ok {
                return read;
            }
            let why = read.notes.join("; ");
            if is_asked {
                let mut asked = self.asked(step).await;
                asked.notes.insert(0, why);
                return asked;
            }
            let no_pprof = self.request.no_pprof.as_deref().unwrap_or("no `pprof` address is configured for this target");
            read.notes.insert(0, no_pprof.to_owned());
            // who wants no pprof has not asked for more than there is
            let wanted = self.request.no_pprof.is_none();
            return Taken { ending: Ending::Skipped { wanted }, ..read };
        }
        let mut asked = self.asked(step).await;
        if !matches!(asked.ending, Ending::Failed | Ending::Skipped { wanted: false }) || self.watch.check().is_some() {
            return asked;
        }
        let mut read = self.read(part, &step.file).await;
        if read.ending != Ending::Ok {
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
    pub(super) async fn holders(&mut self, file: &str) -> Taken {
        let taken = Taken { source: Some("memory".into()), attempts: 1, ..Taken::default() };
        let (Some(id), Some(program)) = (self.request.instance, &self.env.reader) else {
            return taken.skip("its memory is not read", true);
        };
        match memory::ask_holders(program, &self.env.threads, id).await {
            Ok(bytes) => self.write(taken, file, bytes).await,
            Err(why) => taken.skip(why, true),
        }
    }

    /// The process's memory is read once, when it is first wanted, so that all parts are of one moment.
    async fn read(&mut self, part: Part, file: &str) -> Taken {
        let taken = Taken { source: Some("memory".into()), attempts: 1, ..Taken::default() };
        let reading = match (&self.reading, self.request.instance, &self.env.reader) {
            (Some(reading), ..) => reading.clone(),
            (None, Some(id), Some(program)) => {
                let reading = Arc::new(memory::ask(program, &self.env.threads, id).await);
                self.reading = Some(reading.clone());
                reading
            }
            _ => return taken.failed("its memory is not read"),
        };
        let reading = match reading.as_ref() {
            Ok(reading) => reading,
            Err(why) => return taken.failed(format!("its memory is not read: {why}")),
        };
        let bytes = match reading.of(part) {
            Ok(bytes) => bytes.to_vec(),
            Err(why) => return taken.failed(format!("its memory does not give it: {why}")),
        };
        let notes = vec![format!("read from its memory: {}", reading.rests_on)];
        self.write(Taken { notes, ..taken }, file, bytes).await
    }

    async fn write(&self, taken: Taken, file: &str, bytes: Vec<u8>) -> Taken {
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
            Ok(written) => Taken { file: Some(written), ..taken },
            Err(e) => taken.failed(Failure::Disk(e).to_string()),
        }
    }
}
