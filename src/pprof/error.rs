//! Why bytes are no profile, in words for the person who has to fetch a better one.

use std::io;

use crate::units::ByteSize;

/// Why a body is not a complete profile. Byte positions count the profile after decompression.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("empty")]
    Empty,
    #[error("a web page, not a profile")]
    Html,
    #[error("text, not a profile; it begins with `{start}`")]
    Text { start: String },
    #[error("cut off: the gzip stream ends before its trailer, after {inflated} bytes of profile")]
    TruncatedGzip { inflated: u64 },
    #[error("damaged gzip stream after {inflated} bytes of profile: {reason}")]
    DamagedGzip { inflated: u64, reason: String },
    #[error("more than {limit} after decompression")]
    TooLarge { limit: ByteSize },
    #[error("more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("malformed profile at byte {at}: {what}")]
    Malformed { at: u64, what: String },
    #[error("a profile without sample types")]
    NoSampleTypes,
    #[error("cannot be read")]
    Io(#[source] io::Error),
}

impl DecodeError {
    pub(super) fn malformed(at: u64, what: impl Into<String>) -> DecodeError {
        DecodeError::Malformed { at, what: what.into() }
    }

    /// What to do about it, as a clause that can follow the message.
    pub fn advice(&self) -> &'static str {
        match self {
            DecodeError::Empty => "fetch it again: the server sent no body",
            DecodeError::Html => "check the address: it should be a profile below /debug/pprof, such as /debug/pprof/heap",
            DecodeError::Text { start } if start.contains("profile:") || start.starts_with("goroutine ") || start.starts_with("--- ") => {
                "fetch it without `debug=`: only then is it a binary profile"
            }
            DecodeError::Text { .. } => "read it: it may be the server's error message",
            DecodeError::TruncatedGzip { .. } | DecodeError::DamagedGzip { .. } => "fetch it again: the transfer did not complete",
            DecodeError::TooLarge { .. } | DecodeError::TooMany { .. } => "look at it with `go tool pprof`, which has no such limit",
            DecodeError::Malformed { .. } | DecodeError::NoSampleTypes => "check that it came from a pprof endpoint and is complete",
            DecodeError::Io(_) => "check the file and its permissions",
        }
    }
}

/// Looks at the first bytes of what failed to decode: a page or a text says more than a bad varint does.
pub(super) fn name_by_content(head: &[u8], error: DecodeError) -> DecodeError {
    if !matches!(error, DecodeError::Malformed { .. } | DecodeError::NoSampleTypes) {
        return error;
    }
    // The head may end inside of a character.
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => head.get(..e.valid_up_to()).and_then(|h| std::str::from_utf8(h).ok()).unwrap_or(""),
        Err(_) => return error,
    };
    let text = text.trim_start();
    if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return error;
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("<!doctype html") || lower.starts_with("<html") || lower.starts_with("<?xml") {
        return DecodeError::Html;
    }
    DecodeError::Text { start: text.lines().next().unwrap_or("").chars().take(60).collect() }
}
