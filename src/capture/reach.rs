//! How much patience a pprof endpoint still deserves.
//!
//! - At first every step gets the configured timeouts and retries.
//! - Once a step has used up its attempts without a connection, later steps get one attempt with a short connect timeout,
//!   until one is answered.
//! - After two timeouts in a row, whether of one step or of two, later steps get one attempt of ten seconds at most,
//!   until one is answered.
//!
//! So an unreachable or hanging service costs minutes at worst, not steps × retries × 90 s.

use std::time::Duration;

use crate::config::Capture;

const QUICK_CONNECT: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_secs(10);
const PATIENCE: u32 = 2;

/// How an attempt ended, as far as reaching the service goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contact {
    /// It answered something, whatever it was.
    Answered,
    NoConnection,
    TimedOut,
}

/// What the next attempt may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetryBudget {
    pub attempts: u32,
    pub timeout: Duration,
    /// Use the short connect timeout.
    pub quick: bool,
}

#[derive(Debug, Default)]
pub(super) struct Reach {
    unreachable: bool,
    timeouts: u32,
}

pub(super) fn quick_connect(config: &Capture) -> Duration {
    config.connect_timeout.min(QUICK_CONNECT)
}

impl Reach {
    pub fn budget(&self, config: &Capture) -> RetryBudget {
        let hanging = self.timeouts >= PATIENCE;
        RetryBudget {
            attempts: if hanging || self.unreachable { 1 } else { config.retries.saturating_add(1) },
            timeout: if hanging { config.step_timeout.min(SHORT) } else { config.step_timeout },
            quick: self.unreachable,
        }
    }

    /// To be told of every attempt; `last` if its step makes no other.
    pub fn note(&mut self, contact: Contact, last: bool) {
        match contact {
            Contact::Answered => *self = Reach::default(),
            Contact::NoConnection => self.unreachable |= last,
            Contact::TimedOut => self.timeouts += 1,
        }
    }

    /// For the reason of a step that got less than usual.
    pub fn why_brief(&self) -> Option<&'static str> {
        match (self.unreachable, self.timeouts >= PATIENCE) {
            (true, _) => Some("one quick attempt only, as an earlier step could not connect"),
            (_, true) => Some("one short attempt only, as earlier ones timed out"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::tests::settings;

    #[test]
    fn an_unreachable_service_gets_one_quick_attempt_per_step() {
        let config = Capture { retries: 2, ..settings() };
        let mut reach = Reach::default();
        assert_eq!(reach.budget(&config).attempts, 3);
        reach.note(Contact::NoConnection, false);
        assert_eq!(reach.budget(&config).attempts, 3);
        reach.note(Contact::NoConnection, true);
        assert_eq!((reach.budget(&config).attempts, reach.budget(&config).quick), (1, true));
        reach.note(Contact::Answered, true);
        assert_eq!((reach.budget(&config).attempts, reach.budget(&config).quick), (3, false));
    }

    #[test]
    fn a_hanging_service_costs_minutes_at_worst() {
        let config = Capture { retries: 2, step_timeout: Duration::from_secs(90), ..settings() };
        let mut reach = Reach::default();
        let mut waited = Duration::ZERO;
        for _step in 0..12 {
            let mut attempt = 0;
            while attempt < reach.budget(&config).attempts {
                attempt += 1;
                waited += reach.budget(&config).timeout;
                reach.note(Contact::TimedOut, false);
            }
        }
        assert_eq!(waited, Duration::from_secs(2 * 90 + 11 * 10));
    }
}
