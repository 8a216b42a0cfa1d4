//! Deleting from the bucket what nothing needs any more.
//!
//! - `streams.rs`: WAL slots below a floor, checkpoint objects
//! - `topics.rs`: segments, map pages, whole topics, and what an ended process left behind
//!
//! Everything here may be done again after a crash, and is asked for with names wherever they are
//! known: LIST is for what no name is known of. Many objects go with one request.
//!
//! Architecture invariant: decides nothing. What may go is in the coordinator's journal before it is
//! asked for here (I7, I9), and is reported there when it is done.

mod streams;
mod topics;

use firn_proto::limits::GARBAGE_LISTED_MAX;

use crate::bucket::{Bucket, BucketError, Purpose};
use crate::layout::Key;
use crate::listing::Listing;

pub use streams::{
    OwnCheckpoints, collect_checkpoints, collect_slots, delete_all_checkpoints, delete_checkpoints,
};
pub use topics::{
    Orphans, delete_map_pages, delete_segments, delete_table, orphans, topics_with_tables,
};

/// Keys that one request deletes: as many as S3 takes.
const KEYS_PER_DELETE: usize = GARBAGE_LISTED_MAX;
/// How often a folder is emptied before something is wrong with it: nobody writes there any more.
const PASSES_MAX: usize = 4;

/// Deletes objects; those that are not there count as deleted.
async fn delete_all(bucket: &Bucket, keys: impl Iterator<Item = Key>) -> Result<(), BucketError> {
    let mut batch = Vec::new();
    for key in keys {
        batch.push(key);
        if batch.len() == KEYS_PER_DELETE {
            bucket.delete(Purpose::Collect, &batch).await?;
            batch.clear();
        }
    }
    bucket.delete(Purpose::Collect, &batch).await
}

/// Deletes everything in a folder.
async fn empty(bucket: &Bucket, folder: &Key) -> Result<(), BucketError> {
    for _ in 0..PASSES_MAX {
        let purpose = Purpose::Collect;
        let mut listing = Listing::new(bucket, purpose, folder, None, KEYS_PER_DELETE);
        let mut is_empty = true;
        while let Some(page) = listing.next_page().await? {
            is_empty = false;
            delete_all(bucket, page.into_iter().map(|object| object.key)).await?;
        }
        if is_empty {
            return Ok(());
        }
    }
    Err(BucketError::Unfit {
        check: "delete",
        reason: format!("{folder} was emptied {PASSES_MAX} times and still has objects"),
    })
}

#[cfg(test)]
mod tests;
