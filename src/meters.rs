//! What memtrap counts about itself while it runs, for `/metrics` and `/healthz`.
//!
//! Whoever does a thing counts it here; nobody decides anything by it. Cheap enough to be counted even where nobody listens. Not here: what is
//! known only at the moment of asking (RSS, states, bundles), which `serve` collects then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::Mono;
use crate::trigger::Trigger;

/// Seconds: from a capture of the kernel's side alone to one of a large heap over a slow line.
const CAPTURE_SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Seconds: from one process to ten thousand.
const POLL_SECONDS: [f64; 10] = [0.000_05, 0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CaptureLabels {
    target: String,
    trigger: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SkipLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertLabels {
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KillLabels {
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReceiverLabels {
    receiver: String,
}

/// The counters; clones count together.
#[derive(Clone, Debug)]
pub struct Meters {
    captures: Family<CaptureLabels, Counter>,
    skipped: Family<SkipLabels, Counter>,
    alerts: Family<AlertLabels, Counter>,
    oom_kills: Family<KillLabels, Counter>,
    capture_seconds: Histogram,
    poll_seconds: Histogram,
    waiting: Family<ReceiverLabels, Gauge>,
    clock_doubted: Gauge,
    last_turn: Arc<AtomicU64>,
}

impl Default for Meters {
    fn default() -> Meters {
        Meters {
            captures: Family::default(),
            skipped: Family::default(),
            alerts: Family::default(),
            oom_kills: Family::default(),
            capture_seconds: Histogram::new(CAPTURE_SECONDS),
            poll_seconds: Histogram::new(POLL_SECONDS),
            waiting: Family::default(),
            clock_doubted: Gauge::default(),
            last_turn: Arc::default(),
        }
    }
}

impl Meters {
    /// A capture ended; `outcome` is its manifest's, or `failed` where nothing was saved.
    pub fn captured(&self, target: &str, trigger: Trigger, outcome: &'static str, took: Duration) {
        let labels = CaptureLabels { target: target.to_owned(), trigger: trigger.name(), outcome };
        self.captures.get_or_create(&labels).inc();
        self.capture_seconds.observe(took.as_secs_f64());
    }

    /// A trigger fired, and no capture followed: why, in one word.
    pub fn skipped(&self, reason: &'static str) {
        self.skipped.get_or_create(&SkipLabels { reason }).inc();
    }

    /// An alert came, and so it ended: `capturing` or `nothing`.
    pub fn alert(&self, action: &'static str) {
        self.alerts.get_or_create(&AlertLabels { action }).inc();
    }

    /// The kernel killed for memory in a cgroup of this target, so many times.
    pub fn oom_killed(&self, target: &str, kills: u64) {
        self.oom_kills.get_or_create(&KillLabels { target: target.to_owned() }).inc_by(kills);
    }

    /// All that was due was read and judged.
    pub fn polled(&self, took: Duration) {
        self.poll_seconds.observe(took.as_secs_f64());
    }

    /// So many deliveries have not arrived yet; `None`: there is no such receiver any more.
    pub fn waiting(&self, receiver: &str, deliveries: Option<usize>) {
        let labels = ReceiverLabels { receiver: receiver.to_owned() };
        match deliveries {
            Some(deliveries) => {
                self.waiting.get_or_create(&labels).set(i64::try_from(deliveries).unwrap_or(i64::MAX));
            }
            None => {
                self.waiting.remove(&labels);
            }
        }
    }

    /// Nothing is deleted for its age at the moment, as the wall clock has jumped.
    pub fn clock_doubted(&self, doubted: bool) {
        self.clock_doubted.set(i64::from(doubted));
    }

    pub fn is_clock_doubted(&self) -> bool {
        self.clock_doubted.get() != 0
    }

    /// The polling loop turns.
    pub fn beat(&self, now: Mono) {
        self.last_turn.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// When the polling loop turned last.
    pub fn last_turn(&self) -> Mono {
        Mono::from_nanos(self.last_turn.load(Ordering::Relaxed))
    }

    /// Offers the counters for scraping.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("memtrap_captures", "Captures that ended, by what fired them and what became of them", self.captures.clone());
        let help = "Triggers that no capture followed, by what stood in the way";
        registry.register("memtrap_capture_skipped", help, self.skipped.clone());
        let help = "Alerts that Alertmanager sent, by what they led to";
        registry.register("memtrap_alerts", help, self.alerts.clone());
        let help = "Processes that the kernel killed for memory in the cgroups of a target";
        registry.register("memtrap_oom_kills", help, self.oom_kills.clone());
        let help = "Time from a trigger to its published bundle";
        registry.register_with_unit("memtrap_capture_duration", help, Unit::Seconds, self.capture_seconds.clone());
        let help = "Time to read and judge all that is due at one moment";
        registry.register_with_unit("memtrap_poll_duration", help, Unit::Seconds, self.poll_seconds.clone());
        let help = "1 while nothing is deleted for its age, as the wall clock has jumped";
        registry.register("memtrap_clock_doubted", help, self.clock_doubted.clone());
        let help = "Deliveries that have not arrived yet: bundles to be uploaded, and notifications";
        registry.register("memtrap_egress_waiting", help, self.waiting.clone());
    }
}
