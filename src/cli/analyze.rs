//! `memtrap analyze`: does the Go heap explain the RSS? Of a bundle, of a directory that another tool made, or of one profile. Of a core
//! file: does the heap explain what that holds?

use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Failure, core, print, top};
use crate::analysis::single::Single;
use crate::analysis::{self, Analysis};
use crate::bundle::Manifest;
use crate::bundle::archive;
use crate::lang::Lang;
use crate::report;
use crate::text;
use crate::units::ByteSize;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap analyze /var/lib/memtrap/bundles/checkout/20261123T081336Z-threshold-1.52GiB
  memtrap analyze ./pprof-20261123-0813 --format json
  memtrap analyze ./pprof-20261123-0813 --format html > report.html
  memtrap analyze checkout.tar.gz
  memtrap analyze goroutine.txt
  memtrap analyze core.4821 --exe ./checkout
  memtrap analyze NEWER --base OLDER")]
pub struct Args {
    /// A bundle, one that was exported (.tar.gz), a directory with files of the same names, a single profile or text of pprof, or the core
    /// file of a Go process
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The executable that a core file is of [default: the path that the core names]
    #[arg(long, value_name = "BINARY")]
    exe: Option<PathBuf>,
    /// Another bundle to compare with, instead of the baseline inside
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    /// Language of the sentences
    #[arg(long, value_enum, default_value_t, value_name = "LANG")]
    lang: Lang,
    /// The daemon's child: the manifest comes on standard input, the bundle will be at this path, memory and CPU are limited, and the
    /// answer is all forms at once
    #[arg(long, hide = true, value_name = "PATH")]
    child_of: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    /// verdict.json
    Json,
    /// One self-contained page
    Html,
}

/// More than any real bundle needs; a hostile one ends here and not in the daemon.
const CHILD_MEMORY: u64 = 1 << 30;
const CHILD_CPU_SECONDS: u64 = 30;
const MAX_MANIFEST: u64 = 8 << 20;

/// What finding who holds what is live in a core may take, as `memtrap holders` has it.
const WALK: u64 = 2 << 30;

pub fn run(args: Args) -> Result<(), Failure> {
    if core::is_core(&args.path)? {
        return of_core(&args);
    }
    if args.exe.is_some() {
        return Err(Failure::usage(format_args!("{} is no core file: --exe goes with one", args.path.display())));
    }
    let unpacked = if archive::is_archive(&args.path) { Some(archive::unpack(&args.path)?) } else { None };
    if unpacked.is_none() && args.path.is_file() {
        return single(&args.path, args.format, args.lang);
    }
    let unpacked_base = args.base.as_deref().filter(|base| archive::is_archive(base)).map(archive::unpack).transpose()?;
    let base = unpacked_base.as_ref().map(|base| base.dir.as_path()).or(args.base.as_deref());
    let mut manifest = None;
    if args.child_of.is_some() {
        confine()?;
        manifest = Some(serde_json::from_reader::<_, Manifest>(stdin().lock().take(MAX_MANIFEST))?);
    }
    let path = unpacked.as_ref().map_or_else(|| std::path::absolute(&args.path), |unpacked| Ok(unpacked.dir.clone()))?;
    // what was unpacked here is gone afterwards: commands name what the reader unpacks
    let shown = args.child_of.as_ref().or(unpacked.as_ref().map(|unpacked| &unpacked.name)).unwrap_or(&path);
    let mut analysis = analysis::of_directory(&path, shown, base, manifest, args.lang)?;
    if unpacked.is_some() {
        analysis.verdict.next.insert(0, format!("tar -xf {}", crate::text::shell(&args.path)));
    }
    if args.child_of.is_some() {
        return print(&text::json(&report::write(analysis))?);
    }
    shown_as(args.format, &analysis)
}

fn shown_as(format: Format, analysis: &Analysis) -> Result<(), Failure> {
    match format {
        Format::Text => print(&report::text(analysis)),
        Format::Json => print(&(text::json_pretty(&analysis.verdict)? + "\n")),
        Format::Html => print(&report::html(analysis)),
    }
}

fn of_core(args: &Args) -> Result<(), Failure> {
    let (path, exe) = (&args.path, args.exe.as_deref());
    if args.base.is_some() {
        return Err(Failure::usage(format_args!(
            "{} is a core file: --base compares bundles; `memtrap top CORE --base PROFILE` compares its heap",
            path.display()
        )));
    }
    let core = core::open(path, exe)?;
    let shown = (std::path::absolute(path)?, exe.map(std::path::absolute).transpose()?);
    let analysis = analysis::core::of_core(&core.program, &shown.0, shown.1.as_deref(), core.taken, WALK, args.lang);
    let analysis = analysis.map_err(|e| Failure::job(format_args!("{}: {}", path.display(), crate::error::chain(&e))))?;
    shown_as(args.format, &analysis)
}

/// A hostile profile must cost nothing but this process.
pub(super) fn confine() -> Result<(), Failure> {
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::As, limit(CHILD_MEMORY))?;
    setrlimit(Resource::Cpu, limit(CHILD_CPU_SECONDS))?;
    setrlimit(Resource::Core, limit(0))?;
    // the first to go where memory is short; not everywhere may this be raised
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

/// One profile alone explains no RSS: its tables are what there is to say.
fn single(path: &Path, format: Format, lang: Lang) -> Result<(), Failure> {
    let single = top::single(path)?;
    match format {
        Format::Text => print(&text_of(&single, path, lang)?),
        Format::Json => print(&(text::json_pretty(&single.told(path))? + "\n")),
        Format::Html => Err(Failure::usage(format_args!(
            "{}: a page is made of a bundle or a directory; of one file there is --format text or json",
            path.display()
        ))),
    }
}

fn text_of(single: &Single, path: &Path, lang: Lang) -> Result<String, Failure> {
    let name = path.display();
    let mut text = format!("{name} alone cannot tell whether the Go heap explains an RSS; this is what it holds:\n");
    if let Some(m) = &single.memstats {
        let size = ByteSize;
        text += &format!(
            "\nMemStats: HeapAlloc {}, HeapInuse {}, HeapIdle {} (HeapReleased {}), StackInuse {}, NextGC {}\n",
            size(m.heap_alloc),
            size(m.heap_inuse),
            size(m.heap_idle),
            size(m.heap_released),
            size(m.stack_inuse),
            m.next_gc.map_or_else(|| "unknown".into(), |n| size(n).to_string()),
        );
    }
    if let Some((total, groups)) = &single.goroutines {
        text += &format!("\n{total} goroutines by stack:\n{}", report::groups(groups, GROUPS, lang));
    }
    let all: Vec<String> = single.profile.sample_type_names().map(str::to_owned).collect();
    for sample_type in all {
        let options = crate::pprof::top::Options { sample_index: Some(sample_type), node_count: Some(10), ..Default::default() };
        text += "\n";
        text += &crate::pprof::top::text(&single.profile, None, &options, &crate::pprof::TimeZone::UTC)?;
    }
    Ok(text)
}

const GROUPS: usize = 10;
