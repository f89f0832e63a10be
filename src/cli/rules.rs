//! The rules of a target as flags, for commands that take none from a file.

use std::time::Duration;

use crate::config::{self, Rules};
use crate::units::{Rate, SizeOrPercent};

#[derive(Debug, Clone, clap::Args)]
pub struct RuleArgs {
    /// Capture when RSS reaches this: a size, or a percentage of the limit
    #[arg(long, value_name = "SIZE", help_heading = "When")]
    pub threshold: Vec<SizeOrPercent>,
    /// Capture when RSS rises this much over this window
    #[arg(long, value_name = "SIZE/TIME", help_heading = "When")]
    pub slope: Option<Rate>,
    /// Capture when the limit would be reached within this time
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub eta: Option<Duration>,
    /// How long a rule must hold
    #[arg(long = "for", help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "3s")]
    pub hold: Duration,
    /// Slopes are ignored this long after the process started
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    pub warmup: Duration,
    /// No further bundle for this long
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "15m")]
    pub cooldown: Duration,
    /// How often RSS is read
    #[arg(long, help_heading = "When", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "1s")]
    pub interval: Duration,
}

impl RuleArgs {
    pub fn is_none(&self) -> bool {
        self.threshold.is_empty() && self.slope.is_none() && self.eta.is_none()
    }

    /// The rules, and what a configuration file's validation would say of them.
    pub fn rules(&self) -> Result<Rules, &'static str> {
        if self.is_none() {
            return Err("nothing to watch for: give --threshold, --slope or --eta");
        }
        if !config::INTERVALS.contains(&self.interval) {
            return Err("--interval: allowed are 100ms to 1h");
        }
        if self.slope.is_some_and(|rate| rate.window < self.interval * 5) {
            return Err("--slope: the window must be at least five --interval long");
        }
        Ok(Rules {
            threshold: self.threshold.clone(),
            slope: self.slope,
            eta: self.eta,
            hold: self.hold,
            warmup: self.warmup,
            cooldown: self.cooldown,
            ..Rules::default()
        })
    }
}
