//! `baseline/baseline.json`: of when the files beside it are.

use serde::{Deserialize, Serialize};

use super::Outcome;

/// About the baseline that a bundle compares with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineFacts {
    #[serde(default)]
    pub outcome: Option<Outcome>,
    pub rss_bytes: u64,
    /// RFC 3339.
    #[serde(default)]
    pub taken: Option<String>,
}
