//! The same loop, told of instances elsewhere by a made-up source.

use std::sync::Arc;

use super::*;
use crate::config::{Metrics, Pprof, Prometheus, Source};
use crate::metrics::Pick;
use crate::poll::{Found, Readings, Remote, Who};

fn fleet(name: &str) -> Target {
    let prometheus = Prometheus {
        user: None,
        url: "http://prometheus:9090".into(),
        query: "rss".into(),
        started: None,
        auth: crate::config::Auth::default(),
        limit: None,
    };
    let mut target = Target::with_defaults(name.into(), Source::Prometheus(prometheus));
    target.rules.threshold = vec![SizeOrPercent::Size(ByteSize::mib(100))];
    target.rules.hold = Duration::ZERO;
    target.pprof = Some(Pprof::Template("http://{instance}/debug/pprof".parse().unwrap()));
    target.baseline = None;
    target
}

fn instance(name: &str, mib: u64) -> Remote {
    let pprof = Some(Ok(format!("http://{name}/debug/pprof")));
    Remote {
        who: Arc::new(Who { series: format!("{{instance=\"{name}\"}}").into(), label: name.into(), pprof }),
        started_unix_ms: Some(1_000),
        rss: Ok(mib * MIB),
        limit: Ok(None),
        go: None,
        collector: None,
    }
}

fn found(readings: Vec<Remote>) -> Result<Found, String> {
    Ok(Found { readings, limit_source: "the limit's query".into(), ..Found::default() })
}

impl World {
    /// A second passes, and the source of `shop` says this.
    fn told(&mut self, found: Result<Found, String>) -> &mut World {
        self.seconds(1);
        let readings = Readings { target: "shop".into(), at: self.now, next: Duration::from_secs(1), found };
        self.watcher.obey(Command::Readings(readings), self.now);
        self
    }

    /// For so many seconds it says the same of these instances.
    fn see(&mut self, seconds: u64, instances: &[(&str, u64)]) -> &mut World {
        for _ in 0..seconds {
            self.told(found(instances.iter().map(|(name, mib)| instance(name, *mib)).collect()));
        }
        self
    }

    fn of(&self, name: &str) -> InstanceStatus {
        let statuses = self.status();
        statuses.iter().find(|s| s.instance.as_deref() == Some(name)).unwrap_or_else(|| panic!("no {name} in {statuses:#?}")).clone()
    }
}

#[test]
fn the_instance_that_grows_is_captured_at_its_own_address() {
    let mut w = World::new(vec![fleet("shop")]);
    assert!(w.see(5, &[("a:1", 50), ("b:1", 60)]).jobs().is_empty());
    let jobs = w.see(1, &[("a:1", 50), ("b:1", 150)]).jobs();
    assert_eq!(jobs.len(), 1);
    let subject = &jobs[0].subject;
    assert_eq!((subject.label.as_str(), subject.instance.pid(), &subject.no_pprof), ("b:1", None, &None));
    assert_eq!(subject.target.pprof, Some(Pprof::Http("http://b:1/debug/pprof".into())));
    assert_eq!(subject.remote.as_ref().unwrap().rss, 150 * MIB);
    assert!(jobs[0].incident.strip_prefix("shop-").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')));
    w.finish(&jobs[0], Captured::Evidence);
    assert!(w.see(600, &[("a:1", 50), ("b:1", 150)]).jobs().is_empty(), "one incident, one bundle");
    assert_eq!((w.of("b:1").state, w.of("a:1").state), (State::Open, State::Armed));
}

#[test]
fn labels_that_make_no_address_are_a_reason_in_the_bundle() {
    let mut w = World::new(vec![fleet("shop")]);
    let mut hostile = instance("../../etc", 150);
    hostile.who = Arc::new(Who { pprof: Some(Err("no such host".into())), ..Who::clone(&hostile.who) });
    let job = w.told(found(vec![hostile])).jobs().remove(0);
    assert_eq!(job.subject.no_pprof.as_deref(), Some("no such host"));
    assert!(!job.incident.contains(['/', '.']), "{}", job.incident);
}

#[test]
fn a_source_that_is_down_makes_blind_and_never_gone() {
    let mut t = fleet("shop");
    t.rules.hold = Duration::from_secs(3);
    let mut w = World::new(vec![t]);
    w.see(5, &[("a:1", 50)]).see(2, &[("a:1", 150)]);
    for _ in 0..300 {
        w.told(Err("connection refused".into()));
    }
    assert_eq!((w.of("a:1").state, w.of("a:1").reason.as_str()), (State::Blind, "connection refused"));
    // what held before is not known to have held meanwhile
    assert!(w.see(3, &[("a:1", 150)]).jobs().is_empty());
    assert_eq!(w.see(1, &[("a:1", 150)]).jobs().len(), 1);
}

#[test]
fn a_source_that_fails_every_third_time_still_fires() {
    let mut t = fleet("shop");
    t.rules.hold = Duration::from_secs(3);
    let mut w = World::new(vec![t]);
    w.see(5, &[("a:1", 50)]);
    for _ in 0..3 {
        w.see(2, &[("a:1", 186)]).told(Err("no whole answer within 900ms".into()));
        assert_ne!(w.of("a:1").state, State::Blind);
    }
    assert_eq!(w.jobs().len(), 1);
}

#[test]
fn a_series_that_is_not_there_now_and_then_still_fires() {
    let mut t = fleet("shop");
    t.rules.hold = Duration::from_secs(3);
    let mut w = World::new(vec![t]);
    w.see(5, &[("a:1", 50), ("b:1", 50)]);
    for _ in 0..4 {
        w.see(1, &[("a:1", 186), ("b:1", 50)]).see(1, &[("b:1", 50)]);
    }
    assert_eq!(w.jobs().len(), 1);
}

#[test]
fn before_anything_was_seen_a_source_that_is_down_is_told_too() {
    let mut w = World::new(vec![fleet("shop")]);
    assert!(w.seconds(1).status()[0].reason.contains("has not answered yet"));
    w.told(Err("no route".into()));
    assert_eq!((w.status()[0].state, w.status()[0].reason.as_str()), (State::Blind, "no route"));
    w.see(15, &[]);
    assert_eq!((w.status()[0].state, w.status()[0].reason.as_str()), (State::Waiting, "no process matches: the query gives no series"));
}

#[test]
fn a_source_that_falls_silent_is_noticed() {
    let mut w = World::new(vec![fleet("shop")]);
    w.see(1, &[("a:1", 50)]).seconds(120);
    assert_eq!(w.of("a:1").state, State::Blind);
    assert!(w.of("a:1").reason.contains("not been heard of"), "{}", w.of("a:1").reason);
    assert_eq!(w.see(1, &[("a:1", 50)]).of("a:1").state, State::Armed);
}

#[test]
fn a_reload_is_no_silence() {
    let mut slow = fleet("shop");
    slow.interval = Duration::from_secs(600);
    let mut w = World::new(vec![slow.clone()]);
    w.seconds(1);
    let readings = Readings { target: "shop".into(), at: w.now, next: slow.interval, found: found(vec![instance("a:1", 50)]) };
    w.watcher.obey(Command::Readings(readings), w.now);
    w.seconds(300);
    slow.rules.cooldown = Duration::from_secs(1);
    w.watcher.obey(Command::Reload(Box::new(config(vec![slow]))), w.now);
    assert_eq!(w.seconds(60).of("a:1").state, State::Armed);
}

#[test]
fn a_series_that_is_missing_for_less_than_a_minute_is_the_same_process() {
    let mut w = World::new(vec![fleet("shop")]);
    let job = w.see(2, &[("a:1", 150), ("b:1", 50)]).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    w.see(50, &[("b:1", 50)]);
    assert_eq!((w.of("a:1").state, w.of("a:1").reason.as_str()), (State::Blind, "its series has not been there for 50s"));
    assert!(w.see(2_000, &[("a:1", 150), ("b:1", 50)]).jobs().is_empty(), "the incident goes on");
    assert_eq!(w.of("a:1").state, State::Open);
}

#[test]
fn a_series_that_is_missing_for_a_minute_is_a_process_that_is_gone() {
    let mut w = World::new(vec![fleet("shop")]);
    let job = w.see(2, &[("a:1", 150), ("b:1", 50)]).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    w.see(75, &[("b:1", 50)]);
    assert!(w.status().iter().all(|s| s.instance.as_deref() != Some("a:1")));
    assert!(w.see(60, &[("a:1", 150), ("b:1", 50)]).jobs().is_empty(), "the cooldown outlives it");
    assert_eq!(w.of("a:1").state, State::Cooldown);
    assert_eq!(w.see(900, &[("a:1", 150), ("b:1", 50)]).jobs().len(), 1);
}

#[test]
fn one_that_vanishes_while_its_rule_was_pending_is_captured_with_a_warning() {
    let mut t = fleet("shop");
    t.rules.hold = Duration::from_secs(10);
    let mut w = World::new(vec![t]);
    w.see(5, &[("a:1", 150), ("b:1", 50)]);
    assert!(w.see(4, &[("b:1", 50)]).jobs().is_empty());
    let jobs = w.see(1, &[("b:1", 50)]).jobs();
    assert_eq!((jobs.len(), jobs[0].subject.no_pprof.as_deref()), (1, None));
    assert!(jobs[0].warning.as_ref().unwrap().text.starts_with("its series had not been there for 5s"), "{:?}", jobs[0].warning);
    w.finish(&jobs[0], Captured::Evidence);
    assert!(w.see(300, &[("b:1", 50)]).jobs().is_empty());
}

#[test]
fn in_a_partial_answer_nothing_is_gone() {
    let mut w = World::new(vec![fleet("shop")]);
    w.see(2, &[("a:1", 50), ("b:1", 50)]);
    for _ in 0..300 {
        w.told(Ok(Found { readings: vec![instance("b:1", 50)], partial: Some("store 2 did not answer".into()), ..Found::default() }));
    }
    assert_eq!((w.of("a:1").state, w.of("b:1").state), (State::Blind, State::Armed));
    assert_eq!(w.of("a:1").reason, "not in the answer, which is partial: store 2 did not answer");
}

#[test]
fn a_value_that_is_no_rss_makes_one_instance_blind() {
    let mut w = World::new(vec![fleet("shop")]);
    w.see(2, &[("a:1", 50), ("b:1", 50)]);
    for _ in 0..100 {
        w.told(found(vec![Remote { rss: Err("RSS: the value is NaN".into()), ..instance("a:1", 0) }, instance("b:1", 50)]));
    }
    assert_eq!((w.of("a:1").state, w.of("a:1").reason.as_str()), (State::Blind, "RSS: the value is NaN"));
    assert_eq!(w.of("b:1").state, State::Armed);
    assert!(w.jobs().is_empty());
}

fn started(ms: u64, mib: u64) -> Result<Found, String> {
    found(vec![Remote { started_unix_ms: Some(ms), ..instance("a:1", mib) }])
}

#[test]
fn a_new_start_time_is_a_restart_that_ends_the_incident_and_keeps_the_cooldown() {
    let mut w = World::new(vec![fleet("shop")]);
    let job = w.told(started(10_000, 150)).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    assert_eq!(w.told(started(10_050, 150)).of("a:1").state, State::Open, "the clock behind it was adjusted");
    assert_eq!(w.told(started(90_000, 150)).of("a:1").state, State::Cooldown);
    for _ in 0..880 {
        w.told(started(90_000, 150));
    }
    assert!(w.jobs().is_empty());
    for _ in 0..30 {
        w.told(started(90_000, 150));
    }
    assert_eq!(w.jobs().len(), 1);
}

#[test]
fn a_restart_while_pending_leaves_a_bundle_that_asks_no_other_process() {
    let mut t = fleet("shop");
    t.rules.hold = Duration::from_secs(10);
    let mut w = World::new(vec![t]);
    w.told(started(10_000, 150)).told(started(10_000, 150));
    let jobs = w.told(started(90_000, 20)).jobs();
    assert_eq!(jobs.len(), 1);
    assert!(jobs[0].subject.no_pprof.as_ref().unwrap().contains("replaced"), "{:?}", jobs[0].subject.no_pprof);
    assert_eq!((jobs[0].fired.rss_bytes, jobs[0].subject.remote.as_ref().unwrap().started_unix_ms), (150 * MIB, Some(10_000)));
    assert_eq!(jobs[0].timeline.lock().unwrap().len(), 2, "the new process is not in the old one's series");
}

#[test]
fn a_start_time_that_becomes_known_is_no_restart() {
    let mut w = World::new(vec![fleet("shop")]);
    let unknown = |mib| found(vec![Remote { started_unix_ms: None, ..instance("a:1", mib) }]);
    let job = w.told(unknown(150)).jobs().remove(0);
    w.told(started(90_000, 150));
    w.finish(&job, Captured::Evidence);
    assert_eq!(w.told(unknown(150)).of("a:1").state, State::Open);
    assert_eq!(w.told(started(190_000, 150)).of("a:1").state, State::Cooldown);
}

#[test]
fn percentages_are_of_the_limit_that_the_source_tells() {
    let mut t = fleet("shop");
    t.rules.threshold = vec!["50%".parse().unwrap()];
    let mut w = World::new(vec![t]);
    let with = |limit: Result<Option<u64>, Arc<str>>, mib| found(vec![Remote { limit, ..instance("a:1", mib) }]);
    w.told(with(Err("the limit's query gives none for it".into()), 500));
    let status = w.of("a:1");
    assert!(status.reason.ends_with("; its limit is unknown: the limit's query gives none for it"), "{}", status.reason);
    assert!(w.told(with(Ok(Some(1 << 30)), 511)).jobs().is_empty());
    assert_eq!((w.of("a:1").limit_bytes, w.of("a:1").limit_source.as_deref()), (Some(1 << 30), Some("the limit's query")));
    assert!(w.told(with(Err("HTTP 500".into()), 511)).of("a:1").limit_bytes.is_some(), "what was known stays");
    assert!(w.told(with(Ok(None), 600)).jobs().is_empty(), "it was lifted");
    assert_eq!(w.told(with(Ok(Some(1 << 30)), 512)).jobs().len(), 1);
}

#[test]
fn a_restart_of_memtrap_keeps_the_incident_of_an_instance_elsewhere() {
    let mut w = World::new(vec![fleet("shop")]);
    let job = w.see(1, &[("a:1", 150)]).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    w.restart(vec![fleet("shop")]);
    assert!(w.see(1_000, &[("a:1", 150)]).jobs().is_empty());
    assert_eq!(w.of("a:1").state, State::Open);
    // one that does not come back is gone
    w.restart(vec![fleet("shop")]);
    w.see(75, &[("b:1", 50)]);
    assert!(w.status().iter().all(|s| s.instance.as_deref() != Some("a:1")), "{:#?}", w.status());
}

#[test]
fn a_reload_that_changes_what_is_watched_starts_anew_with_the_cooldown() {
    let mut w = World::new(vec![fleet("shop")]);
    let job = w.see(1, &[("a:1", 150)]).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    w.process(11, "shop", 150);
    w.watcher.obey(Command::Reload(Box::new(config(vec![by_name("shop")]))), w.now);
    assert!(w.seconds(5).jobs().is_empty());
    assert_eq!((w.status().len(), w.status()[0].pid, w.status()[0].state), (1, Some(11), State::Cooldown));
    // what the old source still says is not heard
    w.see(1, &[("a:1", 900)]);
    assert!(w.jobs().is_empty());
    assert_eq!(w.status().len(), 1);
}

#[test]
fn five_thousand_instances_share_one_budget_and_are_told_apart() {
    let mut w = World::new(vec![fleet("shop")]);
    let names: Vec<String> = (0..5_000).map(|i| format!("10.0.{}.{}:6060", i / 250, i % 250)).collect();
    let all = |mib: u64| found(names.iter().map(|n| instance(n, mib)).collect());
    w.told(all(50));
    assert_eq!(w.status().len(), 5_000);
    assert_eq!(w.told(all(150)).jobs().len(), 2);
    assert_eq!(w.status().iter().filter(|s| s.state == State::Throttled).count(), 4_998);
    w.see(70, &[]);
    assert!(w.status().len() <= 3, "all but those being captured, and one to wait in");
}

#[test]
fn a_healthy_instance_elsewhere_gets_a_baseline_too() {
    let mut t = fleet("shop");
    t.baseline = Some(Duration::from_secs(600));
    let mut w = World::new(vec![t]);
    w.see(1_300, &[("a:1", 50)]);
    let labels: Vec<String> =
        w.tasks().into_iter().filter_map(|t| if let Task::Baseline(b) = t { Some(b.subject.label) } else { None }).collect();
    assert_eq!(labels, ["a:1"; 3]);
}

#[test]
fn an_exposition_is_one_instance() {
    let metrics = Metrics { url: "http://h/metrics".into(), user: None, rss: Pick { metric: "rss".into(), labels: vec![] }, limit: None };
    let mut t = Target::with_defaults("shop".into(), Source::Metrics(metrics));
    t.rules = fleet("x").rules;
    t.pprof = Some(Pprof::Http("http://h/debug/pprof".into()));
    let mut w = World::new(vec![t]);
    let said = Remote {
        who: Arc::new(Who { series: "http://h/metrics".into(), label: "http://h/metrics".into(), pprof: None }),
        ..instance("", 150)
    };
    let job = w.told(found(vec![said])).jobs().remove(0);
    assert_eq!(job.subject.target.pprof, Some(Pprof::Http("http://h/debug/pprof".into())));
    assert_eq!(job.subject.label, "http://h/metrics");
}

#[test]
fn processes_that_take_turns_behind_one_address_are_said_once_and_are_no_restarts() {
    let mut w = World::new(vec![fleet("shop")]);
    let started = |ms: u64, mib: u64| found(vec![Remote { started_unix_ms: Some(ms), ..instance("a:1", mib) }]);
    w.see(3, &[("a:1", 50)]);
    for turn in 0..100u64 {
        let (ms, mib) = [(9_000, 60), (1_000, 70), (5_000, 80)][turn as usize % 3];
        w.told(started(ms, mib));
    }
    // the newest is taken for a restart of the first, once; from then on it is the one
    let status = w.of("a:1");
    assert!(status.reason.contains("several processes answer at this address"), "{status:?}");
    assert_eq!((status.rss_bytes, status.state), (Some(60 * MIB), State::Armed));
    w.told(started(1_000, 500));
    assert!(w.jobs().is_empty(), "what another says is not its own");
    let job = w.told(started(9_000, 500)).jobs().remove(0);
    assert!(job.warning.as_ref().is_some_and(|w| w.is_mistaken() && w.text.ends_with(crate::bundle::ANOTHERS)), "{:?}", job.warning);
    w.finish(&job, Captured::Evidence);
    // when it has not been there for long, another takes its place
    for _ in 0..70 {
        w.told(started(1_000, 70));
    }
    assert_eq!(w.of("a:1").rss_bytes, Some(70 * MIB));
}

#[test]
fn floors_of_an_instance_elsewhere_wait_for_it_and_end_with_its_life() {
    let mut target = fleet("shop");
    target.rules.leak = Some("1GiB/7d".parse().unwrap());
    let mut w = World::new(vec![target.clone()]);
    let hour = |w: &mut World, started: u64| {
        w.now = w.now + Duration::from_secs(3_599);
        let two = ["a:1", "b:1"].map(|name| Remote { started_unix_ms: Some(started), ..instance(name, 50) });
        w.told(found(two.into())).now
    };
    (0..6).for_each(|_| _ = hour(&mut w, 1_000));
    assert!(w.of("a:1").reason.contains("leak: 5h of 2days 4h seen"), "{}", w.of("a:1").reason);
    // restarted twice before the source answers again
    w.restart(vec![target.clone()]);
    w.restart(vec![target]);
    hour(&mut w, 1_000);
    assert!(w.of("a:1").reason.contains("leak: 6h of 2days 4h seen"), "{}", w.of("a:1").reason);
    hour(&mut w, 900_000_000);
    assert!(!w.of("a:1").reason.contains("h of 2days"), "another process: {}", w.of("a:1").reason);
}
