//! Users of this host by name, from `/etc/passwd`: names that only a directory service knows are not found, numbers always are.

use std::io::Read;

use super::ProcFs;
use crate::config::User;
use crate::text::one_line;

const MAX_PASSWD: u64 = 16 << 20;

/// The number of a user, or why there is none. Blocks on the disk.
pub fn uid_of(procfs: &ProcFs, user: &User) -> Result<u32, String> {
    match user {
        User::Uid(uid) => Ok(*uid),
        User::Name(name) => find(procfs, |found, uid| (found == name).then_some(uid))
            .ok_or_else(|| format!("/etc/passwd knows no user {}: write the user's number", one_line(name, 80))),
    }
}

/// For people: `eve (1001)`, or the number alone.
pub fn shown(procfs: &ProcFs, uid: u32) -> String {
    shown_of(procfs, "etc/passwd", uid)
}

/// The same of a group.
pub fn shown_group(procfs: &ProcFs, gid: u32) -> String {
    shown_of(procfs, "etc/group", gid)
}

fn shown_of(procfs: &ProcFs, file: &str, number: u32) -> String {
    let name = find_in(procfs, file, |name, found| (found == number).then(|| one_line(name, 80)));
    name.map_or_else(|| number.to_string(), |name| format!("{name} ({number})"))
}

fn find<T>(procfs: &ProcFs, wanted: impl Fn(&str, u32) -> Option<T>) -> Option<T> {
    find_in(procfs, "etc/passwd", wanted)
}

/// In both files the number follows the name and a password.
fn find_in<T>(procfs: &ProcFs, file: &str, wanted: impl Fn(&str, u32) -> Option<T>) -> Option<T> {
    let mut text = Vec::new();
    std::fs::File::open(procfs.fs_root().join(file)).ok()?.take(MAX_PASSWD).read_to_end(&mut text).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        wanted(fields.next()?, fields.nth(1)?.parse().ok()?)
    })
}
