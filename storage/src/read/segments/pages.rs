//! Reading pages of the segment map.

use std::sync::Arc;

use bytes::Bytes;
use firn_proto::cluster::{ArchivedRun, MapPage};
use firn_proto::ids::TopicPartition;

use crate::layout::Place;
use crate::read::cold::from_object;
use crate::read::{ReadError, Reader};
use crate::segment::{MapPageFault, decode_map_page};

impl Reader {
    /// The runs of a page of the segment map, in order, contiguous.
    ///
    /// # Errors
    /// [`ReadError::Gone`], [`ReadError::Corrupt`], [`ReadError::Bucket`].
    pub async fn read_map_page(
        &self,
        tp: TopicPartition,
        page: &MapPage,
    ) -> Result<Vec<Arc<ArchivedRun>>, ReadError> {
        let key = Place::MapPage {
            topic: tp.topic,
            page: page.key,
        }
        .key();
        let pages = &self.0.segments.pages;
        let range = 0..u64::from(page.byte_len);
        let mut was_fetched_anew = false;
        loop {
            let bytes = match was_fetched_anew {
                false => pages.read(&key, range.clone()).await,
                true => pages.read_again(&key, range.clone()).await,
            };
            let bytes = bytes.map_err(|error| from_object(tp, error))?;
            match decode(&bytes, tp, page) {
                Ok(runs) => return Ok(runs),
                Err(fault) => {
                    let (key, offset) = (key.clone(), page.base_offset);
                    self.on_fault(tp, key, offset, &fault, was_fetched_anew)?;
                    was_fetched_anew = true;
                }
            }
        }
    }
}

fn decode(
    bytes: &Bytes,
    tp: TopicPartition,
    page: &MapPage,
) -> Result<Vec<Arc<ArchivedRun>>, MapPageFault> {
    let (found, runs) = decode_map_page(bytes)?;
    let base_offset = runs.first().map(|run| run.base_offset);
    let last_offset = runs.last().map(|run| run.last_offset);
    let is_it = found == tp
        && (base_offset, last_offset) == (Some(page.base_offset), Some(page.last_offset))
        && runs.len() as u64 == u64::from(page.runs);
    if is_it {
        Ok(runs)
    } else {
        Err(MapPageFault::Other)
    }
}
