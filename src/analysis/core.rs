//! From a core file to its verdict: what a bundle would have is written where nobody else looks, and analysed as a bundle's is.
//!
//! A core knows no RSS. What is explained are the pages that it has stored and that hold anything but zeros: an untouched page is a hole in
//! a core of the kernel's and zeros in gcore's, and both must get the same answer.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::metadata::no_holders;
use super::{Analysis, AnalysisError, of_directory};
use crate::anatomy::smaps::SHARED_MEMORY;
use crate::bundle::ProcessFacts;
use crate::goruntime::corefile::{CoreFile, Part};
use crate::goruntime::{ARENA, Program, Refused};
use crate::holders;
use crate::host::buildinfo::BuildInfo;
use crate::lang::{Lang, say};
use crate::text::{json, one_line, shell};
use crate::verdict::{Cause, line};

/// Beside the files of a bundle: it was a core.
pub(super) const FILE: &str = "core.json";
/// A path in the list of mappings.
const MAX_NAME: usize = 4096;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct CoreFacts {
    /// In pages that hold anything but zeros.
    pub stored_bytes: u64,
}

/// Why a core has no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("its evidence cannot be put into a file below {}", std::env::temp_dir().display())]
    Write(#[from] io::Error),
    #[error(transparent)]
    Analysis(#[from] AnalysisError),
}

/// Analyses a core that was written at `taken`. `shown` is its path and `exe` the executable that was named beside it, for the commands in the
/// verdict; `max_walk` is what finding who holds what may take, in bytes. Reads the core from end to end; blocks on the disk.
pub fn of_core(
    program: &Program<CoreFile>,
    shown: &Path,
    exe: Option<&Path>,
    taken: SystemTime,
    max_walk: u64,
    lang: Lang,
) -> Result<Analysis, CoreError> {
    let core = &program.memory;
    let read = program.evidence(None, taken)?;
    let mut problems = Vec::new();
    let dir = tempfile::Builder::new().prefix("memtrap-").tempdir()?;
    for (part, body) in &read.parts {
        match body {
            Ok(body) => fs::write(dir.path().join(part.file()), body)?,
            Err(why) => {
                let (file, why) = (part.file(), line(&why.to_string()));
                problems.push(say!(lang; "{file} cannot be read from the core: {why}"; "无法从 core 读出 {file}：{why}"));
            }
        }
    }
    let is_nothing = read.parts.iter().all(|(_, body)| body.is_err());
    if let Some((_, Err(why))) = read.parts.first().filter(|_| is_nothing) {
        return Err(why.clone().into());
    }
    let mut holders_unknown = None;
    match program.holders(max_walk) {
        Ok(holders) => fs::write(dir.path().join(holders::FILE), json(&holders).map_err(io::Error::other)?)?,
        Err(why) => holders_unknown = Some(no_holders(&why.to_string(), lang)),
    }
    let parts = core.parts(ARENA);
    let arenas = program.in_arenas(parts.iter().map(|part| part.start)).unwrap_or_else(|_| vec![false; parts.len()]);
    let facts = CoreFacts { stored_bytes: parts.iter().map(|part| part.bytes).fold(0, u64::saturating_add) };
    fs::write(dir.path().join(FILE), json(&facts).map_err(io::Error::other)?)?;
    fs::create_dir(dir.path().join("proc"))?;
    fs::write(dir.path().join("proc/smaps"), mappings(&parts, &arenas))?;
    let go = BuildInfo { go_version: read.go_version, module: program.image.main_module.clone(), ..BuildInfo::default() };
    let threads = Some(core.threads()).filter(|threads| *threads > 0);
    let process = ProcessFacts { schema: 1, threads, go: Some(go), ..ProcessFacts::default() };
    fs::write(dir.path().join("proc/process.json"), json(&process).map_err(io::Error::other)?)?;

    let mut analysis = of_directory(dir.path(), shown, None, None, lang)?;
    let verdict = &mut analysis.verdict;
    verdict.missing.splice(0..0, problems);
    verdict.missing.extend(holders_unknown.filter(|_| verdict.cause.is_of_heap()));
    verdict.next = next_commands(verdict.cause, shown, exe);
    Ok(analysis)
}

/// As `/proc/PID/smaps` lists them: what is stored counts as resident.
fn mappings(parts: &[Part], arenas: &[bool]) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let mut files: Vec<&Path> = Vec::new();
    for (part, is_arena) in parts.iter().zip(arenas) {
        let flag = |holds: bool, letter: char| if holds { letter } else { '-' };
        let name = match part.name {
            Some(name) => one_line(&name.to_string_lossy(), MAX_NAME),
            None if *is_arena => "[anon: Go: heap]".to_owned(),
            None => String::new(),
        };
        // mappings of one file are known by its number
        let inode = part.name.filter(|_| part.is_of_file).map_or(0, |path| match files.iter().rposition(|known| *known == path) {
            Some(at) => at + 1,
            None => {
                files.push(path);
                files.len()
            }
        });
        let is_shared = SHARED_MEMORY.iter().any(|prefix| name.starts_with(prefix));
        let is_own = !part.is_of_file || part.writable && !is_shared;
        let (kib, own) = (part.bytes / 1024, if is_own { part.bytes / 1024 } else { 0 });
        let (r, w, x) = (flag(part.readable, 'r'), flag(part.writable, 'w'), flag(part.executable, 'x'));
        // writing to a String does not fail
        let _ =
            write!(text, "{:x}-{:x} {r}{w}{x}p 00000000 00:00 {inode} {name}\nRss: {kib} kB\nAnonymous: {own} kB\n", part.start, part.end);
    }
    text
}

/// What the cause is about comes first.
fn next_commands(cause: Cause, shown: &Path, exe: Option<&Path>) -> Vec<String> {
    let core = shell(shown);
    let exe = exe.map(|exe| format!(" --exe {}", shell(exe))).unwrap_or_default();
    let top = |index: &str| format!("memtrap top --sample-index {index} {core}{exe}");
    let holders = format!("memtrap holders {core}{exe}");
    let (live, allocated) = ([top("inuse_space"), top("inuse_objects")], top("alloc_space"));
    let [space, objects] = live;
    match cause {
        Cause::AllocationChurn | Cause::UnreleasedHeap => vec![allocated, space, holders],
        _ => vec![holders, space, objects, allocated],
    }
}
