//! What a process belongs to, as people call it: its container and pod, its systemd unit, or the program itself.
//!
//! Only this host's own files tell it: the cgroup's path, what the container runtimes keep of their containers, the kubelet's logs. No API
//! server is asked, and nothing here needs a right that the runtimes' files do not. Blocks on the disk.

mod names;
mod path;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use path::below_glob;

use super::proc::SMALL;
use super::{ProcDir, ProcFs, buildinfo};
use crate::text::one_line;

/// No name of Kubernetes, systemd or a runtime is longer.
const MAX_NAME: usize = 253;

/// What a process belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// What it shares with the replicas of the same service, and with what follows it after a restart: `shop/checkout/app` of a pod, the
    /// container's name, the unit without `.service`, or the main package's name.
    pub name: String,
    pub container: Option<Container>,
    /// `checkout.service`
    pub unit: Option<String>,
    /// The file name of the executable.
    pub program: Option<String>,
    /// The main package's import path, where the program is written in Go.
    pub go_package: Option<String>,
    pub is_go: bool,
    /// The paths of its cgroups, each once; what the others tell is by the first.
    pub cgroups: Vec<String>,
}

/// A container as its runtime names it. What nobody on this host says is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hexadecimal digits, where the runtime does not use the name.
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<String>,
    /// Of which a container is a replica, where its runtime says so: project and service of Compose.
    #[serde(skip)]
    pub replica_of: Option<String>,
}

impl Container {
    /// `shop/checkout-7d9f8b6c5d-x2x9z/app`, as far as it is known.
    pub fn path(&self) -> String {
        let short = self.id.get(..12).filter(|_| path::is_digest(&self.id)).unwrap_or(&self.id);
        let parts = [self.namespace.as_deref(), self.pod.as_deref(), Some(self.name.as_deref().unwrap_or(short))];
        parts.into_iter().flatten().collect::<Vec<_>>().join("/")
    }

    /// The same without what differs between replicas.
    fn workload(&self) -> String {
        if let Some(service) = &self.replica_of {
            return service.clone();
        }
        let owner = self.pod.as_deref().map(path::owner_of_pod);
        let Container { name, namespace, .. } = self;
        let name = name.as_deref().filter(|name| Some(*name) != owner);
        match (owner, name) {
            (None, None) => self.path(),
            _ => [namespace.as_deref(), owner, name].into_iter().flatten().collect::<Vec<_>>().join("/"),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        [Some(&self.id), self.name.as_ref(), self.pod.as_ref(), self.namespace.as_ref()].into_iter().flatten().map(String::as_str)
    }
}

impl Workload {
    /// What this process belongs to; `exe` is what it runs, if that may be seen.
    pub(crate) fn of(procfs: &ProcFs, dir: &ProcDir, exe: Option<&Path>, go: Option<&Go>) -> Workload {
        let text = String::from_utf8_lossy(&dir.read("cgroup", SMALL).unwrap_or_default()).into_owned();
        let cgroups: Vec<String> = path::of_process(&text).into_iter().map(str::to_owned).collect();
        let cgroup = cgroups.first().cloned().unwrap_or_default();
        let found = path::container_of(&cgroup).or_else(|| names::by_plain_name(procfs, &cgroup));
        let container = found.as_ref().map(|found| names::gather(procfs, dir, found));
        let unit = path::unit_of(found.as_ref().map_or(&*cgroup, |found| found.below));
        let program = exe.and_then(Path::file_name).map(|name| one_line(&name.to_string_lossy(), MAX_NAME));
        let go_package = go.and_then(|go| go.package.clone());
        let own = || go_package.as_deref().and_then(last_element).or(program.as_deref()).map(str::to_owned);
        let name = match (&container, unit.as_deref()) {
            (None, unit) => unit.map(path::short_unit).or_else(own),
            (Some(container), None) => Some(container.workload()),
            (Some(container), Some(unit)) => Some(format!("{}/{}", container.workload(), path::short_unit(unit))),
        };
        let name = name.unwrap_or_else(|| format!("pid-{}", dir.pid()));
        Workload { name, container, unit, program, go_package, is_go: go.is_some(), cgroups }
    }

    /// The process among its replicas: with the pod's full name.
    pub fn of_instance(&self) -> String {
        match (&self.container, self.unit.as_deref()) {
            (Some(container), Some(unit)) => format!("{}/{}", container.path(), path::short_unit(unit)),
            (Some(container), None) => container.path(),
            (None, unit) => unit.map_or_else(|| self.name.clone(), |unit| unit.strip_suffix(".service").unwrap_or(unit).to_owned()),
        }
    }

    /// Tells apart what may inherit a cooldown: another program in the same container or unit does not.
    pub fn key(&self) -> Box<str> {
        let program = self.program.as_deref().filter(|program| *program != self.name);
        program.map_or_else(|| self.name.clone(), |program| format!("{} {program}", self.name)).into()
    }

    /// Everything that it is called by.
    fn names(&self) -> impl Iterator<Item = &str> {
        let own = [Some(&self.name), self.unit.as_ref(), self.program.as_ref(), self.go_package.as_ref()];
        own.into_iter().flatten().map(String::as_str).chain(self.container.iter().flat_map(Container::names))
    }

    /// Whether any of its names fits, or the path of its container or cgroup.
    pub(crate) fn is_called(&self, pattern: &regex_lite::Regex) -> bool {
        self.names().any(|name| pattern.is_match(name)) || self.is_in_container(pattern) || self.is_in_cgroup(pattern)
    }

    /// Whether the path of any of its cgroups does: with version 1, each controller may have its own.
    pub(crate) fn is_in_cgroup(&self, pattern: &regex_lite::Regex) -> bool {
        self.cgroups.iter().any(|path| pattern.is_match(path))
    }

    /// Whether the container's name fits, its pod's, `namespace/pod/container`, or its id.
    pub(crate) fn is_in_container(&self, pattern: &regex_lite::Regex) -> bool {
        let Some(container) = &self.container else { return false };
        let names = [Some(&container.id), container.name.as_ref(), container.pod.as_ref()];
        names.into_iter().flatten().any(|name| pattern.is_match(name)) || pattern.is_match(&container.path())
    }
}

/// The name of a workload as a part of a file's name.
pub fn file_safe(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '.' };
    let name: String = name.chars().take(80).map(plain).collect();
    name.trim_matches('.').to_owned()
}

/// A program written in Go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Go {
    /// The main package's import path.
    package: Option<String>,
}

/// Which programs are written in Go, by the file itself: replicas run the same one.
#[derive(Debug, Default)]
pub(crate) struct Programs {
    known: std::collections::HashMap<FileId, Option<Go>>,
}

/// Device, inode, and what changes when another program is written there.
type FileId = (u64, u64, i64, i64, u64);

/// Of programs that are remembered.
const MAX_PROGRAMS: usize = 4_096;

impl Programs {
    /// `Err`: the file may not be opened, or does not answer.
    pub fn go(&mut self, dir: &ProcDir) -> Result<Option<Go>, super::ProcError> {
        let file = dir.open("exe")?;
        let Ok(meta) = file.metadata() else { return Ok(None) };
        let id = (meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.size());
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        let go = match buildinfo::read(&file) {
            Ok(info) => Some(Go { package: info.path.filter(|path| path != "command-line-arguments") }),
            // it is recognised, and too old to say more
            Err(buildinfo::BuildInfoError::OldFormat) => Some(Go::default()),
            Err(_) => None,
        };
        if self.known.len() >= MAX_PROGRAMS {
            self.known.clear();
        }
        self.known.insert(id, go.clone());
        Ok(go)
    }
}

/// Of an import path, without a major version: `checkout` of `example.org/shop/checkout/v2`.
fn last_element(package: &str) -> Option<&str> {
    let is_version = |part: &str| part.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    package.rsplit('/').find(|part| !is_version(part)).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests;
