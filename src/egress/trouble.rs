//! What goes wrong again and again: said once, and tried less and less often.

use std::time::Duration;

use super::queue;
use crate::clock::Mono;

/// Failures in a row, of which one line is enough.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    failures: u32,
    why: String,
    /// Nothing is tried before.
    until: Mono,
}

impl Trouble {
    /// How long nothing is to be tried.
    pub fn pause(&self, now: Mono) -> Duration {
        self.until.since(now)
    }

    /// True if this is news.
    pub fn again(&mut self, why: &str, spread: u64, now: Mono) -> bool {
        // sizes, times and ports differ from attempt to attempt
        let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
        let news = self.failures == 0 || self.why != why;
        self.until = now + queue::pause(self.failures, spread);
        self.failures = self.failures.saturating_add(1);
        self.why = why;
        news
    }

    /// The next attempt may be at once, and its end is news in any case.
    pub fn may_be_mended(&mut self) {
        self.until = Mono::default();
        self.why.clear();
    }

    /// How many there were, if there were any.
    pub fn over(&mut self) -> Option<u32> {
        Some(std::mem::take(self).failures).filter(|n| *n > 0)
    }
}

/// Differs between memtraps, and not between runs of one.
pub(super) fn spread(holder: &str) -> u64 {
    holder.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_news_once_and_another_one_again() {
        let mut trouble = Trouble::default();
        let now = Mono::default() + Duration::from_secs(100);
        assert!(trouble.again("refused after 12ms", 1, now));
        assert!(trouble.pause(now) >= Duration::from_secs(5));
        assert!(!trouble.again("refused after 7ms", 1, now), "numbers differ from attempt to attempt");
        assert!(trouble.again("HTTP 500", 1, now));
        trouble.may_be_mended();
        assert_eq!(trouble.pause(now), Duration::ZERO);
        assert!(trouble.again("HTTP 500", 1, now), "asked for anew, told anew");
        assert_eq!((trouble.over(), trouble.over()), (Some(4), None));
    }
}
