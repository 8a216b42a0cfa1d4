//! The bucket's folder, which must not outgrow the disk while the load runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use firn_benches::folder::{empty, files};
use firn_tests::wait;

use crate::Ending;

/// What stays in the bucket of all that the load writes.
const BYTES_KEPT: u64 = 4 << 30;
/// Shorter objects are not WAL objects under this load, and stay.
const OBJECT_BYTES_MIN: u64 = 256 << 10;

/// Runs `work` while the oldest of the objects that it adds to `bucket` are emptied. What was
/// there before stays as it is.
pub(crate) fn while_old_objects_are_emptied<T>(bucket: &Path, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let mut spared: BTreeSet<PathBuf> = files(bucket).into_iter().collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                empty_old_objects(bucket, &mut spared);
                wait::pause(Duration::from_millis(500));
            }
        });
        let ending = Ending::of(&done);
        let result = work();
        drop(ending);
        result
    })
}

/// Empties the oldest long objects until [`BYTES_KEPT`] are left.
fn empty_old_objects(bucket: &Path, spared: &mut BTreeSet<PathBuf>) {
    let mut objects = Vec::new();
    for path in files(bucket) {
        if spared.contains(&path) {
            continue;
        }
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        if metadata.len() >= OBJECT_BYTES_MIN {
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            objects.push((written, metadata.len(), path));
        }
    }
    objects.sort_unstable();
    let mut left: u64 = objects.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in objects {
        if left <= BYTES_KEPT {
            break;
        }
        if empty(&path).is_ok() {
            left -= bytes;
            spared.insert(path);
        }
    }
}
