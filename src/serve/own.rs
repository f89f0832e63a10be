//! What memtrap itself costs, from its own /proc directory.

use crate::target::ProcFs;

/// More descriptors are not counted.
const MAX_FDS: usize = 100_000;
const MAX_STAT: usize = 4096;

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
        let stat = dir.read("stat", MAX_STAT).unwrap_or_default();
        let (ticks, page) = (rustix::param::clock_ticks_per_second().max(1), rustix::param::page_size() as u64);
        let mut fds = 0;
        let counted = dir.fds(MAX_FDS, |_| fds += 1).is_ok();
        let started = procfs.identity(pid).and_then(|id| procfs.started_at(id)).ok();
        Own {
            cpu_seconds: field(&stat, 14).zip(field(&stat, 15)).map(|(user, system)| (user + system) as f64 / ticks as f64),
            threads: field(&stat, 20),
            virtual_bytes: field(&stat, 23),
            resident_bytes: field(&stat, 24).map(|pages| pages * page),
            open_fds: counted.then_some(fds),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            start_unix_seconds: started.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map(|d| d.as_secs_f64()),
        }
    }
}

/// A field of proc_pid_stat(5), after the command's name.
fn field(stat: &[u8], number: usize) -> Option<u64> {
    let close = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
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

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 3 0 999 1000000 25";
        assert_eq!((field(stat, 14), field(stat, 15), field(stat, 20), field(stat, 24)), (Some(150), Some(50), Some(3), Some(25)));
    }
}
