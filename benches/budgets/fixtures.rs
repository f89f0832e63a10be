//! What the daemon is measured with: itself, processes that do nothing, a server that answers as told. Each ends with its owner.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::common::{bundles_in, wait_until};
use super::memtrap;

/// Ends with its owner.
pub struct Ends(pub Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `memtrap run` in a directory of its own.
pub struct Daemon {
    child: Ends,
    dir: TempDir,
}

impl Daemon {
    /// Returns when it watches.
    pub fn start(config: &str) -> Daemon {
        let dir = TempDir::new().unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(memtrap());
        command.args(["run", "-c"]).arg(dir.path().join("m.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        configure(dir.path(), config);
        let daemon = Daemon { child: Ends(command.spawn().unwrap()), dir };
        wait_until(Duration::from_secs(60), "memtrap watches", || daemon.log().contains("memtrap watches"));
        daemon
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// For the next reload.
    pub fn configure(&self, config: &str) {
        configure(self.dir.path(), config);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// The first bundle, once there is one.
    pub fn bundle(&self) -> PathBuf {
        let found = || bundles_in(&self.dir.path().join("bundles"));
        wait_until(Duration::from_secs(60), "a bundle", || !found().is_empty());
        found().swap_remove(0)
    }
}

fn configure(dir: &Path, config: &str) {
    let at = dir.display();
    fs::write(dir.join("m.toml"), format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n{config}")).unwrap();
}

/// Processes that do nothing, under a name of their own. If the bench is killed, they end by themselves.
pub struct Sleepers {
    dir: TempDir,
    children: Vec<Ends>,
}

impl Sleepers {
    pub fn start(count: usize) -> Sleepers {
        let dir = TempDir::new().unwrap();
        let program = dir.path().join("sleeper");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut sleepers = Sleepers { dir, children: Vec::new() };
        for _ in 0..count {
            sleepers.children.push(Ends(Command::new(&program).arg("600").stdin(Stdio::null()).spawn().unwrap()));
        }
        sleepers
    }

    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().map(|child| child.0.id())
    }

    pub fn program(&self) -> PathBuf {
        self.dir.path().join("sleeper")
    }

    /// A target of them all, judged by each rule from the first reading on, each second: no `max_interval` spares it a reading.
    pub fn target(&self, number: usize) -> String {
        format!(
            "[[target]]\nname = \"t{number}\"\nprocess = {{ cmdline = '^{}' }}\nmax_interval = \"1s\"\nwarmup = \"0s\"\n\
             threshold = \"1GiB\"\nslope = \"500MiB/10m\"\neta = \"5m\"\nbaseline = \"off\"\n",
            self.program().display().to_string().replace('.', r"\.")
        )
    }
}

/// A server that answers each request with what a function makes of its path, and knows when the first came.
pub struct Web {
    pub port: u16,
    first: Arc<Mutex<Option<SystemTime>>>,
}

impl Web {
    /// Lives as long as the bench.
    pub fn start(page: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web { port: listener.local_addr().unwrap().port(), first: Arc::new(Mutex::new(None)) };
        let (page, first) = (Arc::new(page), web.first.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (page, first) = (page.clone(), first.clone());
                std::thread::spawn(move || answer(stream, &first, &*page));
            }
        });
        web
    }

    /// Says 404 to everything.
    pub fn empty() -> Web {
        Web::start(|_, stream| not_found(stream))
    }

    pub fn first_request(&self) -> SystemTime {
        self.first.lock().unwrap().expect("it was asked")
    }
}

pub fn not_found(stream: &mut TcpStream) -> std::io::Result<()> {
    std::io::Write::write_all(stream, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
}

fn answer(mut stream: TcpStream, first: &Mutex<Option<SystemTime>>, page: &impl Fn(&str, &mut TcpStream) -> std::io::Result<()>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
        first.lock().unwrap().get_or_insert_with(SystemTime::now);
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line.trim() != "" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
        if page(&path, &mut stream).is_err() {
            return;
        }
        line.clear();
    }
}
