//! `memtrap replay`: recorded readings against the rules.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::rules::{RuleArgs, within};
use super::{Failure, paint, terminal_width};
use crate::bundle::End;
use crate::bundle::archive;
use crate::bundle::{MANIFEST, Manifest, open_named};
use crate::clock::{human, rfc3339_millis, rfc3339_seconds};
use crate::config::{self, Capture, Rules};
use crate::replay::read::{self, Recorded};
use crate::replay::{self, Outcome, Setup, What};
use crate::text::{self, one_line};
use crate::trigger::{Fired, Trigger};
use crate::units::ByteSize;

/// Half a year of one series each 15 s, as JSON.
const MAX_FILE: u64 = 64 << 20;
const MAX_JSON: u64 = 8 << 20;
const TIMELINE: &str = "timeline.csv";
const FLOORS: &str = "floors.csv";

/// A process may have run for years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap replay BUNDLE                                            its own rules, on what they saw
  memtrap replay BUNDLE/timeline.csv --threshold 1.2GiB --slope 200MiB/10m
  memtrap replay rss.csv -c /etc/memtrap/memtrap.toml --target checkout --limit 2GiB
  curl -s 'http://prometheus:9090/api/v1/query_range?query=process_resident_memory_bytes&start=…&end=…&step=15s' > rss.json
  memtrap replay rss.json --threshold 80% --eta 10m --limit 4GiB
  memtrap replay month.json --leak 5%/7d --limit 4GiB

A CSV has lines of TIME,RSS: RFC 3339 or seconds since 1970, and bytes or sizes; a first line may name the columns.")]
pub struct Args {
    /// A bundle, its timeline.csv, any CSV, or the JSON of a Prometheus range query
    #[arg(value_name = "SERIES")]
    series: PathBuf,
    /// Take the rules of a target of this file
    #[arg(short, long, value_name = "FILE", requires = "target")]
    config: Option<PathBuf>,
    /// Which target's rules
    #[arg(long, value_name = "NAME", requires = "config")]
    target: Option<String>,
    /// The memory limit at that time, for percentages and --eta; a bundle knows its own
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteSize>,
    /// How long the process had been running at the first reading; matters for the warmup. A bundle knows; else it is a day
    #[arg(long, value_name = "TIME", value_parser = within(Duration::ZERO..=LONGEST))]
    age: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    rules: RuleArgs,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let unpacked = if args.series.is_file() && archive::is_archive(&args.series) { Some(archive::unpack(&args.series)?) } else { None };
    let path = unpacked.as_ref().map_or(args.series.as_path(), |unpacked| unpacked.dir.as_path());
    let series = if path.is_dir() { path.join(TIMELINE) } else { path.to_owned() };
    let beside = series.parent().filter(|_| series.file_name().is_some_and(|name| name == TIMELINE)).map(Path::to_owned);
    let manifest: Option<Manifest> = beside.as_ref().and_then(|dir| json_in(dir, MANIFEST));
    let ended = beside.as_ref().and_then(|dir| json_in::<End>(dir, "end.json")).is_some_and(|end| end.gone);
    let setup = Setup { ended, ..setup(&args, manifest.as_ref())? };
    let text = read_file(&series, MAX_FILE)?;
    let recorded = read::read(&text).map_err(|e| Failure::job(format_args!("{}: {e}", series.display())))?;
    let outcomes: Vec<(Recorded, Outcome)> = recorded.into_iter().map(|r| (r.clone(), replay::replay(&r.readings, &setup))).collect();
    let own = manifest.map(|manifest| manifest.trigger).filter(|fired| fired.trigger.by_rule() && !fired.trigger.is_asked());
    if args.json {
        let all: Vec<Value> = outcomes.iter().map(|(recorded, outcome)| as_json(recorded, outcome)).collect();
        let all = json!({ "schema": 1, "series": all, "bundle_trigger": own.map(|fired| fired.trigger.name()) });
        return super::print(&(text::json_pretty(&all)? + "\n"));
    }
    let own_leak = own.as_ref().filter(|fired| fired.trigger == Trigger::Leak).map(|fired| own_leak(fired, beside.as_deref(), &setup));
    outcomes.iter().try_for_each(|(recorded, outcome)| {
        let told = own_leak.clone().unwrap_or_else(|| own_trigger(own.as_ref(), outcome));
        super::print_exactly(&(as_text(recorded, outcome, &setup) + &text::lines(&told)))
    })
}

fn read_file(path: &Path, most: u64) -> Result<String, Failure> {
    let (name, mut text) = (path.display(), String::new());
    let opened = open_named(path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    opened.map_err(|e| Failure::job(format_args!("{name} cannot be read: {e}")))?;
    if text.len() as u64 > most {
        return Err(Failure::job(format_args!("{name} is larger than {}; cut it", ByteSize(most))));
    }
    Ok(text)
}

/// A file of a bundle; `None` if it is not there or not what it should be.
fn json_in<T: DeserializeOwned>(dir: &Path, name: &str) -> Option<T> {
    serde_json::from_str(&read_file(&dir.join(name), MAX_JSON).ok()?).ok()
}

fn setup(args: &Args, manifest: Option<&Manifest>) -> Result<Setup, Failure> {
    let limit = args.limit.map(|l| l.0);
    let (age, ended) = (args.age, false);
    let Some((file, name)) = args.config.as_ref().zip(args.target.as_ref()) else {
        let of_bundle = manifest.and_then(|manifest| manifest.rules.as_ref()?.rules()).filter(|_| args.rules.is_none());
        let (rules, interval) = match of_bundle {
            Some(of_bundle) => of_bundle,
            None => (args.rules.rules().map_err(Failure::usage)?, args.rules.interval),
        };
        return Ok(Setup { rules, capture: Capture::default(), interval, limit, age, ended });
    };
    if !args.rules.is_none() {
        return Err(Failure::usage("the rules come either from -c FILE, or from --threshold, --slope, --eta, --gc and --leak"));
    }
    let (config, _) = config::load(file).map_err(|e| Failure::config(e, 2))?;
    let Some(target) = config.targets.iter().find(|t| t.name == *name) else {
        let names: Vec<&str> = config.targets.iter().map(|t| t.name.as_str()).collect();
        return Err(Failure::usage(format_args!("{} has no target `{name}`; there are: {}", file.display(), names.join(", "))));
    };
    Ok(Setup { rules: target.rules.clone(), capture: target.capture.clone(), interval: target.interval, limit, age, ended })
}

/// Whether the rules fire what the bundle says fired.
fn own_trigger(own: Option<&Fired>, outcome: &Outcome) -> String {
    let Some(own) = own else { return String::new() };
    let name = own.trigger.name();
    if own.trigger == Trigger::Gc {
        return "The bundle's own trigger, gc, cannot be tried again: a timeline holds RSS, and not what the collector took.\n".into();
    }
    match outcome.fired().find(|(_, fired)| fired.trigger == own.trigger) {
        Some((event, _)) => format!("The bundle's own trigger, {name}, fires here at {}.\n", time(event.at)),
        None => format!("The bundle's own trigger, {name}, does not fire under these rules.\n"),
    }
}

/// The same of a leak, which took longer than a timeline is: its floors are beside that.
fn own_leak(own: &Fired, bundle: Option<&Path>, setup: &Setup) -> String {
    let floors = bundle.and_then(|dir| read_file(&dir.join(FLOORS), MAX_JSON).ok()).and_then(|text| read::read(&text).ok());
    let Some(floors) = floors.and_then(|all| all.into_iter().next()) else {
        return "The bundle's own trigger, leak, cannot be tried again: its floors.csv is not there.\n".into();
    };
    let rules = Rules { leak: setup.rules.leak, rearm: setup.rules.rearm, ..Rules::default() };
    let setup = Setup { rules, limit: setup.limit.or(own.limit_bytes), ended: false, ..setup.clone() };
    let outcome = replay::replay(&floors.readings, &setup);
    match outcome.fired().find(|(_, fired)| fired.trigger == Trigger::Leak) {
        Some((event, fired)) => {
            format!("The bundle's own trigger, leak, fires in its floors.csv at {}: {}.\n", time(event.at), fired.reason)
        }
        None => {
            format!("The bundle's own trigger, leak, does not fire in its floors.csv under these rules. {}.\n", outcome.nearest.join("; "))
        }
    }
}

fn as_text(recorded: &Recorded, outcome: &Outcome, setup: &Setup) -> String {
    let mut text = String::new();
    if !recorded.name.is_empty() {
        text.push_str(&format!("\n{}\n", one_line(&recorded.name, 300)));
    }
    let fired: Vec<SystemTime> = outcome.fired().map(|(event, _)| event.at).collect();
    text.push_str(&format!("\n{}\n", replay::plot::plot(&recorded.readings, outcome.level, &fired)));
    let mut rows = vec![["TIME", "RSS", "STATE", "WHY"].map(String::from).to_vec()];
    for event in &outcome.events {
        let (state, why) = match &event.what {
            What::State(state, why) => (state.name().to_owned(), why.clone()),
            What::Fired { part: 1, fired } => (format!("FIRES {}", fired.trigger.name()), fired.reason.clone()),
            What::Fired { part, fired } => (format!("FIRES {} (part {part})", fired.trigger.name()), fired.reason.clone()),
        };
        rows.push(vec![time(event.at), ByteSize(event.rss).to_string(), state, why]);
    }
    text.extend(paint::table(&rows, 2, terminal_width(), paint::is_wanted(&std::io::stdout())));
    let count = fired.len();
    let bundles = if count == 1 { "1 bundle".to_owned() } else { format!("{count} bundles") };
    text.push_str(&format!("\n{bundles} of {} readings. How near each rule came:\n", recorded.readings.len()));
    outcome.nearest.iter().for_each(|said| text.push_str(&format!("  {}\n", one_line(said, 1000))));
    let gap = replay::typical_gap(&recorded.readings);
    let own = recorded.readings.iter().all(|reading| reading.kept.is_some());
    if gap > setup.interval * 2 && !own {
        text.push_str(&format!(
            "The readings are {} apart; memtrap polls each {}, and may fire up to that much sooner.\n",
            human(gap),
            human(setup.interval)
        ));
    }
    if setup.age.is_some_and(|age| age < setup.rules.warmup) {
        text.push_str("Slopes were ignored during the warmup.\n");
    }
    text
}

fn time(at: SystemTime) -> String {
    rfc3339_seconds(at)
}

fn as_json(recorded: &Recorded, outcome: &Outcome) -> Value {
    let events: Vec<Value> = outcome
        .events
        .iter()
        .map(|event| {
            let (at, rss) = (rfc3339_millis(event.at), event.rss);
            match &event.what {
                What::State(state, why) => json!({ "time": at, "rss_bytes": rss, "state": state, "reason": why }),
                What::Fired { part, fired } => json!({ "time": at, "rss_bytes": rss, "fired": fired, "part": part }),
            }
        })
        .collect();
    json!({ "series": recorded.name, "readings": recorded.readings.len(), "bundles": outcome.fired().count(), "events": events,
            "nearest": outcome.nearest })
}
