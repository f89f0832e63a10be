//! What memtrap costs, held against references of the same run and against its budgets: one table.
//!
//! `make bench` builds the shipped binary and runs this; `cargo bench --bench budgets -- poll top` prints some rows only. The binary is
//! the one that `MEMTRAP` names, else `target/dist/memtrap`. Medians; pairs are interleaved, since the machine has other things to do.
//! Not here: anything that fails a build. A missed budget is a word in the table, for a person to judge on a quiet machine.

#![allow(clippy::disallowed_methods, reason = "a bench reads clocks")]

#[path = "../../tests/common/mod.rs"]
mod common;
mod cost;
mod fixtures;
mod growth;
mod incident;
mod measure;
mod outside;
mod peers;
mod poll;
mod tools;
mod watching;

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

/// One line of the table.
pub struct Row {
    what: String,
    measured: String,
    reference: String,
    ratio: String,
    budget: String,
    verdict: &'static str,
}

impl Row {
    pub fn new(what: impl Into<String>, measured: String) -> Row {
        let empty = String::new;
        Row { what: what.into(), measured, reference: empty(), ratio: empty(), budget: empty(), verdict: "" }
    }

    pub fn not_measured(what: impl Into<String>, why: &str) -> Row {
        let why = why.lines().next().unwrap_or_default().replace('|', "/");
        Row::new(what, format!("not measured: {why}"))
    }

    /// What it is held against, in the same run.
    pub fn against(self, reference: String, ratio: String) -> Row {
        Row { reference, ratio, ..self }
    }

    pub fn budget(self, budget: &str, is_met: bool) -> Row {
        Row { budget: budget.into(), verdict: if is_met { "ok" } else { "MISSED" }, ..self }
    }
}

/// The binary that is measured.
pub fn memtrap() -> PathBuf {
    let path = std::env::var_os("MEMTRAP").map_or_else(|| common::repo().join("target/dist/memtrap"), PathBuf::from);
    assert!(path.exists(), "{} is not there: cargo build --profile dist, or name another binary with MEMTRAP", path.display());
    path
}

type Bench = (&'static str, fn() -> Vec<Row>);

const BENCHES: [Bench; 16] = [
    ("poll", poll::poll),
    ("size", watching::size),
    ("scale", watching::scale),
    ("hour", poll::hour),
    ("growth", growth::rows),
    ("scraped", watching::scraped),
    ("fleet", watching::fleet),
    ("peers", peers::rows),
    ("detection", incident::detection),
    ("large", incident::large_body),
    ("cost", cost::rows),
    ("outside", outside::evidence),
    ("holders", outside::holders),
    ("core", tools::core_evidence),
    ("top", tools::top),
    ("analysis", tools::analysis),
];

fn main() -> ExitCode {
    if let Ok(asked) = std::env::var(growth::ONE) {
        growth::one(&asked);
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let unknown = wanted.iter().find(|w| BENCHES.iter().all(|(name, _)| name != w));
    if let Some(unknown) = unknown {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no bench `{unknown}`; there are: {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut is_whole = true;
    println!("| what | measured | reference | ratio | budget | |\n| --- | --- | --- | --- | --- | --- |");
    for (name, bench) in BENCHES.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name)) {
        eprintln!("{name} …");
        let rows = catch_unwind(bench).unwrap_or_else(|panic| {
            is_whole = false;
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            vec![Row::not_measured(*name, text.unwrap_or("it panicked"))]
        });
        for Row { what, measured, reference, ratio, budget, verdict } in rows {
            println!("| {what} | {measured} | {reference} | {ratio} | {budget} | {verdict} |");
        }
    }
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
