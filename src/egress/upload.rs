//! One bundle into the store: archive, verdict, and last the manifest.
//!
//! ```text
//!  TARGET/ID-TAG.tar.gz ──> verified ──> TARGET/ID-TAG.verdict.json ──> TARGET/ID-TAG.manifest.json
//! ```
//!
//! Who sees a manifest can rely on the archive: it is there, has the SHA-256 that the manifest's `archive` tells, and the store was
//! asked. The archive is made while it is sent, in parts, so that it needs neither room on a disk that may be full nor more than a
//! few parts of memory. Repeating an upload writes the same bytes to the same names; one that has arrived is recognised by its
//! manifest. TAG is a part of the manifest's hash: bundles of several hosts may have the same ID, and none writes over another's.
//!
//! What a checksum is worth: S3 is sent the SHA-256 of every part and refuses what arrives otherwise. On top of that the object's
//! size is asked for, and up to 64 MiB (or all of it, before a local copy is deleted) is read back and hashed.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutPayloadMut};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::on_disk;
use super::store::{Store, StoreError, reason};
use crate::bundle::archive::{self, ArchiveError};
use crate::bundle::{Bundle, Hash, Manifest, Sum};
use crate::digest;
use crate::error::chain;
use crate::text;

/// What is in memory at a time: the part that is sent, the next, and the one that is being made.
const PART: usize = 8 << 20;
/// Parts are made of small pieces: glibc gives those back to the system, and keeps some of the large ones for good.
const BLOCK: usize = 64 << 10;
/// Read back even if nothing is deleted.
const READ_BACK: u64 = 64 << 20;
/// Manifests and verdicts are far smaller.
const MAX_DOCUMENT: u64 = 16 << 20;
/// To give the parts of an unfinished upload back to the store.
const ABORT: Duration = Duration::from_secs(2);

/// A bundle that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// The archive's object.
    pub object: String,
    pub archive: Sum,
    /// It was there: uploaded before, by a memtrap that could not note it.
    pub already: bool,
}

/// Why a bundle is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// To be tried again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Will not get better.
    #[error(transparent)]
    Damaged(ArchiveError),
    /// The disk's fault, perhaps for now.
    #[error("the bundle cannot be read")]
    Disk(#[source] ArchiveError),
    #[error("memtrap stops")]
    Stopped,
}

impl From<object_store::Error> for UploadError {
    fn from(error: object_store::Error) -> UploadError {
        UploadError::Store(StoreError(reason(&error)))
    }
}

/// Uploads a bundle and verifies what arrived; with `all`, every byte of it. Ends early once `stop` is true.
///
/// If the future is dropped, parts of a large archive may stay in the store, unseen, until its lifecycle rules remove them.
pub async fn bundle(store: &Store, bundle: &Arc<Bundle>, all: bool, stop: watch::Receiver<bool>) -> Result<Uploaded, UploadError> {
    let stem = name(bundle);
    if let Some(archive) = there(store, &stem, &bundle.manifest).await?
        && verify(store, &store.path(&format!("{stem}.tar.gz")), &archive, all).await.is_ok()
    {
        return Ok(Uploaded { object: format!("{stem}.tar.gz"), archive, already: true });
    }
    send(store, bundle, &stem, all, stop).await
}

async fn send(
    store: &Store,
    bundle: &Arc<Bundle>,
    stem: &str,
    all: bool,
    mut stop: watch::Receiver<bool>,
) -> Result<Uploaded, UploadError> {
    let object = format!("{stem}.tar.gz");
    let path = store.path(&object);
    let sum = send_archive(store, bundle, &path, &mut stop).await?;
    verify(store, &path, &sum, all).await?;
    if let Some(verdict) = read_document(bundle, "verdict.json") {
        store.objects.put(&store.path(&format!("{stem}.verdict.json")), verdict.into()).await?;
    }
    store.objects.put(&store.path(&format!("{stem}.manifest.json")), document(&bundle.manifest, &object, &sum).into()).await?;
    Ok(Uploaded { object, archive: sum, already: false })
}

/// The bundle's ID, and what no other bundle has.
fn name(bundle: &Bundle) -> String {
    let tag = digest::short(serde_json::to_vec(&bundle.manifest).unwrap_or_default(), 4);
    format!("{}-{tag}", bundle.id)
}

/// The archive of this very bundle, if the store has had it already.
async fn there(store: &Store, stem: &str, ours: &Manifest) -> Result<Option<Sum>, UploadError> {
    let found = match store.objects.get(&store.path(&format!("{stem}.manifest.json"))).await {
        Ok(found) if found.meta.size <= MAX_DOCUMENT => found.bytes().await?,
        Ok(_) => return Ok(None),
        // without the right to list, S3 says 403 of what is not there; that the credentials are wrong shows when something is put
        Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Ok(Value::Object(mut manifest)) = serde_json::from_slice(&found) else { return Ok(None) };
    let archive = manifest.remove("archive");
    if serde_json::to_value(ours).ok() != Some(Value::Object(manifest)) {
        return Ok(None);
    }
    let bytes = archive.as_ref().and_then(|a| a.get("bytes")?.as_u64()).unwrap_or_default();
    let sha256 = archive.as_ref().and_then(|a| a.get("sha256")?.as_str()).unwrap_or_default().to_owned();
    Ok(Some(Sum { bytes, sha256 }))
}

/// The manifest as it lies beside the archive.
fn document(manifest: &Manifest, object: &str, sum: &Sum) -> Vec<u8> {
    let mut value = serde_json::to_value(manifest).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        let name = object.rsplit('/').next().unwrap_or(object);
        map.insert("archive".into(), serde_json::json!({ "object": name, "bytes": sum.bytes, "sha256": sum.sha256 }));
    }
    text::json_pretty(&value).unwrap_or_default().into_bytes()
}

fn read_document(bundle: &Bundle, name: &str) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    bundle.manifest.files.iter().find(|f| f.name == name && f.has_file())?;
    bundle.file(name).ok()?.take(MAX_DOCUMENT).read_to_end(&mut text).ok()?;
    Some(text)
}

/// Makes the archive on a blocking thread and sends it as it comes.
async fn send_archive(store: &Store, bundle: &Arc<Bundle>, path: &Path, stop: &mut watch::Receiver<bool>) -> Result<Sum, UploadError> {
    let (parts, mut made) = mpsc::channel(1);
    let source = bundle.clone();
    let maker = tokio::spawn(on_disk(move || archive::write(&source, Parts::new(parts))?.finish().map_err(ArchiveError::Write)));
    let first = made.recv().await.unwrap_or_default();
    let Some(second) = made.recv().await else {
        // one part, and nothing is sent before it is known to be whole
        let sum = made_of(maker).await?;
        tokio::select! {
            put = store.objects.put(path, first) => put?,
            () = stopped(stop) => return Err(UploadError::Stopped),
        };
        return Ok(sum);
    };
    let mut upload = store.objects.put_multipart(path).await?;
    let sent = tokio::select! {
        sent = send_parts(upload.as_mut(), [first, second], &mut made) => sent,
        () = stopped(stop) => Err(UploadError::Stopped),
    };
    // no part is made for nobody
    drop(made);
    let finished = match (sent, made_of(maker).await) {
        (Ok(()), Ok(sum)) => upload.complete().await.map(|_| sum).map_err(UploadError::from),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
    };
    if finished.is_err() {
        // best effort: what stays is invisible, and for the store's lifecycle rules
        let _ = tokio::time::timeout(ABORT, upload.abort()).await;
    }
    finished
}

async fn send_parts(
    upload: &mut dyn MultipartUpload,
    first: [PutPayload; 2],
    made: &mut mpsc::Receiver<PutPayload>,
) -> Result<(), UploadError> {
    for part in first {
        upload.put_part(part).await?;
    }
    while let Some(part) = made.recv().await {
        upload.put_part(part).await?;
    }
    Ok(())
}

type Maker = tokio::task::JoinHandle<Result<Result<Sum, ArchiveError>, tokio::task::JoinError>>;

async fn made_of(maker: Maker) -> Result<Sum, UploadError> {
    match maker.await.and_then(|made| made) {
        Ok(Ok(sum)) => Ok(sum),
        Ok(Err(error @ ArchiveError::Damaged { .. })) => Err(UploadError::Damaged(error)),
        Ok(Err(error)) => Err(UploadError::Disk(error)),
        Err(error) => Err(StoreError(format!("the archive's thread failed: {}", chain(&error))).into()),
    }
}

/// Waits until `stop` is true; for ever if nobody can say so any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Asks the store for what it has, and up to a bound for the bytes themselves.
async fn verify(store: &Store, path: &Path, sum: &Sum, all: bool) -> Result<(), UploadError> {
    let size = store.objects.head(path).await?.size;
    if size != sum.bytes {
        return Err(StoreError(format!("{path} has {size} bytes in the store, not the {} that were sent", sum.bytes)).into());
    }
    if !all && size > READ_BACK {
        return Ok(());
    }
    let mut hash = Hash::default();
    // in parts: each has a time limit of its own, which a whole archive would not keep on a thin line
    let mut from = 0;
    while from < size {
        let to = size.min(from + PART as u64);
        hash.update(&store.objects.get_range(path, from..to).await?);
        from = to;
    }
    if hash.finish() == *sum {
        Ok(())
    } else {
        Err(StoreError(format!("{path} came back from the store as other bytes than were sent")).into())
    }
}

/// Cuts what is written to it into parts, and hashes them.
struct Parts {
    part: PutPayloadMut,
    out: mpsc::Sender<PutPayload>,
    hash: Hash,
}

impl Parts {
    fn new(out: mpsc::Sender<PutPayload>) -> Parts {
        Parts { part: Parts::empty(), out, hash: Hash::default() }
    }

    fn empty() -> PutPayloadMut {
        PutPayloadMut::new().with_block_size(BLOCK)
    }

    fn send(&mut self) -> io::Result<()> {
        let part = std::mem::replace(&mut self.part, Parts::empty()).freeze();
        self.out.blocking_send(part).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn finish(mut self) -> io::Result<Sum> {
        if !self.part.is_empty() {
            self.send()?;
        }
        Ok(self.hash.finish())
    }
}

impl Write for Parts {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let taken = buf.get(..PART - self.part.content_length()).unwrap_or(buf);
        self.hash.update(taken);
        self.part.extend_from_slice(taken);
        if self.part.content_length() == PART {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
