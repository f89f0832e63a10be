//! The document: which keys there are, what each may be, and what must fit together.
//!
//! A default is a value that nobody overwrote: `[defaults]` is read over the built-in [`Settings`], each target over a
//! copy of the result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::bounds::{COOLDOWNS, ETAS, HOLDS, INTERVALS, MIN_READINGS, WARMUPS, check_gc, check_leak, check_rate, check_threshold};
use super::problem::{Errors, Report, Warning};
use super::reader::{Read, Table, Value, boolean, checked, duration, fault, integer, list, or_off, parsed, path, secret_file, text};
use super::{
    Capture, Config, Daemon, Invalid, Listen, Pprof, PprofSetting, Process, ReadMemory, Retention, Rules, Selector, Source, Target, auth,
    endpoint, notify, source, upload,
};
use crate::clock::human;
use crate::lang::Lang;
use crate::steps;
use crate::units::{ByteSize, Percent, Rate, Share, SizeOrPercent};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// As humantime counts it.
const YEAR: Duration = Duration::from_secs(31_557_600);

const PROCESS_EXAMPLE: &str = r#"{ unit = "checkout.service" }"#;
const MAX_STAGES: usize = 8;
const MAX_EXCLUDED: usize = 64;
const MAX_EXTRA_PROFILES: usize = 16;
/// What a bundle holds besides the files of [`steps`]; an extra profile's name must not meet any of it.
const RESERVED_NAMES: [&str; 9] = ["cmdline", "memstats_gc", "manifest", "verdict", "report", "timeline", "baseline", "proc", "proc_after"];

/// Resolves a file's text. `file_name` is only for messages. Touches neither disk nor network.
///
/// # Errors
/// Every mistake of the file, from syntax to values that do not fit together.
pub fn parse(text: &str, file_name: &str) -> Result<(Config, Vec<Warning>), Errors> {
    let mut report = Report::new(text);
    let (mut document, errors) = DeTable::parse_recoverable(text);
    let repaired = note_syntax(text, &errors, &mut report);
    if let Some(repaired) = &repaired {
        let (rest, errors) = DeTable::parse_recoverable(repaired);
        note_syntax(repaired, &errors, &mut report);
        document = rest;
    }
    let empty = DeTable::new();
    let config = read_document(Table::root(document.get_ref(), &mut report), &empty);
    report.finish(text, file_name).map(|warnings| (config, warnings))
}

/// Notes the parser's errors. After a line without `=` the parser drops the rest of the file, and an unclosed header takes
/// its name from what follows: returns a text without such a line or section, if there is one, so that all else is read.
fn note_syntax(text: &str, errors: &[toml::de::Error], report: &mut Report) -> Option<String> {
    let mut lost = BTreeMap::new();
    for error in errors {
        let at = error.span().map_or(text.len(), |span| span.start);
        report.syntax(at, error.message().trim_end_matches(", expected literal string"));
        if error.message().starts_with("key with no value") {
            lost.insert(report.line(at), Lost::Line);
        } else if error.message().starts_with("unclosed table") || error.message().starts_with("unclosed array table") {
            lost.insert(report.line(at), Lost::Section);
        }
    }
    if lost.is_empty() {
        return None;
    }
    let mut repaired = String::with_capacity(text.len());
    let mut section_lost = false;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let here = lost.get(&(index + 1));
        section_lost = here == Some(&Lost::Section) || section_lost && !line.trim_start().starts_with('[');
        if here.is_none() && !section_lost {
            repaired.push_str(line);
        } else {
            // byte for byte, so that places stay what they are
            repaired.extend(line.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        }
    }
    Some(repaired)
}

#[derive(PartialEq)]
enum Lost {
    Line,
    Section,
}

fn read_document<'t>(mut root: Table<'_, 't>, empty: &'t DeTable<'t>) -> Config {
    let daemon = read_daemon(root.section("daemon", "[daemon]", empty));
    let retention = read_retention(root.section("retention", "[retention]", empty));
    let upload = upload::read(root.section("upload", "[upload]", empty));
    let mut defaults = Settings::default();
    let mut section = root.section("defaults", "[defaults]", empty);
    defaults.read(&mut section);
    section.finish(&[]);

    let found = root.tables("target");
    if !root.has("target") {
        // a file that lost its end must not pass for one that wants nothing watched
        root.missing(
            "target: none; add at least one [[target]] with a name, a process and a rule such as threshold = \"80%\", \
             or write target = [] to watch nothing for now",
        );
    }
    if let (Some([]), Some(at)) = (found.as_deref(), root.place_of("target")) {
        root.warning(at, "target: none, so nothing is watched; add a [[target]] in its place");
    }
    let mut targets = Vec::new();
    let mut names = HashMap::new();
    for (index, (entries, at)) in found.unwrap_or_default().into_iter().enumerate() {
        let name = entries.get("name").and_then(|v| v.get_ref().as_str()).and_then(|name| endpoint::parse_name(name).ok());
        let label = name.as_ref().map_or_else(|| format!("target #{}: ", index + 1), |name| format!("target \"{name}\": "));
        let mut table = root.nested(entries, at, label, "[[target]]");
        if let (Some(name), Some(at)) = (name, table.place_of("name")) {
            let line = table.line(at.start);
            let first = *names.entry(name).or_insert(line);
            if first != line {
                table.error(at, format_args!("name: taken by the target of line {first}; names must differ"));
            }
        }
        targets.extend(read_target(table, defaults.clone()).map(Arc::new));
    }
    let names: Vec<String> = targets.iter().map(|t| t.name.clone()).collect();
    let notify = notify::read(&mut root, &names);
    root.finish(&[]);
    Config { daemon, retention, upload, notify, targets }
}

fn read_daemon(mut t: Table<'_, '_>) -> Daemon {
    let mut daemon = Daemon::default();
    t.set("state_dir", &mut daemon.state_dir, path);
    t.set("bundle_dir", &mut daemon.bundle_dir, path);
    t.set("listen", &mut daemon.listen, |v| parse_with(v, "an address such as \"127.0.0.1:9709\"", |text| Listen::parse(text).map(Some)));
    t.set("token_file", &mut daemon.token_file, |v| secret_file(v).map(Some));
    if let (Some(listen), false) = (daemon.listen.as_ref().filter(|l| !l.is_local()), t.has("token_file")) {
        let message = format!(
            "listen: {listen} can be reached from other hosts and needs a token: set token_file, or listen on loopback such as 127.0.0.1:9709"
        );
        let at = t.place_of("listen").unwrap_or_else(|| t.place());
        t.error(at, message);
    }
    t.set("external_url", &mut daemon.external_url, |v| {
        let url = notify::parse_url(text(v, "a URL such as \"https://memtrap.internal\"")?).or_else(|why| fault(v, why))?;
        if url.contains('?') {
            fault(v, "a URL with a query: bundles' paths are put behind it")
        } else {
            Ok(Some(url.trim_end_matches('/').into()))
        }
    });
    t.set("lang", &mut daemon.lang, |v| {
        const WHAT: &str = "\"en\" or \"zh\"";
        let name = text(v, WHAT)?;
        Lang::ALL.into_iter().find(|lang| lang.name() == name).map_or_else(|| fault(v, format!("`{name}` is not among {WHAT}")), Ok)
    });
    t.set("max_concurrent_captures", &mut daemon.max_concurrent_captures, integer(1..=64));
    t.set("max_captures_per_hour", &mut daemon.max_captures_per_hour, integer(1..=3_600));
    t.finish(&[]);
    daemon
}

fn read_retention(mut t: Table<'_, '_>) -> Retention {
    let mut retention = Retention::default();
    t.set("max_bundles_per_target", &mut retention.max_bundles_per_target, integer(1..=100_000));
    t.set("max_total_size", &mut retention.max_total_size, at_least(ByteSize::mib(1)));
    t.set("max_age", &mut retention.max_age, duration(MINUTE..=YEAR * 10));
    t.set("min_free_disk", &mut retention.min_free_disk, size());
    t.finish(&[]);
    retention
}

/// What a target may inherit.
#[derive(Clone)]
struct Settings {
    interval: Duration,
    max_interval: Duration,
    baseline: Option<Duration>,
    rules: Rules,
    capture: Capture,
    /// Keys whose values were wrong: what follows from them is not known.
    failed: Vec<&'static str>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            interval: Target::DEFAULT_INTERVAL,
            max_interval: Target::DEFAULT_MAX_INTERVAL,
            baseline: Some(Target::DEFAULT_BASELINE),
            rules: Rules::default(),
            capture: Capture::default(),
            failed: Vec::new(),
        }
    }
}

impl Settings {
    fn read(&mut self, t: &mut Table<'_, '_>) {
        t.set("interval", &mut self.interval, duration(INTERVALS));
        t.set("max_interval", &mut self.max_interval, duration(INTERVALS));
        let rules = &mut self.rules;
        t.set("threshold", &mut rules.threshold, thresholds);
        t.set("slope", &mut rules.slope, or_off(checked(parsed::<Rate>("a rise per window such as \"200MiB/10m\""), check_rate)));
        t.set("eta", &mut rules.eta, or_off(duration(ETAS)));
        t.set("gc", &mut rules.gc, or_off(checked(parsed::<Share>("a share of the CPU per window such as \"40%/30s\""), check_gc)));
        t.set("leak", &mut rules.leak, or_off(checked(parsed::<Rate>("a rise over days such as \"1GiB/7d\""), check_leak)));
        t.set("for", &mut rules.hold, duration(HOLDS));
        t.set("warmup", &mut rules.warmup, duration(WARMUPS));
        t.set("cooldown", &mut rules.cooldown, duration(COOLDOWNS));
        t.set("rearm", &mut rules.rearm, parsed::<Percent>("a percentage such as \"90%\""));
        t.set("escalate", &mut rules.escalate, boolean);
        t.set("charge", &mut rules.charge, charge);
        t.set("baseline", &mut self.baseline, or_off(duration(MINUTE..=30 * DAY)));
        let capture = &mut self.capture;
        t.set("cpu_seconds", &mut capture.cpu_seconds, integer(0..=300));
        t.set("connect_timeout", &mut capture.connect_timeout, duration(Duration::from_millis(100)..=MINUTE));
        t.set("step_timeout", &mut capture.step_timeout, duration(SECOND..=30 * MINUTE));
        t.set("retries", &mut capture.retries, integer(0..=10));
        t.set("retry_delay", &mut capture.retry_delay, duration(Duration::ZERO..=MINUTE));
        t.set("max_goroutines_debug2", &mut capture.max_goroutines_debug2, integer(0..=1_000_000_000));
        t.set("read_memory", &mut capture.read_memory, read_memory);
        t.set("holders", &mut capture.holders, holders);
        t.set("brake", &mut capture.brake, brake);
        t.set("max_file_size", &mut capture.max_file_size, at_least(ByteSize::mib(1)));
        t.set("extra_profiles", &mut capture.extra_profiles, extra_profiles);
        t.set("skip", &mut capture.skip, list("a list of steps such as [\"mutex\", \"block\"]", steps::skippable().count(), step));
        self.failed.extend(t.failed());
        self.check_together(t);
        self.warn_of_leak(t);
    }

    /// A short window is not wrong, but hardly does what was meant.
    fn warn_of_leak(&self, t: &mut Table<'_, '_>) {
        if let Some(leak) = self.rules.leak.filter(|leak| leak.window < 3 * DAY)
            && let Some(at) = t.place_of("leak")
        {
            let window = human(leak.window);
            t.warning(
                at,
                format_args!("leak: two days and some hours must be seen before anything is judged, whatever its window is ({window})"),
            );
        }
    }

    /// Told only where one of the two was written: a conflict within `[defaults]` is not told again for every target.
    fn check_together(&self, t: &mut Table<'_, '_>) {
        let written = |t: &Table<'_, '_>, one: &'static str, other: &'static str| {
            let known = ![one, other].iter().any(|key| self.failed.contains(key));
            t.place_of(one).or_else(|| t.place_of(other)).filter(|_| known)
        };
        if let Some(slope) = self.rules.slope
            && slope.window < self.interval * MIN_READINGS
            && let Some(at) = written(t, "slope", "interval")
        {
            let (window, interval) = (human(slope.window), human(self.interval));
            t.error(at, format_args!("slope: its window, {window}, is too short: at least {MIN_READINGS} intervals of {interval}"));
        }
        if self.capture.connect_timeout > self.capture.step_timeout
            && let Some(at) = written(t, "step_timeout", "connect_timeout")
        {
            let (step, connect) = (human(self.capture.step_timeout), human(self.capture.connect_timeout));
            t.error(at, format_args!("step_timeout: {step} is less than connect_timeout, {connect}, which is a part of it"));
        }
    }
}

fn read_target(mut t: Table<'_, '_>, mut settings: Settings) -> Option<Target> {
    let name = t.take("name", |v| endpoint::parse_name(text(v, "a name such as \"checkout\"")?).or_else(|e| fault(v, e.to_string())));
    let mut source = read_source(&mut t);
    let written = t.take("pprof", |v| parse_with(v, "a URL, a unix socket, \"auto\" or \"off\"", str::parse::<PprofSetting>));
    let pprof = written.and_then(|setting| setting.0);
    source::check_pprof(&mut t, pprof.as_ref(), source.as_ref());
    source::read_limit(&mut t, source.as_mut());
    let uses = auth::Uses::of_target(&t, pprof.as_ref(), source.as_ref());
    let auth = auth::read(&mut t, &uses);
    settings.read(&mut t);
    let is_local = source.as_ref().is_some_and(|source| source.process().is_some());
    // what a process on this host serves can be found
    let pprof = pprof.or((is_local && !t.has("pprof")).then_some(Pprof::Auto));

    if !t.has("name") {
        t.missing("name: missing; write for example name = \"checkout\"");
    }
    let Settings { interval, max_interval, baseline, rules, capture, failed } = settings;
    let no_rule = rules.threshold.is_empty() && rules.slope.is_none() && rules.eta.is_none() && rules.gc.is_none() && rules.leak.is_none();
    if no_rule && !["threshold", "slope", "eta", "gc", "leak"].iter().any(|key| failed.contains(key)) {
        t.missing("it has no rule and could never fire: set threshold, slope, eta, gc or leak, here or in [defaults]");
    }
    source::check_rules(&mut t, source.as_ref(), &rules);
    if let (true, true, ReadMemory::Off, Some(at)) =
        (is_local, rules.gc.is_some(), capture.read_memory, t.place_of("gc").or_else(|| t.place_of("read_memory")))
    {
        t.warning(at, "gc: has no effect with read_memory = \"off\": what collections take stands in the process's memory");
    }
    match rules.threshold.len() {
        0 | 1 if t.has("escalate") && rules.escalate && !failed.contains(&"threshold") => {
            let at = t.place_of("escalate").unwrap_or_else(|| t.place());
            t.warning(at, "escalate: has no effect, because threshold has fewer than two stages");
        }
        2.. if t.has("threshold") && !rules.escalate && !failed.contains(&"escalate") => {
            let at = t.place_of("threshold").unwrap_or_else(|| t.place());
            t.warning(at, "threshold: only the lowest stage of an incident leaves a bundle; for the others set escalate = true");
        }
        _ => {}
    }
    t.finish(&[]);
    Some(Target { name: name?, source: source?, pprof, auth, interval, max_interval, baseline, rules, capture })
}

/// Exactly one of three.
fn read_source(t: &mut Table<'_, '_>) -> Option<Source> {
    const SOURCES: [&str; 3] = ["process", "metrics", "prometheus"];
    let process = t.table("process", PROCESS_EXAMPLE).and_then(read_process).map(Source::Process);
    let metrics = t.table("metrics", source::METRICS_EXAMPLE).and_then(source::read_metrics).map(Source::Metrics);
    let prometheus = t.table("prometheus", source::PROMETHEUS_EXAMPLE).and_then(source::read_prometheus).map(Source::Prometheus);
    let given: Vec<&str> = SOURCES.into_iter().filter(|key| t.has(key)).collect();
    match given.as_slice() {
        [] => t.missing(format_args!("process: missing; write for example process = {PROCESS_EXAMPLE}, or watch by metrics or prometheus")),
        [_] => {}
        [first, .., last] => {
            let at = t.place_of(last).unwrap_or_else(|| t.place());
            t.error(at, format_args!("{last}: there is {first} already; exactly one of {} says what is watched", SOURCES.join(", ")));
        }
    }
    [process, metrics, prometheus].into_iter().flatten().next()
}

fn read_process(mut t: Table<'_, '_>) -> Option<Process> {
    let plain = |v: &Value<'_>, what: &str| text(v, what).map(str::to_owned);
    let found = [
        t.take("unit", |v| parse_with(v, "a systemd unit such as \"checkout.service\"", unit)),
        // pid_max is at most 2^22
        t.take("pid", integer(1..=4_194_304)).map(Selector::Pid),
        t.take("pid_file", path).map(Selector::PidFile),
        t.take("name", |v| plain(v, "a process name such as \"checkout\"")).map(Selector::Name),
        t.take("exe", path).map(Selector::Exe),
        t.take("cmdline", |v| parse_with(v, "a regular expression", endpoint::parse_regex)).map(Selector::Cmdline),
        t.take("listen", |v| parse_with(v, "an address such as \":6060\"", listening)).map(Selector::Listen),
        t.take("go", only_true).map(|()| Selector::Go),
        t.take("container", |v| parse_with(v, "a regular expression", endpoint::parse_regex)).map(Selector::Container),
        t.take("cgroup", |v| parse_with(v, "a path such as \"/system.slice/shop-*.service\"", cgroup_glob)).map(Selector::Cgroup),
    ];
    match t.given() {
        0 if t.has("user") && t.failed().is_empty() => {
            t.error_here("user says whose processes are meant, not which; write for example { name = \"checkout\", user = \"checkout\" }");
        }
        0 if t.is_empty() => t.error_here(format_args!("empty; write for example process = {PROCESS_EXAMPLE}")),
        // a single unknown key is told as such
        0 | 1 => {}
        n => {
            let one_of = t.asked().join(", ");
            t.error_here(format_args!("{n} keys; exactly one of {one_of} says which process is meant"));
        }
    }
    let which = found.into_iter().flatten().next();
    let user = t.take("user", source::user);
    let pattern = |v: &Value<'_>| parse_with(v, "a regular expression", endpoint::parse_regex);
    let exclude = t.take("exclude", list("a list of regular expressions such as [\"^backup\"]", MAX_EXCLUDED, pattern));
    if let (Some(at), Some(which)) = (t.place_of("exclude"), &which)
        && !which.means_many()
    {
        t.error(at, "exclude: it takes out of what `go`, `container` or `cgroup` find; the others mean one service");
    }
    t.finish(&[]);
    which.map(|which| Process { which, user, exclude: exclude.unwrap_or_default(), limit: None })
}

fn only_true(value: &Value<'_>) -> Read<()> {
    match value.get_ref() {
        DeValue::Boolean(true) => Ok(()),
        _ => fault(value, "expected true: `go = true` means every program written in Go"),
    }
}

fn cgroup_glob(text: &str) -> Result<String, Invalid> {
    let plain = !text.trim_end_matches(['/', '*']).is_empty() && text.len() <= 4_096 && !text.contains(char::is_control);
    if plain { Ok(text.to_owned()) } else { Err(Invalid("a path below the root, such as /system.slice/shop.service".into())) }
}

fn parse_with<T>(value: &Value<'_>, what: &str, parse: impl Fn(&str) -> Result<T, Invalid>) -> Read<T> {
    parse(text(value, what)?).or_else(|e| fault(value, e.to_string()))
}

fn unit(name: &str) -> Result<Selector, Invalid> {
    let fits = name.len() <= 255 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b));
    if fits { Ok(Selector::Unit(name.to_owned())) } else { Err(Invalid("not the name of a systemd unit, such as checkout.service".into())) }
}

fn listening(addr: &str) -> Result<std::net::SocketAddr, Invalid> {
    let addr = endpoint::parse_listen(addr)?;
    if addr.port() == 0 { Err(Invalid("nothing listens on port 0".into())) } else { Ok(addr) }
}

fn size() -> impl Fn(&Value<'_>) -> Read<ByteSize> {
    parsed("a size in quotes such as \"512MiB\" or \"2GB\"")
}

fn at_least(least: ByteSize) -> impl Fn(&Value<'_>) -> Read<ByteSize> {
    checked(size(), move |size| if *size >= least { Ok(()) } else { Err(format!("{size} is too small: at least {least}")) })
}

fn thresholds(value: &Value<'_>) -> Read<Vec<SizeOrPercent>> {
    let one = checked(parsed("a size such as \"1.5GiB\", or a percentage of the limit such as \"80%\""), check_threshold);
    if !matches!(value.get_ref(), DeValue::Array(_)) {
        return or_off(one)(value).map(|level| level.into_iter().collect());
    }
    let levels = list("a list", MAX_STAGES, one)(value)?;
    let repeated = levels.iter().enumerate().any(|(i, level)| levels.iter().take(i).any(|earlier| earlier == level));
    match levels.as_slice() {
        [] => fault(value, "an empty list; to switch an inherited threshold off, write threshold = \"off\""),
        _ if repeated => fault(value, "the same stage twice"),
        _ => Ok(levels),
    }
}

fn read_memory(value: &Value<'_>) -> Read<ReadMemory> {
    match text(value, "\"auto\", \"always\" or \"off\"")? {
        "auto" => Ok(ReadMemory::Auto),
        "always" => Ok(ReadMemory::Always),
        "off" => Ok(ReadMemory::Off),
        _ => fault(value, "write auto (where pprof gives none), always (before pprof), or off"),
    }
}

fn charge(value: &Value<'_>) -> Read<bool> {
    match text(value, "\"auto\" or \"off\"")? {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => fault(value, "write auto (where the process's cgroup has a limit), or off"),
    }
}

fn holders(value: &Value<'_>) -> Read<bool> {
    match text(value, "\"auto\" or \"off\"")? {
        "auto" => Ok(true),
        "off" => Ok(false),
        _ => fault(value, "write auto (where the process's memory may be read), or off"),
    }
}

fn brake(value: &Value<'_>) -> Read<bool> {
    match text(value, "\"on\" or \"off\"")? {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => fault(value, "write on (memtrap sets memory.high while it takes the first evidence), or off"),
    }
}

fn step(value: &Value<'_>) -> Read<String> {
    match text(value, "the name of a step")? {
        name if steps::skippable().any(|step| step == name) => Ok(name.to_owned()),
        _ => fault(value, format!("no such step; steps are {}", steps::skippable().collect::<Vec<_>>().join(", "))),
    }
}

/// `NAME` or `NAME?QUERY`; the name becomes a file's.
fn extra_profiles(value: &Value<'_>) -> Read<Vec<String>> {
    const HELP: &str = "a profile below the pprof path such as \"trace?seconds=5\"";
    let name_of = |profile: &str| profile.split_once('?').map_or(profile, |(name, _)| name).to_owned();
    let profiles = list("a list of profiles such as [\"trace?seconds=5\"]", MAX_EXTRA_PROFILES, |v| {
        let profile = text(v, HELP)?;
        let name = name_of(profile);
        let query = profile.split_once('?').map_or("", |(_, query)| query);
        if endpoint::parse_name(&name).is_err() {
            return fault(v, format!("expected {HELP}; the name is 1 to 64 of A-Z a-z 0-9 . _ - with no dot at the beginning"));
        }
        if query.len() > 256 || !query.bytes().all(|b| b.is_ascii_alphanumeric() || b"=&.,:;_~%+/-".contains(&b)) {
            return fault(v, "the query after `?` may hold up to 256 of A-Z a-z 0-9 = & . , : ; _ ~ % + / -");
        }
        if steps::skippable().any(|step| step == name) || RESERVED_NAMES.contains(&name.as_str()) {
            return fault(v, format!("{name} is in every bundle's plan already, or is a name that bundles use"));
        }
        Ok(profile.to_owned())
    })(value)?;
    let names: Vec<String> = profiles.iter().map(|profile| name_of(profile)).collect();
    match names.iter().enumerate().find(|(i, name)| names.iter().take(*i).any(|earlier| earlier == *name)) {
        Some((_, name)) => fault(value, format!("{name} twice: each name becomes one file")),
        None => Ok(profiles),
    }
}
