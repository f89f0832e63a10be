//! The kernel's split of RSS into anonymous, file and shared memory, from the best source there is.

use std::io::{self, BufRead};

use super::Evidence;
use super::lines::Lines;
use super::smaps::Kind;

/// Bytes; they add up to the RSS of their moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
    pub swap: Option<u64>,
    pub threads: Option<u64>,
}

impl Split {
    pub fn rss(&self) -> u64 {
        self.anon.saturating_add(self.file).saturating_add(self.shmem)
    }

    /// Reads `/proc/PID/status`. `None` without RssAnon, RssFile and RssShmem (Linux before 4.5, or a text that ends early).
    pub fn of_status(input: impl BufRead) -> io::Result<Option<Split>> {
        let (mut anon, mut file, mut shmem, mut swap, mut threads) = (None, None, None, None, None);
        let mut lines = Lines::new(input);
        while let Some(line) = lines.next()? {
            let Some((key, value)) = std::str::from_utf8(line).ok().and_then(|l| l.split_once(':')) else { continue };
            let number = || value.split_ascii_whitespace().next()?.parse::<u64>().ok();
            let kib = || number()?.checked_mul(1024);
            match key {
                "RssAnon" => anon = kib(),
                "RssFile" => file = kib(),
                "RssShmem" => shmem = kib(),
                "VmSwap" => swap = kib(),
                "Threads" => threads = number(),
                _ => {}
            }
        }
        Ok(anon.zip(file).zip(shmem).map(|((anon, file), shmem)| Split { anon, file, shmem, swap, threads }))
    }
}

/// The soft limit of a stack from `/proc/PID/limits`, in bytes. `None` where there is none.
pub fn stack_limit(input: impl BufRead) -> io::Result<Option<u64>> {
    let mut lines = Lines::new(input);
    while let Some(line) = lines.next()? {
        if let Some(rest) = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix("Max stack size")) {
            return Ok(rest.split_ascii_whitespace().next().and_then(|soft| soft.parse().ok()));
        }
    }
    Ok(None)
}

/// `status` first: it was read first, and it alone tells shared memory exactly.
pub(super) fn split(evidence: &Evidence) -> Option<Split> {
    let of_rollup = || {
        let rollup = evidence.rollup?;
        let (file, shmem) = (rollup.pss_file.unwrap_or(1), rollup.pss_shmem.unwrap_or(0));
        let anon = rollup.anon.min(rollup.rss);
        Some(divided(anon, rollup.rss - anon, file, shmem))
    };
    let of_smaps = || {
        let smaps = evidence.smaps.as_ref()?;
        let shmem = smaps.of(Kind::Shmem);
        let anon = smaps.total.anon.min(smaps.total.rss);
        let rest = smaps.total.rss - anon;
        let shmem = shmem.rss.saturating_sub(shmem.anon).min(rest);
        Some(divided(anon, rest, rest - shmem, shmem))
    };
    evidence.status.or_else(of_rollup).or_else(of_smaps)
}

/// `rest` divided as `file` is to `shmem`.
fn divided(anon: u64, rest: u64, file: u64, shmem: u64) -> Split {
    let whole = (u128::from(file) + u128::from(shmem)).max(1);
    let shmem = u64::try_from(u128::from(rest) * u128::from(shmem) / whole).unwrap_or(rest);
    Split { anon, file: rest - shmem, shmem, swap: None, threads: None }
}
