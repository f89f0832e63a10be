//! How one step ended: on the way to its entry in the manifest.

use super::plan::Step;
use crate::bundle::{FileEntry, Status, Sum};

/// How a step ended, before it is an entry.
#[derive(Default)]
pub(super) struct StepResult {
    pub source: Option<String>,
    pub file: Option<(String, Sum)>,
    pub attempts: u32,
    pub notes: Vec<String>,
    pub ending: StepOutcome,
}

#[derive(Default, PartialEq)]
pub(super) enum StepOutcome {
    #[default]
    Ok,
    /// Not taken; `wanted` if the bundle is complete without it.
    Skipped {
        wanted: bool,
    },
    Failed,
    /// Worth one other try when the rest of the plan is done: why it was not to be had now.
    Late(&'static str),
}

impl StepResult {
    pub fn skipped(reason: impl Into<String>, wanted: bool) -> StepResult {
        StepResult::default().skip(reason, wanted)
    }

    pub fn skip(mut self, reason: impl Into<String>, wanted: bool) -> StepResult {
        self.notes.push(reason.into());
        self.ending = StepOutcome::Skipped { wanted };
        self
    }

    pub fn failed(mut self, reason: impl Into<String>) -> StepResult {
        self.notes.push(reason.into());
        self.ending = StepOutcome::Failed;
        self
    }

    pub fn entry(self, step: &Step, milliseconds: u64) -> FileEntry {
        let (name, sum) = self.file.map_or((step.file.clone(), None), |(name, sum)| (name, Some(sum)));
        FileEntry {
            name,
            step: step.name.clone(),
            source: self.source,
            bytes: sum.as_ref().map_or(0, |s| s.bytes),
            sha256: sum.map(|s| s.sha256),
            milliseconds,
            attempts: self.attempts,
            status: match self.ending {
                StepOutcome::Ok => Status::Ok,
                StepOutcome::Skipped { .. } => Status::Skipped,
                StepOutcome::Failed | StepOutcome::Late(_) => Status::Failed,
            },
            reason: (!self.notes.is_empty()).then(|| self.notes.join("; ")),
        }
    }
}
