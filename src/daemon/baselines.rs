//! Baselines, one after the other. The watcher offers few at a time, so that each is taken soon after its instance was seen healthy.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::requests;
use crate::aside::Lane;
use crate::calendar::Calendar;
use crate::capture;
use crate::clock;
use crate::error::chain;
use crate::poll::Baseline;

/// Takes what is queued until it is dropped, or told to stop.
#[derive(Debug)]
pub(super) struct Baselines {
    dir: PathBuf,
    queue: mpsc::UnboundedSender<Baseline>,
}

impl Baselines {
    /// With `dir` as the place where baselines are kept. Forgets those of processes that are gone.
    pub fn start(dir: PathBuf, env: Arc<capture::Env>, calendar: Arc<Calendar>, stop: watch::Receiver<bool>) -> io::Result<Baselines> {
        let lane = Lane::start("baselines")?;
        let (cleaned, its_env, its_calendar) = (dir.clone(), env.clone(), calendar.clone());
        lane.give(move || capture::baseline::clean(&cleaned, &its_env.procfs, &its_env.boot_id, &its_calendar, clock::wall_now()));
        let (queue, waiting) = mpsc::unbounded_channel();
        tokio::spawn(take_each(waiting, env, dir.clone(), (lane, calendar), stop));
        Ok(Baselines { dir, queue })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn queue(&self, baseline: Baseline) {
        if self.queue.send(baseline).is_err() {
            tracing::error!("nobody takes baselines any more");
        }
    }
}

async fn take_each(
    mut waiting: mpsc::UnboundedReceiver<Baseline>,
    env: Arc<capture::Env>,
    dir: PathBuf,
    (lane, calendar): (Lane, Arc<Calendar>),
    stop: watch::Receiver<bool>,
) {
    while let Some(baseline) = waiting.recv().await {
        if *stop.borrow() {
            return;
        }
        let (name, instance) = (baseline.subject.target.name.clone(), baseline.subject.label.clone());
        let (env, dir, stop, _place) = (env.clone(), dir.clone(), stop.clone(), baseline.place.clone());
        let tidy = (lane.clone(), calendar.clone());
        // a task of its own, so that a panic ends this one and no other
        let taken = tokio::spawn(async move { capture::baseline::take(requests::healthy(baseline), &env, dir, tidy, stop).await }).await;
        match taken {
            Ok(Ok(())) => tracing::debug!(target_name = name, instance, "baseline taken"),
            Ok(Err(error)) => tracing::warn!(target_name = name, instance, error = chain(&error), "no baseline"),
            Err(crash) => tracing::error!(target_name = name, instance, error = %crash, "a baseline crashed, which is a bug in memtrap"),
        }
    }
}
