//! Every Chinese text of memtrap: one term for one thing, no half-translated sentence, blanks where they belong. The texts are found in the
//! sources, so that a new one is looked at too.

use std::fs;
use std::path::{Path, PathBuf};

/// What is not written, and what is written for it.
const TERMS: [(&str, &str); 11] = [
    ("抓", "采集"),
    ("捕获", "采集"),
    ("限额", "上限"),
    ("限值", "上限"),
    ("停世界", "STW"),
    ("协程", "goroutine"),
    ("基线", "baseline"),
    ("阀值", "阈值"),
    ("门限", "阈值"),
    ("报警", "告警"),
    ("垃圾收集", "GC"),
];
/// English of several words that has no other name in Chinese either: what is typed or looked up.
const NAMES: [&str; 4] = ["mutex profile fraction", "block profile rate", "go tool pprof", "list"];

struct Text {
    place: String,
    text: String,
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            files(&entry, into);
        } else {
            into.push(entry);
        }
    }
}

fn is_chinese(c: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&c)
}

/// String literals that hold Chinese, from sources and templates; lines, from what is prose. Layout's own tests try odd strings.
fn texts() -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = vec![root.join("README.zh-CN.md")];
    files(&root.join("src"), &mut found);
    files(&root.join("templates"), &mut found);
    let mut texts = Vec::new();
    for file in found.iter().filter(|f| !f.ends_with("layout.rs")) {
        let name = file.strip_prefix(root).unwrap().display();
        let whole = fs::read_to_string(file).unwrap();
        let of_interest = |line: &str| line.contains(is_chinese) && !line.trim_start().starts_with("//");
        for (i, line) in whole.lines().enumerate().filter(|(_, line)| of_interest(line)) {
            let is_prose = file.extension().is_some_and(|e| e == "md");
            // whatever the quotes of a template around it
            let pieces: Vec<&str> = if is_prose { vec![line] } else { line.split('"').collect() };
            let place = format!("{name}:{}", i + 1);
            texts.extend(pieces.into_iter().filter(|p| p.contains(is_chinese)).map(|p| Text { place: place.clone(), text: p.to_owned() }));
        }
    }
    texts
}

/// What is wrong with it.
fn faults(text: &str) -> Vec<String> {
    let mut faults: Vec<String> =
        TERMS.iter().filter(|(wrong, _)| text.contains(wrong)).map(|(wrong, right)| format!("{wrong}: write {right}")).collect();
    let chars: Vec<char> = text.chars().collect();
    for pair in chars.windows(2) {
        let [a, b] = *pair else { continue };
        // a placeholder may hold either
        if a.is_ascii_alphanumeric() && is_chinese(b) || is_chinese(a) && b.is_ascii_alphanumeric() {
            faults.push(format!("no blank in `{a}{b}`"));
        }
        if is_chinese(a) && ",;!?".contains(b) {
            faults.push(format!("`{b}` after Chinese: use the full-width one"));
        }
    }
    for three in chars.windows(3) {
        let [a, b, c] = *three else { continue };
        if c == '个' && b == ' ' && !(a.is_ascii_alphanumeric() || "}`%".contains(a)) {
            faults.push(format!("a blank before 个 that follows no number: `{a} 个`"));
        }
    }
    let mut rest = text.to_owned();
    NAMES.iter().for_each(|name| rest = rest.replace(name, "·"));
    // what stands in backticks is typed
    let said: String = rest.split('`').step_by(2).collect::<Vec<_>>().join("·");
    let words: Vec<&str> = said.split(' ').collect();
    for three in words.windows(3) {
        if three.iter().all(|w| w.len() > 1 && w.bytes().all(|b| b.is_ascii_lowercase())) {
            faults.push(format!("half English: `{}`", three.join(" ")));
        }
    }
    faults
}

#[test]
fn every_chinese_text_uses_the_same_terms_and_is_chinese_throughout() {
    let texts = texts();
    assert!(texts.len() > 300, "only {} texts were found", texts.len());
    // commands and tables of the README hold English, and layout of their own
    let is_prose =
        |t: &Text| !t.place.starts_with("README") || !(t.text.contains("memtrap ") || t.text.contains('|') || t.text.contains("  "));
    let mut wrong = Vec::new();
    for text in &texts {
        let of_terms = |fault: &String| fault.contains(": write ");
        wrong.extend(
            faults(&text.text)
                .into_iter()
                .filter(|f| is_prose(text) || of_terms(f))
                .map(|f| format!("{}: {f}\n    {}", text.place, text.text)),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_find_what_they_are_for() {
    for (text, word) in [
        ("正在抓取 {n} 次", "采集"),
        ("达到限额", "上限"),
        ("进程 停世界", "STW"),
        ("有3个实例", "no blank"),
        ("共有 个", "个"),
        ("无法读取: permission denied by kernel", "half English"),
        ("没有数据,请重试", "full-width"),
    ] {
        assert!(faults(text).iter().any(|f| f.contains(word)), "{text}: {:?}", faults(text));
    }
    assert_eq!(faults("共有 {n} 个 goroutine，其中 3 个在等锁"), [] as [&str; 0]);
}
