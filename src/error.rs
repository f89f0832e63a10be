//! Errors as people read them. Each error names its operation and subject and not its source; the chain is put together once, at an
//! edge: stderr, a log field, a manifest's reason.

/// The error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source()).fold(error.to_string(), |text, e| format!("{text}: {e}"))
}
