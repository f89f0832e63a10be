//! The verdict on real programs whose memory went where their names say: a share of them each time, all of them with `make corpus`.

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use common::corpus::{Kind, Row, Run, each, kept};
use common::http::get;
use common::outside::compare;
use common::scenarios::{SCENARIOS, Scenario};
use common::{Build, GoVersion, MIB};
use serde_json::Value;

/// Programs at once: they take 160 MiB each, and both processors.
const AT_ONCE: usize = 4;
const GROWTH_MIB: u64 = 160;

fn verdict_in(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("verdict.json")).unwrap()).unwrap()
}

/// None is wrong with high confidence, at most one of `one_in` is wrong at all, and each number is in its bundle.
fn hold(rows: &[Row], one_in: usize) {
    let deviating: Vec<String> = rows.iter().filter(|row| !row.deviations.is_empty()).map(Row::to_string).collect();
    assert!(deviating.is_empty(), "numbers that are not in the bundle:\n{}", deviating.join("\n"));
    let wrong: Vec<String> = rows.iter().filter(|row| !row.right).map(Row::to_string).collect();
    assert!(!rows.iter().any(Row::is_wrong_and_sure), "wrong with high confidence:\n{}", wrong.join("\n"));
    assert!(wrong.len() * one_in <= rows.len(), "{} of {} are wrong:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// The daily scenarios on these Gos: of each Go at most one in twenty is wrong.
fn hold_daily(versions: &[GoVersion], kind: Kind) {
    let dir = tempfile::tempdir().unwrap();
    let daily = SCENARIOS.iter().filter(|s| s.daily);
    let runs = daily.flat_map(|scenario| versions.iter().map(move |version| Run { scenario, version: *version, kind }));
    let rows = each(runs.filter(Run::is_possible).collect(), AT_ONCE, |run| {
        let bundle = dir.path().join(run.path());
        run.capture(GROWTH_MIB, &bundle);
        let row = run.judge(&bundle);
        fs::remove_dir_all(bundle).unwrap();
        row
    });
    for version in versions {
        let rows: Vec<Row> = rows.iter().filter(|row| row.run.version == *version).cloned().collect();
        hold(&rows, 20);
    }
}

#[test]
fn the_verdict_is_right_on_the_oldest_and_on_the_newest_go() {
    hold_daily(&GoVersion::BOTH, Kind::Plain);
}

#[test]
fn the_verdict_is_as_right_from_the_memory_alone_of_programs_without_symbols() {
    hold_daily(&[GoVersion::Newest], Kind::Memory);
}

#[test]
fn the_growth_since_the_baseline_decides() {
    // a large healthy heap, and a leak of native memory on top: by totals it would be the heap
    let dir = tempfile::tempdir().unwrap();
    let run = Run { scenario: SCENARIOS.iter().find(|s| s.name == "mmap_anon").unwrap(), version: GoVersion::Newest, kind: Kind::Baseline };
    let bundle = dir.path().join("grown");
    run.capture(GROWTH_MIB, &bundle);
    let verdict = verdict_in(&bundle);
    hold(&[run.judge(&bundle)], 2);
    assert!(verdict["baseline_rss_bytes"].as_u64().unwrap() < 60 * MIB, "{verdict:#}");
    let native = verdict["anatomy"].as_array().unwrap().iter().find(|b| b["bucket"] == "native_anon").unwrap();
    assert!(native["growth_bytes"].as_i64().unwrap() > 60 * MIB as i64, "{native}");
}

fn asked(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// All scenarios on three Gos, with a baseline, without, and from memory alone: `make corpus`, which says what can be asked for.
#[test]
#[ignore = "takes an hour"]
fn the_whole_corpus() {
    let at_once = asked("AT_ONCE").map_or(AT_ONCE, |n| n.parse().expect("AT_ONCE is a number"));
    let mib = asked("MIB").map_or(GROWTH_MIB, |n| n.parse().expect("MIB is a number"));
    let again = asked("AGAIN").is_some();
    let only: Vec<String> = asked("ONLY").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let kinds = [Kind::Plain, Kind::Baseline, Kind::Memory];
    let all = GoVersion::ALL.into_iter().flat_map(|version| kinds.map(|kind| (version, kind)));
    let all = all.flat_map(|(version, kind)| SCENARIOS.iter().map(move |scenario| Run { scenario, version, kind }));
    let bundle = |run: &Run| -> PathBuf { kept().join(run.path()) };
    let is_asked = |run: &Run| only.iter().all(|part| format!("{}/", run.path()).contains(part.as_str()));
    let can_be = |run: &Run| run.is_possible() && (!again || bundle(run).is_dir());
    let runs: Vec<Run> = all.filter(|run| is_asked(run) && can_be(run)).collect();
    assert!(!runs.is_empty(), "nothing fits ONLY={only:?}");
    let rows = each(runs, at_once, |run| {
        let row = run.try_to(|run| {
            if !again {
                run.capture(mib, &bundle(&run));
            }
            run.judge(&bundle(&run))
        });
        println!("{row}");
        row
    });
    let table: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let right = rows.iter().filter(|row| row.right).count();
    let sure = rows.iter().filter(|row| row.is_wrong_and_sure()).count();
    let summary =
        format!("{right} of {} right ({:.1}%), {sure} wrong with high confidence\n", rows.len(), right as f64 * 100.0 / rows.len() as f64);
    fs::write(kept().join("table.txt"), format!("{table}{summary}")).unwrap();
    print!("{summary}");
    hold(&rows, 33);
}

/// `make outside`: what is read of each program's memory is what its pprof says, in the ways that programs are built.
#[test]
#[ignore = "takes a quarter of an hour"]
fn what_is_read_of_the_whole_corpus_is_what_it_tells() {
    let builds = [Build::Plain, Build::Stripped, Build::Pie, Build::Cgo];
    let only = asked("ONLY").unwrap_or_default();
    let possible = |(_, scenario): &(usize, &Scenario)| scenario.build != Build::Narrow && scenario.name.contains(&only);
    let programs: Vec<(usize, &Scenario)> = SCENARIOS.iter().enumerate().filter(possible).collect();
    let (mut wrong, mut sites, mut stacks, mut compared) = (Vec::new(), 0, 0, 0);
    for (at, version) in GoVersion::ALL.into_iter().enumerate() {
        for (nth, scenario) in programs.iter().filter(|(_, scenario)| scenario.is_for(version)) {
            let svc = scenario.built(builds[(nth + at) % builds.len()]).start(version, 32);
            // what is in use is as of the last collection, and counted two cycles later
            for _ in 0..2 {
                get(svc.address(), "/debug/pprof/heap?gc=1");
            }
            let (what, found) = compare(svc.pid(), |path| get(svc.address(), &format!("/debug/pprof/{path}")).body);
            println!("{:<8} {:<28} {:>5} sites {:>4} stacks {found:#?}", version.number(), scenario.name, what.sites, what.stacks);
            wrong.extend(found.into_iter().map(|why| format!("{version:?} {}: {why}", scenario.name)));
            (sites, stacks, compared) = (sites + what.sites, stacks + what.stacks, compared + 1);
        }
    }
    println!("{compared} programs, {sites} sites and {stacks} stacks compared, {} differ", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
