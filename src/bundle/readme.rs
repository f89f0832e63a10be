//! `README.md` of a bundle: for a person with nothing but `go tool pprof` and an editor.

use std::fmt::Write;
use std::path::Path;

use super::manifest::{FileEntry, MANIFEST, Manifest, Status};
use crate::steps;
use crate::text::{code, prose, shell};
use crate::units::ByteSize;

/// What is in a file, by its name in the bundle.
fn describe(name: &str) -> &'static str {
    if let Some(step) = steps::of_file(name) {
        return step.describes;
    }
    match name {
        "end.json" => "how the process ended, if it did, and its last RSS",
        "cgroup_end.txt" => "memory limits, usage and events of its cgroups, read after its end",
        "timeline.csv" => "RSS before and during the capture",
        "floors.csv" => "the lowest RSS of each hour of the last month, which `leak` judges by",
        "README.md" => "this page",
        "metrics.json" => "what the instance's metrics said last: RSS, limit, start time, `go_memstats_*`",
        "verdict.json" => "the named cause with its evidence, for machines",
        "report.txt" => "the verdict and its tables, for people",
        "report.html" => "the same with pictures, in one file",
        name if name.ends_with(".rejected") => "the beginning of an answer that was not what was asked for",
        name if name.starts_with("baseline/") => "the same from when the process was last healthy",
        name if name.starts_with("proc") => "from /proc",
        _ => "an extra profile that the configuration asks for",
    }
}

/// The page for this bundle, which will lie at `path`.
pub(super) fn text(manifest: &Manifest, path: &Path) -> String {
    let mut page = String::new();
    // writing to a String does not fail
    let _ = write(&mut page, manifest, path);
    page
}

fn write(out: &mut String, manifest: &Manifest, path: &Path) -> std::fmt::Result {
    let trigger = &manifest.trigger;
    writeln!(out, "# Memory incident of {}\n", code(&manifest.target))?;
    writeln!(out, "- what fired: **{}**: {}", trigger.trigger.name(), prose(&trigger.reason))?;
    write!(out, "- RSS at that moment: {} ({} bytes)", ByteSize(trigger.rss_bytes), trigger.rss_bytes)?;
    match trigger.limit_bytes {
        Some(limit) => writeln!(out, " of {} that it may use", ByteSize(limit))?,
        None => writeln!(out)?,
    }
    if let Some((charge, cgroup)) = trigger.charge_bytes.zip(trigger.charge_cgroup.as_ref()) {
        let limit = trigger.charge_limit_bytes.map_or_else(String::new, |limit| format!(" of the {} that it may use", ByteSize(limit)));
        writeln!(out, "- cgroup {}: {} that the kernel cannot drop{limit}; that is what it kills for", code(cgroup), ByteSize(charge))?;
    }
    writeln!(
        out,
        "- process: {}{}",
        code(&manifest.instance.label),
        manifest.instance.exe.as_ref().map(|e| format!(", {}", code(e))).unwrap_or_default()
    )?;
    // of an instance elsewhere it is only where memtrap ran
    let host = if manifest.instance.series.is_some() { "captured from host" } else { "host" };
    writeln!(out, "- {host}: {}", code(&manifest.host))?;
    writeln!(out, "- captured: {} to {}, **{}**", prose(&manifest.started), prose(&manifest.finished), manifest.outcome.name())?;
    writeln!(out, "- incident: {}, part {}", code(&manifest.incident_id), manifest.part)?;
    for warning in &manifest.warnings {
        writeln!(out, "- **warning**: {}", prose(&warning.text))?;
    }
    reading(out, manifest, path)?;
    writeln!(out, "\n## What is here\n\n| file | bytes | what it is |\n| --- | ---: | --- |")?;
    for entry in manifest.files.iter().filter(|e| e.has_file()) {
        let note = entry.reason.as_ref().map(|r| format!(" ({})", prose(r))).unwrap_or_default();
        let failed = if entry.status == Status::Ok { "" } else { "**not complete**: " };
        writeln!(out, "| {} | {} | {failed}{}{note} |", code(&entry.name), entry.bytes, describe(&entry.name))?;
    }
    if !has(manifest, "README.md") {
        writeln!(out, "| `README.md` | | {} |", describe("README.md"))?;
    }
    writeln!(out, "| {} | | sizes, SHA-256 sums, sources and outcomes of all of these |", code(MANIFEST))?;
    let absent: Vec<&FileEntry> = manifest.files.iter().filter(|e| !e.has_file()).collect();
    if !absent.is_empty() {
        writeln!(out, "\n## What is not here, and why\n")?;
    }
    for entry in absent {
        writeln!(out, "- {}: {}", code(&entry.name), prose(entry.reason.as_deref().unwrap_or("no reason was recorded")))?;
    }
    Ok(())
}

fn has(manifest: &Manifest, name: &str) -> bool {
    manifest.files.iter().any(|e| e.name == name && e.has_file() && (e.status == Status::Ok || name.ends_with(".txt")))
}

/// One thing to do: a sentence, and commands or files for it. `{NAME}` in a command becomes the quoted path of that file.
struct Item {
    why: &'static str,
    needs: &'static [&'static str],
    commands: &'static [&'static str],
}

const HEAP: &[Item] = &[
    Item {
        why: "What is live now, by bytes. If its total comes near the RSS, the Go heap explains the RSS and these are the functions to look at:",
        needs: &["heap_gc.pb.gz"],
        commands: &["go tool pprof -top -sample_index=inuse_space {heap_gc.pb.gz}"],
    },
    Item {
        why: "The same from before the forced GC (the GC could not be asked for):",
        needs: &["heap.pb.gz", "!heap_gc.pb.gz"],
        commands: &[
            "go tool pprof -top -sample_index=inuse_space {heap.pb.gz}",
            "go tool pprof -top -sample_index=inuse_objects {heap.pb.gz}",
        ],
    },
    Item {
        why: "What is live now, by number: many small objects cost more than their bytes:",
        needs: &["heap_gc.pb.gz"],
        commands: &["go tool pprof -top -sample_index=inuse_objects {heap_gc.pb.gz}"],
    },
    Item {
        why: "What grew since the process was healthy:",
        needs: &["heap_gc.pb.gz", "baseline/heap.pb.gz"],
        commands: &["go tool pprof -top -sample_index=inuse_space -diff_base={baseline/heap.pb.gz} {heap_gc.pb.gz}"],
    },
    Item {
        why: "Who holds it: what would be freed without each variable, goroutine or timer, and the way from it to the bytes:",
        needs: &["holders.json"],
        commands: &["memtrap holders {holders.json}"],
    },
    Item {
        why: "Who allocates, freed or not. High here and low above is churn: garbage between two GC cycles, not a leak:",
        needs: &["allocs.pb.gz"],
        commands: &[
            "go tool pprof -top -sample_index=alloc_space {allocs.pb.gz}",
            "go tool pprof -top -sample_index=alloc_objects {allocs.pb.gz}",
        ],
    },
    Item {
        why: "What grew while this capture ran:",
        needs: &["heap_gc.pb.gz", "heap_gc_after.pb.gz"],
        commands: &["go tool pprof -top -sample_index=inuse_space -diff_base={heap_gc.pb.gz} {heap_gc_after.pb.gz}"],
    },
];

const GOROUTINES: &[Item] = &[
    Item {
        why: "How many, and where they stand:",
        needs: &["goroutine.pb.gz"],
        commands: &["go tool pprof -top {goroutine.pb.gz}", "go tool pprof -traces {goroutine.pb.gz}"],
    },
    Item {
        why: "Those that can never go on; each is a leak:",
        needs: &["goroutineleak.pb.gz"],
        commands: &["go tool pprof -traces {goroutineleak.pb.gz}"],
    },
    Item {
        why: "Each stack as text; look for many that wait in the same place for minutes:",
        needs: &["goroutine.txt"],
        commands: &["less {goroutine.txt}"],
    },
];

const NON_HEAP: &[Item] = &[
    Item {
        why: "Is it anonymous memory (RssAnon), mapped files (RssFile) or shared memory (RssShmem)?",
        needs: &["proc/status"],
        commands: &["grep -E '^(Vm|Rss|Threads)' {proc/status}"],
    },
    Item {
        why: "The runtime's side. HeapIdle minus HeapReleased is freed but not returned to the kernel; `Stack` is goroutine stacks; MSpan, MCache, BuckHashSys, GCSys and OtherSys are the runtime's own:",
        needs: &["memstats_gc.txt"],
        commands: &["grep -E '^# (Heap|Stack|MSpan|MCache|BuckHash|GCSys|OtherSys|NextGC)' {memstats_gc.txt}"],
    },
    Item {
        why: "The runtime's side. HeapIdle minus HeapReleased is freed but not returned to the kernel; `Stack` is goroutine stacks; MSpan, MCache, BuckHashSys, GCSys and OtherSys are the runtime's own:",
        needs: &["memstats.txt", "!memstats_gc.txt"],
        commands: &["grep -E '^# (Heap|Stack|MSpan|MCache|BuckHash|GCSys|OtherSys|NextGC)' {memstats.txt}"],
    },
    Item {
        why: "RssAnon far above HeapInuse + HeapIdle − HeapReleased + Stack + the runtime's own is memory that Go does not know: C libraries through cgo, mmap, thread stacks. The largest mappings:",
        needs: &["proc/smaps"],
        commands: &["awk '/^[0-9a-f]+-[0-9a-f]+ /{m=$0} /^Rss:/{print $2, m}' {proc/smaps} | sort -rn | head -20"],
    },
    Item { why: "The kernel's sums:", needs: &["proc/smaps_rollup"], commands: &["cat {proc/smaps_rollup}"] },
    Item {
        why: "Who made OS threads (each has a stack outside the Go heap; cgo and blocking system calls make them):",
        needs: &["threadcreate.pb.gz"],
        commands: &["go tool pprof -traces {threadcreate.pb.gz}"],
    },
];

const REST: &[Item] = &[
    Item {
        why: "Where CPU time went (much of it in `runtime.gcBgMarkWorker` or `runtime.mallocgc` means: allocation):",
        needs: &["profile.pb.gz"],
        commands: &["go tool pprof -top {profile.pb.gz}"],
    },
    Item { why: "Waiting for mutexes:", needs: &["mutex.pb.gz"], commands: &["go tool pprof -top {mutex.pb.gz}"] },
    Item { why: "Waiting for channels, locks and others:", needs: &["block.pb.gz"], commands: &["go tool pprof -top {block.pb.gz}"] },
];

fn reading(out: &mut String, manifest: &Manifest, path: &Path) -> std::fmt::Result {
    writeln!(out, "\n## Reading it, in this order\n")?;
    writeln!(
        out,
        "The first question: **does the Go heap explain the RSS?** In the tables of pprof, `flat` is what a function did itself,"
    )?;
    writeln!(
        out,
        "`cum` what it and all that it called did. `inuse_*` is what is live, `alloc_*` all that was ever allocated; `*_space` counts"
    )?;
    writeln!(out, "bytes, `*_objects` pieces. Heap profiles are sampled (one in 512 KiB by default) and scaled up; MemStats is exact.")?;
    let mut number = 0;
    for (title, items) in [
        ("The Go heap", HEAP),
        ("Goroutines", GOROUTINES),
        ("Not the heap: kernel, stacks, cgo, mmap", NON_HEAP),
        ("CPU and waiting", REST),
    ] {
        let wanted = |need: &&str| match need.strip_prefix('!') {
            Some(name) => !has(manifest, name),
            None => has(manifest, need),
        };
        let present: Vec<&Item> = items.iter().filter(|item| item.needs.iter().all(&wanted)).collect();
        if present.is_empty() {
            continue;
        }
        number += 1;
        writeln!(out, "\n### {number}. {title}\n")?;
        for item in present {
            writeln!(out, "{}\n\n```sh", item.why)?;
            for command in item.commands {
                writeln!(out, "{}", fill(command, item.needs, path))?;
            }
            writeln!(out, "```\n")?;
        }
    }
    if number == 0 {
        writeln!(out, "\nNothing could be captured that these commands would read; see below for the reasons.")?;
    } else {
        writeln!(out, "To look around: `go tool pprof -http=:0 FILE` opens a browser with graphs and flame graphs of one profile.")?;
    }
    Ok(())
}

fn fill(command: &str, needs: &[&str], path: &Path) -> String {
    needs.iter().fold(command.to_owned(), |c, name| c.replace(&format!("{{{name}}}"), &shell(path.join(name))))
}
