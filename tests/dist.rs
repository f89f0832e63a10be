//! The flags of what is shipped, on a program of one file: a build of memtrap itself takes minutes, and scripts/dist checks each.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::not_checked;

/// Compiles a program that lies where cargo keeps others' sources, and returns its bytes.
fn built(cargo_home: &Path, flags: &[String]) -> Vec<u8> {
    let source = cargo_home.join("registry/src/index-1/dep-1.0.0/src/main.rs");
    fs::create_dir_all(source.parent().unwrap()).unwrap();
    fs::write(&source, "fn main() { let v: Vec<String> = std::env::args().collect(); println!(\"{}\", v[9]); }").unwrap();
    let program = cargo_home.join("program");
    let done = Command::new("rustc").args(flags).args(["-Cstrip=symbols", "-Copt-level=1"]).arg(&source).arg("-o").arg(&program).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read(program).unwrap()
}

fn flags(cargo_home: &Path) -> Vec<String> {
    said(&["--flags"], cargo_home)
}

/// What scripts/dist prints.
fn said(args: &[&str], cargo_home: &Path) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dist");
    let said = Command::new(script).args(args).env("CARGO_HOME", cargo_home).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8(said.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn holds(program: &[u8], dir: &Path) -> bool {
    let path = dir.to_str().unwrap().as_bytes();
    program.windows(path.len()).any(|w| w == path)
}

#[test]
fn what_is_shipped_names_no_folder_of_the_building_machine_and_is_the_same_from_any() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (one.path().canonicalize().unwrap(), two.path().canonicalize().unwrap());
    // it would be there without the flags
    assert!(holds(&built(&one, &[]), &one));
    let (first, second) = (built(&one, &flags(&one)), built(&two, &flags(&two)));
    assert!(!holds(&first, &one) && !holds(&second, &two));
    assert!(first == second, "the same source in another folder gives other bytes");
}

const SAID_BY_MODULE: &str = "a module was loaded";

/// A root directory in which names are looked up by a module that says so and ends the process, as one of another glibc would do without a word.
fn root_with_module(root: &Path) {
    let libraries = root.join("lib");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(&libraries).unwrap();
    fs::write(root.join("etc/nsswitch.conf"), "hosts: memtrap files\n").unwrap();
    fs::write(root.join("etc/hosts"), "127.0.0.7 checkout\n").unwrap();
    let source = root.join("module.c");
    let text = format!(
        "#include <unistd.h>\n#include <string.h>\n__attribute__((constructor)) static void loaded(void)\n\
         {{ const char *s = \"{SAID_BY_MODULE}\"; if (write(1, s, strlen(s))) _exit(0); }}\n"
    );
    fs::write(&source, text).unwrap();
    let library = libraries.join("libnss_memtrap.so.2");
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output().unwrap();
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    // what it needs in turn, where a loader without a cache looks
    let needed = Command::new("ldd").arg(&library).output().unwrap();
    for path in String::from_utf8(needed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        fs::copy(path, libraries.join(path.file_name().unwrap())).unwrap();
    }
}

/// Runs a program that looks up the name `checkout`, linked with these flags, in that root.
fn looks_up(root: &Path, flags: &[String]) -> Output {
    let source = root.join("looks_up.rs");
    let text =
        "use std::net::ToSocketAddrs;\nfn main() { print!(\"{:?}\", (\"checkout\", 1).to_socket_addrs().map(|a| a.collect::<Vec<_>>())); }";
    fs::write(&source, text).unwrap();
    let program = root.join("program");
    let done = Command::new("rustc").args(flags).arg(&source).arg("-o").arg(&program).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Command::new("chroot").arg(root).arg("/program").output().unwrap()
}

#[test]
fn the_static_binary_looks_names_up_without_a_library_of_the_system_it_runs_on() {
    if !rustix::process::geteuid().is_root() {
        return not_checked("that the static binary loads no library to look names up: it needs root, for a root directory of its own");
    }
    let dir = tempfile::tempdir().unwrap();
    root_with_module(dir.path());
    let flags = said(&["--static", "--flags"], dir.path());
    let without: Vec<String> = flags.iter().filter(|flag| !flag.contains("link-arg")).cloned().collect();
    assert!(without.len() < flags.len());
    // so that the claim could fail
    assert_eq!(String::from_utf8_lossy(&looks_up(dir.path(), &without).stdout), SAID_BY_MODULE);
    let done = looks_up(dir.path(), &flags);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "Ok([127.0.0.7:1])");
}
