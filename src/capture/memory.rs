//! The Go runtime's own numbers out of the process's memory, read by a process of its own: what is read there is the target's word, and
//! whoever reads it may run out of memory or time without hurting the daemon. See `goruntime`.
//!
//! The child prints a line of JSON, [`Head`], and then the parts one after the other.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::child::{self, Done, Job};
use crate::aside::Threads;
use crate::goruntime::collector::Places;
use crate::goruntime::evidence::{Evidence, Part};
use crate::holders::Holders;
use crate::identity::InstanceId;
use crate::text::one_line;
use crate::units::ByteSize;

/// 100,000 goroutines take some seconds on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a walk over the object graph may take of the child's memory: 4 million objects. The unit may have 256 MiB, daemon and all.
pub const WALK: ByteSize = ByteSize::mib(160);

/// What comes before the parts.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// What it rests on, for the manifest.
    rests_on: String,
    parts: Vec<HeadOfPart>,
}

#[derive(Debug, Serialize, Deserialize)]
struct HeadOfPart {
    step: String,
    bytes: usize,
    refused: Option<String>,
}

/// What the child has read: for each step that it can take the place of, a file or why there is none.
#[derive(Debug)]
pub(super) struct Reading {
    pub rests_on: String,
    parts: Vec<(String, Result<Vec<u8>, String>)>,
}

impl Reading {
    pub fn of(&self, part: Part) -> Result<&[u8], &str> {
        match self.parts.iter().find(|(step, _)| step == part.name()) {
            Some((_, Ok(bytes))) => Ok(bytes),
            Some((_, Err(why))) => Err(why),
            None => Err("it was not read"),
        }
    }

    /// In a sentence, with what is refused and why.
    pub fn what_it_gives(&self) -> String {
        let refused = self.parts.iter().filter_map(|(step, read)| Some(format!("; no {step}: {}", read.as_ref().err()?)));
        self.rests_on.clone() + &refused.collect::<String>()
    }

    fn parse(output: &[u8]) -> Option<Reading> {
        let end = output.iter().position(|b| *b == b'\n')?;
        let head: Head = serde_json::from_slice(output.get(..end)?).ok()?;
        let mut rest = output.get(end + 1..)?;
        let mut parts = Vec::new();
        for HeadOfPart { step, bytes, refused } in head.parts {
            let (body, after) = rest.split_at_checked(bytes)?;
            rest = after;
            parts.push((step, refused.map_or_else(|| Ok(body.to_vec()), Err)));
        }
        rest.is_empty().then_some(Reading { rests_on: head.rests_on, parts })
    }
}

/// What the child prints.
pub fn printed(evidence: &Evidence) -> Result<Vec<u8>, serde_json::Error> {
    let Evidence { go_version, is_guess, is_before_collection, bytes, parts } = evidence;
    let mut rests_on = format!("{go_version}, {} read", ByteSize(*bytes));
    if *is_guess {
        rests_on += "; newer than the releases whose layout is known: read with the last of them, and checked part by part";
    }
    if *is_before_collection {
        rests_on += "; nothing was collected yet: the heap is of this moment, with what is garbage by now";
    }
    let of_part = |(part, read): &(Part, Result<Vec<u8>, _>)| HeadOfPart {
        step: part.name().into(),
        bytes: read.as_ref().map_or(0, Vec::len),
        refused: read.as_ref().err().map(ToString::to_string),
    };
    let mut printed = serde_json::to_vec(&Head { rests_on, parts: parts.iter().map(of_part).collect() })?;
    printed.push(b'\n');
    parts.iter().filter_map(|(_, read)| read.as_ref().ok()).for_each(|body| printed.extend_from_slice(body));
    Ok(printed)
}

/// Runs `program read-memory` on a process. The error is a sentence.
///
/// If the future is dropped, the child is killed; nothing is written anywhere.
pub(super) async fn ask(program: &Path, threads: &Threads, id: InstanceId) -> Result<Reading, String> {
    let output = read(program, threads, id, None).await?;
    Reading::parse(&output).ok_or_else(|| "the reader's answer is cut off".to_owned())
}

/// Runs `program read-memory --holders` on a process: `holders.json`. Else as [`ask`].
pub(super) async fn ask_holders(program: &Path, threads: &Threads, id: InstanceId) -> Result<Vec<u8>, String> {
    let output = read(program, threads, id, Some("--holders")).await?;
    match Holders::parse(&output) {
        Ok(_) => Ok(output),
        Err(e) => Err(format!("the reader's answer cannot be read: {e}")),
    }
}

/// Runs `program read-memory --memstats` on a process: the text of its MemStats. Else as [`ask`].
pub(super) async fn ask_memstats(program: &Path, threads: &Threads, id: InstanceId) -> Result<Vec<u8>, String> {
    read(program, threads, id, Some("--memstats")).await
}

/// Runs `program read-memory --collector` on a process: where its counts of collections are; `None` while it has collected nothing. Else as [`ask`].
pub(super) async fn ask_collector(program: &Path, threads: &Threads, id: InstanceId) -> Result<Option<Places>, String> {
    let output = read(program, threads, id, Some("--collector")).await?;
    serde_json::from_slice(&output).map_err(|e| format!("the reader's answer cannot be read: {e}"))
}

async fn read(program: &Path, threads: &Threads, id: InstanceId, what: Option<&str>) -> Result<Vec<u8>, String> {
    let (pid, ticks) = (id.pid.to_string(), id.start_ticks.to_string());
    let arguments = ["read-memory", "--pid", &pid, "--start-ticks", &ticks].into_iter().chain(what).map(OsString::from).collect();
    let job = Job { program, called: "the reader", answer: "the reader's answer", arguments, timeout: TIMEOUT };
    let Done { status, output, complaint } = child::run(job, &[], threads).await?;
    if !status.success() {
        let complaint = complaint.trim();
        return Err(match complaint.strip_prefix("memtrap: ") {
            Some(why) => one_line(why, 400),
            None => one_line(&format!("the reader failed ({status}): {complaint}"), 400),
        });
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goruntime::evidence::Evidence;

    #[test]
    fn what_the_child_prints_is_what_its_parent_reads() {
        let evidence = Evidence {
            go_version: "go1.27.3".into(),
            is_guess: false,
            is_before_collection: false,
            bytes: 4096,
            parts: vec![(Part::Heap, Ok(b"\n{}\n".to_vec())), (Part::MemStats, Ok(b"x".to_vec()))],
        };
        let printed = printed(&evidence).unwrap();
        let reading = Reading::parse(&printed).unwrap();
        assert_eq!((reading.of(Part::Heap), reading.of(Part::MemStats)), (Ok(&b"\n{}\n"[..]), Ok(&b"x"[..])));
        assert!(reading.of(Part::Goroutine).is_err());
        for len in 0..printed.len() {
            assert!(Reading::parse(&printed[..len]).is_none(), "cut at {len}");
        }
    }
}
