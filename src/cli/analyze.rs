//! `memtrap analyze`: does the Go heap explain the RSS? Of a bundle, of a directory that another tool made, or of one profile.

use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Failure, print, top};
use crate::analysis;
use crate::bundle::Manifest;
use crate::lang::Lang;
use crate::report;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap analyze /var/lib/memtrap/bundles/checkout/20261123T081336Z-threshold-1.52GiB
  memtrap analyze ./pprof-20261123-0813 --format json
  memtrap analyze ./pprof-20261123-0813 --format html > report.html
  memtrap analyze NEWER --base OLDER")]
pub struct Args {
    /// A bundle, a directory with files of the same names, or a single profile
    #[arg(value_name = "PATH")]
    path: PathBuf,
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

pub fn run(args: Args) -> Result<(), Failure> {
    if args.path.is_file() {
        return print(&single(&args.path)?);
    }
    let mut manifest = None;
    if args.child_of.is_some() {
        confine()?;
        manifest = Some(serde_json::from_reader::<_, Manifest>(stdin().lock().take(MAX_MANIFEST))?);
    }
    let path = std::path::absolute(&args.path)?;
    let shown = args.child_of.as_ref().unwrap_or(&path);
    let analysis = analysis::of_directory(&path, shown, args.base.as_deref(), manifest, args.lang)?;
    if args.child_of.is_some() {
        return print(&serde_json::to_string(&report::write(analysis))?);
    }
    match args.format {
        Format::Text => print(&report::text(&analysis)),
        Format::Json => print(&(serde_json::to_string_pretty(&analysis.verdict)? + "\n")),
        Format::Html => print(&report::html(&analysis)),
    }
}

/// A hostile profile must cost nothing but this process.
fn confine() -> Result<(), Failure> {
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::As, limit(CHILD_MEMORY))?;
    setrlimit(Resource::Cpu, limit(CHILD_CPU_SECONDS))?;
    setrlimit(Resource::Core, limit(0))?;
    // the first to go where memory is short; not everywhere may this be raised
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

/// One profile alone explains no RSS: its tables are what there is to say.
fn single(path: &Path) -> Result<String, Failure> {
    let profile = top::read(path)?;
    let name = path.display();
    let mut text = format!("{name} alone cannot tell whether the Go heap explains an RSS; this is what it holds:\n");
    let all: Vec<String> = profile.sample_type_names().map(str::to_owned).collect();
    for sample_type in all {
        let options = crate::pprof::top::Options { sample_index: Some(sample_type), node_count: Some(10), ..Default::default() };
        text += "\n";
        text += &crate::pprof::top::text(&profile, None, &options, &crate::pprof::Zone::utc())?;
    }
    Ok(text)
}
