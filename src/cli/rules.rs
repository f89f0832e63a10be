//! The rules of a target as flags, for commands that take none from a file.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::human;
use crate::config::{self, Rules};
use crate::units::{Rate, Share, SizeOrPercent};

#[derive(Debug, Clone, clap::Args)]
pub struct RuleArgs {
    /// Capture when RSS reaches this: a size, or a percentage of the limit
    #[arg(long, value_name = "SIZE", help_heading = "When", value_parser = checked(config::check_threshold))]
    pub threshold: Vec<SizeOrPercent>,
    /// Capture when RSS rises this much over this window
    #[arg(long, value_name = "SIZE/TIME", help_heading = "When", value_parser = checked(config::check_rate))]
    pub slope: Option<Rate>,
    /// Capture when the limit would be reached within this time
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = within(config::ETAS))]
    pub eta: Option<Duration>,
    /// Capture when the garbage collector takes this share of the process's CPU over this window, for want of room
    #[arg(long, value_name = "PERCENT/TIME", help_heading = "When", value_parser = checked(config::check_gc))]
    pub gc: Option<Share>,
    /// Capture when the floor of RSS rises this much over days
    #[arg(long, value_name = "SIZE/TIME", help_heading = "When", value_parser = checked(config::check_leak))]
    pub leak: Option<Rate>,
    /// How long a rule must hold
    #[arg(long = "for", help_heading = "When", value_name = "TIME", value_parser = within(config::HOLDS), default_value = "3s")]
    pub hold: Duration,
    /// Slopes are ignored this long after the process started
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = within(config::WARMUPS), default_value = "60s")]
    pub warmup: Duration,
    /// No further bundle for this long
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = within(config::COOLDOWNS), default_value = "15m")]
    pub cooldown: Duration,
    /// How often RSS is read
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = within(config::INTERVALS), default_value = "1s")]
    pub interval: Duration,
}

impl RuleArgs {
    pub fn is_none(&self) -> bool {
        self.threshold.is_empty() && self.slope.is_none() && self.eta.is_none() && self.gc.is_none() && self.leak.is_none()
    }

    /// The rules, if they fit together.
    pub fn rules(&self) -> Result<Rules, &'static str> {
        if self.is_none() {
            return Err("nothing to watch for: give --threshold, --slope, --eta, --gc or --leak");
        }
        if self.slope.is_some_and(|rate| rate.window < self.interval * config::MIN_READINGS) {
            return Err("--slope: the window must be at least five --interval long");
        }
        Ok(Rules {
            threshold: self.threshold.clone(),
            slope: self.slope,
            eta: self.eta,
            gc: self.gc,
            leak: self.leak,
            hold: self.hold,
            warmup: self.warmup,
            cooldown: self.cooldown,
            ..Rules::default()
        })
    }
}

/// Reads what the configuration would take.
fn checked<T: FromStr<Err: Display>>(check: fn(&T) -> Result<(), String>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let value = text.parse().map_err(|e: T::Err| e.to_string())?;
        check(&value).map(|()| value)
    }
}

pub(super) fn within(allowed: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let what = format!("a time from {} to {} such as 500ms, 5s or 10m", human(*allowed.start()), human(*allowed.end()));
        match humantime::parse_duration(text) {
            Ok(duration) if allowed.contains(&duration) => Ok(duration),
            Ok(_) => Err(format!("out of range: expected {what}")),
            Err(_) => Err(format!("not {what}")),
        }
    }
}

/// A whole number in this range; `for_example` is one.
pub(super) fn whole<T>(allowed: RangeInclusive<T>, for_example: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| {
        let number = text.parse::<T>().ok().filter(|number| allowed.contains(number));
        number.ok_or_else(|| format!("not a whole number from {} to {} such as {for_example}", allowed.start(), allowed.end()))
    }
}
