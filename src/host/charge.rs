//! The charge of limited cgroups, read as often as their processes are polled: one kept descriptor for each cgroup, whoever asks.
//!
//! Where the kernel tells of crossings by itself, a bell hangs at each cgroup (see `bell`): a ring is a reading before its time.
//!
//! The usage is a number and cheap. What of it the kernel could drop stands in `memory.stat`, which is read when the usage is near a level, has moved, or now and then;
//! between two such readings what can be dropped is taken to stay the same.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use super::ProcFs;
use super::bell::{BellId, Bells, Hung, Rang};
use super::cgroup::{Level, Version};
use super::limit::FRESH;
use super::proc::open_path;
use crate::charge::{Charge, Room, Stat, droppable};
use crate::clock::Mono;

/// `memory.stat` is read again after this, though the usage has not moved.
const STAT_EVERY: Duration = Duration::from_secs(10);
/// A move of the usage by this share of the limit is one.
const MOVED: u64 = 256;
/// The kernel counts in batches of this size per CPU.
const LEAST_MOVE: u64 = 1 << 20;
/// Slab below this share of the limit is not worth asking whether it is pinned.
const LITTLE: u64 = 256;
/// Swap is added to hosts seldom.
const SWAP_EVERY: Duration = Duration::from_secs(30);
/// Fewer cgroups are not worth a look for those that are not asked for.
const LEAST_TIDIED: usize = 64;
/// Levels at which the usage of one cgroup of v1 rings.
const MOST_TRIPWIRES: usize = 8;
/// By so much must another process of a target be larger to stand for their cgroup.
const LARGER: (u64, u64) = (5, 4);

/// The cgroups whose charge anybody asks for.
#[derive(Debug, Default)]
pub struct Charges {
    groups: HashMap<PathBuf, Weak<Group>>,
    bells: Option<Arc<Bells>>,
    /// Whose bell it is.
    by_bell: HashMap<BellId, Weak<Group>>,
    most_kept: usize,
    /// With so many, those that nobody asks for any more are forgotten.
    tidy_at: usize,
    swap_free: Option<(u64, Mono)>,
}

/// One cgroup.
#[derive(Debug)]
struct Group {
    name: Arc<str>,
    level: Level,
    version: Version,
    /// `None` where there are too many to keep.
    usage: Option<File>,
    /// Of v2: of its limits and its kills. Of v1: of its kills.
    bell: Option<Hung>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    usage: Option<(u64, Mono)>,
    stat: Option<Looked>,
    leaders: Vec<Leader>,
    /// What its bells have said since it was read last.
    rang: Option<Rang>,
    /// Of v1: where the usage rings, bytes.
    tripwires: Vec<(u64, Weak<Hung>)>,
}

/// What the last look at `memory.stat` told.
#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Mono,
    usage: u64,
    droppable: u64,
    /// How often reclaim was forced by then.
    pressed: Option<u64>,
    /// The kernel had just met the limit.
    is_met: bool,
}

/// Of several processes of one target in one cgroup, one stands for it: one incident, one bundle.
#[derive(Clone, Copy, Debug)]
struct Leader {
    target: usize,
    pid: u32,
    rss: u64,
    at: Mono,
}

/// The limited cgroups above one process, the nearest first.
#[derive(Debug, Default)]
pub struct Watch(Box<[Watched]>);

#[derive(Debug)]
struct Watched {
    group: Arc<Group>,
    limit: u64,
    /// Shared with whoever waits for the same level.
    tripwires: Box<[Arc<Hung>]>,
}

/// Whose cgroup rang: a process that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concerned {
    /// As in the [`Question`].
    pub target: usize,
    pub pid: u32,
}

/// Who asks, and what the answer is for.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Tells targets apart.
    pub target: usize,
    pub pid: u32,
    pub rss: u64,
    /// The limit that levels are shares of, and the lowest of them.
    pub limit: u64,
    pub level: u64,
    /// A process that has not asked for so long stands for nothing.
    pub stale: Duration,
}

impl Charges {
    /// Keeps so many files open.
    pub fn keeping(most_kept: usize) -> Charges {
        Charges { most_kept, ..Charges::default() }
    }

    /// Hears of crossings through these bells.
    pub fn listen(&mut self, bells: Arc<Bells>) {
        self.bells = Some(bells);
    }

    /// How many are open.
    pub fn kept_files(&self) -> usize {
        let usages = self.groups.values().filter(|group| group.upgrade().is_some_and(|group| group.usage.is_some())).count();
        usages + self.bells.as_ref().map_or(0, |bells| bells.count())
    }

    /// The cgroups of these directories, each with its limit. What was watched before, and is not any more, is closed when `before` is dropped.
    pub fn watch(&mut self, version: Version, levels: Vec<(Level, u64)>) -> Watch {
        let watched = levels.into_iter().map(|(level, limit)| {
            if let Some(group) = self.groups.get(&level.dir).and_then(Weak::upgrade) {
                return Watched { group, limit, tripwires: Box::default() };
            }
            if self.groups.len() >= self.tidy_at.min(self.most_kept) {
                self.groups.retain(|_, group| group.strong_count() > 0);
                self.by_bell.retain(|_, group| group.strong_count() > 0);
                self.tidy_at = (self.groups.len() * 2).max(LEAST_TIDIED);
            }
            let name = usage_file(version);
            let usage = (self.groups.len() < self.most_kept).then(|| open_path(&level.dir.join(name)).ok()).flatten();
            let hang = |bells: &Arc<Bells>| match version {
                Version::V1 => bells.hang_oom(&level),
                Version::V2 => bells.hang_events(&level),
            };
            let bell = self.bells.as_ref().filter(|_| usage.is_some()).map(hang);
            let bell = bell.and_then(|hung| hung.inspect_err(|e| deaf(&level, e)).ok());
            let id = bell.as_ref().map(|bell| bell.id);
            let group = Arc::new(Group { name: level.name.as_str().into(), level, version, usage, bell, seen: Mutex::default() });
            self.groups.insert(group.level.dir.clone(), Arc::downgrade(&group));
            self.by_bell.extend(id.map(|id| (id, Arc::downgrade(&group))));
            Watched { group, limit, tripwires: Box::default() }
        });
        Watch(watched.collect())
    }

    /// Of v1: the usage is to ring at these levels, each a share of a limit of so many bytes. v2 rings where its limits are met.
    pub fn trip(&mut self, watch: &mut Watch, levels: &[(u64, u64)]) {
        let Some(bells) = &self.bells else { return };
        for Watched { group, limit, tripwires } in &mut watch.0 {
            // without this one, there is no other either
            if group.version == Version::V2 || group.bell.is_none() {
                continue;
            }
            let mut seen = group.seen();
            seen.tripwires.retain(|(_, hung)| hung.strong_count() > 0);
            let shares = levels.iter().map(|(level, of)| share(*level, *limit, *of));
            let hang = |bytes| {
                if let Some(hung) = seen.tripwires.iter().find_map(|(at, hung)| hung.upgrade().filter(|_| *at == bytes)) {
                    return Some(hung);
                }
                let room = seen.tripwires.len() < MOST_TRIPWIRES;
                let hung =
                    room.then(|| bells.hang_usage(&group.level, bytes)).and_then(|hung| hung.inspect_err(|e| deaf(&group.level, e)).ok());
                let hung = Arc::new(hung?);
                seen.tripwires.push((bytes, Arc::downgrade(&hung)));
                self.by_bell.insert(hung.id, Arc::downgrade(group));
                Some(hung)
            };
            *tripwires = shares.filter_map(hang).collect();
        }
    }

    /// A bell rang: of whose cgroup. It is read anew at the next question.
    pub fn rang(&mut self, bell: BellId, rang: Rang) -> Vec<Concerned> {
        let Some(group) = self.by_bell.get(&bell).and_then(Weak::upgrade) else {
            self.by_bell.remove(&bell);
            return Vec::new();
        };
        let mut seen = group.seen();
        seen.rang = Some(seen.rang.unwrap_or_default().and(rang));
        seen.leaders.iter().map(|leader| Concerned { target: leader.target, pid: leader.pid }).collect()
    }

    /// The charge that is nearest to its limit, of those that the process of this question stands for.
    pub fn read(&mut self, procfs: &ProcFs, watch: &Watch, asked: Question, now: Mono) -> Option<Charge> {
        let mut nearest: Option<(u64, Charge)> = None;
        for Watched { group, limit, .. } in &watch.0 {
            let mut seen = group.seen();
            let stands = seen.stands(asked, now);
            let Some(usage) = group.usage(&mut seen, now) else { continue };
            if seen.must_look(usage, *limit, asked, now) {
                group.look(&mut seen, usage, *limit, self.swap_free(procfs, now), now);
            }
            let Some(looked) = seen.stat.filter(|_| stands) else { continue };
            let is_met = looked.is_met && looked.at == now;
            let charge = Charge { is_met, ..Charge::new(usage.saturating_sub(looked.droppable), *limit, group.name.clone()) };
            let against = charge.against(asked.limit);
            if nearest.as_ref().is_none_or(|(most, _)| against > *most) {
                nearest = Some((against, charge));
            }
        }
        nearest.map(|(_, charge)| charge)
    }

    /// A bell that rings when it is said to: a made-up file has none.
    #[cfg(test)]
    pub fn hang_for_test(&mut self, name: &str) -> BellId {
        let group = self.groups.values().find(|group| group.upgrade().is_some_and(|group| &*group.name == name)).unwrap().clone();
        let id = BellId::for_test(self.by_bell.len() as u64 + 1_000);
        self.by_bell.insert(id, group);
        id
    }

    fn swap_free(&mut self, procfs: &ProcFs, now: Mono) -> u64 {
        let fresh = |(free, read): &(u64, Mono)| now.since(*read) < if *free == 0 { SWAP_EVERY } else { FRESH };
        let (free, _) = *self.swap_free.insert(self.swap_free.filter(fresh).unwrap_or_else(|| (procfs.swap_free().unwrap_or(0), now)));
        free
    }
}

impl Seen {
    /// Whether what can be dropped must be read anew.
    fn must_look(&self, usage: u64, limit: u64, asked: Question, now: Mono) -> bool {
        let Some(looked) = self.stat.filter(|_| self.rang.is_none()) else { return true };
        let part = |bytes| share(bytes, limit, asked.limit);
        // the charge is no more than the usage
        if looked.at == now || usage <= part(asked.rss) {
            return false;
        }
        let is_near = usage >= part(asked.level) / 10 * 9;
        let has_moved = usage.abs_diff(looked.usage) >= (limit / MOVED).max(LEAST_MOVE);
        is_near || has_moved || now.since(looked.at) >= STAT_EVERY
    }

    /// Whether this process stands for the cgroup among those of its target: the largest does, and goes on to until another is larger by far.
    fn stands(&mut self, asked: Question, now: Mono) -> bool {
        let mine = Leader { target: asked.target, pid: asked.pid, rss: asked.rss, at: now };
        self.leaders.retain(|leader| now.since(leader.at) < asked.stale || leader.target != asked.target);
        match self.leaders.iter_mut().find(|leader| leader.target == asked.target) {
            None => self.leaders.push(mine),
            Some(leader) if leader.pid == asked.pid || asked.rss / LARGER.0 > leader.rss / LARGER.1 => *leader = mine,
            Some(_) => return false,
        }
        true
    }
}

impl Group {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // numbers that are read anew each time
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As of `now`, whoever of its processes asked first; what was read before, if it cannot be read now.
    fn usage(&self, seen: &mut Seen, now: Mono) -> Option<u64> {
        if let Some((usage, _)) = seen.usage.filter(|(_, read)| *read == now) {
            return Some(usage);
        }
        let read = match &self.usage {
            Some(file) => {
                let mut text = [0u8; 32];
                let n = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
                text.get(..n).and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok())
            }
            None => self.level.number(usage_file(self.version)),
        };
        let usage = read.or(seen.usage.map(|(usage, _)| usage))?;
        seen.usage = Some((usage, now));
        Some(usage)
    }

    fn look(&self, seen: &mut Seen, usage: u64, limit: u64, swap_free: u64, now: Mono) {
        let Some(stat) = self.level.read("memory.stat").as_deref().and_then(Stat::parse) else { return };
        let asks_whether_pinned = stat.slab_reclaimable > limit / LITTLE && usage >= limit / 10 * 9;
        let pressed = if asks_whether_pinned { self.pressed() } else { None };
        let was_pressed = seen.stat.and_then(|looked| looked.pressed).filter(|_| asks_whether_pinned);
        let is_pressed = pressed.zip(was_pressed).is_some_and(|(now, before)| now > before);
        let swap_left = if swap_free == 0 { 0 } else { self.swap_left(usage).unwrap_or(u64::MAX).min(swap_free) };
        let droppable = droppable(&stat, Room { limit, swap_left, is_pressed });
        // one look without new pressure does not tell that slab goes
        let pressed = if is_pressed { was_pressed } else { pressed };
        let is_met = seen.rang.take().is_some_and(|rang| rang.limit);
        seen.stat = Some(Looked { at: now, usage, droppable, pressed, is_met });
    }

    /// How often reclaim was forced here.
    fn pressed(&self) -> Option<u64> {
        match self.version {
            Version::V1 => self.level.number("memory.failcnt"),
            Version::V2 => Some(self.level.keyed("memory.events", "max")?.saturating_add(self.level.keyed("memory.events", "high")?)),
        }
    }

    /// What its own limit leaves of swap; `None` without one.
    fn swap_left(&self, usage: u64) -> Option<u64> {
        let number = |file: &str| self.level.number(file);
        match self.version {
            Version::V2 => Some(number("memory.swap.max")?.saturating_sub(number("memory.swap.current")?)),
            Version::V1 => {
                let swap = number("memory.memsw.limit_in_bytes")?.saturating_sub(number("memory.limit_in_bytes")?);
                Some(swap.saturating_sub(number("memory.memsw.usage_in_bytes")?.saturating_sub(usage)))
            }
        }
    }
}

/// What these bytes of one limit are of another.
fn share(bytes: u64, limit: u64, of: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(limit) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

fn deaf(level: &Level, error: &std::io::Error) {
    tracing::debug!(cgroup = level.name, %error, "the kernel does not tell of this cgroup by itself: it is polled");
}

/// The file with what a cgroup uses.
pub const fn usage_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn level(host: &FakeHost, name: &str, usage: u64, stat: &str) -> Level {
        let dir = format!("sys/fs/cgroup{name}");
        host.file(&format!("{dir}/memory.current"), format!("{}\n", usage * MIB));
        host.file(&format!("{dir}/memory.stat"), stat);
        Level { name: name.into(), dir: host.root().join(dir) }
    }

    fn stat(anon: u64, file: u64, shmem: u64) -> String {
        format!("anon {}\nfile {}\nshmem {}\nactive_file {}\n", anon * MIB, file * MIB, shmem * MIB, (file - shmem) * MIB)
    }

    fn question(pid: u32, rss: u64) -> Question {
        Question { target: 1, pid, rss: rss * MIB, limit: 200 * MIB, level: 160 * MIB, stale: Duration::from_secs(15) }
    }

    fn bytes(charge: Option<Charge>) -> Option<(u64, String)> {
        charge.map(|charge| (charge.bytes / MIB, charge.cgroup.to_string()))
    }

    #[test]
    fn the_level_that_is_nearest_to_its_limit_is_told() {
        let host = FakeHost::new();
        host.file("proc/meminfo", "MemTotal: 1000000 kB\nSwapFree: 0 kB\n");
        let own = level(&host, "/pod/app", 100, &stat(60, 40, 0));
        let pod = level(&host, "/pod", 900, &stat(800, 100, 20));
        let mut charges = Charges::keeping(9);
        let watch = charges.watch(Version::V2, vec![(own, 200 * MIB), (pod, 1_000 * MIB)]);
        let charge = charges.read(&host.procfs(), &watch, question(7, 50), Mono::from_secs(1)).unwrap();
        assert_eq!(charge.against(200 * MIB) / MIB, 164);
        assert_eq!(bytes(Some(charge)), Some((820, "/pod".into())));
        assert_eq!(charges.kept_files(), 2);
        drop(watch);
        assert_eq!(charges.kept_files(), 0, "nobody asks any more");
    }

    #[test]
    fn what_can_be_dropped_is_read_again_near_the_level_and_where_the_usage_moved() {
        let host = FakeHost::new();
        let own = level(&host, "/app", 100, &stat(60, 40, 0));
        let mut charges = Charges::keeping(9);
        let watch = charges.watch(Version::V2, vec![(own, 200 * MIB)]);
        let mut at = |second: u64| bytes(charges.read(&host.procfs(), &watch, question(7, 50), Mono::from_secs(second))).unwrap().0;
        assert_eq!(at(1), 60);
        level(&host, "/app", 100, &stat(90, 10, 0));
        assert_eq!((at(2), at(12)), (60, 90), "the usage has not moved, and is far from the level");
        level(&host, "/app", 110, &stat(70, 40, 0));
        assert_eq!(at(13), 70, "it moved");
        level(&host, "/app", 190, &stat(70, 120, 0));
        assert_eq!(at(14), 70);
        level(&host, "/app", 190, &stat(180, 10, 0));
        assert_eq!(at(15), 180, "it is near");
    }

    #[test]
    fn one_of_a_targets_processes_stands_for_their_cgroup() {
        let host = FakeHost::new();
        let own = level(&host, "/app", 180, &stat(180, 0, 0));
        let mut charges = Charges::keeping(9);
        let watch = charges.watch(Version::V2, vec![(own, 200 * MIB)]);
        let mut read = |pid, rss, second| charges.read(&host.procfs(), &watch, question(pid, rss), Mono::from_secs(second)).is_some();
        assert!(read(7, 40, 1) && !read(8, 45, 1), "a little larger");
        assert!(read(7, 40, 2) && read(9, 60, 2) && !read(7, 40, 2), "larger by far");
        assert!(!read(8, 45, 16) && read(8, 45, 17), "the one that stood for it is gone");
    }

    #[test]
    fn what_rang_is_read_anew_and_met_its_limit_once() {
        let host = FakeHost::new();
        let own = level(&host, "/app", 200, &stat(190, 10, 0));
        let mut charges = Charges::keeping(9);
        let watch = charges.watch(Version::V2, vec![(own, 200 * MIB)]);
        let bell = charges.hang_for_test("/app");
        let read = |charges: &mut Charges, second| {
            // RSS counts pages that are another cgroup's: the usage alone is no reason to look
            let charge = charges.read(&host.procfs(), &watch, question(7, 205), Mono::from_secs(second)).unwrap();
            (charge.bytes / MIB, charge.is_met)
        };
        assert_eq!(read(&mut charges, 1), (190, false));
        level(&host, "/app", 200, &stat(198, 2, 0));
        assert_eq!(read(&mut charges, 2), (190, false));
        assert_eq!(charges.rang(bell, Rang { limit: true, kill: false }), [Concerned { target: 1, pid: 7 }]);
        assert_eq!((read(&mut charges, 3), read(&mut charges, 4)), ((198, true), (198, false)));
        assert_eq!(charges.rang(bell, Rang::default()).len(), 1);
        assert_eq!(read(&mut charges, 5), (198, false), "a level was crossed, and no limit met");
        drop(watch);
        assert_eq!(charges.rang(bell, Rang::default()), []);
    }

    #[test]
    fn slab_that_stays_under_pressure_counts() {
        let host = FakeHost::new();
        let pinned = format!("anon {}\nfile 0\nslab_reclaimable {}\n", 150 * MIB, 40 * MIB);
        let own = level(&host, "/app", 190, &pinned);
        let events = |n: u64| host.file("sys/fs/cgroup/app/memory.events", format!("low 0\nhigh 0\nmax {n}\noom 0\n"));
        let mut charges = Charges::keeping(9);
        let watch = charges.watch(Version::V2, vec![(own, 200 * MIB)]);
        let mut at = |second: u64| bytes(charges.read(&host.procfs(), &watch, question(7, 50), Mono::from_secs(second))).unwrap().0;
        events(5);
        assert_eq!((at(1), at(2)), (150, 150));
        events(6);
        assert_eq!((at(3), at(4)), (190, 190), "reclaim was tried and left it there");
    }

    #[test]
    fn a_cgroup_that_cannot_be_read_tells_nothing() {
        let host = FakeHost::new();
        let gone = Level { name: "/gone".into(), dir: host.root().join("sys/fs/cgroup/gone") };
        let mut charges = Charges::keeping(9);
        let watch = charges.watch(Version::V2, vec![(gone, MIB)]);
        assert_eq!(charges.read(&host.procfs(), &watch, question(7, 50), Mono::from_secs(1)), None);
        let torn = level(&host, "/torn", 5, "garbage");
        let watch = charges.watch(Version::V2, vec![(torn, 10 * MIB)]);
        assert_eq!(charges.read(&host.procfs(), &watch, question(7, 1), Mono::from_secs(1)), None);
    }
}
