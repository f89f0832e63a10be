//! The plan: which steps are taken, in which order. Data; nothing here acts.
//!
//! Cheapest and most perishable first, most disruptive last. The order is the contract with the reader of a bundle: what
//! comes later has seen the effects of what came before.

use std::collections::BTreeSet;

use super::Scope;
use super::kernel::KernelStep;
use super::sink::Body;
use crate::config::{ReadMemory, Target};
use crate::goruntime::evidence::Part;
use crate::steps;

/// A step leaves at most one file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// As `skip` in the configuration names it; unique in a plan.
    pub name: String,
    pub file: String,
    pub work: Work,
    /// Why it is not taken, where that is known from the start.
    pub left_out: Option<LeftOut>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    Kernel(KernelStep),
    Get {
        rest: String,
        body: Body,
        optional: bool,
        seconds: u64,
    },
    /// `debug=2`, or `debug=1` where there are many.
    GoroutineText,
    /// Who holds what is live, out of the process's memory.
    Holders,
    /// MemStats at the end, where those before were read from the process's memory.
    MemStatsAfter,
    /// Only where the index lists it.
    GoroutineLeak,
    Cpu {
        seconds: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct LeftOut {
    pub reason: String,
    /// The user wants it so: the bundle is complete without it.
    pub wanted: bool,
}

/// What the plan depends on besides the target's settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions<'a> {
    /// There is a process on this host to look at.
    pub local: bool,
    /// There is one elsewhere, which only metrics tell of.
    pub remote: bool,
    /// Why pprof is not asked, though there is an address.
    pub no_pprof: Option<&'a str>,
    pub low_disk: bool,
    /// The process may be killed before the plan ends.
    pub hurry: bool,
    /// The kernel slows down whoever allocates in its cgroup.
    pub slowed: bool,
    pub scope: Scope,
}

/// In a hurry these are taken first: no other step answers the first question, and what the kernel and the rest of pprof tell is worth less
/// without them. `status` takes no lock of the process, and says how its RSS was split at the moment.
const CORE: [&str; 4] = ["status", "heap", "goroutine", "memstats"];

/// While the kernel slows the process down, in the order of worth: what stops the world once is answered, if late. See [`is_heavy`] for the rest.
const SLOWED: [&str; 5] = ["status", "heap", "memstats", "goroutine", "goroutine_text"];

/// The extra profiles come before it: it shows what all of them left behind.
const LAST_OF_PPROF: &str = "heap_gc_after";

/// All steps, in order.
pub(super) fn of(target: &Target, conditions: Conditions<'_>) -> Vec<Step> {
    let mut plan = Vec::new();
    let mut add = |name: &str, file: &str, work: Work| plan.push(Step { name: name.into(), file: file.into(), work, left_out: None });
    for step in &steps::ALL {
        if step.name == LAST_OF_PPROF {
            extras(&target.capture.extra_profiles, &mut add);
        }
        if let Some(work) = work_of(step.name, target.capture.cpu_seconds) {
            add(step.name, step.file, work);
        }
    }
    if conditions.scope == Scope::Baseline {
        plan.retain(|step| steps::is_of_baseline(&step.name));
    }
    if conditions.slowed {
        let place = |step: &Step| match SLOWED.iter().position(|name| *name == step.name) {
            Some(at) => at,
            None => SLOWED.len() + usize::from(is_heavy(step)) + usize::from(step.name.ends_with("_after")) * 2,
        };
        plan.sort_by_key(place);
    } else if conditions.hurry {
        plan.sort_by_key(|step| CORE.iter().position(|name| *name == step.name).unwrap_or(CORE.len()));
    }
    for step in &mut plan {
        step.left_out = left_out(step, target, conditions);
    }
    plan
}

/// The plan in two: what the first answer rests on, and what comes from the CPU profile on. The second part is empty where it takes no time.
pub(super) fn at_the_answer(mut plan: Vec<Step>) -> (Vec<Step>, Vec<Step>) {
    let takes_time = |step: &Step| step.left_out.is_none() && matches!(step.work, Work::Cpu { .. });
    let at = plan.iter().position(takes_time).unwrap_or(plan.len());
    let rest = plan.split_off(at);
    (plan, rest)
}

/// Whether it makes the service collect its garbage, or work for seconds.
pub(super) fn is_heavy(step: &Step) -> bool {
    let asks_for_work = matches!(&step.work, Work::Get { rest, seconds, .. } if *seconds > 0 || rest.contains("gc="));
    asks_for_work || steps::named(&step.name).is_some_and(|step| step.heavy)
}

/// The plan in two: the steps before the first that makes the service work, and the others.
pub(super) fn before_it_works(mut plan: Vec<Step>) -> (Vec<Step>, Vec<Step>) {
    let at = plan.iter().position(|step| step.left_out.is_none() && is_heavy(step)).unwrap_or(plan.len());
    let rest = plan.split_off(at);
    (plan, rest)
}

/// What a step of the table asks for.
fn work_of(name: &str, cpu_seconds: u64) -> Option<Work> {
    Some(match name {
        "cmdline" => get(name, Body::Text),
        "heap" | "threadcreate" | "allocs" => get(name, Body::Profile),
        "memstats" | "memstats_gc" => get("heap?debug=1", Body::MemStats),
        "goroutine" => get("goroutine?debug=0", Body::Profile),
        "holders" => Work::Holders,
        "memstats_after" => Work::MemStatsAfter,
        "heap_gc" | LAST_OF_PPROF => get("heap?gc=1", Body::Profile),
        "goroutine_text" => Work::GoroutineText,
        "goroutineleak" => Work::GoroutineLeak,
        "mutex" | "block" => Work::Get { rest: name.into(), body: Body::Profile, optional: true, seconds: 0 },
        "profile" => Work::Cpu { seconds: cpu_seconds },
        _ => {
            let name = name.strip_suffix("_after").unwrap_or(name);
            Work::Kernel(KernelStep::ALL.into_iter().find(|step| kernel_name(step) == name)?)
        }
    })
}

fn get(rest: &str, body: Body) -> Work {
    Work::Get { rest: rest.into(), body, optional: false, seconds: 0 }
}

/// `cgroup.txt` is the file of the step `cgroup`.
fn kernel_name(step: &KernelStep) -> &'static str {
    let file = step.file_name();
    file.split_once('.').map_or(file, |(name, _)| name)
}

/// Names and files of extra profiles must not take those of others.
fn extras(extra: &[String], add: &mut impl FnMut(&str, &str, Work)) {
    let mut taken = BTreeSet::new();
    for rest in extra {
        let name = rest.split('?').next().unwrap_or_default();
        let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '_' }).take(60).collect();
        let numbered = |n: usize| if n == 1 { format!("extra_{plain}") } else { format!("extra_{plain}_{n}") };
        let Some(step) = (1..=100).map(numbered).find(|name| !taken.contains(name)) else { continue };
        let query = |key: &str| rest.split(['?', '&']).skip(1).find_map(|q| q.strip_prefix(key)?.strip_prefix('='));
        let (body, suffix) = match (name, query("debug")) {
            ("trace", _) => (Body::Trace, "out"),
            (_, None | Some("0")) => (Body::Profile, "pb.gz"),
            _ => (Body::Text, "txt"),
        };
        let seconds = query("seconds").and_then(|s| s.parse().ok()).unwrap_or(0);
        add(&step, &format!("{step}.{suffix}"), Work::Get { rest: rest.clone(), body, optional: false, seconds });
        taken.insert(step);
    }
}

fn left_out(step: &Step, target: &Target, conditions: Conditions<'_>) -> Option<LeftOut> {
    let because = |reason: &str, wanted| Some(LeftOut { reason: reason.into(), wanted });
    let kernel = matches!(step.work, Work::Kernel(_));
    if target.capture.skip.contains(&step.name) {
        return because("skipped by the configuration", true);
    }
    if step.name == "memstats_gc" && target.capture.skip.iter().any(|s| s == "heap_gc") {
        return because("it would follow heap_gc, which is skipped by the configuration", true);
    }
    if step.work == (Work::Cpu { seconds: 0 }) {
        return because("skipped by the configuration: cpu_seconds = 0", true);
    }
    let is_here = kernel || matches!(step.work, Work::Holders | Work::MemStatsAfter);
    if is_here && conditions.remote {
        return because("the process is on another host: its kernel cannot be asked from here", true);
    }
    if is_here && !conditions.local {
        return because("no process on this host was seen to belong to this target", false);
    }
    if step.work == Work::Holders {
        let is_off = !target.capture.holders || target.capture.read_memory == ReadMemory::Off;
        return if is_off { because("switched off by the configuration", true) } else { None };
    }
    if step.work == Work::MemStatsAfter {
        // whether there is need for it turns out by then
        return None;
    }
    if conditions.local && from_memory(step, target).is_some() {
        return out_for_space(step, conditions);
    }
    if !kernel && target.pprof.is_none() {
        return because("no `pprof` address is configured for this target", true);
    }
    if let Some(why) = conditions.no_pprof.filter(|_| !kernel) {
        return because(why, false);
    }
    out_for_space(step, conditions)
}

fn out_for_space(step: &Step, conditions: Conditions<'_>) -> Option<LeftOut> {
    let big = steps::named(&step.name).is_some_and(|step| step.big) || step.name.starts_with("extra_");
    let reason = "left out to spare the disk: free space is below min_free_disk";
    (big && conditions.low_disk).then(|| LeftOut { reason: reason.into(), wanted: false })
}

/// What of the process's memory can take the place of this step's answer.
pub(super) fn from_memory(step: &Step, target: &Target) -> Option<Part> {
    let may = target.capture.read_memory != ReadMemory::Off && target.source.process().is_some();
    Part::ALL.into_iter().find(|part| may && part.name() == step.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::tests::target;
    use crate::config::Pprof;

    fn with_pprof() -> Target {
        Target { pprof: Some(Pprof::Http("http://127.0.0.1:1/debug/pprof".into())), ..target() }
    }

    const HERE: Conditions<'static> =
        Conditions { local: true, remote: false, no_pprof: None, low_disk: false, hurry: false, slowed: false, scope: Scope::Full };

    #[test]
    fn the_order_is_cheap_and_perishable_first_disruptive_last() {
        let names: Vec<String> = of(&with_pprof(), HERE).into_iter().map(|s| s.name).skip(KernelStep::ALL.len()).collect();
        let expected = "cmdline heap memstats goroutine threadcreate allocs heap_gc memstats_gc goroutine_text holders goroutineleak mutex block \
                        profile heap_gc_after memstats_after status_after smaps_rollup_after";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn each_step_of_the_table_is_taken_and_leaves_its_file() {
        let planned: Vec<(String, String)> = of(&with_pprof(), HERE).into_iter().map(|s| (s.name, s.file)).collect();
        let table: Vec<(String, String)> = steps::ALL.iter().map(|s| (s.name.into(), s.file.into())).collect();
        assert_eq!(planned, table);
    }

    #[test]
    fn what_memory_can_give_takes_the_place_of_a_step_of_the_table() {
        assert!(Part::ALL.iter().all(|part| steps::named(part.name()).is_some()));
    }

    #[test]
    fn in_a_hurry_what_dies_with_the_process_comes_first_and_the_rest_as_ever() {
        let names = |hurry| of(&with_pprof(), Conditions { hurry, ..HERE }).into_iter().map(|s| s.name).collect::<Vec<_>>();
        let (hurried, calm) = (names(true), names(false));
        assert_eq!(hurried[..4], ["status", "heap", "goroutine", "memstats"]);
        assert_eq!(hurried[4..], calm.into_iter().filter(|name| !CORE.contains(&name.as_str())).collect::<Vec<_>>());
    }

    #[test]
    fn while_the_kernel_slows_it_down_what_is_light_comes_first_and_what_makes_it_work_last() {
        let mut target = with_pprof();
        target.capture.extra_profiles = vec!["trace?seconds=5".into()];
        let plan = of(&target, Conditions { slowed: true, hurry: true, ..HERE });
        let names: Vec<&str> = plan.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names[..5], SLOWED);
        let first_heavy = plan.iter().position(is_heavy).unwrap();
        let heavy = ["heap_gc", "memstats_gc", "goroutineleak", "profile", "extra_trace"];
        assert_eq!(names[first_heavy..first_heavy + 5], heavy);
        assert_eq!(names[first_heavy + 5..], ["memstats_after", "status_after", "smaps_rollup_after", "heap_gc_after"]);
        let mut all: Vec<String> = of(&target, HERE).into_iter().map(|s| s.name).collect();
        let mut these: Vec<String> = plan.into_iter().map(|s| s.name).collect();
        all.sort();
        these.sort();
        assert_eq!(all, these);
    }

    #[test]
    fn a_baseline_is_the_cheap_steps_in_the_same_order() {
        let names: Vec<String> = of(&with_pprof(), Conditions { scope: Scope::Baseline, ..HERE }).into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["status", "smaps_rollup", "heap", "memstats", "goroutine", "holders"]);
    }

    #[test]
    fn no_two_steps_share_a_name_or_a_file() {
        let mut target = with_pprof();
        target.capture.extra_profiles = ["heap?gc=1", "heap", "trace?seconds=5", "../../etc/x?debug=1"].map(String::from).to_vec();
        let plan = of(&target, HERE);
        let names: BTreeSet<&str> = plan.iter().map(|s| s.name.as_str()).collect();
        let files: BTreeSet<&str> = plan.iter().map(|s| s.file.as_str()).collect();
        assert_eq!((names.len(), files.len()), (plan.len(), plan.len()));
        for file in ["extra_heap.pb.gz", "extra_heap_2.pb.gz", "extra_trace.out", "extra_______etc_x.txt"] {
            assert!(files.contains(file), "{file} in {files:?}");
        }
        let trace = plan.iter().find(|s| s.name == "extra_trace").unwrap();
        assert!(matches!(trace.work, Work::Get { seconds: 5, body: Body::Trace, .. }));
    }

    #[test]
    fn a_nearly_full_disk_gets_the_small_parts_only() {
        let plan = of(&with_pprof(), Conditions { low_disk: true, ..HERE });
        let taken: Vec<&str> = plan.iter().filter(|s| s.left_out.is_none()).map(|s| s.name.as_str()).collect();
        for name in ["status", "heap", "memstats", "goroutine", "heap_gc"] {
            assert!(taken.contains(&name), "{name}");
        }
        for step in steps::ALL.iter().filter(|step| step.big) {
            assert!(!taken.contains(&step.name), "{}", step.name);
        }
    }

    #[test]
    fn the_answer_waits_for_no_cpu_profile() {
        let (core, rest) = at_the_answer(of(&with_pprof(), HERE));
        assert_eq!((core.last().unwrap().name.as_str(), rest[0].name.as_str()), ("block", "profile"));
        let mut target = with_pprof();
        target.capture.cpu_seconds = 0;
        assert!(at_the_answer(of(&target, HERE)).1.is_empty());
    }

    #[test]
    fn what_the_user_does_not_want_leaves_a_bundle_complete() {
        let mut target = with_pprof();
        target.capture.skip = vec!["mutex".into()];
        target.capture.cpu_seconds = 0;
        let plan = of(&target, HERE);
        let out: Vec<(&str, bool)> = plan.iter().filter_map(|s| Some((s.name.as_str(), s.left_out.as_ref()?.wanted))).collect();
        assert_eq!(out, [("mutex", true), ("profile", true)]);
    }
}
