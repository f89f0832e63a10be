//! Who may ask: the token, and the marks by which a browser tells that another site's page is behind a request. Pure.
//!
//! A page of any site that is open in a browser on this host can send requests to loopback, and by rebinding its name's address even read the
//! answers. It can neither choose the `Host` that the browser sends for its own name, nor leave out `Origin` and `Sec-Fetch-Site`, nor know the
//! token. Scripts, Prometheus and Alertmanager send none of those marks, and need none.

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, StatusCode, Uri};
use ring::digest::{SHA256, digest};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Kept as its sum: neither its length nor how much of a guess is right shows in the time that a comparison takes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    pub fn new(secret: &str) -> Token {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Token(sum)
    }

    fn is(&self, given: &str) -> bool {
        let given = Token::new(given);
        self.0.iter().zip(given.0).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "this memtrap answers only to its own address: ask for localhost or 127.0.0.1, or give it a token_file where a proxy keeps another Host"
    )]
    Host,
    #[error("the request comes from a page of another site")]
    CrossSite,
    #[error("a token is needed: send `Authorization: Bearer TOKEN`, or as a browser the token as the password of any user")]
    Token,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Refusal::Host => StatusCode::MISDIRECTED_REQUEST,
            Refusal::CrossSite => StatusCode::FORBIDDEN,
            Refusal::Token => StatusCode::UNAUTHORIZED,
        }
    }
}

/// What stands between a listening socket and its answers.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub token: Option<Token>,
    /// Browsers can reach it: it is no unix socket.
    pub is_tcp: bool,
}

impl Guard {
    /// `open`: what is asked for tells nothing, so that no token is needed.
    pub fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap, open: bool) -> Result<(), Refusal> {
        let text = |name: &HeaderName| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
        let host = uri.authority().map(|a| a.as_str()).or_else(|| text(&HOST));
        // who has the token is no rebound page
        if self.is_tcp && self.token.is_none() && !host.is_some_and(is_loopback) {
            return Err(Refusal::Host);
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let allowed = match text(&SEC_FETCH_SITE) {
            Some("same-origin" | "none") => true,
            // a link elsewhere that is followed
            Some(_) => reads && text(&SEC_FETCH_MODE) == Some("navigate"),
            None => reads || text(&ORIGIN).is_none_or(|origin| host.is_some_and(|host| is_of(origin, host))),
        };
        if !allowed {
            return Err(Refusal::CrossSite);
        }
        match &self.token {
            Some(token) if !open && !text(&AUTHORIZATION).and_then(presented).is_some_and(|given| token.is(&given)) => Err(Refusal::Token),
            _ => Ok(()),
        }
    }
}

/// Whether `host`, with or without a port, names loopback itself: by its number, or by the one name that no resolver is asked for.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, port)) if port.is_empty() || port.starts_with(':') => v6,
        Some(_) => return false,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn is_of(origin: &str, host: &str) -> bool {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// The token of `Bearer TOKEN`, or of `Basic`, where it is the password.
fn presented(authorization: &str) -> Option<String> {
    let (scheme, value) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| base64(value.trim()))??;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// Standard base64; `None` for anything else.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for b in text.trim_end_matches('=').bytes() {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(guard: &Guard, method: Method, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        guard.admit(&method, &Uri::from_static("/"), &map, false)
    }

    const LOOPBACK: Guard = Guard { token: None, is_tcp: true };

    #[test]
    fn loopback_answers_only_to_its_own_names() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9709", "127.9.9.9", "[::1]:9709", "[::1]"] {
            assert_eq!(ask(&LOOPBACK, Method::GET, &[("host", host)]), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9709", "10.0.0.1", "", "[::1].evil", "::1", "0.0.0.0"]
        {
            assert_eq!(ask(&LOOPBACK, Method::GET, &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(ask(&LOOPBACK, Method::GET, &[]), Err(Refusal::Host));
        let whole = Uri::from_static("http://evil.example/");
        let headers = HeaderMap::from_iter([(HOST, "localhost".parse().unwrap())]);
        assert_eq!(LOOPBACK.admit(&Method::GET, &whole, &headers, true), Err(Refusal::Host), "an absolute URI is what counts");
    }

    #[test]
    fn a_page_of_another_site_neither_triggers_nor_reads() {
        let host = ("host", "127.0.0.1:9709");
        for (method, headers, expected) in [
            (Method::POST, vec![], Ok(())),
            (Method::POST, vec![("origin", "http://127.0.0.1:9709")], Ok(())),
            (Method::POST, vec![("origin", "http://127.0.0.1:8080")], Err(Refusal::CrossSite)),
            (Method::POST, vec![("origin", "null")], Err(Refusal::CrossSite)),
            (Method::POST, vec![("sec-fetch-site", "same-origin"), ("origin", "https://proxy.example")], Ok(())),
            (Method::POST, vec![("sec-fetch-site", "same-site")], Err(Refusal::CrossSite)),
            (Method::POST, vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], Err(Refusal::CrossSite)),
            (Method::GET, vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], Err(Refusal::CrossSite)),
            (Method::GET, vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], Ok(())),
            (Method::GET, vec![("sec-fetch-site", "none")], Ok(())),
        ] {
            let all = [vec![host], headers].concat();
            assert_eq!(ask(&LOOPBACK, method.clone(), &all), expected, "{method} {all:?}");
        }
    }

    #[test]
    fn a_token_is_a_bearer_or_a_password() {
        let guard = Guard { token: Some(Token::new("s3cr3t-token-of-16")), is_tcp: true };
        let with = |value| ask(&guard, Method::GET, &[("host", "memtrap.internal"), ("authorization", value)]);
        assert_eq!(with("Bearer s3cr3t-token-of-16"), Ok(()));
        assert_eq!(with("bearer  s3cr3t-token-of-16"), Ok(()));
        assert_eq!(with("Basic b3BzOnMzY3IzdC10b2tlbi1vZi0xNg=="), Ok(()));
        for wrong in ["Bearer s3cr3t-token-of-17", "Bearer", "Bearer ", "s3cr3t-token-of-16", "Basic !!", "Basic b3Bz", "Digest x"] {
            assert_eq!(with(wrong), Err(Refusal::Token), "{wrong}");
        }
        assert_eq!(ask(&guard, Method::GET, &[]), Err(Refusal::Token));
        assert_eq!(guard.admit(&Method::GET, &Uri::from_static("/healthz"), &HeaderMap::new(), true), Ok(()));
    }
}
