//! What the values of rules may be, in the file and on the command line.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::clock::human;
use crate::units::{ByteSize, Rate, Share, SizeOrPercent};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

pub const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
pub const ETAS: RangeInclusive<Duration> = Duration::from_secs(1)..=MONTH;
pub const HOLDS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
pub const WARMUPS: RangeInclusive<Duration> = Duration::ZERO..=DAY;
pub const COOLDOWNS: RangeInclusive<Duration> = Duration::ZERO..=MONTH;
/// Fewer readings than this make no slope.
pub const MIN_READINGS: u32 = 5;
/// No Go process is smaller than this.
const MIN_THRESHOLD: ByteSize = ByteSize::mib(1);
/// Less of the CPU than this is what collections cost everywhere.
const MIN_GC_SHARE: f64 = 5.0;
/// Of what the collector takes: over less, one collection decides.
const GC_WINDOWS: RangeInclusive<Duration> = Duration::from_secs(5)..=HOUR;
/// RSS counters lag by a few pages per CPU: a smaller rise cannot be told from that.
const MIN_RISE: ByteSize = ByteSize::kib(64);
/// Floors are kept in units of 64 KiB.
const MIN_LEAK: ByteSize = ByteSize::mib(1);

pub fn check_threshold(level: &SizeOrPercent) -> Result<(), String> {
    match level {
        SizeOrPercent::Size(size) if *size < MIN_THRESHOLD => {
            Err(format!("{size} is below {MIN_THRESHOLD} and would always fire; write a unit, or % for a share of the limit"))
        }
        _ => Ok(()),
    }
}

pub fn check_gc(gc: &Share) -> Result<(), String> {
    match gc.share {
        share if share.value() < MIN_GC_SHARE => {
            Err(format!("{share} of the CPU is what collections cost a healthy process: at least {MIN_GC_SHARE}%"))
        }
        _ if !GC_WINDOWS.contains(&gc.window) => {
            let (window, from, to) = (human(gc.window), human(*GC_WINDOWS.start()), human(*GC_WINDOWS.end()));
            Err(format!("its window, {window}, must be from {from} to {to}"))
        }
        _ => Ok(()),
    }
}

/// The window of `leak`: floors are kept for a month, and a day is what repeats itself.
pub fn check_leak(rate: &Rate) -> Result<(), String> {
    match rate.rise {
        SizeOrPercent::Size(rise) if rise < MIN_LEAK => {
            Err(format!("a rise of {rise} over days is noise: at least {MIN_LEAK}, with its unit"))
        }
        _ if rate.window < DAY => {
            Err(format!("its window, {}, is too short: at least {}; for less there is slope", human(rate.window), human(DAY)))
        }
        _ if rate.window > MONTH => Err(format!("its window, {}, is too long: at most {}", human(rate.window), human(MONTH))),
        _ => Ok(()),
    }
}

pub fn check_rate(rate: &Rate) -> Result<(), String> {
    match rate.rise {
        SizeOrPercent::Size(rise) if rise < MIN_RISE => {
            Err(format!("a rise of {rise} is within the kernel's own inexactness: at least {MIN_RISE}, with its unit"))
        }
        _ if rate.window > DAY => Err(format!("its window, {}, is too long: at most {}", human(rate.window), human(DAY))),
        _ => Ok(()),
    }
}
