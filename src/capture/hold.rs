//! The brake of a capture: what is held while the light steps are taken, and what the bundle says of it.

use super::run::Runner;
use super::{Env, Request, Scope, THIS_PROGRAM};
use crate::brake::{self, Holding, NoBrake, Wish};
use crate::clock::human;
use crate::host::cgroup::CgroupRef;
use crate::units::ByteSize;

/// What came of the wish.
pub(super) enum Hold {
    /// Nobody has wished for it.
    No,
    Held(Holding),
    Not(NoBrake),
}

/// Holds the process's cgroup, if the target wants that and a rule near the limit has fired. Takes two seconds at most, and some milliseconds where the disk answers.
pub(super) async fn begin(request: &Request, env: &Env, cgroup: Option<CgroupRef>) -> Hold {
    let wants = request.target.capture.brake && request.scope == Scope::Full && brake::is_wanted(&request.fired);
    let (Some(journal), Some(cgroup)) = (env.brakes.clone().filter(|_| wants), cgroup) else { return Hold::No };
    let wish = Wish {
        cgroup,
        fired: request.fired.charge_cgroup.clone(),
        incident: request.incident_id.clone(),
        boot_id: env.boot_id.clone(),
        journal,
        procfs: env.procfs.clone(),
        program: THIS_PROGRAM.into(),
    };
    match Holding::begin(wish).await {
        Ok(holding) => Hold::Held(holding),
        Err(why) => {
            tracing::warn!(target_name = %request.target.name, %why, "its cgroup is not held");
            Hold::Not(why)
        }
    }
}

impl Hold {
    pub fn is_held(&self) -> bool {
        matches!(self, Hold::Held(_))
    }

    /// Lets go, and says in the bundle what was done.
    pub async fn end(self, runner: &mut Runner<'_>) {
        let said = match self {
            Hold::No => return,
            Hold::Not(why) => format!("its cgroup was not held (`brake`): {why}"),
            Hold::Held(holding) => {
                let brake::Braked { cgroup, high, before } = holding.braked.clone();
                let held = format!("memory.high of cgroup {cgroup} was set to {} for the first evidence (`brake`)", ByteSize(high));
                match holding.end().await {
                    Some(released) if released.was_ours => format!("{held}, for {}, and put back to {before}", human(released.held)),
                    Some(released) => format!("{held}; after {} somebody else had set it, and it was left so", human(released.held)),
                    None => format!("{held}, and is put back to {before} by its guard"),
                }
            }
        };
        runner.say(said).await;
    }
}
