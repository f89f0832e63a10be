//! Sizes, percentages and rates: how people write them, how memtrap prints them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A number of bytes. Written `512MiB`, `1.5GiB`, `2GB`, `300000`; printed in IEC units with three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// Longest suffixes first, so that `MiB` is not read as `B`.
const SUFFIXES: [(&str, u64); 14] = [
    ("tib", 1 << 40),
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("tb", 1_000_000_000_000),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("ti", 1 << 40),
    ("gi", 1 << 30),
    ("mi", 1 << 20),
    ("ki", 1 << 10),
    ("b", 1),
    ("", 1),
];

impl ByteSize {
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n << 10)
    }
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(n << 20)
    }
    pub const fn gib(n: u64) -> ByteSize {
        ByteSize(n << 30)
    }
}

/// Why a text is no size, percentage or rate; it names what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

const SIZE_HELP: &str = "a size such as 512MiB, 1.5GiB or 2GB";

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(s: &str) -> Result<ByteSize, UnitError> {
        let bad = |why: &str| UnitError(format!("`{}` is not {SIZE_HELP}{why}", s.trim()));
        let lower = s.trim().to_ascii_lowercase();
        let (number, unit) =
            SUFFIXES.iter().find_map(|(suffix, unit)| lower.strip_suffix(suffix).map(|n| (n.trim_end(), *unit))).ok_or_else(|| bad(""))?;
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(bad(""));
        }
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(ByteSize).ok_or_else(|| bad(": too large"));
        }
        let bytes = number.parse::<f64>().map_err(|_| bad(""))? * unit as f64;
        if bytes < u64::MAX as f64 { Ok(ByteSize(bytes.round() as u64)) } else { Err(bad(": too large")) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        if self.0 < 1024 {
            return f.pad(&format!("{}B", self.0));
        }
        let mut unit = "";
        for u in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            unit = u;
            value /= 1024.0;
            if value < 1023.5 {
                break;
            }
        }
        let text = if value >= 99.95 {
            format!("{value:.0}{unit}")
        } else if value >= 9.995 {
            format!("{value:.1}{unit}")
        } else {
            format!("{value:.2}{unit}")
        };
        f.pad(&text)
    }
}

/// A percentage in (0, 100].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    pub const NINETY: Percent = Percent(90.0);

    /// `None` outside (0, 100].
    pub fn new(value: f64) -> Option<Percent> {
        (value > 0.0 && value <= 100.0).then_some(Percent(value))
    }

    /// This share of `whole`, rounded to a byte.
    pub fn of(self, whole: u64) -> u64 {
        (whole as f64 * self.0 / 100.0).round() as u64
    }

    pub fn value(self) -> f64 {
        self.0
    }

    /// 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Percent {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Percent, UnitError> {
        s.trim()
            .strip_suffix('%')
            .and_then(|n| n.trim_end().parse().ok())
            .and_then(Percent::new)
            .ok_or_else(|| UnitError(format!("`{}` is not a percentage above 0% and up to 100%", s.trim())))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A size, or a share of the instance's limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SizeOrPercent {
    Size(ByteSize),
    Percent(Percent),
}

impl SizeOrPercent {
    /// In bytes; `None` for a percentage while the limit is unknown.
    pub fn resolve(self, limit: Option<u64>) -> Option<u64> {
        match self {
            SizeOrPercent::Size(size) => Some(size.0),
            SizeOrPercent::Percent(share) => limit.map(|limit| share.of(limit)),
        }
    }
}

impl FromStr for SizeOrPercent {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<SizeOrPercent, UnitError> {
        if s.trim().ends_with('%') {
            return s.parse().map(SizeOrPercent::Percent);
        }
        s.parse()
            .map(SizeOrPercent::Size)
            .map_err(|_| UnitError(format!("`{}` is neither {SIZE_HELP} nor a percentage of the limit such as 80%", s.trim())))
    }
}

impl fmt::Display for SizeOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeOrPercent::Size(size) => size.fmt(f),
            SizeOrPercent::Percent(share) => share.fmt(f),
        }
    }
}

/// A rise over a window, `200MiB/10m` or `10%/10m`. The window also sets over how long the slope is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub rise: SizeOrPercent,
    pub window: Duration,
}

impl FromStr for Rate {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Rate, UnitError> {
        let bad = |why: String| UnitError(format!("`{}` is not a rise per window such as 200MiB/10m or 10%/10m{why}", s.trim()));
        let (rise, window) = s.split_once('/').ok_or_else(|| bad(String::new()))?;
        let rise = rise.parse::<SizeOrPercent>().map_err(|e| bad(format!(": {e}")))?;
        let window =
            humantime::parse_duration(window.trim()).map_err(|_| bad(format!(": `{}` is not a time such as 30s or 10m", window.trim())))?;
        if rise == SizeOrPercent::Size(ByteSize(0)) || window.is_zero() {
            return Err(bad(": both must be above zero".into()));
        }
        Ok(Rate { rise, window })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.rise, humantime::format_duration(self.window))
    }
}

/// A share of a window, `40%/30s`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    pub share: Percent,
    pub window: Duration,
}

impl FromStr for Share {
    type Err = UnitError;
    fn from_str(s: &str) -> Result<Share, UnitError> {
        let bad = |why: String| UnitError(format!("`{}` is not a share of a window such as 40%/30s{why}", s.trim()));
        let (share, window) = s.split_once('/').ok_or_else(|| bad(String::new()))?;
        let share = share.parse::<Percent>().map_err(|e| bad(format!(": {e}")))?;
        let window =
            humantime::parse_duration(window.trim()).map_err(|_| bad(format!(": `{}` is not a time such as 30s", window.trim())))?;
        Ok(Share { share, window })
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.share, humantime::format_duration(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("512MiB", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("2GB", 2_000_000_000),
            ("300000", 300_000),
            ("64 kib", 65_536),
            ("1Gi", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1MiB", "1e3", "12 parsecs", "99999999TiB", "NaN", "inf", "1.2.3MB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_three_digits() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.00KiB"), (1_632_087_572, "1.52GiB"), (512 << 20, "512MiB"), (1_073_700_000, "1.00GiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn percentages_are_of_the_limit() {
        let p: SizeOrPercent = "80%".parse().unwrap();
        assert_eq!(p.resolve(Some(1000)), Some(800));
        assert_eq!(p.resolve(None), None);
        for text in ["0%", "101%", "-3%", "x%", "NaN%"] {
            assert!(text.parse::<SizeOrPercent>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_of_a_window() {
        let s: Share = "40%/30s".parse().unwrap();
        assert_eq!((s.share.fraction(), s.window, s.to_string().as_str()), (0.4, Duration::from_secs(30), "40%/30s"));
        for text in ["40%", "40/30s", "0%/30s", "101%/30s", "40%/fortnight", "/30s", "1MiB/30s"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_a_rise_over_a_window() {
        let r: Rate = "200MiB/10m".parse().unwrap();
        assert_eq!(r, Rate { rise: SizeOrPercent::Size(ByteSize::mib(200)), window: Duration::from_secs(600) });
        assert_eq!(r.to_string(), "200MiB/10m");
        for text in ["200MiB", "0/10m", "1MiB/0s", "1MiB/fortnight", "/10m"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
