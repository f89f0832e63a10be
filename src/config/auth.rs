//! `auth = { … }`: which combinations make sense, for a target or for the server that is asked about it.

use std::ops::Range;

use reqwest::header::{HeaderName, HeaderValue as HttpValue};
use toml::de::DeValue;

use super::reader::{Read, Table, Value, fault, secret_file, text};
use super::{Auth, Basic, HeaderValue, Pprof, Source, endpoint};

pub(super) const EXAMPLE: &str = r#"{ bearer_file = "/etc/memtrap/token" }"#;
const MAX_HEADERS: usize = 32;
/// What the HTTP client sets itself; a second one would break the request.
const RESERVED: [&str; 6] = ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];

/// What credentials are sent to.
pub(super) struct Uses<'u> {
    /// There is an address at all, good or not.
    any: bool,
    /// The good ones.
    pprof: Option<&'u Pprof>,
    url: Option<&'u str>,
    /// What they are called in messages.
    keys: &'static str,
}

impl<'u> Uses<'u> {
    /// A target's pprof, and its exposition if it has one.
    pub fn of_target(target: &Table<'_, '_>, pprof: Option<&'u Pprof>, source: Option<&'u Source>) -> Uses<'u> {
        let (url, keys) = match source {
            Some(Source::Metrics(metrics)) if target.has("pprof") => (Some(metrics.url.as_str()), "pprof or metrics"),
            Some(Source::Metrics(metrics)) => (Some(metrics.url.as_str()), "metrics"),
            _ => (None, "pprof"),
        };
        Uses { any: target.has("pprof") || target.has("metrics"), pprof, url, keys }
    }

    /// One URL, called `key`.
    pub fn url(url: Option<&'u str>, key: &'static str) -> Uses<'u> {
        Uses { any: true, pprof: None, url, keys: key }
    }

    fn none_has_tls(&self) -> bool {
        let known = self.pprof.is_some() || self.url.is_some();
        known && self.pprof.is_none_or(without_tls) && self.url.is_none_or(|url| url.starts_with("http:"))
    }

    fn some_crosses_network_in_clear(&self) -> bool {
        let pprof = match self.pprof {
            Some(Pprof::Http(url)) => in_clear(url),
            Some(Pprof::Template(template)) => !template.is_tls(),
            _ => false,
        };
        pprof || self.url.is_some_and(in_clear)
    }
}

/// Reads a target's `auth`, which is for all that it `uses`.
pub(super) fn read(target: &mut Table<'_, '_>, uses: &Uses<'_>) -> Auth {
    target.table("auth", EXAMPLE).map(|t| read_table(t, uses)).unwrap_or_default()
}

pub(super) fn read_table(mut t: Table<'_, '_>, uses: &Uses<'_>) -> Auth {
    let mut auth = Auth::default();
    t.set("bearer_file", &mut auth.bearer_file, |v| secret_file(v).map(Some));
    auth.basic = t.table("basic", r#"{ username = "memtrap", password_file = "/etc/memtrap/password" }"#).and_then(basic);
    if let Some(entries) = t.table("headers", r#"{ X-Scope = "team", X-Token = { file = "/etc/memtrap/token" } }"#) {
        auth.headers = headers(entries);
    }
    t.set("ca_file", &mut auth.ca_file, |v| secret_file(v).map(Some));
    t.set("client_cert_file", &mut auth.client_cert_file, |v| secret_file(v).map(Some));
    t.set("client_key_file", &mut auth.client_key_file, |v| secret_file(v).map(Some));

    if let Some(at) = t.place_of("basic").filter(|_| t.has("bearer_file")) {
        t.error(at, "basic: conflicts with bearer_file: both set the Authorization header; keep one");
    }
    let sets_authorization = auth.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    if let Some(at) = t.place_of("headers").filter(|_| sets_authorization && (t.has("basic") || t.has("bearer_file"))) {
        t.error(at, "headers.Authorization: conflicts with basic and bearer_file, which set it too; keep one");
    }
    for (one, other) in [("client_cert_file", "client_key_file"), ("client_key_file", "client_cert_file")] {
        if t.has(one) && !t.has(other) {
            t.missing(format_args!("{other}: missing; {one} needs it"));
        }
    }
    if uses.none_has_tls() {
        for key in ["ca_file", "client_cert_file", "client_key_file"] {
            if let Some(at) = t.place_of(key) {
                t.error(at, format_args!("{key}: has no effect, because {} is not an https URL; remove it, or use https", uses.keys));
            }
        }
    }
    if t.is_empty() {
        t.error_here(format_args!("empty; write for example auth = {EXAMPLE}, or remove it"));
    }
    if !uses.any {
        t.error_here("without a pprof address there is nothing to authenticate to: add pprof, or remove auth");
    }
    let sends_secret = t.has("basic") || t.has("bearer_file") || t.has("headers");
    if sends_secret && uses.some_crosses_network_in_clear() {
        t.warning_here(format_args!("secrets are sent over the network without TLS; use an https URL for {}", uses.keys));
    }
    t.finish(&[]);
    auth
}

fn without_tls(pprof: &Pprof) -> bool {
    match pprof {
        Pprof::Http(url) => url.starts_with("http:"),
        Pprof::Template(template) => !template.is_tls(),
        Pprof::Unix { .. } => true,
        Pprof::Auto => false,
    }
}

fn in_clear(url: &str) -> bool {
    url.starts_with("http:") && !endpoint::is_loopback(url)
}

fn basic(mut t: Table<'_, '_>) -> Option<Basic> {
    let username = t.take("username", |v| match text(v, "a user name")? {
        name if name.contains(':') || name.contains(char::is_control) => {
            fault(v, "a user name for basic authentication holds no colon and no control character")
        }
        name => Ok(name.to_owned()),
    });
    let password_file = t.take("password_file", secret_file);
    for key in ["username", "password_file"] {
        if !t.has(key) {
            t.missing(format_args!("{key}: missing"));
        }
    }
    t.finish(&[]);
    Some(Basic { username: username?, password_file: password_file? })
}

/// Values may be secrets: no message quotes one.
fn headers(mut t: Table<'_, '_>) -> Vec<(String, HeaderValue)> {
    let mut good: Vec<(String, HeaderValue)> = Vec::new();
    let entries = t.entries();
    if entries.is_empty() || entries.len() > MAX_HEADERS {
        t.error_here(format_args!("expected 1 to {MAX_HEADERS} headers"));
    }
    for (name, at, value) in entries.into_iter().take(MAX_HEADERS) {
        if let Err(why) = check_name(name, &good) {
            t.error(at, format_args!("{}: {why}", shown(name)));
            continue;
        }
        match header_value(value, &mut t, name, at) {
            Ok(value) => good.push((name.to_owned(), value)),
            Err(faults) => faults.into_iter().for_each(|f| t.error(f.at, format_args!("{}: {}", shown(name), f.message))),
        }
    }
    good
}

fn check_name(name: &str, others: &[(String, HeaderValue)]) -> Result<(), &'static str> {
    if name.len() > 128 || HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err("not the name of an HTTP header: letters, digits and - are allowed");
    }
    if RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err("memtrap sets this header itself");
    }
    if others.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
        return Err("twice: the names of HTTP headers do not depend on case");
    }
    Ok(())
}

fn header_value<'t>(value: &'t Value<'t>, t: &mut Table<'_, 't>, name: &str, at: Range<usize>) -> Read<HeaderValue> {
    match value.get_ref() {
        DeValue::String(text) if HttpValue::from_str(text).is_ok() => Ok(HeaderValue::Inline(text.clone().into_owned())),
        DeValue::String(_) => fault(value, "the value has characters that no HTTP header may have"),
        DeValue::Table(entries) => {
            let label = format!("{}{}.", t.label(), shown(name));
            let mut inner = t.nested(entries, at, label, "");
            let file = inner.take("file", secret_file);
            if !inner.has("file") {
                inner.missing("file: missing");
            }
            inner.finish(&[]);
            // an absent or wrong file is noted already
            file.map(HeaderValue::File).ok_or_else(Vec::new)
        }
        _ => fault(value, "expected a string, or { file = \"/path\" } for a secret"),
    }
}

fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}
