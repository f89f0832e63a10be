//! No line of the log without bound: what anybody can cause, by alerts, by processes of the right name, by what a server says, must not
//! fill a disk.
//!
//! Each place in the code that logs has a number of lines that it may write at once, and gets them back slowly. What is left out is
//! counted, and said by [`say_left_out`]. Those places also say things once per change where they can; this holds where they cannot.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

use crate::clock::Mono;

/// As many targets may start or end at one moment.
const AT_ONCE: u64 = 1_000;
/// Then one line in this time.
const ONE_EACH: Duration = Duration::from_secs(5);
const TELL_EVERY: Duration = Duration::from_secs(60);

static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Lets lines through, each place's own share of them.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<HashMap<Identifier, Share>>);

/// What one place may still write.
#[derive(Debug, Default)]
struct Share {
    used: u64,
    /// Up to when lines were given back.
    since: Mono,
}

impl Share {
    fn take(&mut self, now: Mono) -> bool {
        let back = u64::try_from(now.since(self.since).as_nanos() / ONE_EACH.as_nanos()).unwrap_or(u64::MAX);
        if back > 0 {
            self.used = self.used.saturating_sub(back);
            self.since = now;
        }
        let may = self.used < AT_ONCE;
        self.used += u64::from(may);
        may
    }
}

impl<S: Subscriber> Filter<S> for Quiet {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = shares.entry(event.metadata().callsite()).or_default().take(Mono::now());
        drop(shares);
        LEFT_OUT.fetch_add(u64::from(!may), Ordering::Relaxed);
        may
    }
}

/// Says now and then how much was left out. Never ends.
pub async fn say_left_out() {
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let lines = LEFT_OUT.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(lines, "lines of this log were left out: something happens too often to be told each time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_logs_without_end_is_cut_to_its_share_and_comes_back() {
        let mut share = Share::default();
        let start = Mono::from_secs(10_000);
        let written = (0..100_000).filter(|_| share.take(start)).count() as u64;
        assert_eq!(written, AT_ONCE);
        // an hour later: as many as the hour has given back
        let later = Mono::from_secs(13_600);
        let written = (0..100_000).filter(|_| share.take(later)).count() as u64;
        assert_eq!(written, 3_600 / ONE_EACH.as_secs());
    }
}
