//! `auth = { … }`: which combinations make sense.

use std::ops::Range;

use reqwest::header::{HeaderName, HeaderValue as HttpValue};
use toml::de::DeValue;

use super::reader::{Read, Table, Value, fault, path, text};
use super::{Auth, Basic, HeaderValue, Pprof};

const EXAMPLE: &str = r#"{ bearer_file = "/etc/memtrap/token" }"#;
const MAX_HEADERS: usize = 32;
/// What the HTTP client sets itself; a second one would break the request.
const RESERVED: [&str; 6] = ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];

/// Reads a target's `auth`; `pprof` is the target's, unless that is wrong.
pub(super) fn read(target: &mut Table<'_, '_>, pprof: Option<&Pprof>) -> Auth {
    let pprof_is_absent = !target.has("pprof");
    let mut auth = Auth::default();
    let Some(mut t) = target.table("auth", EXAMPLE) else { return auth };
    t.set("bearer_file", &mut auth.bearer_file, |v| path(v).map(Some));
    auth.basic = t.table("basic", r#"{ username = "memtrap", password_file = "/etc/memtrap/password" }"#).and_then(basic);
    if let Some(entries) = t.table("headers", r#"{ X-Scope = "team", X-Token = { file = "/etc/memtrap/token" } }"#) {
        auth.headers = headers(entries);
    }
    t.set("ca_file", &mut auth.ca_file, |v| path(v).map(Some));
    t.set("client_cert_file", &mut auth.client_cert_file, |v| path(v).map(Some));
    t.set("client_key_file", &mut auth.client_key_file, |v| path(v).map(Some));

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
    let tls_only = ["ca_file", "client_cert_file", "client_key_file"];
    if pprof.is_some_and(without_tls) {
        for key in tls_only {
            if let Some(at) = t.place_of(key) {
                t.error(at, format_args!("{key}: has no effect, because pprof is not an https URL; remove it, or use https"));
            }
        }
    }
    if t.is_empty() {
        t.error_here(format_args!("empty; write for example auth = {EXAMPLE}, or remove it"));
    }
    if pprof_is_absent {
        t.error_here("without a pprof address there is nothing to authenticate to: add pprof, or remove auth");
    }
    let sends_secret = t.has("basic") || t.has("bearer_file") || t.has("headers");
    if sends_secret && pprof.is_some_and(crosses_network_in_clear) {
        t.warning_here("secrets are sent over the network without TLS; use an https URL for pprof");
    }
    t.finish(&[]);
    auth
}

fn without_tls(pprof: &Pprof) -> bool {
    match pprof {
        Pprof::Http(url) => url.starts_with("http:"),
        Pprof::Unix { .. } => true,
        Pprof::Auto => false,
    }
}

fn crosses_network_in_clear(pprof: &Pprof) -> bool {
    let Pprof::Http(text) = pprof else { return false };
    let Ok(url) = reqwest::Url::parse(text) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    url.scheme() == "http" && !local
}

fn basic(mut t: Table<'_, '_>) -> Option<Basic> {
    let username = t.take("username", |v| match text(v, "a user name")? {
        name if name.contains(':') || name.contains(char::is_control) => {
            fault(v, "a user name for basic authentication holds no colon and no control character")
        }
        name => Ok(name.to_owned()),
    });
    let password_file = t.take("password_file", path);
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
            let file = inner.take("file", path);
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
