//! What must hold for every input, whoever wrote it: one function per fuzz target. They are run by libFuzzer (`fuzz_targets/`) and,
//! over the kept inputs, by `cargo test` (`tests/corpus.rs`).
//!
//! Each asserts more than that nothing panics: limits are kept, sums add up, and of an input that is cut off no more is read than
//! of the whole.

mod bundle;
mod goruntime;
mod profile;
mod system;
mod texts;

pub use bundle::bundle;
pub use goruntime::goruntime;
pub use profile::{profile, quick};
pub use system::{buildinfo, proc_files};
pub use texts::{config, goroutine_text, memstats, smaps};

/// A check by the name of its target.
pub type Check = (&'static str, fn(&[u8]));

pub const CHECKS: [Check; 10] = [
    ("profile", profile),
    ("quick", quick),
    ("goroutine_text", goroutine_text),
    ("smaps", smaps),
    ("memstats", memstats),
    ("config", config),
    ("buildinfo", buildinfo),
    ("proc_files", proc_files),
    ("bundle", bundle),
    ("goruntime", goruntime),
];

/// A place in the input that depends on its bytes only, so that a finding is repeatable.
fn somewhere(data: &[u8]) -> usize {
    let hash = data.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    (hash >> 16) as usize % data.len().max(1)
}

/// Parts that end with a NUL byte; at least `N`, the missing ones empty.
fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// Gives few bytes at a time, so that every boundary falls everywhere.
struct Dripping<'a> {
    rest: &'a [u8],
    most: usize,
}

impl<'a> Dripping<'a> {
    fn new(data: &'a [u8]) -> std::io::BufReader<Dripping<'a>> {
        let most = somewhere(data) % 7 + 1;
        std::io::BufReader::with_capacity(most, Dripping { rest: data, most })
    }
}

impl std::io::Read for Dripping<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let (now, rest) = self.rest.split_at(self.rest.len().min(self.most).min(buf.len()));
        buf[..now.len()].copy_from_slice(now);
        self.rest = rest;
        Ok(now.len())
    }
}
