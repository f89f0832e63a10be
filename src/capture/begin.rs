//! What there is before the first step: the conditions of the plan, and the directory that it fills.

use std::path::PathBuf;

use super::plan::{Conditions, Step};
use super::{CaptureError, Env, Request, Scope};
use crate::aside::{Lane, NoAnswer};
use crate::bundle::{self, FileEntry, Instance, Manifest, Outcome, Partial, RulesInForce, SCHEMA};
use crate::clock;
use crate::host::cgroup::CgroupRef;
use crate::host::limit::OomCounter;
use crate::host::slowing::Slowed;
use crate::identity::Identity;

/// What it means for the bundle.
const HOW_SLOWED: &str = "whoever allocates there sleeps, so what is light was asked for first, and a forced collection or a CPU profile only once it had recovered";

pub(super) async fn is_disk_low(request: &Request, env: &Env, lane: &Lane) -> Result<bool, NoAnswer> {
    let (dir, min_free) = (env.bundle_dir.clone(), request.min_free);
    lane.run(move || bundle::free_disk(&dir).is_some_and(|free| free < min_free.0)).await
}

/// Where the process's memory is charged.
pub(super) async fn cgroup(request: &Request, env: &Env, lane: &Lane) -> Result<Option<CgroupRef>, NoAnswer> {
    let known = request.oom.as_ref().map(|oom| oom.cgroup().clone());
    let (procfs, id) = (env.procfs.clone(), request.instance);
    lane.run(move || known.or_else(|| CgroupRef::of(&procfs, id?.pid).ok()?)).await
}

/// Whether the kernel slows the process down there now.
pub(super) async fn slowed(cgroup: Option<CgroupRef>, lane: &Lane) -> Result<Option<Slowed>, NoAnswer> {
    lane.run(move || cgroup.as_ref().and_then(Slowed::now)).await
}

pub(super) fn conditions(request: &Request, low_disk: bool, slowed: bool) -> Conditions<'_> {
    Conditions {
        local: request.instance.is_some(),
        remote: request.remote.is_some(),
        no_pprof: request.no_pprof.as_deref(),
        low_disk,
        hurry: request.hurry,
        slowed,
        scope: request.scope,
    }
}

/// Where the instance's baseline is looked for, if there may be one.
pub(super) fn baseline(request: &Request) -> Option<(PathBuf, Identity)> {
    let remote = request.remote.as_ref();
    let id = request.instance.map(Identity::Process).or_else(|| remote.map(|r| Identity::Series(r.id.clone())))?;
    Some((request.baselines.clone().filter(|_| request.scope == Scope::Full)?, id))
}

/// Makes the bundle's directory, whose draft has every step of the plan as not taken yet.
pub(super) async fn partial(
    request: &Request,
    env: &Env,
    plan: &[Step],
    slowed: Option<Slowed>,
    lane: &Lane,
) -> Result<(Partial, Option<OomCounter>), CaptureError> {
    let mut draft = Manifest {
        schema: SCHEMA,
        memtrap_version: env!("CARGO_PKG_VERSION").into(),
        incident_id: request.incident_id.clone(),
        part: request.part,
        target: request.target.name.clone(),
        instance: Instance {
            label: request.instance_label.clone(),
            workload: request.workload.as_ref().map(|workload| workload.name.clone()),
            container: request.workload.as_ref().and_then(|workload| workload.container.clone()),
            pid: request.instance.map(|i| i.pid),
            start_ticks: request.instance.map(|i| i.start_ticks),
            exe: None,
            series: request.remote.as_ref().map(|r| r.id.series.to_string()),
            started_unix_ms: request.remote.as_ref().and_then(|r| r.id.started_unix_ms),
        },
        trigger: request.fired.clone(),
        rules: Some(RulesInForce::of(&request.target.rules, request.target.interval)).filter(|_| request.fired.trigger.by_rule()),
        host: env.host.clone(),
        boot_id: env.boot_id.clone(),
        started: clock::rfc3339_millis(request.started),
        finished: String::new(),
        outcome: Outcome::Interrupted,
        warnings: slowed.iter().map(|slowed| format!("{}: {HOW_SLOWED}", slowed.words()).into()).collect(),
        slowed,
        files: plan.iter().map(|s| FileEntry::skipped(&s.name, &s.file, "memtrap ended before this step")).collect(),
    };
    let (id, known) = (request.instance, request.oom.clone());
    let (procfs, bundle_dir, started) = (env.procfs.clone(), env.bundle_dir.clone(), request.started);
    let made = lane.run(move || {
        let dir = id.and_then(|id| procfs.dir_of(id).ok());
        draft.instance.exe = dir.and_then(|d| d.exe().ok()).map(|exe| exe.to_string_lossy().into_owned());
        let oom = known.or_else(|| Some(OomCounter::new(CgroupRef::of(&procfs, id?.pid).ok()??)));
        Partial::create(&bundle_dir, started, draft).map(|partial| (partial, oom))
    });
    let (mut partial, oom) = made.await?.map_err(CaptureError::Begin)?;
    if let Some(warning) = &request.warning {
        let note = partial.warn(warning.clone());
        lane.run(move || note.write()).await?;
    }
    Ok((partial, oom))
}
