use std::cell::Cell;
use std::path::Path;

use memtrap::host::buildinfo::read_from;
use memtrap::host::cgroup::{Mounts, Version, memory_membership};
use memtrap::host::proc::{Status, parse_stat};
use memtrap::host::sockets::read_table;

use super::{parts, somewhere};

/// A file of these bytes, read as an executable.
pub fn buildinfo(data: &[u8]) {
    let asked = Cell::new(0);
    let read_at = |buf: &mut [u8], at: u64| {
        asked.set(asked.get() + buf.len());
        let rest = usize::try_from(at).ok().and_then(|at| data.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    };
    let info = read_from(&read_at);
    assert!(asked.get() < 12 << 20, "{} bytes were read", asked.get());
    let Ok(info) = info else { return };
    // a byte that is no UTF-8 becomes three
    assert!(info.go_version.len() <= 3 << 10);
    let settings = info.settings.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    assert!(settings <= 3 * data.len());
}

/// Four files of /proc, separated by NUL: PID/cgroup, mountinfo, net/tcp, and PID/stat, which is also read as PID/status.
pub fn proc_files(data: &[u8]) {
    let [cgroup, mountinfo, tcp, stat] = parts(data);
    let below = Path::new("/fake");
    let mounts = Mounts::parse(mountinfo, below);
    let membership = memory_membership(&String::from_utf8_lossy(cgroup));
    let root = (Version::V2, "/".to_owned());
    for (version, path) in membership.into_iter().chain([root]) {
        for found in mounts.candidates(version, &path) {
            let levels = found.levels();
            assert!(!levels.is_empty() && levels.len() <= 64);
            let top = &levels[levels.len() - 1];
            for level in levels {
                assert!(level.dir.starts_with(&top.dir) && level.dir.starts_with(below), "{level:?} is not below {top:?}");
                let steps = level.dir.strip_prefix(&top.dir).unwrap();
                assert!(steps.components().all(|step| matches!(step, std::path::Component::Normal(_))), "{level:?} leads upwards");
            }
        }
    }
    let rows = read_table(tcp).unwrap();
    assert!(rows.len() <= tcp.len() / 20);
    let part = read_table(&tcp[..somewhere(tcp)]).unwrap();
    assert!(part.len() <= rows.len() + 1);
    if let Some(stat) = parse_stat(stat) {
        assert!(!stat.state.is_ascii_whitespace());
    }
    let status = Status::parse(&String::from_utf8_lossy(stat));
    assert!(status.rss.is_none_or(|bytes| bytes.is_multiple_of(1024)));
}
