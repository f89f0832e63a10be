//! What services say of themselves in numbers: expositions, and answers of the Prometheus query API. Pure: bytes in, values out.
//!
//! Everything here comes from outside and may lie: a value that is no RSS is a reason, never a number. Not here: who asks whom and
//! when (`source`), and what a reading means for an incident (`poll`).

mod collector;
pub mod exposition;
mod gostats;
mod labels;
pub mod query;

use serde::{Deserialize, Serialize};

pub use collector::CollectorSaid;
pub use labels::{MAX_SERIES_TEXT, canonical, label_for_people};

/// The usual name of a process's RSS, as every official client library exposes it.
pub const RSS: &str = "process_resident_memory_bytes";
/// When the process started, in seconds since 1970.
pub const START_TIME: &str = "process_start_time_seconds";

/// No process has more memory than this.
const MAX_BYTES: f64 = (1u64 << 57) as f64;

/// Which series of a page is meant: the one of this name that has at least these labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pick {
    pub metric: String,
    /// An empty value means that the label is absent or empty, as in PromQL.
    pub labels: Vec<(String, String)>,
}

impl std::fmt::Display for Pick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut labels = String::new();
        if !self.labels.is_empty() {
            canonical(self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())), &mut labels);
        }
        write!(f, "{}{labels}", self.metric)
    }
}

/// Why a number is no size of a living process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    #[error("the value is NaN")]
    Nan,
    #[error("the value is negative")]
    Negative,
    #[error("the value is zero, which no living process has")]
    Zero,
    #[error("the value is larger than any process can be")]
    TooLarge,
}

/// A size in bytes.
pub fn bytes(value: f64) -> Result<u64, BadValue> {
    match value {
        v if v.is_nan() => Err(BadValue::Nan),
        v if v < 0.0 => Err(BadValue::Negative),
        v if v > MAX_BYTES => Err(BadValue::TooLarge),
        v if v < 1.0 => Err(BadValue::Zero),
        v => Ok(v as u64),
    }
}

/// A limit in bytes. `None`: what says so writes "no limit" that way (0, +Inf, or a number near 2^63).
pub fn limit(value: f64) -> Result<Option<u64>, BadValue> {
    match bytes(value) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(BadValue::Zero | BadValue::TooLarge) => Ok(None),
        Err(bad) => Err(bad),
    }
}

/// A start time in milliseconds since 1970; `None` for what cannot be one.
pub fn start_time(seconds: f64) -> Option<u64> {
    // up to the year 5138
    (seconds > 0.0 && seconds < 1e11).then_some((seconds * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_process_can_have_is_no_size() {
        assert_eq!(bytes(1.5e9), Ok(1_500_000_000));
        for (value, why) in [
            (f64::NAN, BadValue::Nan),
            (-1.0, BadValue::Negative),
            (f64::NEG_INFINITY, BadValue::Negative),
            (0.0, BadValue::Zero),
            (-0.0, BadValue::Zero),
            (f64::INFINITY, BadValue::TooLarge),
            (9.2e18, BadValue::TooLarge),
        ] {
            assert_eq!(bytes(value), Err(why), "{value}");
        }
    }

    #[test]
    fn the_ways_to_write_no_limit_are_no_limit() {
        for none in [0.0, f64::INFINITY, 9_223_372_036_854_771_712.0] {
            assert_eq!(limit(none), Ok(None));
        }
        assert_eq!(limit(4096.0), Ok(Some(4096)));
        assert!(limit(f64::NAN).is_err() && limit(-5.0).is_err());
    }

    #[test]
    fn a_start_time_is_a_moment() {
        assert_eq!(start_time(1_795_421_616.25), Some(1_795_421_616_250));
        for bad in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
            assert_eq!(start_time(bad), None);
        }
    }
}
