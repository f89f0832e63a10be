//! `/metrics`: OpenMetrics text, which every Prometheus since 2.5 and every collector reads.
//!
//! What is known only at the moment of asking is collected then, so that no series outlives its instance. An instance is told by the label
//! `target_instance`, since `instance` is the name that Prometheus itself gives to what it scrapes: memtrap.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::index::Caught;
use super::process_metrics::Own;
use super::view::Reloads;
use crate::host::workload::Container;
use crate::meters::Meters;
use crate::poll::{EVIDENCE_OK, InstanceStatus};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything of one moment.
#[derive(Debug)]
pub(super) struct Scrape {
    pub instances: Arc<Vec<InstanceStatus>>,
    pub bundles: Arc<Vec<Caught>>,
    pub reloads: Reloads,
    pub own: Own,
}

/// The whole page.
pub(super) fn text(meters: &Meters, scrape: Scrape) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    meters.register(&mut registry);
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    encode_eof(&mut text)?;
    Ok(text)
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(&mut encoder);
        page.gauge(
            "memtrap_target_rss",
            "Resident memory as read last",
            Some(Unit::Bytes),
            self.instances.iter().filter_map(|i| Some((labels(i), i.rss_bytes? as f64))),
        )?;
        page.gauge(
            "memtrap_target_charge",
            "What the kernel cannot drop of its cgroup, or of the ancestor that is nearest to its limit",
            Some(Unit::Bytes),
            self.instances.iter().filter_map(|i| Some((labels(i), i.charge_bytes? as f64))),
        )?;
        page.gauge(
            "memtrap_target_limit",
            "The memory that it may use: the least of its cgroup limits and the host's memory, or what its metrics say",
            Some(Unit::Bytes),
            self.instances.iter().filter_map(|i| Some((labels(i), i.limit_bytes? as f64))),
        )?;
        page.gauge(
            "memtrap_target_threshold",
            "The lowest stage of its threshold",
            Some(Unit::Bytes),
            self.instances.iter().filter_map(|i| Some((labels(i), *i.threshold_bytes.first()? as f64))),
        )?;
        page.gauge(
            "memtrap_target_evidence_ok",
            "1 if its evidence could be had when it was tried last; 0: a capture would get nothing from pprof",
            None,
            self.instances.iter().filter_map(|i| Some((labels(i), f64::from(u8::from(i.evidence.as_ref()? == EVIDENCE_OK))))),
        )?;
        page.gauge(
            "memtrap_target_state",
            "1 for the state that it is in",
            None,
            self.instances.iter().map(|i| {
                let [target, instance] = labels(i);
                ([target, instance, ("state", i.state.name())], 1.0)
            }),
        )?;
        page.gauge(
            "memtrap_target_info",
            "1; what it belongs to, where its target means many services",
            None,
            self.instances.iter().filter_map(|i| {
                let [target, instance] = labels(i);
                let container = i.container.as_ref();
                let of = |field: fn(&Container) -> Option<&String>| container.and_then(field).map_or("", String::as_str);
                let labels = [
                    target,
                    instance,
                    ("workload", i.workload.as_deref()?),
                    ("namespace", of(|c| c.namespace.as_ref())),
                    ("pod", of(|c| c.pod.as_ref())),
                    ("container", of(|c| c.name.as_ref())),
                    ("image", of(|c| c.image.as_ref())),
                ];
                Some((labels, 1.0))
            }),
        )?;
        let mut of_target: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for bundle in self.bundles.iter() {
            let (count, bytes) = of_target.entry(&bundle.target).or_default();
            (*count, *bytes) = (*count + 1, bytes.saturating_add(bundle.bytes));
        }
        let kept = || of_target.iter().map(|(target, kept)| ([("target", *target)], *kept));
        page.gauge("memtrap_bundles", "Bundles that are kept", None, kept().map(|(l, (count, _))| (l, count as f64)))?;
        let help = "What the bundles that are kept occupy";
        page.gauge("memtrap_bundle", help, Some(Unit::Bytes), kept().map(|(l, (_, bytes))| (l, bytes as f64)))?;
        page.gauge("memtrap_build_info", "1; which memtrap this is", None, [([("version", env!("CARGO_PKG_VERSION"))], 1.0)].into_iter())?;
        self.reloads.encode(&mut page)?;
        self.own.encode(&mut page)
    }
}

impl Reloads {
    fn encode(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let help = "1 if the configuration in force is the file's as it was read last";
        page.one("memtrap_config_last_reload_successful", help, None, Some(f64::from(u8::from(self.failed.is_none()))))?;
        let help = "When the file's configuration came into force, in seconds since 1970";
        let at = self.succeeded.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs_f64());
        page.one("memtrap_config_last_reload_success_timestamp", help, Some(Unit::Seconds), at)
    }
}

impl Own {
    fn encode(&self, page: &mut Page<'_, '_>) -> fmt::Result {
        let seconds = || Some(Unit::Seconds);
        let bytes = || Some(Unit::Bytes);
        if let Some(cpu) = self.cpu_seconds {
            let counter = ConstCounter::new(cpu);
            let help = "Processor time that memtrap has used";
            counter.encode(page.0.encode_descriptor("process_cpu", help, seconds().as_ref(), MetricType::Counter)?)?;
        }
        page.one("process_resident_memory", "memtrap's own resident memory", bytes(), self.resident_bytes.map(|n| n as f64))?;
        page.one("process_virtual_memory", "memtrap's own address space", bytes(), self.virtual_bytes.map(|n| n as f64))?;
        page.one("process_open_fds", "Descriptors that memtrap has open", None, self.open_fds.map(|n| n as f64))?;
        page.one("process_max_fds", "Descriptors that memtrap may have open", None, self.max_fds.map(|n| n as f64))?;
        page.one("process_threads", "Threads of memtrap", None, self.threads.map(|n| n as f64))?;
        page.one("process_start_time", "When memtrap started, in seconds since 1970", seconds(), self.start_unix_seconds)
    }
}

fn labels(i: &InstanceStatus) -> [(&'static str, &str); 2] {
    [("target", &i.target), ("target_instance", i.instance.as_deref().unwrap_or_default())]
}

struct Page<'p, 'e>(&'p mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    /// One metric; nothing at all of one without series.
    fn gauge<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl Iterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut series = series.peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in series {
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn one(&mut self, name: &str, help: &str, unit: Option<Unit>, value: Option<f64>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::status;
    use super::*;
    use crate::incident::State;
    use crate::trigger::Trigger;

    fn page(instances: Vec<InstanceStatus>) -> String {
        let meters = Meters::default();
        meters.captured("checkout", Trigger::Threshold, "complete", Duration::from_secs(31));
        meters.skipped("cooldown");
        meters.polled(Duration::from_micros(80));
        meters.waiting("oncall", Some(3));
        let own = Own { cpu_seconds: Some(1.5), ..Own::default() };
        let reloads = Reloads { succeeded: UNIX_EPOCH + Duration::from_secs(1_795_500_000), failed: None };
        text(&meters, Scrape { instances: Arc::new(instances), bundles: Arc::default(), reloads, own }).unwrap()
    }

    #[test]
    fn the_names_are_those_that_are_documented() {
        let text = page(vec![status("checkout", State::Armed)]);
        for line in [
            "memtrap_target_rss_bytes{target=\"checkout\",target_instance=\"pid 7\"} 104857600.0",
            "memtrap_target_limit_bytes{target=\"checkout\",target_instance=\"pid 7\"} 1073741824.0",
            "memtrap_target_state{target=\"checkout\",target_instance=\"pid 7\",state=\"armed\"} 1.0",
            "memtrap_captures_total{target=\"checkout\",trigger=\"threshold\",outcome=\"complete\"} 1",
            "memtrap_capture_skipped_total{reason=\"cooldown\"} 1",
            "memtrap_capture_duration_seconds_count 1",
            "memtrap_poll_duration_seconds_bucket{le=\"0.0001\"} 1",
            "memtrap_config_last_reload_successful 1.0",
            "memtrap_config_last_reload_success_timestamp_seconds 1795500000.0",
            "memtrap_egress_waiting{receiver=\"oncall\"} 3",
            "process_cpu_seconds_total 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_an_instance_belongs_to_is_a_series_to_join_with() {
        let container =
            Container { id: "x".into(), pod: Some("checkout-1".into()), namespace: Some("shop".into()), ..Container::default() };
        let named = InstanceStatus { workload: Some("shop/checkout".into()), container: Some(container), ..status("host", State::Armed) };
        let text = page(vec![named, status("other", State::Armed)]);
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("memtrap_target_info{")).collect();
        let expected = r#"memtrap_target_info{target="host",target_instance="pid 7",workload="shop/checkout",namespace="shop",pod="checkout-1",container="",image=""}"#;
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].starts_with(expected), "{text}");
    }

    #[test]
    fn labels_from_outside_stay_labels() {
        let mut hostile = status("t", State::Blind);
        hostile.instance = Some("x\"} 1\nmemtrap_evil 1\\".into());
        let text = page(vec![hostile]);
        assert!(text.contains(r#"target_instance="x\"} 1\nmemtrap_evil 1\\""#), "{text}");
        assert!(!text.lines().any(|l| l.starts_with("memtrap_evil")));
    }
}
