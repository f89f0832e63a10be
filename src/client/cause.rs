//! Why a request got no answer, from what the libraries say: the innermost message, and the cure where it is known.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::gate::Withheld;
use crate::text::one_line;

const NOT_TRUSTED: &str = "name the certificate of whoever signed it in `ca_file`";
const OTHER_NAME: &str = "use one of its names in the URL, or have a certificate made that holds this one";
const EXPIRED: &str = "renew the service's certificate";
const NOT_YET_VALID: &str = "set the clock right, of this host or of the one that made the certificate";
const REVOKED: &str = "have another certificate made for the service";
const CA_AS_SERVER: &str = "a certificate authority's own certificate cannot serve: have one made that is none (`basicConstraints=CA:FALSE`), and name it in `ca_file`";
const NO_ROOTS: &str = "install the system's certificates (ca-certificates), or name the service's in `ca_file`";
const WANTS_CERTIFICATE: &str =
    "the service wants a certificate of its clients: name one that it accepts in `client_cert_file`, with `client_key_file`";
const OWN_REFUSED: &str = "the service does not accept the certificate in `client_cert_file`: name one of an authority that it trusts";
const NOT_TLS: &str = "what answers there does not speak TLS: write http:// if it serves plain HTTP";
const NOT_HTTP: &str = "what answers there does not speak HTTP: write https:// if it serves TLS";
const HUNG_UP: &str = "if that port serves TLS, write https://";
const NO_COMMON_TLS: &str = "TLS 1.2 or 1.3 with a modern cipher is needed on the service's side";
/// How servers of TLS answer a request in the clear: Go's, nginx's and Apache's.
const IN_THE_CLEAR: [&str; 3] =
    ["http request to an https server", "plain http request was sent to https port", "plain http to an ssl-enabled server port"];

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cause {
    why: String,
    cure: Option<&'static str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Refused,
    Forbidden,
    /// Wrong for as long as nobody mends it.
    Lasting,
    Passing,
}

impl Cause {
    pub fn of(error: &(dyn Error + 'static)) -> Cause {
        let mut cause = Cause { why: root_cause(error), cure: None, kind: Kind::Passing };
        for e in causes(error) {
            if let Some(e) = e.downcast_ref::<rustls::Error>() {
                cause.cure = cure_of_tls(e);
                cause.kind = cause.cure.map_or(cause.kind, |_| Kind::Lasting);
            } else if let Some(e) = e.downcast_ref::<hyper::Error>() {
                if e.is_parse() {
                    (cause.cure, cause.kind) = (Some(NOT_HTTP), Kind::Lasting);
                } else if e.is_incomplete_message() {
                    (cause.why, cause.cure) = ("the service closed the connection without an answer".into(), Some(HUNG_UP));
                }
            } else if let Some(e) = e.downcast_ref::<io::Error>() {
                match e.kind() {
                    io::ErrorKind::ConnectionRefused => cause.kind = Kind::Refused,
                    io::ErrorKind::PermissionDenied => cause.kind = Kind::Forbidden,
                    _ => {}
                }
            }
        }
        cause
    }

    /// Nothing was tried, and nothing will help but this cure.
    pub fn lasting(why: &dyn fmt::Display, cure: &'static str) -> Cause {
        Cause { why: one_line(&why.to_string(), 200), cure: Some(cure), kind: Kind::Lasting }
    }

    /// Of a request that took too long.
    pub fn passing(why: &str) -> Cause {
        Cause { why: why.into(), cure: None, kind: Kind::Passing }
    }

    pub fn is_refused(&self) -> bool {
        self.kind == Kind::Refused
    }

    pub fn is_forbidden(&self) -> bool {
        self.kind == Kind::Forbidden
    }

    /// Another attempt would end the same.
    pub fn is_lasting(&self) -> bool {
        matches!(self.kind, Kind::Lasting | Kind::Forbidden)
    }

    /// With `cure` where none is known.
    pub fn with(&self, cure: &str) -> String {
        format!("{}; {}", self.why, self.cure.unwrap_or(cure))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        self.cure.map_or(Ok(()), |cure| write!(f, "; {cure}"))
    }
}

/// The line of an error page that says that the port serves TLS, and was asked in the clear.
pub(crate) fn says_in_the_clear(page: &str) -> bool {
    let page = page.to_ascii_lowercase();
    IN_THE_CLEAR.iter().any(|words| page.contains(words))
}

/// What to do about a request in the clear to a port that serves TLS.
pub(crate) const USE_HTTPS: &str = "the port serves TLS: write https://";

/// Why credentials were held back, and nothing sent, if that is what happened.
pub(crate) fn withheld(error: &reqwest::Error) -> Option<String> {
    causes(error).find_map(|e| e.downcast_ref::<Withheld>()).map(Withheld::to_string)
}

/// The innermost message of an error: what the system said.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    one_line(&causes(error).last().map(ToString::to_string).unwrap_or_default(), 200)
}

/// An error with what caused it, the outermost first. What an `io::Error` wraps counts: `source` leaves it out.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |e| {
        let e: &'e (dyn Error + 'static) = *e;
        match e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => e.source(),
        }
    })
}

fn cure_of_tls(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(why) => Some(match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => EXPIRED,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => NOT_YET_VALID,
            CertificateError::Revoked => REVOKED,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => OTHER_NAME,
            // the verifier's own error has no other name here
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => CA_AS_SERVER,
            _ => NOT_TRUSTED,
        }),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(NOT_TLS),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => Some(WANTS_CERTIFICATE),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Some(OWN_REFUSED),
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
                Some(NO_COMMON_TLS)
            }
            AlertDescription::UnrecognisedName => Some(OTHER_NAME),
            _ => None,
        },
        rustls::Error::PeerIncompatible(_) => Some(NO_COMMON_TLS),
        // what the verifier says when it has found none
        rustls::Error::General(why) if why.contains("No CA certificates") => Some(NO_ROOTS),
        _ => None,
    }
}
