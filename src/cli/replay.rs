//! `memtrap replay`: recorded readings against the rules.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::Failure;
use super::rules::RuleArgs;
use crate::bundle::open_named;
use crate::clock::{human, rfc3339_millis, rfc3339_seconds};
use crate::config::{self, Capture};
use crate::layout::columns;
use crate::replay::read::{self, Recorded};
use crate::replay::{self, Outcome, Setup, What};
use crate::text;
use crate::units::ByteSize;

/// Half a year of one series each 15 s, as JSON.
const MAX_FILE: u64 = 64 << 20;
const DAY: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  memtrap replay BUNDLE/timeline.csv --threshold 1.2GiB --slope 200MiB/10m
  memtrap replay rss.csv -c /etc/memtrap/memtrap.toml --target checkout --limit 2GiB
  curl -s 'http://prometheus:9090/api/v1/query_range?query=process_resident_memory_bytes&start=…&end=…&step=15s' > rss.json
  memtrap replay rss.json --threshold 80% --eta 10m --limit 4GiB

A CSV has lines of TIME,RSS: RFC 3339 or seconds since 1970, and bytes or sizes; a first line may name the columns.")]
pub struct Args {
    /// timeline.csv of a bundle, a CSV, or the JSON of a Prometheus range query
    #[arg(value_name = "SERIES")]
    series: PathBuf,
    /// Take the rules of a target of this file
    #[arg(short, long, value_name = "FILE", requires = "target")]
    config: Option<PathBuf>,
    /// Which target's rules
    #[arg(long, value_name = "NAME", requires = "config")]
    target: Option<String>,
    /// The memory limit at that time, for percentages and --eta
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteSize>,
    /// How long the process had been running at the first reading; matters for the warmup
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1day")]
    age: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    rules: RuleArgs,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let setup = setup(&args)?;
    let name = args.series.display();
    let mut text = String::new();
    let opened = open_named(&args.series).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    opened.map_err(|e| Failure::job(format_args!("{name} cannot be read: {e}")))?;
    if text.len() as u64 > MAX_FILE {
        return Err(Failure::job(format_args!("{name} is larger than {}; cut it", ByteSize(MAX_FILE))));
    }
    let recorded = read::read(&text).map_err(|e| Failure::job(format_args!("{name}: {e}")))?;
    let outcomes: Vec<(Recorded, Outcome)> = recorded.into_iter().map(|r| (r.clone(), replay::replay(&r.readings, &setup))).collect();
    if args.json {
        let all: Vec<Value> = outcomes.iter().map(|(recorded, outcome)| as_json(recorded, outcome)).collect();
        return super::print(&(text::json_pretty(&json!({ "schema": 1, "series": all }))? + "\n"));
    }
    outcomes.iter().try_for_each(|(recorded, outcome)| super::print(&as_text(recorded, outcome, &setup)))
}

fn setup(args: &Args) -> Result<Setup, Failure> {
    let limit = args.limit.map(|l| l.0);
    let Some((file, name)) = args.config.as_ref().zip(args.target.as_ref()) else {
        let rules = args.rules.rules().map_err(Failure::usage)?;
        return Ok(Setup { rules, capture: Capture::default(), interval: args.rules.interval, limit, age: args.age });
    };
    if !args.rules.is_none() {
        return Err(Failure::usage("the rules come either from -c FILE, or from --threshold, --slope and --eta"));
    }
    let (config, _) = config::load(file).map_err(|e| Failure::config(e, 2))?;
    let Some(target) = config.targets.iter().find(|t| t.name == *name) else {
        let names: Vec<&str> = config.targets.iter().map(|t| t.name.as_str()).collect();
        return Err(Failure::usage(format_args!("{} has no target `{name}`; there are: {}", file.display(), names.join(", "))));
    };
    Ok(Setup { rules: target.rules.clone(), capture: target.capture.clone(), interval: target.interval, limit, age: args.age })
}

fn as_text(recorded: &Recorded, outcome: &Outcome, setup: &Setup) -> String {
    let mut text = String::new();
    if !recorded.name.is_empty() {
        text.push_str(&format!("\n{}\n", recorded.name));
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
    text.push_str(&columns(&rows));
    let count = fired.len();
    let bundles = if count == 1 { "1 bundle".to_owned() } else { format!("{count} bundles") };
    text.push_str(&format!("\n{bundles} of {} readings. How near each rule came:\n", recorded.readings.len()));
    outcome.nearest.iter().for_each(|said| text.push_str(&format!("  {said}\n")));
    let gap = replay::typical_gap(&recorded.readings);
    if gap > setup.interval * 2 {
        text.push_str(&format!(
            "The readings are {} apart; memtrap polls each {}, and may fire up to that much sooner.\n",
            human(gap),
            human(setup.interval)
        ));
    }
    if setup.age < DAY && setup.age < setup.rules.warmup {
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
