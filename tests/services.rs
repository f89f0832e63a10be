//! Services that others wrote, as Debian builds them: `memtrap top` prints what `go tool pprof -top` prints of Prometheus and etcd under a
//! little load, and what is read of the memory of these, Caddy and containerd is what their pprof says. Counted as not checked where
//! the packages cannot be had.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::outside::compare;
use common::{GoVersion, debian_program, go_binary, not_checked, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A service that ends with its owner, and by itself after ten minutes.
struct Service {
    /// HOST:PORT, or the path of a socket.
    address: String,
    child: Child,
    _dir: TempDir,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Service {
    fn start(program: &Path, address: String, dir: TempDir, args: &[String], ready: &str) -> Service {
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "600"]).arg(program).args(args).stdin(Stdio::null()).env("HOME", dir.path());
        // at the usual rate, chance decides whether an idle service has any sites to compare
        command.env("GODEBUG", "memprofilerate=65536");
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let service = Service { address, child, _dir: dir };
        wait_until(Duration::from_secs(60), &format!("{} is ready", program.display()), || service.ask("GET", ready, "").is_some());
        service
    }

    /// The body of an answer with status 200. HTTP/1.0, so that it comes in one piece.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<Vec<u8>> {
        let patience = Some(Duration::from_secs(60));
        let (mut stream, host): (Box<dyn Stream>, &str) = if self.address.starts_with('/') {
            let stream = UnixStream::connect(&self.address).ok()?;
            stream.set_read_timeout(patience).unwrap();
            (Box::new(stream), "localhost")
        } else {
            let stream = TcpStream::connect(&self.address).ok()?;
            stream.set_read_timeout(patience).unwrap();
            (Box::new(stream), &self.address)
        };
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
        answer.get(9..12)?.eq(b"200").then(|| answer.split_off(head + 4))
    }

    fn pprof(&self, path: &str) -> Vec<u8> {
        self.ask("GET", &format!("/debug/pprof/{path}"), "").unwrap_or_else(|| panic!("no {path}"))
    }

    /// What `timeout` has started.
    fn pid(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(children).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What is read of its memory is what its pprof says, after `load`.
    fn is_read_as_it_tells(&self) {
        for _ in 0..2 {
            self.pprof("heap?gc=1");
        }
        let (what, wrong) = compare(self.pid(), |path| self.pprof(path));
        assert!(what.sites > 10 && what.stacks > 5, "{what:?}");
        assert!(wrong.is_empty(), "{what:?}\n{}", wrong.join("\n"));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn program(package: &str, path: &str) -> Option<PathBuf> {
    debian_program(package, path, &format!("memtrap top on {package}"))
}

fn free_ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// Fetches the service's profiles while `load` is asked of it, and compares every table.
fn same_as_pprof(service: &Service, load: impl Fn(&Service, u32) + Sync) {
    let dir = tempfile::tempdir().unwrap();
    let fetch = |name: &str, query: &str| {
        let body = service.pprof(query);
        let path = dir.path().join(format!("{name}.pb.gz"));
        fs::write(&path, body).unwrap();
        path
    };
    let before = fetch("before", "heap");
    let cpu = std::thread::scope(|scope| {
        let cpu = scope.spawn(|| fetch("cpu", "profile?seconds=3"));
        (0..200).for_each(|n| load(service, n));
        cpu.join().unwrap()
    });
    let mut compared = 0;
    let mut compare = |profile: &Path, base: Option<&Path>, index: Option<&str>, rest: &[&str]| {
        let (mut pprof, mut memtrap) = (Vec::new(), Vec::new());
        if let Some(index) = index {
            pprof.push(format!("-sample_index={index}"));
            memtrap.push(format!("--sample-index={index}"));
        }
        if let Some(base) = base {
            pprof.push(format!("-base={}", base.display()));
            memtrap.push(format!("--base={}", base.display()));
        }
        for choice in rest {
            pprof.push(choice.replace("--cum", "-cum").replace("-n=", "-nodecount="));
            memtrap.push((*choice).to_owned());
        }
        let printed = |mut command: Command| String::from_utf8(command.env("TZ", "UTC").output().unwrap().stdout).unwrap();
        let mut command = Command::new(go_binary(GoVersion::Newest));
        command.args(["tool", "pprof", "-top"]).args(&pprof).arg(profile).env("GOTOOLCHAIN", "local");
        let expected = printed(command);
        assert!(expected.contains("flat%"), "pprof prints no table of {}", profile.display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_memtrap"));
        command.arg("top").args(&memtrap).arg(profile);
        assert_eq!(printed(command), expected, "{} {memtrap:?}", profile.display());
        compared += 1;
    };
    const HEAP: &[&str] = &["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"];
    for (name, types) in [
        ("heap", HEAP),
        ("allocs", HEAP),
        ("goroutine", &["goroutine"]),
        ("mutex", &["contentions", "delay"]),
        ("block", &["contentions", "delay"]),
        ("threadcreate", &["threadcreate"]),
        ("cpu", &["samples", "cpu"]),
    ] {
        let profile = if name == "cpu" { cpu.clone() } else { fetch(name, name) };
        compare(&profile, None, None, &[]);
        for index in types {
            compare(&profile, None, Some(index), &["-n=7"]);
            compare(&profile, None, Some(index), &["--cum"]);
            if types == HEAP {
                compare(&profile, Some(&before), Some(index), &[]);
                compare(&profile, Some(&before), Some(index), &["--cum", "-n=5"]);
            }
        }
        compare(&profile, Some(&profile), None, &[]);
    }
    assert_eq!(compared, 62);
}

#[test]
fn prometheus_prints_as_in_pprof_and_is_read_as_it_tells() {
    let Some(program) = program("prometheus", "usr/bin/prometheus") else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let [port] = free_ports();
    let config =
        format!("scrape_configs: [{{job_name: self, scrape_interval: 1s, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n");
    fs::write(dir.path().join("config.yml"), config).unwrap();
    let args = [
        format!("--config.file={at}/config.yml"),
        format!("--storage.tsdb.path={at}/tsdb"),
        format!("--web.listen-address=127.0.0.1:{port}"),
        format!("--web.console.templates={at}"),
        format!("--web.console.libraries={at}"),
    ];
    let service = Service::start(&program, format!("127.0.0.1:{port}"), dir, &args, "/-/ready");
    same_as_pprof(&service, |service, n| {
        service.ask("GET", "/metrics", "").unwrap();
        service.ask("GET", &format!("/api/v1/query?query=sum(up)by(job)%2B{n}"), "").unwrap();
    });
    // what lives for a moment each second is in one of two readings and not in the other
    fs::write(Path::new(&at).join("config.yml"), "scrape_configs: []\n").unwrap();
    kill_process(Pid::from_raw(service.pid() as i32).unwrap(), Signal::HUP).unwrap();
    wait_until(Duration::from_secs(20), "it scrapes nothing any more", || {
        !String::from_utf8_lossy(&service.pprof("goroutine?debug=1")).contains("scrape.(*scrapeLoop).run")
    });
    service.is_read_as_it_tells();
}

#[test]
fn etcd_prints_as_in_pprof_and_is_read_as_it_tells() {
    let Some(program) = program("etcd-server", "usr/bin/etcd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let [clients, peers] = free_ports::<2>();
    let (clients_url, peers_url) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
    let args = [
        format!("--data-dir={}", dir.path().join("data").display()),
        format!("--listen-client-urls={clients_url}"),
        format!("--advertise-client-urls={clients_url}"),
        format!("--listen-peer-urls={peers_url}"),
        format!("--initial-advertise-peer-urls={peers_url}"),
        format!("--initial-cluster=default={peers_url}"),
        "--enable-pprof".to_owned(),
    ];
    let service = Service::start(&program, format!("127.0.0.1:{clients}"), dir, &args, "/health");
    same_as_pprof(&service, |service, n| {
        // keys and values are base64
        let body = format!("{{\"key\":\"a2V5{n:04}\",\"value\":\"{}\"}}", "dmFs".repeat(300));
        service.ask("POST", "/v3/kv/put", &body).unwrap();
    });
    service.is_read_as_it_tells();
}

#[test]
fn caddy_is_read_as_it_tells() {
    let Some(program) = program("caddy", "usr/bin/caddy") else { return };
    let dir = tempfile::tempdir().unwrap();
    let [admin, port] = free_ports();
    let config = dir.path().join("Caddyfile");
    fs::write(&config, format!("{{\n\tadmin 127.0.0.1:{admin}\n\tauto_https off\n}}\nhttp://127.0.0.1:{port} {{\n\trespond \"ok\"\n}}\n"))
        .unwrap();
    let args = ["run", "--adapter", "caddyfile", "--config", config.to_str().unwrap()].map(str::to_owned);
    let service = Service::start(&program, format!("127.0.0.1:{admin}"), dir, &args, "/config/");
    service.is_read_as_it_tells();
}

#[test]
fn containerd_is_read_as_it_tells() {
    if !rustix::process::geteuid().is_root() {
        return not_checked("containerd read from its memory: it needs root");
    }
    let Some(program) = program("containerd", "usr/bin/containerd") else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    let plugins = ["cri", "snapshotter", "differ", "monitor", "gc"].map(|plugin| format!("'io.containerd.grpc.v1.{plugin}'")).join(", ");
    let config = dir.path().join("config.toml");
    let text = format!(
        "version = 2\nroot = '{at}/root'\nstate = '{at}/state'\ndisabled_plugins = [{plugins}]\n[grpc]\naddress = '{at}/grpc'\n[ttrpc]\naddress = '{at}/ttrpc'\n[debug]\naddress = '{at}/debug'\n"
    );
    fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap()].map(str::to_owned);
    let service = Service::start(&program, format!("{at}/debug"), dir, &args, "/debug/pprof/cmdline");
    service.is_read_as_it_tells();
}
