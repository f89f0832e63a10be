//! `memtrap check`: is the configuration right, and with `--probe`: could every target be captured now?

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, print, status, tell, terminal_width};
use crate::brake;
use crate::bundle;
use crate::capture;
use crate::clock;
use crate::config::{self, Config, ReadMemory};
use crate::egress;
use crate::egress::notice::Notice;
use crate::error::chain;
use crate::host::cgroup::CgroupRef;
use crate::host::slowing::{self, LastSeconds};
use crate::host::{ProcFs, limit, sight};
use crate::identity::InstanceId;
use crate::layout::{cut, painted, table};
use crate::poll::{Remote, resolve};
use crate::serve::{self, ServeError};
use crate::source;
use crate::state::Store;
use crate::units::ByteSize;

/// Of the instances of one query, so many are shown, and have their pprof tried.
const SHOWN: usize = 50;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Also find every target, read its RSS and limit (asking expositions and Prometheus servers where those tell), and try
    /// permissions, disk, pprof, the store of uploads, and whether `run` could start here, as the user who asks; leaves nothing behind; exit 1 if something could not be captured now
    #[arg(long)]
    probe: bool,
    /// Also send every [[notify]] receiver a message that says that it is a test; exit 1 if one cannot be reached
    #[arg(long)]
    test_notify: bool,
}

pub async fn run(args: Args) -> Result<(), Failure> {
    let (config, warnings) = config::load(&args.config).map_err(|e| Failure::config(e, 2))?;
    for warning in warnings {
        tell(warning);
    }
    let names: Vec<&str> = config.targets.iter().map(|t| t.name.as_str()).collect();
    for target in config.targets.iter().filter(|t| t.pprof.is_none()) {
        let reads = target.capture.read_memory != config::ReadMemory::Off;
        let left = match target.source.process() {
            Some(_) if reads => {
                "the kernel's side and what its memory gives: heap, MemStats and goroutines, but no CPU profile and no forced collection"
            }
            Some(_) => "the kernel's side",
            None => "what its metrics tell",
        };
        tell(format_args!("{}: without pprof its bundles hold only {left}", target.name));
    }
    print(&format!("{}: no mistakes; targets: {}\n", args.config.display(), names.join(", ")))?;
    if config.targets.iter().any(|target| target.source.process().is_some())
        && let Some(why) = sight::hidden(&ProcFs::host())
    {
        tell(format_args!("processes may not be seen from here: {why}"));
    }
    if !args.probe
        && let Some(why) =
            slowing::advice(&ProcFs::host()).filter(|_| config.targets.iter().any(|target| target.source.process().is_some()))
    {
        tell(why);
    }
    if args.test_notify {
        test_notify(&config).await?;
    }
    if args.probe { probe(&config).await } else { Ok(()) }
}

async fn test_notify(config: &Config) -> Result<(), Failure> {
    if config.notify.is_empty() {
        return Err(Failure::job("there is no [[notify]] to be tried"));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let notice = Notice::of_a_test(&host, std::process::id(), clock::wall_now());
    let mut rows = vec![["RECEIVER", "KIND", "TOLD"].map(String::from).to_vec()];
    let mut failed = 0;
    for (receiver, result) in config.notify.iter().zip(egress::notify::test(&egress::notify::Settings::of(config), &notice).await) {
        failed += usize::from(result.is_err());
        let told = result.map_or_else(|why| format!("no: {why}"), |()| "yes".into());
        rows.push(vec![receiver.name.clone(), receiver.how.name().into(), told]);
    }
    print(&format!("\n{}", table(&rows, terminal_width())))?;
    match failed {
        0 => Ok(()),
        n => Err(Failure::job(format_args!("{n} of {} receivers could not be told", config.notify.len()))),
    }
}

async fn probe(config: &Config) -> Result<(), Failure> {
    let procfs = ProcFs::host();
    let env = capture::Env::new(procfs.clone(), config.daemon.bundle_dir.clone(), procfs.boot_id()?);
    let mut problems = Vec::new();
    let mut rows = Vec::new();
    let local: Vec<(Arc<config::Target>, &config::Process)> =
        config.targets.iter().filter_map(|t| Some((t.clone(), t.source.process()?))).collect();
    let processes: Vec<_> = local.iter().map(|(_, process)| *process).collect();
    let resolved = if processes.is_empty() { Vec::new() } else { resolve::all(&procfs, &processes) };
    for ((target, _), found) in local.iter().zip(resolved) {
        if found.instances.is_empty() {
            let why = found.problem.clone().unwrap_or_else(|| "nothing in /proc fits".into());
            problems.push(format!("{}: no process: {why}", target.name));
            rows.push(Row::of(vec![target.name.clone(), "none".into()]));
        }
        if let Some(why) = found.problem.filter(|_| !found.instances.is_empty()) {
            problems.push(format!("{}: {why}", target.name));
        }
        for id in &found.instances {
            rows.push(probe_instance(target, *id, &procfs, &env, &mut problems).await);
        }
    }
    for target in config.targets.iter().filter(|t| t.source.process().is_none()) {
        probe_source(target, &env, &mut rows, &mut problems).await;
    }
    print(&format!("\n{}", probed(&rows, terminal_width())))?;
    probe_start(&config.daemon, &mut problems).await?;
    let dir = &config.daemon.bundle_dir;
    match (bundle::foresee_dir(dir).and_then(|notes| bundle::probe_dir(dir).map(|()| notes)), bundle::free_disk(dir)) {
        (Err(e), _) => problems.push(chain(&e)),
        (Ok(notes), free) => {
            let free = free.unwrap_or(u64::MAX);
            print(&format!("bundles: {}, {} free{}\n{}", dir.display(), ByteSize(free), not_yet(dir), indented(&notes)))?;
            let linked = config.targets.iter().filter_map(|target| bundle::try_target(dir, &target.name).err());
            problems.extend(linked.map(|e| chain(&e)));
            if free < config.retention.min_free_disk.0 {
                problems.push(format!(
                    "{}: less than min_free_disk {} free: captures leave big parts out",
                    dir.display(),
                    config.retention.min_free_disk
                ));
            }
        }
    }
    if let Some(upload) = &config.upload {
        match egress::probe(upload).await {
            Ok(place) => print(&format!("uploads: {place}\n"))?,
            Err(e) => problems.push(format!("uploads: {e}")),
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::job(format_args!("could not capture everything now:\n  {}", problems.join("\n  "))))
}

/// What `run` needs before it can watch anything.
async fn probe_start(daemon: &config::Daemon, problems: &mut Vec<String>) -> Result<(), Failure> {
    if let Err(e) = serve::check_token(daemon) {
        problems.push(chain(&e));
    }
    let dir = &daemon.state_dir;
    let runs = match Store::probe(dir) {
        Ok((runs, notes)) => {
            let now = if runs { OWN } else { not_yet(dir) };
            print(&format!("\nstate:   {}{now}\n{}", dir.display(), indented(&notes)))?;
            runs
        }
        Err(e) => {
            problems.push(chain(&e));
            false
        }
    };
    let Some(listen) = &daemon.listen else { return Ok(()) };
    match serve::probe(listen).await {
        Ok(()) => print(&format!("listen:  {listen}\n")),
        // another program may have taken the address since
        Err(ServeError::Bind { source, .. }) if source.kind() == ErrorKind::AddrInUse && runs && status::answers(daemon).await => {
            print(&format!("listen:  {listen}{OWN}\n"))
        }
        Err(e) => {
            problems.push(chain(&e));
            Ok(())
        }
    }
}

/// What is said of a place that the daemon of this very configuration has.
const OWN: &str = ", in use by the memtrap that runs";

/// Below the line that they are about.
fn indented(notes: &[String]) -> String {
    notes.iter().map(|note| format!("         {note}\n")).collect()
}

fn not_yet(dir: &Path) -> &'static str {
    if dir.exists() { "" } else { " (not there yet: made at the start)" }
}

async fn probe_instance(
    target: &Arc<config::Target>,
    id: InstanceId,
    procfs: &ProcFs,
    env: &capture::Env,
    problems: &mut Vec<String>,
) -> Row {
    let mut complain = |what: &str, why: String| {
        problems.push(format!("{} (pid {}): {what}: {why}", target.name, id.pid));
        "?".to_owned()
    };
    let rss = procfs.statm_file(id).map_err(|e| chain(&e)).and_then(|file| match crate::poll::Statm::new(file).read() {
        crate::poll::Reading::Rss(rss) => Ok(ByteSize(rss).to_string()),
        crate::poll::Reading::Gone | crate::poll::Reading::Another => Err("the process has just ended".into()),
        crate::poll::Reading::Blind(why) => Err(why),
    });
    let rss = rss.unwrap_or_else(|why| complain("RSS", why));
    let (limit, limit_source) = match limit::effective(procfs, id.pid) {
        Ok(limit) => (ByteSize(limit.bytes).to_string(), Some(limit.source)),
        Err(e) => (complain("limit", chain(&e)), None),
    };
    if let Err(e) = procfs.exe(id.pid) {
        complain("kernel evidence", chain(&e));
    }
    let memory = capture::probe_memory(target, id, env).await;
    let pprof = match (capture::probe(target, Some(id), env).await, &memory) {
        (Ok(found), _) => found,
        (Err(why), Some(Ok(_))) => complain("pprof", format!("{why}; heap, MemStats and goroutines would come from its memory")),
        (Err(why), Some(Err(neither))) => complain("pprof", format!("{why}; nor is its memory read: {neither}")),
        (Err(why), None) => complain("pprof", why),
    };
    let gc = match target.rules.gc {
        None => None,
        Some(_) if target.capture.read_memory == ReadMemory::Off => {
            complain("gc", "what collections take stands in its memory, and read_memory is off".into());
            None
        }
        Some(gc) => match capture::collector_places(id, env).await {
            Ok(Some(_)) => Some(format!("gc: what collections take is known; fires at {gc}")),
            Ok(None) => Some(format!("gc: nothing was collected yet; fires at {gc}")),
            Err(why) => {
                complain("gc", why);
                None
            }
        },
    };
    let memory = match memory {
        None => "off".into(),
        Some(Ok(gives)) => format!("can be read: {gives}"),
        Some(Err(why)) => format!("cannot be read: {why}"),
    };
    let cgroup = CgroupRef::of(procfs, id.pid).ok().flatten();
    let last = cgroup.as_ref().and_then(|cgroup| LastSeconds::of(cgroup).words()).map(|words| format!("last seconds: {words}"));
    let held = cgroup.filter(|_| target.capture.brake).map(|cgroup| match brake::could_hold(&cgroup) {
        Ok(()) => "brake: its memory.high can be set".to_owned(),
        Err(why) => format!("brake: {}", complain("brake", why.to_string())),
    });
    let notes = limit_source
        .map(|source| format!("limit: {source}"))
        .into_iter()
        .chain([format!("memory: {memory}")])
        .chain(gc)
        .chain(last)
        .chain(held)
        .collect();
    Row { cells: vec![target.name.clone(), format!("pid {}", id.pid), rss, limit, pprof], notes }
}

/// What the table says of one instance, and below it, as the path of a cgroup is long.
struct Row {
    cells: Vec<String>,
    notes: Vec<String>,
}

impl Row {
    fn of(cells: Vec<String>) -> Row {
        Row { cells, notes: Vec::new() }
    }
}

fn probed(rows: &[Row], width: Option<usize>) -> String {
    let head = ["TARGET", "INSTANCE", "RSS", "LIMIT", "PPROF"].map(String::from).to_vec();
    let cells: Vec<Vec<String>> = std::iter::once(head).chain(rows.iter().map(|row| row.cells.clone())).collect();
    let mut shown = painted(&cells, width, |_, _, text| text.to_owned()).into_iter();
    let mut text: String = shown.next().into_iter().collect();
    for (lines, row) in shown.zip(rows) {
        text.push_str(&lines);
        for said in &row.notes {
            let lines = width.map_or_else(|| vec![said.as_str()], |width| cut(said, width.saturating_sub(4)));
            lines.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
        }
    }
    text
}

/// Asks a source once, and shows what it tells of each instance.
async fn probe_source(target: &config::Target, env: &capture::Env, rows: &mut Vec<Row>, problems: &mut Vec<String>) {
    let found = match source::ask_once(target, &env.clients).await {
        Ok(found) => found,
        Err(why) => {
            problems.push(format!("{}: its source tells nothing: {why}", target.name));
            rows.push(Row::of(vec![target.name.clone(), "none".into()]));
            return;
        }
    };
    let said = found.trouble.iter().chain(&found.partial);
    problems.extend(said.map(|why| format!("{}: {why}", target.name)));
    if found.readings.is_empty() {
        rows.push(Row::of(vec![target.name.clone(), "none".into()]));
        if found.trouble.is_none() {
            problems.push(format!("{}: the query gives no series", target.name));
        }
    }
    let more = found.readings.len().saturating_sub(SHOWN);
    for reading in found.readings.iter().take(SHOWN) {
        rows.push(probe_remote(target, reading, &found.limit_source, env, problems).await);
    }
    if more > 0 {
        rows.push(Row::of(vec![target.name.clone(), format!("and {more} more")]));
    }
}

async fn probe_remote(
    target: &config::Target,
    reading: &Remote,
    limit_source: &str,
    env: &capture::Env,
    problems: &mut Vec<String>,
) -> Row {
    let label = &reading.who.label;
    let mut complain = |what: &str, why: &str| {
        problems.push(format!("{} ({label}): {what}: {why}", target.name));
        "?".to_owned()
    };
    let rss = match &reading.rss {
        Ok(rss) => ByteSize(*rss).to_string(),
        Err(why) => complain("RSS", why),
    };
    let limit = match &reading.limit {
        Ok(Some(bytes)) => ByteSize(*bytes).to_string(),
        Ok(None) if target.rules.need_limit() => complain("limit", "none is known, and a rule is a share of it: set `limit`"),
        Ok(None) => "none".into(),
        Err(why) => complain("limit", why),
    };
    if target.rules.gc.is_some() && reading.collector.is_none() {
        complain("gc", "what collections take is not told: see docs/configuration.md");
    }
    let mut target = target.clone();
    let pprof = match &reading.who.pprof {
        Some(Err(why)) => complain("pprof", why),
        filled => {
            if let Some(Ok(url)) = filled {
                target.pprof = Some(config::Pprof::Http(url.clone()));
            }
            match capture::probe(&Arc::new(target.clone()), None, env).await {
                Ok(found) => found,
                Err(why) => complain("pprof", &why),
            }
        }
    };
    let notes = matches!(reading.limit, Ok(Some(_))).then(|| format!("limit: {limit_source}")).into_iter().collect();
    Row { cells: vec![target.name, label.clone(), rss, limit, pprof], notes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_eighty_columns_with_the_path_of_a_pod() {
        let path = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2f9e1b6c_77aa_4d5e_9c3b_0a1b2c3d4e5f.slice/\
                    cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope";
        let cells = ["checkout-service-of-the-shop", "pid 1234567", "1.52GiB", "2.00GiB", "http://127.0.0.1:34579/debug/pprof"];
        let source = format!("cgroup v2 {path} memory.max");
        let rows = [
            Row { cells: cells.map(String::from).to_vec(), notes: vec![format!("limit: {source}")] },
            Row::of(vec!["gone".into(), "none".into()]),
        ];
        let text = probed(&rows, Some(80));
        assert!(text.lines().all(|line| crate::layout::width(line) <= 80), "{text}");
        let joined: String = text.split_whitespace().collect();
        assert!(joined.contains(&source.replace(' ', "")), "{text}");
        assert!(probed(&rows, None).contains(&format!("\n    limit: {source}\n")), "what a program reads stays in one line");
    }
}
