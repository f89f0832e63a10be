//! `memtrap top` prints what `go tool pprof -top` prints: on real profiles of two Go releases, without Go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use memtrap::pprof::{Limits, Profile, TimeZone, top};

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pprof").join(name)
}

fn profile(path: &Path) -> Profile {
    Profile::parse(&fs::read(path).unwrap(), &Limits::default()).unwrap()
}

/// One run of pprof: its arguments, and what it printed.
struct Run {
    profile: String,
    base: Option<String>,
    options: top::Options,
    printed: String,
}

fn runs(recorded: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in recorded.lines() {
        let Some(arguments) = line.strip_prefix("$ -top ") else {
            let run = runs.last_mut().expect("a command line comes first");
            run.printed.push_str(line);
            run.printed.push('\n');
            continue;
        };
        let mut run = Run { profile: String::new(), base: None, options: top::Options::default(), printed: String::new() };
        for argument in arguments.split(' ') {
            match argument.split_once('=') {
                Some(("-sample_index", name)) => run.options.sample_index = Some(name.to_owned()),
                Some(("-nodecount", count)) => run.options.node_count = Some(count.parse().unwrap()),
                Some(("-base", base)) => run.base = Some(base.to_owned()),
                None if argument == "-cum" => run.options.cum = true,
                None => run.profile = argument.to_owned(),
                Some(_) => panic!("unknown argument {argument}"),
            }
        }
        runs.push(run);
    }
    runs
}

fn same_as_pprof(release: &str, at_least: usize) {
    let mut compared = 0;
    for entry in fs::read_dir(corpus(release)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "top") {
            continue;
        }
        for run in runs(&fs::read_to_string(&path).unwrap()) {
            let base = run.base.as_ref().map(|base| profile(&path.with_file_name(base)));
            let now = profile(&path.with_file_name(&run.profile));
            let printed = top::text(&now, base.as_ref(), &run.options, &TimeZone::UTC).unwrap();
            assert_eq!(printed, run.printed, "{}: base {:?}, {:?}", path.display(), run.base, run.options);
            compared += 1;
        }
    }
    assert!(compared >= at_least, "only {compared} runs are recorded for {release}");
}

#[test]
fn profiles_of_go_1_21_print_as_in_pprof() {
    same_as_pprof("go1.21", 60);
}

#[test]
fn profiles_of_go_1_27_print_as_in_pprof() {
    same_as_pprof("go1.27", 60);
}

fn command(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_memtrap")).arg("top").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn path(name: &str) -> String {
    corpus(name).display().to_string()
}

#[test]
fn the_command_takes_pprofs_choices() {
    let heap = path("go1.27/heap.pb.gz");
    let text = command(&[&heap, "--sample-index", "alloc_objects", "--cum", "-n", "4"]).unwrap();
    assert!(text.contains("Type: alloc_objects\n") && text.contains("Showing top 4 nodes out of "), "{text}");
    let text = command(&[&heap, "--base", &heap]).unwrap();
    assert!(text.contains("Showing nodes accounting for 0, 0% of 0 total\n"), "{text}");
}

#[test]
fn an_unknown_sample_index_is_answered_with_those_there_are() {
    let error = command(&[&path("go1.27/heap.pb.gz"), "-i", "inuse"]).unwrap_err();
    assert!(error.contains("no sample type `inuse`; it has alloc_objects, alloc_space, inuse_objects, inuse_space"), "{error}");
    assert!(command(&[&path("go1.27/heap.pb.gz"), "-i", "4"]).is_err());
}

#[test]
fn profiles_of_different_kinds_are_not_compared() {
    let error = command(&[&path("go1.27/heap.pb.gz"), "--base", &path("go1.27/goroutine.pb.gz")]).unwrap_err();
    assert!(error.contains("no sample type in common") && error.contains("profiles of the same kind"), "{error}");
}

#[test]
fn what_is_no_profile_is_named_with_what_to_do() {
    for (name, what, advice) in [("go1.27", "is a directory", "heap_gc.pb.gz"), ("go1.27/nothing.pb.gz", "cannot be read", "No such file")]
    {
        let error = command(&[&path(name)]).unwrap_err();
        assert!(error.contains(what) && error.contains(advice), "{name}: {error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("heap.pb.gz");
    let whole = fs::read(corpus("go1.27/heap.pb.gz")).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let error = command(&[cut.to_str().unwrap()]).unwrap_err();
    assert!(error.contains("cut off") && error.contains("fetch it again"), "{error}");
}

#[test]
fn growth_counts_what_came_since_the_base() {
    let (now, before) = (profile(&corpus("go1.27/heap.pb.gz")), profile(&corpus("go1.27/heap_before.pb.gz")));
    let growth = top::growth(&now, &before, Some("inuse_space")).unwrap();
    let buffers = growth.rows.iter().find(|row| row.name == "main.bigBuffers").unwrap();
    assert_eq!(buffers.flat, 4 << 20, "four more buffers of 1 MiB");
    assert_eq!(buffers.file, "example.com/shop/v2/main.go");
    assert_eq!((growth.sample_type.as_str(), growth.unit.as_str()), ("inuse_space", "bytes"));
}
