//! `memtrap analyze`: does the Go heap explain the RSS? Of a bundle, of a directory that another tool made, or of one profile.

use std::fmt::Write;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Failure, print, table, top};
use crate::analysis;
use crate::bundle::Manifest;
use crate::units::ByteSize;
use crate::verdict::Verdict;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap analyze /var/lib/memtrap/bundles/checkout/20261123T081336Z-threshold-1.52GiB
  memtrap analyze ./pprof-20261123-0813 --format json
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
    /// The daemon's child: the manifest comes on standard input, the bundle will be at this path, and memory and CPU are limited
    #[arg(long, hide = true, value_name = "PATH", requires = "format")]
    child_of: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// More than any real bundle needs; a hostile one ends here and not in the daemon.
const CHILD_MEMORY: u64 = 1 << 30;
const CHILD_CPU_SECONDS: u64 = 60;
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
    let analysis = analysis::of_directory(&path, shown, args.base.as_deref(), manifest)?;
    match args.format {
        Format::Text => print(&text(&analysis.verdict)),
        Format::Json => print(&(serde_json::to_string_pretty(&analysis.verdict)? + "\n")),
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

/// The verdict in words.
fn text(v: &Verdict) -> String {
    let mut out = format!(
        "{}\n\n{} {} (cause: {}, confidence: {})\n",
        v.summary,
        v.question,
        words(&v.go_heap_explains),
        v.cause.name(),
        words(&v.confidence)
    );
    let mut list = |title: &str, items: &[String]| {
        if !items.is_empty() {
            let _ = write!(out, "\n{title}\n");
            for item in items {
                let _ = writeln!(out, "  - {item}");
            }
        }
    };
    list("Evidence", &v.evidence);
    list("Missing", &v.missing);
    let size = |bytes: i64| format!("{}{}", if bytes < 0 { "-" } else { "" }, ByteSize(bytes.unsigned_abs()));
    let mut rows = vec![["BUCKET", "BYTES", "BASELINE", "GROWTH"].map(String::from).to_vec()];
    rows.extend(v.anatomy.iter().map(|l| {
        let optional = |n: Option<i64>| n.map_or("-".into(), size);
        vec![l.bucket.name().into(), size(l.bytes), optional(l.baseline_bytes), optional(l.growth_bytes)]
    }));
    let _ = write!(out, "\nWhere the {} are\n{}", ByteSize(v.rss_bytes), table::columns(&rows));
    for (title, lines) in [
        ("Live bytes (inuse_space)", &v.top.inuse_space),
        ("Grown since the baseline (inuse_space)", &v.top.growth),
        ("Allocated bytes (alloc_space)", &v.top.alloc_space),
    ] {
        let mut rows = vec![["FLAT", "CUM", "FUNCTION"].map(String::from).to_vec()];
        rows.extend(lines.iter().take(8).map(|l| vec![size(l.flat), size(l.cum), l.function.clone()]));
        if rows.len() > 1 {
            let _ = write!(out, "\n{title}\n{}", table::columns(&rows));
        }
    }
    if let Some(g) = &v.goroutines {
        let _ = write!(out, "\nGoroutines: {}\n", g.total);
        for group in g.groups.iter().take(5) {
            let _ = writeln!(out, "  {:>7} in {}", group.count, first_frames(&group.stack));
        }
    }
    let _ = write!(out, "\nNext\n");
    for command in &v.next {
        let _ = writeln!(out, "  {command}");
    }
    out
}

/// The innermost frames, the runtime's own left out where others follow.
fn first_frames(stack: &[String]) -> String {
    let own = stack.iter().position(|f| !f.starts_with("runtime.")).unwrap_or(0);
    let frames: Vec<&str> = stack.iter().skip(own).take(3).map(String::as_str).collect();
    if frames.is_empty() { "(no frames)".into() } else { frames.join(" < ") }
}

/// As in verdict.json.
fn words(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
