//! What the runtimes of this host keep of their containers, each in its own place and form.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::path::{Found, is_digest};
use super::{Container, MAX_NAME};
use crate::host::proc::{SMALL, read_path};
use crate::host::{ProcDir, ProcFs};
use crate::text::one_line;

/// A container's specification with all its mounts and rules.
const MAX_SPEC: usize = 4 << 20;
/// Namespaces of containerd, and other folders that have to be listed.
const MAX_ENTRIES: usize = 64;
/// The logs of a node's containers.
const MAX_LOGS: usize = 4_096;
/// Where containerd keeps the bundles of its tasks, each below its namespace.
const TASKS: [&str; 2] = ["run/containerd/io.containerd.runtime.v2.task", "run/docker/containerd/daemon/io.containerd.runtime.v2.task"];
/// Where CRI-O and podman keep theirs.
const STORAGE: [&str; 2] = ["run/containers/storage/overlay-containers", "var/lib/containers/storage/overlay-containers"];

/// A container that its runtime lets people name, so that nothing in the path says what it is: `/default/shop` of `ctr`, `/shop` of `runc`.
pub(super) fn by_plain_name<'a>(procfs: &ProcFs, path: &'a str) -> Option<Found<'a>> {
    let root = procfs.fs_root();
    let found = |id: &str, below| Some(Found { id: id.to_owned(), pod_uid: None, is_named: true, below });
    let mut parts = path.split('/').filter(|part| is_plain(part));
    let (first, second) = (parts.next()?, parts.next());
    if let Some(id) = second
        && TASKS.iter().any(|tasks| root.join(tasks).join(first).join(id).is_dir())
    {
        return found(id, path.splitn(4, '/').nth(3).unwrap_or_default());
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    let is_state = |id: &str| ["run/runc", "run/crun"].iter().any(|state| root.join(state).join(id).is_dir());
    // with systemd's driver the scope has the runtime's name in front
    let scoped = last.strip_suffix(".scope").and_then(|scope| scope.split_once('-')).map(|(_, id)| id);
    [Some(last), scoped].into_iter().flatten().find(|id| is_plain(id) && is_state(id)).and_then(|id| found(id, ""))
}

/// A component that leads nowhere else.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.len() <= MAX_NAME && !matches!(part, "." | "..") && !part.contains('\0')
}

/// Whatever is known of a container. `dir` is a process in it.
pub(super) fn gather(procfs: &ProcFs, dir: &ProcDir, found: &Found) -> Container {
    let root = procfs.fs_root();
    let mut container = Container { id: found.id.clone(), ..Container::default() };
    for spec in specs(root, &found.id) {
        container.read_annotations(&spec);
        if container.is_complete(found) {
            return container;
        }
    }
    container.read_docker(root);
    if container.name.is_none() {
        container.read_storage(root);
    }
    if let Some(uid) = &found.pod_uid {
        if container.name.is_none() || container.pod.is_none() {
            container.read_logs(root, uid);
        }
        if container.pod.is_none() {
            container.pod = own_hostname(procfs, dir);
        }
    }
    if found.is_named {
        container.name.get_or_insert_with(|| found.id.clone());
    }
    container
}

impl Container {
    fn is_complete(&self, found: &Found) -> bool {
        self.name.is_some() && (self.pod.is_some() || found.pod_uid.is_none() && self.image.is_some())
    }

    /// The annotations of containerd's CRI plugin, CRI-O, nerdctl and podman.
    fn read_annotations(&mut self, spec: &BTreeMap<String, String>) {
        let first = |keys: &[&str]| keys.iter().find_map(|key| spec.get(*key)).and_then(|value| plain(value));
        let set = |field: &mut Option<String>, keys: &[&str]| *field = field.take().or_else(|| first(keys));
        set(&mut self.name, &["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"]);
        set(&mut self.pod, &["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]);
        set(&mut self.namespace, &["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]);
        set(&mut self.image, &["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"]);
        let labels = spec.get("nerdctl/labels").map(String::as_str).unwrap_or_default();
        self.read_labels(&serde_json::from_str(labels).unwrap_or_default());
        self.read_labels(spec);
    }

    /// Of Compose.
    fn read_labels(&mut self, labels: &BTreeMap<String, String>) {
        let of = |key: &str| labels.get(&format!("com.docker.compose.{key}")).and_then(|value| plain(value));
        if let Some((project, service)) = of("project").zip(of("service")) {
            self.replica_of = Some(format!("{project}/{service}"));
        }
    }

    /// `/var/lib/docker/containers/ID/config.v2.json`
    fn read_docker(&mut self, root: &Path) {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Docker {
            name: Option<String>,
            config: DockerConfig,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct DockerConfig {
            image: Option<String>,
            labels: Option<BTreeMap<String, String>>,
        }
        if !is_digest(&self.id) {
            return;
        }
        let path = root.join("var/lib/docker/containers").join(&self.id).join("config.v2.json");
        let Some(docker) = json::<Docker>(&path) else { return };
        self.name = self.name.take().or_else(|| plain(docker.name?.trim_start_matches('/')));
        self.image = self.image.take().or_else(|| plain(&docker.config.image?));
        self.read_labels(&docker.config.labels.unwrap_or_default());
    }

    /// The list that podman and CRI-O keep of all containers.
    fn read_storage(&mut self, root: &Path) {
        #[derive(Deserialize)]
        struct Stored {
            id: String,
            #[serde(default)]
            names: Vec<String>,
            #[serde(default)]
            metadata: String,
        }
        #[derive(Deserialize)]
        struct Metadata {
            #[serde(rename = "image-name")]
            image: Option<String>,
            name: Option<String>,
        }
        let lists =
            STORAGE.iter().flat_map(|storage| ["containers.json", "volatile-containers.json"].map(|list| root.join(storage).join(list)));
        let stored = lists.filter_map(|path| json::<Vec<Stored>>(&path)).flatten().find(|stored| stored.id == self.id);
        let Some(stored) = stored else { return };
        let metadata: Option<Metadata> = serde_json::from_str(&stored.metadata).ok();
        let (image, name) = metadata.map_or((None, None), |m| (m.image, m.name));
        self.image = self.image.take().or_else(|| plain(&image?));
        self.name = name.or_else(|| stored.names.first().cloned()).and_then(|name| plain(&name));
    }

    /// The kubelet's logs: `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log`, and `/var/log/pods/NAMESPACE_POD_UID/CONTAINER`.
    fn read_logs(&mut self, root: &Path, uid: &str) {
        let end = format!("-{}.log", self.id);
        let of_container = entries(&root.join("var/log/containers"), MAX_LOGS).find_map(|name| {
            let mut parts = name.strip_suffix(&end)?.split('_').map(plain);
            Some((parts.next()??, parts.next()??, parts.next()??))
        });
        if let Some((pod, namespace, name)) = of_container {
            (self.pod, self.namespace, self.name) = (Some(pod), Some(namespace), Some(name));
            return;
        }
        let end = format!("_{uid}");
        let pods = root.join("var/log/pods");
        let Some(folder) = entries(&pods, MAX_LOGS).find(|name| name.ends_with(&end)) else { return };
        let Some((namespace, pod)) = folder.strip_suffix(&end).and_then(|name| name.split_once('_')) else { return };
        (self.pod, self.namespace) = (plain(pod), plain(namespace));
        // of several, it is not said which it is
        let containers: Vec<String> = entries(&pods.join(&folder), 2).collect();
        if let (None, [only]) = (&self.name, containers.as_slice()) {
            self.name = plain(only);
        }
    }
}

/// The annotations of its specification, from every place where a runtime may keep one.
fn specs<'a>(root: &'a Path, id: &'a str) -> impl Iterator<Item = BTreeMap<String, String>> + 'a {
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let tasks = TASKS.iter().flat_map(move |tasks| {
        let tasks = root.join(tasks);
        entries(&tasks, MAX_ENTRIES).map(move |namespace| tasks.join(namespace).join(id).join("config.json")).collect::<Vec<_>>()
    });
    let storage = STORAGE.iter().map(move |storage| root.join(storage).join(id).join("userdata/config.json"));
    let own = storage.chain(std::iter::once(root.join("run/crun").join(id).join("config.json")));
    let specs = tasks.chain(own).filter_map(|path| json::<Spec>(&path)).map(|spec| spec.annotations);
    specs.chain(std::iter::once_with(move || state_labels(root, id)).flatten())
}

/// What runc keeps of a container: the annotations as `key=value`.
fn state_labels(root: &Path, id: &str) -> Option<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct State {
        config: Labelled,
    }
    #[derive(Deserialize)]
    struct Labelled {
        #[serde(default)]
        labels: Vec<String>,
    }
    let state: State = json(&root.join("run/runc").join(id).join("state.json"))?;
    Some(state.config.labels.iter().filter_map(|label| label.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

/// The name that a pod's containers see themselves under: the pod's own, unless it is on the host's network.
fn own_hostname(procfs: &ProcFs, dir: &ProcDir) -> Option<String> {
    let read = |path: &Path| Some(String::from_utf8_lossy(&read_path(path, SMALL).ok()?).trim().to_owned());
    let own = String::from_utf8_lossy(&dir.read("root/etc/hostname", SMALL).ok()?).trim().to_owned();
    plain(&own).filter(|own| read(&procfs.path("sys/kernel/hostname")).as_ref() != Some(own))
}

fn json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let bytes = read_path(path, MAX_SPEC).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn entries(dir: &Path, max: usize) -> impl Iterator<Item = String> + use<> {
    let listed = std::fs::read_dir(dir).into_iter().flatten().take(max);
    listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

/// A name that can be shown and stand in a path; nothing else is believed.
fn plain(name: &str) -> Option<String> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME && !name.contains(char::is_control);
    fits.then(|| one_line(name, MAX_NAME))
}
