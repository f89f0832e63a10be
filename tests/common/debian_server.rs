//! Real servers out of Debian's packages, on loopback.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{debian_program, not_checked, wait_until};

/// A running server. Ends with its owner; if that is killed, by itself after some minutes.
pub struct DebianServer {
    child: Child,
    dir: TempDir,
    url: String,
}

impl DebianServer {
    /// A Prometheus that scrapes these addresses each second under the job `shop`. `None`, said aloud: this machine cannot have one.
    pub fn prometheus(addresses: &[&str]) -> Option<DebianServer> {
        let targets: Vec<String> = addresses.iter().map(|a| format!("'{a}'")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 900ms }}\nscrape_configs:\n- job_name: shop\n  static_configs: [{{ targets: [{}] }}]\n",
            targets.join(", ")
        );
        let server = DebianServer::start("prometheus", &config, &["--storage.tsdb.path=data"])?;
        wait_until(Duration::from_secs(60), "Prometheus is ready", || server.log().contains("Server is ready to receive web requests"));
        Some(server)
    }

    /// An Alertmanager that tells nobody.
    pub fn alertmanager() -> Option<DebianServer> {
        let config = "route: { receiver: nobody }\nreceivers:\n- name: nobody\n";
        DebianServer::start("prometheus-alertmanager", config, &["--storage.path=data", "--cluster.listen-address="])
    }

    /// How to run it. Debian's Alertmanager reads a template below /usr/share: where it is only unpacked, it gets a view of the files
    /// in which its own lie there.
    fn command(package: &str, binary: &Path) -> Option<Command> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "300"]);
        let tree = binary.ancestors().nth(3).unwrap().join("usr/share");
        if package == "prometheus-alertmanager" && tree != Path::new("/usr/share") {
            let view = ["unshare", "--map-root-user", "--mount", "sh", "-c"];
            let mount = format!("mount -t overlay overlay -o 'lowerdir={}:/usr/share' /usr/share && exec \"$@\"", tree.display());
            let tried = Command::new(view[0]).args(&view[1..]).arg(&mount).args(["-", "true"]).output();
            if !tried.is_ok_and(|tried| tried.status.success()) {
                not_checked(
                    "a real prometheus-alertmanager: it is not installed, and the kernel allows no namespace in which it could seem so",
                );
                return None;
            }
            command.args(view).arg(mount).arg("-");
        }
        command.arg(binary);
        Some(command)
    }

    /// `package`'s program of the same name, with this configuration.
    fn start(package: &str, config: &str, args: &[&str]) -> Option<DebianServer> {
        let binary = debian_program(package, &format!("usr/bin/{package}"), &format!("a real {package}"))?;
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("config.yml"), config).unwrap();
        // a free port can be had only by asking for any, and reading which it is
        let child = DebianServer::command(package, &binary)?
            .args(["--web.listen-address=127.0.0.1:0", "--config.file=config.yml"])
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut server = DebianServer { child, dir, url: String::new() };
        wait_until(Duration::from_secs(60), "it listens", || {
            let text = server.log();
            assert!(server.child.try_wait().unwrap().is_none(), "{package} has ended: {text}");
            let address = text.lines().filter(|l| l.contains("Listening on")).find_map(|l| l.split("address=").nth(1)?.split(' ').next());
            server.url = address.map(|a| format!("http://{a}")).unwrap_or_default();
            !server.url.is_empty()
        });
        Some(server)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// To the server itself: `timeout` hands on what ends a process, and nothing else.
    pub fn signal(&self, signal: Signal) {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        let pid: i32 = children.split_whitespace().next().expect("the server runs").parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

impl Drop for DebianServer {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            for signal in [Signal::CONT, Signal::KILL] {
                self.signal(signal);
            }
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}---", self.log());
        }
    }
}
