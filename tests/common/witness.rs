//! What the files of a bundle say, read without the code that is tried: plain loops over text. Only protobuf is left to the library.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use memtrap::pprof::{Limits, Profile};
use serde_json::Value;

/// A bundle, or what is below its `baseline/`.
pub struct Witness {
    dir: PathBuf,
    /// Where the kernel's texts are.
    proc: PathBuf,
}

/// A mapping of smaps; bytes.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub perms: String,
    pub name: String,
    pub rss: u64,
    pub anon: u64,
    pub lazy_free: u64,
    pub huge: u64,
}

impl Witness {
    pub fn of(bundle: &Path) -> Witness {
        Witness { dir: bundle.to_owned(), proc: bundle.join("proc") }
    }

    pub fn baseline(&self) -> Option<Witness> {
        let dir = self.dir.join("baseline");
        dir.is_dir().then(|| Witness { proc: dir.clone(), dir })
    }

    pub fn text(&self, name: &str) -> Option<String> {
        fs::read(self.dir.join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn kernel(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.proc.join(name)).ok()
    }

    pub fn json(&self, name: &str) -> Option<Value> {
        serde_json::from_str(&self.text(name)?).ok()
    }

    /// A line of `proc/status` or `proc/smaps_rollup`: its number, in bytes where it is in kB.
    pub fn line(&self, file: &str, key: &str) -> Option<f64> {
        let text = self.kernel(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let mut words = line.split_whitespace();
        let number: f64 = words.next()?.parse().ok()?;
        Some(if words.next() == Some("kB") { number * 1024.0 } else { number })
    }

    pub fn status(&self, key: &str) -> Option<f64> {
        self.line("status", key)
    }

    /// A number of `# runtime.MemStats`, the first of two where there are two.
    pub fn memstats(&self, file: &str, key: &str) -> Option<f64> {
        let text = self.text(file)?;
        let footer = text.rsplit("# runtime.MemStats").next().filter(|_| text.contains("# runtime.MemStats"))?;
        let value = footer.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(key)?.strip_prefix(" = "))?;
        value.split(" / ").next()?.trim().parse().ok()
    }

    /// Before the forced collection where that is known, else after it.
    pub fn runtime(&self, key: &str) -> Option<f64> {
        self.memstats("memstats.txt", key).or_else(|| self.memstats("memstats_gc.txt", key))
    }

    pub fn profile(&self, name: &str) -> Option<Profile> {
        Profile::parse(&fs::read(self.dir.join(name)).ok()?, &Limits::default()).ok()
    }

    /// With the forced collection where there was one.
    pub fn heap(&self) -> Option<Profile> {
        self.profile("heap_gc.pb.gz").or_else(|| self.profile("heap.pb.gz"))
    }

    pub fn env(&self, name: &str) -> Option<String> {
        let facts: Value = serde_json::from_str(&self.kernel("process.json")?).ok()?;
        facts["env"][name].as_str().map(str::to_owned)
    }

    pub fn fact(&self, name: &str) -> Option<f64> {
        let facts: Value = serde_json::from_str(&self.kernel("process.json")?).ok()?;
        facts[name].as_f64()
    }

    pub fn smaps(&self) -> Vec<Mapping> {
        let mut all: Vec<Mapping> = Vec::new();
        for line in self.kernel("smaps").unwrap_or_default().lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let hex = |n: &str| u64::from_str_radix(n, 16).ok();
            let range = words.first().and_then(|w| w.split_once('-')).and_then(|(a, b)| Some((hex(a)?, hex(b)?)));
            if let Some((start, end)) = range.filter(|_| words.len() >= 5) {
                let name = words.get(5..).unwrap_or_default().join(" ");
                all.push(Mapping { start, end, perms: words[1].to_owned(), name, ..Mapping::default() });
            } else if let (Some(mapping), [key, number, "kB"]) = (all.last_mut(), words.as_slice()) {
                let bytes = number.parse::<u64>().unwrap_or(0) * 1024;
                match *key {
                    "Rss:" => mapping.rss = bytes,
                    "Anonymous:" => mapping.anon = bytes,
                    "LazyFree:" => mapping.lazy_free = bytes,
                    "AnonHugePages:" => mapping.huge = bytes,
                    _ => {}
                }
            }
        }
        all
    }

    /// The groups of goroutines in `goroutine.txt`, of either form, by their functions: how many, and how many minutes the longest waits.
    pub fn dump(&self) -> BTreeMap<Vec<String>, (u64, u64)> {
        let mut groups: BTreeMap<Vec<String>, (u64, u64)> = BTreeMap::new();
        let mut now: Option<(u64, u64, Vec<String>)> = None;
        let text = self.text("goroutine.txt").unwrap_or_default();
        for line in text.lines().chain([""]) {
            if let Some(state) = line.strip_prefix("goroutine ").and_then(|l| Some(l.split_once('[')?.1.split_once(']')?.0)) {
                let minutes = state.split(", ").find_map(|part| part.strip_suffix(" minutes")?.parse().ok()).unwrap_or(0);
                now = Some((1, minutes, Vec::new()));
            } else if let Some(count) = line.split_once(" @ ").and_then(|(count, _)| count.parse().ok()) {
                now = Some((count, 0, Vec::new()));
            } else if line.trim().is_empty() {
                if let Some((count, minutes, stack)) = now.take() {
                    let group = groups.entry(stack).or_default();
                    *group = (group.0 + count, group.1.max(minutes));
                }
            } else if let Some((_, _, stack)) = &mut now {
                let of_debug_1 = line.strip_prefix("#\t").and_then(|l| l.split('\t').nth(1)).and_then(|f| Some(f.rsplit_once('+')?.0));
                let of_debug_2 =
                    (!line.starts_with(['\t', '#', '.']) && !line.starts_with("created by")).then(|| line.rfind('(').map(|at| &line[..at]));
                if let Some(function) = of_debug_1.or(of_debug_2.flatten()).filter(|_| stack.len() < 64) {
                    stack.push(function.to_owned());
                }
            }
        }
        groups
    }
}

/// The sum of a value over all samples.
pub fn total(profile: &Profile, kind: &str) -> Option<f64> {
    let index = profile.sample_type_names().position(|name| name == kind)?;
    Some(profile.samples().map(|s| s.values[index] as f64).sum())
}

/// Of a profile of goroutines.
pub fn count(profile: &Profile) -> f64 {
    profile.samples().map(|s| s.values[0] as f64).sum()
}

/// The functions of a sample, the innermost first.
pub fn stack<'a>(profile: &'a Profile, locations: &[u32]) -> Vec<&'a str> {
    let lines = locations.iter().flat_map(|l| profile.lines(&profile.locations[*l as usize]));
    lines.map(|line| profile.str(profile.functions[line.function as usize].name)).collect()
}

/// What a function has of a value by itself, with the allocator's frames on top of it or without, and with all that it calls.
pub fn of_function(profile: &Profile, kind: &str, function: &str) -> (f64, f64) {
    let Some(index) = profile.sample_type_names().position(|name| name == kind) else { return (0.0, 0.0) };
    let (mut flat, mut cum) = (0.0, 0.0);
    for sample in profile.samples() {
        let stack = stack(profile, sample.locations);
        let value = sample.values[index] as f64;
        let innermost = stack.iter().find(|f| !memtrap::pprof::own::allocates(f));
        flat += if stack.first() == Some(&function) || innermost == Some(&function) { value } else { 0.0 };
        cum += if stack.contains(&function) { value } else { 0.0 };
    }
    (flat, cum)
}

/// A value by identical stacks.
pub fn by_stack(profile: &Profile, kind: &str) -> BTreeMap<Vec<String>, f64> {
    let mut sums = BTreeMap::new();
    if let Some(index) = profile.sample_type_names().position(|name| name == kind) {
        for sample in profile.samples() {
            let stack = stack(profile, sample.locations).into_iter().map(str::to_owned).collect();
            *sums.entry(stack).or_default() += sample.values[index] as f64;
        }
    }
    sums
}

/// What was allocated below a function of the service's own and below no other of its own: what is in the stacks whose innermost frame
/// outside of the library is this one.
pub fn of_place(profile: &Profile, kind: &str, function: &str) -> f64 {
    // a path of someone's module has a domain: github.com/…
    let is_library = |f: &str| !f.starts_with("main.") && !f.split_once('/').is_some_and(|(domain, _)| domain.contains('.'));
    let by_place = by_stack(profile, kind).into_iter().filter(|(stack, _)| {
        let place = stack.iter().find(|f| !is_library(f)).or(stack.first());
        place.is_some_and(|place| place == function)
    });
    by_place.map(|(_, value)| value).sum()
}
