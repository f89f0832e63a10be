//! The documents are true where a program can tell: what they name is there, what is there they name, and both READMEs say the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const README_LINES: usize = 150;
const PICTURE_BYTES: u64 = 100 << 10;

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(repo().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// All files below a directory with this ending.
fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![repo().join(dir)];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// The targets of Markdown's links and pictures, without anchors, in order.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|t| !t.starts_with("http") && !t.starts_with('#')).map(|t| t.split('#').next().unwrap().to_owned()).collect()
}

/// Lines within fences, without what follows a `#`.
fn commands(text: &str) -> Vec<String> {
    let inside = text.split("```").skip(1).step_by(2).flat_map(|block| block.lines().skip(1));
    inside.map(|line| line.split('#').next().unwrap().replace(" --lang zh", "").trim_end().to_owned()).collect()
}

#[test]
fn both_readmes_are_short_and_have_the_same_parts_commands_and_links() {
    let [english, chinese] = ["README.md", "README.zh-CN.md"].map(read);
    for (name, text) in [("README.md", &english), ("README.zh-CN.md", &chinese)] {
        assert!(text.lines().count() <= README_LINES, "{name} has {} lines: the rest belongs below docs/", text.lines().count());
    }
    let parts = |text: &str| text.lines().filter(|l| l.starts_with("## ")).count();
    assert_eq!(parts(&english), parts(&chinese));
    assert_eq!(commands(&english), commands(&chinese));
    let others = |text: &str| links(text).into_iter().filter(|l| !l.starts_with("README")).collect::<Vec<_>>();
    assert_eq!(others(&english), others(&chinese));
}

#[test]
fn links_lead_to_files_and_pictures_are_small() {
    let pages =
        ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "fuzz/README.md"].map(|page| repo().join(page));
    for page in pages.into_iter().chain(files("docs", ".md")) {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            assert!(page.parent().unwrap().join(&link).exists(), "{}: {link} is not there", page.display());
        }
    }
    for picture in files("docs/img", ".png") {
        let bytes = picture.metadata().unwrap().len();
        assert!(bytes <= PICTURE_BYTES, "{} has {bytes} bytes", picture.display());
    }
}

/// Every thread's name in the sources, but for tests.
fn threads() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files("src", ".rs").into_iter().filter(|f| !f.to_str().unwrap().contains("test")) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        for start in [".name(\"", "Lane::start(\"", "Threads::new(\"", "on_thread(\""] {
            names.extend(code.split(start).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    names
}

#[test]
fn the_design_names_every_thread_and_no_other() {
    let there = threads();
    assert!(there.len() > 15, "the threads were not found: {there:?}");
    let design = read("docs/design.md");
    let table = design.split("## Threads").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a part `Threads`");
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let named: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(named, there, "a row of docs/design.md for each thread that src starts");
}

#[test]
fn what_contributing_and_the_design_name_is_there() {
    let sources: String =
        ["src", "tests", "benches"].iter().flat_map(|dir| files(dir, ".rs")).map(|f| fs::read_to_string(f).unwrap()).collect();
    for page in ["CONTRIBUTING.md", "docs/design.md"] {
        let text = read(page);
        let quoted = text.split('`').skip(1).step_by(2);
        for word in quoted {
            let is_path = ["src/", "tests/", "docs/", "config/", "scripts/", "benches/", "fuzz/", "templates/", "packaging/", ".github/"]
                .iter()
                .any(|dir| word.starts_with(dir));
            if is_path && !word.contains([' ', '*']) {
                assert!(repo().join(word).exists(), "{page}: {word} is not there");
            }
            // a test: words joined to a sentence; one that goes on with `…` is the beginning of its name
            let name = word.trim_end_matches('…');
            if name.matches('_').count() >= 4 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                assert!(sources.contains(&format!("fn {name}")), "{page}: no test is called {word}");
            }
        }
    }
}
