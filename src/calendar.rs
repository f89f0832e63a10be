//! Whether the wall clock can be believed when something is to be deleted for its age.
//!
//! A clock that was set years ahead makes everything old. So the clock is held against the time since boot, which nobody sets and which
//! goes on in suspend; across a boot, against the last time that memtrap noted. A clock that has jumped is doubted until it has gone on
//! steadily for a day, whatever restarts meanwhile. Not here: what is deleted (`retention`, `capture::baseline`).

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::aside::may_block;
use crate::clock::{human, rfc3339_millis};
use crate::disk::Dir;
use crate::meters::Meters;

/// Corrections by less than this are usual.
const TOLERANCE: Duration = Duration::from_secs(3_600);
/// How long a clock must go on steadily before it is believed again; over a longer time that nobody has seen, it may have jumped.
const STEADY: Duration = Duration::from_secs(86_400);
const FILE: &str = "clock.json";
const MAX_BYTES: u64 = 4 << 10;

/// What is known of the clock; stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ledger {
    boot_id: String,
    /// One moment on both clocks: the time since boot, and since 1970. It stays while the two go on together.
    anchor: (Duration, Duration),
    /// The time since boot when it was looked at last.
    seen: Duration,
    /// For how long the clock must still go on before it is believed.
    doubted: Duration,
}

impl Ledger {
    /// The time since 1970 that the clock must show when the time since boot is `up`.
    fn expected(&self, up: Duration) -> Duration {
        self.anchor.1.saturating_add(up.saturating_sub(self.anchor.0))
    }

    /// Looks at the clock: what is known now, and where the clock should have stood if it has jumped. `trace` is the last time that was
    /// noted elsewhere, for a memtrap that has no ledger yet.
    fn look(known: Option<Ledger>, trace: Option<Duration>, boot_id: &str, up: Duration, unix: Duration) -> (Ledger, Option<Duration>) {
        let fresh = |doubted| Ledger { boot_id: boot_id.to_owned(), anchor: (up, unix), seen: up, doubted };
        match known {
            Some(known) if known.boot_id == boot_id => {
                let expected = known.expected(up);
                if unix.abs_diff(expected) > TOLERANCE {
                    return (fresh(STEADY), Some(expected));
                }
                let doubted = known.doubted.saturating_sub(up.saturating_sub(known.seen));
                (Ledger { seen: up, doubted, ..known }, None)
            }
            known => {
                let last = known.as_ref().map(|known| known.expected(known.seen)).max(trace);
                let doubted = known.map_or(Duration::ZERO, |known| known.doubted);
                let jumped = |last: &Duration| unix + TOLERANCE < *last || unix > *last + STEADY;
                match last.filter(jumped) {
                    Some(last) => (fresh(STEADY), Some(last)),
                    None => (fresh(doubted), None),
                }
            }
        }
    }
}

/// The daemon's: it remembers over restarts.
#[derive(Debug)]
pub struct Calendar {
    state_dir: PathBuf,
    boot_id: String,
    trace: Option<Duration>,
    known: Mutex<Option<Ledger>>,
    meters: Meters,
}

impl Calendar {
    /// Takes up what was noted in `state_dir`. `trace`: when memtrap last noted anything, as the clock was then. Blocks on the disk.
    pub fn open(state_dir: &Path, boot_id: &str, trace: Option<SystemTime>, meters: Meters) -> Calendar {
        may_block();
        let mut text = Vec::new();
        // without it, the trace counts
        let opened = Dir::open(state_dir).and_then(|dir| dir.own_file(FILE));
        let read = opened.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
        let known = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
        Calendar {
            state_dir: state_dir.to_owned(),
            boot_id: boot_id.to_owned(),
            trace: trace.map(since_1970),
            known: Mutex::new(known),
            meters,
        }
    }

    /// Whether ages by the wall clock are to be believed, `up` after boot, when that clock shows `now`. Says so if the clock has jumped. Blocks
    /// on the disk.
    pub fn is_believed(&self, up: Duration, now: SystemTime) -> bool {
        may_block();
        let mut kept = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.take();
        let stored = known.clone();
        let (ledger, jumped) = Ledger::look(known, self.trace, &self.boot_id, up, since_1970(now));
        if let Some(expected) = jumped {
            let by = human(since_1970(now).abs_diff(expected));
            tracing::warn!(
                clock = rfc3339_millis(now),
                expected = rfc3339_millis(SystemTime::UNIX_EPOCH + expected),
                by,
                "the clock may have jumped; nothing is deleted for its age before it has gone on steadily for a day"
            );
        }
        let believed = ledger.doubted.is_zero();
        self.meters.clock_doubted(!believed);
        let is_news = stored.is_none_or(|stored| {
            stored.anchor != ledger.anchor || stored.doubted != ledger.doubted || ledger.seen.saturating_sub(stored.seen) > TOLERANCE
        });
        if is_news && let Err(error) = self.store(&ledger) {
            tracing::warn!(%error, path = %self.state_dir.join(FILE).display(), "what is known of the clock could not be stored; a restart forgets it");
        }
        *kept = Some(ledger);
        believed
    }

    fn store(&self, ledger: &Ledger) -> io::Result<()> {
        let text = serde_json::to_vec(ledger)?;
        Dir::open(&self.state_dir)?.replace(FILE, |file| file.write_all(&text))
    }
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = STEADY;
    const START: Duration = Duration::from_secs(1_795_421_616);
    const YEARS: Duration = Duration::from_secs(5 * 365 * 86_400);

    /// Looks in this order: which boot, how long after it, what the clock shows; whether it was believed each time.
    fn believed(trace: Option<Duration>, looks: &[(&str, Duration, Duration)]) -> Vec<bool> {
        let dir = tempfile::tempdir().unwrap();
        let look = |(boot, up, unix): &(&str, Duration, Duration)| {
            let trace = trace.map(|trace| SystemTime::UNIX_EPOCH + trace);
            // a restart of memtrap each time
            Calendar::open(dir.path(), boot, trace, Meters::default()).is_believed(*up, SystemTime::UNIX_EPOCH + *unix)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_clock_that_jumps_is_doubted_for_a_day_whichever_way_and_however_often_memtrap_restarts() {
        let at = |hours: u32| HOUR * hours;
        let steady = [("a", at(1), START), ("a", at(2), START + at(1)), ("a", at(400), START + at(399))];
        assert_eq!(believed(None, &steady), [true; 3]);
        let jump = |to: Duration| [("a", at(1), START), ("a", at(2), to), ("a", at(25), to + at(23)), ("a", at(26), to + at(24))];
        assert_eq!(believed(None, &jump(START + YEARS)), [true, false, false, true]);
        assert_eq!(believed(None, &jump(START - YEARS)), [true, false, false, true]);
        let back = [("a", at(1), START), ("a", at(2), START + YEARS), ("a", at(25), START + at(24)), ("a", at(27), START + at(26))];
        assert_eq!(believed(None, &back), [true, false, false, false], "it has jumped again");
    }

    #[test]
    fn many_small_jumps_add_up_to_a_large_one() {
        let looks: Vec<_> = (0..4).map(|n| ("a", HOUR * n, START + HOUR * n + Duration::from_secs(1_500) * n)).collect();
        assert_eq!(believed(None, &looks), [true, true, true, false]);
    }

    #[test]
    fn across_boots_the_last_time_that_was_noted_counts() {
        assert_eq!(believed(None, &[("a", HOUR, START), ("b", HOUR, START + HOUR * 2)]), [true, true]);
        assert_eq!(believed(None, &[("a", HOUR, START), ("b", HOUR, START + DAY * 2)]), [true, false], "off for days, or set ahead?");
        assert_eq!(believed(None, &[("a", HOUR, START), ("b", HOUR, START - HOUR * 2)]), [true, false]);
        let doubted = [("a", HOUR, START), ("a", HOUR * 2, START + YEARS), ("b", HOUR, START + YEARS + HOUR)];
        assert_eq!(believed(None, &doubted), [true, false, false], "a boot makes no wrong clock right");
    }

    #[test]
    fn a_memtrap_that_has_noted_nothing_of_the_clock_looks_at_when_its_state_was_stored() {
        assert_eq!(believed(Some(START), &[("a", HOUR, START + HOUR)]), [true]);
        assert_eq!(believed(Some(START), &[("a", HOUR, START + YEARS)]), [false]);
        assert_eq!(believed(None, &[("a", HOUR, START + YEARS)]), [true], "the first start ever");
    }

    #[test]
    fn suspend_is_no_jump() {
        // both clocks go on
        assert_eq!(believed(None, &[("a", HOUR, START), ("a", DAY * 9, START + DAY * 9 - HOUR)]), [true, true]);
    }
}
