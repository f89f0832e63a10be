//! Each provider's client, as the configuration and the secret files say now.
//!
//! They share memtrap's own HTTP client instead of `object_store`'s, which would bring HTTP/2 (0.5 MB) and follow the environment's proxies.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use reqwest::{Certificate, Client};

use super::{StoreError, reason};
use crate::config::Upload;
use crate::host::ProcFs;
use crate::host::peer::Peer;
use crate::host::trust::Trusted;

/// Keys, tokens and service accounts are far smaller.
const MAX_SECRET: u64 = 64 << 10;
const MAX_CA: u64 = 4 << 20;
const CONNECT: Duration = Duration::from_secs(5);
/// For one request: 8 MiB through a thin line.
const REQUEST: Duration = Duration::from_secs(300);

#[cfg(feature = "s3")]
pub(super) fn s3(bucket: &str, upload: &Upload) -> Result<Arc<dyn ObjectStore>, StoreError> {
    use object_store::StaticCredentialProvider;
    use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum};

    let mut s3 = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry()).with_client_options(options(upload));
    s3 = s3.with_http_connector(connector(upload)?);
    // each part carries its sum, and the store refuses what arrives otherwise
    s3 = s3.with_checksum_algorithm(Checksum::SHA256);
    if let Some(endpoint) = &upload.endpoint {
        s3 = s3.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
    }
    if let Some(region) = &upload.region {
        s3 = s3.with_region(region);
    }
    if let (Some(id), Some(key)) = (&upload.secrets.access_key_id, &upload.secrets.secret_access_key) {
        let token = upload.secrets.session_token.as_deref().map(secret).transpose()?;
        let keys = AwsCredential { key_id: secret(id)?, secret_key: secret(key)?, token };
        // as a whole: a session token of the environment would belong to other keys
        s3 = s3.with_credentials(Arc::new(StaticCredentialProvider::new(keys)));
    }
    Ok(Arc::new(s3.build().map_err(cannot)?))
}

#[cfg(feature = "gcs")]
pub(super) fn gcs(bucket: &str, upload: &Upload) -> Result<Arc<dyn ObjectStore>, StoreError> {
    use object_store::gcp::GoogleCloudStorageBuilder;

    let mut gcs = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry()).with_client_options(options(upload));
    gcs = gcs.with_http_connector(connector(upload)?);
    if let Some(endpoint) = &upload.endpoint {
        gcs = gcs.with_base_url(endpoint);
    }
    if let Some(account) = &upload.secrets.service_account {
        gcs = gcs.with_service_account_key(secret(account)?);
    }
    Ok(Arc::new(gcs.build().map_err(cannot)?))
}

#[cfg(feature = "azure")]
pub(super) fn azure(container: &str, upload: &Upload) -> Result<Arc<dyn ObjectStore>, StoreError> {
    use object_store::azure::MicrosoftAzureBuilder;

    let mut azure =
        MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(retry()).with_client_options(options(upload));
    azure = azure.with_http_connector(connector(upload)?);
    if let Some(endpoint) = &upload.endpoint {
        azure = azure.with_endpoint(endpoint.clone());
    }
    if let Some(account) = &upload.secrets.account {
        azure = azure.with_account(account);
    }
    if let Some(key) = &upload.secrets.account_key {
        azure = azure.with_access_key(secret(key)?);
    }
    Ok(Arc::new(azure.build().map_err(cannot)?))
}

fn cannot(error: object_store::Error) -> StoreError {
    StoreError(reason(&error))
}

/// What lasts longer than this is the queue's business.
fn retry() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(20) }
}

fn options(upload: &Upload) -> ClientOptions {
    let options = ClientOptions::new().with_allow_http(upload.allow_http);
    options.with_content_type_for_suffix("gz", "application/gzip").with_content_type_for_suffix("json", "application/json")
}

/// Loads the system's certificates, which blocks for some milliseconds.
fn connector(upload: &Upload) -> Result<Connector, StoreError> {
    let roots = match &upload.ca_file {
        None => Vec::new(),
        Some(file) => Certificate::from_pem_bundle(&read(file, MAX_CA)?)
            .ok()
            .filter(|roots| !roots.is_empty())
            .ok_or_else(|| StoreError(format!("{} holds no PEM certificates", file.display())))?,
    };
    let made = crate::client::for_uploads((CONNECT, REQUEST), roots, upload.proxy.as_deref(), peer(upload)?);
    made.map(Connector).map_err(|e| StoreError(format!("cannot set up HTTP: {}", crate::client::Cause::of(&e))))
}

/// Who must answer at a store of this host, or at a proxy of this host that leads to one elsewhere: what is sent there is signed, and may hold a
/// token. Others are trusted as they are.
fn peer(upload: &Upload) -> Result<Option<Peer>, StoreError> {
    let procfs = ProcFs::host();
    for url in [&upload.endpoint, &upload.proxy].into_iter().flatten() {
        let trusted = Trusted::of_address(&procfs, upload.user.as_ref()).map_err(StoreError)?;
        let url = reqwest::Url::parse(url).map_err(|e| StoreError(format!("endpoint or proxy: {e}")))?;
        if let Some(peer) = Peer::of_url(&procfs, &url, trusted, None) {
            return Ok(Some(peer));
        }
    }
    Ok(None)
}

/// Sends the stores' requests through memtrap's HTTP client.
#[derive(Clone, Debug)]
struct Connector(Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = request.map(reqwest::Body::wrap).try_into().map_err(failed)?;
        let response = self.0.execute(request).await.map_err(failed)?;
        Ok(http::Response::<reqwest::Body>::from(response).map(|body| HttpResponseBody::new(body.map_err(failed))))
    }
}

/// What the retries of a store look at. Its requests may be repeated: an upload's objects are named after their content's bundle, and
/// who finds a claim of its own holds it.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = match () {
        () if error.is_connect() => HttpErrorKind::Connect,
        () if error.is_timeout() => HttpErrorKind::Timeout,
        () if error.is_builder() || error.is_decode() => HttpErrorKind::Decode,
        () => HttpErrorKind::Interrupted,
    };
    // a signature in a query is a secret
    HttpError::new(kind, error.without_url())
}

fn secret(file: &Path) -> Result<String, StoreError> {
    let bytes = read(file, MAX_SECRET)?;
    match std::str::from_utf8(&bytes).map(str::trim) {
        Ok("") => Err(StoreError(format!("{} is empty", file.display()))),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(StoreError(format!("{} is not text", file.display()))),
    }
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, StoreError> {
    let cannot = |why: String| StoreError(format!("cannot read {}: {why}", file.display()));
    let mut bytes = Vec::new();
    let opened = crate::credential::open_secret(file).map_err(|e| cannot(e.to_string()))?;
    opened.take(most + 1).read_to_end(&mut bytes).map_err(|e| cannot(e.to_string()))?;
    if bytes.len() as u64 > most { Err(cannot(format!("larger than {most} bytes"))) } else { Ok(bytes) }
}
