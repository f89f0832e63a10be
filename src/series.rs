//! What is remembered of an instance's RSS.

use crate::clock::Mono;

/// One reading: when, and how many bytes were resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    pub at: Mono,
    pub rss: u64,
}
