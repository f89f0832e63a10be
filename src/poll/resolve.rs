//! Selectors to instances: one pass over /proc for all of them, which reads of each process only what some selector asks for.
//!
//! `listen` searches memtrap's own network namespace only. The same address exists in every container, so a process in another
//! namespace is better selected by its unit, executable, name or container.
//!
//! Selectors that mean many services (`go`, `container`, `cgroup`) tell with each process what it belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use regex_lite::Regex;

use crate::clock::Mono;
use crate::config::{Process, Selector};
use crate::error::chain;
use crate::host::proc::{SMALL, is_dead, is_kernel_thread, read_path};
use crate::host::workload::{Go, Programs, Workload, below_glob};
use crate::host::{ProcDir, ProcError, ProcFs, cgroup, obstacle, sight, sockets, users};
use crate::identity::InstanceId;

/// The kernel keeps 15 bytes of a command name.
const COMM_LEN: usize = 15;
/// Longer than any pid with its line end.
const MAX_PID_FILE: usize = 64;
/// A process this long seen has become what it will be: shells and supervisors fork first, then `exec`.
const SETTLES: Duration = Duration::from_secs(20);

/// What a selector means at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Sorted, without zombies and kernel threads.
    pub instances: Vec<InstanceId>,
    /// What each belongs to, where the selector means many services.
    pub workloads: BTreeMap<InstanceId, Arc<Workload>>,
    /// Why there is none, or why some may be missing.
    pub problem: Option<String>,
}

impl Resolution {
    fn none(problem: String) -> Resolution {
        Resolution { problem: Some(problem), ..Resolution::default() }
    }
}

/// What earlier passes have found out. It holds for the selectors of one configuration.
///
/// Most processes stay what they are, and to look into a thousand of them costs more than to poll them. So a pass looks into those
/// only that are new, and once in a while into all: a process may become another by `exec`.
#[derive(Debug, Default)]
pub struct Known {
    /// When each process was first seen; by pid.
    since: Vec<(u32, Mono)>,
    /// By selector.
    told: Vec<Told>,
    /// The last pass that looked into all.
    whole: Option<Mono>,
    /// What the processes of that pass belong to, as far as a selector asked.
    workloads: BTreeMap<InstanceId, Arc<Workload>>,
    programs: Programs,
}

#[derive(Debug)]
struct Told {
    found: Vec<InstanceId>,
    closed: Vec<(u32, bool)>,
}

impl Known {
    /// Look into this process again: it has ended, or could not be taken up.
    pub fn forget(&mut self, pid: u32) {
        if let Ok(i) = self.since.binary_search_by_key(&pid, |(pid, _)| *pid) {
            self.since.remove(i);
        }
    }

    fn since(&self, pid: u32) -> Option<Mono> {
        self.since.binary_search_by_key(&pid, |(pid, _)| *pid).ok().and_then(|i| self.since.get(i)).map(|(_, since)| *since)
    }
}

/// One resolution for each of `processes`, in their order.
pub fn all(procfs: &ProcFs, processes: &[&Process]) -> Vec<Resolution> {
    all_since(procfs, processes, &mut Known::default(), Duration::ZERO, Mono::default())
}

/// The same in a pass that takes what is known as given, unless it is time to look into all processes again.
pub fn all_since(procfs: &ProcFs, processes: &[&Process], known: &mut Known, whole_every: Duration, now: Mono) -> Vec<Resolution> {
    let mut searches: Vec<Search> = processes.iter().map(|process| Search::new(procfs, process)).collect();
    if searches.iter().any(Search::is_open) {
        match procfs.pids() {
            Ok(pids) => scan(procfs, pids, &mut searches, known, whole_every, now),
            Err(e) => {
                let problem = chain(&e);
                searches.iter_mut().filter(|s| s.is_open()).for_each(|s| s.want = Want::Known(Resolution::none(problem.clone())));
            }
        }
    }
    let mut hidden = None;
    let workloads = &known.workloads;
    let finish = |(search, process): (Search, &&Process)| {
        let found = behind(procfs, of_user(procfs, search.finish(workloads), process), &process.which);
        why_unseen(procfs, found, &mut hidden)
    };
    searches.into_iter().zip(processes).map(finish).collect()
}

/// Who only holds an address for a container is not who is meant.
fn behind(procfs: &ProcFs, found: Resolution, selector: &Selector) -> Resolution {
    match (selector, &found.instances[..]) {
        (Selector::Listen(addr), instances) if !instances.is_empty() => {
            let forwards: Vec<Option<String>> = instances.iter().map(|id| sight::forwarder(procfs, id.pid)).collect();
            if forwards.iter().all(Option::is_some) {
                return Resolution::none(format!("listen {addr}: {}", forwards.into_iter().flatten().collect::<Vec<_>>().join("; ")));
            }
            let instances = instances.iter().zip(&forwards).filter(|(_, forwards)| forwards.is_none()).map(|(id, _)| *id).collect();
            Resolution { instances, ..found }
        }
        (Selector::PidFile(path), [id]) => match sight::pid_file(procfs, path, *id) {
            sight::Named::Plausible => found,
            sight::Named::Doubtful(why) => Resolution { problem: Some(why), ..found },
            sight::Named::Wrong(why) => Resolution::none(why),
        },
        _ => found,
    }
}

/// Where none is found, it may be that none can be seen; that is looked at once for all.
fn why_unseen(procfs: &ProcFs, found: Resolution, hidden: &mut Option<Option<String>>) -> Resolution {
    match (&found.instances[..], &found.problem) {
        ([], Some(problem)) => match hidden.get_or_insert_with(|| sight::hidden(procfs)) {
            Some(why) => Resolution::none(format!("{problem}; {why}")),
            None => found,
        },
        _ => found,
    }
}

/// Leaves out the processes of other users. It is looked at each time: a service changes its user soon after its start.
fn of_user(procfs: &ProcFs, mut found: Resolution, process: &Process) -> Resolution {
    let Some(user) = process.user.as_ref().filter(|_| !found.instances.is_empty()) else { return found };
    let uid = match users::uid_of(procfs, user) {
        Ok(uid) => uid,
        Err(why) => return Resolution::none(format!("user: {why}")),
    };
    let count = found.instances.len();
    let status = |id: &InstanceId| procfs.dir(id.pid).and_then(|dir| dir.status());
    found.instances.retain(|id| status(id).is_ok_and(|status| status.uids == Some([uid; 3])));
    if found.instances.is_empty() {
        let processes = if count == 1 { "the process that fits does" } else { "the processes that fit do" };
        return Resolution::none(format!("{processes} not run as user {}", users::shown(procfs, uid)));
    }
    found
}

fn scan(procfs: &ProcFs, pids: impl Iterator<Item = u32>, searches: &mut [Search], known: &mut Known, whole_every: Duration, now: Mono) {
    let own_pid = procfs.own_pid();
    let is_whole = known.told.len() != searches.len() || known.whole.is_none_or(|at| now.since(at) >= whole_every);
    let mut pids: Vec<(u32, Mono)> = pids.map(|pid| (pid, known.since(pid).unwrap_or(now))).collect();
    pids.sort_unstable();
    for (pid, since) in &pids {
        let is_settled = !is_whole && now.since(*since) >= SETTLES;
        if is_settled {
            searches.iter_mut().zip(&known.told).for_each(|(search, told)| search.take_over(told, *pid));
        }
        let asks = |search: &Search| search.is_open() && !(is_settled && search.takes_over());
        if !searches.iter().any(asks) {
            continue;
        }
        let Ok(dir) = procfs.dir(*pid) else { continue };
        // what a young process belongs to may not be written down yet
        let is_young = now.since(*since) < SETTLES;
        let mut facts = Facts::new(procfs, &dir, own_pid == Some(*pid), &mut known.programs);
        facts.workload = facts.instance().filter(|_| !is_young).and_then(|id| known.workloads.get(&id).cloned());
        for search in searches.iter_mut().filter(|search| asks(search)) {
            match search.want.matches(&mut facts) {
                Match::Yes => search.found.extend(facts.instance()),
                Match::No => {}
                Match::Closed { likely } => search.closed.push((*pid, likely)),
            }
        }
        if let Some((id, workload)) = facts.instance().zip(facts.workload) {
            known.workloads.insert(id, workload);
        }
    }
    known.workloads.retain(|id, _| pids.binary_search_by_key(&id.pid, |(pid, _)| *pid).is_ok());
    known.since = pids;
    known.told = searches.iter().map(|search| Told { found: search.found.clone(), closed: search.closed.clone() }).collect();
    if is_whole {
        known.whole = Some(now);
    }
}

/// One selector during the pass.
struct Search<'a> {
    selector: &'a Selector,
    want: Want<'a>,
    found: Vec<InstanceId>,
    /// Processes that may not be looked into, and whether they go by the right name.
    closed: Vec<(u32, bool)>,
}

enum Want<'a> {
    /// Needs no pass.
    Known(Resolution),
    Name(&'a [u8]),
    Exe {
        written: &'a Path,
        real: PathBuf,
    },
    Cmdline(Regex),
    Unit(String),
    Sockets(BTreeSet<u64>),
    Workloads(Pick),
}

/// Many services at once.
struct Pick {
    of: PickOf,
    exclude: Vec<Regex>,
}

enum PickOf {
    Go,
    Container(Regex),
    Cgroup(Regex),
}

enum Match {
    Yes,
    No,
    /// No permission to tell; `likely` if the command name fits.
    Closed {
        likely: bool,
    },
}

impl<'a> Search<'a> {
    fn new(procfs: &ProcFs, Process { which: selector, exclude, .. }: &'a Process) -> Search<'a> {
        let want = match selector {
            Selector::Pid(pid) => Want::Known(by_pid(procfs, *pid, &format!("process {pid}"))),
            Selector::PidFile(path) => Want::Known(by_pid_file(procfs, path)),
            Selector::Name(name) => Want::Name(name.as_bytes()),
            Selector::Exe(path) => Want::Exe { written: path, real: std::fs::canonicalize(path).unwrap_or_else(|_| path.clone()) },
            Selector::Cmdline(pattern) => match Regex::new(pattern) {
                Ok(regex) => Want::Cmdline(regex),
                Err(e) => Want::Known(Resolution::none(format!("cmdline `{pattern}` is no regular expression: {e}"))),
            },
            Selector::Unit(unit) => Want::Unit(cgroup::full_unit_name(unit)),
            Selector::Listen(addr) => match sockets::serving(procfs, *addr) {
                Ok(inodes) if inodes.is_empty() => Want::Known(Resolution::none(format!(
                    "nobody listens on {addr} in memtrap's network namespace (a process in a container is found by unit, exe or name)"
                ))),
                Ok(inodes) => Want::Sockets(inodes),
                Err(e) => Want::Known(Resolution::none(chain(&e))),
            },
            Selector::Go | Selector::Container(_) | Selector::Cgroup(_) => match Pick::new(selector, exclude) {
                Ok(pick) => Want::Workloads(pick),
                Err(e) => Want::Known(Resolution::none(format!("no regular expression: {e}"))),
            },
        };
        Search { selector, want, found: Vec::new(), closed: Vec::new() }
    }

    fn is_open(&self) -> bool {
        !matches!(self.want, Want::Known(_))
    }

    /// Whether what was found before can stand. A socket may be opened at any time.
    fn takes_over(&self) -> bool {
        !matches!(self.want, Want::Sockets(_))
    }

    fn take_over(&mut self, told: &Told, pid: u32) {
        if self.is_open() && self.takes_over() {
            // both are in the order of the pass, which is that of the pids
            self.found.extend(told.found.binary_search_by_key(&pid, |id| id.pid).ok().and_then(|i| told.found.get(i)));
            self.closed.extend(told.closed.binary_search_by_key(&pid, |(pid, _)| *pid).ok().and_then(|i| told.closed.get(i)));
        }
    }

    fn finish(mut self, known: &BTreeMap<InstanceId, Arc<Workload>>) -> Resolution {
        if let Want::Known(resolution) = self.want {
            return resolution;
        }
        self.found.sort_unstable();
        if matches!(self.want, Want::Sockets(_)) {
            drop_socket_activator(&mut self.found);
        }
        let mut workloads = BTreeMap::new();
        if let Want::Workloads(pick) = &self.want {
            workloads = self.found.iter().filter_map(|id| Some((*id, known.get(id)?.clone()))).collect();
            pick.keep_services(&mut self.found, &mut workloads);
        }
        let problem = if self.found.is_empty() { Some(self.nobody()) } else { self.incomplete() };
        Resolution { instances: self.found, workloads, problem }
    }

    fn nobody(&self) -> String {
        let what = match (&self.want, self.selector) {
            (Want::Unit(unit), _) => format!("no process is in the unit {unit}"),
            (_, Selector::Name(name)) => format!("no process is called {name}"),
            (_, Selector::Exe(path)) => format!("no process runs {}", path.display()),
            (_, Selector::Cmdline(pattern)) => format!("no process has arguments that match `{pattern}`"),
            (_, Selector::Go) => "no process runs a program written in Go".to_owned(),
            (_, Selector::Container(pattern)) => format!("no process is in a container whose name, pod, path or id matches `{pattern}`"),
            (_, Selector::Cgroup(path)) => format!("no process is in the cgroup {path} or below it"),
            (_, Selector::Listen(addr)) => format!("someone listens on {addr}, but no process is seen to hold that socket"),
            (_, selector) => format!("no process matches {selector:?}"),
        };
        if self.closed.is_empty() { what } else { format!("{what}; {}", no_permission(self.closed.len(), &self.want)) }
    }

    fn incomplete(&self) -> Option<String> {
        if let Want::Workloads(Pick { of: PickOf::Go, .. }) = self.want
            && !self.closed.is_empty()
        {
            return Some(format!("some may be missing: {}", no_permission(self.closed.len(), &self.want)));
        }
        let likely = self.closed.iter().filter(|(_, likely)| *likely).count();
        (likely > 0).then(|| format!("some may be missing: {}", no_permission(likely, &self.want)))
    }
}

fn no_permission(count: usize, want: &Want) -> String {
    let what = if matches!(want, Want::Sockets(_)) { "descriptors" } else { "executable" };
    let processes = if count == 1 { "process" } else { "processes" };
    let cure = obstacle::cure_of_denial(Path::new(if what == "descriptors" { "/proc/1/fd" } else { "/proc/1/exe" }));
    format!("no permission to see the {what} of {count} {processes}: {cure}")
}

impl Want<'_> {
    fn matches(&self, facts: &mut Facts) -> Match {
        let found = match self {
            Want::Known(_) => false,
            Want::Name(name) => return if facts.own { Match::No } else { facts.is_called(name) },
            Want::Exe { written, real } => match facts.exe() {
                Exe::Path(exe) => exe == written || exe == real,
                Exe::None => false,
                Exe::Closed => {
                    let name = written.file_name().unwrap_or_default().as_bytes();
                    return Match::Closed { likely: facts.comm() == shortened(name) };
                }
            },
            Want::Cmdline(regex) => !facts.own && facts.cmdline().is_some_and(|args| regex.is_match(args)),
            Want::Unit(unit) => facts.is_in_unit(unit),
            Want::Workloads(pick) => return pick.matches(facts),
            Want::Sockets(inodes) => match sockets::holds_any(facts.dir, inodes) {
                Ok(holds) => holds,
                Err(sockets::Closed) => return Match::Closed { likely: false },
            },
        };
        if found { Match::Yes } else { Match::No }
    }
}

impl Pick {
    fn new(selector: &Selector, exclude: &[String]) -> Result<Pick, regex_lite::Error> {
        let of = match selector {
            Selector::Container(pattern) => PickOf::Container(Regex::new(pattern)?),
            Selector::Cgroup(path) => PickOf::Cgroup(below_glob(path)?),
            _ => PickOf::Go,
        };
        Ok(Pick { of, exclude: exclude.iter().map(|pattern| Regex::new(pattern)).collect::<Result<_, _>>()? })
    }

    fn matches(&self, facts: &mut Facts) -> Match {
        // neither kernel threads nor the dead
        if facts.own || facts.instance().is_none() {
            return Match::No;
        }
        if matches!(self.of, PickOf::Go) && facts.workload.is_none() {
            match facts.go() {
                GoProgram::Yes(_) => {}
                GoProgram::No => return Match::No,
                GoProgram::Closed => return Match::Closed { likely: false },
            }
        }
        let workload = facts.workload();
        let fits = match &self.of {
            PickOf::Go => workload.is_go,
            PickOf::Container(pattern) => workload.is_in_container(pattern),
            PickOf::Cgroup(pattern) => workload.is_in_cgroup(pattern),
        };
        if fits && !self.exclude.iter().any(|pattern| workload.is_called(pattern)) { Match::Yes } else { Match::No }
    }

    /// Where a container or a cgroup has a Go program, the shells and helpers beside it are not meant.
    fn keep_services(&self, found: &mut Vec<InstanceId>, workloads: &mut BTreeMap<InstanceId, Arc<Workload>>) {
        let with_go: BTreeSet<Vec<String>> = workloads.values().filter(|w| w.is_go).map(|w| w.cgroups.clone()).collect();
        let is_helper = |w: &Workload| !w.is_go && with_go.contains(&w.cgroups);
        found.retain(|id| workloads.get(id).is_some_and(|workload| !is_helper(workload)));
        workloads.retain(|_, workload| !is_helper(workload));
    }
}

/// What the pass has read of one process so far.
struct Facts<'a> {
    procfs: &'a ProcFs,
    dir: &'a ProcDir,
    programs: &'a mut Programs,
    /// It is memtrap itself, which has its targets' names among its own arguments.
    own: bool,
    instance: Option<Option<InstanceId>>,
    comm: Option<Vec<u8>>,
    exe: Option<Exe>,
    cmdline: Option<Option<String>>,
    cgroup: Option<String>,
    go: Option<GoProgram>,
    workload: Option<Arc<Workload>>,
}

#[derive(Clone)]
enum GoProgram {
    Yes(Go),
    No,
    Closed,
}

enum Exe {
    Path(PathBuf),
    /// A kernel thread, or gone.
    None,
    Closed,
}

impl<'a> Facts<'a> {
    fn new(procfs: &'a ProcFs, dir: &'a ProcDir, own: bool, programs: &'a mut Programs) -> Facts<'a> {
        Facts { procfs, dir, programs, own, instance: None, comm: None, exe: None, cmdline: None, cgroup: None, go: None, workload: None }
    }

    fn go(&mut self) -> GoProgram {
        let read = |programs: &mut Programs| match programs.go(self.dir) {
            Ok(Some(go)) => GoProgram::Yes(go),
            Err(ProcError::Denied { .. }) => GoProgram::Closed,
            Ok(None) | Err(_) => GoProgram::No,
        };
        self.go.get_or_insert_with(|| read(self.programs)).clone()
    }

    fn workload(&mut self) -> Arc<Workload> {
        if let Some(known) = &self.workload {
            return known.clone();
        }
        let go = match self.go() {
            GoProgram::Yes(go) => Some(go),
            GoProgram::No | GoProgram::Closed => None,
        };
        let exe = match self.exe() {
            Exe::Path(path) => Some(path.clone()),
            Exe::None | Exe::Closed => None,
        };
        let workload = Arc::new(Workload::of(self.procfs, self.dir, exe.as_deref(), go.as_ref()));
        self.workload = Some(workload.clone());
        workload
    }

    /// `None` for what is never a target: zombies, kernel threads, and those that went away meanwhile.
    fn instance(&mut self) -> Option<InstanceId> {
        *self.instance.get_or_insert_with(|| {
            let stat = self.dir.stat().ok().filter(|stat| !is_dead(stat) && !is_kernel_thread(stat))?;
            Some(InstanceId { pid: self.dir.pid(), start_ticks: stat.starttime })
        })
    }

    fn comm(&mut self) -> &[u8] {
        self.comm.get_or_insert_with(|| self.dir.comm().unwrap_or_default())
    }

    fn exe(&mut self) -> &Exe {
        self.exe.get_or_insert_with(|| match self.dir.exe() {
            Ok(path) => Exe::Path(path),
            Err(ProcError::Denied { .. }) => Exe::Closed,
            Err(_) => Exe::None,
        })
    }

    /// The arguments joined by spaces.
    fn cmdline(&mut self) -> Option<&str> {
        let read = || Some(self.dir.cmdline().ok().filter(|args| !args.is_empty())?.join(" "));
        self.cmdline.get_or_insert_with(read).as_deref()
    }

    fn is_called(&mut self, name: &[u8]) -> Match {
        let comm_fits = self.comm() == shortened(name);
        if comm_fits && name.len() <= COMM_LEN {
            return Match::Yes;
        }
        let exe = match self.exe() {
            Exe::Path(path) => path.file_name().unwrap_or(OsStr::new("")).as_bytes(),
            Exe::None => return if comm_fits { Match::Yes } else { Match::No },
            // a short name that is not the command name would at best be that of a renamed process
            Exe::Closed => return if comm_fits { Match::Yes } else { Match::Closed { likely: false } },
        };
        // two long names may share their first 15 bytes; then the executable tells them apart
        let namesake = exe.starts_with(shortened(name)) && exe != name;
        if exe == name || (comm_fits && !namesake) { Match::Yes } else { Match::No }
    }

    fn is_in_unit(&mut self, unit: &str) -> bool {
        let read = || String::from_utf8_lossy(&self.dir.read("cgroup", SMALL).unwrap_or_default()).into_owned();
        let text = self.cgroup.get_or_insert_with(read);
        cgroup::memberships(text).any(|(_, path)| path.split('/').any(|part| cgroup::is_unit(part, unit)))
    }
}

fn shortened(name: &[u8]) -> &[u8] {
    name.get(..COMM_LEN).unwrap_or(name)
}

/// systemd keeps the sockets it has handed to a service; the service is meant.
fn drop_socket_activator(found: &mut Vec<InstanceId>) {
    if found.len() > 1 {
        found.retain(|id| id.pid != 1);
    }
}

fn by_pid(procfs: &ProcFs, pid: u32, who: &str) -> Resolution {
    let stat = procfs.dir(pid).and_then(|dir| dir.stat());
    match stat {
        Ok(stat) if is_dead(&stat) => Resolution::none(format!("{who} has exited and waits for its parent (a zombie)")),
        Ok(stat) if is_kernel_thread(&stat) => Resolution::none(format!("{who} is a kernel thread")),
        Ok(stat) => Resolution { instances: vec![InstanceId { pid, start_ticks: stat.starttime }], ..Resolution::default() },
        Err(ProcError::Gone { .. }) => Resolution::none(format!("{who} does not exist")),
        Err(e) => Resolution::none(chain(&e)),
    }
}

fn by_pid_file(procfs: &ProcFs, path: &Path) -> Resolution {
    let bytes = match read_path(path, MAX_PID_FILE + 1) {
        Ok(bytes) => bytes,
        Err(ProcError::Absent { .. }) => return Resolution::none(format!("the pid file {} does not exist", path.display())),
        Err(ProcError::Denied { cure, .. }) => {
            return Resolution::none(format!("no permission to read the pid file {}: {cure}", path.display()));
        }
        Err(e) => return Resolution::none(chain(&e)),
    };
    let number = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_PID_FILE).and_then(|text| text.trim().parse().ok());
    match number {
        Some(pid) => by_pid(procfs, pid, &format!("process {pid}, named by the pid file {},", path.display())),
        None => Resolution::none(format!("the pid file {} does not hold one process number", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::{FakeHost, Unprivileged, tcp_row, tcp_table};

    fn one(host: &FakeHost, selector: Selector) -> Resolution {
        all(&host.procfs(), &[&selector.into()]).remove(0)
    }

    fn pids(resolution: &Resolution) -> Vec<u32> {
        resolution.instances.iter().map(|id| id.pid).collect()
    }

    /// The selector finds exactly these and has nothing to say; or finds none and says this.
    fn check(host: &FakeHost, selector: Selector, expected: &[u32], problem: &str) {
        let found = one(host, selector.clone());
        assert_eq!(pids(&found), expected, "{selector:?}");
        assert_eq!(found.problem.is_some(), !problem.is_empty(), "{selector:?}: {found:?}");
        let said = found.problem.unwrap_or_default();
        assert!(said.contains(problem), "{selector:?}: {said}");
    }

    /// A host on which memtrap is process 5.
    fn host() -> FakeHost {
        let host = FakeHost::new();
        host.link("proc/self", "5").file("proc/uptime", "1 1");
        host.process(5, "memtrap").exe("/usr/bin/memtrap").cmdline(&["memtrap", "watch", "--name", "checkout"]).write();
        host.process(2, "kthreadd").kernel_thread().file("cmdline", "").write();
        host
    }

    #[test]
    fn a_name_is_the_command_name_or_the_file_name_of_the_executable() {
        let host = host();
        host.process(20, "checkout").exe("/opt/a").write();
        host.process(10, "renamed").exe("/opt/checkout (deleted)").write();
        host.process(30, "checkout2").exe("/opt/checkout2").write();
        host.process(40, "checkout").exe("/opt/checkout").state('Z').write();
        check(&host, Selector::Name("checkout".into()), &[10, 20], "");
        check(&host, Selector::Name("check".into()), &[], "no process is called check");
    }

    #[test]
    fn long_names_that_share_fifteen_bytes_are_told_apart_by_the_executable() {
        let host = host();
        host.process(10, "checkout-servic").exe("/opt/checkout-service-a").write();
        host.process(20, "checkout-servic").exe("/opt/checkout-service-b").write();
        host.process(30, "checkout-servic").exe("/usr/bin/launcher").write();
        check(&host, Selector::Name("checkout-service-a".into()), &[10, 30], "");
    }

    #[test]
    fn kernel_threads_and_memtrap_itself_are_never_found_by_name_or_arguments() {
        let host = host();
        check(&host, Selector::Name("kthreadd".into()), &[], "no process is called");
        check(&host, Selector::Name("memtrap".into()), &[], "no process is called");
        check(&host, Selector::Cmdline("checkout".into()), &[], "no process has arguments");
        check(&host, Selector::Cmdline("".into()), &[], "no process has arguments");
        check(&host, Selector::Pid(2), &[], "kernel thread");
    }

    #[test]
    fn arguments_are_matched_joined_by_spaces() {
        let host = host();
        host.process(10, "java").cmdline(&["/opt/app", "-role", "search"]).write();
        check(&host, Selector::Cmdline("^/opt/app .*-role search$".into()), &[10], "");
        check(&host, Selector::Cmdline("(".into()), &[], "no regular expression");
    }

    #[test]
    fn an_executable_is_found_under_its_real_path_even_after_an_upgrade() {
        let host = host();
        host.file("opt/app-1.2", "").link("usr/app", "../opt/app-1.2");
        let real = std::fs::canonicalize(host.root()).unwrap().join("opt/app-1.2");
        host.process(10, "app").exe(real.to_str().unwrap()).write();
        host.process(20, "app").exe(&format!("{} (deleted)", real.display())).write();
        check(&host, Selector::Exe(host.root().join("usr/app")), &[10, 20], "");
        check(&host, Selector::Exe(real), &[10, 20], "");
        check(&host, Selector::Exe("/opt/none".into()), &[], "no process runs /opt/none");
    }

    #[test]
    fn a_pass_looks_into_new_processes_only_and_once_in_a_while_into_all() {
        let host = host();
        host.process(10, "shop").exe("/opt/shop").write();
        host.process(30, "sh").exe("/bin/sh").write();
        let (selector, mut known) = (Selector::Exe("/opt/shop".into()).into(), Known::default());
        let mut at = |seconds| {
            let found = all_since(&host.procfs(), &[&selector], &mut known, Duration::from_secs(60), Mono::from_secs(seconds));
            (pids(&found[0]), found[0].problem.clone())
        };
        assert_eq!(at(1_000), (vec![10], None));
        host.process(30, "shop").exe("/opt/shop").write();
        assert_eq!(at(1_010), (vec![10, 30], None), "it was young, and has become the service");
        host.remove("proc/30");
        host.process(10, "vim").exe("/bin/vim").write();
        host.process(20, "shop").exe("/opt/shop").write();
        assert_eq!(at(1_030), (vec![10, 20], None), "10 was settled, 20 is new, 30 has gone");
        assert_eq!(at(1_070), (vec![20], None), "a pass over all");
        host.process(10, "shop").exe("/opt/shop").write();
        assert_eq!(at(1_080), (vec![20], None));
        known.forget(10);
        let found = all_since(&host.procfs(), &[&selector], &mut known, Duration::from_secs(60), Mono::from_secs(1_090));
        assert_eq!(pids(&found[0]), [10, 20]);
    }

    #[test]
    fn a_unit_is_a_whole_component_of_any_cgroup_path() {
        let host = host();
        host.process(10, "a").file("cgroup", "0::/system.slice/checkout.service\n").write();
        host.process(20, "b").file("cgroup", "4:memory:/x\n1:name=systemd:/system.slice/checkout.service/inner\n0::/\n").write();
        host.process(30, "c").file("cgroup", "0::/system.slice/my-checkout.service\n").write();
        host.process(40, "d").file("cgroup", "0::/system.slice/system-app.slice/app@a\\x2db.service\n").write();
        host.process(50, "e").file("cgroup", "0::/system.slice/_memory.service\n").write();
        check(&host, Selector::Unit("checkout".into()), &[10, 20], "");
        check(&host, Selector::Unit("checkout.service".into()), &[10, 20], "");
        check(&host, Selector::Unit("system-app.slice".into()), &[40], "");
        check(&host, Selector::Unit("app@a\\x2db".into()), &[40], "");
        check(&host, Selector::Unit("memory".into()), &[50], "");
        check(&host, Selector::Unit("out.service".into()), &[], "no process is in the unit out.service");
    }

    #[test]
    fn a_listener_is_found_by_its_address_and_systemd_is_not_meant() {
        let host = host();
        let rows = [tcp_row("0100007F:17AC", "0A", 55), tcp_row("00000000:1F90", "0A", 56), tcp_row("00000000:0050", "0A", 57)];
        host.file("proc/net/tcp", tcp_table(&rows));
        host.process(1, "systemd").socket(40, 55).socket(41, 57).write();
        host.process(10, "app").socket(3, 55).write();
        host.process(20, "web").socket(3, 56).write();
        host.process(30, "worker").socket(3, 56).write();
        let listen = |text: &str| Selector::Listen(text.parse().unwrap());
        check(&host, listen("127.0.0.1:6060"), &[10], "");
        check(&host, listen("0.0.0.0:6060"), &[10], "");
        check(&host, listen("10.0.0.1:8080"), &[20, 30], "");
        check(&host, listen("127.0.0.1:80"), &[1], "");
        check(&host, listen("10.0.0.1:6060"), &[], "nobody listens on 10.0.0.1:6060");
    }

    #[test]
    fn a_pid_file_must_hold_the_number_of_a_live_process() {
        let host = host();
        host.process(10, "app").write();
        host.process(20, "app").state('Z').write();
        let path = host.root().join("app.pid");
        let selector = || Selector::PidFile(path.clone());
        check(&host, selector(), &[], "does not exist");
        for (text, found, problem) in [
            (" 10\n".to_owned(), &[10][..], ""),
            ("11".into(), &[], "process 11, named by the pid file"),
            ("20".into(), &[], "zombie"),
            ("".into(), &[], "does not hold one process number"),
            ("10 20".into(), &[], "does not hold one process number"),
            ("-1".into(), &[], "does not hold one process number"),
            (format!("10{}", " ".repeat(1000)), &[], "does not hold one process number"),
        ] {
            host.file("app.pid", &text);
            check(&host, selector(), found, problem);
        }
    }

    #[test]
    fn many_selectors_share_one_pass_and_keep_their_order() {
        let host = host();
        host.process(10, "app").exe("/opt/app").cmdline(&["app", "-x"]).write();
        let selectors =
            [Selector::Pid(10), Selector::Name("none".into()), Selector::Cmdline("-x".into()), Selector::Exe("/opt/app".into())];
        let processes = selectors.map(Process::from);
        let found = all(&host.procfs(), &processes.iter().collect::<Vec<_>>());
        assert_eq!(found.iter().map(pids).collect::<Vec<_>>(), [vec![10], vec![], vec![10], vec![10]]);
    }

    #[test]
    fn only_processes_of_the_user_are_meant_whatever_they_are_called() {
        let host = host();
        host.file("etc/passwd", "root:x:0:0:::\nshop:x:1001:1001:::\neve:x:1002:1002:::\n");
        let status = |uids: [u32; 3]| format!("Uid:\t{}\t{}\t{}\t{}\n", uids[0], uids[1], uids[2], uids[1]);
        host.process(10, "checkout").file("status", status([1001; 3])).write();
        host.process(20, "checkout").file("status", status([1002; 3])).write();
        // what eve starts is not root's, though it has root's rights
        host.process(30, "checkout").file("status", status([1002, 0, 0])).write();
        let of = |user: &str| Process {
            which: Selector::Name("checkout".into()),
            user: Some(user.parse().unwrap()),
            exclude: Vec::new(),
            limit: None,
        };
        let found = |user: &str| all(&host.procfs(), &[&of(user)]).remove(0);
        assert_eq!(pids(&found("shop")), [10]);
        assert_eq!(pids(&found("1002")), [20]);
        assert_eq!(found("root").problem.unwrap(), "the processes that fit do not run as user root (0)");
        assert_eq!(found("nobody-here").problem.unwrap(), "user: /etc/passwd knows no user nobody-here: write the user's number");
        let by_pid = Process { which: Selector::Pid(20), user: Some("shop".parse().unwrap()), exclude: Vec::new(), limit: None };
        assert_eq!(all(&host.procfs(), &[&by_pid])[0].problem.as_deref(), Some("the process that fits does not run as user shop (1001)"));
    }

    #[test]
    fn without_proc_every_search_says_so() {
        let host = FakeHost::new();
        host.remove("proc");
        check(&host, Selector::Name("app".into()), &[], "is missing");
    }

    #[test]
    fn a_real_child_is_found_by_exe_arguments_and_name() {
        let dir = tempfile::tempdir().unwrap();
        let exe = dir.path().join("sleep-of-memtrap-test");
        let sleep = ["/bin/sleep", "/usr/bin/sleep"].iter().map(Path::new).find(|p| p.exists()).unwrap();
        // its own name, so that no other `sleep` is found
        std::fs::copy(sleep, &exe).unwrap();
        let spawn = || std::process::Command::new(&exe).arg("61.25").spawn();
        // busy while a child that another test forks still has the copy open
        let busy = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ExecutableFileBusy;
        let mut child = std::iter::repeat_with(spawn).find(|child| !child.as_ref().is_err_and(busy)).unwrap().unwrap();
        let procfs = ProcFs::host();
        let id = procfs.identity(child.id()).unwrap();
        // spawn may return in the middle of the exec, before name and arguments are in place
        while procfs.cmdline(id.pid).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let selectors = [
            Selector::Exe(exe.clone()),
            Selector::Cmdline(format!("^{} 61.25$", exe.display())),
            Selector::Name("sleep-of-memtrap-test".into()),
        ];
        let processes = selectors.map(Process::from);
        let found = all(&procfs, &processes.iter().collect::<Vec<_>>());
        child.kill().unwrap();
        child.wait().unwrap();
        for resolution in &found {
            assert_eq!(resolution.instances, [id], "{resolution:?}");
        }
        assert_eq!(all(&procfs, &[&Selector::Exe(exe).into()])[0].instances, []);
    }

    #[test]
    fn executables_that_may_not_be_seen_are_counted_with_the_remedy() {
        let Some(stranger) = Unprivileged::stranger() else { return };
        let exe = Selector::Exe("/opt/none".into()).into();
        let problem = stranger.as_other_user(|procfs, _| all(procfs, &[&exe]).remove(0).problem.unwrap());
        assert!(problem.contains("no process runs /opt/none; no permission to see the executable of "), "{problem}");
        assert!(problem.contains("CAP_SYS_PTRACE"), "{problem}");
    }

    #[test]
    fn settled_processes_that_may_not_be_seen_stay_in_the_words() {
        let Some(stranger) = Unprivileged::stranger() else { return };
        let exe = Selector::Exe("/opt/none".into()).into();
        let counts = stranger.as_other_user(|procfs, _| {
            let mut known = Known::default();
            [1_000, 1_100].map(|seconds| {
                let found = all_since(procfs, &[&exe], &mut known, Duration::from_secs(600), Mono::from_secs(seconds));
                let problem = found[0].problem.clone().unwrap();
                let count = problem.split("executable of ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
                count.unwrap_or_else(|| panic!("{problem}"))
            })
        });
        // other tests start and end processes meanwhile
        assert!(counts[1] > counts[0] / 2, "{counts:?}");
    }

    #[test]
    fn a_listener_whose_holder_may_not_be_seen_is_said_to_be_someones() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT CHECKED: only root can start a process that another user may not look into");
            return;
        }
        let Some(stranger) = Unprivileged::stranger() else { return };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let selector = Selector::Listen(listener.local_addr().unwrap()).into();
        // from here on only the child holds the socket
        let socket = std::os::fd::OwnedFd::from(listener);
        let mut child = std::process::Command::new("sleep").arg("60").stdin(socket).spawn().unwrap();
        let visible = all(&ProcFs::host(), &[&selector]).remove(0);
        let hidden = stranger.as_other_user(|procfs, _| all(procfs, &[&selector]).remove(0));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pids(&visible).contains(&child.id()), "{visible:?}");
        let problem = hidden.problem.unwrap();
        assert!(problem.contains("no process is seen to hold that socket; no permission to see the descriptors of "), "{problem}");
    }
}
