//! The store that `[upload]` names, through the `object_store` crate: how it is reached, and its failures in words.
//!
//! A store is made anew for each job from what the configuration and its secret files say now, so that rotated credentials count
//! at once and nothing is held while there is nothing to upload.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::config::{Destination, Upload};
use crate::text::one_line;

const MAX_REASON: usize = 300;

/// The stores that are reached over the network.
#[cfg(feature = "remote-store")]
mod remote;

/// A failure, in a sentence without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Where the objects are.
#[derive(Clone, Debug)]
pub struct Store {
    pub objects: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl Store {
    /// The store as the configuration and the secret files say now. No request is sent. Blocks on the disk.
    pub fn open(upload: &Upload) -> Result<Store, StoreError> {
        let prefix = Path::parse(&upload.prefix).map_err(|e| StoreError(format!("prefix: {e}")))?;
        let objects: Arc<dyn ObjectStore> = match &upload.to {
            #[cfg(feature = "s3")]
            Destination::S3 { bucket } => remote::s3(bucket, upload)?,
            #[cfg(feature = "gcs")]
            Destination::Gcs { bucket } => remote::gcs(bucket, upload)?,
            #[cfg(feature = "azure")]
            Destination::Azure { container } => remote::azure(container, upload)?,
            // not made if it is missing: it may be a share that is not mounted
            Destination::Directory(dir) => {
                let found = LocalFileSystem::new_with_prefix(dir).map_err(|e| StoreError(reason(&e)))?;
                Arc::new(found.with_fsync(true))
            }
            #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
            _ => {
                return Err(StoreError(
                    "this memtrap was built without this kind of store; see its Cargo features s3, gcs and azure".into(),
                ));
            }
        };
        Ok(Store { objects, prefix })
    }

    #[cfg(test)]
    pub(super) fn of(objects: Arc<dyn ObjectStore>) -> Store {
        Store { objects, prefix: Path::from("p") }
    }

    /// `PREFIX/PART/PART…`; the parts are plain names.
    pub fn path(&self, parts: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(parts).parts()))
    }
}

/// What went wrong, for the log: what the store says of it, or how it could not be reached. The library's own text tells each
/// attempt's milliseconds and the whole answer.
pub fn reason(error: &object_store::Error) -> String {
    let text = innermost(error);
    let said = match (element(&text, "Code"), element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => without_queries(&text),
    };
    let said = one_line(&said, MAX_REASON);
    match error {
        object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. } => {
            format!("the store does not accept these credentials: {said}")
        }
        object_store::Error::NotFound { .. } => format!("the store does not have it, or has no such bucket: {said}"),
        _ => said,
    }
}

/// The last two of the chain of causes, which are the nearest to what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut texts: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
    // most of them repeat their source
    let last = texts.pop().unwrap_or_default();
    match texts.pop() {
        Some(outer) if !outer.contains(&last) => format!("{outer}: {last}"),
        // an answer of the store has no further source; all else begins with words about attempts
        Some(outer) if outer.contains("<Code>") => outer,
        _ => last,
    }
}

fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(content, _)| content)
}

/// A signature in a URL's query is a secret.
fn without_queries(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.split_once('?') {
        Some((url, _)) if url.contains("://") => url,
        _ => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreSecrets;

    fn upload(to: Destination) -> Upload {
        Upload {
            to,
            prefix: "a/b".into(),
            endpoint: None,
            region: None,
            allow_http: false,
            ca_file: None,
            proxy: None,
            user: None,
            secrets: StoreSecrets::default(),
            delete_after_upload: false,
            claim: false,
        }
    }

    #[cfg(feature = "upload")]
    #[test]
    fn every_kind_of_store_can_be_made_without_a_network() {
        crate::capture::install_tls_provider();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        std::fs::write(&file, "c2VjcmV0\n").unwrap();
        let name = || "evidence".to_owned();
        let stores = [
            (Destination::S3 { bucket: name() }, "AmazonS3"),
            (Destination::Gcs { bucket: name() }, "GoogleCloudStorage"),
            (Destination::Azure { container: name() }, "MicrosoftAzure"),
            (Destination::Directory(dir.path().into()), "LocalFileSystem"),
        ];
        for (to, shown) in stores {
            let secrets = StoreSecrets {
                access_key_id: Some(file.clone()),
                secret_access_key: Some(file.clone()),
                account: Some("acme".into()),
                account_key: Some(file.clone()),
                ..StoreSecrets::default()
            };
            let store = Store::open(&Upload { secrets, ..upload(to) }).unwrap();
            assert!(store.objects.to_string().starts_with(shown), "{}", store.objects);
            assert_eq!(store.path("checkout/x.tar.gz").as_ref(), "a/b/checkout/x.tar.gz");
        }
    }

    #[test]
    fn a_store_that_cannot_be_made_says_why() {
        crate::capture::install_tls_provider();
        let dir = tempfile::tempdir().unwrap();
        let open = |to: Destination, secrets: StoreSecrets| Store::open(&Upload { secrets, ..upload(to) }).unwrap_err().0;
        let missing = open(Destination::Directory(dir.path().join("not-mounted")), StoreSecrets::default());
        assert!(missing.contains("not-mounted") && missing.contains("No such file"), "{missing}");
        #[cfg(feature = "s3")]
        what_is_wrong_with_a_secret_is_told(&dir.path().join("id"), open);
    }

    #[cfg(feature = "s3")]
    fn what_is_wrong_with_a_secret_is_told(file: &std::path::Path, open: impl Fn(Destination, StoreSecrets) -> String) {
        let file = file.to_owned();
        let keys = StoreSecrets { access_key_id: Some(file.clone()), secret_access_key: Some(file.clone()), ..StoreSecrets::default() };
        let s3 = || Destination::S3 { bucket: "b".into() };
        assert!(open(s3(), keys.clone()).contains("cannot read"));
        for (content, why) in [(&b" \n"[..], "is empty"), (b"\xff", "is not text"), (&[b'x'; 70_000], "larger than")] {
            std::fs::write(&file, content).unwrap();
            let said = open(s3(), keys.clone());
            assert!(said.contains(why) && said.contains("/id"), "{said}");
        }
    }

    #[test]
    fn a_signature_does_not_reach_the_log() {
        let text = "error sending request for url https://h/c/b?sv=1&sig=s3cr3t in 3s";
        assert_eq!(without_queries(text), "error sending request for url https://h/c/b in 3s");
    }
}
