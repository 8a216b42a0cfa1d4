//! Putting pages of the segment map into the bucket. [`crate::read::Reader::read_map_page`] reads
//! them back.
//!
//! May not touch: which runs go into a page, and when (the partition's owner decides); what their
//! bytes mean (`segment/map_page.rs`).

use std::sync::Arc;

use firn_proto::cluster::{ArchivedRun, MapPage, SegmentKey};
use firn_proto::env::Entropy;
use firn_proto::ids::TopicPartition;
use thiserror::Error;

use crate::bucket::{Bucket, Purpose};
use crate::creation::{Creation, create};
use crate::layout::{Key, Place};
use crate::segment::{MapPageFault, encode_map_page};

pub use crate::creation::CreateError;

/// Why a page is not in the bucket, or cannot be known to be.
#[derive(Clone, Debug, Error)]
pub enum WritePageError {
    /// The runs make no page.
    #[error("runs of {tp} make no page of the segment map: {fault}")]
    Runs {
        /// The partition.
        tp: TopicPartition,
        /// Why.
        fault: MapPageFault,
    },
    /// Other bytes are there: a number was used twice.
    #[error("{0} is there already with other bytes: nothing but this process may write it")]
    Foreign(Key),
    /// The bucket did not take it, or does not answer.
    #[error("a page of the segment map: {0}")]
    Create(#[from] CreateError),
}

/// Puts the page `key` with `runs` of a partition, which are contiguous; the result is what the
/// coordinator is told. After an error, and until it was told, the page may lie in the bucket with
/// nothing that names it.
///
/// # Errors
/// [`WritePageError`].
pub async fn write_map_page(
    bucket: &Bucket,
    entropy: &Entropy,
    tp: TopicPartition,
    key: SegmentKey,
    runs: &[Arc<ArchivedRun>],
) -> Result<MapPage, WritePageError> {
    let wrong = |fault| WritePageError::Runs { tp, fault };
    let bytes = encode_map_page(tp, runs).map_err(wrong)?;
    let page = page_of(key, runs, bytes.len()).ok_or_else(|| wrong(MapPageFault::Order(0)))?;
    let object = Place::MapPage {
        topic: tp.topic,
        page: key,
    }
    .key();
    match create(bucket, entropy, Purpose::Map, &object, bytes.into()).await? {
        Creation::Ours => Ok(page),
        Creation::Theirs(_) => Err(WritePageError::Foreign(object)),
    }
}

fn page_of(key: SegmentKey, runs: &[Arc<ArchivedRun>], byte_len: usize) -> Option<MapPage> {
    let timestamps = runs.iter().map(|run| run.max_timestamp);
    Some(MapPage {
        key,
        base_offset: runs.first()?.base_offset,
        last_offset: runs.last()?.last_offset,
        max_timestamp: timestamps.max()?,
        runs: u32::try_from(runs.len()).ok()?,
        run_bytes: runs.iter().map(|run| run.bytes()).sum(),
        byte_len: u32::try_from(byte_len).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use firn_proto::env::SystemClock;
    use firn_proto::ids::Incarnation;

    use super::*;
    use crate::bucket::Operation;
    use crate::bucket::testing::{Fault, FaultStore, On, Rule};
    use crate::cache::{CachedObjects, MapCache, TailCache};
    use crate::read::{ReadError, Reader};
    use crate::segment::map_page::tests::{runs, tp};

    const KEY: SegmentKey = SegmentKey {
        incarnation: Incarnation(4),
        number: 11,
    };

    struct World {
        store: FaultStore,
        bucket: Bucket,
        reader: Reader,
        entropy: Arc<Entropy>,
    }

    fn world() -> World {
        let store = FaultStore::in_memory();
        let entropy = Arc::new(Entropy::from_seed(1));
        let clock = Arc::new(SystemClock::new());
        let bucket = Bucket::from_store(Arc::new(store.clone()), clock, Arc::clone(&entropy));
        let objects = CachedObjects::new(bucket.clone(), Arc::new(MapCache::new(1 << 24)));
        World {
            store,
            reader: Reader::new(Arc::new(TailCache::new(0)), objects),
            bucket,
            entropy,
        }
    }

    impl World {
        async fn write(&self, runs: &[Arc<ArchivedRun>]) -> Result<MapPage, WritePageError> {
            write_map_page(&self.bucket, &self.entropy, tp(), KEY, runs).await
        }
    }

    #[tokio::test]
    async fn a_page_is_read_back_with_one_get_and_then_from_the_cache() {
        let world = world();
        let page = world.write(&runs(70, 512)).await.unwrap();
        assert_eq!(
            (page.base_offset, page.last_offset, page.runs),
            (70, 5189, 512)
        );
        for _ in 0..3 {
            let found = world.reader.read_map_page(tp(), &page).await.unwrap();
            assert_eq!(found, runs(70, 512));
        }
        let usage = world.bucket.usage();
        assert_eq!(usage.requests(Purpose::Map, Operation::Get), 1);
        assert_eq!(usage.requests(Purpose::Map, Operation::Create), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_whose_answer_is_lost_is_found_to_be_done() {
        for fault in [
            Fault::AnswerLost,
            Fault::RequestLost,
            Fault::FailedAfter,
            Fault::Throttled,
        ] {
            let world = world();
            world.store.inject(Rule::new(On::Put, fault));
            let page = world.write(&runs(0, 3)).await.unwrap();
            let found = world.reader.read_map_page(tp(), &page).await.unwrap();
            assert_eq!(found, runs(0, 3), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_page_is_never_written_over() {
        let world = world();
        let page = world.write(&runs(0, 3)).await.unwrap();
        assert_eq!(
            world.write(&runs(0, 3)).await.unwrap(),
            page,
            "the same again"
        );
        let other = world.write(&runs(0, 4)).await;
        assert!(
            matches!(other, Err(WritePageError::Foreign(_))),
            "{other:?}"
        );
        let none = world.write(&[]).await;
        assert!(matches!(none, Err(WritePageError::Runs { .. })), "{none:?}");
    }

    #[tokio::test]
    async fn wrong_bytes_are_fetched_once_more_and_then_are_corruption() {
        let world = world();
        let page = world.write(&runs(0, 3)).await.unwrap();
        world.store.inject(Rule::new(On::Get, Fault::BitFlip));
        let found = world.reader.read_map_page(tp(), &page).await.unwrap();
        assert_eq!(found, runs(0, 3));
        let other = MapPage {
            last_offset: page.last_offset + 1,
            ..page
        };
        let wrong = world.reader.read_map_page(tp(), &other).await;
        assert!(matches!(wrong, Err(ReadError::Corrupt { .. })), "{wrong:?}");
        let gone = MapPage {
            key: SegmentKey { number: 12, ..KEY },
            ..page
        };
        let gone = world.reader.read_map_page(tp(), &gone).await;
        assert!(matches!(gone, Err(ReadError::Gone { .. })), "{gone:?}");
    }
}
