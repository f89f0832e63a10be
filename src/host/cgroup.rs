//! Where a process's memory cgroup and its ancestors are in the filesystem: v1, v2 and both at once.
//!
//! What can be seen depends on where memtrap stands: a container sees a subtree, or nothing of its neighbours. Where memtrap's
//! own mounts do not show the cgroup, the process's own view (`/proc/PID/root`) is tried, which sees at least itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::proc::{SMALL, read_path};
use super::{ProcDir, ProcError, ProcFs};

/// Hosts with many containers have long tables.
const MAX_MOUNTINFO: usize = 16 << 20;
/// A unit name without one of these is that of a service.
const UNIT_SUFFIXES: [&str; 11] =
    [".service", ".scope", ".slice", ".socket", ".mount", ".swap", ".target", ".device", ".automount", ".timer", ".path"];
/// Deeper nesting than any orchestrator makes.
const MAX_LEVELS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }
}

/// One cgroup: its path in the hierarchy, for people, and the directory of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub name: String,
    pub dir: PathBuf,
}

impl Level {
    /// A file of this cgroup, at most 64 KiB; `None` if there is none or it may not be read.
    pub fn read(&self, file: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&read_path(&self.dir.join(file), SMALL).ok()?).into_owned())
    }

    /// A file that holds one number; `None` for `max` too.
    pub fn number(&self, file: &str) -> Option<u64> {
        self.read(file)?.trim().parse().ok()
    }

    /// The number after `key` in a file of `key number` lines.
    pub fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        self.read(file)?.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

/// The memory cgroup of a process and all ancestors that can be seen. It holds paths, so it outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupRef {
    pub version: Version,
    /// The process's own.
    own: Level,
    /// From it to the highest that is visible.
    levels: Vec<Level>,
}

impl CgroupRef {
    /// `Ok(None)`: the process's cgroup cannot be seen from here. `Err`: the process is gone, or its cgroup file unreadable.
    pub fn of(procfs: &ProcFs, pid: u32) -> Result<Option<CgroupRef>, ProcError> {
        CgroupRef::of_with(procfs, &Mounts::read(procfs), pid)
    }

    /// The same with mounts that were read before, for many processes at once.
    pub fn of_with(procfs: &ProcFs, mounts: &Mounts, pid: u32) -> Result<Option<CgroupRef>, ProcError> {
        let dir = procfs.dir(pid)?;
        let text = dir.read("cgroup", SMALL)?;
        let Some((version, path)) = memory_membership(&String::from_utf8_lossy(&text)) else { return Ok(None) };
        Ok(mounts.locate(version, &path).or_else(|| Mounts::seen_by(&dir)?.locate(version, &path)))
    }

    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The cgroup the process itself is in.
    pub fn own(&self) -> &Level {
        &self.own
    }
}

/// The hierarchies and paths of `/proc/PID/cgroup`: `(controllers, path)`, controllers empty for v2.
pub(crate) fn memberships(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let _hierarchy = parts.next()?;
        Some((parts.next()?, parts.next()?))
    })
}

/// Which hierarchy and path in a `/proc/PID/cgroup` have the memory controller. It is in one only: that v1 hierarchy which lists
/// it, else v2.
pub fn memory_membership(text: &str) -> Option<(Version, String)> {
    let v1 = memberships(text).find(|(controllers, _)| controllers.split(',').any(|c| c == "memory"));
    let v2 = || memberships(text).find(|(controllers, _)| controllers.is_empty());
    let (version, path) = v1.map(|(_, path)| (Version::V1, path)).or_else(|| v2().map(|(_, path)| (Version::V2, path)))?;
    Some((version, path.strip_suffix(" (deleted)").unwrap_or(path).to_owned()))
}

/// Whether this component of a cgroup's path is the unit with this full name. systemd puts `_` before names that would clash with the
/// kernel's files.
pub(crate) fn is_unit(part: &str, unit: &str) -> bool {
    part == unit || part.strip_prefix('_') == Some(unit)
}

/// The name of a unit with its suffix: that of a service, where none is written.
pub(crate) fn full_unit_name(unit: &str) -> String {
    if UNIT_SUFFIXES.iter().any(|suffix| unit.ends_with(suffix)) { unit.to_owned() } else { format!("{unit}.service") }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The cgroup that is mounted, `/` or in a container often a subtree.
    root: String,
    dir: PathBuf,
}

/// The mounted cgroup hierarchies that can hold memory limits.
#[derive(Clone, Debug, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// What memtrap itself sees; none if that cannot be read.
    pub fn read(procfs: &ProcFs) -> Mounts {
        let text = read_path(&procfs.path("self/mountinfo"), MAX_MOUNTINFO).unwrap_or_default();
        Mounts::parse(&text, procfs.fs_root())
    }

    /// What the process sees: its mounts, reached through its root directory.
    fn seen_by(dir: &ProcDir) -> Option<Mounts> {
        let text = dir.read("mountinfo", MAX_MOUNTINFO).ok()?;
        Some(Mounts::parse(&text, &dir.path().join("root")))
    }

    /// Reads a `mountinfo`; the directories that it names are looked up below `below`.
    pub fn parse(mountinfo: &[u8], below: &Path) -> Mounts {
        let mut mounts: Vec<Mount> = mountinfo.split(|b| *b == b'\n').filter_map(|line| Mount::parse(line, below)).collect();
        // the mount that shows most ancestors first
        mounts.sort_by_key(|mount| components(&mount.root).count());
        Mounts(mounts)
    }

    /// Where the cgroup of this path would be by the mounts alone, the place that shows most ancestors first.
    pub fn candidates(&self, version: Version, path: &str) -> impl Iterator<Item = CgroupRef> {
        let mounts = self.0.iter().filter(move |mount| mount.version == version);
        mounts.filter_map(move |mount| {
            mount.levels(path).and_then(|levels| Some(CgroupRef { version, own: levels.first()?.clone(), levels }))
        })
    }

    fn locate(&self, version: Version, path: &str) -> Option<CgroupRef> {
        self.candidates(version, path).find(|cgroup| cgroup.own().dir.is_dir())
    }
}

impl Mount {
    /// `35 31 0:32 ROOT MOUNTPOINT rw,relatime [optional…] - TYPE SOURCE OPTIONS`, see proc_pid_mountinfo(5).
    fn parse(line: &[u8], below: &Path) -> Option<Mount> {
        let mut words = line.split(|b| *b == b' ');
        let root = words.nth(3)?;
        let dir = words.next()?;
        words.find(|word| word == b"-")?;
        let version = match words.next()? {
            b"cgroup2" => Version::V2,
            b"cgroup" => {
                let options = words.nth(1)?;
                options.split(|b| *b == b',').any(|option| option == b"memory").then_some(Version::V1)?
            }
            _ => return None,
        };
        let dir = PathBuf::from(OsString::from_vec(unescape(dir)));
        let dir = below.join(dir.strip_prefix("/").ok()?);
        Some(Mount { version, root: String::from_utf8_lossy(&unescape(root)).into_owned(), dir })
    }

    /// The cgroup at `path` and its ancestors up to this mount's root; `None` if it is not below that.
    ///
    /// Both paths are relative to memtrap's cgroup namespace, so a cgroup outside it begins with `/..`, and `..` is compared
    /// like a name: below `/../neighbour` is `/../neighbour/x`, but what `..` itself leads to has no name here.
    fn levels(&self, path: &str) -> Option<Vec<Level>> {
        let mut rest = components(path);
        if !components(&self.root).all(|part| rest.next() == Some(part)) {
            return None;
        }
        let root = components(&self.root).fold(String::new(), |name, part| name + "/" + part);
        let mut levels = vec![Level { name: root, dir: self.dir.clone() }];
        for part in rest {
            let above = levels.last()?;
            if part == ".." || levels.len() == MAX_LEVELS {
                return None;
            }
            levels.push(Level { name: format!("{}/{part}", above.name), dir: above.dir.join(part) });
        }
        if let Some(top) = levels.first_mut().filter(|top| top.name.is_empty()) {
            top.name.push('/');
        }
        levels.reverse();
        Some(levels)
    }
}

fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// `\040` and the like, as mountinfo writes space, tab, line break and backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    fn names(found: &CgroupRef) -> Vec<&str> {
        found.levels().iter().map(|l| l.name.as_str()).collect()
    }

    /// Process 7 in `membership` on a host with these mounts and cgroup directories.
    fn find(membership: &str, mountinfo: &str, dirs: &[&str]) -> (FakeHost, Option<CgroupRef>) {
        let host = FakeHost::new();
        host.process(7, "app").file("cgroup", membership).write();
        host.file("proc/self/mountinfo", mountinfo);
        for dir in dirs {
            std::fs::create_dir_all(host.root().join(dir)).unwrap();
        }
        let found = CgroupRef::of(&host.procfs(), 7).unwrap();
        (host, found)
    }

    const V2: &str = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw\n";
    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      36 31 0:33 / /sys/fs/cgroup/hugetlb,memory rw shared:9 - cgroup cgroup rw,hugetlb,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_v2_service_has_its_slices_as_ancestors() {
        let (host, found) = find("0::/system.slice/checkout.service\n", V2, &["sys/fs/cgroup/system.slice/checkout.service"]);
        let found = found.unwrap();
        assert_eq!(found.version, Version::V2);
        assert_eq!(names(&found), ["/system.slice/checkout.service", "/system.slice", "/"]);
        assert_eq!(found.own().dir, host.root().join("sys/fs/cgroup/system.slice/checkout.service"));
    }

    #[test]
    fn on_a_hybrid_host_the_hierarchy_with_the_memory_controller_counts() {
        let membership = "4:hugetlb,memory:/app\n3:cpu:/elsewhere\n0::/unified-app\n";
        let (host, found) = find(membership, V1, &["sys/fs/cgroup/hugetlb,memory/app", "sys/fs/cgroup/unified/unified-app"]);
        let found = found.unwrap();
        assert_eq!((found.version, names(&found)), (Version::V1, vec!["/app", "/"]));
        assert_eq!(found.own().dir, host.root().join("sys/fs/cgroup/hugetlb,memory/app"));
    }

    #[test]
    fn a_container_that_sees_only_its_subtree_finds_itself() {
        let mounts = "36 31 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let (_host, found) = find("4:memory:/docker/abc/inner\n", mounts, &["sys/fs/cgroup/memory/inner"]);
        assert_eq!(names(&found.unwrap()), ["/docker/abc/inner", "/docker/abc"]);
        let (_host, neighbour) = find("4:memory:/docker/abcd\n", mounts, &["sys/fs/cgroup/memory"]);
        assert_eq!(neighbour, None);
    }

    #[test]
    fn the_mount_that_shows_most_ancestors_is_taken() {
        let mounts = format!("29 23 0:26 /a /mnt/part rw - cgroup2 cgroup2 rw\n{V2}");
        let (_host, found) = find("0::/a/b\n", &mounts, &["sys/fs/cgroup/a/b", "mnt/part/b"]);
        assert_eq!(names(&found.unwrap()), ["/a/b", "/a", "/"]);
    }

    #[test]
    fn a_neighbour_outside_the_cgroup_namespace_is_found_through_its_own_root() {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", V2).file("sys/fs/cgroup/memory.max", "1");
        let theirs = "30 23 0:26 /../other /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        host.process(7, "app").file("cgroup", "0::/../other\n").file("mountinfo", theirs).write();
        assert_eq!(CgroupRef::of(&host.procfs(), 7).unwrap(), None);
        host.file("proc/7/root/sys/fs/cgroup/memory.max", "1000\n");
        let found = CgroupRef::of(&host.procfs(), 7).unwrap().unwrap();
        assert_eq!(names(&found), ["/../other"]);
        assert_eq!(found.own().number("memory.max"), Some(1000));
    }

    #[test]
    fn dots_never_lead_out_of_the_mount() {
        for path in ["/../etc", "/..", "/a/../../b"] {
            let (_host, found) = find(&format!("0::{path}\n"), V2, &["sys/fs/cgroup/a", "sys/fs/b", "sys/fs/etc"]);
            assert_eq!(found, None, "{path}");
        }
    }

    #[test]
    fn escaped_mount_points_are_read() {
        let mounts = "30 23 0:26 / /my\\040cg\\134x rw - cgroup2 cgroup2 rw\n";
        let (host, found) = find("0::/a\n", mounts, &["my cg\\x/a"]);
        assert_eq!(found.unwrap().own().dir, host.root().join("my cg\\x/a"));
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert_eq!(unescape(b"\\999\\"), b"\\999\\");
    }

    #[test]
    fn nonsense_in_the_tables_is_passed_over() {
        let (_host, found) = find("\n:\n::\nx\n0:\n", "\n- - -\n30\n30 23 0:26 / relative rw - cgroup2 c rw\n1 2 3 / /x rw -\n", &[]);
        assert_eq!(found, None);
    }

    #[test]
    fn a_cgroup_that_was_removed_is_not_found() {
        let (_host, found) = find("0::/gone (deleted)\n", V2, &["sys/fs/cgroup"]);
        assert_eq!(found, None);
    }
}
