//! A capture of a process that the kernel slows down, as its cgroup stands above `memory.high`: what makes the service work waits until that is over.

use super::super::step_result::{StepOutcome, StepResult};
use super::Runner;
use crate::bundle::Partial;
use crate::host::cgroup::CgroupRef;
use crate::host::slowing::Slowed;

/// What is known of it.
pub(in crate::capture) struct Slowing {
    cgroup: Option<CgroupRef>,
    is_so: bool,
}

impl Slowing {
    pub fn of(begun: &Partial) -> Slowing {
        Slowing { cgroup: None, is_so: begun.manifest().slowed.is_some() }
    }

    pub fn stands_in(&mut self, cgroup: Option<CgroupRef>) {
        self.cgroup = cgroup;
    }

    /// As of the last look.
    pub fn is_so(&self) -> bool {
        self.is_so
    }
}

impl Runner<'_> {
    /// Looks whether it is slowed down now.
    pub(super) async fn is_slowed(&mut self) -> Option<Slowed> {
        let cgroup = self.slowing.cgroup.clone()?;
        let slowed = self.lane.run(move || Slowed::now(&cgroup)).await.ok()?;
        self.slowing.is_so = slowed.is_some();
        slowed
    }
}

/// What is not asked of it now.
pub(super) fn put_off(slowed: &Slowed, is_late: bool) -> StepResult {
    let why = format!("{}: this would make the service work, and wait with it", slowed.words());
    if is_late {
        return StepResult::skipped(why, false);
    }
    StepResult { ending: StepOutcome::Late("its cgroup stood above its memory.high before"), notes: vec![why], ..StepResult::default() }
}
