//! What fuzzing holds every parser to (`fuzz/checks`), on the kept inputs and on damaged copies of them: without libFuzzer, and the
//! same each time.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/checks/mod.rs"]
mod checks;

/// Damaged copies per kept input.
const COPIES: u64 = 12;
/// Inputs that are long take more than this much time together when nothing is found by it.
const MAX_DAMAGED: usize = 16 << 10;

fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// A small generator of numbers (xorshift): what is damaged must not differ from run to run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// One to four damages: a byte changed, a number made huge, a part left out, doubled, or cut off.
fn damaged(whole: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let part = at..(at + 1 + numbers.below(40)).min(bytes.len());
        match numbers.below(6) {
            0 if !bytes.is_empty() => bytes[at] = numbers.below(256) as u8,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            2 => drop(bytes.splice(part, *b"18446744073709551615")),
            3 => drop(bytes.drain(part)),
            4 => {
                let copy = bytes[part].to_vec();
                let to = numbers.below(bytes.len());
                drop(bytes.splice(to..to, copy));
            }
            _ => bytes.truncate(bytes.len().saturating_sub(numbers.below(64))),
        }
    }
    bytes
}

fn holds_for_all(target: &str) {
    let check = checks::CHECKS.iter().find(|(name, _)| *name == target).unwrap().1;
    let inputs = kept(target);
    assert!(inputs.len() >= 3, "{target} has no corpus");
    let copies = if target == "bundle" { 3 } else { COPIES };
    for (n, (path, input)) in inputs.iter().enumerate() {
        println!("{}", path.display());
        check(input);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 + n as u64);
        if input.len() <= MAX_DAMAGED {
            (0..copies).for_each(|_| check(&damaged(input, &mut numbers)));
        }
    }
    check(b"");
}

#[test]
fn every_target_has_a_check_and_a_corpus() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    let targets = manifest.split("[[bin]]").skip(1).map(|bin| bin.split('"').nth(1).unwrap());
    let mut targets: Vec<&str> = targets.collect();
    let mut checks: Vec<&str> = checks::CHECKS.iter().map(|(name, _)| *name).collect();
    targets.sort_unstable();
    checks.sort_unstable();
    assert_eq!(targets, checks);
}

#[test]
fn profiles_add_up_and_keep_their_limits() {
    holds_for_all("profile");
}

#[test]
fn the_quick_check_accepts_what_decodes() {
    holds_for_all("quick");
}

#[test]
fn goroutines_are_all_counted() {
    holds_for_all("goroutine_text");
}

#[test]
fn mappings_and_buckets_add_up() {
    holds_for_all("smaps");
}

#[test]
fn memstats_are_read_wherever_they_stand() {
    holds_for_all("memstats");
}

#[test]
fn configurations_are_taken_or_their_mistakes_placed() {
    holds_for_all("config");
}

#[test]
fn executables_cost_a_few_reads_whatever_they_hold() {
    holds_for_all("buildinfo");
}

#[test]
fn cgroups_stay_below_their_mounts() {
    holds_for_all("proc_files");
}

#[test]
fn bundles_have_a_verdict_that_adds_up_or_none() {
    holds_for_all("bundle");
}

#[test]
fn the_corpus_is_small() {
    let bytes: usize = checks::CHECKS.iter().flat_map(|(name, _)| kept(name)).map(|(_, input)| input.len()).sum();
    assert!(bytes < 300 << 10, "{bytes} bytes: keep the smallest inputs that show something");
}

#[test]
fn a_runtime_that_lies_gets_reasons_or_answers_in_bounded_reads() {
    holds_for_all("goruntime");
}
