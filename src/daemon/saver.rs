//! What outlives memtrap, on its way to the disk.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::aside::Lane;
use crate::error::chain;
use crate::state::{KeptFloors, Saved, Store};

/// Stores every newest state, and the floors of each hour, until the watcher has ended.
pub(super) async fn keep_saved(
    store: Store,
    lane: Lane,
    mut states: watch::Receiver<Option<Saved>>,
    floors: Option<mpsc::UnboundedReceiver<KeptFloors>>,
) {
    let store = Arc::new(store);
    let mut floors = floors.unwrap_or_else(|| mpsc::unbounded_channel().1);
    loop {
        tokio::select! {
            biased;
            Some(kept) = floors.recv() => {
                let store = store.clone();
                if let Ok(Err(error)) = lane.run(move || store.save_floors(&kept)).await {
                    tracing::error!(error = chain(&error), "floors not stored; after a restart now `leak` would know less");
                }
            }
            changed = states.changed() => {
                if changed.is_err() {
                    break;
                }
                let Some(saved) = states.borrow_and_update().clone() else { continue };
                let store = store.clone();
                if let Ok(Err(error)) = lane.run(move || store.save(&saved)).await {
                    tracing::error!(error = chain(&error), "state not stored; a restart now would forget incidents and cooldowns");
                }
            }
        }
    }
}
