//! The loop on a made-up host, one turn at a time.

use super::*;
use crate::config::Pprof;
use crate::config::{Daemon, Retention, Selector, Target};
use crate::host::fake::FakeHost;
use crate::incident::{Denied, State};
use crate::poll::{Check, Checked, Job, Task, Which};
use crate::trigger::Trigger;
use crate::units::{ByteSize, SizeOrPercent};

const MIB: u64 = 1 << 20;

fn by_name(name: &str) -> Target {
    let mut target = Target::with_defaults(name.into(), Selector::Name(name.into()));
    target.rules.threshold = vec![SizeOrPercent::Size(ByteSize::mib(100))];
    target.rules.hold = Duration::ZERO;
    target
}

fn config(targets: Vec<Target>) -> Config {
    Config {
        daemon: Daemon::default(),
        retention: Retention::default(),
        upload: None,
        notify: Vec::new(),
        targets: targets.into_iter().map(Into::into).collect(),
    }
}

/// A watcher on a fake host, and the seconds that pass there.
struct World {
    host: FakeHost,
    watcher: Watcher,
    handles: Handles,
    now: Mono,
}

impl World {
    fn new(targets: Vec<Target>) -> World {
        let host = FakeHost::new();
        host.file("proc/uptime", "1000.00 1.00\n");
        host.file("proc/meminfo", "MemTotal:        1048576 kB\n");
        let (watcher, handles) = World::start(&host, &config(targets), Recovered::default(), Mono::from_secs(1_000));
        World { host, watcher, handles, now: Mono::from_secs(1_000) }
    }

    fn start(host: &FakeHost, config: &Config, past: Recovered, now: Mono) -> (Watcher, Handles) {
        let pulse = Pulse { beat: Box::new(|_| {}), at_least_every: Duration::from_secs(10), meters: Meters::default() };
        let (mut watcher, handles) = Watcher::new(config, host.procfs(), "boot".into(), past, pulse, now);
        // time is made up here, and passes are not
        watcher.look_patience = Duration::from_secs(60);
        // what this test may open is its own affair
        watcher.most_processes = usize::MAX;
        (watcher, handles)
    }

    /// memtrap is stopped, and started again on the same host.
    fn restart(&mut self, targets: Vec<Target>) {
        self.watcher.changed = true;
        self.watcher.publish_state(self.now);
        self.watcher.publish_floors(self.now);
        let saved = self.handles.state.borrow().clone();
        let floors = self.handles.floors.as_mut().and_then(|floors| std::iter::from_fn(|| floors.try_recv().ok()).last());
        (self.watcher, self.handles) =
            World::start(&self.host, &config(targets), Recovered { saved, floors, interrupted: Vec::new() }, self.now);
    }

    fn process(&self, pid: u32, name: &str, rss_mib: u64) -> &World {
        self.host.process(pid, name).cmdline(&[name]).write();
        self.rss(pid, rss_mib)
    }

    fn rss(&self, pid: u32, mib: u64) -> &World {
        let pages = mib * MIB / rustix::param::page_size() as u64;
        self.host.file(&format!("proc/{pid}/statm"), format!("999999 {pages} 1 1 0 1 0\n"));
        self
    }

    fn seconds(&mut self, n: u64) -> &mut World {
        for _ in 0..n {
            self.now = self.now + Duration::from_secs(1);
            self.watcher.turn(self.now);
        }
        self
    }

    /// With one reading each.
    fn hours(&mut self, n: u64) -> &mut World {
        for _ in 0..n {
            self.now = self.now + Duration::from_secs(3_599);
            self.seconds(1);
        }
        self
    }

    fn tasks(&mut self) -> Vec<Task> {
        std::iter::from_fn(|| self.handles.tasks.try_recv().ok()).collect()
    }

    fn jobs(&mut self) -> Vec<Job> {
        self.tasks().into_iter().filter_map(|t| if let Task::Capture(job) = t { Some(*job) } else { None }).collect()
    }

    fn checks(&mut self) -> Vec<Check> {
        self.tasks().into_iter().filter_map(|t| if let Task::Check(check) = t { Some(check) } else { None }).collect()
    }

    fn finish(&mut self, job: &Job, result: Captured) {
        let done =
            JobDone { target: job.subject.target.name.clone(), slot: job.slot, admitted: job.admitted, result, bundle: Some("b".into()) };
        self.watcher.obey(Command::Done(done), self.now);
    }

    fn ask(&mut self, trigger: Trigger, which: Which) -> Result<Granted, NotGranted> {
        let (reply, mut answer) = tokio::sync::oneshot::channel();
        let ask = Ask { target: "shop".into(), which, trigger, why: "asked for".into() };
        self.watcher.obey(Command::Capture(ask, reply), self.now);
        answer.try_recv().unwrap()
    }

    /// How often this reason was counted.
    fn skipped(&self, reason: &str) -> usize {
        let mut registry = prometheus_client::registry::Registry::default();
        self.watcher.dispatch.meters.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("memtrap_capture_skipped_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
    }

    fn status(&self) -> Vec<InstanceStatus> {
        self.watcher.status(self.now)
    }
}

#[test]
fn processes_beyond_the_open_files_are_blind_and_take_the_place_of_one_that_ends() {
    let mut w = World::new(vec![by_name("shop"), by_name("other")]);
    w.watcher.most_processes = 2;
    w.process(11, "shop", 150).process(12, "shop", 50).process(13, "shop", 50).process(14, "other", 50);
    w.seconds(3);
    assert_eq!(w.jobs().len(), 1, "who has a place is captured");
    let blind =
        |w: &World| w.status().into_iter().filter(|s| s.state == State::Blind).map(|s| (s.pid.unwrap(), s.reason)).collect::<Vec<_>>();
    let seen = blind(&w);
    assert_eq!(seen.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(), [13, 14]);
    assert!(seen.iter().all(|(_, why)| why.contains("2 processes are watched") && why.contains("LimitNOFILE")), "{seen:?}");
    w.host.remove("proc/12");
    w.seconds(15);
    assert_eq!(blind(&w).len(), 1, "{:?}", blind(&w));
}

#[test]
fn floors_outlive_memtrap_with_their_process_and_with_no_other() {
    let mut target = by_name("shop");
    target.rules.leak = Some("1GiB/7d".parse().unwrap());
    let mut w = World::new(vec![target.clone()]);
    w.process(11, "shop", 50).process(12, "shop", 60);
    w.seconds(3).hours(6);
    let stored = w.handles.floors.as_mut().and_then(|floors| floors.try_recv().ok()).expect("once an hour");
    assert_eq!(stored.targets["shop"].len(), 2, "{stored:?}");
    w.host.remove("proc/12");
    w.process(13, "shop", 60);
    w.restart(vec![target.clone()]);
    w.seconds(3);
    let said = |w: &World, pid| w.status().into_iter().find(|s| s.pid == Some(pid)).unwrap().reason;
    assert!(said(&w, 11).contains("leak: 5h of 2days 4h seen"), "{}", said(&w, 11));
    assert!(said(&w, 13).contains("leak: no hour seen yet") || said(&w, 13).contains("leak: 0s of"), "{}", said(&w, 13));
    // a reload keeps them, and a rule that is off has none
    let reloaded = Target { max_interval: Duration::from_secs(7), ..target };
    w.watcher.obey(Command::Reload(Box::new(config(vec![reloaded]))), w.now);
    w.seconds(3);
    assert!(said(&w, 11).contains("leak: 5h of 2days 4h seen"), "{}", said(&w, 11));
    w.watcher.obey(Command::Reload(Box::new(config(vec![by_name("shop")]))), w.now);
    w.seconds(3);
    assert!(!said(&w, 11).contains("leak"), "{}", said(&w, 11));
}

#[test]
fn reasons_are_in_the_configured_language_and_change_with_a_reload() {
    let mut w = World::new(vec![by_name("shop"), by_name("none")]);
    w.process(11, "shop", 50);
    w.seconds(3);
    let reasons = |w: &World| w.status().into_iter().map(|s| s.reason).collect::<Vec<_>>().join("\n");
    assert!(reasons(&w).contains("RSS is 50% of the threshold of 100MiB"), "{}", reasons(&w));
    let mut chinese = config(vec![by_name("shop"), by_name("none")]);
    chinese.daemon.lang = Lang::Zh;
    w.watcher.obey(Command::Reload(Box::new(chinese)), w.now);
    assert!(reasons(&w).contains("RSS 为阈值 100MiB 的 50%") && reasons(&w).contains("没有匹配的进程"), "{}", reasons(&w));
    w.rss(11, 150);
    w.seconds(1);
    let job = w.jobs().remove(0);
    assert!(job.fired.reason.starts_with("RSS 150MiB at or above"), "manifests and logs are English: {}", job.fired.reason);
    w.finish(&job, Captured::Evidence);
    assert!(reasons(&w).contains("已采集；RSS 降到 90.0MiB 以下即结束"), "{}", reasons(&w));
}

#[test]
fn a_spike_of_one_of_three_processes_is_one_job_for_that_one() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 50).process(12, "shop", 50).process(13, "shop", 50).process(99, "other", 500);
    assert!(w.seconds(5).jobs().is_empty());
    w.rss(12, 150);
    let jobs = w.seconds(1).jobs();
    assert_eq!(jobs.len(), 1);
    assert_eq!((jobs[0].subject.instance.pid(), jobs[0].fired.trigger, jobs[0].fired.rss_bytes), (Some(12), Trigger::Threshold, 150 * MIB));
    assert!(w.seconds(600).jobs().is_empty(), "one incident, one bundle");
}

#[test]
fn polling_goes_on_and_fills_the_timeline_while_a_capture_runs() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 150);
    let job = w.seconds(1).jobs().remove(0);
    let before = job.timeline.lock().unwrap().len();
    w.seconds(7);
    assert_eq!(job.timeline.lock().unwrap().len(), before + 7);
    assert_eq!(w.status()[0].state, State::Capturing);
    w.finish(&job, Captured::Evidence);
    w.seconds(3);
    assert_eq!(job.timeline.lock().unwrap().len(), before + 7);
    assert_eq!((w.status()[0].state, w.status()[0].last_bundle.as_deref()), (State::Open, Some("b")));
}

#[test]
fn a_restarted_process_is_followed() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 50);
    w.seconds(3);
    w.host.remove("proc/11");
    // a fake's open descriptor stays readable, so only the next scan can tell
    w.seconds(12);
    assert_eq!((w.status()[0].state, w.status()[0].pid), (State::Waiting, None));
    w.process(12, "shop", 60);
    w.seconds(3);
    assert_eq!((w.status()[0].pid, w.status()[0].rss_bytes), (Some(12), Some(60 * MIB)));
}

#[test]
fn a_budget_of_two_makes_the_third_wait_and_says_so() {
    let mut w = World::new(vec![by_name("shop")]);
    for pid in 11..16 {
        w.process(pid, "shop", 150);
    }
    let first = w.seconds(2).jobs();
    assert_eq!(first.len(), 2);
    assert_eq!(w.status().iter().filter(|s| s.state == State::Throttled).count(), 3);
    w.finish(&first[0], Captured::Evidence);
    assert_eq!(w.seconds(1).jobs().len(), 1);
}

#[test]
fn what_is_asked_for_is_captured_of_the_instance_that_is_meant() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 50).process(12, "shop", 70).process(13, "shop", 60);
    w.seconds(3);
    assert_eq!(w.ask(Trigger::Manual, Which::Largest).unwrap().instance, "pid 12");
    assert_eq!(w.ask(Trigger::Manual, Which::Named("13".into())).unwrap().instance, "pid 13");
    let jobs = w.jobs();
    assert_eq!(
        jobs.iter().map(|j| (j.subject.instance.pid(), j.fired.trigger)).collect::<Vec<_>>(),
        [(Some(12), Trigger::Manual), (Some(13), Trigger::Manual)]
    );
    assert!(matches!(
        w.ask(Trigger::Manual, Which::Perhaps(vec!["10.0.0.1:80".into()])),
        Err(NotGranted::Denied { why: Denied::Capturing, .. })
    ));
    assert!(matches!(w.ask(Trigger::Manual, Which::Named("pid 11".into())), Err(NotGranted::Budget(_))), "two run at a time");
    assert_eq!(w.status().iter().filter(|s| s.state == State::Throttled).count(), 0, "no rule is throttled by that");
    assert_eq!(
        w.ask(Trigger::Manual, Which::Named("pid 1".into())).unwrap_err().to_string(),
        "no instance of shop is called so; it has pid 11, pid 12, pid 13"
    );
    for job in jobs {
        w.finish(&job, Captured::Evidence);
    }
    w.rss(12, 150);
    assert_eq!(w.seconds(1).jobs().len(), 1, "its rule is armed as before");
}

#[test]
fn an_alert_is_held_by_the_cooldown_and_its_incident_outlives_memtrap() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 50);
    w.seconds(3).ask(Trigger::Alert, Which::Perhaps(vec!["10.0.0.1:9100".into(), "pid 11".into()])).unwrap();
    let job = w.jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    w.restart(vec![by_name("shop")]);
    w.seconds(3);
    assert!(matches!(w.ask(Trigger::Alert, Which::Largest), Err(NotGranted::Denied { why: Denied::Open(_), .. })));
    w.rss(11, 20);
    w.seconds(3);
    assert!(matches!(w.ask(Trigger::Alert, Which::Largest), Err(NotGranted::Denied { why: Denied::Cooldown(_), .. })));
    assert_eq!((w.skipped("open"), w.skipped("cooldown")), (1, 1));
}

#[test]
fn what_does_not_fire_is_counted_once_for_each_time_it_would_have() {
    let mut w = World::new(vec![by_name("shop")]);
    for pid in 11..14 {
        w.process(pid, "shop", 150);
    }
    let jobs = w.seconds(30).jobs();
    assert_eq!((jobs.len(), w.skipped("max_concurrent_captures")), (2, 1));
    for job in &jobs {
        w.finish(job, Captured::Evidence);
    }
    w.rss(11, 20).rss(13, 20);
    w.seconds(2).rss(11, 150);
    w.seconds(30);
    assert_eq!(w.skipped("cooldown"), 1);
}

#[test]
fn a_restart_of_memtrap_keeps_the_incident_and_a_reload_too() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 150);
    let job = w.seconds(1).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    w.restart(vec![by_name("shop")]);
    assert!(w.seconds(2_000).jobs().is_empty());
    assert_eq!(w.status()[0].state, State::Open);

    let mut changed = by_name("shop");
    changed.rules.threshold = vec![SizeOrPercent::Size(ByteSize::mib(90))];
    w.watcher.obey(Command::Reload(Box::new(config(vec![changed, by_name("new")]))), w.now);
    assert!(w.seconds(60).jobs().is_empty());
    let states: Vec<State> = w.status().iter().map(|s| s.state).collect();
    assert_eq!(states, [State::Open, State::Waiting]);
}

#[test]
fn a_target_that_leaves_the_configuration_is_not_polled() {
    let mut w = World::new(vec![by_name("shop"), by_name("cart")]);
    w.process(11, "shop", 50).process(12, "cart", 50);
    w.seconds(3);
    w.watcher.obey(Command::Reload(Box::new(config(vec![by_name("cart")]))), w.now);
    w.rss(11, 500);
    assert!(w.seconds(5).jobs().is_empty());
    assert_eq!(w.status().len(), 1);
}

#[test]
fn percentages_follow_the_limit() {
    let mut t = by_name("shop");
    t.rules.threshold = vec!["50%".parse().unwrap()];
    let mut w = World::new(vec![t]);
    w.process(11, "shop", 511);
    assert!(w.seconds(3).jobs().is_empty(), "MemTotal is 1 GiB");
    w.rss(11, 512);
    assert_eq!(w.seconds(1).jobs().len(), 1);
    assert_eq!(w.status()[0].limit_bytes, Some(1 << 30));
}

/// A process in a cgroup of two, and its limit in MiB.
fn in_a_cgroup() -> (World, impl Fn(&World) -> u64) {
    let w = World::new(vec![by_name("shop")]);
    w.host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    w.host.file("sys/fs/cgroup/first/memory.max", (400 * MIB).to_string());
    w.host.file("sys/fs/cgroup/second/memory.max", (200 * MIB).to_string());
    w.host.process(11, "shop").cmdline(&["shop"]).start(99_900).file("cgroup", "0::/first\n").write();
    w.rss(11, 50);
    (w, |w| w.status()[0].limit_bytes.unwrap() / MIB)
}

#[test]
fn a_cgroups_new_limit_is_seen_within_a_second_and_rss_judged_by_it_at_once() {
    let (mut w, limit) = in_a_cgroup();
    assert_eq!(limit(w.seconds(301)), 400);
    w.host.file("sys/fs/cgroup/first/memory.max", (300 * MIB).to_string());
    assert_eq!(limit(w.seconds(1)), 300);
    let mut t = by_name("shop");
    t.rules.threshold = vec!["80%".parse().unwrap()];
    t.max_interval = Duration::from_secs(60);
    w.watcher.obey(Command::Reload(Box::new(config(vec![t]))), w.now);
    assert!(w.seconds(100).jobs().is_empty());
    w.host.file("sys/fs/cgroup/first/memory.max", (60 * MIB).to_string());
    assert_eq!(w.seconds(1).jobs().len(), 1, "50 MiB are 83 % of it");
}

#[test]
fn a_process_whose_cgroup_is_gone_is_looked_for_in_another() {
    let Some((cgroup, other)) = crate::host::limit::tests::RealCgroup::pair() else { return };
    let mut child = cgroup.shell("exit 0");
    let mut t = by_name("shop");
    t.source = Selector::Pid(child.id()).into();
    let pulse = Pulse { beat: Box::new(|_| {}), at_least_every: Duration::from_secs(10), meters: Meters::default() };
    let mut now = Mono::from_secs(1_000);
    let (mut watcher, _handles) = Watcher::new(&config(vec![t]), ProcFs::host(), "boot".into(), Recovered::default(), pulse, now);
    watcher.look_patience = Duration::from_secs(60);
    watcher.turn(now);
    assert_eq!(watcher.status(now)[0].limit_bytes, Some(64 << 20));
    other.take(child.id());
    drop(cgroup);
    now = now + Duration::from_secs(1);
    watcher.turn(now);
    assert_eq!(watcher.status(now)[0].limit_bytes, Some(96 << 20));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_process_that_runs_another_program_is_another_instance_and_the_selector_is_asked_again() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 50);
    w.seconds(30);
    w.rss(11, 150);
    let job = w.seconds(1).jobs().remove(0);
    let program = |w: &World, name: &str, mib: u64, code: u64| {
        w.host.file("proc/11/comm", format!("{name}\n"));
        w.host.file("proc/11/statm", format!("999999 {} 1 {code} 0 1 0\n", mib * MIB / rustix::param::page_size() as u64));
    };
    program(&w, "shop", 150, 77);
    w.seconds(4);
    assert_eq!((w.status()[0].state, w.status()[0].slope_bytes_per_second), (State::Capturing, Some(0.0)), "no line across the two");
    w.finish(&job, Captured::Evidence);
    assert_eq!(w.status()[0].incident, None, "the other's incident ended with it");
    program(&w, "bash", 150, 78);
    w.seconds(3);
    assert_eq!((w.status()[0].state, w.status()[0].pid), (State::Waiting, None));
}

#[test]
fn copies_that_a_fork_makes_are_one_incident_until_one_outgrows_the_others() {
    let mut w = World::new(vec![by_name("shop")]);
    w.process(11, "shop", 150);
    for pid in 12..32 {
        w.host.process(pid, "shop").cmdline(&["shop"]).forked_from(11).write();
        w.rss(pid, 149);
    }
    let jobs = w.seconds(3).jobs();
    assert_eq!(jobs.len(), 1);
    assert_eq!(w.skipped("fork"), 20);
    assert!(w.status().iter().filter(|s| s.state == State::Throttled).all(|s| s.reason.contains("forked from the same process")));
    w.finish(&jobs[0], Captured::Evidence);
    w.restart(vec![by_name("shop")]);
    assert!(w.seconds(10).jobs().is_empty(), "nor after a restart of memtrap");
    w.rss(20, 200);
    let own: Vec<_> = w.seconds(2).jobs().iter().map(|job| job.subject.instance.pid()).collect();
    assert_eq!(own, [Some(20)]);
}

#[test]
fn workers_that_a_supervisor_starts_are_no_copies() {
    let mut w = World::new(vec![by_name("shop")]);
    for pid in [12, 13] {
        w.host.process(pid, "shop").cmdline(&["shop"]).parent(11).write();
        w.rss(pid, 150);
    }
    assert_eq!(w.seconds(3).jobs().len(), 2);
}

#[test]
fn a_noisy_target_and_requests_by_the_dozen_leave_the_leak_of_another_its_capture() {
    let mut noisy = by_name("noisy");
    noisy.rules.cooldown = Duration::ZERO;
    let mut w = World::new(vec![noisy, by_name("shop")]);
    w.process(11, "noisy", 50).process(12, "shop", 50);
    w.seconds(3);
    let mut captured = 0;
    for _ in 0..40 {
        w.rss(11, 150);
        let ordered = w.seconds(2).jobs();
        ordered.iter().for_each(|job| w.finish(job, Captured::Evidence));
        captured += ordered.len();
        w.rss(11, 20);
        w.seconds(2);
    }
    assert_eq!(captured, 6, "half of 12");
    assert!(w.skipped("target_share") > 0);
    for _ in 0..40 {
        if w.ask(Trigger::Manual, Which::Largest).is_ok() {
            let job = w.jobs().remove(0);
            w.finish(&job, Captured::Evidence);
        }
    }
    w.rss(12, 150);
    assert_eq!(w.seconds(2).jobs().len(), 1);
}

#[test]
fn a_process_that_dies_throttled_leaves_its_timeline_once_for_each_cooldown() {
    let targets = ["a", "b", "c", "shop"].map(by_name).to_vec();
    let mut w = World::new(targets.clone());
    let mut four = config(targets);
    four.daemon.max_captures_per_hour = 4;
    w.watcher.obey(Command::Reload(Box::new(four)), w.now);
    w.process(10, "a", 150).process(11, "a", 150).process(12, "b", 150).process(13, "c", 150);
    w.seconds(1).process(14, "shop", 150);
    assert_eq!(w.seconds(4).jobs().len(), 4, "the hour's");
    let of_shop = |w: &World| w.status().into_iter().find(|s| s.target == "shop").unwrap();
    assert_eq!(of_shop(&w).state, State::Throttled);
    w.host.remove("proc/14");
    let jobs = w.seconds(12).jobs();
    assert_eq!(jobs.iter().map(|job| job.subject.target.name.as_str()).collect::<Vec<_>>(), ["shop"]);
    // the kernel's side alone does not spend the cooldown, and a loop of crashes leaves one bundle all the same
    w.finish(&jobs[0], Captured::Nothing("its process was gone".into()));
    let mut more = 0;
    for pid in 15..21 {
        w.process(pid, "shop", 150);
        w.seconds(4);
        assert_eq!(of_shop(&w).pid, Some(pid));
        w.host.remove(&format!("proc/{pid}"));
        more += w.seconds(12).jobs().len();
    }
    assert_eq!(more, 0);
}

#[test]
fn a_process_in_another_cgroup_is_seen_soon_while_it_is_young_and_within_5_min_later() {
    let (mut w, limit) = in_a_cgroup();
    assert_eq!(limit(w.seconds(3)), 400);
    w.host.file("proc/11/cgroup", "0::/second\n");
    assert_eq!(limit(w.seconds(30)), 200);
    assert_eq!(limit(w.seconds(3_600)), 200);
    w.host.file("proc/11/cgroup", "0::/first\n");
    assert_eq!(limit(w.seconds(330)), 400, "5 min, and the 30 s of limits");
}

#[test]
fn a_lookup_that_finds_nobody_once_is_no_end() {
    let mut w = World::new(vec![by_name("nobody")]);
    let mut t = by_name("shop");
    t.source = Selector::PidFile(w.host.root().join("run/shop.pid")).into();
    w.host.file("run/shop.pid", "11");
    w.process(11, "shop", 150);
    w.watcher.obey(Command::Reload(Box::new(config(vec![t]))), w.now);
    let job = w.seconds(5).jobs().remove(0);
    w.finish(&job, Captured::Evidence);
    let look = |w: &mut World, found: &str| {
        w.host.file("run/shop.pid", found);
        w.watcher.rescan(w.now);
        w.status()[0].state
    };
    assert_eq!(look(&mut w, ""), State::Open);
    assert_eq!(look(&mut w, "11"), State::Open);
    assert_eq!(look(&mut w, ""), State::Open);
    assert_eq!(look(&mut w, ""), State::Waiting, "twice is");
}

#[test]
fn a_process_that_ends_over_the_line_is_captured_beside_others() {
    let mut patient = by_name("shop");
    patient.rules.hold = Duration::from_secs(60);
    let mut w = World::new(vec![by_name("a"), by_name("b"), patient]);
    w.process(11, "a", 150).process(12, "b", 150);
    w.process(13, "shop", 150);
    assert_eq!(w.seconds(2).jobs().len(), 2, "as many as may be at once");
    w.host.remove("proc/13");
    let jobs = w.seconds(12).jobs();
    assert_eq!(jobs.iter().map(|job| job.subject.target.name.as_str()).collect::<Vec<_>>(), ["shop"]);
}

#[test]
fn polls_of_one_interval_share_their_wake_up() {
    assert_eq!(next_multiple(Mono::from_millis(1_234), Duration::from_secs(1)), Mono::from_secs(2));
    assert_eq!(next_multiple(Mono::from_secs(2), Duration::from_secs(1)), Mono::from_secs(3));
}

#[test]
fn a_healthy_process_gets_a_baseline_now_and_then_and_a_sick_one_none() {
    let mut t = by_name("shop");
    t.baseline = Some(Duration::from_secs(600));
    let mut w = World::new(vec![t]);
    w.process(11, "shop", 50);
    let baselines =
        |tasks: Vec<Task>| tasks.iter().filter(|t| matches!(t, Task::Baseline(b) if b.subject.instance.pid() == Some(11))).count();
    w.seconds(1_300);
    assert_eq!(baselines(w.tasks()), 3);
    w.rss(11, 150);
    w.seconds(1_300);
    assert_eq!(baselines(w.tasks()), 0);
}

#[path = "remote_tests.rs"]
mod remote;

#[test]
fn a_thousand_targets_that_fire_at_once_share_one_budget_and_all_go_on_being_watched() {
    let names: Vec<String> = (0..1_000).map(|i| format!("svc{i}")).collect();
    let mut w = World::new(names.iter().map(|name| by_name(name)).collect());
    for (i, name) in names.iter().enumerate() {
        w.process(10 + i as u32, name, 150);
    }
    w.seconds(3);
    let ordered = w.tasks().into_iter().filter(|task| matches!(task, Task::Capture(_))).count();
    assert_eq!(ordered, Daemon::default().max_captures_per_hour, "none waits for another");
    let status = w.status();
    assert_eq!(status.iter().filter(|s| s.state == State::Capturing).count(), ordered);
    assert_eq!(status.iter().filter(|s| s.state == State::Throttled).count(), 1_000 - ordered);
    // those that wait recover, and it is seen
    for pid in 10..1_010 {
        w.rss(pid, 50);
    }
    assert_eq!(w.seconds(3).status().iter().filter(|s| s.state == State::Throttled).count(), 0);
}

#[test]
fn hours_in_which_nobody_ran_fire_nothing_and_end_nothing() {
    let mut t = by_name("svc");
    t.rules.slope = Some("50MiB/10m".parse().unwrap());
    let mut w = World::new(vec![t]);
    w.process(10, "svc", 50);
    w.seconds(700);
    assert!(w.tasks().iter().all(|task| !matches!(task, Task::Capture(_))));
    // a paused virtual machine: the clock jumps, and the process has grown by what it does in a moment
    w.now = w.now + Duration::from_secs(8 * 3600);
    w.rss(10, 60);
    w.seconds(30);
    assert!(w.tasks().iter().all(|task| !matches!(task, Task::Capture(_))));
    assert_eq!(w.status().iter().map(|s| s.pid).collect::<Vec<_>>(), [Some(10)]);
    w.rss(10, 150);
    w.seconds(3);
    assert!(w.tasks().iter().any(|task| matches!(task, Task::Capture(_))), "it watches on");
}

#[test]
fn whether_evidence_could_be_had_is_asked_at_start_and_of_each_new_process() {
    let mut w = World::new(vec![Target { pprof: Some(Pprof::Auto), ..by_name("shop") }, by_name("quiet")]);
    w.process(11, "shop", 50).process(21, "quiet", 50);
    let first = w.seconds(8).checks();
    assert_eq!(first.iter().map(|c| c.subject.instance.pid()).collect::<Vec<_>>(), [Some(11)], "one without pprof is not asked");
    let answer = |w: &mut World, check: &Check, found| {
        let at = std::time::SystemTime::UNIX_EPOCH;
        let (target, instance) = (check.subject.target.name.clone(), check.subject.instance.clone());
        w.watcher.obey(Command::Checked(Checked { target, slot: check.slot, instance, found, at }), w.now);
    };
    let evidence = |w: &World| w.watcher.status(w.now).remove(0).evidence;
    assert_eq!(evidence(&w), None);
    answer(&mut w, &first[0], Err("http://h: connection refused".into()));
    assert_eq!(evidence(&w).as_deref(), Some("http://h: connection refused, since 1970-01-01T00:00:00Z"));
    assert_eq!(w.seconds(70).checks().len(), 1, "what failed is tried again soon");
    answer(&mut w, &first[0], Ok(()));
    assert_eq!(evidence(&w).as_deref(), Some("ok"));
    assert_eq!(w.seconds(600).checks().len(), 0);

    w.host.remove("proc/11");
    w.process(12, "shop", 50);
    let next = w.seconds(20).checks();
    assert_eq!(next.iter().map(|c| c.subject.instance.pid()).collect::<Vec<_>>(), [Some(12)]);
    answer(&mut w, &first[0], Err("of the one before".into()));
    assert_eq!(evidence(&w), None);
}

#[test]
fn a_ring_is_a_reading_before_its_time_and_a_limit_that_is_met_is_not_waited_at() {
    let mut t = by_name("shop");
    t.rules.threshold = vec!["80%".parse().unwrap()];
    t.rules.hold = Duration::from_secs(3);
    let mut w = World::new(vec![t]);
    w.host.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    let cgroup = |w: &World, usage: u64, anon: u64| {
        let of = |file: &str, text: String| w.host.file(&format!("sys/fs/cgroup/app/{file}"), text);
        of("memory.max", format!("{}\n", 300 * MIB));
        of("memory.high", format!("{}\n", 285 * MIB));
        of("memory.current", format!("{}\n", usage * MIB));
        of("memory.stat", format!("anon {}\nfile {}\nshmem 0\n", anon * MIB, (usage - anon) * MIB));
    };
    cgroup(&w, 50, 45);
    w.host.process(7, "shop").cmdline(&["shop"]).file("cgroup", "0::/app\n").write();
    w.rss(7, 40);
    w.seconds(5).tasks();
    let bell = w.watcher.limits.charges.hang_for_test("/app");
    let ring = |w: &mut World, limit| {
        w.now = w.now + Duration::from_millis(5);
        w.watcher.obey(Command::Rang(bell, Rang { limit, kill: false }), w.now);
        w.watcher.turn(w.now);
        w.jobs()
    };
    cgroup(&w, 286, 60);
    assert_eq!(ring(&mut w, true).len(), 0, "page cache");
    cgroup(&w, 286, 280);
    w.rss(7, 275);
    let fired = ring(&mut w, true).remove(0).fired;
    assert_eq!((fired.trigger, fired.limit_bytes), (Trigger::Threshold, Some(285 * MIB)));
    assert!(fired.reason.ends_with("not waiting 3s: the kernel has met the limit of 285MiB of cgroup /app"), "{}", fired.reason);
}
