//! Every number of every sentence of a verdict, derived anew from the files of its bundle ([`witness`](super::witness)).
//!
//! Each sentence has its rule: a pattern, and where the numbers in it come from. A sentence that no rule knows is a deviation, and so is
//! a number that differs from what the files say by more than its last digit shown.
//!
//! What a part of RSS is made of is judgement: of such amounts the rules hold that they lie within what the kernel and the runtime
//! allow, that shares are of the same whole, and that the table adds up. All other numbers are held to their last digit.

use std::path::Path;

use regex_lite::{Captures, Regex};
use serde_json::Value;

use memtrap::holders::{Holder, Holders};

use super::witness::{Witness, by_stack, count, of_function, of_place, stack, total};

type Checked = Result<(), String>;

/// One verdict beside the files that it is of.
struct Case<'a> {
    now: Witness,
    base: Option<Witness>,
    verdict: &'a Value,
    /// The growth since the baseline is what is explained.
    growth: bool,
}

/// What deviates, a line for each.
pub fn deviations(bundle: &Path, verdict: &Value) -> Vec<String> {
    let now = Witness::of(bundle);
    let evidence: Vec<&str> = verdict["evidence"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    let growth = evidence.iter().any(|s| s.ends_with(": the growth decides."));
    let case = Case { base: now.baseline(), now, verdict, growth };
    let table = case.table().and_then(|()| case.cgroup_table()).err().map(|why| format!("table: {why}"));
    let summary = case.summary(verdict["summary"].as_str().unwrap());
    let summary = summary.err().map(|why| format!("{}\n    {why}", verdict["summary"]));
    let rules: Vec<(Regex, Rule)> = EVIDENCE.iter().map(|(pattern, rule)| (whole(pattern), *rule)).collect();
    let sentences = evidence.iter().filter_map(|said| case.by_rule(&rules, said).err().map(|why| format!("{said}\n    {why}")));
    table.into_iter().chain(summary).chain(sentences).collect()
}

/// The numbers of a Chinese verdict that are not those of the English one.
pub fn differences(english: &Value, chinese: &Value) -> Vec<String> {
    let said = |v: &Value| -> Vec<String> {
        let evidence = v["evidence"].as_array().unwrap().iter().chain(v["missing"].as_array().unwrap());
        [&v["summary"]].into_iter().chain(evidence).map(|s| s.as_str().unwrap().to_owned()).collect()
    };
    let (english, chinese) = (said(english), said(chinese));
    let number = Regex::new(r"(\d+(?:\.\d+)?)( thousand| million| 万| 亿)?").unwrap();
    let numbers = |text: &str| {
        let mut all: Vec<f64> = number
            .captures_iter(text)
            .map(|m| {
                let unit = match m.get(2).map(|u| u.as_str()) {
                    Some(" thousand") => 1e3,
                    Some(" million") => 1e6,
                    Some(" 万") => 1e4,
                    Some(" 亿") => 1e8,
                    _ => 1.0,
                };
                m[1].parse::<f64>().unwrap() * unit
            })
            .collect();
        all.sort_by(f64::total_cmp);
        all
    };
    // thousands and 万 are rounded at different digits
    let alike = |a: f64, b: f64| a == b || a >= 10_000.0 && (a - b).abs() <= (a / 10.0).max(1000.0);
    let same = |a: &str, b: &str| {
        let (a, b) = (numbers(a), numbers(b));
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| alike(*a, *b))
    };
    let mut differ: Vec<String> = english.iter().zip(&chinese).filter(|(a, b)| !same(a, b)).map(|(a, b)| format!("{a}\n    {b}")).collect();
    if english.len() != chinese.len() {
        differ.push(format!("{} sentences in English, {} in Chinese", english.len(), chinese.len()));
    }
    differ
}

/// A pattern of a whole sentence: `{s:x}` a size, `{p:x}` a share, `{n:x}` a count, `{f:x}` a function; `x` names it.
fn whole(pattern: &str) -> Regex {
    let kinds = [
        ("s", r"[+-]?[\d.]+(?:[KMGTPE]i)?B"),
        ("p", r"<?\d+%"),
        ("n", r"\d+(?: thousand|\.\d million)?"),
        // what stands in the brackets of a generic function has commas and spaces, and brackets of its own
        ("f", r"an unnamed function|(?:[^,;\[]|\[(?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*\])+?"),
    ];
    let mut text = pattern.to_owned();
    for (kind, regex) in kinds {
        let slot = Regex::new(&format!(r"\{{{kind}:(\w+)\}}")).unwrap();
        text = slot.replace_all(&text, |m: &Captures<'_>| format!("(?P<{}>{regex})", &m[1])).into_owned();
    }
    Regex::new(&format!("^(?:{text})$")).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The lowest and the highest value that are shown so.
fn shown(text: &str) -> (f64, f64) {
    if text == "<1%" {
        return (0.0, 1.0);
    }
    let digits: String = text.trim_start_matches('+').chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | '-')).collect();
    let value: f64 = digits.parse().unwrap_or_else(|_| panic!("no number: {text}"));
    let decimals = digits.split_once('.').map_or(0, |(_, after)| after.len() as i32);
    let unit = match &text.trim_start_matches('+')[digits.len()..] {
        "" | "B" | "%" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1048576.0,
        "GiB" => 1073741824.0,
        "TiB" => 1099511627776.0,
        " thousand" => return (value * 1e3, value * 1e3 + 999.0),
        " million" => 1e6,
        unit => panic!("no unit: {unit}"),
    };
    let slack = if unit == 1.0 && !text.ends_with('%') { 0.0 } else { 0.5 * 10f64.powi(-decimals) * unit };
    (value * unit - slack, value * unit + slack)
}

/// What is shown as `name` is between the two; nothing where it is not shown.
fn within(m: &Captures<'_>, name: &str, low: f64, high: f64) -> Checked {
    let Some(text) = m.name(name).map(|text| text.as_str()) else { return Ok(()) };
    let (least, most) = shown(text);
    // a byte for what integers round
    if most + 1.0 >= low && least - 1.0 <= high {
        return Ok(());
    }
    let mib = |bytes: f64| if bytes.abs() < 1e5 { format!("{bytes}") } else { format!("{bytes} ({:.4} MiB)", bytes / 1048576.0) };
    Err(format!("{name}: {text}, but it is {} to {}", mib(low), mib(high)))
}

fn is(m: &Captures<'_>, name: &str, value: Option<f64>) -> Checked {
    if m.name(name).is_none() {
        return Ok(());
    }
    let value = value.ok_or_else(|| format!("{name}: nothing in the bundle tells it"))?;
    within(m, name, value, value)
}

fn share_is(m: &Captures<'_>, name: &str, part: f64, whole: f64) -> Checked {
    let share = part * 100.0 / whole.max(1.0);
    within(m, name, share - 0.01, share + 0.01)
}

type Rule = fn(&Case<'_>, &Captures<'_>) -> Checked;

const LIVE_FROM: &str =
    "(?:, many and small(?: of {s:each} on average)?)?(?:, most of it from {f:most}|, the largest part \\({p:part}\\) from {f:largest})?";

impl Case<'_> {
    fn by_rule(&self, rules: &[(Regex, Rule)], said: &str) -> Checked {
        let (rule, m) = rules.iter().find_map(|(regex, rule)| Some((rule, regex.captures(said)?))).ok_or("no rule knows this sentence")?;
        rule(self, &m)
    }

    fn rss(&self) -> f64 {
        let manifest = self.now.json("manifest.json").and_then(|m| m["trigger"]["rss_bytes"].as_f64());
        manifest.or_else(|| self.kernel_rss()).unwrap_or(0.0)
    }

    fn kernel_rss(&self) -> Option<f64> {
        Some(self.now.status("RssAnon")? + self.now.status("RssFile")? + self.now.status("RssShmem")?)
    }

    fn baseline_rss(&self) -> Option<f64> {
        self.base.as_ref()?.json("baseline.json")?["rss_bytes"].as_f64()
    }

    /// A bucket of the table: of the growth where that decides.
    fn part(&self, bucket: &str) -> f64 {
        let key = if self.growth { "growth_bytes" } else { "bytes" };
        let line = self.verdict["anatomy"].as_array().unwrap().iter().find(|line| line["bucket"] == bucket);
        line.and_then(|line| line[key].as_f64()).unwrap_or(0.0).max(0.0)
    }

    /// A number of the cgroup's table.
    fn cgroup(&self, key: &str) -> Option<f64> {
        self.verdict["cgroup"][key].as_f64()
    }

    /// A part of it.
    fn charged(&self, part: &str) -> f64 {
        let parts = self.verdict["cgroup"]["parts"].as_array();
        parts.and_then(|parts| parts.iter().find(|line| line["part"] == part)).and_then(|line| line["bytes"].as_f64()).unwrap_or(0.0)
    }

    /// A number that the kernel tells of that cgroup, bytes.
    fn told_of_cgroup(&self, keys: &[&str]) -> Option<f64> {
        let path = self.verdict["cgroup"]["path"].as_str()?;
        let text = self.now.text("proc/cgroup.txt")?;
        let told = |key: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{path} {key}"))?.trim().parse::<f64>().ok());
        keys.iter().find_map(|key| told(key))
    }

    /// The cgroup's table adds up to its usage, within two percent, and each part of it is what the kernel says.
    fn cgroup_table(&self) -> Checked {
        let Some(usage) = self.cgroup("usage_bytes") else { return Ok(()) };
        let told = |what: &str, said: f64, keys: &[&str]| match self.told_of_cgroup(keys) {
            Some(bytes) if (bytes - said).abs() <= 1.0 => Ok(()),
            bytes => Err(format!("{what} has {said}, the kernel says {bytes:?}")),
        };
        told("usage", usage, &["memory.current:", "memory.usage_in_bytes:"])?;
        told("shmem", self.charged("shmem"), &["memory.stat: total_shmem", "memory.stat: shmem"])?;
        let anon = self.charged("this_process") + self.charged("other_processes");
        told("the processes", anon, &["memory.stat: total_rss", "memory.stat: anon"])?;
        let cache = self.charged("shmem") + self.charged("page_cache") + self.charged("busy_cache");
        told("files", cache, &["memory.stat: total_cache", "memory.stat: file"])?;
        let unexplained = self.charged("unexplained").abs();
        if unexplained <= (usage / 50.0).max(1048576.0) { Ok(()) } else { Err(format!("{unexplained} of {usage} are unexplained")) }
    }

    fn parts(&self, buckets: &[&str]) -> f64 {
        buckets.iter().map(|bucket| self.part(bucket)).sum()
    }

    fn explained(&self) -> f64 {
        let buckets = self.verdict["anatomy"].as_array().unwrap().iter().map(|line| line["bucket"].as_str().unwrap());
        buckets.map(|bucket| self.part(bucket)).sum()
    }

    /// The table adds up, and each part of it is within what the kernel and the runtime allow.
    fn table(&self) -> Checked {
        let line = |bucket: &str| self.verdict["anatomy"].as_array().unwrap().iter().find(|l| l["bucket"] == bucket).unwrap();
        let bytes = |bucket: &str| line(bucket)["bytes"].as_f64().unwrap();
        let rss = self.rss();
        let all: f64 = self.verdict["anatomy"].as_array().unwrap().iter().map(|l| l["bytes"].as_f64().unwrap()).sum();
        if self.verdict["rss_bytes"].as_f64() != Some(rss) || all != rss {
            return Err(format!("RSS was {rss}, the parts are {all} of {}", self.verdict["rss_bytes"]));
        }
        for l in self.verdict["anatomy"].as_array().unwrap() {
            let (now, then, grown) = (l["bytes"].as_f64(), l["baseline_bytes"].as_f64(), l["growth_bytes"].as_f64());
            if then.is_some() && grown != now.zip(then).map(|(now, then)| now - then) {
                return Err(format!("{l}: the growth is no difference"));
            }
        }
        let Some((file, shmem)) = self.now.status("RssFile").zip(self.now.status("RssShmem")) else { return Ok(()) };
        let scale = rss / self.kernel_rss().unwrap_or(rss).max(1.0);
        let at_most = |what: &str, said: f64, most: f64| {
            let most = most * scale.clamp(1.0, 1.1) + 4096.0;
            if said <= most { Ok(()) } else { Err(format!("{what} has {said}, and can have {most}")) }
        };
        at_most("file_mapped", bytes("file_mapped"), file)?;
        at_most("shmem", bytes("shmem"), shmem)?;
        if let Some(alloc) = self.now.runtime("HeapAlloc") {
            let of = |key: &str| self.now.runtime(key).unwrap_or(0.0);
            at_most("heap_live", bytes("heap_live") + bytes("heap_garbage"), alloc)?;
            at_most("heap_fragmentation", bytes("heap_fragmentation"), of("HeapInuse") - alloc)?;
            at_most("goroutine_stacks", bytes("goroutine_stacks"), of("Stack"))?;
            at_most("heap_unreleased", bytes("heap_unreleased"), of("HeapIdle"))?;
        }
        Ok(())
    }

    fn summary(&self, said: &str) -> Checked {
        let frame = whole(
            "(?P<charged>Of the limit of cgroup [^,]+, {s:limit}, {s:charge} are taken by what the kernel cannot drop, and {s:most} \\({p:most_share}\\) of that are (?P<filled>[^;]+); )?\
             (?P<thrash>The garbage collector (?:takes {p:gc_share} of the process's CPU, for the heap has next to no room beside {s:gc_live} in use(?:, under a memory limit of {s:gc_limit})?|took {p:gc_between} of all CPU that the process may use while it was captured, for the heap has next to no room|has taken {p:gc_since} of all CPU that the process could use since it started, and the heap has next to no room); )?\
             RSS (?:is {s:now}|grew by {s:grown} to {s:reached}) and (?:the Go heap (?:explains it|explains it in part|does not explain it)|whether the Go heap explains it is unknown): (?P<why>.+?)\
             (?P<held>; {f:holder} holds {s:held_bytes} in {n:held_objects} objects, (?:{s:held_grown} more than at the baseline|{p:held_share} of all that is reachable))?\
             (?:; besides, (?P<second>[^;]+) takes {s:besides} \\({p:besides_share}\\))?\
             (?:; the process was OOM-killed meanwhile|; the process ended meanwhile)?(?:; the profiles may be of another process|; the profiles are of another process and were left aside)?\\.",
        );
        let m = frame.captures(said).ok_or("no rule knows this sentence")?;
        is(&m, "now", Some(self.rss()))?;
        is(&m, "reached", Some(self.rss()))?;
        is(&m, "grown", self.baseline_rss().map(|then| (self.rss() - then).max(0.0)))?;
        if m.name("charged").is_some() {
            let charge = self.cgroup("charge_bytes").ok_or("there is no cgroup")?;
            is(&m, "limit", self.cgroup("limit_bytes"))?;
            is(&m, "charge", Some(charge))?;
            let part = match m.name("filled").map(|filled| filled.as_str()) {
                Some("tmpfs and shared memory of the cgroup") => "shmem",
                Some("other processes of the cgroup") => "other_processes",
                Some("the kernel's own for the cgroup") => "kernel",
                filled => return Err(format!("no rule knows {filled:?}")),
            };
            is(&m, "most", Some(self.charged(part)))?;
            share_is(&m, "most_share", self.charged(part), charge)?;
        }
        if m.name("gc_share").is_some() {
            self.fired_gc(&m, "gc_share", "gc_live", "gc_limit", "")?;
        }
        if m.name("gc_since").is_some() {
            share_is(&m, "gc_since", self.now.memstats("memstats.txt", "GCCPUFraction").ok_or("no GCCPUFraction")?, 1.0)?;
        }
        if m.name("gc_between").is_some() {
            share_is(&m, "gc_between", self.collected_between().ok_or("no two MemStats")?, 1.0)?;
        }
        if m.name("held").is_some() {
            self.holder(&m, &m["holder"], "held_bytes", "held_objects", "held_share", "held_grown")?;
        }
        if let Some(second) = m.name("second") {
            self.weight(second.as_str(), &m, "besides", "besides_share")?;
        }
        let live = format!(
            "{{s:a}} \\({{p:share}}\\) are (?:live objects|the live heap: {{s:objects}} of live objects){LIVE_FROM}(?:, {{s:garbage}} of garbage until the next collection)?(?:, {{s:room}} of room for more of it)?(?:, {{s:gaps}} of gaps between them)?(?:, and {{s:beside}} beside them are garbage and room for it until the next collection)?"
        );
        let mut rules: Vec<(Regex, Rule)> = BECAUSE.iter().map(|(pattern, rule)| (whole(pattern), *rule)).collect();
        rules.push((whole(&live), live_heap));
        self.by_rule(&rules, &m["why"])
    }

    /// What the rule `gc` fired at.
    fn fired_gc(&self, m: &Captures<'_>, share: &str, live: &str, limit: &str, goal: &str) -> Checked {
        let manifest = self.now.json("manifest.json").ok_or("there is no manifest")?;
        let gc = &manifest["trigger"]["gc"];
        share_is(m, share, gc["share"].as_f64().ok_or("gc did not fire")?, 1.0)?;
        is(m, live, gc["heap"]["live_bytes"].as_f64())?;
        is(m, goal, gc["heap"]["goal_bytes"].as_f64())?;
        is(m, "collections", gc["collections"].as_f64())?;
        is(m, "window", manifest["trigger"]["window_seconds"].as_f64())?;
        is(m, limit, gc["heap"]["memory_limit_bytes"].as_f64())
    }

    /// How far the heap may grow at most beyond what is live, in percent: no less than by what is allocated.
    fn room(&self, m: &Captures<'_>) -> Checked {
        let goal = self.now.memstats("memstats_gc.txt", "NextGC").ok_or("no NextGC")?;
        let allocated = self.now.memstats("memstats_gc.txt", "HeapAlloc").ok_or("no HeapAlloc")?;
        within(m, "room", ((goal / allocated - 1.0) * 100.0).max(0.0).floor(), f64::MAX)
    }

    /// What collections took of all CPU between the ends of the last ones of the two MemStats.
    fn collected_between(&self) -> Option<f64> {
        let process = self.now.json("proc/process.json")?;
        let started = humantime::parse_rfc3339(process["started_at"].as_str()?).ok()?;
        let started = started.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_secs_f64();
        let taken = |file| {
            let at = self.now.memstats(file, "LastGC")? / 1e9 - started;
            Some((at, at * self.now.memstats(file, "GCCPUFraction")?))
        };
        let ((from, before), (to, after)) = (taken("memstats.txt")?, taken("memstats_gc.txt").or_else(|| taken("memstats_after.txt"))?);
        Some((after - before) / (to - from))
    }

    /// What `holders.json` says of a holder, and the baseline's.
    fn holder(&self, m: &Captures<'_>, title: &str, bytes: &str, objects: &str, share: &str, grown: &str) -> Checked {
        let read = |witness: &Witness| witness.json("holders.json").and_then(|json| Holders::parse(json.to_string().as_bytes()).ok());
        let now = read(&self.now).ok_or("there is no holders.json")?;
        // a sentence has no more of a long name than its beginning
        let is_said = |h: &&Holder| title.strip_suffix('…').map_or(h.title() == title, |beginning| h.title().starts_with(beginning));
        let holder = now.holders.iter().find(is_said).ok_or("no such holder")?;
        is(m, bytes, Some(holder.retained_bytes as f64))?;
        is(m, objects, Some(holder.objects as f64))?;
        if let Some(path) = m.name("path").filter(|path| path.as_str() != holder.path_text()) {
            return Err(format!("the path is {}, not {}", holder.path_text(), path.as_str()));
        }
        let then = self.base.as_ref().and_then(read);
        let before = then.as_ref().map(|then| then.holders.iter().find(|h| h.kind == holder.kind && h.name == holder.name));
        is(m, grown, before.map(|before| holder.retained_bytes as f64 - before.map_or(0.0, |h| h.retained_bytes as f64)))?;
        match m.name(share) {
            Some(_) => share_is(m, share, holder.retained_bytes as f64, now.reached_bytes as f64),
            None => Ok(()),
        }
    }

    /// An amount of one of the parts that a verdict weighs, with its share of all.
    fn weight(&self, what: &str, m: &Captures<'_>, amount: &str, share: &str) -> Checked {
        let (least, most) = match what {
            "live heap" | "live heap of small objects" | "live objects" | "small live objects" => {
                (0.0, self.parts(&["heap_live", "heap_garbage", "heap_fragmentation", "heap_unreleased"]))
            }
            // with the room for it, and what only a second collection frees
            "garbage" => (0.0, self.parts(&["heap_live", "heap_garbage", "heap_unreleased", "heap_fragmentation"])),
            "freed but not returned" => (0.0, self.parts(&["heap_unreleased", "heap_fragmentation", "heap_garbage"])),
            "goroutines" => (0.0, self.parts(&["goroutine_stacks", "heap_unreleased", "heap_live", "heap_garbage", "heap_fragmentation"])),
            "native memory" => (0.0, self.part("native_anon")),
            // with their goroutines, where each blocks one
            "OS threads" => (0.0, self.explained() - self.parts(&["file_mapped", "shmem", "runtime_metadata"])),
            "mapped files" => (self.part("file_mapped"), self.part("file_mapped")),
            "shared memory" => (self.part("shmem"), self.part("shmem")),
            "runtime metadata" => (self.part("runtime_metadata"), self.part("runtime_metadata")),
            "unexplained" => (self.part("unexplained"), self.part("unexplained")),
            what => return Err(format!("no rule knows `{what}`")),
        };
        within(m, amount, least, most).map_err(|why| format!("{what}: {why}"))?;
        self.share(m, amount, share)
    }

    /// The share that is shown is the amount's of all that is explained.
    fn share(&self, m: &Captures<'_>, amount: &str, share: &str) -> Checked {
        let Some(text) = m.name(amount).map(|a| a.as_str()) else { return Ok(()) };
        let (least, most) = shown(text);
        let whole = self.explained().max(1.0);
        within(m, share, (least - 1.0) * 100.0 / whole, (most + 1.0) * 100.0 / whole)
    }

    /// `A {s} (P)` of each part, heaviest first: each within its bounds, and all of them no more than there is.
    fn weights(&self, list: &str) -> Checked {
        let (named, counted) = (whole("(?P<what>[a-zA-Z ]+) {s:a} \\({p:share}\\)"), whole("{s:a} (?P<what>[a-zA-Z ]+) \\({p:share}\\)"));
        let (mut sum, mut last) = (0.0, f64::MAX);
        for item in list.split(", ") {
            let m = named.captures(item).or_else(|| counted.captures(item)).ok_or_else(|| format!("no rule knows `{item}`"))?;
            self.weight(&m["what"], &m, "a", "share")?;
            let (least, most) = shown(&m["a"]);
            sum += least;
            if least > last {
                return Err(format!("`{item}` is heavier than what stands before it"));
            }
            last = most;
        }
        if sum <= self.explained() + 1.0 { Ok(()) } else { Err(format!("they are {sum}, of {} altogether", self.explained())) }
    }

    /// What the verdict has given to this part, by its own words; 0 without it.
    fn weight_of(&self, what: &str) -> f64 {
        let list = self.verdict["evidence"].as_array().unwrap().iter().find_map(|s| s.as_str()?.strip_prefix("By weight: "));
        let amount = list.and_then(|list| list.split(", ").find_map(|item| item.strip_prefix(what)?.trim().split(' ').next()));
        amount.map_or(0.0, |amount| shown(amount).1)
    }

    /// What a function has in use, by itself or with what it calls, is this share of all.
    fn holds(&self, m: &Captures<'_>, function: &str, share: &str, kind: &str) -> Checked {
        let Some(function) = m.name(function).map(|f| own(f.as_str())) else { return Ok(()) };
        let heap = self.now.heap().ok_or("there is no heap profile")?;
        let all = total(&heap, kind).unwrap_or(0.0);
        // what answers to memtrap itself have in use is told apart
        let answers: f64 =
            by_stack(&heap, kind).iter().filter(|(stack, _)| stack.iter().any(|f| f.starts_with("net/http/pprof."))).map(|(_, v)| v).sum();
        let (flat, cum) = of_function(&heap, kind, function);
        let floating = if kind == "inuse_space" { self.floating() } else { all / 2.0 };
        let most = (all - answers - floating).max(1.0);
        let ways = [flat, cum, of_place(&heap, kind, function)].map(|part| {
            let (least, most) = (part * 100.0 / all.max(1.0), (part * 100.0 / most).min(100.0));
            share_is(m, share, part, all).or_else(|_| within(m, share, least, most))
        });
        let [first, ..] = &ways;
        let first = first.clone();
        if ways.iter().any(|way| way.is_ok()) { Ok(()) } else { first.map_err(|why| format!("{function}: {why}")) }
    }

    /// What was allocated while the collection marked, and counts in its profile as in use; little of it is not worth a sentence.
    fn floating(&self) -> f64 {
        self.floating_said().unwrap_or((4 << 20) as f64)
    }

    fn floating_said(&self) -> Option<f64> {
        self.amount_said("Up to ", " more were allocated while that collection marked")
    }

    /// What of the profile was never touched, and is not of what the sentences divide.
    fn untouched(&self) -> f64 {
        self.amount_said("MemStats counts ", " more than there is").unwrap_or(0.0)
    }

    /// The most that an evidence sentence of this beginning may mean by its size; the sentence itself is checked by its own rule.
    fn amount_said(&self, before: &str, after: &str) -> Option<f64> {
        let mut evidence = self.verdict["evidence"].as_array().unwrap().iter();
        evidence.find_map(|s| Some(shown(s.as_str()?.strip_prefix(before)?.split_once(after)?.0).1))
    }

    /// Most of what is live, or of what came since the baseline.
    fn most_from(&self, function: Option<&str>) -> Checked {
        let Some(function) = function.map(own) else { return Ok(()) };
        let heap = self.now.heap().ok_or("there is no heap profile")?;
        let base = self.base.as_ref().filter(|_| self.growth).and_then(|base| base.profile("heap.pb.gz"));
        let cum = |profile| of_function(profile, "inuse_space", function).1;
        let (part, all) = match &base {
            Some(base) => (cum(&heap) - cum(base), grown(&heap, base) - self.floating()),
            None => {
                let all = total(&heap, "inuse_space").unwrap_or(0.0);
                // what was allocated while the collection marked is no part of what is live; little of it is not told
                let floating = self.floating_said().unwrap_or_else(|| self.floating().min(all / 20.0));
                (cum(&heap), all - self.untouched() - floating)
            }
        };
        if part * 2.0 >= all * 0.98 { Ok(()) } else { Err(format!("{function} has {part} of {all}, which is not most")) }
    }

    fn goroutines(&self) -> Option<f64> {
        let profile = self.now.profile("goroutine.pb.gz").map(|p| count(&p));
        profile.or_else(|| Some(self.now.dump().values().map(|(count, _)| *count as f64).sum::<f64>()).filter(|n| *n > 0.0))
    }

    fn leaked(&self) -> Option<f64> {
        let profile = self.now.profile("goroutineleak.pb.gz")?;
        let mut sum = 0.0;
        for sample in profile.samples() {
            // `select {}`
            let stack = stack(&profile, sample.locations);
            let waits_for_nothing = stack.iter().all(|f| f.starts_with("runtime.")) || stack.contains(&"runtime.block");
            sum += if waits_for_nothing { 0.0 } else { sample.values[0] as f64 };
        }
        Some(sum)
    }

    /// How many goroutines have this function in their stack.
    fn standing(witness: &Witness, function: &str) -> f64 {
        let profile = witness.profile("goroutine.pb.gz");
        let counted = profile.map(|p| p.samples().filter(|s| stack(&p, s.locations).contains(&function)).map(|s| s.values[0] as f64).sum());
        let of_text = || witness.dump().iter().filter(|(stack, _)| stack.iter().any(|f| f == function)).map(|(_, (n, _))| *n as f64).sum();
        counted.unwrap_or_else(of_text)
    }

    fn more_standing(&self, m: &Captures<'_>, more: &str, function: &str) -> Checked {
        let (Some(function), Some(base)) = (m.name(function), &self.base) else { return Ok(()) };
        let grown = Case::standing(&self.now, function.as_str()) - Case::standing(base, function.as_str());
        // callers of others' that wait there as well are counted with them
        within(m, more, grown * 0.9, grown)
    }

    /// The mean of allocation, in bytes a second, by each way that there is to tell it.
    fn rates(&self) -> Vec<f64> {
        let goroutines = self.goroutines().unwrap_or(0.0);
        let own = (8 << 20) as f64 + goroutines * 1024.0;
        let mut rates = Vec::new();
        let heap = |name| self.now.profile(name);
        if let (Some(first), Some(last)) = (heap("heap_gc.pb.gz"), heap("heap_gc_after.pb.gz")) {
            let bytes = total(&last, "alloc_space").unwrap_or(0.0) - total(&first, "alloc_space").unwrap_or(0.0);
            rates.push((bytes - own).max(0.0) / ((last.time_nanos - first.time_nanos) as f64 / 1e9));
        }
        let allocated = |file| self.now.memstats(file, "TotalAlloc");
        let read_at = |file| self.now.memstats(file, "ReadAt");
        let (first, last) = ("memstats.txt", "memstats_after.txt");
        if let (Some(before), Some(after), Some(from), Some(to)) = (allocated(first), allocated(last), read_at(first), read_at(last)) {
            rates.push((after - before) / ((to - from) / 1e9));
        }
        if let (Some(before), Some(after), Some(gap)) = (allocated("memstats.txt"), allocated("memstats_gc.txt"), self.gap()) {
            rates.push((after - before - own).max(0.0) / gap);
        }
        if let (Some(all), Some(age)) = (self.now.runtime("TotalAlloc"), self.now.fact("age_seconds")) {
            rates.push(all / age);
        }
        rates
    }

    /// Seconds from one MemStats to the other.
    fn gap(&self) -> Option<f64> {
        let manifest = self.now.json("manifest.json")?;
        let files = manifest["files"].as_array()?;
        let at = |step: &str| files.iter().position(|f| f["step"] == step);
        let between = files.get(at("memstats")? + 1..=at("memstats_gc")?)?;
        Some(between.iter().filter_map(|f| f["milliseconds"].as_f64()).sum::<f64>() / 1000.0)
    }

    /// Sums of what may be Go's arenas: nameless, writable, with nothing but its own unused end beside it. A few blocks may be someone else's.
    fn arenas(&self) -> Vec<f64> {
        let mut blocks: Vec<(u64, u64, f64)> = Vec::new();
        let mut named = 0.0;
        for mapping in self.now.smaps() {
            if mapping.name.starts_with("[anon: Go: heap") {
                named += mapping.rss as f64;
            }
            let nameless = mapping.name.is_empty() && matches!(mapping.perms.as_str(), "rw-p" | "---p");
            match blocks.last_mut() {
                Some((_, end, rss)) if nameless && *end == mapping.start => {
                    *end = mapping.end;
                    *rss += mapping.rss as f64;
                }
                _ if nameless && mapping.start % (4 << 20) == 0 => blocks.push((mapping.start, mapping.end, mapping.rss as f64)),
                _ => {}
            }
        }
        if named > 0.0 {
            return vec![named];
        }
        // none of them is so large that it could be left out unseen, or they are too many to try: the heaviest alone then
        blocks.sort_by(|a, b| b.2.total_cmp(&a.2));
        let mut sums = vec![0.0];
        for (_, _, rss) in blocks.iter().filter(|(_, _, rss)| *rss > 0.0).take(12) {
            sums = sums.iter().flat_map(|sum| [*sum, sum + rss]).collect();
        }
        sums
    }

    fn native(&self, m: &Captures<'_>) -> Checked {
        let anon = self.now.status("RssAnon").ok_or("there is no proc/status")?;
        let names = ["malloc", "stacks", "globals", "copies", "mappings"];
        let sum: f64 = names.iter().filter_map(|name| m.name(name)).map(|text| shown(text.as_str()).0).sum();
        let heap: u64 = self.now.smaps().iter().filter(|mapping| mapping.name == "[heap]").map(|mapping| mapping.anon).sum();
        within(m, "malloc", heap as f64, anon)?;
        // pages come and go between the reading of the two
        if sum <= anon * 1.1 { Ok(()) } else { Err(format!("they are {sum}, and all anonymous memory is {anon}")) }
    }
}

/// What came since the baseline, by stacks.
fn grown(now: &memtrap::pprof::Profile, then: &memtrap::pprof::Profile) -> f64 {
    let (now, then) = (by_stack(now, "inuse_space"), by_stack(then, "inuse_space"));
    now.iter().map(|(stack, bytes)| bytes - then.get(stack).copied().unwrap_or(0.0)).filter(|more| *more > 0.0).sum()
}

/// The function of the service's own, of `main.keep (bytes.growSlice)`.
fn own(function: &str) -> &str {
    let plain = function.split_once(" (").map_or(function, |(own, _)| own);
    if plain == "an unnamed function" { "" } else { plain }
}

fn live_heap(c: &Case<'_>, m: &Captures<'_>) -> Checked {
    c.share(m, "a", "share")?;
    let objects = c.part("heap_live");
    // what goroutines hold of them is the goroutines'
    is(m, "objects", Some(objects)).or_else(|why| match c.weight_of("goroutines") {
        held if held > 0.0 => within(m, "objects", objects - held * 1.02, objects),
        _ => Err(why),
    })?;
    within(m, "garbage", 0.0, c.part("heap_garbage"))?;
    within(m, "gaps", 0.0, c.part("heap_fragmentation"))?;
    within(m, "room", 0.0, c.parts(&["heap_unreleased", "heap_fragmentation"]))?;
    within(m, "beside", 0.0, c.parts(&["heap_garbage", "heap_unreleased", "heap_fragmentation"]))?;
    if m.name("objects").is_some() {
        // a part that is not worth its words is less than a hundredth
        let said: f64 = ["objects", "garbage", "room", "gaps"]
            .iter()
            .filter_map(|n| m.name(n))
            .map(|t| (shown(t.as_str()).0 + shown(t.as_str()).1) / 2.0)
            .sum();
        within(m, "a", said * 0.99, said * 1.03)?;
    } else {
        within(m, "a", (objects - c.weight_of("goroutines") * 1.02).max(0.0), objects)?;
    }
    c.most_from(m.name("most").map(|f| f.as_str()))?;
    let (objects, bytes) = (c.now.runtime("HeapObjects"), c.now.runtime("HeapAlloc"));
    let then = |key| c.base.as_ref().filter(|_| c.growth).and_then(|b| b.runtime(key)).unwrap_or(0.0);
    let each = objects.zip(bytes).map(|(n, bytes)| ((bytes - then("HeapAlloc")) / (n - then("HeapObjects")).max(1.0)).floor());
    is(m, "each", each)
}

/// Why, in the summary.
const BECAUSE: &[(&str, Rule)] = &[
    (
        "{s:a} \\({p:share}\\) are garbage and the room for it(?: while {s:rate} a second are allocated)?(?:, most by {f:most}|, {f:some} more than others \\({p:part}\\))?; {s:live} are live",
        |c, m| {
            let live = c.verdict["anatomy"].as_array().unwrap().iter().find(|l| l["bucket"] == "heap_live").unwrap();
            is(m, "live", live["bytes"].as_f64())?;
            c.weight("garbage", m, "a", "share")?;
            rate(c, m, "rate")
        },
    ),
    ("{s:a} \\({p:share}\\) are garbage that it takes a second collection to free: [^;]+", |c, m| c.weight("garbage", m, "a", "share")),
    (
        "{s:a} \\({p:share}\\) were freed by Go and (?:returned to the kernel, and are resident nevertheless|given back with MADV_FREE): .+",
        |c, m| c.weight("freed but not returned", m, "a", "share"),
    ),
    (
        "{s:a} \\({p:share}\\) were freed by Go and not returned to the kernel(?: yet|, {s:sparse} of it because live objects keep spans that are mostly empty)",
        |c, m| {
            within(m, "sparse", 0.0, c.part("heap_fragmentation"))?;
            c.weight("freed but not returned", m, "a", "share")
        },
    ),
    (
        "(?:{n:all} )?goroutines(?: \\({n:leaked} of them blocked for ever\\))?(?:, {n:more} more in {f:grown} than at the baseline|, most in {f:most}|, {n:some} of them in {f:place})?, with their stacks(?: and the heap that they (?:may )?hold)?, take {s:a} \\({p:share}\\)",
        |c, m| {
            is(m, "all", c.goroutines())?;
            is(m, "leaked", c.leaked())?;
            c.more_standing(m, "more", "grown")?;
            if let Some(place) = m.name("place") {
                within(m, "some", 1.0, Case::standing(&c.now, place.as_str()))?;
            }
            if let Some(most) = m.name("most").map(|f| f.as_str()) {
                let (there, all) = (Case::standing(&c.now, most), c.goroutines().unwrap_or(0.0));
                if there * 2.0 < all {
                    return Err(format!("{most} has {there} of {all}, which is not most"));
                }
            }
            c.weight("goroutines", m, "a", "share")
        },
    ),
    (
        "the stacks of (?:{n:all}|some) goroutines \\({s:stacks} in use\\) and what they outgrew take {s:a} \\({p:share}\\)(?:, the deepest in {f:deepest})?",
        |c, m| {
            is(m, "all", c.goroutines())?;
            is(m, "stacks", c.now.runtime("Stack"))?;
            c.weight("goroutines", m, "a", "share")
        },
    ),
    ("{s:a} \\({p:share}\\) are native memory, outside of the Go runtime(?:, {s:largest} of it .+)?", |c, m| {
        c.weight("native memory", m, "a", "share")?;
        // read a moment later
        within(m, "largest", 0.0, c.now.status("RssAnon").unwrap_or(0.0) * 1.1)
    }),
    ("{s:a} \\({p:share}\\) are pages of mapped files", |c, m| c.weight("mapped files", m, "a", "share")),
    ("{s:a} \\({p:share}\\) are shared memory \\(.+\\)", |c, m| c.weight("shared memory", m, "a", "share")),
    ("(?:{n:threads}|the) OS threads take {s:a} \\({p:share}\\)", |c, m| {
        is(m, "threads", c.now.fact("threads").or(c.now.status("Threads")))?;
        c.weight("OS threads", m, "a", "share")
    }),
    ("{s:a} \\({p:share}\\) are the Go runtime's own metadata", |c, m| c.weight("runtime metadata", m, "a", "share")),
    (
        "{s:a} \\({p:share}\\) lie outside of what the Go runtime knows of: native memory, mapped files or shared memory, which only the kernel tells apart",
        |c, m| c.weight("unexplained", m, "a", "share"),
    ),
    ("(?:no part dominates|the evidence that would tell is missing): (?P<list>.*)", |c, m| match &m["list"] {
        "" => Ok(()),
        list => c.weights(list),
    }),
];

fn rate(c: &Case<'_>, m: &Captures<'_>, name: &str) -> Checked {
    let rates = c.rates();
    let found = rates.iter().any(|rate| within(m, name, rate.floor() - 1.0, rate + 1.0).is_ok());
    if m.name(name).is_none() || found { Ok(()) } else { Err(format!("{name}: {}, and what can be told is {rates:?}", &m[name])) }
}

/// What stands below it.
const EVIDENCE: &[(&str, Rule)] = &[
    ("RSS went from {s:then} at the baseline to {s:now} \\({s:grown}\\): .+\\.", |c, m| {
        is(m, "then", c.baseline_rss())?;
        is(m, "now", Some(c.rss()))?;
        is(m, "grown", c.baseline_rss().map(|then| c.rss() - then))
    }),
    ("By weight: (?P<list>.+)\\.", |c, m| c.weights(&m["list"])),
    ("Cgroup [^,]+ uses {s:usage} of its limit of {s:limit}; the kernel cannot drop {s:charge} of it\\.", |c, m| {
        is(m, "usage", c.cgroup("usage_bytes"))?;
        is(m, "limit", c.told_of_cgroup(&["memory.max:", "memory.limit_in_bytes:"]))?;
        is(m, "charge", c.cgroup("charge_bytes"))?;
        let dropped = c.charged("page_cache") + c.told_of_cgroup(&["memory.stat: slab_reclaimable"]).unwrap_or(0.0);
        within(m, "charge", c.cgroup("usage_bytes").unwrap_or(0.0) - dropped, c.cgroup("usage_bytes").unwrap_or(0.0) - dropped)
    }),
    (
        "That usage is {s:this} of this process, {s:others} of {n:count} others?, {s:shmem} of tmpfs and shared memory, {s:cache} of page cache that can be dropped and {s:busy} that cannot, and {s:kernel} of the kernel's own\\.",
        |c, m| {
            let members = c.now.text("proc/cgroup_members.txt").ok_or("there is no cgroup_members.txt")?;
            let own = members
                .lines()
                .filter_map(|line| line.split('\t').nth(6))
                .filter(|of| c.verdict["cgroup"]["path"].as_str().is_some_and(|path| *of == path || of.starts_with(&format!("{path}/"))));
            is(m, "count", Some(own.count() as f64 - 1.0))?;
            let parts = [
                ("this", "this_process"),
                ("others", "other_processes"),
                ("shmem", "shmem"),
                ("cache", "page_cache"),
                ("busy", "busy_cache"),
                ("kernel", "kernel"),
            ];
            parts.iter().try_for_each(|(name, part)| is(m, name, Some(c.charged(part))))
        },
    ),
    ("The largest of the others: (?P<list>.+)\\.", |c, m| {
        let members = c.now.text("proc/cgroup_members.txt").ok_or("there is no cgroup_members.txt")?;
        let one = whole(".+ \\(pid {n:pid}\\) {s:bytes}");
        m["list"].split(", ").try_for_each(|said| {
            let m = one.captures(said).ok_or("no rule knows this sentence")?;
            let line = members.lines().find(|line| line.starts_with(&format!("{}\t", &m["pid"])));
            is(&m, "bytes", line.and_then(|line| line.split('\t').nth(1)?.parse().ok()))
        })
    }),
    ("Of the kernel's own: (?P<list>.+)\\.", |c, m| {
        let one = whole("{s:bytes} of (?P<kind>.+)");
        m["list"].split(", ").try_for_each(|said| {
            let m = one.captures(said).ok_or("no rule knows this sentence")?;
            let told = match &m["kind"] {
                "page tables" => c.told_of_cgroup(&["memory.stat: pagetables"]).or_else(|| {
                    let members = c.now.text("proc/cgroup_members.txt")?;
                    Some(members.lines().filter_map(|line| line.split('\t').nth(5)?.parse::<f64>().ok()).sum())
                }),
                "stacks of threads" => c.told_of_cgroup(&["memory.stat: kernel_stack"]),
                "slab" => c.told_of_cgroup(&["memory.stat: slab"]),
                "socket buffers" => c.told_of_cgroup(&["memory.stat: sock"]),
                kind => return Err(format!("no rule knows `{kind}`")),
            };
            is(&m, "bytes", told)
        })
    }),
    (
        "Without {f:holder}, {s:held} \\({p:share} of what is reachable\\) in {n:objects} objects would be free(?:, {s:grown} since the baseline)?(?:: (?P<path>.+))?\\.",
        |c, m| c.holder(m, &m["holder"], "held", "objects", "share", "grown"),
    ),
    (
        "MemStats: HeapAlloc {s:alloc} in {n:objects} objects, HeapInuse {s:inuse}, HeapIdle {s:idle} of which {s:released} released, StackInuse {s:stacks}\\.",
        |c, m| {
            let pairs = [
                ("alloc", "HeapAlloc"),
                ("objects", "HeapObjects"),
                ("inuse", "HeapInuse"),
                ("idle", "HeapIdle"),
                ("released", "HeapReleased"),
                ("stacks", "Stack"),
            ];
            pairs.iter().try_for_each(|(name, key)| is(m, name, c.now.runtime(key)))
        },
    ),
    (
        "(?:A forced collection|A collection between the two MemStats) separates {s:live} live from {s:garbage} garbage, as MemStats counts them(?:; the collector lets the heap grow to {s:goal})?\\.",
        |c, m| {
            let of = |file, key| c.now.memstats(file, key).ok_or_else(|| format!("no {key} in {file}"));
            let (before, after) = (of("memstats.txt", "HeapAlloc")?, of("memstats_gc.txt", "HeapAlloc")?);
            let between = of("memstats_gc.txt", "TotalAlloc")? - of("memstats.txt", "TotalAlloc")?;
            is(m, "goal", c.now.memstats("memstats.txt", "NextGC"))?;
            // what was allocated after the collection is in HeapAlloc, and is not what it left
            within(m, "live", after - between, after.min(before))?;
            let (least, most) = shown(&m["live"]);
            within(m, "garbage", before - most, before - least)
        },
    ),
    (
        "(?:A forced collection|A collection between the two MemStats|The profile, which is as of the last collection,) separates {s:live} live from {s:garbage} garbage(?: of what is resident)?(?:; the runtime lets the heap grow to {s:goal} before it collects: that much is normal)?\\.",
        |c, m| {
            let bytes = |bucket: &str| {
                c.verdict["anatomy"].as_array().unwrap().iter().find(|l| l["bucket"] == bucket).and_then(|l| l["bytes"].as_f64())
            };
            is(m, "live", bytes("heap_live"))?;
            is(m, "garbage", bytes("heap_garbage"))?;
            is(m, "goal", c.now.runtime("NextGC"))
        },
    ),
    (
        "Up to {s:floating} more were allocated while that collection marked, and are counted as garbage: the profile has them as in use\\.",
        |c, m| within(m, "floating", 0.0, c.now.heap().and_then(|heap| total(&heap, "inuse_space")).unwrap_or(0.0)),
    ),
    (
        "{p:gone} of what was in use after (?:it was gone after a later collection|the forced collection was gone after a later one): .+\\.",
        |c, m| {
            let (first, last) = (
                c.now.profile("heap_gc.pb.gz").ok_or("no heap_gc.pb.gz")?,
                c.now.profile("heap_gc_after.pb.gz").ok_or("no heap_gc_after.pb.gz")?,
            );
            share_is(m, "gone", grown(&first, &last), total(&first, "inuse_space").unwrap_or(0.0))
        },
    ),
    (
        "NextGC is {s:goal}, (?:at least {n:least}|at most {n:most})% above what was live, not GOGC={n:set} as the environment has it: debug\\.SetGCPercent(?: or a memory limit)? sets it\\.",
        |c, m| {
            let goal = c.now.memstats("memstats_gc.txt", "NextGC");
            is(m, "goal", goal)?;
            is(m, "set", Some(c.now.env("GOGC").and_then(|v| v.parse().ok()).unwrap_or(100.0)))?;
            let above = |live: Option<f64>| live.zip(goal).map_or(f64::MAX, |(live, goal)| ((goal / live - 1.0) * 100.0).max(0.0));
            let allocated = c.now.memstats("memstats_gc.txt", "HeapAlloc");
            is(m, "least", Some(above(allocated).floor()))?;
            let profiled = c.now.profile("heap_gc.pb.gz").and_then(|p| total(&p, "inuse_space"));
            within(m, "most", above(profiled).min(above(allocated)).floor(), f64::MAX)
        },
    ),
    ("Collections have taken {p:share} of the CPU that the process may use since it started \\(GCCPUFraction\\)\\.", |c, m| {
        let share = c.now.runtime("GCCPUFraction").ok_or("no GCCPUFraction")?;
        share_is(m, "share", share, 1.0)
    }),
    (
        "In the {n:window} s before it fired, {n:collections} collections took {p:share} of the process's CPU: {s:live} were in use, and (?:the memory limit of {s:limit}|GOGC) let the heap grow to {s:goal}\\.",
        |c, m| c.fired_gc(m, "share", "live", "limit", "goal"),
    ),
    (
        "Between the two MemStats {n:collections} collections, one of them memtrap's, took {p:share} of all CPU that the process may use: the heap may grow by {n:room}% of what is live at most\\.",
        |c, m| {
            let count = |file| c.now.memstats(file, "NumGC");
            is(m, "collections", count("memstats_gc.txt").zip(count("memstats.txt")).map(|(after, before)| after - before))?;
            share_is(m, "share", c.collected_between().ok_or("no two MemStats")?, 1.0)?;
            c.room(m)
        },
    ),
    (
        "Before memtrap asked for one, {n:collections} collections had taken {p:share} of all CPU that the process could use: the heap may grow by {n:room}% of what is live at most\\.",
        |c, m| {
            is(m, "collections", c.now.memstats("memstats.txt", "NumGC"))?;
            share_is(m, "share", c.now.memstats("memstats.txt", "GCCPUFraction").ok_or("no GCCPUFraction")?, 1.0)?;
            c.room(m)
        },
    ),
    (
        "Between two looks at its memory {n:collections} collections took {p:share} of all CPU that the process may use: the heap may grow by {n:room}% of what is live\\.",
        |c, m| {
            let of = |key| c.now.memstats("memstats_after.txt", key);
            is(m, "collections", of("NumGC").zip(c.now.memstats("memstats.txt", "NumGC")).map(|(after, before)| after - before))?;
            share_is(m, "share", c.collected_between().ok_or("no two MemStats")?, 1.0)?;
            is(m, "room", of("NextGC").zip(of("HeapMarked")).map(|(goal, live)| ((goal - live).max(0.0) * 100.0 / live).floor()))
        },
    ),
    ("In force is GOGC={n:is}, not GOGC=(?:off|{n:was}) as the environment has it: debug\\.SetGCPercent sets it\\.", |c, m| {
        let manifest = c.now.json("manifest.json").unwrap_or_default();
        let told = manifest["trigger"]["gc"]["heap"]["gogc"].as_f64();
        is(m, "is", told.or_else(|| c.now.runtime("GCPercent")))?;
        is(m, "was", Some(c.now.env("GOGC").and_then(|v| v.parse().ok()).unwrap_or(100.0)))
    }),
    ("In force is GOGC=off, not GOGC={n:was} as the environment has it: debug\\.SetGCPercent sets it\\.", |c, m| {
        is(m, "was", Some(c.now.env("GOGC").and_then(|v| v.parse().ok()).unwrap_or(100.0)))
    }),
    ("A memory limit of {s:limit} is in force, which is not the environment's: debug\\.SetMemoryLimit sets it\\.", |c, m| {
        let manifest = c.now.json("manifest.json").unwrap_or_default();
        let told = manifest["trigger"]["gc"]["heap"]["memory_limit_bytes"].as_f64();
        is(m, "limit", told.or_else(|| c.now.runtime("MemoryLimit")))
    }),
    ("GOGC={n:percent}: the heap may grow by {n:again}% of what is live before it is collected\\.", |c, m| {
        let set = c.now.env("GOGC").and_then(|v| v.parse().ok());
        is(m, "percent", set)?;
        is(m, "again", set)
    }),
    ("GOGC=off: .+", |c, _| match c.now.env("GOGC") {
        Some(set) if set == "off" || set.starts_with('-') => Ok(()),
        set => Err(format!("GOGC is {set:?}")),
    }),
    ("GOMEMLIMIT is {s:limit}(?:: RSS is near it or above)?\\.", |c, m| {
        let set = c.now.env("GOMEMLIMIT").and_then(|v| v.parse::<memtrap::units::ByteSize>().ok());
        is(m, "limit", set.map(|b| b.0 as f64))
    }),
    (
        "The process (?:allocated no more than it takes to answer memtrap's requests|allocates about {s:rate} a second)(?:; {n:collections} collections since the start)?\\.",
        |c, m| {
            is(m, "collections", c.now.runtime("NumGC"))?;
            rate(c, m, "rate")
        },
    ),
    (
        "Heap profile: (?:{f:bytes} (?:holds|allocated) {p:bytes_share} of the bytes in use)?(?:; )?(?:{f:objects} (?:holds|allocated) {p:objects_share} of the objects in use)?\\.",
        |c, m| {
            c.holds(m, "bytes", "bytes_share", "inuse_space")?;
            c.holds(m, "objects", "objects_share", "inuse_objects")
        },
    ),
    ("Since the baseline inuse_space grew by {s:grown}, {s:part} of it from {f:function}\\.", |c, m| {
        let (now, then) =
            (c.now.heap().ok_or("no heap profile")?, c.base.as_ref().and_then(|b| b.profile("heap.pb.gz")).ok_or("no heap profile then")?);
        let net = total(&now, "inuse_space").unwrap_or(0.0) - total(&then, "inuse_space").unwrap_or(0.0);
        // functions that shrank are not taken off, nor is what memtrap's own requests took
        within(m, "grown", (net * 0.95 - c.floating()).max(0.0), grown(&now, &then) * 1.001)?;
        let of = |profile| of_function(profile, "inuse_space", own(&m["function"]));
        let ((flat, cum), (flat_then, cum_then)) = (of(&now), of(&then));
        let placed = |profile| of_place(profile, "inuse_space", own(&m["function"]));
        let ways = [flat - flat_then, cum - cum_then, placed(&now) - placed(&then)];
        ways.iter()
            .find_map(|part| is(m, "part", Some(*part)).ok())
            .ok_or_else(|| format!("part: {}, but it is one of {ways:?}", &m["part"]))
    }),
    ("{f:function} allocated {s:part} of {s:all} since the start\\.", |c, m| {
        let allocs = c.now.heap().or_else(|| c.now.profile("allocs.pb.gz")).ok_or("no profile of allocations")?;
        is(m, "all", total(&allocs, "alloc_space"))?;
        let (flat, cum) = of_function(&allocs, "alloc_space", own(&m["function"]));
        let ways = [flat, cum, of_place(&allocs, "alloc_space", own(&m["function"]))];
        ways.iter()
            .find_map(|part| is(m, "part", Some(*part)).ok())
            .ok_or_else(|| format!("part: {}, but it is one of {ways:?}", &m["part"]))
    }),
    ("There (?:is|are) {n:all} goroutines?(?:, {n:then} at the baseline)?(?:; their stacks take {s:each} on average)?\\.", |c, m| {
        is(m, "all", c.goroutines())?;
        is(m, "then", c.base.as_ref().and_then(|b| b.profile("goroutine.pb.gz")).map(|p| count(&p)))?;
        let stacks = c.now.runtime("Stack").zip(c.goroutines()).map(|(stacks, n)| (stacks / n.max(1.0)).floor());
        is(m, "each", stacks)
    }),
    (
        "{n:group} of them have the same stack(?:, in {f:place})?(?:, state: (?P<state>[^,]+(?:, locked to thread)?))?(?:, the longest for (?P<time>.+))?\\.",
        |c, m| {
            let dump = c.now.dump();
            let counted: Vec<f64> = c
                .now
                .profile("goroutine.pb.gz")
                .map(|p| by_stack(&p, p.sample_type_names().next().unwrap_or("")).into_values().collect())
                .unwrap_or_default();
            let mut groups = dump.values().map(|(n, _)| *n as f64).chain(counted);
            let found = groups.any(|n| is(m, "group", Some(n)).is_ok());
            let Some(time) = m.name("time").map(|t| t.as_str()) else {
                return if found { Ok(()) } else { Err(format!("no group of {}", &m["group"])) };
            };
            let minutes: Vec<u64> =
                dump.values().filter(|(n, _)| is(m, "group", Some(*n as f64)).is_ok()).map(|(_, minutes)| *minutes).collect();
            let human = |minutes: u64| memtrap::clock::human(std::time::Duration::from_secs(minutes * 60));
            let told = minutes.iter().any(|minutes| human(*minutes) == time);
            if found && told { Ok(()) } else { Err(format!("the longest waits are {minutes:?} minutes")) }
        },
    ),
    ("The garbage collector finds {n:leaked} goroutines blocked for ever: nothing that could wake them is reachable\\.", |c, m| {
        is(m, "leaked", c.leaked())
    }),
    ("Since the baseline {n:more} more stand in {f:grown}\\.", |c, m| c.more_standing(m, "more", "grown")),
    ("The deepest stack, of {n:count} in {f:function}, has {n:frames} frames more than are printed\\.", |c, m| {
        let text = c.now.text("goroutine.txt").unwrap_or_default();
        // of groups (debug=1) it is a comment
        let elided = text.lines().map(|l| l.strip_prefix("# ").unwrap_or(l));
        let elided = elided.filter_map(|l| l.strip_prefix("...")?.split(' ').next()?.parse::<f64>().ok());
        is(m, "frames", elided.reduce(f64::max))
    }),
    ("{n:count} recurse in {f:function}, deeper than the profile shows\\.", |c, m| {
        let profile = c.now.profile("goroutine.pb.gz").ok_or("no profile of goroutines")?;
        let cut = |s: &memtrap::pprof::Sample<'_>| s.locations.len() >= 120 && stack(&profile, s.locations).contains(&&m["function"]);
        let all: f64 = profile.samples().filter(cut).map(|s| s.values[0] as f64).sum();
        within(m, "count", 1.0, all)
    }),
    (
        "{f:function} allocated most of (?:that, and most goroutines stand in it: they hold it|what is live, and (?:many goroutines stand in it|as many goroutines stand in it as would hold it): they may hold it)\\.",
        |c, m| {
            let there = Case::standing(&c.now, &m["function"]);
            if there >= 50.0 { Ok(()) } else { Err(format!("{there} stand in it")) }
        },
    ),
    ("Up to {s:outgrown} of the freed heap are old copies of stacks that grew\\.", |c, m| {
        within(m, "outgrown", 0.0, c.part("heap_unreleased").min(c.part("goroutine_stacks") * 4.0))
    }),
    (
        "smaps: {s:arenas} are resident in Go's arenas \\((?:named by the kernel|found at their usual address|found by shape and place(?P<agree>, in agreement with what the runtime says)?)\\)\\.",
        |c, m| {
            if m.name("agree").is_some() && c.now.runtime("HeapAlloc").is_none() {
                return Err("the runtime was not heard".into());
            }
            let sums = c.arenas();
            if sums.iter().any(|sum| is(m, "arenas", Some(*sum)).is_ok()) {
                Ok(())
            } else {
                Err(format!("no mappings are {}", &m["arenas"]))
            }
        },
    ),
    ("MemStats counts {s:more} more than there is: reserved and never touched\\. The parts are scaled down\\.", |c, m| {
        let of = |key| c.now.runtime(key).unwrap_or(0.0);
        let claimed = of("HeapInuse") + of("HeapIdle") - of("HeapReleased") + of("Stack");
        let found = c.arenas().iter().any(|arenas| is(m, "more", Some(claimed - arenas)).is_ok());
        // without arenas, all anonymous memory and the runtime's own is compared
        if found { Ok(()) } else { within(m, "more", 0.0, claimed) }
    }),
    (
        "Native memory: (?:malloc in C {s:malloc})?(?:, )?(?:stacks of threads {s:stacks})?(?:, )?(?:global variables {s:globals})?(?:, )?(?:private copies of pages of files {s:copies})?(?:, )?(?:other anonymous mappings {s:mappings})?\\.",
        |c, m| c.native(m),
    ),
    ("There are {n:threads} OS threads(?:, {n:then} at the baseline)?\\.", |c, m| {
        is(m, "threads", c.now.fact("threads").or(c.now.status("Threads")))?;
        is(m, "then", c.base.as_ref().and_then(|b| b.status("Threads")))
    }),
    ("{s:returned} of the freed heap were returned by the runtime \\(HeapReleased\\) and are resident nevertheless\\.", |c, m| {
        within(m, "returned", 0.0, c.now.runtime("HeapReleased").unwrap_or(0.0))
    }),
    ("RSS fell by {s:fell} between the trigger and the reading, and HeapReleased is at least as much: .+\\.", |c, m| {
        let fell = c.kernel_rss().map_or(0.0, |rss| c.rss() - rss);
        within(m, "fell", 0.0, fell.max(0.0).min(c.now.runtime("HeapReleased").unwrap_or(0.0)))
    }),
    ("{s:lazy} (?:of the freed heap|outside of Go's arenas) are MADV_FREE pages: .+\\.", |c, m| {
        let lazy: u64 = c.now.smaps().iter().map(|mapping| mapping.lazy_free).sum();
        within(m, "lazy", 0.0, lazy as f64)
    }),
    ("{s:huge} are transparent huge pages, .+\\.", |c, m| {
        let of_smaps = || Some(c.now.smaps().iter().map(|mapping| mapping.huge as f64).sum());
        is(m, "huge", c.now.line("smaps_rollup", "AnonHugePages").or_else(of_smaps))
    }),
    ("{s:swap} more are swapped out: they are not in RSS\\.", |c, m| is(m, "swap", c.now.status("VmSwap"))),
    ("RSS differed by {s:moved} from the trigger's when the evidence was read; the parts are scaled to it\\.", |c, m| {
        // what Go was returning meanwhile is told apart
        let moved = c.kernel_rss().map_or(0.0, |rss| rss - c.rss());
        is(m, "moved", Some(moved)).or_else(|_| within(m, "moved", moved.min(0.0), 0.0))
    }),
    (
        "The process (?:was killed by the kernel for lack of memory \\(oom_kill\\) during the capture|ended during the capture; .+)\\.",
        |c, _| {
            let gone = c.now.json("end.json").is_some_and(|end| end["gone"] == true);
            if gone { Ok(()) } else { Err("end.json does not say so".into()) }
        },
    ),
];
