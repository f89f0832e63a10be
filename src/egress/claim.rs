//! Who captures an incident that two memtraps see: the decision. Pure; asking the store is `arbiter`'s.
//!
//! Two memtraps that watch the same processes see the same incident, a little apart and by different clocks. Whoever creates the
//! claim, one object, captures; the store's conditional create is the only arbiter. The claim's name is made of what both see alike:
//!
//! ```text
//!   .claims/TARGET/ HASH(target, instance with its start, window) - EPOCH - PART . GENERATION .json
//!
//!   epochs:   ... |<------- 7 ------->|<------- 8 ------->| ...       as wide as the cooldown, 10 min at least
//!   seen at:           ├─±SKEW─┤   ├─±SKEW─┤
//!   to create:             7          7, then 8
//! ```
//!
//! Near a border between two epochs both claims must be created, the lower first. So two memtraps whose sightings are no more than
//! twice SKEW (1 min, clocks and polling together) apart always meet at one name, and one of them loses. One that sees the incident
//! later, because it has just started, finds the claim of this epoch or of a neighbour, as long as the cooldown is not over.
//!
//! A claim says who holds it and until when. Its holder writes into it which bundle came of it, once that is uploaded. Whoever finds a
//! claim without a bundle tries again until it has expired, and then creates the next generation: the holder has died.
//!
//! What this guarantees: of one incident (and stage), no two memtraps that reach the store within the time they have start a capture while the
//! claim is valid, if their clocks and polling differ by less than 1 min in all and they have the same cooldown.
//! What it does not: if the store cannot be reached in time, both capture, because evidence comes first; the later upload then finds the
//! other's claim, and there is still one bundle in the store. If the holder needs longer than [`LIFE`] to upload, or dies, or clocks
//! differ by more, there may be two bundles. If the cooldown is shorter than 10 min, what one memtrap sees again within that
//! time is taken for the other's incident; whoever holds the claim captures each. If the holder dies and the process too before the claim expires, there is none: the other
//! memtrap has its RSS series only. An incident that lasts longer than the cooldown is a new one to a memtrap that has lost its state.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest;

const SCHEMA: u32 = 1;
/// Where claims lie in the store.
pub const CLAIMS: &str = ".claims";
/// Half of what clocks and polling of two memtraps may differ.
const SKEW: Duration = Duration::from_secs(30);
/// How long a holder has for capture and upload before others may take over.
pub const LIFE: Duration = Duration::from_secs(10 * 60);
/// Claims one after the other on one epoch; beyond that the incident is captured without.
pub const GENERATIONS: u32 = 8;

/// A sighting of an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    target: String,
    /// The process or series with its start: the same for everyone who sees it.
    instance: String,
    part: u32,
    at_ms: u64,
    window_ms: u64,
}

/// What lies at a claim's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    schema: u32,
    /// Differs between memtraps, even of one host, and outlives a restart.
    pub holder: String,
    /// For people.
    pub host: String,
    target: String,
    instance: String,
    part: u32,
    /// When the holder saw the incident.
    at_ms: u64,
    pub expires_ms: u64,
    /// What came of it, once it is uploaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bundle: Option<String>,
}

/// What a claim that is there means to someone else's sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// One's own, from before.
    Mine,
    /// The holder is at it.
    Held,
    /// Its bundle is in the store.
    Fulfilled,
    /// The holder has not made it in time.
    Expired,
    /// Of an earlier incident, or no claim at all.
    Other,
}

impl Sighting {
    /// `instance` is what every memtrap calls this process or series, with its start; `cooldown` is the target's.
    pub fn new(target: &str, instance: String, part: u32, at: SystemTime, cooldown: Duration) -> Sighting {
        // a claim that is still valid is in this epoch or the one before
        let window = cooldown.max(LIFE);
        Sighting { target: target.into(), instance, part, at_ms: unix_ms(at), window_ms: window.as_millis() as u64 }
    }

    /// The epochs to claim, in this order: one, or two near a border.
    pub fn epochs(&self) -> std::ops::RangeInclusive<u64> {
        let skew = SKEW.as_millis() as u64;
        self.at_ms.saturating_sub(skew) / self.window_ms..=self.at_ms.saturating_add(skew) / self.window_ms
    }

    /// The epochs before and after those: to be looked at, not to be claimed.
    pub fn neighbours(&self) -> [u64; 2] {
        [self.epochs().start().saturating_sub(1), self.epochs().end().saturating_add(1)]
    }

    /// The claim's name below the prefix; plain path segments.
    pub fn key(&self, epoch: u64, generation: u32) -> String {
        let hash = digest::short(format!("{}\0{}\0{}", self.target, self.instance, self.window_ms), 12);
        format!("{CLAIMS}/{}/{hash}-{epoch}-{}.{generation}.json", self.target, self.part)
    }

    /// A new claim on it.
    pub fn claim(&self, holder: &str, host: &str, now: SystemTime) -> Claim {
        Claim {
            schema: SCHEMA,
            holder: holder.into(),
            host: host.into(),
            target: self.target.clone(),
            instance: self.instance.clone(),
            part: self.part,
            at_ms: self.at_ms,
            expires_ms: unix_ms(now).saturating_add(LIFE.as_millis() as u64),
            bundle: None,
        }
    }

    /// What a claim that was found means to this sighting by `me`; `None` is one that cannot be read.
    pub fn judge(&self, found: Option<&Claim>, me: &str, now: SystemTime) -> Standing {
        let Some(claim) = found.filter(|c| c.schema == SCHEMA) else { return Standing::Other };
        let skew = SKEW.as_millis() as u64;
        // no honest claim lasts longer than this, by clocks that differ as little as they may
        let longest = unix_ms(now).saturating_add(LIFE.as_millis() as u64 + 2 * skew);
        if claim.holder == me {
            Standing::Mine
        } else if claim.bundle.is_some() {
            let same = claim.at_ms.abs_diff(self.at_ms) <= self.window_ms.saturating_sub(2 * skew);
            if same { Standing::Fulfilled } else { Standing::Other }
        } else if claim.expires_ms > longest {
            Standing::Other
        } else if unix_ms(now) > claim.expires_ms.saturating_add(skew) {
            Standing::Expired
        } else {
            Standing::Held
        }
    }
}

impl Claim {
    /// The same, with what came of it.
    pub fn fulfilled(&self, bundle: &str) -> Claim {
        Claim { bundle: Some(bundle.to_owned()), ..self.clone() }
    }
}

fn unix_ms(t: SystemTime) -> u64 {
    t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(900);

    fn at(seconds: u64) -> SystemTime {
        // the beginning of an epoch
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_500_000 + seconds)
    }

    fn seen(seconds: u64) -> Sighting {
        Sighting::new("shop", "boot/7/99".into(), 1, at(seconds), COOLDOWN)
    }

    fn by_b(seconds: u64) -> Claim {
        seen(seconds).claim("b", "host-b", at(seconds))
    }

    #[test]
    fn a_name_depends_on_what_both_see_alike_and_on_nothing_else() {
        let one = seen(100);
        assert_eq!(one.key(7, 1), seen(400).key(7, 1), "not on the moment");
        let other = |target: &str, instance: &str, part| Sighting::new(target, instance.into(), part, at(100), COOLDOWN).key(7, 1);
        let names = [one.key(7, 1), one.key(8, 1), one.key(7, 2), other("shop", "boot/7/98", 1), other("shop", "boot/7/99", 2)];
        assert!(names.iter().enumerate().all(|(i, n)| !names[..i].contains(n)), "{names:?}");
        assert!(names.iter().all(|n| n.starts_with(".claims/shop/")));
        let hostile = Sighting::new("shop", "../../x\n{}".into(), 1, at(0), COOLDOWN).key(1, 1);
        assert!(hostile.bytes().all(|b| b.is_ascii_alphanumeric() || b"./-".contains(&b)), "{hostile}");
    }

    #[test]
    fn near_a_border_both_epochs_are_claimed_the_lower_first() {
        let first = *seen(100).epochs().start();
        assert_eq!(seen(450).epochs(), first..=first);
        assert_eq!(seen(880).epochs(), first..=first + 1);
        assert_eq!(seen(910).epochs(), first..=first + 1);
        assert_eq!(seen(931).epochs(), first + 1..=first + 1);
        assert_eq!(seen(450).neighbours(), [first - 1, first + 1]);
    }

    #[test]
    fn a_claim_is_anothers_until_it_is_fulfilled_or_has_expired() {
        let claim = by_b(100);
        let judge = |claim: &Claim, sighted: u64, now: u64| seen(sighted).judge(Some(claim), "a", at(now));
        assert_eq!(judge(&claim, 101, 101), Standing::Held);
        assert_eq!(judge(&claim, 101, 100 + LIFE.as_secs() + 29), Standing::Held, "clocks differ");
        assert_eq!(judge(&claim, 101, 100 + LIFE.as_secs() + 31), Standing::Expired);
        let fulfilled = Claim { bundle: Some("shop/x".into()), ..claim.clone() };
        assert_eq!(judge(&fulfilled, 101, 5_000), Standing::Fulfilled);
        assert_eq!(seen(101).judge(Some(&claim), "b", at(9_999)), Standing::Mine, "a restart does not lose it");
    }

    #[test]
    fn a_claim_for_ever_holds_nobody() {
        let claim = Claim { expires_ms: u64::MAX, ..by_b(100) };
        assert_eq!(seen(100).judge(Some(&claim), "a", at(100)), Standing::Other);
        assert_eq!(seen(100).judge(Some(&by_b(160)), "a", at(100)), Standing::Held, "its clock may be a minute ahead");
    }

    #[test]
    fn one_that_starts_in_the_middle_of_an_incident_finds_the_claim_and_a_new_incident_is_a_new_one() {
        let fulfilled = Claim { bundle: Some("shop/x".into()), ..by_b(100) };
        assert_eq!(seen(800).judge(Some(&fulfilled), "a", at(800)), Standing::Fulfilled);
        assert_eq!(seen(100 + 900).judge(Some(&fulfilled), "a", at(1000)), Standing::Other, "the cooldown is over");
        assert_eq!(seen(100).judge(None, "a", at(100)), Standing::Other);
    }

    #[test]
    fn without_a_cooldown_there_is_still_a_window() {
        let one = Sighting::new("shop", "i".into(), 1, at(10), Duration::ZERO);
        let other = Sighting::new("shop", "i".into(), 1, at(50), Duration::ZERO);
        assert!(one.epochs().any(|e| other.epochs().any(|o| o == e)));
        assert_eq!(other.judge(Some(&one.claim("b", "b", at(10))), "a", at(50)), Standing::Held);
    }

    proptest! {
        /// Two sightings no more than a minute apart always meet at one name, whatever the cooldown and wherever the borders are.
        #[test]
        fn sightings_within_the_skew_meet(start in 1_000_000u64..4_000_000_000, apart in 0u64..=60_000, cooldown in 0u64..100_000) {
            let sighted = |ms: u64| {
                let t = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
                Sighting::new("t", "i".into(), 1, t, Duration::from_secs(cooldown))
            };
            let (one, other) = (sighted(start + 60_000), sighted(start + 60_000 + apart));
            prop_assert!(one.epochs().any(|e| other.epochs().contains(&e)), "{:?} {:?}", one.epochs(), other.epochs());
            prop_assert!(one.epochs().count() <= 2);
            let claim = one.claim("b", "b", SystemTime::UNIX_EPOCH + Duration::from_millis(start));
            let met = other.judge(Some(&claim), "a", SystemTime::UNIX_EPOCH + Duration::from_millis(start));
            prop_assert_eq!(met, Standing::Held);
        }
    }
}
