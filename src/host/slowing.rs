//! Whether the kernel slows a process before it kills it, and whether it does so now: `memory.high` of cgroup v2.
//!
//! Above `memory.high` each allocating thread sleeps ever longer, and what is allocated already goes on: the seconds in which evidence can be had. Without it,
//! or with less than a twentieth between it and `memory.max`, there are none. v1 has nothing like it.

use std::io;

use serde::{Deserialize, Serialize};

use super::cgroup::{CgroupRef, Level, Mounts, Version};
use super::{ProcFs, bell};
use crate::charge::is_limit;
use crate::units::ByteSize;

/// Between `memory.high` and `memory.max`, at least this share of the latter must lie: a fiftieth was measured to give half a second.
const LEAST_RESERVE: u64 = 20;

/// What becomes of a process whose cgroup is nearly full.
#[derive(Debug)]
pub enum LastSeconds {
    /// No cgroup of it has a limit.
    NoLimit,
    /// Slowed at `high` before it is killed at `max`.
    Slowed { at: Level, high: u64, max: Option<u64> },
    /// Killed at `max`.
    None { at: Level, max: u64 },
    /// Of v1, killed at the limit. `deaf`: its crossings are polled for, and why.
    V1 { at: Level, limit: u64, deaf: Option<io::Error> },
}

impl LastSeconds {
    pub fn of(cgroup: &CgroupRef) -> LastSeconds {
        if cgroup.version == Version::V1 {
            return match lowest(cgroup, "memory.limit_in_bytes") {
                Some((at, limit)) => LastSeconds::V1 { at: at.clone(), limit, deaf: bell::why_deaf(at) },
                None => LastSeconds::NoLimit,
            };
        }
        match (lowest(cgroup, "memory.high"), lowest(cgroup, "memory.max")) {
            (Some((at, high)), max) if max.is_none_or(|(_, max)| high < max) => {
                LastSeconds::Slowed { at: at.clone(), high, max: max.map(|(_, max)| max) }
            }
            (_, Some((at, max))) => LastSeconds::None { at: at.clone(), max },
            (_, None) => LastSeconds::NoLimit,
        }
    }

    /// For the operator, with what to do about it. `None`: nothing is to be said.
    pub fn words(&self) -> Option<String> {
        Some(match self {
            LastSeconds::NoLimit => return None,
            LastSeconds::Slowed { at, high, max: Some(max) } if max - high < max / LEAST_RESERVE => format!(
                "hardly any: memory.high of {} ({}) is so near to memory.max ({}) that the kernel kills at once; {}",
                at.name,
                ByteSize(*high),
                ByteSize(*max),
                cure(at, *max)
            ),
            LastSeconds::Slowed { at, high, max } => {
                let max = max.map_or_else(String::new, |max| format!(", below memory.max ({})", ByteSize(max)));
                format!(
                    "the kernel slows it at memory.high of {} ({}){max}: time for a capture before it is killed",
                    at.name,
                    ByteSize(*high)
                )
            }
            LastSeconds::None { at, max } => format!(
                "none: at memory.max of {} ({}) the kernel kills within a fraction of a second, and most of a capture is lost; {}",
                at.name,
                ByteSize(*max),
                cure(at, *max)
            ),
            LastSeconds::V1 { at, limit, deaf } => {
                let heard = match deaf {
                    None => "crossings of its levels are told by the kernel".to_owned(),
                    Some(e) => format!(
                        "crossings are polled for, as cgroup.event_control cannot be written ({e}): for memtrap's own unit, ProtectControlGroups=no lets it"
                    ),
                };
                format!("none: cgroup v1 has no memory.high, and kills at the limit of {} ({}); {heard}", at.name, ByteSize(*limit))
            }
        })
    }
}

/// What is to be known on this host before anything is watched; `None` where its cgroups cannot be seen.
pub fn advice(procfs: &ProcFs) -> Option<&'static str> {
    let mounts = Mounts::read(procfs);
    let has = |version| mounts.candidates(version, "/").next().is_some();
    match (has(Version::V1), has(Version::V2)) {
        (true, _) => Some("cgroup v1 kills at a limit without a warning: MemoryHigh=, which gives a capture seconds, is of cgroup v2"),
        (false, true) => Some(
            "a unit or pod with a limit and without MemoryHigh= is killed within a fraction of a second of it, and most of a capture is lost: \
             MemoryHigh= of 90 to 95 % of MemoryMax= gives it seconds; --probe says which targets lack it",
        ),
        (false, false) => None,
    }
}

/// What gives it seconds.
fn cure(at: &Level, max: u64) -> String {
    let high = (max / 20 * 19) >> 20;
    let unit = at.name.rsplit('/').find(|part| part.ends_with(".service") || part.ends_with(".scope") || part.ends_with(".slice"));
    match unit {
        Some(unit) => format!(
            "`systemctl edit {unit}` with `MemoryHigh={high}M` (90 to 95 % of MemoryMax=) below its section's head gives it seconds"
        ),
        None => format!("MemoryHigh= of 90 to 95 % of MemoryMax= ({high}M; of a pod: MemoryQoS) gives it seconds"),
    }
}

fn lowest<'a>(cgroup: &'a CgroupRef, file: &str) -> Option<(&'a Level, u64)> {
    // the nearest of equals
    cgroup.levels().iter().filter_map(|level| Some((level, level.number(file).filter(is_limit)?))).min_by_key(|(_, bytes)| *bytes)
}

/// A cgroup that stands above its `memory.high`: whoever allocates in it sleeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slowed {
    pub cgroup: String,
    pub high_bytes: u64,
    pub usage_bytes: u64,
}

impl Slowed {
    /// The nearest such cgroup above a process. Reads the kernel's files.
    pub fn now(cgroup: &CgroupRef) -> Option<Slowed> {
        if cgroup.version == Version::V1 {
            return None;
        }
        cgroup.levels().iter().find_map(|level| {
            let high_bytes = level.number("memory.high")?;
            let usage_bytes = level.number("memory.current").filter(|usage| *usage > high_bytes)?;
            Some(Slowed { cgroup: level.name.clone(), high_bytes, usage_bytes })
        })
    }

    pub fn words(&self) -> String {
        let Slowed { cgroup, high_bytes, usage_bytes } = self;
        format!("cgroup {cgroup} stands above its memory.high ({} of {})", ByteSize(*usage_bytes), ByteSize(*high_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Of process 7 in `/system.slice/shop.service`, whose files are these (MiB).
    fn found(files: &[(&str, u64)]) -> (FakeHost, CgroupRef) {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        host.process(7, "shop").file("cgroup", "0::/system.slice/shop.service\n").write();
        let dir = "sys/fs/cgroup/system.slice";
        host.file(&format!("{dir}/shop.service/cgroup.procs"), "7\n");
        for (file, mib) in files {
            host.file(&format!("{dir}/{file}"), format!("{}\n", mib * MIB));
        }
        let cgroup = CgroupRef::of(&host.procfs(), 7).unwrap().unwrap();
        (host, cgroup)
    }

    fn words(files: &[(&str, u64)]) -> Option<String> {
        LastSeconds::of(&found(files).1).words()
    }

    #[test]
    fn a_unit_without_memory_high_is_told_what_to_add_and_one_with_it_is_not() {
        let max = ("shop.service/memory.max", 300);
        let none = words(&[max]).unwrap();
        assert!(none.starts_with("none: at memory.max of /system.slice/shop.service (300MiB) the kernel kills"), "{none}");
        assert!(none.contains("`systemctl edit shop.service` with `MemoryHigh=285M`"), "{none}");
        let high = |mib| words(&[max, ("shop.service/memory.high", mib)]).unwrap();
        assert!(high(285).starts_with("the kernel slows it at memory.high of /system.slice/shop.service (285MiB), below"), "{}", high(285));
        assert!(high(294).starts_with("hardly any"), "{}", high(294));
        assert!(high(300).starts_with("none"), "{}", high(300));
        let slice = words(&[max, ("memory.high", 200)]).unwrap();
        assert!(slice.starts_with("the kernel slows it at memory.high of /system.slice (200MiB)"), "{slice}");
        assert_eq!(words(&[]), None);
    }

    #[test]
    fn v1_has_no_such_seconds_and_says_whether_it_is_heard() {
        let host = FakeHost::new();
        host.file("proc/self/mountinfo", "36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        host.process(7, "shop").file("cgroup", "4:memory:/shop\n").write();
        host.file("sys/fs/cgroup/memory/shop/memory.limit_in_bytes", (300 * MIB).to_string());
        let cgroup = CgroupRef::of(&host.procfs(), 7).unwrap().unwrap();
        let words = LastSeconds::of(&cgroup).words().unwrap();
        assert!(
            words.starts_with("none: cgroup v1 has no memory.high, and kills at the limit of /shop (300MiB); crossings are polled"),
            "{words}"
        );
        assert_eq!(Slowed::now(&cgroup), None);
    }

    #[test]
    fn the_nearest_cgroup_above_its_memory_high_is_told() {
        let files = |usage| {
            [("memory.high", 200), ("memory.current", 220), ("shop.service/memory.high", 150), ("shop.service/memory.current", usage)]
        };
        let slowed = |usage| Slowed::now(&found(&files(usage)).1).unwrap();
        assert_eq!((slowed(151).cgroup, slowed(150).cgroup), ("/system.slice/shop.service".into(), "/system.slice".into()));
        assert_eq!(slowed(150).words(), "cgroup /system.slice stands above its memory.high (220MiB of 200MiB)");
        assert_eq!(Slowed::now(&found(&[("memory.current", 220)]).1), None);
    }
}
