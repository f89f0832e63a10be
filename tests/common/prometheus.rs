//! A real Prometheus server that scrapes each second.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{debian_program, wait_until};

/// Ends with its owner; if that is killed, by itself after some minutes.
pub struct Prometheus {
    child: Child,
    dir: TempDir,
    url: String,
}

impl Prometheus {
    /// Starts one that scrapes these addresses under the job `shop`. `None`, said aloud: this machine has no Prometheus and cannot get one.
    pub fn start(addresses: &[&str]) -> Option<Prometheus> {
        let binary = debian_program("prometheus", "usr/bin/prometheus", "a real Prometheus")?;
        let dir = TempDir::new().unwrap();
        let targets: Vec<String> = addresses.iter().map(|a| format!("'{a}'")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 900ms }}\nscrape_configs:\n- job_name: shop\n  static_configs: [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let log = dir.path().join("log");
        // a free port can be had only by asking for any, and reading which it is
        let child = Command::new("timeout")
            .args(["--kill-after=5", "300"])
            .arg(binary)
            .args(["--web.listen-address=127.0.0.1:0", "--config.file=prometheus.yml"])
            .arg("--storage.tsdb.path=data")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut url = String::new();
        wait_until(Duration::from_secs(60), "Prometheus listens", || {
            let text = fs::read_to_string(&log).unwrap();
            let ready = text.contains("Server is ready to receive web requests");
            let address = text.lines().filter(|l| l.contains("Listening on")).find_map(|l| l.split("address=").nth(1)?.split(' ').next());
            url = address.map(|a| format!("http://{a}")).unwrap_or_default();
            ready && !url.is_empty()
        });
        Some(Prometheus { child, dir, url })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// To the server itself: `timeout` hands on what ends a process, and nothing else.
    pub fn signal(&self, signal: Signal) {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let pid: i32 = children.split_whitespace().next().expect("Prometheus runs").parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            for signal in [Signal::CONT, Signal::KILL] {
                self.signal(signal);
            }
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            eprintln!("--- Prometheus' log ---\n{log}---");
        }
    }
}
