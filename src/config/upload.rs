//! `[upload]`: where bundles go, and which keys make sense for that place.

use std::path::PathBuf;

use super::User;
use super::reader::{Read, Table, Value, boolean, fault, secret_file, text};
use super::source::user;

/// Where bundles are uploaded to, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    pub to: Destination,
    /// Goes before TARGET in the objects' names: plain segments joined by `/`, or nothing.
    pub prefix: String,
    /// Of an S3-compatible or other store that is not the provider's own; http or https, without a trailing slash.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Plain http is refused unless this says otherwise.
    pub allow_http: bool,
    /// PEM certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// An http or https URL; the environment's proxies are not used.
    pub proxy: Option<String>,
    /// Who may listen where the endpoint or the proxy is on this host, besides root and memtrap's own user.
    pub user: Option<User>,
    pub secrets: StoreSecrets,
    /// Delete the local bundle once its upload is verified.
    pub delete_after_upload: bool,
    /// Ask the store, before a capture, whether another memtrap has this incident already.
    pub claim: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    S3 { bucket: String },
    Gcs { bucket: String },
    Azure { container: String },
    Directory(PathBuf),
}

/// Files that hold credentials, read anew for each upload. What is absent comes from the environment, as the provider's own tools take it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StoreSecrets {
    /// S3: both or neither.
    pub access_key_id: Option<PathBuf>,
    pub secret_access_key: Option<PathBuf>,
    pub session_token: Option<PathBuf>,
    /// GCS: the JSON of a service account.
    pub service_account: Option<PathBuf>,
    /// Azure: the storage account's name, which is no secret, and its key.
    pub account: Option<String>,
    pub account_key: Option<PathBuf>,
}

const URL_HELP: &str = "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY";

/// Reads the section; `None` if it is absent, or wrong and noted.
pub(super) fn read(mut t: Table<'_, '_>) -> Option<Upload> {
    let url = t.take("url", place);
    let proxy = t.take("proxy", endpoint);
    let user = t.take("user", user);
    let endpoint = t.take("endpoint", endpoint);
    let region = t.take("region", |v| word(v, "a region such as \"eu-central-1\""));
    let allow_http = t.take("allow_http", boolean).unwrap_or(false);
    let ca_file = t.take("ca_file", secret_file);
    let secrets = StoreSecrets {
        access_key_id: t.take("access_key_id_file", secret_file),
        secret_access_key: t.take("secret_access_key_file", secret_file),
        session_token: t.take("session_token_file", secret_file),
        service_account: t.take("service_account_file", secret_file),
        account: t.take("account", |v| word(v, "the name of a storage account")),
        account_key: t.take("account_key_file", secret_file),
    };
    let delete_after_upload = t.take("delete_after_upload", boolean).unwrap_or(false);
    let claim = t.take("claim", boolean).unwrap_or(false);

    // the place of an absent table is empty
    if !t.place().is_empty() && !t.has("url") {
        t.missing(format_args!("url: missing; {URL_HELP}"));
    }
    if let Some((to, _)) = &url {
        check_keys(&mut t, to);
    }
    for (one, other) in [("access_key_id_file", "secret_access_key_file"), ("secret_access_key_file", "access_key_id_file")] {
        if t.has(one) && !t.has(other) {
            t.missing(format_args!("{other}: missing; {one} needs it"));
        }
    }
    if let (Some(at), true) = (t.place_of("session_token_file"), !t.has("access_key_id_file")) {
        t.error(at, "session_token_file: has no effect without access_key_id_file and secret_access_key_file");
    }
    match (&endpoint, t.place_of("endpoint")) {
        (Some(url), Some(at)) if url.starts_with("http:") && !allow_http => {
            t.error(at, "endpoint: plain http would send bundles in the clear; use https, or set allow_http = true");
        }
        (Some(url), Some(at)) if url.starts_with("http:") && !super::endpoint::is_loopback(url) => {
            t.warning(at, "endpoint: bundles are sent over the network without TLS; use an https URL");
        }
        _ => {}
    }
    t.finish(&[]);
    let (to, prefix) = url?;
    Some(Upload { to, prefix, endpoint, region, allow_http, ca_file, proxy, user, secrets, delete_after_upload, claim })
}

/// A key that its kind of store does not know is a mistake about one of the two.
fn check_keys(t: &mut Table<'_, '_>, to: &Destination) {
    let s3 = ["access_key_id_file", "secret_access_key_file", "session_token_file", "region"];
    let (scheme, foreign): (&str, Vec<&str>) = match to {
        Destination::S3 { .. } => ("s3", vec!["service_account_file", "account", "account_key_file"]),
        Destination::Gcs { .. } => ("gs", [&s3[..], &["account", "account_key_file"]].concat()),
        Destination::Azure { .. } => ("az", [&s3[..], &["service_account_file"]].concat()),
        Destination::Directory(_) => (
            "file",
            [&s3[..], &["service_account_file", "account", "account_key_file", "endpoint", "allow_http", "ca_file", "proxy", "user"]]
                .concat(),
        ),
    };
    for key in foreign {
        if let Some(at) = t.place_of(key) {
            t.error(at, format_args!("{key}: has no effect for a {scheme}:// url; remove it"));
        }
    }
}

/// The store and the prefix within it.
fn place(value: &Value<'_>) -> Read<(Destination, String)> {
    let bad = |why: &str| fault(value, format!("{why}; {URL_HELP}"));
    let url = text(value, "a URL such as \"s3://bucket/memtrap\"")?.trim();
    let Some((scheme, rest)) = url.split_once("://") else { return bad("not a URL") };
    if rest.contains(['?', '#', '@']) {
        return bad("a URL with credentials, a query or a fragment would end up in logs");
    }
    if scheme == "file" {
        let dir = PathBuf::from(rest.trim_end_matches('/'));
        let plain = dir.is_absolute() && !rest.contains(['%', '\0']) && dir.components().all(|c| c != std::path::Component::ParentDir);
        return if plain {
            Ok((Destination::Directory(dir), String::new()))
        } else {
            bad("the directory must be an absolute path, without `%` and `..`")
        };
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |s: &str| !s.is_empty() && !s.starts_with('.') && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-=".contains(&b));
    let prefix = prefix.trim_end_matches('/');
    if !plain(bucket) || bucket.len() > 255 {
        return bad("there is no usable bucket in it");
    }
    if prefix.len() > 512 || !(prefix.is_empty() || prefix.split('/').all(plain)) {
        return bad("the prefix may hold A-Z a-z 0-9 . _ - = and single slashes, and no part begins with a dot");
    }
    let bucket = bucket.to_owned();
    let to = match scheme {
        "s3" => Destination::S3 { bucket },
        "gs" => Destination::Gcs { bucket },
        "az" => Destination::Azure { container: bucket },
        _ => return bad("no such kind of store"),
    };
    if !is_built_in(&to) {
        return bad("this memtrap was built without that kind of store, see its Cargo features s3, gcs and azure");
    }
    Ok((to, prefix.to_owned()))
}

fn is_built_in(to: &Destination) -> bool {
    match to {
        Destination::S3 { .. } => cfg!(feature = "s3"),
        Destination::Gcs { .. } => cfg!(feature = "gcs"),
        Destination::Azure { .. } => cfg!(feature = "azure"),
        Destination::Directory(_) => true,
    }
}

fn endpoint(value: &Value<'_>) -> Read<String> {
    let url = text(value, "a URL such as \"https://minio.internal:9000\"")?;
    match reqwest::Url::parse(url.trim()) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => {
            let bare =
                parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none() && parsed.fragment().is_none();
            let endpoint = parsed.as_str().trim_end_matches('/').to_owned();
            if bare { Ok(endpoint) } else { fault(value, "a URL with credentials, a query or a fragment would end up in logs") }
        }
        _ => fault(value, "not an http or https URL such as https://minio.internal:9000"),
    }
}

/// A name in one word.
fn word(value: &Value<'_>, what: &str) -> Read<String> {
    match text(value, what)? {
        word if word.len() <= 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) => Ok(word.to_owned()),
        _ => fault(value, format!("expected {what}: up to 64 of A-Z a-z 0-9 . _ -")),
    }
}
