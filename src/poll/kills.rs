//! OOM kills in the cgroups of a target: each is told once, whoever of its processes is looked at first.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::host::limit::{OomCounter, OomKills};

/// Cgroups that are remembered; of further ones, each process tells for itself.
const MAX_CGROUPS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Kills {
    /// How far each cgroup's counter was told.
    told: HashMap<PathBuf, u64>,
    missed: u64,
}

impl Kills {
    /// What of this was not told yet; `None` if all was.
    pub fn claim(&mut self, found: OomKills) -> Option<OomKills> {
        let told = self.told.get(&found.dir).copied();
        self.remember(found.dir.clone(), found.total);
        // a cgroup that was made anew counts from 0
        let new = match told.filter(|told| *told <= found.total) {
            Some(told) => found.kills.min(found.total - told),
            None => found.kills,
        };
        (new > 0).then_some(OomKills { kills: new, ..found })
    }

    /// A new process is watched: what was killed in its cgroup while nobody there was, counts too.
    pub fn catch_up(&mut self, counter: &OomCounter) {
        let Some(total) = counter.before() else { return };
        let dir = counter.cgroup().own().dir.clone();
        let missed = self.told.get(&dir).map_or(0, |told| total.saturating_sub(*told));
        self.missed = self.missed.saturating_add(missed);
        self.remember(dir, total);
    }

    /// Kills of processes that nobody watched; told once.
    pub fn take_missed(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.missed)).filter(|missed| *missed > 0)
    }

    fn remember(&mut self, dir: PathBuf, total: u64) {
        if self.told.len() >= MAX_CGROUPS && !self.told.contains_key(&dir) {
            self.told.clear();
        }
        self.told.insert(dir, total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(kills: u64, total: u64) -> OomKills {
        OomKills { kills, cgroup: "/a".into(), dir: "/a".into(), total, own: true, ran_out: None }
    }

    #[test]
    fn a_kill_is_told_once_whoever_looks() {
        let mut kills = Kills::default();
        let mut new = |n, total| kills.claim(found(n, total)).map(|k| k.kills);
        assert_eq!((new(1, 1), new(1, 1)), (Some(1), None), "by two processes of one cgroup");
        assert_eq!((new(2, 3), new(0, 3)), (Some(2), None));
        assert_eq!(new(1, 1), Some(1), "the cgroup was made anew");
    }
}
