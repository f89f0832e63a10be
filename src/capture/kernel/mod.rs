//! The kernel's evidence about one process: the files below `proc/` in a bundle.
//!
//! Each file is one [`KernelStep`], which a plan runs, times and records like any other step. All of it is synchronous, bounded
//! and without a timeout of its own: run it where blocking is allowed. Not here: the order of a capture, retries, file creation.

mod cgroups;
mod members;
mod process;

use std::io::{self, Read, Write};

use crate::host::proc::is_dead;
use crate::host::{ProcDir, ProcError, ProcFs};
use crate::identity::InstanceId;
use crate::text;
use crate::units::ByteSize;

pub use cgroups::numbers as cgroup_numbers;

const CHUNK: usize = 64 << 10;

/// What a capture may cost on the kernel's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// Above this RSS `smaps` and `smaps_rollup` are skipped: the kernel walks every page under the process's mmap lock,
    /// for about 16 ms per GiB, and the process's own page faults and mmaps wait for it.
    pub max_smaps_rss: ByteSize,
    /// Per file.
    pub max_file_size: ByteSize,
}

impl Default for KernelOptions {
    fn default() -> KernelOptions {
        KernelOptions { max_smaps_rss: ByteSize::gib(64), max_file_size: ByteSize::mib(512) }
    }
}

/// One file of kernel evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KernelStep {
    Status,
    Stat,
    Cgroup,
    CgroupMembers,
    SmapsRollup,
    Limits,
    Process,
    Smaps,
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The process is gone, closed to memtrap, or has no such file.
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("RSS {rss} is above max_smaps_rss {max}: reading {file} would hold the process's mmap lock too long")]
    TooExpensive { file: &'static str, rss: ByteSize, max: ByteSize },
    #[error("{file} is longer than {max}")]
    TooBig { file: &'static str, max: ByteSize },
    #[error("the memory cgroup of process {pid} cannot be seen from here")]
    NoCgroup { pid: u32 },
    #[error("cannot write {file}")]
    Write { file: &'static str, source: io::Error },
}

impl KernelError {
    /// Whether it was left out for a reason that stands (permission, cost, not provided), rather than gone wrong.
    pub fn is_skip(&self) -> bool {
        match self {
            KernelError::Proc(e) => matches!(e, ProcError::Denied { .. } | ProcError::Absent { .. }),
            KernelError::TooExpensive { .. } | KernelError::NoCgroup { .. } => true,
            KernelError::TooBig { .. } | KernelError::Write { .. } => false,
        }
    }
}

impl KernelStep {
    /// Most perishable and cheapest first; the one whose cost grows with the number of mappings last.
    pub const ALL: [KernelStep; 8] = [
        KernelStep::Status,
        KernelStep::Stat,
        KernelStep::Cgroup,
        KernelStep::CgroupMembers,
        KernelStep::SmapsRollup,
        KernelStep::Limits,
        KernelStep::Process,
        KernelStep::Smaps,
    ];

    /// In `proc/` of a bundle.
    pub const fn file_name(self) -> &'static str {
        match self {
            KernelStep::Status => "status",
            KernelStep::Stat => "stat",
            KernelStep::Cgroup => "cgroup.txt",
            KernelStep::CgroupMembers => "cgroup_members.txt",
            KernelStep::SmapsRollup => "smaps_rollup",
            KernelStep::Limits => "limits",
            KernelStep::Process => "process.json",
            KernelStep::Smaps => "smaps",
        }
    }

    /// Writes this evidence of this very process, never of its pid's next owner, and returns how many bytes that is.
    /// After an error what was written is a fragment at best.
    pub fn collect(self, procfs: &ProcFs, id: InstanceId, opts: &KernelOptions, out: &mut dyn Write) -> Result<u64, KernelError> {
        let dir = procfs.dir_of(id)?;
        let mut out = Capped { out, file: self.file_name(), max: opts.max_file_size, written: 0 };
        match self {
            KernelStep::Status | KernelStep::Stat | KernelStep::Limits => out.copy(&dir, self.file_name())?,
            KernelStep::SmapsRollup | KernelStep::Smaps => {
                let rss = ByteSize(dir.status()?.rss.unwrap_or(0));
                if rss > opts.max_smaps_rss {
                    return Err(KernelError::TooExpensive { file: self.file_name(), rss, max: opts.max_smaps_rss });
                }
                out.copy(&dir, self.file_name())?;
                // the kernel ends the text without an error when the process dies underneath
                if is_dead(&dir.stat()?) {
                    return Err(ProcError::Gone { pid: id.pid }.into());
                }
            }
            KernelStep::Cgroup => out.all(cgroups::text(procfs, &dir)?.as_bytes())?,
            KernelStep::CgroupMembers => out.all(members::text(procfs, &dir)?.as_bytes())?,
            KernelStep::Process => {
                let facts = process::gather(procfs, id, &dir)?;
                let json = text::json_pretty(&facts).map_err(|e| KernelError::Write { file: out.file, source: e.into() })?;
                out.all(json.as_bytes())?;
                out.all(b"\n")?;
            }
        }
        Ok(out.written)
    }
}

/// Writes no more than a file may have, and counts.
struct Capped<'a> {
    out: &'a mut dyn Write,
    file: &'static str,
    max: ByteSize,
    written: u64,
}

impl Capped<'_> {
    fn all(&mut self, bytes: &[u8]) -> Result<(), KernelError> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if after > self.max.0 {
            return Err(KernelError::TooBig { file: self.file, max: self.max });
        }
        self.out.write_all(bytes).map_err(|source| KernelError::Write { file: self.file, source })?;
        self.written = after;
        Ok(())
    }

    fn copy(&mut self, dir: &ProcDir, name: &str) -> Result<(), KernelError> {
        let mut from = dir.open(name)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => self.all(chunk.get(..n).unwrap_or_default())?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(dir.error(name, e).into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, Unprivileged};

    fn collect(step: KernelStep, procfs: &ProcFs, id: InstanceId, opts: KernelOptions) -> Result<String, KernelError> {
        let mut out = Vec::new();
        let bytes = step.collect(procfs, id, &opts, &mut out)?;
        assert_eq!(bytes, out.len() as u64);
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_kernels_text_is_kept_as_it_is() {
        let host = FakeHost::new();
        let id = host.process(7, "app").file("status", "VmRSS: 1 kB\n").file("smaps", "00-ff rw-p\n".repeat(50_000)).write();
        let get = |step| collect(step, &host.procfs(), id, KernelOptions::default()).unwrap();
        assert_eq!(get(KernelStep::Status), "VmRSS: 1 kB\n");
        assert_eq!(get(KernelStep::Smaps), "00-ff rw-p\n".repeat(50_000));
    }

    #[test]
    fn nothing_is_taken_from_a_pids_next_owner() {
        let host = FakeHost::new();
        let id = host.process(7, "app").start(1).file("status", "").write();
        host.process(7, "other").start(2).write();
        for step in KernelStep::ALL {
            let error = collect(step, &host.procfs(), id, KernelOptions::default()).unwrap_err();
            assert!(matches!(error, KernelError::Proc(ProcError::Gone { pid: 7 })), "{step:?}: {error:?}");
            assert!(!error.is_skip());
        }
    }

    #[test]
    fn mappings_of_a_huge_process_are_left_alone() {
        let host = FakeHost::new();
        let id = host.process(7, "app").file("status", "VmRSS: 2048 kB\n").file("smaps", "x").file("smaps_rollup", "x").write();
        let opts = KernelOptions { max_smaps_rss: ByteSize::mib(1), ..KernelOptions::default() };
        for step in [KernelStep::Smaps, KernelStep::SmapsRollup] {
            let error = collect(step, &host.procfs(), id, opts).unwrap_err();
            assert!(error.is_skip());
            assert!(error.to_string().starts_with("RSS 2.00MiB is above max_smaps_rss 1.00MiB"), "{error}");
        }
        assert!(collect(KernelStep::Smaps, &host.procfs(), id, KernelOptions::default()).is_ok());
    }

    #[test]
    fn a_file_over_its_cap_is_an_error_and_writes_no_more() {
        let host = FakeHost::new();
        let id = host.process(7, "app").file("status", "").file("smaps", vec![b'x'; 300_000]).write();
        let opts = KernelOptions { max_file_size: ByteSize(100_000), ..KernelOptions::default() };
        let mut out = Vec::new();
        let error = KernelStep::Smaps.collect(&host.procfs(), id, &opts, &mut out).unwrap_err();
        assert!(matches!(error, KernelError::TooBig { .. }), "{error:?}");
        assert!(out.len() <= 100_000);
    }

    #[test]
    fn a_file_the_kernel_does_not_have_is_skipped() {
        let host = FakeHost::new();
        let id = host.process(7, "app").file("status", "").write();
        let error = collect(KernelStep::SmapsRollup, &host.procfs(), id, KernelOptions::default()).unwrap_err();
        assert!(error.is_skip(), "{error:?}");
    }

    #[test]
    fn a_full_disk_is_told_from_a_failed_read() {
        let host = FakeHost::new();
        let id = host.process(7, "app").file("limits", "text").write();
        let mut full: &mut [u8] = &mut [0; 2];
        let error = KernelStep::Limits.collect(&host.procfs(), id, &KernelOptions::default(), &mut full).unwrap_err();
        assert!(matches!(error, KernelError::Write { file: "limits", .. }), "{error:?}");
    }

    #[test]
    fn every_step_gives_evidence_of_a_live_process() {
        let procfs = ProcFs::host();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = procfs.identity(child.id()).unwrap();
        let results = KernelStep::ALL.map(|step| (step, collect(step, &procfs, id, KernelOptions::default())));
        child.kill().unwrap();
        child.wait().unwrap();
        for (step, result) in results {
            match result {
                Ok(text) => assert!(text.len() > 10, "{step:?}: {text}"),
                Err(e) => assert!(matches!(step, KernelStep::Cgroup | KernelStep::CgroupMembers) && e.is_skip(), "{step:?}: {e}"),
            }
        }
        let gone = collect(KernelStep::Status, &procfs, id, KernelOptions::default()).unwrap_err();
        assert!(matches!(gone, KernelError::Proc(ProcError::Gone { .. })), "{gone:?}");
    }

    #[test]
    fn without_permission_the_open_files_are_read_and_the_closed_ones_skipped_with_the_remedy() {
        let Some(stranger) = Unprivileged::stranger() else { return };
        let of =
            |step| stranger.as_other_user(|procfs, pid| collect(step, procfs, procfs.identity(pid).unwrap(), KernelOptions::default()));
        for step in [KernelStep::Status, KernelStep::Stat, KernelStep::Limits] {
            of(step).unwrap();
        }
        for step in [KernelStep::Smaps, KernelStep::SmapsRollup] {
            let error = of(step).unwrap_err();
            assert!(error.is_skip() && error.to_string().contains("CAP_SYS_PTRACE"), "{error}");
        }
        let facts: crate::bundle::ProcessFacts = serde_json::from_str(&of(KernelStep::Process).unwrap()).unwrap();
        assert!(facts.memory.is_some() && facts.exe.is_none() && facts.env.is_none() && facts.listening.is_none());
        assert!(facts.problems.iter().any(|p| p.contains("CAP_SYS_PTRACE")), "{:?}", facts.problems);
    }
}
