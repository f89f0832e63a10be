//! The rooms of the house (the modules that `src/lib.rs` names) and which of them knows which: no two know each other, by whatever detour; and
//! where their files are.
//!
//! `cargo test --test rooms -- --nocapture` prints the graph, from the ground floor up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Room → room it names → the first files that name it.
type Graph = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

#[test]
fn no_room_knows_a_room_that_knows_it() {
    let graph = graph(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let knots = knots(&graph);
    print!("{}", drawn(&graph));
    assert!(graph.len() > 20, "the rooms were not found: {:?}", graph.keys());
    assert!(knots.is_empty(), "rooms that know each other:\n{}", told(&graph, &knots));
}

#[test]
fn a_module_with_modules_of_its_own_is_a_directory_with_a_mod_rs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs = vec![root.join("src")];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let other = path.with_extension("rs");
                assert!(!other.exists(), "{} belongs into {} as mod.rs", other.display(), path.display());
                seen += 1;
                dirs.push(path);
            }
        }
    }
    assert!(seen > 20, "only {seen} directories were seen");
}

#[test]
fn a_knot_is_found_whatever_way_it_is_written() {
    for (a, b) in [
        ("use crate::b::x;", "fn f() { crate::a::y() }"),
        ("use crate::{\n    units,\n    b::{self, x},\n};", "use super::a;"),
        ("pub(in crate::a) fn f() { super::b::x() }", "mod inner { use super::super::a::y; }"),
    ] {
        let rooms = BTreeSet::from(["a".to_owned(), "b".to_owned(), "units".to_owned()]);
        let mut graph = Graph::from_iter(rooms.iter().map(|r| (r.clone(), BTreeMap::new())));
        note(&mut graph, &rooms, &["a".into()], "a.rs", a);
        note(&mut graph, &rooms, &["b".into()], "b.rs", b);
        assert_eq!(knots(&graph), [BTreeSet::from(["a".to_owned(), "b".to_owned()])], "{a} | {b}");
    }
}

#[test]
fn comments_strings_and_tests_are_no_imports() {
    let rooms = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    for text in [
        "// crate::b",
        "/// [`crate::b`]",
        "const X: &str = \"crate::b\";",
        "#[cfg(test)]\nmod tests {\n    use crate::b;\n}\n",
        "pub(in crate::a) fn f() {}",
    ] {
        let mut graph = Graph::from_iter(rooms.iter().map(|r| (r.clone(), BTreeMap::new())));
        note(&mut graph, &rooms, &["a".into()], "a.rs", text);
        assert!(graph["a"].is_empty(), "{text}: {graph:?}");
    }
}

fn graph(src: &Path) -> Graph {
    let lib = fs::read_to_string(src.join("lib.rs")).expect("src/lib.rs");
    let rooms: BTreeSet<String> = declared(&code(&lib)).into_iter().filter(|(_, test)| !test).map(|(name, _)| name).collect();
    let mut graph = Graph::from_iter(rooms.iter().map(|room| (room.clone(), BTreeMap::new())));
    for room in &rooms {
        visit(&mut graph, &rooms, src, vec![room.clone()]);
    }
    graph
}

/// A module and those that it declares, but for tests.
fn visit(graph: &mut Graph, rooms: &BTreeSet<String>, src: &Path, module: Vec<String>) {
    let beside: PathBuf = src.join(module.join("/"));
    let files = [beside.with_extension("rs"), beside.join("mod.rs")];
    let Some(file) = files.iter().find(|f| f.exists()) else { panic!("no file of {module:?}") };
    let text = fs::read_to_string(file).expect("a source file");
    let name = file.strip_prefix(src).expect("below src").display().to_string();
    note(graph, rooms, &module, &name, &text);
    for (child, test) in declared(&code(&text)) {
        if !test {
            visit(graph, rooms, src, [module.clone(), vec![child]].concat());
        }
    }
}

/// Names of `mod x;`, and whether only tests have it.
fn declared(code: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut test = false;
    for line in code.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some((_, name)) = line
            .strip_suffix(';')
            .and_then(|l| l.split_once("mod "))
            .filter(|(visible, _)| visible.is_empty() || visible.starts_with("pub"))
        {
            found.push((name.to_owned(), test));
        }
        test = line.starts_with("#[") && (test || line.starts_with("#[cfg(test)]"));
    }
    found
}

/// Notes what a text names of other rooms: `crate::x`, `crate::{x, y}`, and `super` above the room.
fn note(graph: &mut Graph, rooms: &BTreeSet<String>, module: &[String], file: &str, text: &str) {
    let code = code(text);
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if !code[..at].ends_with("in ") {
            heads(rest, &mut named);
        }
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut up = 0;
        while let Some(above) = rest.strip_prefix("super::") {
            (rest, up) = (above, up + 1);
        }
        if up >= module.len() {
            heads(rest, &mut named);
        }
    }
    let own = &module[0];
    for room in named.into_iter().filter(|n| n != own && rooms.contains(n)) {
        graph.get_mut(own).expect("a room").entry(room).or_default().insert(file.to_owned());
    }
}

/// The first name of each path of `x::y`, or of `{x, y::{z}}`.
fn heads(rest: &str, into: &mut BTreeSet<String>) {
    let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = rest.strip_prefix('{') else {
        into.insert(word(rest));
        return;
    };
    let mut depth = 0;
    let mut start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && !c.is_whitespace() => {
                into.insert(word(&list[at..]));
                start = false;
            }
            _ => {}
        }
    }
}

/// Without comments and what stands between quotes.
fn code(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut quoted = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if quoted => {
                    chars.next();
                }
                '"' => quoted = !quoted,
                '/' if !quoted && chars.peek() == Some(&'/') => break,
                c if !quoted => out.push(c),
                _ => {}
            }
        }
        out.push('\n');
    }
    out
}

/// Sets of two and more rooms that reach each other.
fn knots(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = graph
        .keys()
        .map(|from| {
            let mut seen = BTreeSet::new();
            let mut ahead: Vec<&String> = graph[from].keys().collect();
            while let Some(room) = ahead.pop() {
                if seen.insert(room) {
                    ahead.extend(graph[room].keys());
                }
            }
            (from, seen)
        })
        .collect();
    let mut knots: Vec<BTreeSet<String>> = Vec::new();
    for (room, seen) in &reach {
        let knot: BTreeSet<String> = seen.iter().filter(|other| reach[**other].contains(room)).map(|other| (*other).clone()).collect();
        if !knot.is_empty() && !knots.contains(&knot) {
            knots.push(knot);
        }
    }
    knots
}

fn told(graph: &Graph, knots: &[BTreeSet<String>]) -> String {
    let mut out = String::new();
    for knot in knots {
        out += &format!("{}\n", knot.iter().cloned().collect::<Vec<_>>().join(", "));
        for from in knot {
            for (to, files) in graph[from].iter().filter(|(to, _)| knot.contains(*to)) {
                out += &format!("  {from} -> {to}: {}\n", files.iter().cloned().collect::<Vec<_>>().join(" "));
            }
        }
    }
    out
}

/// One line a room; each stands below all that it names, unless there is a knot.
fn drawn(graph: &Graph) -> String {
    let mut out = String::new();
    let mut done: BTreeSet<&String> = BTreeSet::new();
    while done.len() < graph.len() {
        let ready: Vec<&String> = graph.keys().filter(|r| !done.contains(r) && graph[*r].keys().all(|to| done.contains(to))).collect();
        let ready = if ready.is_empty() { graph.keys().filter(|r| !done.contains(r)).collect() } else { ready };
        for room in ready {
            out += &format!("{room:12} -> {}\n", graph[room].keys().cloned().collect::<Vec<_>>().join(" "));
            done.insert(room);
        }
    }
    out
}
