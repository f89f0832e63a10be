//! The bundles as the outside sees them. A published bundle never changes, so that each is read once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::analysis;
use crate::aside::{NoAnswer, Threads};
use crate::bundle::{self, BundleError, Outcome};
use crate::clock::Mono;
use crate::error::chain;
use crate::text::one_line;
use crate::trigger::Trigger;
use crate::verdict::{Cause, Confidence, Explains};

/// The directory is looked at no more often than this.
const FRESH: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(3);
/// A listing that has begun is waited for by whoever asks next.
const FOREVER: Duration = Duration::from_secs(30 * 86_400);
/// Of a verdict's sentence.
const MAX_SUMMARY: usize = 600;

/// A bundle in `/api/bundles`. Sizes in bytes, times in RFC 3339.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caught {
    /// `TARGET/NAME`; its files are at `/bundles/TARGET/NAME/FILE`.
    pub id: String,
    pub target: String,
    /// Of a target that means many services: which of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// For people: `pid 4821`.
    pub instance: String,
    pub incident_id: String,
    pub part: u32,
    pub trigger: Trigger,
    /// Why it was taken, in words.
    pub reason: String,
    pub rss_bytes: u64,
    pub started: String,
    pub finished: String,
    pub outcome: Outcome,
    pub bytes: u64,
    /// Where its report is; null if it has none.
    pub report: Option<String>,
    pub verdict: Option<Answer>,
}

/// The verdict's main words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub go_heap_explains: Explains,
    pub cause: Cause,
    pub confidence: Confidence,
    pub summary: String,
}

/// What is known of the bundle directory, and since when.
#[derive(Debug)]
pub(super) struct Index {
    dir: PathBuf,
    listed: Option<(Mono, Arc<Vec<Caught>>)>,
    /// A listing that is being made: one at a time, however slow the disk.
    listing: Option<JoinHandle<Listing>>,
    threads: Threads,
}

type Listing = Result<Result<Arc<Vec<Caught>>, BundleError>, NoAnswer>;

impl Index {
    pub fn new(dir: PathBuf) -> Index {
        Index { dir, listed: None, listing: None, threads: Threads::new("index", 1) }
    }

    /// Every bundle, the newest first.
    ///
    /// Cancel safe: a listing that was begun is taken up by the next who asks.
    pub async fn newest_first(&mut self, now: Mono) -> Result<Arc<Vec<Caught>>, String> {
        if let Some((_, list)) = self.listed.as_ref().filter(|(at, _)| now.since(*at) < FRESH) {
            return Ok(list.clone());
        }
        // who finds one that others have waited for does not wait for it as well
        let patience = if self.listing.is_some() { Duration::ZERO } else { PATIENCE };
        let (dir, known, threads) = (self.dir.clone(), self.listed.as_ref().map(|(_, list)| list.clone()), self.threads.clone());
        let listing = self
            .listing
            .get_or_insert_with(|| tokio::spawn(async move { threads.run(FOREVER, move || list(dir, known.unwrap_or_default())).await }));
        let Ok(done) = tokio::time::timeout(patience, listing).await else { return Err("the disk does not answer".into()) };
        self.listing = None;
        let done = done.map_err(|crashed| crashed.to_string())?.map_err(|crashed| crashed.to_string())?;
        let list = done.map_err(|error| chain(&error))?;
        self.listed = Some((now, list.clone()));
        Ok(list)
    }
}

fn list(dir: PathBuf, known: Arc<Vec<Caught>>) -> Result<Arc<Vec<Caught>>, BundleError> {
    let ids = bundle::ids(&dir)?;
    let mut read: HashMap<&str, &Caught> = known.iter().map(|c| (c.id.as_str(), c)).collect();
    if ids.len() == read.len() && ids.iter().all(|id| read.contains_key(id.as_str())) {
        return Ok(known);
    }
    let mut list: Vec<Caught> =
        ids.iter().filter_map(|id| read.remove(id.as_str()).cloned().or_else(|| Some(Caught::of(&bundle::open(&dir, id).ok()?)))).collect();
    list.sort_by(|a, b| (&b.started, &b.id).cmp(&(&a.started, &a.id)));
    Ok(Arc::new(list))
}

impl Caught {
    /// Reads the verdict. Blocks on the disk.
    pub fn of(bundle: &bundle::Bundle) -> Caught {
        let m = &bundle.manifest;
        let has_report = m.files.iter().any(|f| f.name == "report.html" && f.has_file());
        let verdict = analysis::verdict_in(bundle).map(|v| Answer {
            go_heap_explains: v.go_heap_explains,
            cause: v.cause,
            confidence: v.confidence,
            summary: one_line(&v.summary, MAX_SUMMARY),
        });
        Caught {
            id: bundle.id.clone(),
            target: m.target.clone(),
            workload: m.instance.workload.as_deref().map(|name| one_line(name, 200)),
            instance: one_line(&m.instance.label, 200),
            incident_id: m.incident_id.clone(),
            part: m.part,
            trigger: m.trigger.trigger,
            reason: one_line(&m.trigger.reason, MAX_SUMMARY),
            rss_bytes: m.trigger.rss_bytes,
            started: m.started.clone(),
            finished: m.finished.clone(),
            outcome: m.outcome,
            bytes: bundle.bytes(),
            report: has_report.then(|| format!("/bundles/{}/report.html", bundle.id)),
            verdict,
        }
    }
}
