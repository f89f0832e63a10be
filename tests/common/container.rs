//! Real containers: runc, with a root directory that holds one static program and nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{copy_program, debian_program, not_checked};

/// A container, which ends with its owner.
pub struct Container {
    pub id: String,
    pub pid: u32,
    runc: PathBuf,
    _bundle: TempDir,
}

impl Container {
    /// Runs `program` as a user of its own, with namespaces of its own. `None`, said aloud: this machine cannot.
    pub fn start(id: &str, program: &std::path::Path, args: &[&str], annotations: Value) -> Option<Container> {
        let what = format!("a service in a container ({id})");
        if !rustix::process::geteuid().is_root() {
            not_checked(&format!("{what}: it needs root"));
            return None;
        }
        let runc = debian_program("runc", "usr/sbin/runc", &what)?;
        let bundle = tempfile::tempdir().unwrap();
        let root = bundle.path().join("rootfs");
        fs::create_dir(&root).unwrap();
        copy_program(program, root.join("app"));
        let spec = Command::new(&runc).arg("spec").current_dir(bundle.path()).output().unwrap();
        assert!(spec.status.success(), "{}", String::from_utf8_lossy(&spec.stderr));
        let path = bundle.path().join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let args: Vec<&str> = std::iter::once("/app").chain(args.iter().copied()).collect();
        spec["process"]["terminal"] = false.into();
        spec["process"]["args"] = json!(args);
        spec["process"]["user"] = json!({ "uid": 4_321, "gid": 4_321 });
        spec["annotations"] = annotations;
        fs::write(&path, spec.to_string()).unwrap();
        let log = fs::File::create(bundle.path().join("log")).unwrap();
        let mut run = Command::new(&runc);
        run.args(["run", "--detach", id]).current_dir(bundle.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut container = Container { id: id.into(), pid: 0, runc, _bundle: bundle };
        if !run.status().unwrap().success() {
            let said = fs::read_to_string(container._bundle.path().join("log")).unwrap_or_default();
            not_checked(&format!("{what}: {}", said.trim()));
            return None;
        }
        let state = Command::new(&container.runc).args(["state", id]).output().unwrap();
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        container.pid = state["pid"].as_u64().unwrap() as u32;
        Some(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new(&self.runc).args(["delete", "--force", &self.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
