//! The creates that are under way, by path.
//!
//! A create that nobody waits for any more goes on in its thread, and what it has linked is there
//! for all to see before the fsync of the directory has made it durable. So a path has one create
//! at a time, and who reads it waits until that has ended: what is seen earlier proves nothing (I2).
//! Whoever gives up waiting leaves nothing behind, neither a thread nor a copy of the body.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::path::Path;
use tokio::sync::watch;

/// Creates under way. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Creating(Arc<Mutex<BTreeMap<Path, watch::Sender<()>>>>);

/// The one create of a path that is under way, until it is dropped.
#[derive(Debug)]
pub(super) struct CreateTurn {
    creating: Creating,
    path: Path,
}

impl Creating {
    /// Waits until nobody else creates `path`, and creates it from now on.
    pub(super) async fn begin(&self, path: &Path) -> CreateTurn {
        loop {
            let mut ended = match self.by_path().entry(path.clone()) {
                Entry::Occupied(other) => other.get().subscribe(),
                Entry::Vacant(place) => {
                    place.insert(watch::Sender::new(()));
                    return CreateTurn {
                        creating: self.clone(),
                        path: path.clone(),
                    };
                }
            };
            until_closed(&mut ended).await;
        }
    }

    /// Waits until nobody creates `path`.
    pub(super) async fn ended(&self, path: &Path) {
        loop {
            let Some(mut ended) = self.by_path().get(path).map(watch::Sender::subscribe) else {
                return;
            };
            until_closed(&mut ended).await;
        }
    }

    /// Whether somebody creates `path` now.
    pub(super) fn is_under_way(&self, path: &Path) -> bool {
        self.by_path().contains_key(path)
    }

    /// How many wait for the create of `path` to end.
    #[cfg(test)]
    pub(super) fn waiting(&self, path: &Path) -> usize {
        self.by_path()
            .get(path)
            .map_or(0, watch::Sender::receiver_count)
    }

    fn by_path(&self) -> MutexGuard<'_, BTreeMap<Path, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing is ever sent: the wait ends when the turn is over and its sender is dropped.
async fn until_closed(ended: &mut watch::Receiver<()>) {
    while ended.changed().await.is_ok() {}
}

impl Drop for CreateTurn {
    fn drop(&mut self) {
        self.creating.by_path().remove(&self.path);
    }
}
