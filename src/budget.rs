//! The budget that the captures of all targets share. Pure.
//!
//! ```text
//!   who orders                 at once                    in any sliding hour
//!   ─────────────────────────────────────────────────────────────────────────────────────────────
//!   a rule                     of each target             max_captures_per_hour, shared out: a target's half,
//!                              max_concurrent_captures,   of that two thirds for one trigger, a third for newcomers
//!                              twice that in a hurry
//!   a person, the API, alerts  what rules leave of it     as many again, shared out in the same way
//!   the end of a process       any number: nothing is     as many again, shared out in the same way,
//!                              asked of a service         and one for each place and cooldown
//! ```
//!
//! A capture mostly waits for its service, so those of other targets are not in its way: a service that hangs holds up its own target at most. What
//! costs this host something, the analysis of what was captured, takes turns in `capture`.
//!
//! No purse pays for another: neither requests by the dozen nor a loop of crashes keep a rule from capturing, and no target uses up what another
//! will need. With one target there is nothing to share out but between its triggers. Of a target that means many services, each service counts as
//! a target does.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{self, Mono};
use crate::identity::SlotNumber;
use crate::lang::{Lang, say};
use crate::trigger::Trigger;

/// However many targets there are.
const MOST_AT_ONCE: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);

/// The bounds of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub concurrent: usize,
    pub per_hour: usize,
    /// Targets that the captures are shared out between.
    pub targets: usize,
}

impl Bounds {
    /// How many captures of rules there can be at once, all targets together.
    pub fn at_once(&self) -> usize {
        self.per_hour.min(MOST_AT_ONCE).max(self.concurrent)
    }
}

/// A capture that wants a place.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub target: &'a str,
    /// Which of its services, where it means many.
    pub workload: Option<&'a str>,
    pub slot: SlotNumber,
    pub trigger: Trigger,
    /// How many kinds of rules the target has.
    pub rules: usize,
    pub urgency: Urgency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    Calm,
    /// The process may reach its limit within seconds.
    Hurry,
    /// Its process is gone: the capture asks nothing of a service. One for each of these cooldowns.
    Gone(Duration),
}

/// Who pays for a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Purse {
    Rules,
    Asked,
    Gone,
}

#[derive(Clone, Debug)]
struct Start {
    at: Mono,
    purse: Purse,
    target: String,
    workload: Option<String>,
    slot: SlotNumber,
    /// Of one that was stored by an earlier version nothing is known.
    trigger: Option<Trigger>,
    running: bool,
}

impl Start {
    /// Whether it counts among those of who wishes.
    fn is_of(&self, wish: &Wish<'_>) -> bool {
        self.target == wish.target && self.workload.as_deref() == wish.workload
    }
}

/// A capture of the last hour, on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spending {
    /// How long ago it had started.
    #[serde(flatten)]
    pub ago: Duration,
    #[serde(default)]
    target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    #[serde(default)]
    slot: SlotNumber,
    #[serde(default)]
    trigger: Option<Trigger>,
    #[serde(default = "by_rule")]
    purse: Purse,
}

fn by_rule() -> Purse {
    Purse::Rules
}

/// Why a capture is not made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// So many of the target are running.
    Concurrent(usize),
    /// So many of all targets are.
    Full(usize),
    /// So many were made in the last hour, and the next place is free after this.
    PerHour { captures: usize, free: Duration },
    /// The rest is kept for targets that had none in the last hour.
    Reserved { captures: usize, free: Duration },
    /// The target has had its share.
    Target { captures: usize, free: Duration },
    /// Of the target's share, this trigger has had its own.
    Trigger { captures: usize, trigger: Trigger, free: Duration },
    /// An earlier process of this place has left a bundle when it ended.
    Ended { free: Duration },
    /// Forked from the same process as another whose incident it is.
    Fork { of: u32 },
}

impl Refusal {
    /// For counting: the bound's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Refusal::Concurrent(_) => "max_concurrent_captures",
            Refusal::Full(_) => "captures_at_once",
            Refusal::PerHour { .. } => "max_captures_per_hour",
            Refusal::Reserved { .. } => "reserve",
            Refusal::Target { .. } => "target_share",
            Refusal::Trigger { .. } => "trigger_share",
            Refusal::Ended { .. } => "cooldown",
            Refusal::Fork { .. } => "fork",
        }
    }

    pub fn words(&self, lang: Lang) -> String {
        let in_time = |free: &Duration| clock::human(*free);
        match self {
            Refusal::Concurrent(n) => say!(lang;
                "{n} captures of this target are running, as many as max_concurrent_captures allows";
                "该目标正在进行 {n} 次采集，已达 max_concurrent_captures 的上限"
            ),
            Refusal::Full(n) => say!(lang;
                "{n} captures are running, as many as there can be at once";
                "正在进行 {n} 次采集，已达同时采集的上限"
            ),
            Refusal::PerHour { captures, free } => {
                let why = lang.pick(", as many as max_captures_per_hour allows", "，已达 max_captures_per_hour 的上限");
                hourly(lang, *captures, ("", ""), why, *free)
            }
            Refusal::Reserved { captures, free } => {
                let why = lang.pick(
                    "; what max_captures_per_hour leaves is kept for targets that had none",
                    "；max_captures_per_hour 余下的留给尚未采集过的目标",
                );
                hourly(lang, *captures, ("", ""), why, *free)
            }
            Refusal::Target { captures, free } => {
                let why = lang.pick(", its share of max_captures_per_hour", "，用完了它在 max_captures_per_hour 中的份额");
                hourly(lang, *captures, (" of it", ""), why, *free)
            }
            Refusal::Trigger { captures, trigger, free } => {
                let (en, zh) = (format!(" by {}", trigger.name()), format!("由 {} 触发，", trigger.name()));
                let why = lang.pick(", its share of what this target may have", "，用完了它在该目标中的份额");
                hourly(lang, *captures, (&en, &zh), why, *free)
            }
            Refusal::Ended { free } => {
                let free = in_time(free);
                say!(lang;
                    "a process of this place has left a bundle when it ended; another such in {free}";
                    "此位置上的进程结束时已留下证据包；{free} 后才会再留"
                )
            }
            Refusal::Fork { of } => say!(lang;
                "forked from the same process as pid {of} and as large: that one's incident is this one's";
                "与 pid {of} 由同一进程 fork 而来且大小相当：属于同一事件"
            ),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words(Lang::En))
    }
}

impl std::error::Error for Refusal {}

/// What all targets together may do.
#[derive(Clone, Debug)]
pub struct Budget {
    bounds: Bounds,
    /// Of the last hour, and those that run; oldest first.
    started: VecDeque<Start>,
}

impl Budget {
    pub fn new(bounds: Bounds) -> Budget {
        Budget { bounds, started: VecDeque::new() }
    }

    /// Other bounds for what is counted already.
    pub fn change(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Takes a place for a capture that starts now, or says why there is none.
    pub fn admit(&mut self, wish: Wish<'_>, now: Mono) -> Result<(), Refusal> {
        self.started.retain(|start| start.running || now.since(start.at) < HOUR);
        let purse = match (wish.urgency, wish.trigger) {
            (Urgency::Gone(_), _) => Purse::Gone,
            (_, trigger) if trigger.is_asked() => Purse::Asked,
            _ => Purse::Rules,
        };
        self.has_room(purse, wish)?;
        if let Urgency::Gone(cooldown) = wish.urgency {
            let same = |s: &&Start| s.purse == Purse::Gone && s.target == wish.target && s.slot == wish.slot;
            if let Some(last) = self.started.iter().rev().find(same).filter(|last| now.since(last.at) < cooldown) {
                return Err(Refusal::Ended { free: cooldown.min(HOUR).saturating_sub(now.since(last.at)) });
            }
        }
        self.has_share(purse, wish, now)?;
        let Wish { slot, trigger, .. } = wish;
        let (target, workload) = (wish.target.to_owned(), wish.workload.map(str::to_owned));
        self.started.push_back(Start { at: now, purse, target, workload, slot, trigger: Some(trigger), running: true });
        Ok(())
    }

    fn has_room(&self, purse: Purse, wish: Wish<'_>) -> Result<(), Refusal> {
        let of: &[Purse] = if purse == Purse::Asked { &[Purse::Rules, Purse::Asked] } else { &[Purse::Rules] };
        let most = match (purse, wish.urgency) {
            (Purse::Gone, _) => return Ok(()),
            (Purse::Rules, Urgency::Hurry) => self.bounds.concurrent * 2,
            _ => self.bounds.concurrent,
        };
        let running = || self.started.iter().filter(|s| s.running && of.contains(&s.purse));
        let (own, all) = (running().filter(|s| s.is_of(&wish)).count(), running().count());
        match (own >= most, all >= MOST_AT_ONCE.max(most)) {
            (true, _) => Err(Refusal::Concurrent(own)),
            (_, true) => Err(Refusal::Full(all)),
            _ => Ok(()),
        }
    }

    fn has_share(&self, purse: Purse, wish: Wish<'_>, now: Mono) -> Result<(), Refusal> {
        let Bounds { per_hour, targets, .. } = self.bounds;
        // the age of each, oldest first
        let ages = |is: &dyn Fn(&Start) -> bool| -> Vec<Duration> {
            self.started.iter().filter(|s| s.purse == purse && is(s)).map(|s| now.since(s.at)).collect()
        };
        // how many there are, and when there will be one less than `most`
        let over = |ages: Vec<Duration>, most: usize| {
            let free = ages.get(ages.len().checked_sub(most)?).map_or(HOUR, |age| HOUR.saturating_sub(*age));
            Some((ages.len(), free))
        };
        let all = ages(&|_| true);
        let theirs = ages(&|s| s.is_of(&wish));
        if let Some((captures, free)) = over(all.clone(), per_hour) {
            return Err(Refusal::PerHour { captures, free });
        }
        let shared = targets > 1 || wish.workload.is_some();
        let share = if shared { (per_hour / 2).max(1) } else { per_hour };
        if let Some((captures, free)) = over(theirs.clone(), share) {
            return Err(Refusal::Target { captures, free });
        }
        if purse == Purse::Rules && wish.rules > 1 {
            let same = ages(&|s| s.is_of(&wish) && s.trigger == Some(wish.trigger));
            if let Some((captures, free)) = over(same, (share * 2 / 3).max(1)) {
                return Err(Refusal::Trigger { captures, trigger: wish.trigger, free });
            }
        }
        if shared
            && !theirs.is_empty()
            && let Some((captures, free)) = over(all, per_hour - per_hour / 3)
        {
            return Err(Refusal::Reserved { captures, free });
        }
        Ok(())
    }

    /// A capture of this place that was admitted at `started` has ended; one that saved nothing is not counted. What a process leaves that is gone is
    /// all that there is, and counts.
    pub fn finished(&mut self, target: &str, slot: SlotNumber, started: Mono, saved: bool) {
        let of = |s: &Start| s.running && s.at == started && s.slot == slot && s.target == target;
        let Some(i) = self.started.iter().position(of) else { return };
        match self.started.get_mut(i) {
            Some(start) if saved || start.purse == Purse::Gone => start.running = false,
            _ => drop(self.started.remove(i)),
        }
    }

    /// Those that are counted, for the next memtrap.
    pub fn save(&self, now: Mono) -> Vec<Spending> {
        let recent = self.started.iter().filter(|s| now.since(s.at) < HOUR);
        recent
            .map(|s| Spending {
                ago: now.since(s.at),
                target: s.target.clone(),
                workload: s.workload.clone(),
                slot: s.slot,
                trigger: s.trigger,
                purse: s.purse,
            })
            .collect()
    }

    pub fn restore(&mut self, spent: Vec<Spending>, elapsed: Duration, now: Mono) {
        let recent = spent.into_iter().filter_map(|s| {
            let ago = s.ago.checked_add(elapsed).filter(|ago| *ago < HOUR)?;
            // a saturated subtraction on a freshly booted host makes a capture look younger: the safe side
            Some(Start {
                at: now - ago,
                purse: s.purse,
                target: s.target,
                workload: s.workload,
                slot: s.slot,
                trigger: s.trigger,
                running: false,
            })
        });
        self.started = recent.collect();
    }
}

/// How many captures of which kind there were in the last hour, why that is enough, and when there may be another.
fn hourly(lang: Lang, captures: usize, (en, zh): (&str, &str), why: &str, free: Duration) -> String {
    let free = clock::human(free);
    say!(lang;
        "{captures} captures{en} in the last hour{why}; next in {free}";
        "最近一小时{zh}已采集 {captures} 次{why}；{free} 后可再采集"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    fn budget(concurrent: usize, per_hour: usize, targets: usize) -> Budget {
        Budget::new(Bounds { concurrent, per_hour, targets })
    }

    fn by(trigger: Trigger, target: &str) -> Wish<'_> {
        Wish { target, workload: None, slot: 0, trigger, rules: 1, urgency: Urgency::Calm }
    }

    fn wish(target: &str) -> Wish<'_> {
        by(Trigger::Threshold, target)
    }

    /// Admits and ends captures at this second until one is refused: how many, and why no more.
    fn exhaust(b: &mut Budget, wish: Wish<'_>, second: u64) -> (usize, Refusal) {
        let now = Mono::from_secs(second);
        for n in 0..1_000 {
            match b.admit(wish, now) {
                Ok(()) => b.finished(wish.target, wish.slot, now, true),
                Err(why) => return (n, why),
            }
        }
        panic!("no end");
    }

    #[test]
    fn the_hourly_budget_slides_and_refunds() {
        let mut b = budget(10, 2, 1);
        let t = Mono::from_secs;
        b.admit(wish("a"), t(0)).unwrap();
        b.admit(wish("a"), t(1800)).unwrap();
        [0, 1800].into_iter().for_each(|s| b.finished("a", 0, t(s), true));
        assert!(b.admit(wish("a"), t(3599)).unwrap_err().to_string().contains("next in 1s"));
        b.admit(wish("a"), t(3600)).unwrap();
        b.finished("a", 0, t(3600), false);
        b.admit(wish("a"), t(3601)).unwrap();
        assert!(b.admit(wish("a"), t(3602)).is_err());
        let mut after = budget(10, 2, 1);
        after.restore(b.save(t(3602)), Duration::from_secs(1000), t(10));
        assert!(after.admit(wish("a"), t(10)).is_err(), "a restart does not refill it");
        after.restore(b.save(t(3602)), Duration::MAX, t(10));
        after.admit(wish("a"), t(10)).unwrap();
    }

    #[test]
    fn what_an_earlier_version_stored_is_counted() {
        let stored: Vec<Spending> = serde_json::from_str(r#"[{"secs":60,"nanos":5},{"secs":30,"nanos":0}]"#).unwrap();
        let mut b = budget(2, 2, 1);
        b.restore(stored, Duration::ZERO, Mono::from_secs(5_000));
        assert_eq!(exhaust(&mut b, wish("a"), 5_000).0, 0);
        let again: Vec<Spending> = serde_json::from_str(&serde_json::to_string(&b.save(Mono::from_secs(5_000))).unwrap()).unwrap();
        assert_eq!(again, b.save(Mono::from_secs(5_000)));
    }

    #[test]
    fn a_target_of_many_services_shares_out_between_them_though_it_is_the_only_one() {
        let mut b = budget(2, 12, 1);
        let of = |workload| Wish { workload: Some(workload), ..wish("host") };
        let (n, why) = exhaust(&mut b, of("noisy"), 0);
        assert_eq!((n, why.name()), (6, "target_share"));
        assert_eq!(exhaust(&mut b, of("second"), 0).0, 2, "of the last third each newcomer has its first");
        assert_eq!(exhaust(&mut b, of("third"), 0).0, 1);
        let mut after = budget(2, 12, 1);
        after.restore(b.save(Mono::from_secs(1)), Duration::ZERO, Mono::from_secs(1));
        assert_eq!(exhaust(&mut after, of("third"), 1).0, 0, "and a restart knows whose they were");
    }

    #[test]
    fn one_target_leaves_half_to_the_others_and_a_third_to_those_that_had_none() {
        let mut b = budget(2, 12, 9);
        let (n, why) = exhaust(&mut b, wish("noisy"), 0);
        assert_eq!((n, why.name()), (6, "target_share"));
        let (n, why) = exhaust(&mut b, wish("also"), MINUTE);
        assert_eq!((n, why.name()), (2, "reserve"));
        for name in ["c", "d", "e", "f"] {
            let (n, why) = exhaust(&mut b, wish(name), 2 * MINUTE);
            assert_eq!(n, 1, "{name}: {why}");
        }
        assert_eq!(exhaust(&mut b, wish("g"), 3 * MINUTE), (0, Refusal::PerHour { captures: 12, free: Duration::from_secs(57 * MINUTE) }));
        let (n, _) = exhaust(&mut b, wish("noisy"), 3600);
        assert_eq!(n, 2, "what slides out of the hour is shared out again");
    }

    #[test]
    fn the_only_target_has_all_of_it() {
        assert_eq!(exhaust(&mut budget(2, 12, 1), wish("a"), 0).0, 12);
    }

    #[test]
    fn one_trigger_of_several_leaves_a_third_to_the_others() {
        let mut b = budget(2, 12, 1);
        let slope = Wish { rules: 2, ..by(Trigger::Slope, "a") };
        let (n, why) = exhaust(&mut b, slope, 0);
        assert_eq!((n, why.name()), (8, "trigger_share"));
        assert_eq!(exhaust(&mut b, Wish { rules: 2, ..wish("a") }, MINUTE).0, 4);
    }

    #[test]
    fn what_is_asked_for_takes_nothing_from_the_rules() {
        let mut b = budget(2, 12, 1);
        assert_eq!(exhaust(&mut b, by(Trigger::Manual, "a"), 0).0, 12);
        assert_eq!(exhaust(&mut b, by(Trigger::Alert, "a"), 0).0, 0, "alerts and people share");
        assert_eq!(exhaust(&mut b, wish("a"), 0).0, 12);
        let mut b = budget(2, 12, 1);
        let now = Mono::from_secs(0);
        b.admit(by(Trigger::Manual, "a"), now).unwrap();
        b.admit(Wish { slot: 1, ..by(Trigger::Manual, "a") }, now).unwrap();
        assert_eq!(b.admit(by(Trigger::Manual, "a"), now), Err(Refusal::Concurrent(2)));
        b.admit(wish("a"), now).unwrap();
        b.admit(wish("a"), now).unwrap();
        assert_eq!(b.admit(wish("a"), now), Err(Refusal::Concurrent(2)));
    }

    #[test]
    fn no_target_waits_for_the_captures_of_another_and_all_together_are_bounded() {
        let mut b = budget(1, 200, 100);
        let now = Mono::from_secs(0);
        let names: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
        let admitted = names.iter().take_while(|name| b.admit(wish(name), now).is_ok()).count();
        assert_eq!((admitted, b.admit(wish("t0"), now)), (64, Err(Refusal::Concurrent(1))));
        assert_eq!(b.admit(wish("t99"), now), Err(Refusal::Full(64)));
        b.finished("t0", 0, now, true);
        b.admit(wish("t99"), now).unwrap();
    }

    #[test]
    fn who_is_about_to_die_need_not_wait_for_captures_of_others() {
        let mut b = budget(1, 12, 1);
        let now = Mono::from_secs(0);
        let hurry = Wish { urgency: Urgency::Hurry, ..wish("a") };
        b.admit(wish("a"), now).unwrap();
        assert_eq!(b.admit(wish("a"), now), Err(Refusal::Concurrent(1)));
        b.admit(hurry, now).unwrap();
        assert_eq!(b.admit(hurry, now), Err(Refusal::Concurrent(2)));
    }

    #[test]
    fn a_process_that_is_gone_is_held_up_by_nothing_and_a_crash_loop_by_its_cooldown() {
        let mut b = budget(1, 3, 1);
        let t = Mono::from_secs;
        assert_eq!(exhaust(&mut b, wish("a"), 0).0, 3, "the rules' captures are spent");
        let gone = |slot| Wish { slot, urgency: Urgency::Gone(Duration::from_secs(15 * MINUTE)), ..wish("a") };
        b.admit(gone(0), t(1)).unwrap();
        b.admit(gone(1), t(1)).unwrap();
        assert_eq!(b.admit(gone(0), t(61)), Err(Refusal::Ended { free: Duration::from_secs(14 * MINUTE) }));
        b.admit(gone(0), t(1 + 15 * MINUTE)).unwrap();
        assert_eq!(b.admit(gone(2), t(1 + 15 * MINUTE)).unwrap_err().name(), "max_captures_per_hour");
    }

    #[test]
    fn every_refusal_says_why_in_both_languages() {
        let free = Duration::from_secs(61);
        let all = [
            Refusal::Concurrent(2),
            Refusal::Full(64),
            Refusal::PerHour { captures: 12, free },
            Refusal::Reserved { captures: 8, free },
            Refusal::Target { captures: 6, free },
            Refusal::Trigger { captures: 4, trigger: Trigger::Slope, free },
            Refusal::Ended { free },
            Refusal::Fork { of: 7 },
        ];
        for refusal in all {
            let [en, zh] = Lang::ALL.map(|lang| refusal.words(lang));
            let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
            assert_eq!(digits(&en), digits(&zh), "{en} / {zh}");
        }
    }
}
