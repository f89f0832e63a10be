//! Who on this host may be shown a target's credentials.
//!
//! Names, arguments and ports prove nothing: anyone may call a process as they like, run a service's executable as themselves, and
//! listen where it should. What the kernel vouches for is the user. So credentials go to sockets and processes of
//!
//! - the user that the configuration names (`user`), or else the one that the selector itself proves:
//!   - `unit`: that of the process, if only slices stand above the unit in its cgroup's path. Below `user@1000.service`, or in a
//!     container, others may make cgroups of any name;
//!   - `pid_file`: that of the process, if the file is root's, or that very user's, out of others' reach, and no older than the process:
//!     else the number may be someone else's by now;
//!   - `exe`: the owner of the file, if it is out of others' reach and not root's, whose programs anyone may run;
//! - root, and memtrap's own user, outside of containers: their numbers mean little inside.
//!
//! All of a process's user ids count: a setuid program has its caller's too, and whatever descriptors that one left open.
//! Pure but for /proc and the paths named; blocks on both.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::proc::SMALL;
use super::{ProcDir, ProcFs, cgroup, users};
use crate::config::{Process, Selector, User};
use crate::identity::InstanceId;

/// What the kernel shows instead of users that memtrap's user namespace has no number for: any of them.
const OVERFLOW: u32 = 65_534;
/// What to do about credentials that are held back.
pub const CURE: &str = "if that is the service's, say so with `user` (`--user`)";

/// The users of this host who may see what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trusted {
    named: Vec<u32>,
    own: u32,
}

impl Trusted {
    /// Of a target that is watched by its processes; `id` is the one that is asked.
    pub fn of_process(procfs: &ProcFs, process: &Process, id: Option<InstanceId>) -> Result<Trusted, String> {
        let named = match &process.user {
            Some(user) => vec![users::uid_of(procfs, user)?],
            None => id.map(|id| proven(procfs, &process.which, id)).unwrap_or_default(),
        };
        Ok(Trusted::new(procfs, named))
    }

    /// Of a target that nothing but an address is known of.
    pub fn of_address(procfs: &ProcFs, user: Option<&User>) -> Result<Trusted, String> {
        let named = user.map(|user| users::uid_of(procfs, user)).transpose()?;
        Ok(Trusted::new(procfs, named.into_iter().collect()))
    }

    /// Of a program whose files these are.
    pub fn of_owner(procfs: &ProcFs, file: &Path) -> Trusted {
        Trusted::new(procfs, owner_out_of_reach(file).into_iter().collect())
    }

    fn new(procfs: &ProcFs, mut named: Vec<u32>) -> Trusted {
        let own = rustix::process::geteuid().as_raw();
        if !sees_all_users(procfs) {
            named.retain(|uid| *uid != OVERFLOW);
        }
        Trusted { named, own }
    }

    /// Whether the configuration means this user, not only everyone's root.
    pub(super) fn is_named(&self, uid: u32) -> bool {
        self.named.contains(&uid)
    }

    /// Whether the maker of a socket may be trusted.
    pub(super) fn may(&self, uid: u32) -> bool {
        self.is_named(uid) || uid == 0 || uid == self.own && uid != OVERFLOW
    }

    /// Whether a process may be trusted, or why not.
    pub(super) fn check(&self, procfs: &ProcFs, dir: &ProcDir) -> Result<(), String> {
        let pid = dir.pid();
        let Some((uids, is_nested)) = dir.status().ok().and_then(|s| Some((s.uids?, s.is_nested))) else {
            return Err(format!("nothing tells which user process {pid} runs as"));
        };
        match uids.into_iter().find(|uid| !(self.is_named(*uid) || !is_nested && self.may(*uid))) {
            None => Ok(()),
            Some(uid) => {
                let place = if is_nested { ", in a container" } else { "" };
                Err(format!("process {pid} runs as user {}{place}", users::shown(procfs, uid)))
            }
        }
    }
}

/// The users that a selector vouches for by itself.
fn proven(procfs: &ProcFs, which: &Selector, id: InstanceId) -> Vec<u32> {
    let uids = || procfs.dir_of(id).and_then(|dir| dir.status()).ok()?.uids;
    match which {
        Selector::Unit(unit) if is_in_system_unit(procfs, unit, id) => uids().map(Vec::from).unwrap_or_default(),
        Selector::PidFile(path) => match (uids(), owner_out_of_reach(path)) {
            (Some(uids), Some(owner)) if (owner == 0 || uids.iter().all(|uid| *uid == owner)) && is_of_this_life(procfs, path, id) => {
                uids.into()
            }
            _ => Vec::new(),
        },
        Selector::Exe(path) => owner_out_of_reach(path).filter(|owner| *owner != 0).into_iter().collect(),
        Selector::Unit(_)
        | Selector::Pid(_)
        | Selector::Name(_)
        | Selector::Cmdline(_)
        | Selector::Listen(_)
        | Selector::Go
        | Selector::Container(_)
        | Selector::Cgroup(_) => Vec::new(),
    }
}

/// Only root and the service manager make cgroups below slices.
fn is_in_system_unit(procfs: &ProcFs, unit: &str, id: InstanceId) -> bool {
    let unit = cgroup::full_unit_name(unit);
    let Ok(text) = procfs.dir_of(id).and_then(|dir| dir.read("cgroup", SMALL)) else { return false };
    cgroup::memberships(&String::from_utf8_lossy(&text)).any(|(_, path)| {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        // `..`: above the root of memtrap's own cgroup namespace
        parts.find(|part| !part.ends_with(".slice") || cgroup::is_unit(part, &unit)).is_some_and(|part| cgroup::is_unit(part, &unit))
    })
}

/// A number that was written before the process began is a former one's.
fn is_of_this_life(procfs: &ProcFs, pid_file: &Path, id: InstanceId) -> bool {
    // start times are known to about a second
    const SLACK: std::time::Duration = std::time::Duration::from_secs(2);
    let written = std::fs::metadata(pid_file).and_then(|m| m.modified()).ok();
    written.zip(procfs.started_at(id).ok()).is_some_and(|(written, began)| written + SLACK >= began)
}

/// The owner of a file that nobody but root and that owner can have put there.
fn owner_out_of_reach(path: &Path) -> Option<u32> {
    let real = std::fs::canonicalize(path).ok()?;
    let owner = std::fs::metadata(&real).ok()?.uid();
    let is_out_of_reach = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|m| {
            let group_is_harmless = m.mode() & 0o020 == 0 || m.gid() == 0;
            m.mode() & 0o002 == 0 && group_is_harmless && (m.uid() == 0 || m.uid() == owner)
        })
    };
    let above = |path: &Path| path.ancestors().map(Path::to_owned).collect::<Vec<PathBuf>>();
    above(path).iter().chain(&above(&real)).all(|path| is_out_of_reach(path)).then_some(owner)
}

/// Whether every user of the host has a number here.
fn sees_all_users(procfs: &ProcFs) -> bool {
    let map = std::fs::read_to_string(procfs.path("self/uid_map"));
    // a kernel without user namespaces has no such file
    map.map_or(true, |map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    const SHOP: u32 = 1_001;
    const EVE: u32 = 1_002;

    fn status(uids: [u32; 3], nested: bool) -> String {
        let [real, effective, saved] = uids;
        format!("Name:\tx\nUid:\t{real}\t{effective}\t{saved}\t{effective}\nNSpid:\t7{}\n", if nested { "\t1" } else { "" })
    }

    fn trusted(named: &[u32]) -> Trusted {
        Trusted { named: named.into(), own: 990 }
    }

    /// Whether a process of these user ids may be shown what is for `trusted`.
    fn passes(trusted: &Trusted, uids: [u32; 3], nested: bool) -> bool {
        let host = FakeHost::new();
        host.process(7, "checkout").file("status", status(uids, nested)).write();
        let procfs = host.procfs();
        trusted.check(&procfs, &procfs.dir(7).unwrap()).is_ok()
    }

    #[test]
    fn credentials_are_for_the_named_user_for_root_and_for_memtraps_own() {
        for uid in [SHOP, 0, 990] {
            assert!(passes(&trusted(&[SHOP]), [uid; 3], false), "{uid}");
        }
        assert!(!passes(&trusted(&[SHOP]), [EVE; 3], false));
        assert!(!passes(&trusted(&[]), [SHOP; 3], false));
    }

    #[test]
    fn a_setuid_program_is_its_callers_too() {
        assert!(!passes(&trusted(&[]), [EVE, 0, 0], false));
        assert!(!passes(&trusted(&[]), [0, 0, EVE], false));
    }

    #[test]
    fn roots_number_in_a_container_is_not_root() {
        assert!(!passes(&trusted(&[]), [0; 3], true));
        assert!(!passes(&trusted(&[]), [990; 3], true));
        // unless the configuration says so
        assert!(passes(&trusted(&[0]), [0; 3], true));
        assert!(passes(&trusted(&[SHOP]), [SHOP; 3], true));
    }

    fn proven_by_unit(cgroup: &str) -> bool {
        let host = FakeHost::new();
        let id = host.process(7, "x").file("cgroup", cgroup).file("status", status([SHOP; 3], false)).write();
        match proven(&host.procfs(), &Selector::Unit("checkout".into()), id).as_slice() {
            [] => false,
            uids => uids.iter().all(|uid| *uid == SHOP),
        }
    }

    #[test]
    fn a_unit_proves_its_user_only_where_nobody_else_makes_units() {
        for system in [
            "0::/system.slice/checkout.service\n",
            "0::/system.slice/checkout.service/payload\n",
            "0::/shop.slice/shop-web.slice/checkout.service\n",
            "4:memory:/x\n1:name=systemd:/system.slice/checkout.service\n",
        ] {
            assert!(proven_by_unit(system), "{system}");
        }
        for forged in [
            "0::/user.slice/user-1002.slice/user@1002.service/app.slice/checkout.service\n",
            "0::/machine.slice/systemd-nspawn@a.service/payload/system.slice/checkout.service\n",
            "0::/system.slice/docker-0123.scope/system.slice/checkout.service\n",
            "0::/../checkout.service\n",
            "0::/system.slice/other.service\n",
            "0::/\n",
        ] {
            assert!(!proven_by_unit(forged), "{forged}");
        }
    }

    #[test]
    fn names_arguments_ports_and_numbers_prove_nothing() {
        let host = FakeHost::new();
        let id = host.process(7, "checkout").file("status", status([EVE; 3], false)).write();
        for which in [
            Selector::Name("checkout".into()),
            Selector::Cmdline("checkout".into()),
            Selector::Listen("127.0.0.1:6060".parse().unwrap()),
            Selector::Pid(7),
            // root's program, which anyone may run
            Selector::Exe("/bin/sh".into()),
        ] {
            assert_eq!(proven(&host.procfs(), &which, id), [] as [u32; 0], "{which:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_put_there_proves_nobody() {
        assert_eq!(owner_out_of_reach(Path::new("/bin/sh")), Some(0));
        // below a directory that everyone may write to
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let file = dir.path().join("checkout");
        std::fs::write(&file, "").unwrap();
        assert_eq!(owner_out_of_reach(&file), None);
        assert_eq!(owner_out_of_reach(Path::new("/nonexistent/x")), None);
    }

    #[test]
    fn a_pid_file_older_than_the_process_is_of_a_former_one() {
        let host = FakeHost::new();
        let now = crate::clock::wall_now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        host.file("proc/stat", format!("cpu 1\nbtime {}\n", now - 1_000)).file("run/x.pid", "7\n");
        let path = host.root().join("run/x.pid");
        let hz = rustix::param::clock_ticks_per_second();
        let before = host.process(7, "x").start(900 * hz).write();
        assert!(is_of_this_life(&host.procfs(), &path, before));
        let after = host.process(7, "x").start(1_100 * hz).write();
        assert!(!is_of_this_life(&host.procfs(), &path, after));
    }
}
