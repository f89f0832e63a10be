//! `pprof = "http://{instance}/debug/pprof"`: an address that is filled in from a series' labels.
//!
//! Label values come from outside. In the host's place only what can be a host and a port is taken; in the path everything but plain
//! characters is escaped; and the result must be, to the letter, the URL that the template means.

use std::net::Ipv6Addr;
use std::str::FromStr;

use super::endpoint::{Invalid, directory};
use crate::text::one_line;

const HELP: &str = "write for example http://{instance}/debug/pprof";
/// Of a label's value in a message.
const MAX_SHOWN: usize = 80;
const MAX_URL: usize = 2_048;

/// What a process on this host has in the place of labels: its own address.
pub const ADDRESS: &str = "address";

/// An address with places for labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    scheme: &'static str,
    authority: Vec<Piece>,
    path: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Label(String),
}

/// Why a series has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfilled {
    #[error("the series has no label `{0}`, which `pprof` needs")]
    NoLabel(String),
    #[error("label `{label}` with the value `{value}` makes no address for `pprof`: {why}")]
    BadValue { label: String, value: String, why: &'static str },
}

impl FromStr for Template {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Template, Invalid> {
        let bad = |why: &str| Err(Invalid(format!("{why}; {HELP}")));
        let text = text.trim();
        let (scheme, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => ("http", rest),
            (_, Some(rest)) => ("https", rest),
            _ => return bad("not an http or https URL"),
        };
        if rest.contains('@') {
            return Err(Invalid(
                "a URL with a user or password in it would end up in logs and bundles: use auth = { basic = { … } }".into(),
            ));
        }
        if rest.contains(['?', '#', '\\', '%']) || rest.contains(char::is_whitespace) || rest.contains(char::is_control) {
            return bad("a query, a fragment, blanks, % and \\ are not allowed in an address that is filled in");
        }
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let template = Template { scheme, authority: pieces(authority)?, path: pieces(&directory(path)?)? };
        // a name or a port: one that fits shows that the rest is sound
        let sound = ["x", "1"].iter().any(|value| template.fill(|_| Some(value)).is_ok());
        if sound { Ok(template) } else { bad("with a label's value in its place this is no URL") }
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, Invalid> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let Some((label, after)) = after.split_once('}') else { return Err(Invalid(format!("a brace is not closed; {HELP}"))) };
        let starts = label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || label.len() > 128 || !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(Invalid(format!("`{{{}}}` is not the name of a label; {HELP}", one_line(label, 40))));
        }
        pieces.push(Piece::Literal(literal.into()));
        pieces.push(Piece::Label(label.into()));
        rest = after;
    }
    if rest.contains('}') {
        return Err(Invalid(format!("a brace is not opened; {HELP}")));
    }
    pieces.push(Piece::Literal(rest.into()));
    Ok(pieces)
}

impl Template {
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.authority.iter().chain(&self.path).filter_map(|piece| match piece {
            Piece::Label(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// The URL for one series; `label` gives the value of a label.
    pub fn fill<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> Result<String, Unfilled> {
        let mut last = (String::new(), String::new());
        let mut put = |pieces: &[Piece], write: &dyn Fn(&str, &mut String) -> Result<(), &'static str>| -> Result<String, Unfilled> {
            let mut out = String::new();
            for piece in pieces {
                match piece {
                    Piece::Literal(text) => out.push_str(text),
                    Piece::Label(name) => {
                        let value = label(name).filter(|v| !v.is_empty()).ok_or_else(|| Unfilled::NoLabel(name.clone()))?;
                        write(value, &mut out).map_err(|why| bad_value(name, value, why))?;
                        last = (name.clone(), one_line(value, MAX_SHOWN));
                    }
                }
            }
            Ok(out)
        };
        let authority = put(&self.authority, &host_part)?;
        let path = put(&self.path, &escaped)?;
        let url = format!("{}://{authority}{path}", self.scheme);
        match as_meant(&url, self.scheme, &authority, &path) {
            Ok(()) => Ok(url),
            Err(why) => Err(bad_value(&last.0, &last.1, why)),
        }
    }
}

fn bad_value(label: &str, value: &str, why: &'static str) -> Unfilled {
    Unfilled::BadValue { label: label.into(), value: one_line(value, MAX_SHOWN), why }
}

fn host_part(value: &str, out: &mut String) -> Result<(), &'static str> {
    if value.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b)) {
        out.push_str(value);
        return Ok(());
    }
    Err("it stands for a host and has characters that no host has")
}

fn escaped(value: &str, out: &mut String) -> Result<(), &'static str> {
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    Ok(())
}

/// A URL parser's idea of the text must be the text itself.
fn as_meant(url: &str, scheme: &str, authority: &str, path: &str) -> Result<(), &'static str> {
    if url.len() > MAX_URL {
        return Err("the URL is too long");
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("it would lead out of the path");
    }
    let parsed = reqwest::Url::parse(url).map_err(|_| "the result is no URL")?;
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") })),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let expected_port = match port {
        None if scheme == "https" => Some(443),
        None => Some(80),
        Some(port) if port.starts_with(|c: char| c.is_ascii_digit()) => port.parse::<u16>().ok().filter(|p| *p > 0),
        Some(_) => None,
    };
    let found = parsed.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let same_host = found == host.to_ascii_lowercase()
        || host.parse::<Ipv6Addr>().is_ok_and(|ip| found.parse::<Ipv6Addr>() == Ok(ip) && authority.starts_with('['));
    let plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none() && parsed.fragment().is_none();
    if expected_port.is_none() || parsed.port_or_known_default() != expected_port {
        return Err("its port is no port");
    }
    if !same_host || !plain || parsed.scheme() != scheme || parsed.path() != path {
        return Err("the URL would mean something else than is written");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Template {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn fill(text: &str, value: &str) -> Result<String, String> {
        template(text).fill(|_| Some(value)).map_err(|e| e.to_string())
    }

    #[test]
    fn labels_fill_host_port_and_path() {
        for (text, value, url) in [
            ("http://{instance}/debug/pprof", "10.0.0.1:6060", "http://10.0.0.1:6060/debug/pprof"),
            ("http://{instance}/debug/pprof/", "shop_1:80", "http://shop_1:80/debug/pprof"),
            ("https://{instance}", "[2001:db8::1]:6060", "https://[2001:db8::1]:6060/debug/pprof"),
            ("http://{pod}.shop.svc:6060/p", "Shop-0", "http://Shop-0.shop.svc:6060/p"),
            ("http://gateway/{pod}/debug/pprof", "a/../b?x#y%2e", "http://gateway/a%2F..%2Fb%3Fx%23y%252e/debug/pprof"),
            ("http://gateway/ns-{ns}/x", "é ", "http://gateway/ns-%C3%A9%20/x"),
        ] {
            assert_eq!(fill(text, value).as_deref(), Ok(url), "{text} with {value}");
        }
    }

    #[test]
    fn a_value_cannot_lead_elsewhere() {
        for (text, value, why) in [
            ("http://{instance}/p", "evil.example/x?", "characters that no host has"),
            ("http://{instance}/p", "user@evil.example", "characters that no host has"),
            ("http://{instance}/p", "a\\b", "characters that no host has"),
            ("http://{instance}/p", "a b", "characters that no host has"),
            ("http://{instance}/p", "a%2fb", "characters that no host has"),
            ("http://{instance}/p", "a#b", "characters that no host has"),
            ("http://{instance}/p", "a\nb", "characters that no host has"),
            ("http://{instance}/p", "раypal", "characters that no host has"),
            ("http://{instance}/p", "a:1:2", "the result is no URL"),
            ("http://{instance}/p", ":80", "the result is no URL"),
            ("http://{instance}/p", "a:", "its port is no port"),
            ("http://{instance}/p", "a:0", "its port is no port"),
            ("http://{instance}/p", "a:99999", "the result is no URL"),
            ("http://{instance}/p", "::1", "the result is no URL"),
            ("http://{instance}:6060/p", "a:1", "the result is no URL"),
            ("http://{instance}/p", "0x7f.1", "would mean something else"),
            ("http://{instance}/p", "2130706433", "would mean something else"),
            ("http://a/{x}/p", ".", "lead out of the path"),
            ("http://a/{x}/p", "..", "lead out of the path"),
            ("http://a/.{x}/p", ".", "lead out of the path"),
            ("http://a/{x}/p", &"x".repeat(3_000), "too long"),
        ] {
            let message = fill(text, value).unwrap_err();
            assert!(message.contains(why), "{text} with {value}: {message}");
            assert!(!message.contains(char::is_control) && message.len() < 300, "{message}");
        }
        let missing = template("http://{instance}/{pod}").fill(|name| (name == "instance").then_some("a")).unwrap_err();
        assert_eq!(missing.to_string(), "the series has no label `pod`, which `pprof` needs");
        assert_eq!(fill("http://{instance}/p", "").unwrap_err(), "the series has no label `instance`, which `pprof` needs");
    }

    #[test]
    fn what_could_never_be_filled_is_refused() {
        for (text, why) in [
            ("{instance}/debug/pprof", "not an http or https URL"),
            ("ftp://{instance}/debug/pprof", "not an http or https URL"),
            ("{scheme}://host/debug/pprof", "not an http or https URL"),
            ("http://joe:s3cr3t@{instance}/", "use auth"),
            ("http://{instance}/p?x={y}", "a query"),
            ("http://{instance/p", "not closed"),
            ("http://instance}/p", "not opened"),
            ("http://{a b}/p", "blanks"),
            ("http://{a-b}/p", "is not the name of a label"),
            ("http://{}/p", "is not the name of a label"),
            ("http://{a}/../p", "no URL"),
            ("http://{instance}/debug/pprof/heap", "leave the last part"),
            ("http:///{a}", "no URL"),
        ] {
            let message = text.parse::<Template>().unwrap_err().to_string();
            assert!(message.contains(why) && !message.contains("s3cr3t"), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn whatever_the_label_the_url_is_on_the_templates_host_or_the_labels(value in "(\\PC|[/@:.?#%\\\\ \n\\[\\]]|[a-z0-9]){0,20}") {
            if let Ok(url) = fill("http://gateway:6060/a/{x}/debug/pprof", &value) {
                let parsed = reqwest::Url::parse(&url).unwrap();
                prop_assert_eq!((parsed.host_str(), parsed.port()), (Some("gateway"), Some(6060)));
                prop_assert!(parsed.path().starts_with("/a/") && parsed.path().ends_with("/debug/pprof"));
                prop_assert_eq!(parsed.path().split('/').count(), 5);
            }
            if let Ok(url) = fill("http://{instance}/debug/pprof", &value) {
                let parsed = reqwest::Url::parse(&url).unwrap();
                prop_assert!(value.to_ascii_lowercase().starts_with(parsed.host_str().unwrap()) || value.starts_with('['));
                prop_assert_eq!(parsed.path(), "/debug/pprof");
            }
        }
    }
}
