//! Claims in the store: what [`claim`](super::claim) decides, carried out with conditional creates.

use std::time::SystemTime;

use object_store::{ObjectStoreExt, PutMode, PutOptions};

use super::claim::{CLAIMS, Claim, GENERATIONS, Sighting, Standing};
use super::store::{Store, StoreError, reason};

/// A claim is some hundred bytes.
const MAX_CLAIM: u64 = 64 << 10;

/// Who asks: its own, lasting name, and the host for people.
#[derive(Clone, Debug)]
pub struct Claimant {
    pub holder: String,
    pub host: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// To be captured and uploaded by who asked.
    Ours(Held),
    Theirs(Theirs),
}

/// Claims that one holds: their names, and what stands in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held(Vec<(String, Claim)>);

/// Another memtrap has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theirs {
    pub host: String,
    /// Its bundle, once that is in the store; until then the holder may still fail.
    pub bundle: Option<String>,
}

/// Claims an incident, or finds out who has it. A handful of small requests, bounded by the caller's patience.
///
/// If the future is dropped, a claim may have been made; it is one's own when asked again, and expires for others.
pub async fn claim(store: &Store, seen: &Sighting, me: &Claimant, now: SystemTime) -> Result<Claimed, StoreError> {
    let [before, after] = seen.neighbours();
    let (before, after) = tokio::join!(standing(store, seen, before, me, now), standing(store, seen, after, me, now));
    if let Some(theirs) = before?.or(after?) {
        return Ok(Claimed::Theirs(theirs));
    }
    let mut held = Held::default();
    for epoch in seen.epochs() {
        match take(store, seen, epoch, me, now).await {
            Ok(ClaimResult::Ours(name, claim)) => held.0.push((name, claim)),
            Ok(ClaimResult::Free) => {}
            Ok(ClaimResult::Theirs(theirs)) => {
                release(store, &held).await;
                return Ok(Claimed::Theirs(theirs));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Claimed::Ours(held))
}

/// Notes in the claims which bundle came of them.
pub async fn fulfil(store: &Store, held: &Held, bundle: &str) -> Result<(), StoreError> {
    for (name, claim) in &held.0 {
        put(store, name, &claim.fulfilled(bundle), PutMode::Overwrite).await.map_err(said)?;
    }
    Ok(())
}

/// Tries what uploads and, with `claims`, claims need of the store: writing, reading, and creating only what is not there.
/// Leaves nothing behind, unless it may not delete.
pub async fn probe(store: &Store, claims: bool, me: &str) -> Result<(), StoreError> {
    let path = store.path(&format!("{CLAIMS}/probe-{me}"));
    let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    store.objects.put(&path, "memtrap".into()).await.map_err(said)?;
    let read = store.objects.get_range(&path, 0..7).await;
    let again = if claims { Some(store.objects.put_opts(&path, "again".into(), create).await) } else { None };
    // the right to delete is needed only to tidy up
    let _ = store.objects.delete(&path).await;
    read.map_err(said)?;
    match again {
        None | Some(Err(object_store::Error::AlreadyExists { .. })) => Ok(()),
        Some(Ok(_)) => {
            Err(StoreError("the store overwrites what was to be created only once: it cannot arbitrate; set claim = false".into()))
        }
        Some(Err(error)) => Err(said(error)),
    }
}

enum ClaimResult {
    Ours(String, Claim),
    Theirs(Theirs),
    /// So many have failed at it that nobody waits for anybody any more.
    Free,
}

async fn take(store: &Store, seen: &Sighting, epoch: u64, me: &Claimant, now: SystemTime) -> Result<ClaimResult, StoreError> {
    let ours = seen.claim(&me.holder, &me.host, now);
    let mut generation = 1;
    while generation <= GENERATIONS {
        let name = seen.key(epoch, generation);
        match put(store, &name, &ours, PutMode::Create).await {
            Ok(()) => return Ok(ClaimResult::Ours(name, ours)),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(said(error)),
        }
        let found = get(store, &name).await?;
        let found = found.as_ref();
        match (seen.judge(found, &me.holder, now), found) {
            (Standing::Held | Standing::Fulfilled, Some(claim)) => return Ok(ClaimResult::Theirs(theirs(claim))),
            // one's own counts unless somebody has taken over meanwhile
            (Standing::Mine, _) if get(store, &seen.key(epoch, generation + 1)).await?.is_none() => {
                put(store, &name, &ours, PutMode::Overwrite).await.map_err(said)?;
                return Ok(ClaimResult::Ours(name, ours));
            }
            _ => generation += 1,
        }
    }
    Ok(ClaimResult::Free)
}

/// Whoever holds an epoch that is only looked at.
async fn standing(store: &Store, seen: &Sighting, epoch: u64, me: &Claimant, now: SystemTime) -> Result<Option<Theirs>, StoreError> {
    for generation in 1..=GENERATIONS {
        let Some(claim) = get(store, &seen.key(epoch, generation)).await? else { break };
        if let Standing::Held | Standing::Fulfilled = seen.judge(Some(&claim), &me.holder, now) {
            return Ok(Some(theirs(&claim)));
        }
    }
    Ok(None)
}

/// Best effort: what stays expires.
async fn release(store: &Store, held: &Held) {
    for (name, _) in &held.0 {
        if let Err(error) = store.objects.delete(&store.path(name)).await {
            tracing::debug!(name, error = reason(&error), "a claim that is of no use stays until it expires");
        }
    }
}

fn theirs(claim: &Claim) -> Theirs {
    Theirs { host: crate::text::one_line(&claim.host, 100), bundle: claim.bundle.as_deref().map(|b| crate::text::one_line(b, 250)) }
}

async fn put(store: &Store, name: &str, claim: &Claim, mode: PutMode) -> Result<(), object_store::Error> {
    let text = serde_json::to_vec_pretty(claim).unwrap_or_default();
    let options = PutOptions { mode, ..PutOptions::default() };
    store.objects.put_opts(&store.path(name), text.into(), options).await.map(|_| ())
}

/// The claim of this name; `None` if there is none, or none that can be read.
async fn get(store: &Store, name: &str) -> Result<Option<Claim>, StoreError> {
    match store.objects.get(&store.path(name)).await {
        Ok(found) if found.meta.size <= MAX_CLAIM => Ok(serde_json::from_slice(&found.bytes().await.map_err(said)?).ok()),
        Ok(_) => Ok(None),
        // without the right to list, S3 says 403 of what is not there
        Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => Ok(None),
        Err(error) => Err(said(error)),
    }
}

fn said(error: object_store::Error) -> StoreError {
    StoreError(reason(&error))
}
