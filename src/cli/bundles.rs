//! `memtrap bundles`: what has been caught.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Failure, paint, print, print_exactly, tell, terminal_width};
use crate::analysis;
use crate::bundle::archive;
use crate::bundle::{self, Bundle, BundleError, Survey};
use crate::config;
use crate::disk::trust::User;
use crate::error::chain;
use crate::layout::{self, wrapped};
use crate::text::{self, one_line};
use crate::units::ByteSize;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,

    /// Configuration file that names the bundle directory
    #[arg(short, long, global = true, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Bundle directory, instead of the configuration's
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "config")]
    dir: Option<PathBuf>,
    /// Print JSON: of `list` the bundles as /api/bundles has them, each with its path, and those that are damaged; of `show` the manifest with id, path and problems; nothing else has any
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every bundle, oldest first within each target (the default)
    List,
    /// One bundle: why it was taken, what is in it, and whether it is intact
    Show {
        /// As `list` prints it, or an unambiguous part of it
        id: String,
    },
    /// One bundle as one .tar.gz; prints the path of the file that it makes
    Export {
        /// As `list` prints it, or an unambiguous part of it
        id: String,
        /// Where to; `-` is stdout; a pipe or device is written to, a file replaced [default: TARGET-NAME.tar.gz in this directory]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Delete bundles; what carries no manifest of memtrap's is left alone
    Rm {
        /// As `list` prints them, in full
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

pub fn run(args: Args) -> Result<(), Failure> {
    let dir = match &args.dir {
        Some(dir) if matches!(fs::metadata(dir), Err(e) if e.kind() == io::ErrorKind::NotFound) => {
            let dir = dir.display();
            return Err(Failure::job(format_args!("there is no directory {dir}; with --dir, name the one that holds TARGET/BUNDLE")));
        }
        Some(dir) => dir.clone(),
        None => {
            config::load(&args.config)
                .map_err(|e| Failure::config(format_args!("{e}\nname a directory with --dir to go without a configuration"), 2))?
                .0
                .daemon
                .bundle_dir
        }
    };
    match &args.action {
        None | Some(Action::List) => list(&dir, args.json),
        Some(Action::Show { id }) => show(&dir, id, args.json),
        Some(Action::Export { id, output }) => export(&dir, id, output.as_deref()),
        Some(Action::Rm { ids }) => rm(&dir, ids),
    }
}

fn list(dir: &Path, json: bool) -> Result<(), Failure> {
    let Survey { bundles, damaged, closed } = bundle::survey(dir)?;
    if json {
        let bundles: Vec<_> = bundles.iter().map(summary).collect();
        let damaged: Vec<_> = damaged.iter().map(|(id, why)| serde_json::json!({ "id": id, "error": chain(why) })).collect();
        print(&(text::json_pretty(&serde_json::json!({ "schema": 1, "bundles": bundles, "damaged": damaged }))? + "\n"))?;
    } else if !bundles.is_empty() {
        print_exactly(&table(&bundles))?;
    } else if damaged.is_empty() && closed.is_empty() {
        tell(format_args!("no bundles in {}", dir.display()));
    }
    for (id, why) in &damaged {
        tell(format_args!("{id} is damaged: {}", chain(why)));
    }
    if closed.is_empty() {
        return Ok(());
    }
    let closed: Vec<String> = closed.iter().map(|why| chain(why)).collect();
    Err(Failure::job(format_args!("there may be more bundles: {}", closed.join("; "))))
}

fn table(bundles: &[Bundle]) -> String {
    let mut rows = vec![["ID", "TRIGGER", "RSS", "CAUSE", "OUTCOME", "SIZE", "INSTANCE"].map(String::from).to_vec()];
    rows.extend(bundles.iter().map(|b| {
        let m = &b.manifest;
        let part = if m.part > 1 { format!(" (part {})", m.part) } else { String::new() };
        vec![
            b.id.clone(),
            format!("{}{part}", m.trigger.trigger.name()),
            if m.trigger.rss_bytes == 0 { "-".into() } else { ByteSize(m.trigger.rss_bytes).to_string() },
            analysis::verdict_in(b).map_or("-".into(), |v| v.cause.name().into()),
            m.outcome.name().into(),
            ByteSize(b.bytes()).to_string(),
            m.instance.label.clone(),
        ]
    }));
    paint::table(&rows, 4, terminal_width(), paint::is_wanted(&io::stdout())).concat()
}

fn summary(b: &Bundle) -> serde_json::Value {
    let m = &b.manifest;
    serde_json::json!({
        "id": b.id,
        "path": b.path,
        "target": m.target,
        "workload": m.instance.workload,
        "instance": m.instance.label,
        "reason": m.trigger.reason,
        "incident_id": m.incident_id,
        "part": m.part,
        "trigger": m.trigger.trigger,
        "rss_bytes": m.trigger.rss_bytes,
        "started": m.started,
        "finished": m.finished,
        "outcome": m.outcome,
        "bytes": b.bytes(),
        "verdict": analysis::verdict_in(b).map(|v| serde_json::json!({
            "go_heap_explains": v.go_heap_explains,
            "cause": v.cause,
            "confidence": v.confidence,
            "summary": v.summary,
        })),
    })
}

fn show(dir: &Path, id: &str, json: bool) -> Result<(), Failure> {
    let bundle = find(dir, id)?;
    let verified = bundle::verify(&bundle.path)?;
    let problems: Vec<String> = verified.problems.iter().map(ToString::to_string).collect();
    let m = &bundle.manifest;
    if json {
        let mut value = serde_json::to_value(m)?;
        if let Some(map) = value.as_object_mut() {
            map.insert("id".into(), bundle.id.clone().into());
            map.insert("path".into(), serde_json::to_value(&bundle.path)?);
            map.insert("problems".into(), problems.clone().into());
        }
        print(&(text::json_pretty(&value)? + "\n"))?;
    } else {
        let mut text = format!("{}\n{}\n\n{}\n", bundle.id, bundle.path.display(), one_line(&m.trigger.reason, 2000));
        let (who, target) = (one_line(&m.instance.label, 300), one_line(&m.target, 80));
        let (from, to) = (one_line(&m.started, 40), one_line(&m.finished, 40));
        let _ = writeln!(text, "{who} of {target}, {from} to {to}, {}", m.outcome.name());
        if let Some(verdict) = analysis::verdict_in(&bundle) {
            let _ = writeln!(text, "\n{}\n", wrapped(&one_line(&verdict.summary, 2000), terminal_width().unwrap_or(100).min(100), ""));
        }
        for warning in &m.warnings {
            let _ = writeln!(text, "warning: {}", one_line(&warning.text, 2000));
        }
        let mut rows = vec![["FILE", "STATUS", "SIZE", "TIME", "REASON"].map(String::from).to_vec()];
        rows.extend(m.files.iter().map(|f| {
            let size = if f.has_file() { ByteSize(f.bytes).to_string() } else { "-".into() };
            vec![f.name.clone(), f.status.name().into(), size, format!("{}ms", f.milliseconds), f.reason.clone().unwrap_or_default()]
        }));
        let has_report = m.entry("report").is_some_and(|f| f.has_file());
        let next = if has_report { "report.html" } else { "README.md" };
        let _ = writeln!(text, "\n{}\nread {} next", layout::table(&rows, terminal_width()), bundle.path.join(next).display());
        print(&text)?;
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::job(format_args!("{} is damaged: {}", bundle.id, problems.join("; "))))
}

fn export(dir: &Path, id: &str, output: Option<&Path>) -> Result<(), Failure> {
    let bundle = find(dir, id)?;
    if output == Some(Path::new("-")) {
        return stream(&bundle, io::stdout().lock());
    }
    let path = output.map_or_else(|| format!("{}.tar.gz", bundle.id.replace('/', "-")).into(), Path::to_path_buf);
    let cannot = |e: io::Error| Failure::job(format_args!("cannot write {}: {e}; name another file with -o", path.display()));
    // of a link, what it leads to; in a directory like /tmp, others may have put links and pipes there
    is_to_be_followed(&path).map_err(cannot)?;
    let file = match fs::metadata(&path) {
        // a pipe or a device is written to, not replaced
        Ok(there) if !there.is_file() => {
            is_ours(&there, "a pipe or device").map_err(cannot)?;
            return stream(&bundle, File::options().write(true).open(&path).map_err(cannot)?);
        }
        Ok(_) => path.canonicalize().map_err(cannot)?,
        Err(e) if path.is_symlink() => return Err(cannot(e)),
        Err(_) => path.clone(),
    };
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // 0600 like the bundle's own files, and under its name only when it is whole
    let mut fresh = tempfile::NamedTempFile::new_in(dir).map_err(cannot)?;
    archive::write(&bundle, io::BufWriter::new(&mut fresh))?.into_inner().map_err(|e| cannot(e.into_error()))?;
    fresh.as_file().sync_all().map_err(cannot)?;
    fresh.persist(&file).map_err(|e| cannot(e.error))?;
    print_exactly(&format!("{}\n", path.display()))
}

/// An error for a link that another user made: it could lead to any file of whoever asks.
fn is_to_be_followed(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => is_ours(&there, "a link"),
        _ => Ok(()),
    }
}

fn is_ours(there: &fs::Metadata, what: &str) -> io::Result<()> {
    if User::own().is_or_root(there.uid()) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{what} of user {} is in its place", there.uid())))
}

/// The archive as a stream of bytes, which may end in the middle if something fails.
fn stream(bundle: &Bundle, out: impl Write + IsTerminal) -> Result<(), Failure> {
    if out.is_terminal() {
        return Err(Failure::usage("an archive is nothing for a terminal; redirect it, or name a file with -o"));
    }
    Ok(archive::write(bundle, io::BufWriter::new(out))?.flush()?)
}

/// All are looked up before the first is deleted; a part of an id is too little to delete by.
fn rm(dir: &Path, ids: &[String]) -> Result<(), Failure> {
    let bundles: Vec<Bundle> = ids.iter().map(|id| bundle::open(dir, id)).collect::<Result<_, _>>()?;
    let foreign = bundles.iter().find(|b| b.id.split('/').next() != Some(&b.manifest.target));
    if let Some(b) = foreign {
        let target = crate::text::one_line(&b.manifest.target, 80);
        return Err(Failure::job(format_args!("{} carries the manifest of target `{target}`; memtrap did not put it there", b.id)));
    }
    for bundle in &bundles {
        bundle::remove(bundle)?;
    }
    Ok(())
}

/// The bundle of this id, or the only one whose id contains it.
fn find(dir: &Path, id: &str) -> Result<Bundle, Failure> {
    match bundle::open(dir, id) {
        Err(BundleError::NotFound { .. } | BundleError::BadId { .. }) => {}
        opened => return Ok(opened?),
    }
    let Survey { bundles, damaged, mut closed } = bundle::survey(dir)?;
    let whole = bundles.into_iter().map(|b| (b.id.clone(), Ok(b)));
    let mut fitting: Vec<_> =
        whole.chain(damaged.into_iter().map(|(id, why)| (id, Err(why)))).filter(|(full, _)| full.contains(id)).collect();
    match (fitting.pop(), fitting.len()) {
        (Some((_, one)), 0) => Ok(one?),
        (None, _) if !closed.is_empty() => Err(closed.swap_remove(0).into()),
        (None, _) => Err(Failure::job(format_args!("no bundle `{id}` in {}; see `memtrap bundles list`", dir.display()))),
        (Some(_), more) => Err(Failure::usage(format_args!("`{id}` fits {} bundles; write more of the id", more + 1))),
    }
}
