//! Each number of a verdict is in the files that it is of. What is captured from running programs is held to the same in
//! `tests/verdicts.rs`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::corpus::verdict_of;
use common::numbers::{deviations, differences};
use common::repo;
use memtrap::lang::Lang;
use serde_json::Value;

/// What was recorded of real processes, laid out as a bundle has it.
fn recorded() -> Vec<(String, tempfile::TempDir)> {
    let mut all = Vec::new();
    for version in ["1.21.13", "1.27.3"] {
        let programs = fs::read_dir(repo().join("tests/data/anatomy").join(version)).unwrap();
        for program in programs.map(|entry| entry.unwrap().path()) {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("proc")).unwrap();
            for file in ["memstats.txt", "memstats_gc.txt", "smaps", "status"] {
                let to = if file.ends_with(".txt") { PathBuf::from(file) } else { Path::new("proc").join(file) };
                fs::copy(program.join(file), dir.path().join(to)).unwrap();
            }
            all.push((format!("{version}/{}", program.file_name().unwrap().display()), dir));
        }
    }
    all
}

fn wrong_numbers(name: &str, bundle: &Path) -> Vec<String> {
    let english = verdict_of(bundle, Lang::En);
    let deviating = deviations(bundle, &english).into_iter().map(|why| format!("{name}: {why}"));
    let differing = differences(&english, &verdict_of(bundle, Lang::Zh)).into_iter().map(|why| format!("{name}, in Chinese: {why}"));
    deviating.chain(differing).collect()
}

#[test]
fn every_number_about_a_recorded_process_is_in_its_files() {
    let wrong: Vec<String> = recorded().iter().flat_map(|(name, dir)| wrong_numbers(name, dir.path())).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "of whatever bundles BUNDLES names"]
fn every_number_about_bundles_from_elsewhere_is_in_their_files() {
    let bundles = std::env::var("BUNDLES").expect("BUNDLES=\"DIR DIR\"");
    let wrong: Vec<String> = bundles.split_whitespace().flat_map(|bundle| wrong_numbers(bundle, Path::new(bundle))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text with its n-th number doubled and one added; `None` where it has no more.
fn with_another_number(text: &str, n: usize) -> Option<String> {
    let number = regex_lite::Regex::new(r"\d+(?:\.\d+)?").unwrap();
    let found = number.find_iter(text).nth(n)?;
    let decimals = found.as_str().split_once('.').map_or(0, |(_, after)| after.len());
    let other = found.as_str().parse::<f64>().unwrap() * 2.0 + 1.0;
    Some(format!("{}{other:.decimals$}{}", &text[..found.start()], &text[found.end()..]))
}

#[test]
fn a_number_that_is_not_in_the_files_is_found() {
    let (_, dir) = recorded().into_iter().find(|(name, _)| name == "1.27.3/churn").unwrap();
    let verdict = verdict_of(dir.path(), Lang::En);
    let summary = verdict["summary"].as_str().unwrap();
    for other in (0..).map_while(|n| with_another_number(summary, n)) {
        let mut forged = verdict.clone();
        forged["summary"] = Value::String(other.clone());
        assert!(!deviations(dir.path(), &forged).is_empty(), "{summary}\n{other}");
    }
    let mut tried = 0;
    for sentence in 0..verdict["evidence"].as_array().unwrap().len() {
        let text = verdict["evidence"][sentence].as_str().unwrap();
        for n in 0.. {
            let Some(other) = with_another_number(text, n) else { break };
            let mut forged = verdict.clone();
            forged["evidence"][sentence] = Value::String(other.clone());
            assert!(!deviations(dir.path(), &forged).is_empty(), "{text}\n{other}");
            tried += 1;
        }
    }
    let mut forged = verdict.clone();
    forged["evidence"][0] = Value::String("There were 3 more of them.".into());
    assert!(deviations(dir.path(), &forged).iter().any(|why| why.contains("no rule knows this sentence")));
    assert!(tried > 10, "{verdict:#}");
}
