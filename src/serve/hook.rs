//! `POST /hooks/alertmanager`: the webhook payload of Alertmanager, version 4, as captures. Pure: what is asked for, and of whom.
//!
//! A firing alert names its target with the label `memtrap_target`; without that, the first of `target`, `job`, `service`, `app`, `container`
//! and `pod` whose value is a target's name. Which instance is meant says `memtrap_instance`; without that, `instance`, `pod` or `pid`
//! where it fits one, and else the largest.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::poll::{Ask, Which};
use crate::text::one_line;
use crate::trigger::Trigger;

pub(super) const TARGET: &str = "memtrap_target";
const INSTANCE: &str = "memtrap_instance";
const TARGETS: [&str; 6] = ["target", "job", "service", "app", "container", "pod"];
const INSTANCES: [&str; 3] = ["instance", "pod", "pid"];
pub(super) const CAPTURING: &str = "capturing";
pub(super) const NOTHING: &str = "nothing";
/// Of one payload; further alerts are told so.
const MAX_ALERTS: usize = 200;

/// The parts of the payload that matter here; Alertmanager may send others.
#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    #[serde(default)]
    version: String,
    alerts: Vec<Alert>,
}

#[derive(Debug, Deserialize)]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    fingerprint: String,
}

/// What became of one alert, for the answer.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Done {
    pub alert: String,
    pub fingerprint: String,
    pub target: Option<String>,
    pub instance: Option<String>,
    /// [`CAPTURING`] or [`NOTHING`].
    pub action: &'static str,
    pub reason: String,
    pub incident: Option<String>,
}

impl Done {
    pub fn nothing(&mut self, reason: impl Into<String>) {
        (self.action, self.reason) = (NOTHING, reason.into());
    }
}

impl Payload {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Payload, String> {
        let payload: Payload = serde_json::from_slice(body)
            .map_err(|e| format!("not the webhook payload of Alertmanager, version 4: {}", one_line(&e.to_string(), 200)))?;
        match payload.version.as_str() {
            "4" | "" => Ok(payload),
            other => Err(format!("the payload has version `{}`; version 4 is understood", one_line(other, 20))),
        }
    }

    /// For each alert, what to say of it, and what to ask for, if anything.
    pub fn asks(&self, targets: &HashSet<&str>) -> Vec<(Done, Option<Ask>)> {
        let mut all: Vec<_> = self.alerts.iter().take(MAX_ALERTS).map(|alert| alert.ask(targets)).collect();
        for alert in self.alerts.iter().skip(MAX_ALERTS) {
            let mut done = alert.done();
            done.nothing(format!("only {MAX_ALERTS} alerts of one notification are looked at"));
            all.push((done, None));
        }
        all
    }
}

impl Alert {
    fn done(&self) -> Done {
        let name = self.labels.get("alertname").map_or("", String::as_str);
        Done {
            alert: one_line(name, 200),
            fingerprint: one_line(&self.fingerprint, 64),
            target: None,
            instance: None,
            action: NOTHING,
            reason: String::new(),
            incident: None,
        }
    }

    fn ask(&self, targets: &HashSet<&str>) -> (Done, Option<Ask>) {
        let mut done = self.done();
        if self.status != "firing" {
            done.nothing(format!("the alert is {}, not firing", one_line(&self.status, 20)));
            return (done, None);
        }
        let label = |name: &&str| self.labels.get(*name);
        let target = match self.labels.get(TARGET) {
            Some(named) if !targets.contains(named.as_str()) => {
                done.nothing(format!("its label {TARGET} is `{}`, and no target has that name", one_line(named, 64)));
                return (done, None);
            }
            Some(named) => named,
            None => match TARGETS.iter().filter_map(label).find(|value| targets.contains(value.as_str())) {
                Some(found) => found,
                None => {
                    done.nothing(format!("none of its labels {TARGET}, {} is the name of a target", TARGETS.join(", ")));
                    return (done, None);
                }
            },
        };
        done.target = Some(target.clone());
        let which = match self.labels.get(INSTANCE) {
            Some(named) => Which::Named(named.clone()),
            None => match INSTANCES.iter().filter_map(label).cloned().collect::<Vec<_>>() {
                none if none.is_empty() => Which::Largest,
                perhaps => Which::Perhaps(perhaps),
            },
        };
        let why = format!("alert {} is firing", if done.alert.is_empty() { "without a name" } else { &done.alert });
        (done, Some(Ask { target: target.clone(), which, trigger: Trigger::Alert, why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(alerts: serde_json::Value) -> Vec<(Done, Option<Ask>)> {
        let body = serde_json::json!({ "version": "4", "groupKey": "{}", "status": "firing", "receiver": "memtrap", "alerts": alerts });
        Payload::parse(body.to_string().as_bytes()).unwrap().asks(&HashSet::from(["checkout", "search"]))
    }

    #[test]
    fn a_firing_alert_names_its_target() {
        for (labels, target, which) in [
            (serde_json::json!({ "memtrap_target": "search", "job": "checkout" }), "search", Which::Largest),
            (serde_json::json!({ "job": "node", "service": "checkout" }), "checkout", Which::Largest),
            (serde_json::json!({ "job": "search", "instance": "10.0.0.1:6060" }), "search", Which::Perhaps(vec!["10.0.0.1:6060".into()])),
            (serde_json::json!({ "job": "search", "instance": "x", "memtrap_instance": "pid 7" }), "search", Which::Named("pid 7".into())),
        ] {
            let (done, ask) = asks(serde_json::json!([{ "status": "firing", "labels": labels }])).remove(0);
            let ask = ask.unwrap_or_else(|| panic!("{done:?}"));
            assert_eq!((ask.target.as_str(), ask.which, ask.trigger), (target, which, Trigger::Alert));
        }
    }

    #[test]
    fn others_are_told_why_nothing_follows() {
        let told = asks(serde_json::json!([
            { "status": "resolved", "labels": { "job": "checkout" } },
            { "status": "firing", "labels": { "memtrap_target": "nobody", "job": "checkout" } },
            { "status": "firing", "labels": { "alertname": "X\u{1b}[31m", "job": "nobody" } },
            { "status": "firing" }
        ]));
        assert!(told.iter().all(|(done, ask)| ask.is_none() && done.action == "nothing"));
        let reasons: Vec<&str> = told.iter().map(|(done, _)| done.reason.as_str()).collect();
        assert_eq!(reasons[0], "the alert is resolved, not firing");
        assert_eq!(reasons[1], "its label memtrap_target is `nobody`, and no target has that name");
        assert!(reasons[2].starts_with("none of its labels memtrap_target, target, job"));
        assert!(!told[2].0.alert.contains('\u{1b}'));
    }

    #[test]
    fn what_is_no_payload_is_told_apart() {
        for (body, said) in
            [("", "not the webhook"), ("{}", "alerts"), ("[1]", "not the webhook"), (r#"{"version":"9","alerts":[]}"#, "`9`")]
        {
            assert!(Payload::parse(body.as_bytes()).unwrap_err().contains(said), "{body}");
        }
    }
}
