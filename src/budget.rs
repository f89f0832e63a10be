//! The budget that the captures of all targets share. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{self, Mono};

/// What all targets together may do: captures at once, and in any sliding hour.
#[derive(Clone, Debug)]
pub struct Budget {
    concurrent: usize,
    per_hour: usize,
    running: usize,
    started: VecDeque<Mono>,
}

/// Why there is no place: which bound of the configuration is reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spent {
    #[error("{0} captures are running, as many as max_concurrent_captures allows")]
    Concurrent(usize),
    #[error("{captures} captures in the last hour, as many as max_captures_per_hour allows; next in {}", clock::human(*.free))]
    PerHour {
        captures: usize,
        /// The next place is free after this.
        free: Duration,
    },
}

impl Spent {
    /// The bound's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Spent::Concurrent(_) => "max_concurrent_captures",
            Spent::PerHour { .. } => "max_captures_per_hour",
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl Budget {
    pub fn new(concurrent: usize, per_hour: usize) -> Budget {
        Budget { concurrent, per_hour, running: 0, started: VecDeque::new() }
    }

    /// Other bounds for what is counted already.
    pub fn change(&mut self, concurrent: usize, per_hour: usize) {
        (self.concurrent, self.per_hour) = (concurrent, per_hour);
    }

    /// Takes a place for a capture that starts now, or says why there is none. What cannot wait, because its process is gone, and
    /// asks nothing of a service, is not held up by other captures.
    pub fn admit(&mut self, can_wait: bool, now: Mono) -> Result<(), Spent> {
        while self.started.front().is_some_and(|t| now.since(*t) >= HOUR) {
            self.started.pop_front();
        }
        if can_wait && self.running >= self.concurrent {
            return Err(Spent::Concurrent(self.running));
        }
        if self.started.len() >= self.per_hour {
            let free = self.started.front().map_or(HOUR, |t| HOUR.saturating_sub(now.since(*t)));
            return Err(Spent::PerHour { captures: self.per_hour, free });
        }
        self.running += 1;
        self.started.push_back(now);
        Ok(())
    }

    /// A capture that was admitted at `started` has ended; one that saved nothing is not counted.
    pub fn finished(&mut self, started: Mono, saved: bool) {
        self.running = self.running.saturating_sub(1);
        if !saved && let Some(i) = self.started.iter().position(|t| *t == started) {
            self.started.remove(i);
        }
    }

    /// How long ago the counted captures started.
    pub fn save(&self, now: Mono) -> Vec<Duration> {
        self.started.iter().map(|t| now.since(*t)).filter(|d| *d < HOUR).collect()
    }

    pub fn restore(&mut self, ages: &[Duration], elapsed: Duration, now: Mono) {
        // a saturated subtraction on a freshly booted host makes a capture look younger: the safe side
        self.started = ages.iter().map(|age| age.saturating_add(elapsed)).filter(|age| *age < HOUR).map(|age| now - age).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hourly_budget_slides_and_refunds() {
        let mut b = Budget::new(10, 2);
        let t = Mono::from_secs;
        b.admit(true, t(0)).unwrap();
        b.admit(true, t(1800)).unwrap();
        assert!(b.admit(true, t(3599)).unwrap_err().to_string().contains("next in 1s"));
        b.admit(true, t(3600)).unwrap();
        b.finished(t(3600), false);
        b.admit(true, t(3601)).unwrap();
        assert!(b.admit(true, t(3602)).is_err());
        let mut after = Budget::new(10, 2);
        after.restore(&b.save(t(3602)), Duration::from_secs(1000), t(10));
        assert!(after.admit(true, t(10)).is_err(), "a restart does not refill it");
    }

    #[test]
    fn what_cannot_wait_runs_beside_the_others_but_is_counted() {
        let mut b = Budget::new(1, 2);
        let now = Mono::from_secs(0);
        b.admit(true, now).unwrap();
        assert_eq!(b.admit(true, now), Err(Spent::Concurrent(1)));
        b.admit(false, now).unwrap();
        assert!(matches!(b.admit(false, now), Err(Spent::PerHour { .. })));
    }
}
