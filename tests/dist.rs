//! The flags of what is shipped, on a program of one file: a build of memtrap itself takes minutes, and scripts/dist checks each.

use std::path::Path;
use std::process::Command;

/// Compiles a program that lies where cargo keeps others' sources, and returns its bytes.
fn built(cargo_home: &Path, flags: &[String]) -> Vec<u8> {
    let source = cargo_home.join("registry/src/index-1/dep-1.0.0/src/main.rs");
    std::fs::create_dir_all(source.parent().unwrap()).unwrap();
    std::fs::write(&source, "fn main() { let v: Vec<String> = std::env::args().collect(); println!(\"{}\", v[9]); }").unwrap();
    let program = cargo_home.join("program");
    let done = Command::new("rustc").args(flags).args(["-Cstrip=symbols", "-Copt-level=1"]).arg(&source).arg("-o").arg(&program).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    std::fs::read(program).unwrap()
}

fn flags(cargo_home: &Path) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dist");
    let said = Command::new(script).arg("--flags").env("CARGO_HOME", cargo_home).output().unwrap();
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
