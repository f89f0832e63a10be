//! Who else could change a directory that memtrap trusts.
//!
//! The directory belongs to root or to memtrap's user, nobody else may write in it (its group may if it is memtrap's own or root's; anybody may in
//! a sticky one like /tmp, where that is enough), and every link that leads to it belongs to root or memtrap's user. A directory above that
//! others may write is a doubt and no refusal: they could move everything away, and put nothing in its place that would be taken.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

use super::Dir;

const ROOT: u32 = 0;
const STICKY: u32 = 0o1000;
/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// As whom a directory is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// Who runs this.
    pub fn own() -> User {
        User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    pub fn is_or_root(self, uid: u32) -> bool {
        uid == self.uid || uid == ROOT
    }
}

/// What of a directory is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    /// An access list may let others in, as far as the mode of the group goes.
    pub has_list: bool,
}

impl Owned {
    pub fn of(dir: &Dir) -> io::Result<Owned> {
        let stat = dir.stat()?;
        let has_list = dir.readable().is_ok_and(|dir| rustix::fs::fgetxattr_query(&dir, "system.posix_acl_access").is_ok());
        Ok(Owned { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, has_list })
    }
}

/// How the judgement on a directory came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Why it is not to be used, and what to do.
    pub refusal: Option<String>,
    /// It is `user`'s own and its mode lets others write, which its owner can mend.
    pub is_loose: bool,
    /// What someone could do elsewhere.
    pub doubts: Vec<String>,
}

/// Judges a directory and the way to it; what is not there yet, by the way alone. With `sticky`, one like /tmp will do.
pub(crate) fn judge(path: &Path, user: User, sticky: bool) -> io::Result<Judged> {
    let mut judged = Judged::default();
    let path = std::path::absolute(path)?;
    let Some(at) = follow(&path, user, &mut judged)? else { return Ok(judged) };
    if judged.refusal.is_none() {
        let owned = Owned::of(&Dir::open(&at)?)?;
        judged.refusal = wrong(owned, user, sticky);
        judged.is_loose = judged.refusal.is_some() && owned.uid == user.uid;
    }
    Ok(judged)
}

/// Judges a directory that memtrap is about to use: one of its own is mended. Why it is not to be used, or what should be known.
pub(crate) fn settle(path: &Path, sticky: bool) -> io::Result<Result<Vec<String>, String>> {
    let mut judged = judge(path, User::own(), sticky)?;
    Ok(match judged.refusal {
        Some(why) if judged.is_loose => {
            tighten(path)?;
            judged.doubts.push(format!("of {}: {why}. It is memtrap's own, so that this is done now", path.display()));
            Ok(judged.doubts)
        }
        Some(why) => Err(why),
        None => Ok(judged.doubts),
    })
}

/// What [`settle`] would say, without doing anything. To root, who asks for memtrap's user, as it would be said to whoever owns it.
pub(crate) fn foresee(path: &Path, sticky: bool) -> io::Result<Result<Vec<String>, String>> {
    let (own, mut notes) = (User::own(), Vec::new());
    let mut user = own;
    if own.uid == ROOT
        && let Ok(owned) = Dir::open(path).and_then(|dir| Owned::of(&dir))
        && owned.uid != ROOT
    {
        user = User { uid: owned.uid, gid: owned.gid };
        notes.push(format!("{} belongs to user {}: a memtrap that runs as another one refuses it", path.display(), owned.uid));
    }
    let mut judged = judge(path, user, sticky)?;
    Ok(match judged.refusal {
        Some(why) if !judged.is_loose => Err(why),
        loose => {
            notes.extend(loose.map(|why| format!("of {}: {why}; memtrap does it at its start", path.display())));
            notes.append(&mut judged.doubts);
            Ok(notes)
        }
    })
}

/// Takes from others the right to write in a directory of one's own.
fn tighten(path: &Path) -> io::Result<()> {
    let dir = Dir::open(path)?;
    let mode = dir.stat()?.st_mode & 0o7777 & !0o022;
    dir.readable()?.set_permissions(Permissions::from_mode(mode))
}

/// What is wrong with this directory, and what to do.
pub(crate) fn wrong(dir: Owned, user: User, sticky: bool) -> Option<String> {
    let Owned { uid, gid, mode, has_list } = dir;
    if !user.is_or_root(uid) {
        return Some(format!(
            "it belongs to user {uid}, who could change what is in it: give it to user {} (chown), or name another",
            user.uid
        ));
    }
    let remedy = "take that away (chmod go-w), or name a directory below it, which memtrap makes for itself";
    if mode & 0o002 != 0 && !(sticky && mode & STICKY != 0) {
        return Some(format!("every user may write in it (mode {mode:04o}): {remedy}"));
    }
    if mode & 0o020 != 0 && gid != user.gid && gid != ROOT && !(sticky && mode & STICKY != 0) {
        return Some(format!("group {gid} may write in it (mode {mode:04o}): {remedy}"));
    }
    if mode & 0o020 != 0 && has_list {
        return Some("its access list lets others write in it: take that away (setfacl -b), or name another".into());
    }
    None
}

/// Walks to the directory part by part, as the kernel would. `None`: it is not there.
fn follow(path: &Path, user: User, judged: &mut Judged) -> io::Result<Option<PathBuf>> {
    let mut at = PathBuf::from("/");
    let mut todo: VecDeque<OsString> = names(path);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let found = match fs::symlink_metadata(&next) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?),
        };
        // what is not there yet will be the user's
        if let Some(who) = could_replace(&fs::symlink_metadata(&at)?, found.as_ref().map_or(user.uid, MetadataExt::uid), user) {
            judged.doubts.push(format!("{who} could move {} away: {} lets them", next.display(), at.display()));
        }
        let Some(found) = found else { return Ok(None) };
        if !found.is_symlink() {
            at = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Errno::LOOP.into());
        }
        if !user.is_or_root(found.uid()) {
            let (link, uid) = (next.display(), found.uid());
            judged.refusal = Some(format!(
                "{link} on the way to it is a link of user {uid}, who could lead it elsewhere: remove the link, or name another"
            ));
        }
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        let mut ahead = names(&target);
        ahead.append(&mut todo);
        todo = ahead;
    }
    Ok(Some(at))
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// Who, besides root and the user, could give what is in a directory another name.
fn could_replace(above: &fs::Metadata, owner: u32, user: User) -> Option<String> {
    if !user.is_or_root(above.uid()) {
        return Some(format!("user {}", above.uid()));
    }
    // in a sticky directory only the owner may
    if above.mode() & STICKY != 0 {
        return (!user.is_or_root(owner)).then(|| format!("user {owner}"));
    }
    if above.mode() & 0o002 != 0 {
        return Some("every user".into());
    }
    (above.mode() & 0o020 != 0 && above.gid() != user.gid && above.gid() != ROOT).then(|| format!("group {}", above.gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const MEMTRAP: User = User { uid: 998, gid: 997 };

    fn owned(uid: u32, gid: u32, mode: u32) -> Owned {
        Owned { uid, gid, mode, has_list: false }
    }

    #[test]
    fn a_directory_that_another_user_owns_or_may_write_is_refused() {
        let said = |dir, sticky| wrong(dir, MEMTRAP, sticky);
        for good in [owned(998, 997, 0o700), owned(0, 0, 0o755), owned(998, 997, 0o770), owned(998, 0, 0o770), owned(998, 50, 0o750)] {
            assert_eq!(said(good, false), None, "{good:?}");
        }
        for (bad, why) in [
            (owned(1000, 997, 0o700), "user 1000"),
            (owned(0, 0, 0o777), "every user"),
            (owned(998, 997, 0o702), "every user"),
            (owned(998, 50, 0o770), "group 50"),
            (Owned { has_list: true, ..owned(998, 997, 0o770) }, "access list"),
        ] {
            assert!(said(bad, false).is_some_and(|said| said.contains(why)), "{bad:?}");
        }
        let like_tmp = owned(0, 0, 0o1777);
        assert!(said(like_tmp, true).is_none() && said(like_tmp, false).is_some(), "names that anybody may take first");
    }

    #[test]
    fn one_of_ones_own_is_mended_and_one_of_anothers_is_not() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("state");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o2777)).unwrap();
        let judged = judge(&dir, User::own(), false).unwrap();
        assert!(judged.is_loose && judged.refusal.is_some_and(|why| why.contains("2777")));
        tighten(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o2755);
        assert_eq!(judge(&dir, User::own(), false).unwrap(), Judged::default());
        let stranger = User { uid: User::own().uid + 1, gid: User::own().gid };
        if User::own().uid != ROOT {
            let judged = judge(&dir, stranger, false).unwrap();
            assert!(judged.refusal.is_some() && !judged.is_loose);
        }
        assert_eq!(judge(&home.path().join("not/there"), User::own(), false).unwrap().refusal, None);
    }

    #[test]
    fn links_on_the_way_are_walked_over_and_a_circle_ends() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("real")).unwrap();
        symlink("real", at("one")).unwrap();
        symlink(at("one"), at("two")).unwrap();
        symlink("circle", at("circle")).unwrap();
        let mut judged = Judged::default();
        let real = at("real").canonicalize().unwrap();
        assert_eq!(follow(&at("two"), User::own(), &mut judged).unwrap(), Some(real));
        assert_eq!(judged, Judged::default());
        assert!(judge(&at("circle"), User::own(), false).is_err());
        fs::set_permissions(home.path(), Permissions::from_mode(0o777)).unwrap();
        let judged = judge(&at("two"), User::own(), false).unwrap();
        assert!(judged.refusal.is_none() && judged.doubts.iter().any(|doubt| doubt.starts_with("every user could move")), "{judged:?}");
        assert_eq!(judge(&at("not/there"), User::own(), false).unwrap().doubts.len(), 1, "nor what is still to be made");
    }
}
