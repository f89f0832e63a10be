//! Whether the evidence of an instance could be had now, as it was tried last. A trap that would catch nothing must say so before the night
//! in which it should.
//!
//! Not here: the trying, which asks the service and is done elsewhere.

use std::time::{Duration, SystemTime};

use crate::clock::Mono;
use crate::lang::{Lang, say};
use crate::text::one_line;

/// What a process that has just started gets to open its port.
const SETTLE: Duration = Duration::from_secs(5);
/// After a failure, so that its end is seen.
const AGAIN: Duration = Duration::from_secs(60);
/// An answer that does not come is waited for no longer.
const LOST: Duration = Duration::from_secs(600);
const MAX_WHY: usize = 500;

/// What is said of an instance of which everything could be had.
pub const OK: &str = "ok";

/// Of one instance.
#[derive(Debug)]
pub(super) struct EvidenceCheck {
    due: Mono,
    known: Option<LastCheck>,
}

#[derive(Debug)]
struct LastCheck {
    /// In words, with the URL that was tried; `None`: it could be had.
    why_not: Option<String>,
    since: SystemTime,
}

impl EvidenceCheck {
    /// Of an instance that is seen since `now` and lives since `born`.
    pub fn new(born: Mono, now: Mono) -> EvidenceCheck {
        EvidenceCheck { due: now.max(born + SETTLE), known: None }
    }

    pub fn is_due(&self, now: Mono) -> bool {
        now >= self.due
    }

    /// It is being tried.
    pub fn asked(&mut self, now: Mono) {
        self.due = now + LOST;
    }

    /// Where it is tried has changed.
    pub fn doubt(&mut self) {
        self.due = Mono::default();
    }

    /// Takes what was found; true if it can be had now and could not before, or the other way round.
    pub fn heard(&mut self, found: Result<(), String>, every: Duration, at: SystemTime, now: Mono) -> bool {
        self.due = now + if found.is_ok() { every } else { AGAIN.min(every) };
        let why_not = found.err().map(|why| one_line(&why, MAX_WHY));
        // that it can be had is no news at first
        let before = self.known.as_ref().is_some_and(|known| known.why_not.is_some());
        let changes = before != why_not.is_some();
        let since = self.known.as_ref().filter(|_| !changes).map_or(at, |known| known.since);
        self.known = Some(LastCheck { why_not, since });
        changes
    }

    pub fn why_not(&self) -> Option<&str> {
        self.known.as_ref()?.why_not.as_deref()
    }

    /// [`OK`], or why not and since when; `None` while it is not known.
    pub fn words(&self, lang: Lang) -> Option<String> {
        let known = self.known.as_ref()?;
        let Some(why) = &known.why_not else { return Some(OK.into()) };
        let since = humantime::format_rfc3339_seconds(known.since);
        Some(say!(lang; "{why}, since {since}"; "{why}（自 {since} 起）"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_dated_from_its_beginning() {
        let at = |seconds| (Mono::from_secs(seconds), SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let every = Duration::from_secs(3600);
        let refused = || Err("http://h/debug/pprof: connection refused".to_owned());
        let mut e = EvidenceCheck::new(at(100).0, at(101).0);
        assert!(!e.is_due(at(104).0) && e.is_due(at(105).0) && e.words(Lang::En).is_none());
        let mut hear = |found, seconds| e.heard(found, every, at(seconds).1, at(seconds).0).then(|| e.words(Lang::En).unwrap());
        assert_eq!(hear(Ok(()), 105), None);
        assert_eq!(hear(refused(), 4000).unwrap(), "http://h/debug/pprof: connection refused, since 1970-01-01T01:06:40Z");
        assert_eq!(hear(refused(), 4060), None);
        assert_eq!(hear(Ok(()), 4120).unwrap(), OK);
        assert!(!e.is_due(at(4120 + 3599).0) && e.is_due(at(4120 + 3600).0));
        e.heard(refused(), every, at(9000).1, at(9000).0);
        assert!(e.is_due(at(9060).0), "what failed is tried again soon");
        e.heard(refused(), every, at(9060).1, at(9060).0);
        assert!(e.words(Lang::En).unwrap().ends_with("since 1970-01-01T02:30:00Z"));
    }
}
