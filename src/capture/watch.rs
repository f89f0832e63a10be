//! What may end a capture before its plan does: the process, or memtrap itself.

use std::fmt;
use std::time::{Duration, SystemTime};

use tokio::sync::watch::Receiver;
use tokio::time::{Interval, MissedTickBehavior};

use crate::clock;
use crate::host::ProcFs;
use crate::identity::InstanceId;

/// How soon a waiting request notices that nobody will answer it. A look costs some ten microseconds.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// When that was noticed.
    Gone(SystemTime),
    Stopped,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Gone(at) => write!(f, "process exited at {}", clock::rfc3339_millis(*at)),
            Ended::Stopped => write!(f, "memtrap was told to stop"),
        }
    }
}

pub(super) struct Watch {
    procfs: ProcFs,
    id: Option<InstanceId>,
    stop: Receiver<bool>,
    look: Interval,
    gone: Option<SystemTime>,
}

impl Watch {
    pub fn new(procfs: ProcFs, id: Option<InstanceId>, stop: Receiver<bool>) -> Watch {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watch { procfs, id, stop, look, gone: None }
    }

    /// Looks now. Once gone is gone for good.
    pub fn check(&mut self) -> Option<Ended> {
        if self.gone.is_none() && self.id.is_some_and(|id| !self.procfs.is_alive(id)) {
            self.gone = Some(crate::clock::wall_now());
        }
        // a stop is what the rest of the plan is skipped for, even if the process went first
        if *self.stop.borrow() { Some(Ended::Stopped) } else { self.gone.map(Ended::Gone) }
    }

    pub fn gone(&self) -> Option<SystemTime> {
        self.gone
    }

    /// Waits for either. Cancel safe: nothing is lost but the waiting.
    pub async fn ended(&mut self) -> Ended {
        loop {
            tokio::select! {
                _ = self.look.tick() => {
                    if let Some(why) = self.check() {
                        return why;
                    }
                }
                stopped = stopped(&mut self.stop) => return stopped,
            }
        }
    }

    /// Waits for `pause` to pass, or less.
    pub async fn pause(&mut self, pause: Duration) -> Option<Ended> {
        tokio::time::timeout(pause, self.ended()).await.ok()
    }
}

/// Nobody left to say stop means that nobody will.
async fn stopped(stop: &mut Receiver<bool>) -> Ended {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
    Ended::Stopped
}
