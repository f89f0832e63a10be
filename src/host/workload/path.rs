//! What the path of a cgroup says: which runtime made it, for which container, pod or unit. Pure.

use regex_lite::Regex;

use crate::host::cgroup;

/// A container as the path of a cgroup names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub id: String,
    /// Of Kubernetes.
    pub pod_uid: Option<String>,
    /// systemd's or LXC's: the id is what people call it.
    pub is_named: bool,
    /// What is inside it.
    pub below: &'a str,
}

/// The paths of a process's cgroups, each once, the one that tells most first: of a container, of what is more than a root, of the memory
/// controller, the unified one, systemd's own.
pub(super) fn of_process(text: &str) -> Vec<&str> {
    let rank = |controllers: &str| match controllers {
        "" => 1,
        "name=systemd" => 2,
        controllers if controllers.split(',').any(|c| c == "memory") => 0,
        _ => 3,
    };
    let listed = cgroup::memberships(text).map(|(controllers, path)| (path.strip_suffix(" (deleted)").unwrap_or(path), rank(controllers)));
    let mut paths: Vec<(&str, u8)> = listed.collect();
    paths.sort_by_key(|(path, rank)| (container_of(path).is_none(), *path == "/", *rank));
    let mut seen = Vec::new();
    for (path, _) in paths {
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
    seen
}

/// The innermost container of a path.
pub(super) fn container_of(path: &str) -> Option<Found<'_>> {
    let mut found = None;
    let mut end = 0;
    let mut pod_uid = None;
    for part in path.split('/') {
        end += part.len() + 1;
        pod_uid = pod_of(part).or(pod_uid);
        let named = machine(part).or_else(|| lxc(part, path));
        let is_named = named.is_some();
        if let Some(id) = named.or_else(|| digest_of(part)) {
            found = Some(Found { id, pod_uid: pod_uid.clone(), is_named, below: path.get(end..).unwrap_or_default() });
        }
    }
    found
}

/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-ID.scope`, `system.slice:cri-containerd:ID`, or the id alone. Not the
/// monitors that stand beside a container.
fn digest_of(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").or_else(|| part.strip_suffix(".service")).unwrap_or(part);
    let (prefix, id) = part.rfind(['-', ':']).and_then(|at| Some((part.get(..at)?, part.get(at + 1..)?))).unwrap_or(("", part));
    (is_digest(id) && !prefix.ends_with("conmon")).then(|| id.to_owned())
}

pub(super) fn is_digest(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `pod2f9e1b6c-77aa-…`, `kubepods-burstable-pod2f9e1b6c_77aa_….slice`; of static pods, 32 digits without dashes.
fn pod_of(part: &str) -> Option<String> {
    let part = part.split(':').next().unwrap_or(part);
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = part.get(part.rfind("pod")? + 3..)?.replace('_', "-");
    let is_uid = matches!(uid.len(), 32 | 36) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

/// `machine-shop.scope`, `systemd-nspawn@shop.service`.
fn machine(part: &str) -> Option<String> {
    let name = part.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"));
    let name = name.or_else(|| part.strip_prefix("systemd-nspawn@")?.strip_suffix(".service"))?;
    Some(unescaped(name)).filter(|name| !name.is_empty())
}

/// `lxc.payload.shop`, `/lxc/shop`.
fn lxc(part: &str, path: &str) -> Option<String> {
    let named = part.strip_prefix("lxc.payload.");
    let named = named.or_else(|| path.strip_prefix("/lxc/")?.split('/').next().filter(|name| *name == part));
    named.filter(|name| !name.is_empty()).map(str::to_owned)
}

/// systemd's `\x2d` for what may not stand in a unit's name.
fn unescaped(name: &str) -> String {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let escaped = rest.strip_prefix("\\x").and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        let width = match escaped {
            Some(byte) => {
                out.push(byte);
                4
            }
            None => {
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                c.len_utf8()
            }
        };
        rest = rest.get(width..).unwrap_or_default();
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The service whose cgroup it is, or that has made it. A user's whole session is none, and nor is a terminal's scope.
pub(super) fn unit_of(path: &str) -> Option<String> {
    let unit = path.split('/').rev().find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
    // systemd's underscore before names that would clash with the kernel's files
    let unit = unit.strip_prefix('_').unwrap_or(unit);
    (unit.ends_with(".service") && !unit.starts_with("user@")).then(|| unescaped(unit))
}

/// Without the suffix, and of a template without the instance: replicas are one workload.
pub(super) fn short_unit(unit: &str) -> String {
    let name = unit.strip_suffix(".service").unwrap_or(unit);
    name.split_once('@').map_or(name, |(template, _)| template).to_owned()
}

/// What Kubernetes draws the ends of generated names from: no vowels, and no digits that look like letters.
const GENERATED: &str = "bcdfghjklmnpqrstvwxz2456789";

/// The Deployment, StatefulSet, DaemonSet or Job that a pod is of, by how Kubernetes makes up the names of pods. A pod of nobody keeps its name.
pub(super) fn owner_of_pod(pod: &str) -> &str {
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let generated = |text: &str| text.chars().all(|c| GENERATED.contains(c));
    // a StatefulSet counts its pods
    if digits(last) && last.len() <= 5 {
        return rest;
    }
    if last.len() != 5 || !generated(last) {
        return pod;
    }
    match rest.rsplit_once('-') {
        // the hash of a ReplicaSet's template, or the minute that a CronJob's Job is of
        Some((owner, hash)) if (6..=10).contains(&hash.len()) && (generated(hash) || digits(hash)) => owner,
        _ => rest,
    }
}

/// A cgroup's path or a glob of it: `*` and `?` stay within a component, `**` does not. What lies below is meant too. The mount point
/// may stand in front.
pub(crate) fn below_glob(glob: &str) -> Result<Regex, regex_lite::Error> {
    let glob = glob.trim_end_matches('/');
    let path = glob.strip_prefix("/sys/fs/cgroup").unwrap_or(glob);
    let path =
        path.strip_prefix("/unified").or_else(|| path.strip_prefix("/memory")).or_else(|| path.strip_prefix("/systemd")).unwrap_or(path);
    let mut pattern = String::from("^");
    if !path.starts_with('/') {
        pattern.push_str("(?:.*/)?");
    }
    let mut rest = path;
    while let Some(c) = rest.chars().next() {
        let (matched, width) = match c {
            '*' if rest.starts_with("**") => (".*", 2),
            '*' => ("[^/]*", 1),
            '?' => ("[^/]", 1),
            c => {
                pattern.push_str(&regex_lite::escape(c.encode_utf8(&mut [0; 4])));
                ("", c.len_utf8())
            }
        };
        pattern.push_str(matched);
        rest = rest.get(width..).unwrap_or_default();
    }
    pattern.push_str("(?:/.*)?$");
    Regex::new(&pattern)
}
