//! Network namespaces of a test's own: what runs in one, and how it is reached from here.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{GoVersion, Svc, go_svc, not_checked, wait_until};

/// Gone with its owner, the pair of interfaces included; where the test is killed, after a quarter of an hour.
pub struct Space {
    holder: Child,
    /// Of the pair that leads there: the end on this side, the address here and the address there.
    pair: Option<(String, Ipv4Addr, Ipv4Addr)>,
}

static MADE: AtomicU32 = AtomicU32::new(0);

impl Space {
    /// With its loopback only. `None`, said aloud: this machine lets nobody make one, and `what` is not checked.
    pub fn lonely(what: &str) -> Option<Space> {
        let script = "ip link set lo up && echo ready && exec sleep 900";
        let mut command = Command::new("unshare");
        command.args(["--net", "--kill-child=KILL", "--fork", "sh", "-c", script]);
        let can = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).stderr(Stdio::null()).status();
        if !can.is_ok_and(|status| status.success()) {
            not_checked(&format!("{what}: no network namespace can be made here"));
            return None;
        }
        let holder = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let space = Space { holder, pair: None };
        wait_until(Duration::from_secs(10), "a network namespace", || space.succeeds(&["sh", "-c", "ip link show lo | grep -q LOWER_UP"]));
        Some(space)
    }

    /// Also with an address that leads there from here. It is of a range that is for such tests (RFC 2544).
    pub fn with_address(what: &str) -> Option<Space> {
        let mut space = Space::lonely(what)?;
        let number = std::process::id() * 16 + MADE.fetch_add(1, Ordering::Relaxed) % 16;
        let [_, _, high, low] = (number << 2).to_be_bytes();
        let at = |last: u8| Ipv4Addr::new(198, 18 | u8::from(number & 0x4000 != 0), high, low | last);
        let (here, there) = (at(1), at(2));
        let (near, far) = (format!("mt{number:x}a"), format!("mt{number:x}b"));
        let pid = space.inner().to_string();
        let ip = |args: &[&str]| Command::new("ip").args(args).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &pid]) {
            not_checked(&format!("{what}: no pair of interfaces (veth) can be made here"));
            return None;
        }
        space.pair = Some((near.clone(), here, there));
        assert!(ip(&["addr", "add", &format!("{here}/30"), "dev", &near]) && ip(&["link", "set", &near, "up"]));
        assert!(space.succeeds(&["ip", "addr", "add", &format!("{there}/30"), "dev", &far]));
        assert!(space.succeeds(&["ip", "link", "set", &far, "up"]));
        Some(space)
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.pair.as_ref().unwrap().2
    }

    /// This side's address of the pair.
    pub fn own_end(&self) -> Ipv4Addr {
        self.pair.as_ref().unwrap().1
    }

    /// Gives it this address, to which nothing leads.
    pub fn add(&self, address: Ipv4Addr) {
        assert!(self.succeeds(&["ip", "addr", "add", &format!("{address}/32"), "dev", "lo"]));
    }

    /// `unshare` waits outside for who is inside.
    fn inner(&self) -> u32 {
        let text = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.holder.id())).unwrap();
        text.split_whitespace().next().unwrap_or_else(|| panic!("nobody is in the namespace")).parse().unwrap()
    }

    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.inner())).arg(program);
        command
    }

    fn succeeds(&self, args: &[&str]) -> bool {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.holder.id())).unwrap_or_default();
        !children.is_empty() && self.enter(args[0]).args(&args[1..]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// A program in it.
    pub fn command(&self, program: impl AsRef<std::path::Path>) -> Command {
        self.enter(program.as_ref().to_str().unwrap())
    }

    /// A test service in it.
    pub fn svc(&self, args: &[&str]) -> Svc {
        Svc::start_in(self.command(go_svc(GoVersion::Newest)), args)
    }

    /// Does something in it, on a thread that ends there.
    pub fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.inner())).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
                job()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Some((near, ..)) = &self.pair {
            let _ = Command::new("ip").args(["link", "del", near]).stderr(Stdio::null()).status();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
