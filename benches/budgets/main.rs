//! What memtrap costs, held against references of the same run and against its budgets: one table.
//!
//! `make bench` builds the shipped binary and runs this; `cargo bench --bench budgets -- poll top` prints some rows only. The binary is
//! the one that `MEMTRAP` names, else `target/dist/memtrap`. Medians; pairs are interleaved, since the machine has other things to do.

#![allow(clippy::disallowed_methods, reason = "a bench reads clocks")]

#[path = "../../tests/common/mod.rs"]
mod common;
mod daemon;
mod measure;
mod poll;
mod tools;

use std::path::PathBuf;

/// One line of the table.
pub struct Row {
    what: String,
    measured: String,
    reference: String,
    budget: String,
    verdict: &'static str,
}

impl Row {
    /// `is_met`: `None` where there is no budget.
    pub fn new(what: &str, measured: String, reference: String, budget: &str, is_met: Option<bool>) -> Row {
        let verdict = match is_met {
            Some(true) => "ok",
            Some(false) => "MISSED",
            None => "",
        };
        Row { what: what.into(), measured, reference, budget: budget.into(), verdict }
    }
}

/// The binary that is measured.
pub fn memtrap() -> PathBuf {
    let path = std::env::var_os("MEMTRAP").map_or_else(|| common::repo().join("target/dist/memtrap"), PathBuf::from);
    assert!(path.exists(), "{} is not there: cargo build --profile dist, or name another binary with MEMTRAP", path.display());
    path
}

type Bench = (&'static str, fn() -> Vec<Row>);

const BENCHES: [Bench; 9] = [
    ("poll", poll::rows),
    ("idle", daemon::idle),
    ("scale", daemon::scale),
    ("scraped", daemon::scraped),
    ("detection", daemon::detection),
    ("large", daemon::large_body),
    ("core", tools::core_evidence),
    ("top", tools::top),
    ("analysis", tools::analysis),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let unknown = wanted.iter().find(|w| BENCHES.iter().all(|(name, _)| name != w));
    if let Some(unknown) = unknown {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no bench `{unknown}`; there are: {}", names.join(", "));
        std::process::exit(2);
    }
    println!("| what | measured | reference | budget | |\n| --- | --- | --- | --- | --- |");
    for (name, bench) in BENCHES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        eprintln!("{name} …");
        for Row { what, measured, reference, budget, verdict } in bench() {
            println!("| {what} | {measured} | {reference} | {budget} | {verdict} |");
        }
    }
}
