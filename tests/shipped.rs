//! What one downloads: the archive and the list of what it is made of, and the image, which a real runtime runs.
//!
//! The daily test packs the debug build. `SHIPPED=FILE` has the static binary packed and run instead, as it will be.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use common::{bundles_in, debian_program, http, manifest, not_checked, repo, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// As whom the image runs.
const USER: u32 = 65_532;

/// What is packed, and whether it needs the system's libraries.
fn binary() -> (&'static Path, bool) {
    static BINARY: OnceLock<(PathBuf, bool)> = OnceLock::new();
    let (path, needs_libraries) = BINARY.get_or_init(|| match std::env::var_os("SHIPPED") {
        Some(path) => (fs::canonicalize(path).unwrap(), false),
        None => {
            // what a debugger reads is most of it, and it is packed four times
            let stripped = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memtrap-stripped");
            let unfinished = stripped.with_extension(std::process::id().to_string());
            done(Command::new("strip").arg("-o").arg(&unfinished).arg(env!("CARGO_BIN_EXE_memtrap")));
            fs::rename(&unfinished, &stripped).unwrap();
            (stripped, true)
        }
    });
    (path, *needs_libraries)
}

/// What a command prints that ends well.
fn done(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a script that packs, as somebody else would elsewhere, and returns the path that it prints.
fn pack(script: &str, out: &Path, umask: &str, zone: &str) -> PathBuf {
    let line = format!("umask {umask}; exec \"$0\" --binary \"$1\" --out \"$2\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).arg(repo().join("scripts").join(script)).arg(binary().0).arg(out).env("TZ", zone).env("LC_ALL", "C.UTF-8");
    done(&mut shell).into()
}

/// The same twice, in two folders.
fn packed_twice(script: &str) -> (TempDir, PathBuf) {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = pack(script, one.path(), "022", "UTC");
    pack(script, two.path(), "077", "Asia/Shanghai");
    for file in fs::read_dir(one.path()).unwrap().map(|e| e.unwrap()) {
        let name = file.file_name();
        assert!(fs::read(file.path()).unwrap() == fs::read(two.path().join(&name)).unwrap(), "other bytes the second time: {name:?}");
    }
    (one, first)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn the_archive_has_the_same_bytes_each_time_and_in_it_what_its_pages_name() {
    let (dir, archive) = packed_twice("release");
    let name = archive.file_name().unwrap().to_str().unwrap();
    done(Command::new("sha256sum").args(["--check", "--strict"]).arg(format!("{name}.sha256")).current_dir(dir.path()));
    done(Command::new("tar").arg("-xzf").arg(&archive).current_dir(dir.path()));
    let root = dir.path().join(name.strip_suffix(".tar.gz").unwrap());
    assert_eq!(done(Command::new(root.join("memtrap")).arg("--version")), concat!("memtrap ", env!("CARGO_PKG_VERSION")));
    assert!(fs::read(root.join("memtrap")).unwrap() == fs::read(binary().0).unwrap());
    for file in ["LICENSE", "systemd/memtrap.service", "config/memtrap.toml", "config/host.toml", "memtrap.cdx.json"] {
        assert!(root.join(file).is_file(), "{file}");
    }
    for page in ["README.md", "README.zh-CN.md", "CHANGELOG.md", "SECURITY.md", "docs/operations.md", "docs/containers.md"] {
        let page = root.join(page);
        let links = fs::read_to_string(&page).unwrap();
        for link in links.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            let file = link.split('#').next().unwrap();
            assert!(link.starts_with("http") || page.parent().unwrap().join(file).exists(), "{}: {link} is not there", page.display());
        }
    }
}

/// The names of the crates whose code may be linked in, by what cargo resolved for all builds and tests together.
fn resolved() -> BTreeMap<String, String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform"]);
    let said = done(cargo.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).current_dir(repo()));
    let all: Value = serde_json::from_str(&said).unwrap();
    let packages: BTreeMap<&str, &Value> = all["packages"].as_array().unwrap().iter().map(|p| (text(&p["id"]), p)).collect();
    let nodes: BTreeMap<&str, &Value> = all["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (text(&n["id"]), n)).collect();
    let is_macro = |id: &str| packages[id]["targets"].as_array().unwrap().iter().any(|t| t["kind"][0] == "proc-macro");
    let (mut found, mut next) = (BTreeMap::new(), vec![text(&all["resolve"]["root"])]);
    while let Some(id) = next.pop() {
        let package = packages[id];
        let name = format!("{}@{}", text(&package["name"]), text(&package["version"]));
        if found.insert(name, package["license"].as_str().unwrap_or_default().replace('/', " OR ")).is_some() {
            continue;
        }
        let linked = |d: &&Value| d["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
        next.extend(nodes[id]["deps"].as_array().unwrap().iter().filter(linked).map(|d| text(&d["pkg"])).filter(|id| !is_macro(id)));
    }
    found
}

#[test]
fn what_it_is_made_of_lists_each_crate_that_is_linked_in_and_no_other() {
    let said = done(&mut Command::new(repo().join("scripts/sbom")));
    let list: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&list["bomFormat"], &list["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let own = &list["metadata"]["component"];
    assert_eq!((&own["name"], &own["version"]), (&"memtrap".into(), &env!("CARGO_PKG_VERSION").into()));
    let lock = fs::read_to_string(repo().join("Cargo.lock")).unwrap();
    let resolved = resolved();
    let mut names = BTreeSet::new();
    let mut refs = BTreeSet::from([text(&own["bom-ref"])]);
    for part in list["components"].as_array().unwrap() {
        assert!(refs.insert(text(&part["bom-ref"])), "twice: {part}");
        let name = format!("{}@{}", text(&part["name"]), text(&part["version"]));
        if part["name"] == "rust-std" {
            continue;
        }
        assert_eq!(resolved.get(&name).map(String::as_str), part["licenses"][0]["expression"].as_str(), "{name}");
        assert_eq!(text(&part["purl"]), format!("pkg:cargo/{}", name.replace('+', "%2B")));
        let sum = text(&part["hashes"][0]["content"]);
        assert!(sum.len() == 64 && lock.contains(&format!("checksum = \"{sum}\"")), "{part}");
        names.insert(text(&part["name"]));
    }
    for linked in ["ring", "rustls", "tokio", "serde", "reqwest", "clap", "zlib-rs"] {
        assert!(names.contains(linked), "{linked} is missing");
    }
    for builds_or_tests in ["syn", "serde_derive", "cc", "proptest", "insta", "clap_mangen", "rcgen", "memtrap"] {
        assert!(!names.contains(builds_or_tests), "{builds_or_tests} is not linked in");
    }
    // what the tests alone want of a crate's features brings a few more, and nothing that counts
    assert!(names.len() * 10 > resolved.len() * 9, "{} of {}", names.len(), resolved.len());
    let edges = list["dependencies"].as_array().unwrap();
    assert_eq!(edges.iter().map(|e| text(&e["ref"])).collect::<BTreeSet<_>>(), refs, "each says what it needs");
    let needed: BTreeSet<&str> = edges.iter().flat_map(|e| e["dependsOn"].as_array().unwrap()).map(text).collect();
    assert!(needed.is_subset(&refs));
}

/// What stands for a file of an image: its digest is its name.
fn blob(image: &Path, descriptor: &Value) -> PathBuf {
    let digest = text(&descriptor["digest"]).strip_prefix("sha256:").unwrap();
    let path = image.join("blobs/sha256").join(digest);
    assert_eq!(path.metadata().unwrap().len(), descriptor["size"].as_u64().unwrap(), "{descriptor}");
    assert!(done(Command::new("sha256sum").arg(&path)).starts_with(digest), "{descriptor}");
    path
}

#[test]
fn the_image_has_the_same_bytes_each_time_and_is_one_file_for_a_user_without_rights() {
    let (dir, archive) = packed_twice("image");
    done(Command::new("tar").arg("-xf").arg(&archive).current_dir(dir.path()));
    let image = dir.path();
    assert_eq!(json_of(&image.join("oci-layout")), json!({ "imageLayoutVersion": "1.0.0" }));
    let index = json_of(&image.join("index.json"));
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], env!("CARGO_PKG_VERSION"));
    let manifest = json_of(&blob(image, &index["manifests"][0]));
    let config = blob(image, &manifest["config"]);
    let layer = blob(image, &manifest["layers"][0]);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let unpacked = done(Command::new("sh").args(["-c", "gzip -dc \"$0\" | sha256sum | cut -d ' ' -f 1"]).arg(&layer));
    let settings = json_of(&config);
    assert_eq!(settings["rootfs"]["diff_ids"], json!([format!("sha256:{unpacked}")]));
    assert_eq!(settings["config"]["User"], format!("{USER}:{USER}"));
    assert_eq!((&settings["config"]["Entrypoint"], &settings["config"]["Cmd"]), (&json!(["/memtrap"]), &json!(["run"])));
    let listed = done(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&layer));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let entries: Vec<String> = listed.lines().map(words).map(|w| format!("{} {} {}", w[0], w[1], w[5])).collect();
    // the last, so that a volume there belongs to the user
    let own = format!("drwxr-xr-x {USER}/{USER} var/lib/memtrap/");
    assert_eq!(entries, ["-rwxr-xr-x 0/0 memtrap", "drwxr-xr-x 0/0 var/", "drwxr-xr-x 0/0 var/lib/", &own]);
    let docker = json_of(&image.join("manifest.json"));
    assert_eq!(image.join(text(&docker[0]["Config"])), config);
    assert_eq!(docker[0]["Layers"].as_array().unwrap().iter().map(|l| image.join(text(l))).collect::<Vec<_>>(), [layer]);
}

/// A container in the foreground, which ends with its owner.
struct Running {
    run: Child,
    runc: PathBuf,
    id: String,
    dir: TempDir,
}

impl Running {
    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn runc(&self, args: &[&str]) -> String {
        done(Command::new(&self.runc).args(args))
    }

    /// The first process, by its pid outside.
    fn pid(&self) -> u64 {
        let state: Value = serde_json::from_str(&self.runc(&["state", &self.id])).unwrap();
        state["pid"].as_u64().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new(&self.runc).args(["delete", "--force", &self.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

/// Runs the image as the strictest pod would: its own user, no right, nothing to write to but a volume like an `emptyDir`, of which it watches itself.
fn run(what: &str) -> Option<Running> {
    if !rustix::process::geteuid().is_root() {
        not_checked(&format!("{what}: it needs root"));
        return None;
    }
    let runc = debian_program("runc", "usr/sbin/runc", what)?;
    let umoci = debian_program("umoci", "usr/bin/umoci", what)?;
    let dir = tempfile::tempdir().unwrap();
    let archive = pack("image", dir.path(), "022", "UTC");
    let (image, bundle) = (dir.path().join("image"), dir.path().join("bundle"));
    fs::create_dir(&image).unwrap();
    done(Command::new("tar").arg("-xf").arg(&archive).current_dir(&image));
    let named = format!("{}:{}", image.display(), env!("CARGO_PKG_VERSION"));
    done(Command::new(umoci).args(["unpack", "--image", &named]).arg(&bundle));
    let volume = dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    let settings = dir.path().join("settings");
    fs::create_dir(&settings).unwrap();
    let config = "[daemon]\nlisten = \"127.0.0.1:0\"\nstate_dir = \"/var/lib/memtrap/state\"\nbundle_dir = \"/var/lib/memtrap/bundles\"\n\
                  [[target]]\nname = \"itself\"\nprocess = { pid = 1 }\npprof = \"off\"\nthreshold = \"1MiB\"\nfor = \"200ms\"\n\
                  warmup = \"0s\"\ninterval = \"100ms\"\nbaseline = \"off\"\n";
    fs::write(settings.join("memtrap.toml"), config).unwrap();

    let spec_path = bundle.join("config.json");
    let mut spec = json_of(&spec_path);
    assert_eq!(spec["process"]["args"], json!(["/memtrap", "run"]));
    assert_eq!((&spec["process"]["user"]["uid"], &spec["process"]["user"]["gid"]), (&USER.into(), &USER.into()));
    spec["process"]["terminal"] = false.into();
    spec["process"]["noNewPrivileges"] = true.into();
    spec["process"]["capabilities"] = json!({});
    spec["root"]["readonly"] = true.into();
    // so that the test reaches its server
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
    let mut bind = |from: &Path, to: &str, options: &[&str]| {
        let options = [&["rbind"], options].concat();
        let mount = json!({ "source": from, "destination": to, "type": "bind", "options": options });
        spec["mounts"].as_array_mut().unwrap().push(mount);
    };
    bind(&volume, "/var/lib/memtrap", &["rw", "nosuid", "nodev"]);
    bind(&settings, "/etc/memtrap", &["ro"]);
    if binary().1 {
        for libraries in ["/lib", "/lib64", "/usr/lib"].map(Path::new).into_iter().filter(|dir| dir.exists()) {
            bind(libraries, libraries.to_str().unwrap(), &["ro"]);
        }
    }
    fs::write(&spec_path, spec.to_string()).unwrap();
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let id = format!("memtrap-image-{}", std::process::id());
    let mut command = Command::new(&runc);
    command.args(["run", &id]).current_dir(&bundle).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut running = Running { run: command.spawn().unwrap(), runc, id, dir };
    let mut ended = false;
    wait_until(Duration::from_secs(20), "memtrap watches in a container, or the container cannot be", || {
        ended = running.run.try_wait().unwrap().is_some();
        ended || running.log().contains("memtrap watches")
    });
    if ended {
        let log = running.log();
        assert!(log.contains("runc"), "memtrap ended at once: {log}");
        not_checked(&format!("{what}: {}", log.trim()));
        return None;
    }
    Some(running)
}

/// The processes of a pid namespace, each with its state.
fn inside(namespace: &Path) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    for pid in fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse::<u64>().ok()) {
        let state = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = state.lines().find_map(|l| l.strip_prefix("State:")).unwrap_or_default().trim().to_owned();
        if fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|link| link == namespace) {
            found.push((pid, state));
        }
    }
    found
}

#[test]
fn the_image_runs_read_only_without_rights_as_pid_1_catches_and_ends_at_once_when_told_to() {
    let Some(mut container) = run("the image in a container") else { return };
    let pid = container.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("{key}: {status}")).trim().to_owned();
    assert!(line("NSpid:").ends_with("\t1"), "{status}");
    assert_eq!(line("Uid:"), [USER; 4].map(|u| u.to_string()).join("\t"));
    assert_eq!((line("CapEff:").as_str(), line("NoNewPrivs:").as_str()), ("0000000000000000", "1"));
    let planted = fs::write(format!("/proc/{pid}/root/planted"), "").unwrap_err();
    assert_eq!(planted.kind(), std::io::ErrorKind::ReadOnlyFilesystem);

    let log = container.log();
    let address = log.split("listening:").nth(1).and_then(|l| l.split("address=").nth(1)?.split_whitespace().next()).expect("it listens");
    assert_eq!(http::get(address, "/healthz").status, 200);
    let bundles = container.dir.path().join("volume/bundles");
    wait_until(Duration::from_secs(30), "it catches itself", || !bundles_in(&bundles).is_empty());
    let bundle = bundles_in(&bundles).remove(0);
    assert_eq!(manifest(&bundle)["instance"]["pid"], 1, "{}", container.log());
    assert!(bundle.join("verdict.json").exists(), "the analysis, a process of its own, ran: {}", container.log());
    let namespace = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    wait_until(Duration::from_secs(10), "nothing is left beside it, dead or alive", || inside(&namespace).len() == 1);

    container.runc(&["kill", &container.id, "TERM"]);
    let mut end = None;
    wait_until(Duration::from_secs(5), "it ends", || {
        end = container.run.try_wait().unwrap();
        end.is_some()
    });
    assert!(end.unwrap().success(), "{end:?}: {}", container.log());
}
