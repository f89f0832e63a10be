//! What there is after the last step: memtrap's own files, the verdict, and the rename.

use std::sync::PoisonError;
use std::time::SystemTime;

use super::{CaptureError, Captured, Env, Request, Scope, analyse, end, kernel};
use crate::aside::Lane;
use crate::bundle::{FileEntry, Manifest, Outcome, Partial, Published, Status, timeline};
use crate::clock::{self, Mono};
use crate::host::limit::OomCounter;
use crate::report::Written;
use crate::text;

/// The timeline, what the metrics told, and how the process ended.
pub(super) async fn own_files(
    mut partial: Partial,
    gone: Option<SystemTime>,
    oom: Option<OomCounter>,
    request: &Request,
    env: &Env,
    lane: &Lane,
) -> Result<Partial, CaptureError> {
    let samples = request.timeline.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (started, local, full) = (request.started, request.instance.is_some(), request.scope == Scope::Full);
    // of now: a clock may have been set, or the host have slept, since memtrap started
    let anchor = (Mono::now(), clock::wall_now());
    let remote = request.remote.clone();
    let (procfs, instance) = (env.procfs.clone(), request.instance);
    let floors = request.floors.clone();
    let gathered = lane.run(move || {
        if full {
            partial.add("timeline", timeline::FILE, timeline::write(&samples, started, anchor).as_bytes());
        }
        if full && !floors.is_empty() {
            partial.add("floors", timeline::FLOORS, timeline::write_floors(&floors, started).as_bytes());
        }
        if let Some(remote) = remote {
            partial.add("metrics", "metrics.json", text::json_pretty(&remote).unwrap_or_default().as_bytes());
        }
        if local && full {
            let status = instance.filter(|_| gone.is_some()).and_then(|id| procfs.exit_status(id));
            let end = end::look(gone, oom.as_ref(), status, samples.last().map(|kept| kept.sample), anchor);
            // the files of the plan are of a process that lives
            let left = oom.as_ref().filter(|_| end.gone).map(|oom| kernel::cgroup_numbers(oom.cgroup())).unwrap_or_default();
            if !left.is_empty() {
                partial.add("cgroup_end", "cgroup_end.txt", left.as_bytes());
            }
            partial.add("end", "end.json", text::json_pretty(&end).unwrap_or_default().as_bytes());
        }
        partial
    });
    Ok(gathered.await?)
}

/// Of a child with limits; `None` where none is wanted.
pub(super) async fn verdict(
    partial: &Partial,
    outcome: Outcome,
    stopped: bool,
    request: &Request,
    env: &Env,
) -> Option<Result<Written, String>> {
    let program = env.analyser.as_ref().filter(|_| request.scope == Scope::Full)?;
    if stopped {
        return Some(Err("memtrap was told to stop; `memtrap analyze` on this bundle gives it".to_owned()));
    }
    let manifest = Manifest { outcome, finished: clock::rfc3339_millis(clock::wall_now()), ..partial.manifest().clone() };
    let _seat = env.seats.acquire().await;
    Some(analyse::ask(program, &env.threads, partial.path().into(), partial.published_path().into(), &manifest, request.lang).await)
}

/// Writes the verdict, syncs everything, and gives the bundle its name.
pub(super) async fn publish(
    mut partial: Partial,
    outcome: Outcome,
    verdict: Option<Result<Written, String>>,
    lane: &Lane,
) -> Result<Captured, CaptureError> {
    let published = lane.run(move || {
        let summary = match verdict {
            Some(Ok(written)) => {
                let json = text::json_pretty(&written.verdict).unwrap_or_default() + "\n";
                partial.add("verdict", "verdict.json", json.as_bytes());
                partial.add("report_text", "report.txt", written.text.as_bytes());
                partial.add("report", "report.html", written.html.as_bytes());
                Some(written.verdict.summary)
            }
            Some(Err(reason)) => {
                partial.record(FileEntry { status: Status::Failed, ..FileEntry::skipped("verdict", "verdict.json", reason) });
                None
            }
            None => None,
        };
        let path = partial.path().to_path_buf();
        let published = partial.publish(outcome, clock::wall_now()).map_err(|source| CaptureError::Publish { path, source });
        published.map(|published| captured(published, summary))
    });
    published.await?
}

fn captured(published: Published, verdict: Option<String>) -> Captured {
    let files = &published.manifest.files;
    Captured {
        verdict,
        outcome: published.manifest.outcome,
        evidence: published.manifest.has_evidence(),
        failed: files.iter().filter(|e| e.status == Status::Failed).map(|e| e.name.clone()).collect(),
        warnings: published.manifest.warnings.into_iter().map(|w| w.text).collect(),
        id: published.id,
        path: published.path,
        bytes: published.bytes,
    }
}
