//! The vocabulary of the integration tests: real Go services, the built memtrap, and waiting for things to be so.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

pub mod browser;
mod cgroup;
mod container;
mod debian_server;
pub mod faulty;
pub mod corpus;
pub mod http;
mod go;
mod idle;
pub mod inbox;
mod memtrap;
pub mod numbers;
pub mod outside;
pub mod pages;
#[cfg(feature = "s3")]
pub mod s3;
pub mod scenarios;
mod space;
pub mod vm;
pub mod witness;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub use cgroup::Cgroup;
pub use container::Container;
pub use debian_server::DebianServer;
pub use go::{Build, GoVersion, Svc, go_binary, go_program, go_svc};
pub use idle::Idle;
pub use memtrap::{Memtrap, assert_replays, run};
pub use space::Space;

pub const MIB: u64 = 1 << 20;

/// The directory of this repository.
pub fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The bounds of tests are for a machine with nothing else to do; they exist to end a test that hangs, not to measure.
const BUSY_MACHINE: u32 = 4;

/// The same where each instruction is emulated.
const EMULATED_MACHINE: u32 = 20;

/// Waits until `is_so`, at most `patience` on an idle machine; `what` is what never came true.
#[expect(clippy::disallowed_methods, reason = "a test's patience is real time")]
pub fn wait_until(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    let patience = patience * if vm::is_inside() { EMULATED_MACHINE } else { BUSY_MACHINE };
    while !is_so() {
        assert!(start.elapsed() < patience, "after {patience:?} still not so: {what}");
        sleep(Duration::from_millis(20));
    }
}

/// The program at this path of a Debian package, or from PATH. `None`, said aloud: this machine has it not and cannot get it; then
/// `what` is not checked.
pub fn debian_program(package: &str, path: &str, what: &str) -> Option<PathBuf> {
    fetched("debian-program", &[package, path], what).map(PathBuf::from)
}

/// A program out of Python's package index, or from PATH. `None`, said aloud, as above.
pub fn python_program(program: &str, package: &str, version: &str, what: &str) -> Option<PathBuf> {
    fetched("python-program", &[program, package, version], what).map(PathBuf::from)
}

/// The paths that a script of `scripts/` prints, a line each. `None`, said aloud: it says that this machine has them not and cannot get them; then
/// `what` is not checked.
pub fn fetched(script: &str, args: &[&str], what: &str) -> Option<String> {
    let output = Command::new(repo().join("scripts").join(script)).args(args).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        not_checked(&format!("{what}: {}", said.trim()));
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// A copy of a program that can be run at once. By a process of its own: what this one has open to write, a child that another test starts at
/// that moment has too, and until it has become its program the kernel runs no file that is open so (ETXTBSY).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = Command::new("cp").arg("--").arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(status.success(), "cp {} {}: {status}", from.as_ref().display(), to.as_ref().display());
}

/// Says loudly that this machine cannot check something; `make test` counts these lines.
pub fn not_checked(what: &str) {
    // past the test harness, which keeps the output of passing tests to itself
    let _ = writeln!(std::io::stderr(), "NOT CHECKED: {what}");
    let list = File::options().create(true).append(true).open(repo().join("target/not-checked"));
    writeln!(list.unwrap(), "{what}").unwrap();
}

/// Published bundles below a bundle directory, oldest first.
pub fn bundles_in(dir: &Path) -> Vec<PathBuf> {
    let entries = |p: &Path| -> Vec<PathBuf> { std::fs::read_dir(p).map(|d| d.map(|e| e.unwrap().path()).collect()).unwrap_or_default() };
    let mut found: Vec<PathBuf> = entries(dir)
        .iter()
        .flat_map(|target| entries(target))
        .filter(|b| b.is_dir() && b.extension().is_none_or(|e| e != "partial"))
        .collect();
    found.sort();
    found
}

/// A bundle's manifest as JSON.
pub fn manifest(bundle: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(bundle.join("manifest.json")).unwrap()).unwrap()
}

/// The manifest's entry for a file, kept or rejected.
pub fn entry(bundle: &Path, file: &str) -> serde_json::Value {
    let manifest = manifest(bundle);
    let files = manifest["files"].as_array().unwrap();
    let rejected = format!("{file}.rejected");
    files
        .iter()
        .find(|f| f["name"] == file || f["name"] == rejected.as_str())
        .unwrap_or_else(|| panic!("no entry for {file} in {files:#?}"))
        .clone()
}
