//! What is told of a bundle, and in which form: pure.
//!
//! A notice holds the facts, taken from the bundle when it is queued, so that it can be delivered after retention or an upload has
//! deleted the bundle. Its forms are memtrap's own JSON (schema 1), Slack's, Alertmanager's, and the environment of a program.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bundle::{Bundle, Outcome};
use crate::config::Message;
use crate::digest;
use crate::host::workload::Container;
use crate::text::one_line;
use crate::trigger::Fired;
use crate::units::ByteSize;

const SCHEMA: u32 = 1;
/// Slack takes 40,000 characters; a person at night takes fewer.
const MAX_TEXT: usize = 4_000;
/// An alert is a message and not a state: it resolves by itself after this.
const ALERT_LASTS: Duration = Duration::from_secs(3_600);

/// The facts of one bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The bundle's ID.
    pub bundle: String,
    /// Where it lies on `host`.
    pub path: String,
    pub bytes: u64,
    pub target: String,
    pub instance: String,
    /// Where the target means many services.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub container: Option<Container>,
    pub pid: Option<u32>,
    pub host: String,
    pub incident: String,
    pub part: u32,
    pub trigger: Fired,
    /// RFC 3339, UTC.
    pub started: String,
    pub finished: String,
    pub outcome: Outcome,
    pub verdict: Option<Said>,
}

/// What `verdict.json` says, in the words that stand there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    pub go_heap_explains: String,
    pub cause: String,
    pub confidence: String,
    pub summary: String,
}

impl Said {
    fn of(verdict: &Value) -> Option<Said> {
        let word = |key: &str, most| Some(one_line(verdict.get(key)?.as_str()?, most));
        Some(Said {
            go_heap_explains: word("go_heap_explains", 40)?,
            cause: word("cause", 40)?,
            confidence: word("confidence", 40)?,
            summary: word("summary", 1_000)?,
        })
    }
}

impl Notice {
    /// Of a bundle and its `verdict.json`, if there is one.
    pub fn new(bundle: &Bundle, verdict: Option<&Value>) -> Notice {
        let m = &bundle.manifest;
        Notice {
            bundle: bundle.id.clone(),
            path: bundle.path.display().to_string(),
            bytes: bundle.bytes(),
            target: m.target.clone(),
            instance: one_line(&m.instance.label, 300),
            workload: m.instance.workload.as_deref().map(|name| one_line(name, 300)),
            container: m.instance.container.clone(),
            pid: m.instance.pid,
            host: one_line(&m.host, 100),
            incident: one_line(&m.incident_id, 200),
            part: m.part,
            trigger: m.trigger.clone(),
            started: m.started.clone(),
            finished: m.finished.clone(),
            outcome: m.outcome,
            verdict: verdict.and_then(Said::of),
        }
    }

    /// Of no bundle: for someone who wants to know whether messages arrive.
    pub fn of_a_test(host: &str, pid: u32, now: SystemTime) -> Notice {
        let stamp = crate::clock::rfc3339_millis(now);
        let reason = "this is a test; nothing has happened".to_owned();
        Notice {
            bundle: "test/none".into(),
            path: "/none".into(),
            bytes: 0,
            target: "test".into(),
            instance: format!("memtrap check, pid {pid}"),
            workload: None,
            container: None,
            pid: Some(pid),
            host: host.into(),
            incident: format!("test-{stamp}"),
            part: 1,
            trigger: Fired::manual(0, None, reason),
            started: stamp.clone(),
            finished: stamp,
            outcome: Outcome::Complete,
            verdict: None,
        }
    }

    /// The same for each attempt to deliver this notice, and for no other bundle's.
    pub fn key(&self) -> String {
        digest::short(format!("{}\0{}\0{}", self.host, self.bundle, self.started), 16)
    }

    /// The report on the status page, if people can reach that; else the place on the host.
    pub fn link(&self, external_url: Option<&str>) -> String {
        match external_url {
            Some(url) => format!("{url}/bundles/{}/report.html", self.bundle),
            None => format!("{}:{}/report.html", self.host, self.path),
        }
    }

    fn summary(&self) -> String {
        match &self.verdict {
            Some(said) => said.summary.clone(),
            None => format!("{}; there is no verdict", self.trigger.reason),
        }
    }

    fn word(&self, word: impl Fn(&Said) -> &str) -> String {
        self.verdict.as_ref().map_or("unknown", word).to_owned()
    }

    /// A person's message: every place filled in.
    pub fn message(&self, message: &Message, link: &str) -> String {
        let text = message.fill(|name| match name {
            "target" => self.target.clone(),
            "instance" => self.instance.clone(),
            "host" => self.host.clone(),
            "trigger" => self.trigger.trigger.name().to_owned(),
            "reason" => self.trigger.reason.clone(),
            "rss" => ByteSize(self.trigger.rss_bytes).to_string(),
            "limit" => self.trigger.limit_bytes.map_or_else(|| "unknown".into(), |b| ByteSize(b).to_string()),
            "outcome" => self.outcome.name().to_owned(),
            "cause" => self.word(|s| &s.cause),
            "confidence" => self.word(|s| &s.confidence),
            "summary" => self.summary(),
            "link" => link.to_owned(),
            "bundle" => self.bundle.clone(),
            "path" => self.path.clone(),
            "incident" => self.incident.clone(),
            _ => String::new(),
        });
        crate::text::lines(&text).chars().take(MAX_TEXT).collect()
    }

    /// memtrap's own form: the facts, the message, the link and the key.
    pub fn webhook(&self, message: &str, link: &str) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("schema".into(), SCHEMA.into());
            map.insert("event".into(), "bundle".into());
            map.insert("key".into(), self.key().into());
            map.insert("message".into(), message.into());
            map.insert("link".into(), link.into());
        }
        value
    }

    /// An alert of Alertmanager's API v2. Its labels are the same for each attempt, so that Alertmanager knows it again.
    pub fn alert(&self, message: &str, link: &str, labels: &[(String, String)], now: SystemTime) -> Value {
        let mut all: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        for (name, value) in [
            ("alertname", "MemtrapIncident".to_owned()),
            ("target", self.target.clone()),
            ("instance", self.instance.clone()),
            ("host", self.host.clone()),
            ("trigger", self.trigger.trigger.name().to_owned()),
            ("cause", self.word(|s| &s.cause)),
            ("confidence", self.word(|s| &s.confidence)),
            ("incident", self.incident.clone()),
            ("part", self.part.to_string()),
        ] {
            all.insert(name.into(), value.into());
        }
        let is_url = link.starts_with("http://") || link.starts_with("https://");
        json!([{
            "labels": all,
            "annotations": { "summary": self.summary(), "description": message, "reason": self.trigger.reason, "report": link,
                             "bundle": self.bundle },
            "startsAt": self.started,
            "endsAt": crate::clock::rfc3339_seconds(now + ALERT_LASTS),
            "generatorURL": if is_url { link } else { "" },
        }])
    }

    /// What a program finds in its environment.
    pub fn environment(&self, message: &str, link: &str) -> Vec<(&'static str, String)> {
        vec![
            ("MEMTRAP_KEY", self.key()),
            ("MEMTRAP_MESSAGE", message.to_owned()),
            ("MEMTRAP_LINK", link.to_owned()),
            ("MEMTRAP_TARGET", self.target.clone()),
            ("MEMTRAP_INSTANCE", self.instance.clone()),
            ("MEMTRAP_PID", self.pid.map_or_else(String::new, |pid| pid.to_string())),
            ("MEMTRAP_HOST", self.host.clone()),
            ("MEMTRAP_INCIDENT", self.incident.clone()),
            ("MEMTRAP_PART", self.part.to_string()),
            ("MEMTRAP_TRIGGER", self.trigger.trigger.name().to_owned()),
            ("MEMTRAP_REASON", self.trigger.reason.clone()),
            ("MEMTRAP_MEASURE", self.trigger.measure.name().to_owned()),
            ("MEMTRAP_CHARGE_BYTES", self.trigger.charge_bytes.map_or_else(String::new, |b| b.to_string())),
            ("MEMTRAP_RSS_BYTES", self.trigger.rss_bytes.to_string()),
            ("MEMTRAP_LIMIT_BYTES", self.trigger.limit_bytes.map_or_else(String::new, |b| b.to_string())),
            ("MEMTRAP_STARTED", self.started.clone()),
            ("MEMTRAP_FINISHED", self.finished.clone()),
            ("MEMTRAP_OUTCOME", self.outcome.name().to_owned()),
            ("MEMTRAP_BUNDLE", self.bundle.clone()),
            ("MEMTRAP_BUNDLE_PATH", self.path.clone()),
            ("MEMTRAP_GO_HEAP_EXPLAINS", self.word(|s| &s.go_heap_explains)),
            ("MEMTRAP_CAUSE", self.word(|s| &s.cause)),
            ("MEMTRAP_CONFIDENCE", self.word(|s| &s.confidence)),
            ("MEMTRAP_SUMMARY", self.summary()),
        ]
    }
}

/// Slack's form: `&`, `<` and `>` would be markup, with which a hostile name could ring for everyone.
pub fn slack(message: &str) -> Value {
    json!({ "text": message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle;

    fn notice(verdict: Option<Value>) -> Notice {
        let dir = tempfile::tempdir().unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_616);
        let published = bundle::tests::publish_with(dir.path(), "checkout", at, &[("heap.pb.gz", b"profile")]);
        let mut found = bundle::open(dir.path(), &published.id).unwrap();
        found.path = "/var/lib/memtrap/bundles/checkout/x".into();
        found.manifest.instance.label = "pid 4821".into();
        Notice::new(&found, verdict.as_ref())
    }

    fn verdict() -> Value {
        json!({ "go_heap_explains": "yes", "cause": "live_heap", "confidence": "high", "summary": "RSS is <b>1GiB</b> & live.", "more": 1 })
    }

    #[test]
    fn a_message_names_the_facts_and_says_so_where_there_is_no_verdict() {
        let n = notice(Some(verdict()));
        let message: Message = "{target}/{instance} {{{cause}, {confidence}}} {rss}: {summary} {link}".parse().unwrap();
        let rss = ByteSize(n.trigger.rss_bytes);
        assert_eq!(
            n.message(&message, &n.link(Some("https://m"))),
            format!("checkout/pid 4821 {{live_heap, high}} {rss}: RSS is <b>1GiB</b> & live. https://m/bundles/{}/report.html", n.bundle)
        );
        let without = notice(None);
        let text = without.message(&Message::default(), &without.link(None));
        assert!(text.contains("; there is no verdict\n") && text.ends_with(":/var/lib/memtrap/bundles/checkout/x/report.html"), "{text}");
        assert!(text.contains(&without.trigger.reason));
    }

    #[test]
    fn the_key_is_of_the_bundle_and_outlives_what_is_learned_later() {
        let (one, other) = (notice(None), notice(Some(verdict())));
        assert_eq!((one.key(), one.key().len()), (other.key(), 32));
        assert_ne!(Notice { started: "2026-11-23T08:13:37Z".into(), ..one.clone() }.key(), one.key());
    }

    #[test]
    fn slack_gets_no_markup_from_outside() {
        assert_eq!(slack("<!channel> & co")["text"], "&lt;!channel&gt; &amp; co");
    }

    #[test]
    fn a_webhook_has_all_facts_in_one_object() {
        let n = notice(Some(verdict()));
        let body = n.webhook("text", "link");
        assert_eq!((&body["schema"], &body["event"], &body["message"]), (&json!(1), &json!("bundle"), &json!("text")));
        assert_eq!((&body["key"], &body["verdict"]["cause"]), (&json!(n.key()), &json!("live_heap")));
        assert_eq!((&body["trigger"]["trigger"], &body["outcome"]), (&json!(n.trigger.trigger.name()), &json!("complete")));
    }

    #[test]
    fn an_alert_is_the_same_for_each_attempt_and_ends_by_itself() {
        let n = notice(Some(verdict()));
        let labels = [("severity".to_owned(), "page".to_owned())];
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds);
        let (one, later) = (n.alert("m", "https://m/x", &labels, at(0)), n.alert("m", "https://m/x", &labels, at(60)));
        assert_eq!((&one[0]["labels"], &one[0]["startsAt"]), (&later[0]["labels"], &later[0]["startsAt"]));
        assert_eq!(one[0]["endsAt"], "2027-01-15T09:00:00Z");
        assert_eq!((&one[0]["labels"]["severity"], &one[0]["labels"]["cause"]), (&json!("page"), &json!("live_heap")));
        assert_eq!(one[0]["generatorURL"], "https://m/x");
        assert_eq!(n.alert("m", "host:/x", &[], at(0))[0]["generatorURL"], "", "no URL");
        let bare = n.alert("m", "", &[], at(0));
        let own: Vec<&str> = bare[0]["labels"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = crate::config::OWN_LABELS;
        expected.sort_unstable();
        assert_eq!(own, expected);
    }

    #[test]
    fn control_characters_reach_nobody() {
        let mut n = notice(None);
        n.trigger.reason = "a\u{1b}[31m\u{7}b".into();
        assert!(n.message(&Message::default(), "").contains(r"a\u{1b}[31m\u{7}b"));
    }
}
