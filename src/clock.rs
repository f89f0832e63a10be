//! Time as the core sees it: values handed in, never read.
//!
//! Two clocks, never mixed: [`Mono`] orders and measures (it cannot be set back and does not
//! advance in suspend, as the watched processes do not), `SystemTime` only labels things for people.
//! The shell's edges call [`Mono::now`]; everything inwards takes it as an argument.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// A point on `CLOCK_MONOTONIC`: nanoseconds since boot. It means the same in every process of one boot,
/// so it may be stored, together with the boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(u64);

impl Mono {
    /// Reads the clock.
    pub fn now() -> Mono {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Mono(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
    }

    pub const fn from_nanos(nanos: u64) -> Mono {
        Mono(nanos)
    }

    pub const fn from_millis(millis: u64) -> Mono {
        Mono(millis.saturating_mul(1_000_000))
    }

    pub const fn from_secs(secs: u64) -> Mono {
        Mono(secs.saturating_mul(1_000_000_000))
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The wall-clock time of this point, given one moment read on both clocks.
    pub fn to_wall(self, (mono, wall): (Mono, SystemTime)) -> SystemTime {
        if self <= mono { wall - mono.since(self) } else { wall + self.since(mono) }
    }
}

/// Time since boot, that in suspend included: nobody sets it.
pub fn since_boot() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Reads the wall clock: for labels only, since it can be set back.
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn wall_now() -> SystemTime {
    SystemTime::now()
}

impl std::ops::Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, d: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Mono {
    type Output = Mono;
    fn sub(self, d: Duration) -> Mono {
        Mono(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The end of what these formats can show, in seconds since 1970: that of the year 9999.
const LAST: u64 = 253_402_300_799;

/// So many seconds since 1970; `None` of a number that is no time up to the year 9999.
pub fn unix(seconds: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(seconds).ok().filter(|since| since.as_secs() <= LAST)?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// The nearest time that can be shown: a clock can be set to anything, and a number from outside be any.
fn shown(t: SystemTime) -> SystemTime {
    t.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(LAST))
}

/// `20261123T081336Z`: UTC to the second, sortable, fit for a file name.
pub fn compact_utc(t: SystemTime) -> String {
    rfc3339_seconds(t).replace(['-', ':'], "")
}

/// `2026-11-23T08:13:36Z`.
pub fn rfc3339_seconds(t: SystemTime) -> String {
    humantime::format_rfc3339_seconds(shown(t)).to_string()
}

/// `2026-11-23T08:13:36.123Z`.
pub fn rfc3339_millis(t: SystemTime) -> String {
    humantime::format_rfc3339_millis(shown(t)).to_string()
}

/// A duration as a person writes it, to two units: `1h 5m`, `3s`, `250ms`, `0s`.
pub fn human(d: Duration) -> String {
    let d = if d >= Duration::from_secs(10) {
        Duration::from_secs((d.as_secs_f64()).round() as u64)
    } else {
        Duration::from_millis(d.as_millis() as u64)
    };
    let full = humantime::format_duration(d).to_string();
    full.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_stamp_is_compact_utc() {
        let t = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_421_616);
        assert_eq!(compact_utc(t), "20261123T081336Z");
    }

    #[test]
    fn a_point_before_the_anchor_is_earlier_on_the_wall() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let anchor = (Mono::from_secs(50), wall);
        assert_eq!(Mono::from_secs(40).to_wall(anchor), wall - Duration::from_secs(10));
        assert_eq!(Mono::from_secs(55).to_wall(anchor), wall + Duration::from_secs(5));
    }

    #[test]
    fn every_time_and_every_length_can_be_shown() {
        let (before, after) = (SystemTime::UNIX_EPOCH - Duration::from_secs(9), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60));
        assert_eq!((rfc3339_seconds(before), compact_utc(after)), ("1970-01-01T00:00:00Z".into(), "99991231T235959Z".into()));
        assert!(rfc3339_millis(after).starts_with("9999-"));
        for no_time in [-1.0, f64::NAN, f64::INFINITY, 1e12, 1e19, 1e300] {
            assert_eq!(unix(no_time), None, "{no_time}");
        }
        assert_eq!(unix(9.0), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(9)));
        assert!(human(Duration::MAX).contains("years"));
        assert_eq!(
            (Mono::from_secs(u64::MAX) + Duration::MAX, Mono::from_secs(1) - Duration::MAX),
            (Mono::from_nanos(u64::MAX), Mono::default())
        );
    }

    #[test]
    fn durations_read_like_speech() {
        assert_eq!(human(Duration::from_secs(3_905)), "1h 5m");
        assert_eq!(human(Duration::from_millis(250)), "250ms");
        assert_eq!(human(Duration::from_nanos(12_000_000_123)), "12s");
        assert_eq!(human(Duration::ZERO), "0s");
    }
}
