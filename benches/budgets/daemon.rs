//! The daemon at its work: what it holds, what it uses, how soon it is there.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::common::{MIB, bundles_in, wait_until};
use super::measure::{bytes, median, status, used};
use super::{Row, memtrap};

const SETTLE: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(15);

/// Ends with its owner.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Daemon {
    child: Ends,
    dir: TempDir,
}

impl Daemon {
    fn start(daemon: &str, config: &str) -> Daemon {
        let dir = TempDir::new().unwrap();
        let at = dir.path().display();
        let text = format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n{daemon}\n{config}");
        fs::write(dir.path().join("m.toml"), text).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(memtrap());
        command.args(["run", "-c"]).arg(dir.path().join("m.toml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = Daemon { child: Ends(command.spawn().unwrap()), dir };
        wait_until(Duration::from_secs(60), "memtrap watches", || daemon.log().contains("memtrap watches"));
        daemon
    }

    fn pid(&self) -> u32 {
        self.child.0.id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn bundles(&self) -> Vec<std::path::PathBuf> {
        bundles_in(&self.dir.path().join("bundles"))
    }

    /// CPU in percent of a core, and context switches a second, while nothing happens.
    fn at_rest(&self) -> (f64, f64) {
        sleep(SETTLE);
        let (cpu, switches) = used(self.pid());
        sleep(WATCH);
        let (later, more) = used(self.pid());
        ((later - cpu) / WATCH.as_secs_f64() * 100.0, (more - switches) as f64 / WATCH.as_secs_f64())
    }
}

/// Processes that do nothing, under a name of their own.
struct Sleepers {
    dir: TempDir,
    children: Vec<Ends>,
}

impl Sleepers {
    fn start(count: usize) -> Sleepers {
        let dir = TempDir::new().unwrap();
        let program = dir.path().join("sleeper");
        fs::copy("/bin/sleep", &program).unwrap();
        let one = || Ends(Command::new(&program).arg("600").stdin(Stdio::null()).spawn().unwrap());
        Sleepers { children: (0..count).map(|_| one()).collect(), dir }
    }

    fn target(&self, number: usize) -> String {
        let program = self.dir.path().join("sleeper");
        format!(
            "[[target]]\nname = \"t{number}\"\nprocess = {{ exe = \"{}\" }}\nthreshold = \"1GiB\"\nslope = \"500MiB/10m\"\nbaseline = \"off\"\n",
            program.display()
        )
    }
}

pub fn idle() -> Vec<Row> {
    let sleepers = Sleepers::start(1);
    let daemon = Daemon::start("", &sleepers.target(1));
    let (cpu, switches) = daemon.at_rest();
    let pid = daemon.pid();
    let (rss, anon, threads) = (status(pid, "VmRSS"), status(pid, "RssAnon"), status(pid, "Threads"));
    let size = fs::metadata(memtrap()).unwrap().len();
    vec![
        Row::new(
            "one target, idle: RSS",
            format!("{} ({} anonymous), {threads} threads, {cpu:.3} % CPU, {switches:.1} switches/s", bytes(rss), bytes(anon)),
            String::new(),
            "8 MiB",
            Some(rss < 8 * MIB),
        ),
        Row::new("binary, stripped", bytes(size), String::new(), "8 MiB", Some(size < 8 * MIB)),
    ]
}

pub fn scale() -> Vec<Row> {
    let sleepers = Sleepers::start(1_000);
    let mut rows = Vec::new();
    for (targets, limits) in [(1, Some((0.5, 12 * MIB))), (10, Some((5.0, 40 * MIB)))] {
        let config: String = (0..targets).map(|n| sleepers.target(n)).collect();
        let daemon = Daemon::start("", &config);
        let (cpu, switches) = daemon.at_rest();
        let rss = status(daemon.pid(), "VmRSS");
        let (share, most) = limits.unwrap_or((100.0, u64::MAX));
        rows.push(Row::new(
            &format!("{} instances at 1 s", targets * 1_000),
            format!("{cpu:.2} % of a core, {} RSS, {switches:.0} switches/s", bytes(rss)),
            "search of /proc for new processes each 10 s included".into(),
            &format!("{share} %, {}", bytes(most)),
            Some(cpu < share && rss < most),
        ));
    }
    rows
}

/// Answers each request with what `page` makes of its path, after noting when it came.
struct Web {
    port: u16,
    first: Arc<Mutex<Option<SystemTime>>>,
}

impl Web {
    fn start(page: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Web { port: listener.local_addr().unwrap().port(), first: Arc::new(Mutex::new(None)) };
        let (page, first) = (Arc::new(page), web.first.clone());
        // lives as long as the bench
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (page, first) = (page.clone(), first.clone());
                std::thread::spawn(move || {
                    let mut stream = stream;
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
                });
            }
        });
        web
    }
}

pub fn scraped() -> Vec<Row> {
    let web = Web::start(|_, stream| {
        let body = "process_resident_memory_bytes 5e+07\nprocess_start_time_seconds 1.7e+09\n";
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let mut config = String::new();
    for n in 0..1_000 {
        let url = format!("http://127.0.0.1:{}/{n}", web.port);
        let _ = write!(config, "[[target]]\nname = \"t{n}\"\nmetrics = {{ url = \"{url}\" }}\nthreshold = \"1GiB\"\n");
    }
    let daemon = Daemon::start("", &config);
    let (cpu, switches) = daemon.at_rest();
    let rss = status(daemon.pid(), "VmRSS");
    vec![Row::new(
        "1,000 scraped endpoints at 1 s",
        format!("{} RSS, {cpu:.1} % of a core, {switches:.0} switches/s", bytes(rss)),
        String::new(),
        "16 MiB",
        Some(rss < 16 * MIB),
    )]
}

pub fn detection() -> Vec<Row> {
    let mut delays = Vec::new();
    for _ in 0..10 {
        let web = Web::start(|_, stream| write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
        let sleepers = Sleepers::start(1);
        let pid = sleepers.children[0].0.id();
        let daemon = Daemon::start(
            "",
            &format!(
                "[[target]]\nname = \"t\"\nprocess = {{ pid = {pid} }}\npprof = \"http://127.0.0.1:{}/debug/pprof\"\nthreshold = \"1MiB\"\n\
                 for = \"0s\"\ninterval = \"100ms\"\nretries = 0\ncpu_seconds = 0\n",
                web.port
            ),
        );
        wait_until(Duration::from_secs(30), "a bundle", || !daemon.bundles().is_empty());
        let timeline = fs::read_to_string(daemon.bundles()[0].join("timeline.csv")).unwrap();
        let sampled: u64 = timeline.lines().rfind(|l| l.ends_with(",before")).unwrap().split(',').nth(1).unwrap().parse().unwrap();
        let asked = web.first.lock().unwrap().expect("pprof was asked");
        let asked = asked.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1e3;
        delays.push(asked - sampled as f64);
    }
    let worst = delays.iter().copied().fold(0.0, f64::max);
    let delay = median(delays);
    vec![Row::new(
        "sample over the line to the first pprof request",
        format!("{delay:.0} ms (worst {worst:.0}, n = 10)"),
        "kernel evidence is saved first".into(),
        "20 ms",
        Some(delay < 20.0),
    )]
}

pub fn large_body() -> Vec<Row> {
    const BODY: u64 = 500 * MIB;
    let web = Web::start(|path, stream| {
        if !path.starts_with("/debug/pprof/goroutine?debug=2") {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n")?;
        let part = "goroutine 1 [running]:\nmain.main()\n\t/x.go:1 +0x1\n\n".repeat(20_000);
        let mut left = BODY;
        while left > 0 {
            let bytes = &part.as_bytes()[..part.len().min(left as usize)];
            stream.write_all(bytes)?;
            left -= bytes.len() as u64;
        }
        Ok(())
    });
    let sleepers = Sleepers::start(1);
    let pid = sleepers.children[0].0.id();
    let target = format!(
        "[[target]]\nname = \"t\"\nprocess = {{ pid = {pid} }}\npprof = \"http://127.0.0.1:{}/debug/pprof\"\nthreshold = \"SIZE\"\nfor = \"0s\"\n\
         interval = \"100ms\"\nretries = 0\ncpu_seconds = 0\nmax_file_size = \"1GiB\"\nbaseline = \"off\"\n[retention]\nmin_free_disk = \"0\"\n",
        web.port
    );
    let daemon = Daemon::start("", &target.replace("SIZE", "1GiB"));
    sleep(SETTLE);
    let before = status(daemon.pid(), "VmRSS");
    fs::write(daemon.dir.path().join("m.toml"), {
        let at = daemon.dir.path().display();
        format!("[daemon]\nstate_dir = \"{at}/state\"\nbundle_dir = \"{at}/bundles\"\n{}", target.replace("SIZE", "1MiB"))
    })
    .unwrap();
    kill_process(Pid::from_raw(daemon.pid() as i32).unwrap(), Signal::HUP).unwrap();
    let mut peak = before;
    wait_until(Duration::from_secs(60), "a bundle", || {
        peak = peak.max(status(daemon.pid(), "VmRSS"));
        !daemon.bundles().is_empty()
    });
    let saved = saved_bytes(&daemon.bundles()[0].join("goroutine.txt"));
    assert_eq!(saved, BODY, "{}", daemon.log());
    let growth = peak - before;
    vec![Row::new("RSS growth while a 500 MiB body is saved", bytes(growth), String::new(), "8 MiB", Some(growth < 8 * MIB))]
}

fn saved_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}
