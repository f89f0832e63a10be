//! From what the watcher orders to what a capture is asked to do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::capture;
use crate::clock;
use crate::config::{Capture, Target};
use crate::lang::Lang;
use crate::poll::{Baseline, Job, Subject};
use crate::trigger::Fired;
use crate::units::ByteSize;

/// With each step of a baseline: others wait, and it comes again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The capture that a rule orders.
pub(super) fn full(job: &Job, min_free: ByteSize, baselines: Option<PathBuf>, lang: Lang) -> capture::Request {
    capture::Request {
        incident_id: job.incident.clone(),
        part: job.part,
        fired: job.fired.clone(),
        warning: job.warning.clone(),
        timeline: job.timeline.clone(),
        floors: job.floors.clone(),
        oom: job.oom.clone(),
        hurry: job.hurry,
        min_free,
        baselines,
        lang,
        ..of_subject(&job.subject, capture::Scope::Full)
    }
}

/// A baseline of an instance that is healthy now.
pub(super) fn healthy(baseline: Baseline) -> capture::Request {
    let Baseline { mut subject, rss, .. } = baseline;
    let capture = Capture { retries: 0, step_timeout: subject.target.capture.step_timeout.min(PATIENCE), ..subject.target.capture.clone() };
    subject.target = Arc::new(Target { capture, ..(*subject.target).clone() });
    capture::Request {
        incident_id: format!("{}-baseline", subject.target.name),
        fired: Fired::manual(rss, None, format!("a baseline, taken while healthy at RSS {}", ByteSize(rss))),
        ..of_subject(&subject, capture::Scope::Baseline)
    }
}

fn of_subject(subject: &Subject, scope: capture::Scope) -> capture::Request {
    let remote = subject.instance.series().zip(subject.remote.as_ref()).map(|(id, facts)| {
        let started = facts.started_unix_ms.map(|ms| std::time::UNIX_EPOCH + Duration::from_millis(ms));
        crate::bundle::RemoteInstance {
            id: id.clone(),
            rss_bytes: facts.rss,
            limit_bytes: facts.limit.as_ref().map(|l| l.bytes),
            limit_source: facts.limit.as_ref().map(|l| l.source.clone()),
            age_seconds: started.and_then(|at| clock::wall_now().duration_since(at).ok()).map(|age| age.as_secs_f64()),
            go_memstats: facts.go.as_deref().copied(),
        }
    });
    capture::Request {
        incident_id: String::new(),
        part: 1,
        scope,
        target: subject.target.clone(),
        instance: subject.instance.process(),
        instance_label: subject.label.clone(),
        workload: subject.workload.clone(),
        remote,
        no_pprof: subject.no_pprof.clone(),
        warning: None,
        fired: Fired::manual(0, None, String::new()),
        hurry: false,
        started: clock::wall_now(),
        timeline: Arc::default(),
        floors: Vec::new(),
        oom: None,
        answers_early: false,
        min_free: ByteSize(0),
        baselines: None,
        lang: Lang::default(),
    }
}
