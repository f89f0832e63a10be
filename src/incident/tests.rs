//! The state machine by example, then by a hundred thousand random lives against an oracle that shares no code with it.

use super::*;
use crate::budget::{Bounds, Budget, Urgency, Wish};
use crate::config;
use crate::identity::InstanceId;
use crate::lang::Lang;
use crate::trigger::Trigger;
use crate::units::{ByteSize, SizeOrPercent};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

fn size(mib: u64) -> SizeOrPercent {
    SizeOrPercent::Size(ByteSize::mib(mib))
}

fn process(pid: u32) -> InstanceId {
    InstanceId { pid, start_ticks: 1 }
}

/// One slot, one reading a second, captures that are admitted at once.
struct Story {
    rules: config::Rules,
    slot: Slot,
    levels: Levels,
    now: Mono,
    age: Duration,
    orders: Vec<Order>,
    /// End captures at once with this.
    outcome: Option<Captured>,
}

impl Story {
    fn new(rules: config::Rules) -> Story {
        let mut slot = Slot::default();
        slot.arrive(process(1), &rules, SECOND);
        Story {
            levels: Levels::resolve(&rules, SECOND, Some(1000 * MIB)),
            rules,
            slot,
            now: Mono::from_secs(10_000),
            age: Duration::from_secs(600),
            orders: Vec::new(),
            outcome: Some(Captured::Evidence),
        }
    }

    /// Threshold of 100 MiB, fires at once.
    fn at_once() -> Story {
        Story::new(config::Rules { threshold: vec![size(100)], hold: Duration::ZERO, ..Default::default() })
    }

    fn rss(&mut self, mib: u64) -> &mut Story {
        self.now = self.now + SECOND;
        self.age += SECOND;
        let order = self.slot.observe(Sample { at: self.now, rss: mib * MIB }, self.age, &self.levels, &self.rules);
        self.carry_out(order);
        self
    }

    fn carry_out(&mut self, order: Option<Order>) {
        let Some(order) = order else { return };
        let id = order.incident.clone().unwrap_or_else(|| format!("incident-{}", self.orders.len() + 1));
        self.slot.admitted(&order, id, &self.levels, &self.rules, self.now);
        self.orders.push(order);
        if let Some(outcome) = self.outcome.clone() {
            self.slot.captured(outcome, &self.rules, self.now);
        }
    }

    /// Asks for a capture; whether it was made.
    fn ask(&mut self, trigger: Trigger) -> Result<(), Denied> {
        let order = self.slot.ask(trigger, "asked for", &self.levels, self.now)?;
        self.carry_out(Some(order));
        Ok(())
    }

    fn for_seconds(&mut self, seconds: u64, mib: u64) -> &mut Story {
        for _ in 0..seconds {
            self.rss(mib);
        }
        self
    }

    /// So many readings fail, one a second.
    fn unread(&mut self, readings: u64) -> &mut Story {
        for _ in 0..readings {
            self.now = self.now + SECOND;
            self.age += SECOND;
            self.slot.blind("permission denied".into(), SECOND, self.now);
        }
        self
    }

    /// The kernel kills it.
    fn is_killed(&mut self) -> &mut Story {
        let order = self.slot.gone(&self.levels, self.now).or_else(|| self.slot.killed("killed", &self.levels, self.now));
        self.carry_out(order);
        self.slot.vacate();
        self
    }

    fn process_ends(&mut self) -> &mut Story {
        let order = self.slot.gone(&self.levels, self.now);
        self.carry_out(order);
        self.slot.vacate();
        self
    }

    fn process_starts(&mut self, pid: u32) -> &mut Story {
        self.slot.arrive(process(pid), &self.rules, SECOND);
        self.age = Duration::ZERO;
        self
    }

    fn state(&self) -> State {
        self.slot.state(self.now)
    }

    fn bundles(&self) -> usize {
        self.orders.len()
    }
}

/// A week in which it leaks 48 MiB a day, one reading an hour.
fn leaking() -> Story {
    let leak = Some("100MiB/7d".parse().unwrap());
    let mut story = Story::new(config::Rules { leak, threshold: vec![size(800)], hold: Duration::ZERO, ..Default::default() });
    for hour in 0..24 * 7 {
        (story.now, story.age) = (story.now + crate::floors::HOUR, story.age + crate::floors::HOUR);
        story.rss(300 + hour * 2);
    }
    story
}

#[test]
fn a_leak_is_one_incident_that_keeps_no_other_rule_from_firing() {
    let mut story = leaking();
    assert_eq!(story.orders.iter().map(|o| (o.fired.trigger, o.part)).collect::<Vec<_>>(), [(Trigger::Leak, 1)]);
    assert_eq!(story.state(), State::Open);
    let said = story.slot.reason(&story.levels, story.now, Lang::En);
    assert!(
        said.starts_with("captured as a leak, which is over once RSS falls below ") && said.contains("; meanwhile RSS is 79%"),
        "{said}"
    );
    story.rss(850);
    let part = story.orders.last().unwrap();
    assert_eq!((part.fired.trigger, part.part, part.incident.as_deref()), (Trigger::Threshold, 2, Some("incident-1")));
    story.for_seconds(10, 850);
    assert_eq!(story.bundles(), 2, "now it is an incident like any other");
    story.for_seconds(10, 200);
    assert!(story.slot.incident().is_none());
}

#[test]
fn a_leak_that_was_captured_is_not_captured_again_though_its_floors_were_stored_before() {
    let mut story = leaking();
    let stored = story.slot.save(story.now).unwrap();
    let mut floors = story.slot.leak().unwrap().save(crate::floors::KEPT, story.now).unwrap();
    assert!(floors.told.take().is_some());
    story.slot = Slot::restore(stored, Duration::ZERO, &story.rules, SECOND, story.now);
    story.slot.take_up(Leak::restore(floors, Duration::ZERO, story.now));
    for hour in 0..24 {
        (story.now, story.age) = (story.now + crate::floors::HOUR, story.age + crate::floors::HOUR);
        story.rss(640 + hour);
    }
    assert_eq!((story.bundles(), story.state()), (1, State::Open));
}

#[test]
fn a_leak_that_was_captured_has_not_announced_the_kill_that_ends_it() {
    let mut story = leaking();
    story.is_killed();
    assert_eq!(story.orders.iter().map(|o| o.fired.trigger).collect::<Vec<_>>(), [Trigger::Leak, Trigger::OomKill]);
    let mut fallen = leaking();
    fallen.for_seconds(3, 200);
    assert!(fallen.slot.incident().is_none(), "it came back");
}

#[test]
fn an_oom_kill_is_an_incident_unless_one_stands_or_a_cooldown_runs() {
    let mut story = Story::at_once();
    story.for_seconds(5, 50).is_killed();
    assert_eq!(story.orders.last().map(|order| order.fired.trigger), Some(Trigger::OomKill));
    story.process_starts(2).for_seconds(5, 50).is_killed();
    assert_eq!(story.orders.len(), 1, "a crash loop");
    let mut announced = Story::at_once();
    announced.for_seconds(5, 120).is_killed();
    assert_eq!(announced.orders.iter().map(|order| order.fired.trigger).collect::<Vec<_>>(), [Trigger::Threshold]);
}

#[test]
fn one_incident_is_one_bundle_however_long_it_lasts() {
    let mut s = Story::at_once();
    assert_eq!(s.rss(50).state(), State::Armed);
    assert_eq!(s.for_seconds(5_000, 150).bundles(), 1);
    assert_eq!(s.state(), State::Open);
}

#[test]
fn flapping_around_the_threshold_is_one_incident() {
    let mut s = Story::at_once();
    for _ in 0..2_000 {
        s.rss(105).rss(95);
    }
    assert_eq!(s.bundles(), 1);
}

#[test]
fn recovery_and_cooldown_both_arm_again() {
    let mut s = Story::at_once();
    s.rss(150).rss(50);
    assert_eq!(s.state(), State::Cooldown);
    s.for_seconds(890, 150);
    assert_eq!(s.bundles(), 1, "recovered, but the cooldown has not passed");
    s.for_seconds(20, 150);
    assert_eq!(s.bundles(), 2, "a level that is held when the cooldown ends is a new incident");
    s.for_seconds(2_000, 95);
    assert_eq!((s.bundles(), s.state()), (2, State::Open), "95 is not below 90 % of the threshold");
}

#[test]
fn a_crash_loop_is_one_bundle_per_cooldown() {
    let mut s = Story::at_once();
    for pid in 2..90 {
        s.rss(150).for_seconds(9, 160).process_ends().process_starts(pid);
    }
    assert_eq!(s.bundles(), 1, "880 seconds of crashes");
    s.for_seconds(60, 150);
    assert_eq!(s.bundles(), 2);
}

#[test]
fn a_pending_process_that_dies_still_gets_its_bundle() {
    let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
    s.rss(50).rss(150);
    assert_eq!(s.state(), State::Pending);
    s.process_ends();
    assert_eq!(s.bundles(), 1);
    assert!(s.orders[0].fired.reason.ends_with("when the process ended"), "{}", s.orders[0].fired.reason);
    s.process_starts(2).for_seconds(20, 150);
    assert_eq!(s.bundles(), 1, "and that spends the cooldown");
}

#[test]
fn a_healthy_process_that_ends_gets_none() {
    let mut s = Story::at_once();
    assert_eq!(s.rss(50).process_ends().bundles(), 0);
    assert_eq!(s.state(), State::Waiting);
}

#[test]
fn a_capture_that_saved_nothing_is_tried_again_with_backoff() {
    let mut s = Story::at_once();
    s.outcome = Some(Captured::Nothing("no space left".into()));
    s.for_seconds(60, 150);
    assert_eq!(s.bundles(), 4, "at 0, 5, 15, 35 s");
    assert!(s.orders.windows(2).all(|o| o[1].incident.as_deref() == Some("incident-1") && o[1].part == 1));
    s.outcome = Some(Captured::Evidence);
    s.for_seconds(600, 150);
    assert_eq!((s.bundles(), s.state()), (5, State::Open));
}

#[test]
fn stages_escalate_within_one_incident() {
    let rules = config::Rules {
        threshold: vec!["90%".parse().unwrap(), size(500), size(700)],
        hold: Duration::ZERO,
        escalate: true,
        ..Default::default()
    };
    let mut s = Story::new(rules);
    s.for_seconds(10, 550).for_seconds(10, 950).for_seconds(10, 990);
    let parts: Vec<_> = s.orders.iter().map(|o| (o.part, o.fired.level_bytes / MIB)).collect();
    assert_eq!(parts, [(1, 500), (2, 900)], "950 passes two stages at once");
    assert_eq!(s.orders[1].incident.as_deref(), Some("incident-1"));
}

#[test]
fn stages_without_escalate_are_one_bundle() {
    let mut s = Story::new(config::Rules { threshold: vec![size(500), size(700)], hold: Duration::ZERO, ..Default::default() });
    assert_eq!(s.for_seconds(10, 550).for_seconds(10, 950).bundles(), 1);
}

#[test]
fn a_process_replaced_during_its_capture_is_a_new_story() {
    let mut s = Story::at_once();
    s.outcome = None;
    s.rss(150).process_ends().process_starts(2).rss(50);
    assert_eq!(s.state(), State::Capturing, "the capture of what was there goes on");
    s.slot.captured(Captured::Evidence, &s.rules, s.now);
    assert_eq!(s.state(), State::Cooldown, "the new process is in no incident");
}

#[test]
fn a_refused_order_comes_again_while_the_rule_holds() {
    let mut s = Story::at_once();
    let mut budget = Budget::new(Bounds { concurrent: 1, per_hour: 10, targets: 1 });
    let wish = Wish { target: "a", workload: None, slot: 0, trigger: Trigger::Threshold, rules: 1, urgency: Urgency::Calm };
    budget.admit(wish, s.now).unwrap();
    let order = s.slot.observe(Sample { at: s.now, rss: 150 * MIB }, s.age, &s.levels, &s.rules);
    assert!(order.is_some());
    assert!(s.slot.refused(budget.admit(wish, s.now).unwrap_err()));
    assert_eq!(s.state(), State::Throttled);
    assert!(s.slot.reason(&s.levels, s.now, Lang::En).contains("max_concurrent_captures"));
    s.rss(150);
    assert_eq!(s.bundles(), 1);
}

#[test]
fn a_blind_spell_says_why_and_holds_nothing() {
    let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
    s.rss(150).rss(150).unread(5);
    assert_eq!((s.state(), s.slot.reason(&s.levels, s.now, Lang::En)), (State::Blind, "permission denied".into()));
    assert_eq!(s.rss(150).bundles(), 0, "`for` starts anew");
    assert_eq!(s.for_seconds(2, 150).bundles(), 0);
    assert_eq!(s.rss(150).bundles(), 1);
}

#[test]
fn a_gap_of_a_few_readings_confirms_nothing_and_clears_nothing() {
    let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
    s.rss(150).rss(150).rss(150).unread(4);
    let reason = s.slot.reason(&s.levels, s.now, Lang::En);
    assert_eq!((s.state(), s.bundles()), (State::Pending, 0), "2 s of 3 are known: {reason}");
    assert!(reason.ends_with("holding for 2s of 3s; the last reading failed: permission denied"), "{reason}");
    assert_eq!(s.rss(150).bundles(), 1, "one reading more stands for one second more");
}

#[test]
fn a_source_that_answers_every_other_time_still_fires() {
    for failing in [1, 2, 3, 4] {
        let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
        s.rss(186);
        for _ in 0..3 {
            assert_eq!(s.bundles(), 0);
            s.unread(failing).rss(186);
        }
        assert_eq!(s.bundles(), 1, "{failing} of {} readings fail", failing + 1);
    }
}

#[test]
fn a_process_that_dies_in_a_gap_was_pending() {
    let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
    s.rss(150).rss(150).unread(2).process_ends();
    assert_eq!(s.bundles(), 1);
}

#[test]
fn what_is_over_the_line_most_of_the_time_fires_and_what_is_below_it_most_of_the_time_does_not() {
    let rules = config::Rules { threshold: vec![size(100)], ..Default::default() };
    let of = |pattern: &[u64]| {
        let mut s = Story::new(rules.clone());
        (0..600).for_each(|i| {
            s.rss(pattern[i % pattern.len()]);
        });
        s.bundles()
    };
    assert_eq!(of(&[120, 120, 80]), 1);
    assert_eq!(of(&[120, 120, 120, 80, 80]), 1);
    assert_eq!(of(&[120, 80]), 0, "half of the time");
    assert_eq!(of(&[120, 120, 80, 80]), 0, "half of the time");
    assert_eq!(of(&[120, 120, 120, 80, 80, 80, 80, 80]), 0, "a spike");
    assert_eq!(of(&[120, 120, 0, 0, 0]), 0);
}

#[test]
fn the_cooldown_doubles_while_the_same_comes_again_and_says_so() {
    let mut s = Story::at_once();
    let mut at: Vec<u64> = Vec::new();
    for i in 0..86_400 {
        if s.rss(if i % 20 < 10 { 101 } else { 89 }).bundles() > at.len() {
            at.push(i);
        }
    }
    let gaps: Vec<u64> = at.windows(2).map(|w| (w[1] - w[0]) / 60).collect();
    assert_eq!(gaps, [15, 30, 60, 120, 240, 240, 240, 240, 240], "10 bundles a day and not 94");
    s.rss(89);
    let reason = s.slot.reason(&s.levels, s.now, Lang::En);
    assert!(reason.contains("(16 times the usual, for it has come again and again; sooner only above 111MiB)"), "{reason}");
    let last = &s.orders.last().unwrap().fired.reason;
    assert!(last.ends_with("incidents came here 5 times before, with little rest between them"), "{last}");
}

#[test]
fn a_grown_cooldown_outlives_memtrap_and_comes_down_with_quiet() {
    let mut s = Story::at_once();
    (0..7_200).for_each(|i| {
        s.rss(if i % 20 < 10 { 101 } else { 89 });
    });
    let bundles = s.bundles();
    assert_eq!(bundles, 4, "at 0, 15, 45 and 105 min; the next at 225");
    let saved = serde_json::to_string(&s.slot.save(s.now).unwrap()).unwrap();
    s.slot = Slot::restore(serde_json::from_str(&saved).unwrap(), Duration::ZERO, &s.rules, SECOND, s.now);
    assert_eq!(s.for_seconds(6_200, 101).bundles(), bundles);
    assert_eq!(s.for_seconds(200, 101).bundles(), bundles + 1);
    s.for_seconds(14_400, 50);
    // its end comes down by one step for each hour of quiet
    s.for_seconds(5 * 3_600, 50);
    assert!(!s.slot.is_spent(s.now) || s.slot.save(s.now).is_none());
    let before = s.bundles();
    s.rss(101).for_seconds(899, 50).rss(101);
    assert_eq!(s.bundles(), before + 2, "as at first");
}

#[test]
fn what_is_worse_than_before_waits_for_the_usual_cooldown_only() {
    let mut s = Story::at_once();
    (0..7_200).for_each(|i| {
        s.rss(if i % 20 < 10 { 101 } else { 89 });
    });
    let bundles = s.bundles();
    assert_eq!(s.rss(89).rss(120).bundles(), bundles + 1, "more than a tenth above 101 MiB");
    assert_eq!(s.rss(89).rss(140).bundles(), bundles + 1, "not within the usual cooldown");
}

#[test]
fn a_bundle_of_nothing_but_readings_spends_no_cooldown_and_a_crash_loop_makes_few_of_them() {
    let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
    s.outcome = Some(Captured::Hollow);
    s.rss(150).process_ends().process_starts(2);
    assert_eq!((s.bundles(), s.state()), (1, State::Armed));
    for pid in 3..100 {
        s.rss(150).rss(150).process_ends().process_starts(pid);
    }
    assert_eq!(s.bundles(), 1, "lives of 2 s: one bundle in the first 15 min");
    s.outcome = Some(Captured::Evidence);
    assert_eq!(s.for_seconds(4, 387).bundles(), 2, "one that lives is captured at once");
    assert_eq!(s.state(), State::Open);
}

#[test]
fn hollow_bundles_of_a_day_of_crashes_are_few() {
    let mut s = Story::new(config::Rules { threshold: vec![size(100)], ..Default::default() });
    s.outcome = Some(Captured::Hollow);
    for pid in 2..20_000 {
        s.rss(150).rss(150).rss(150).rss(150).process_ends().process_starts(pid);
    }
    assert!((5..=300).contains(&s.bundles()), "{}", s.bundles());
    let saved = serde_json::to_string(&s.slot.save(s.now).unwrap()).unwrap();
    let before = s.bundles();
    s.slot = Slot::restore(serde_json::from_str(&saved).unwrap(), SECOND, &s.rules, SECOND, s.now);
    s.process_starts(7).rss(150).process_ends();
    assert_eq!(s.bundles(), before, "nor does a restart of memtrap forget");
}

#[test]
fn a_state_of_an_older_memtrap_is_read() {
    let text = r#"{"instance":null,"incident":null,"capturing":false,"cooldown_left":{"secs":100,"nanos":0}}"#;
    let rules = config::Rules::default();
    let slot = Slot::restore(serde_json::from_str(text).unwrap(), SECOND, &rules, SECOND, Mono::from_secs(1_000));
    assert_eq!(slot.cooldown_until(Mono::from_secs(1_000)), Some(Mono::from_secs(1_099)));
}

#[test]
fn an_incident_survives_a_restart_with_its_process() {
    let mut s = Story::at_once();
    s.rss(150);
    let saved = s.slot.save(s.now).unwrap();
    let text = serde_json::to_string(&saved).unwrap();
    s.slot = Slot::restore(serde_json::from_str(&text).unwrap(), Duration::from_secs(5), &s.rules, SECOND, s.now);
    assert_eq!(s.for_seconds(3_000, 150).bundles(), 1);
    assert_eq!(s.state(), State::Open);
}

#[test]
fn an_incident_without_a_bundle_is_still_tried_after_a_restart() {
    let mut s = Story::at_once();
    s.outcome = Some(Captured::Nothing("the disk is full".into()));
    s.rss(150);
    let saved = serde_json::to_string(&s.slot.save(s.now).unwrap()).unwrap();
    s.slot = Slot::restore(serde_json::from_str(&saved).unwrap(), Duration::from_secs(5), &s.rules, SECOND, s.now);
    s.outcome = Some(Captured::Evidence);
    assert_eq!(s.rss(150).bundles(), 2);
    assert_eq!((s.orders[1].incident.as_deref(), s.orders[1].part), (Some("incident-1"), 1), "the same incident's first part");
    assert_eq!(s.for_seconds(3_000, 150).bundles(), 2);
}

#[test]
fn a_cooldown_survives_a_restart_without_its_process() {
    let mut s = Story::at_once();
    s.rss(150).process_ends();
    let saved = s.slot.save(s.now).unwrap();
    s.slot = Slot::restore(saved, Duration::from_secs(100), &s.rules, SECOND, s.now);
    s.process_starts(2).for_seconds(790, 150);
    assert_eq!(s.bundles(), 1);
    assert_eq!(s.for_seconds(20, 150).bundles(), 2);
}

#[test]
fn killed_while_capturing_the_interrupted_bundle_was_the_one() {
    let mut s = Story::at_once();
    s.outcome = None;
    s.rss(150);
    let saved = s.slot.save(s.now).unwrap();
    s.slot = Slot::restore(saved, SECOND, &s.rules, SECOND, s.now);
    assert_eq!(s.for_seconds(2_000, 150).bundles(), 1);
}

#[test]
fn a_manual_capture_of_a_healthy_process_leaves_its_rules_armed() {
    let mut s = Story::at_once();
    s.rss(50).ask(Trigger::Manual).unwrap();
    assert_eq!((s.bundles(), s.state()), (1, State::Armed));
    assert_eq!((s.rss(150).bundles(), s.state()), (2, State::Open), "what happens next is an incident like any other");
    assert_eq!(s.orders[1].part, 1);
}

#[test]
fn a_manual_capture_ignores_the_cooldown_and_adds_to_the_open_incident() {
    let mut s = Story::at_once();
    s.rss(150).ask(Trigger::Manual).unwrap();
    assert_eq!((s.orders[1].incident.as_deref(), s.orders[1].part, s.state()), (Some("incident-1"), 2, State::Open));
    s.rss(50).ask(Trigger::Manual).unwrap();
    assert_eq!((s.orders[2].incident.as_deref(), s.orders[2].part, s.state()), (None, 1, State::Cooldown));
    assert_eq!(s.for_seconds(880, 150).bundles(), 3, "the cooldown of the incident goes on");
    assert_eq!(s.for_seconds(30, 150).bundles(), 4);
}

#[test]
fn an_instance_has_one_capture_at_a_time() {
    let mut s = Story::at_once();
    s.outcome = None;
    s.rss(50).ask(Trigger::Manual).unwrap();
    assert_eq!((s.state(), s.slot.reason(&s.levels, s.now, Lang::En)), (State::Capturing, "asked for, at RSS 50.0MiB".to_owned()));
    assert_eq!(s.ask(Trigger::Manual), Err(Denied::Capturing));
    assert_eq!(s.ask(Trigger::Alert), Err(Denied::Capturing));
    assert_eq!(s.for_seconds(5, 150).bundles(), 1, "a rule waits for its end");
    s.slot.captured(Captured::Evidence, &s.rules, s.now);
    assert_eq!(s.rss(150).bundles(), 2, "and then fires");
}

#[test]
fn an_incident_that_ends_during_a_manual_capture_is_over() {
    let mut s = Story::at_once();
    s.rss(150).outcome = None;
    s.ask(Trigger::Manual).unwrap();
    s.rss(50).rss(150);
    s.slot.captured(Captured::Evidence, &s.rules, s.now);
    assert_eq!(s.state(), State::Cooldown);
}

#[test]
fn an_alert_opens_an_incident_and_spends_the_cooldown() {
    let mut s = Story::at_once();
    s.rss(50).ask(Trigger::Alert).unwrap();
    assert_eq!((s.state(), s.orders[0].fired.trigger), (State::Open, Trigger::Alert));
    assert_eq!(s.ask(Trigger::Alert), Err(Denied::Open("incident-1".into())));
    s.rss(20);
    assert!(matches!(s.ask(Trigger::Alert), Err(Denied::Cooldown(left)) if left.as_secs() == 899));
    assert_eq!(s.for_seconds(895, 150).bundles(), 1, "it holds for rules as well");
    s.for_seconds(5, 20).ask(Trigger::Alert).unwrap();
}

#[test]
fn an_alert_before_the_first_reading_is_over_with_it() {
    let mut s = Story::at_once();
    s.ask(Trigger::Alert).unwrap();
    assert_eq!(s.state(), State::Open);
    assert_eq!(s.rss(50).state(), State::Cooldown);
}

#[test]
fn what_is_asked_of_an_empty_place_is_denied() {
    let mut s = Story::at_once();
    s.process_ends();
    assert_eq!(s.ask(Trigger::Manual), Err(Denied::NoProcess));
}

#[test]
fn a_rule_that_the_cooldown_holds_back_is_told_once() {
    let mut s = Story::at_once();
    s.rss(150).rss(50);
    assert!(!s.slot.take_muted());
    assert!(s.slot.reason(&s.levels, s.now, Lang::En).starts_with("no rule is met; armed again in"));
    s.rss(150).rss(150);
    assert!(s.slot.take_muted());
    let reason = s.slot.reason(&s.levels, s.now, Lang::En);
    assert!(reason.contains("150% of the threshold") && reason.contains("held back by the cooldown for another 14m"), "{reason}");
    s.rss(150);
    assert!(!s.slot.take_muted());
    s.rss(50).rss(150);
    assert!(s.slot.take_muted(), "another time");
}

#[test]
fn a_manual_capture_that_was_killed_is_no_incident() {
    let mut s = Story::at_once();
    s.outcome = None;
    s.rss(50).ask(Trigger::Manual).unwrap();
    assert_eq!(s.slot.save(s.now), None);
}

#[test]
fn absurd_numbers_in_a_stored_cooldown_end_no_start() {
    let most = r#"{"secs":18446744073709551615,"nanos":999999999}"#;
    for left in [r#"{"secs":0,"nanos":0}"#, most] {
        let text = format!(
            r#"{{"instance":null,"incident":null,"capturing":false,"cooldown_left":{left},"hollow_left":{most},
                "cooldown":{{"worse_left":{most},"again":4294967295,"highest":18446744073709551615,"forgets":{most},"over_for":{most}}}}}"#
        );
        let rules = config::Rules::default();
        let now = Mono::from_secs(1_000);
        for elapsed in [Duration::ZERO, Duration::MAX] {
            let slot = Slot::restore(serde_json::from_str(&text).unwrap(), elapsed, &rules, SECOND, now);
            slot.save(now);
            slot.is_spent(now);
            assert!(slot.cooldown_until(now).is_none_or(|until| until.since(now) <= Duration::from_secs(480 * 86_400)));
        }
    }
}

/// Random lives, judged by an oracle of plain loops.
mod simulation {
    use super::*;

    /// A small, seeded generator: the same hundred thousand lives in every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
        fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }
        fn one_in(&mut self, n: u64) -> bool {
            self.below(n) == 0
        }
        fn pick<T: Copy>(&mut self, items: &[T]) -> T {
            items[self.below(items.len() as u64) as usize]
        }
    }

    const LIMIT: u64 = 1000 * MIB;

    struct Life {
        rules: config::Rules,
        threshold: u64,
    }

    fn random_rules(r: &mut Random) -> Life {
        let threshold = (100 + r.below(800)) * MIB;
        let rules = config::Rules {
            threshold: vec![SizeOrPercent::Size(ByteSize(threshold))],
            slope: r.one_in(2).then(|| r.pick(&["50MiB/10s", "100MiB/20s", "10%/30s"]).parse().unwrap()),
            eta: r.one_in(3).then(|| Duration::from_secs(10 + r.below(60))),
            hold: Duration::from_secs(r.below(5)),
            warmup: Duration::from_secs(r.below(30)),
            cooldown: Duration::from_secs(r.below(60)),
            ..Default::default()
        };
        Life { rules, threshold }
    }

    /// What the oracle remembers of the last capture.
    struct Last {
        at: Mono,
        level: u64,
        over: bool,
        saved: bool,
    }

    /// Lives one random series; returns how many captures it saw.
    fn live(r: &mut Random) -> usize {
        let Life { rules, threshold } = random_rules(r);
        let levels = Levels::resolve(&rules, SECOND, Some(LIMIT));
        let mut slot = Slot::default();
        let mut pid = 1;
        slot.arrive(process(pid), &rules, SECOND);
        let (mut now, mut born) = (Mono::from_secs(1_000), Mono::from_secs(1_000));
        let mut rss = r.below(LIMIT);
        let mut drift: i64 = 0;
        // whole seconds over the line, less those below it, as far as readings know
        let mut over: u64 = 0;
        let (mut was_over, mut read_at) = (false, Mono::default());
        let mut last: Option<Last> = None;
        let mut running_until: Option<Mono> = None;
        // of a capture that a person asked for
        let mut aside_until: Option<Mono> = None;
        let mut captures = 0;
        let mut unread: u64 = 0;
        // each capture may double the cooldown, to sixteen times what is configured
        let mut longest = rules.cooldown;
        let (mut evidence, mut evidence_at) = (0, None::<Mono>);
        // bundles of nothing but readings, in a row, and when the last one was
        let (mut hollow, mut hollow_at) = (0, None::<Mono>);

        for _ in 0..80 {
            now = now + SECOND;
            // captures end
            if running_until.is_some_and(|t| now >= t) {
                running_until = None;
                let saved = !r.one_in(6);
                let result = if saved { Captured::Evidence } else { Captured::Nothing("disk full".into()) };
                slot.captured(result, &rules, now);
                if let Some(last) = &mut last {
                    last.saved = saved;
                }
                if saved {
                    evidence_at = last.as_ref().map(|l| l.at);
                    (longest, evidence, hollow) = (rules.cooldown * 2u32.pow(evidence.min(4)), evidence + 1, 0);
                }
            }
            if aside_until.is_some_and(|t| now >= t) {
                aside_until = None;
                slot.captured(if r.one_in(3) { Captured::Nothing("refused".into()) } else { Captured::Evidence }, &rules, now);
            }
            // people and alerts ask for captures
            if r.one_in(30) {
                let trigger = r.pick(&[Trigger::Manual, Trigger::Alert]);
                let is_busy = running_until.is_some() || aside_until.is_some();
                let may = match (trigger, &last) {
                    _ if is_busy => false,
                    (Trigger::Manual, _) | (_, None) => true,
                    (_, Some(last)) => last.over && (!last.saved || now.since(last.at) >= rules.cooldown),
                };
                let must = may && (trigger == Trigger::Manual || evidence_at.is_none_or(|at| now.since(at) >= longest));
                let order = slot.ask(trigger, "test", &levels, now);
                assert!(order.is_ok() || !must, "{trigger:?}: {order:?} {slot:?}");
                assert!(order.is_err() || may, "{trigger:?}: {order:?} {slot:?}");
                if let Ok(order) = order {
                    let before = slot.state(now);
                    slot.admitted(&order, "asked".into(), &levels, &rules, now);
                    assert_eq!(slot.state(now), State::Capturing);
                    let until = now + Duration::from_secs(1 + r.below(8));
                    if trigger == Trigger::Manual {
                        aside_until = Some(until);
                        // looked at without time passing, nothing has changed but the part
                        let mut done = slot.clone();
                        done.captured(Captured::Evidence, &rules, now);
                        assert_eq!(done.state(now), before);
                    } else {
                        check_spacing(&last, now, &rules, false);
                        let level = match order.fired.rss_bytes {
                            // nothing was read yet
                            0 => threshold,
                            rss => rss.min(threshold),
                        };
                        last = Some(Last { at: now, level, over: false, saved: true });
                        running_until = Some(until);
                    }
                    captures += 1;
                }
            }
            // processes are replaced, readings fail
            if r.one_in(60) {
                if let Some(order) = slot.gone(&levels, now) {
                    assert!(running_until.is_none() && aside_until.is_none());
                    let is_retry = order.incident.is_some();
                    assert!(is_retry || hollow_at.is_none_or(|at| now.since(at) >= rules.cooldown), "a hollow bundle for each life");
                    slot.admitted(&order, "dead".into(), &levels, &rules, now);
                    check_spacing(&last, now, &rules, true);
                    if r.one_in(3) {
                        slot.captured(Captured::Hollow, &rules, now);
                        (hollow, hollow_at) = (hollow + 1, Some(now));
                        // it ends what was tried again, and spends nothing
                        last = last.filter(|last| last.saved);
                    } else {
                        last = Some(Last { at: now, level: order.fired.level_bytes, over: true, saved: true });
                        slot.captured(Captured::Evidence, &rules, now);
                        (longest, evidence, hollow) = (rules.cooldown * 2u32.pow(evidence.min(4)), evidence + 1, 0);
                        (hollow_at, evidence_at) = (None, Some(now));
                    }
                }
                slot.vacate();
                pid += 1;
                slot.arrive(process(pid), &rules, SECOND);
                (born, rss, over, was_over) = (now, r.below(300) * MIB, 0, false);
                read_at = Mono::default();
                if let Some(last) = &mut last {
                    last.over = true;
                }
                continue;
            }
            // now and then for so long that it is blind
            if unread > 0 || r.one_in(30) {
                unread = if unread > 0 { unread - 1 } else { r.pick(&[0, 0, 1, 2, 8]) };
                slot.blind("test".into(), SECOND, now);
                continue;
            }
            // a walk with moods: flat, leaking, flapping, freeing
            if r.one_in(12) {
                drift = r.pick(&[0, 0, 1, 5, 20, -30]) * MIB as i64;
            }
            let noise = r.below(9 * MIB) as i64 - 4 * MIB as i64;
            rss = if r.one_in(25) { r.below(LIMIT) } else { rss.saturating_add_signed(drift + noise).min(LIMIT) };

            let is_over = rss >= threshold;
            over = match now.since(read_at).as_secs() {
                6.. => 0,
                _ if is_over && was_over => over + 1,
                _ if !is_over && !was_over => over.min(rules.hold.as_secs()).saturating_sub(1),
                _ => over.min(rules.hold.as_secs()),
            };
            (was_over, read_at) = (is_over, now);
            if let Some(last) = &mut last
                && running_until.is_none()
                && (rss as f64) < last.level as f64 * 0.9 - 1.0
            {
                // what held ends with its incident
                over = if last.over { over } else { 0 };
                last.over = true;
            }
            let order = slot.observe(Sample { at: now, rss }, now.since(born), &levels, &rules);

            let blocked = aside_until.is_some()
                || running_until.is_some()
                || last.as_ref().is_some_and(|l| !l.over || !l.saved)
                || evidence_at.is_some_and(|at| now.since(at) < longest + SECOND)
                || hollow_at.is_some_and(|at| now.since(at) < Duration::from_secs(5 << hollow) && now.since(at) <= rules.cooldown);
            let sustained = is_over && over >= rules.hold.as_secs();
            assert!(blocked || !sustained || order.is_some(), "a sustained crossing was missed: {slot:?}");

            if let Some(order) = order {
                captures += 1;
                assert!(running_until.is_none() && aside_until.is_none(), "two captures at once in one slot");
                check_spacing(&last, now, &rules, false);
                if order.fired.trigger == Trigger::Slope {
                    let window = Duration::from_secs_f64(order.fired.window_seconds.unwrap());
                    assert!(now.since(born) >= window * 3 / 4, "a slope reached back across two processes");
                }
                slot.admitted(&order, "one".into(), &levels, &rules, now);
                let level =
                    if order.fired.rss_bytes >= threshold || order.fired.level_bytes == 0 { threshold } else { order.fired.level_bytes };
                last = Some(Last { at: now, level, over: false, saved: true });
                running_until = Some(now + Duration::from_secs(r.below(8)));
            }
        }
        captures
    }

    fn check_spacing(last: &Option<Last>, now: Mono, rules: &config::Rules, dead: bool) {
        let Some(last) = last else { return };
        if !last.saved {
            return; // a retry of the same incident
        }
        assert!(last.over || dead, "two bundles in one incident");
        assert!(now.since(last.at) >= rules.cooldown, "a capture inside the cooldown");
    }

    #[test]
    fn a_hundred_thousand_random_lives_keep_the_rules() {
        let lives = |seed: u64| {
            std::thread::spawn(move || {
                let mut r = Random(seed);
                (0..50_000).map(|_| live(&mut r)).sum::<usize>()
            })
        };
        let captures: usize = [lives(0x9E37_79B9_7F4A_7C15), lives(0xD1B5_4A32_D192_ED03)].into_iter().map(|t| t.join().unwrap()).sum();
        assert!(captures > 50_000, "the simulation must provoke captures to mean anything: {captures}");
    }
}
