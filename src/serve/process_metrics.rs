//! What memtrap itself costs, from its own /proc directory.

use crate::host::ProcFs;

/// More descriptors are not counted.
const MAX_FDS: usize = 100_000;

/// The usual `process_*` numbers; `None` where the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Own {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    pub threads: Option<u64>,
    pub start_unix_seconds: Option<f64>,
}

impl Own {
    /// Reads a few files of procfs, which do not wait for a disk.
    pub fn read(procfs: &ProcFs) -> Own {
        let pid = std::process::id();
        let Ok(dir) = procfs.dir(pid) else { return Own::default() };
        let stat = dir.stat().ok();
        let stat = stat.as_ref();
        let (ticks, page) = (rustix::param::clock_ticks_per_second().max(1), rustix::param::page_size() as u64);
        let mut fds = 0;
        let counted = dir.fds(MAX_FDS, |_| fds += 1).is_ok();
        let started = procfs.identity(pid).and_then(|id| procfs.started_at(id)).ok();
        Own {
            cpu_seconds: stat.map(|s| s.utime.saturating_add(s.stime) as f64 / ticks as f64),
            threads: stat.and_then(|s| s.num_threads.try_into().ok()),
            virtual_bytes: stat.map(|s| s.vsize),
            resident_bytes: stat.map(|s| s.rss.saturating_mul(page)),
            open_fds: counted.then_some(fds),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            start_unix_seconds: started.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map(|d| d.as_secs_f64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memtrap_knows_its_own_numbers() {
        let own = Own::read(&ProcFs::host());
        assert!(own.resident_bytes.unwrap() > 1 << 20 && own.resident_bytes < own.virtual_bytes, "{own:?}");
        assert!(own.open_fds.unwrap() >= 3 && own.open_fds <= own.max_fds && own.threads.unwrap() >= 1, "{own:?}");
        assert!(own.cpu_seconds.is_some() && own.start_unix_seconds.unwrap() > 1e9, "{own:?}");
    }
}
