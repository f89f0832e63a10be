//! Which instances of a target are copies of one process: what `fork` makes without `exec` shares its memory until one of them writes.
//!
//! Twenty children of a process of 300 MiB are no twenty incidents, though each has its RSS. While the incident of one stands, another of the
//! family that is as large has none of its own; one that grows beyond the first is again like any other.

use std::sync::Arc;

use super::dispatch::InstanceRef;
use super::instance::LiveInstance;
use crate::config;
use crate::host::{ProcDir, ProcError};
use crate::identity::SlotNumber;
use crate::incident::Order;

/// `PF_FORKNOEXEC` of the kernel's `sched.h`: set by `fork`, cleared by `exec`.
const FORKED: u32 = 0x40;
/// Larger or smaller by more than this part is no copy any more.
const ALIKE: u64 = 10;

/// Where a process came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Birth {
    pub parent: u32,
    /// It runs its parent's program on, in a copy of its memory.
    pub forked: bool,
}

impl Birth {
    pub fn read(dir: &ProcDir) -> Result<Birth, ProcError> {
        dir.stat().map(|stat| Birth { parent: stat.ppid.unsigned_abs(), forked: stat.flags & FORKED != 0 })
    }
}

/// Instances whose incident stands.
#[derive(Debug, Default)]
pub(super) struct Kinships(Vec<KinIncident>);

#[derive(Debug)]
struct KinIncident {
    target: Arc<config::Target>,
    number: SlotNumber,
    pid: u32,
    birth: Birth,
    rss: u64,
}

impl Kinships {
    /// The pid of the instance whose incident this order is of.
    pub fn held_by(&self, place: &InstanceRef<'_>, order: &Order) -> Option<u32> {
        let (pid, birth) = of(place.live).filter(|_| is_new(order))?;
        let is_kin = |other: &&KinIncident| {
            let siblings = birth.forked && other.birth.forked && birth.parent == other.birth.parent && birth.parent > 1;
            let family = siblings || (birth.forked && birth.parent == other.pid) || (other.birth.forked && other.birth.parent == pid);
            let alike = order.fired.rss_bytes.abs_diff(other.rss) <= other.rss / ALIKE;
            other.number != place.number && other.target.name == place.target.name && family && alike
        };
        self.0.iter().find(is_kin).map(|other| other.pid)
    }

    /// An incident begins.
    pub fn note(&mut self, place: &InstanceRef<'_>, order: &Order) {
        if is_new(order) {
            self.remember(place.target, place.number, place.live, order.fired.rss_bytes);
        }
    }

    /// The incident of this instance stands; it fired at `rss` bytes.
    pub fn remember(&mut self, target: &Arc<config::Target>, number: SlotNumber, live: &LiveInstance, rss: u64) {
        self.forget(target, number);
        if let Some((pid, birth)) = of(live) {
            self.0.push(KinIncident { target: target.clone(), number, pid, birth, rss });
        }
    }

    /// The incident of this place is over.
    pub fn forget(&mut self, target: &config::Target, number: SlotNumber) {
        self.0.retain(|known| known.number != number || known.target.name != target.name);
    }

    /// Other targets are watched.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn is_new(order: &Order) -> bool {
    order.incident.is_none() && !order.fired.trigger.is_asked()
}

fn of(live: &LiveInstance) -> Option<(u32, Birth)> {
    Some((live.id.pid()?, live.local()?.birth))
}
