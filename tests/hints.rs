//! Each failure that has a known cure names it: what is tried is a real Go service, what is wrong is wrong in earnest.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::{GoVersion, Svc, go_svc, run};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// What `check --probe` says of a target, and how it is told to reach its pprof.
struct Place {
    dir: TempDir,
    pid: u32,
}

impl Place {
    fn of(svc: &Svc) -> Place {
        Place { dir: TempDir::new().unwrap(), pid: svc.pid() }
    }

    fn config(&self, keys: &str) -> PathBuf {
        let (file, at) = (self.dir.path().join("memtrap.toml"), self.dir.path().display());
        let daemon = format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n");
        let target = format!("[[target]]\nname = \"svc\"\nprocess = {{ pid = {} }}\nthreshold = \"1TiB\"\nretries = 0\n{keys}\n", self.pid);
        fs::write(&file, daemon + &target).unwrap();
        file
    }

    /// The line about pprof.
    fn trouble(&self, keys: &str) -> String {
        trouble_in(&run(&["check", "--probe", "-c", self.config(keys).to_str().unwrap()]))
    }
}

fn trouble_in(done: &Output) -> String {
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&done.stdout));
    said.lines().find(|l| l.contains("pprof:")).unwrap_or_else(|| panic!("nothing of pprof in:\n{said}")).to_owned()
}

/// A certificate and its key for a server, in files.
struct Pair {
    dir: TempDir,
}

impl Pair {
    fn of(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "svc");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        Pair { dir }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn serve(&self, more: &[&str]) -> Svc {
        let (cert, key) = (self.file("cert.pem"), self.file("key.pem"));
        Svc::start(GoVersion::Newest, &[&["-tls-cert", &cert, "-tls-key", &key], more].concat())
    }
}

fn https(svc: &Svc, auth: &str) -> String {
    format!("pprof = \"https://{}/debug/pprof\"\n{auth}", svc.address())
}

#[test]
fn a_certificate_of_no_use_says_which_file_or_name_would_be() {
    let good = Pair::of("127.0.0.1", |_| {});
    let svc = good.serve(&[]);
    let place = Place::of(&svc);
    let own = format!("auth = {{ ca_file = \"{}\" }}", good.file("cert.pem"));
    let untrusted = place.trouble(&https(&svc, ""));
    assert!(
        untrusted.contains("UnknownIssuer") && untrusted.contains("name the certificate of whoever signed it in `ca_file`"),
        "{untrusted}"
    );
    let other = Pair::of("127.0.0.1", |_| {});
    let wrong = place.trouble(&https(&svc, &format!("auth = {{ ca_file = \"{}\" }}", other.file("cert.pem"))));
    assert!(wrong.contains("in `ca_file`"), "{wrong}");
    let right = run(&["check", "--probe", "-c", place.config(&https(&svc, &own)).to_str().unwrap()]);
    assert!(right.status.success(), "what the hint says helps: {}", String::from_utf8_lossy(&right.stderr));

    let cases: [(Pair, &str); 3] = [
        (Pair::of("svc.internal", |_| {}), "use one of its names in the URL"),
        (Pair::of("127.0.0.1", |p| p.not_after = date_time_ymd(2020, 1, 1)), "renew the service's certificate"),
        (Pair::of("127.0.0.1", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "basicConstraints=CA:FALSE"),
    ];
    for (pair, cure) in cases {
        let svc = pair.serve(&[]);
        let said = Place::of(&svc).trouble(&https(&svc, &format!("auth = {{ ca_file = \"{}\" }}", pair.file("cert.pem"))));
        assert!(said.contains(cure), "{said}");
    }
}

#[test]
fn a_client_certificate_that_is_wanted_is_asked_for_by_the_key_that_names_it() {
    let server = Pair::of("127.0.0.1", |_| {});
    let (ca, stranger) = (server.file("cert.pem"), Pair::of("stranger", |_| {}));
    let svc = server.serve(&["-client-ca", &ca]);
    let place = Place::of(&svc);
    let none = place.trouble(&https(&svc, &format!("auth = {{ ca_file = \"{ca}\" }}")));
    assert!(none.contains("`client_cert_file`, with `client_key_file`"), "{none}");
    let (cert, key) = (stranger.file("cert.pem"), stranger.file("key.pem"));
    let auth = format!("auth = {{ ca_file = \"{ca}\", client_cert_file = \"{cert}\", client_key_file = \"{key}\" }}");
    let wrong = place.trouble(&https(&svc, &auth));
    assert!(wrong.contains("does not accept the certificate in `client_cert_file`"), "{wrong}");
}

#[test]
fn http_on_a_port_of_https_and_the_reverse_name_the_scheme() {
    let pair = Pair::of("127.0.0.1", |_| {});
    let tls = pair.serve(&[]);
    let said = Place::of(&tls).trouble(&format!("pprof = \"http://{}/debug/pprof\"", tls.address()));
    assert!(said.contains("HTTP 400") && said.contains("the port serves TLS: write https:// in `pprof`"), "{said}");
    let plain = Svc::start(GoVersion::Newest, &[]);
    let said = Place::of(&plain).trouble(&https(&plain, ""));
    assert!(said.contains("does not speak TLS: write http://"), "{said}");
    // the same of a page of metrics
    let (file, at) = (pair.dir.path().join("m.toml"), pair.dir.path().display());
    for (url, cure) in [(format!("http://{}", tls.address()), "write https://"), (format!("https://{}", plain.address()), "write http://")]
    {
        let daemon = format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n");
        let target = format!("[[target]]\nname = \"m\"\nmetrics = {{ url = \"{url}/metrics\" }}\nthreshold = \"1TiB\"\n");
        fs::write(&file, daemon + &target).unwrap();
        let done = run(&["check", "--probe", "-c", file.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(cure), "{said}");
    }
}

#[test]
fn credentials_that_are_wanted_or_wrong_and_a_path_without_pprof_name_the_key() {
    let svc = Svc::start(GoVersion::Newest, &["-bearer", "s3cr3t-t0ken"]);
    let place = Place::of(&svc);
    let said = place.trouble(&format!("pprof = \"{}\"", svc.pprof()));
    assert!(said.contains("HTTP 401") && said.contains("check `auth`"), "{said}");
    let none = Svc::start(GoVersion::Newest, &["-no-pprof"]);
    let said = Place::of(&none).trouble(&format!("pprof = \"{}\"", none.pprof()));
    assert!(said.contains("HTTP 404") && said.contains("check the path in `pprof`") && said.contains("/debug/pprof/cmdline: "), "{said}");
}

#[test]
fn a_port_that_nobody_listens_on_names_those_that_the_process_has() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let said = Place::of(&svc).trouble("pprof = \"http://127.0.0.1:1/debug/pprof\"");
    assert!(said.contains("connection refused") && said.contains(&format!("process {} listens on {}", svc.pid(), svc.address())), "{said}");
}

#[test]
fn the_loopback_of_another_network_namespace_is_told_from_memtraps_own() {
    let mut command = Command::new("unshare");
    command.arg("--net").arg(go_svc(GoVersion::Newest));
    let can = Command::new("unshare").args(["--net", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !can {
        return common::not_checked("pprof in another network namespace: this user may not make one");
    }
    let svc = Svc::start_in(command, &["-addr", "0.0.0.0:0"]);
    let said = Place::of(&svc).trouble("pprof = \"http://127.0.0.1:1/debug/pprof\"");
    assert!(said.contains("is in another network namespace (a container's), whose loopback is not memtrap's"), "{said}");
}

/// memtrap, as a user whom permissions bind, from where everybody may run it.
fn as_nobody(dir: &TempDir, args: &[&str]) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        return Some(run(args));
    }
    let program = dir.path().join("memtrap");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    common::copy_program(env!("CARGO_BIN_EXE_memtrap"), &program);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program).args(args);
    let done = command.stdin(Stdio::null()).output().ok();
    if done.is_none() {
        common::not_checked("what is closed to memtrap's user: this is root, and there is no setpriv");
    }
    done
}

#[test]
fn a_socket_that_is_closed_to_memtrap_is_named_with_its_user_group_and_mode() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("run");
    fs::create_dir(&inner).unwrap();
    let socket = inner.join("svc.sock");
    let svc = Svc::start(GoVersion::Newest, &["-addr", &format!("unix:{}", socket.display())]);
    let place = Place::of(&svc);
    let file = place.config(&format!("pprof = \"unix://{}:/debug/pprof\"", socket.display()));
    let mode = |path: &std::path::Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(place.dir.path(), 0o777);
    for (directory, of_socket, named) in [(0o755, 0o600, "the socket "), (0o700, 0o666, "the directory ")] {
        mode(&inner, directory);
        mode(&socket, of_socket);
        let Some(done) = as_nobody(&dir, &["check", "--probe", "-c", file.to_str().unwrap()]) else { return };
        let said = trouble_in(&done);
        let path = if directory == 0o700 { &inner } else { &socket };
        let shown = format!("{named}{} is of user ", path.display());
        assert!(said.contains(&shown) && said.contains(", mode 0") && said.contains("SupplementaryGroups="), "{said}");
    }
    mode(&inner, 0o755);
    let gone = Place { dir: TempDir::new().unwrap(), pid: svc.pid() };
    let said = gone.trouble("pprof = \"unix:///run/memtrap-no-such.sock:/debug/pprof\"");
    assert!(said.contains("/run/memtrap-no-such.sock does not exist: is the service running"), "{said}");
}

#[test]
fn what_may_not_be_read_names_the_capability_and_where_it_comes_from() {
    let svc = Svc::start(GoVersion::Newest, &[]);
    let place = Place::of(&svc);
    fs::set_permissions(place.dir.path(), Permissions::from_mode(0o777)).unwrap();
    let file = place.config(&format!("pprof = \"{}\"", svc.pprof()));
    let dir = TempDir::new().unwrap();
    let Some(done) = as_nobody(&dir, &["check", "--probe", "-c", file.to_str().unwrap()]) else { return };
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() {
        return common::not_checked("evidence of another user's process: this user may see all of them");
    }
    let exe = said.lines().find(|l| l.contains("kernel evidence:")).unwrap_or_else(|| panic!("{said}"));
    assert!(
        exe.contains("memtrap needs CAP_SYS_PTRACE (memtrap.service grants it, unless a drop-in empties `AmbientCapabilities=`)"),
        "{exe}"
    );
}
