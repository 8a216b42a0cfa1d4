//! Segments, pages of the segment map, and whole topics.

use std::sync::Arc;

use firn_proto::cluster::{EndedWriter, SegmentKey};
use firn_proto::ids::TopicId;
use firn_proto::limits::GARBAGE_LISTED_MAX;

use super::{KEYS_PER_DELETE, delete_all, empty};
use crate::bucket::{Bucket, BucketError, Purpose};
use crate::layout::{self, Key, ObjectName, Place, SegmentName};
use crate::listing::Listing;

/// Deletes segments.
///
/// # Errors
/// The bucket does not answer; some of the objects may be gone then.
pub async fn delete_segments(bucket: &Bucket, segments: &[SegmentName]) -> Result<(), BucketError> {
    delete_all(bucket, segments.iter().map(SegmentName::key)).await
}

/// Deletes pages of the segment map.
///
/// # Errors
/// As [`delete_segments`].
pub async fn delete_map_pages(
    bucket: &Bucket,
    pages: &[(TopicId, SegmentKey)],
) -> Result<(), BucketError> {
    let keys = pages.iter();
    let keys = keys.map(|&(topic, page)| Place::MapPage { topic, page }.key());
    delete_all(bucket, keys).await
}

/// Deletes everything of a topic that was deleted: its table with all segments, its part of the
/// segment map, and the directories of both. Its id is never given out again. A directory that cannot
/// be removed is left: all it costs is that lists look into it.
///
/// # Errors
/// As [`delete_segments`]; [`BucketError::Unfit`] if objects come again and again.
pub async fn delete_table(
    bucket: &Bucket,
    topic_name: &str,
    topic: TopicId,
) -> Result<(), BucketError> {
    for folder in [layout::table(topic_name, topic), layout::map_pages(topic)] {
        empty(bucket, &folder).await?;
        if let Err(error) = bucket.remove_empty_folder(&folder).await {
            tracing::warn!(
                %folder, %error,
                "the empty directory of a deleted topic could not be removed: remove it by hand"
            );
        }
    }
    Ok(())
}

/// Every topic that has a table in the bucket, also those that were deleted. About one LIST for each.
///
/// # Errors
/// The bucket does not answer.
pub async fn topics_with_tables(bucket: &Bucket) -> Result<Vec<(Arc<str>, TopicId)>, BucketError> {
    let folder = layout::tables();
    let mut topics: Vec<(Arc<str>, TopicId)> = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = bucket.list(
            Purpose::Collect,
            &folder,
            after.as_ref(),
            TABLE_LOOK_OBJECTS,
        );
        let page = page.await?;
        let Some(last) = page.last() else {
            return Ok(topics);
        };
        let mut tables = page
            .iter()
            .filter_map(|object| layout::topic_of_table(object.key.as_str()));
        after = Some(match tables.next() {
            Some((topic_name, topic)) => {
                topics.push((topic_name.into(), topic));
                layout::behind_table(topic_name, topic)
            }
            // Not ours, whoever put it there.
            None => last.key.clone(),
        });
    }
}

/// Objects that are listed to find the next table.
const TABLE_LOOK_OBJECTS: usize = 16;

/// What a process wrote and never brought into the segment map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Segments.
    pub segments: Vec<SegmentName>,
    /// Pages of the segment map.
    pub pages: Vec<(TopicId, SegmentKey)>,
    /// There may be more: delete these and ask again.
    pub has_more: bool,
}

impl Orphans {
    fn is_full(&self) -> bool {
        self.segments.len() + self.pages.len() >= GARBAGE_LISTED_MAX
    }
}

/// The orphans of an incarnation that has ended, among these topics. Lists two folders of each topic, from the incarnation's files on.
///
/// # Errors
/// The bucket does not answer.
pub async fn orphans(
    bucket: &Bucket,
    topics: &[(Arc<str>, TopicId)],
    writer: &EndedWriter,
) -> Result<Orphans, BucketError> {
    let mut found = Orphans::default();
    for (topic_name, topic) in topics {
        let folders = [
            layout::segments(topic_name, *topic),
            layout::map_pages(*topic),
        ];
        for folder in &folders {
            add_orphans(bucket, folder, writer, &mut found).await?;
            if found.is_full() {
                found.has_more = true;
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Adds the orphans of one folder.
async fn add_orphans(
    bucket: &Bucket,
    folder: &Key,
    writer: &EndedWriter,
    found: &mut Orphans,
) -> Result<(), BucketError> {
    let before = layout::before_incarnation(folder, writer.incarnation);
    let purpose = Purpose::Collect;
    let mut listing = Listing::new(bucket, purpose, folder, Some(before), KEYS_PER_DELETE);
    while let Some(page) = listing.next_page().await? {
        for object in page {
            let incarnation = match ObjectName::parse(object.key.as_str()) {
                Some(ObjectName::Segment(name)) => {
                    let incarnation = name.incarnation;
                    if incarnation == writer.incarnation && !has_entered(writer, name.number) {
                        found.segments.push(name);
                    }
                    incarnation
                }
                Some(ObjectName::Place(Place::MapPage { topic, page })) => {
                    let is_named = writer.pages.contains(&(topic, page.number));
                    if page.incarnation == writer.incarnation && !is_named {
                        found.pages.push((topic, page));
                    }
                    page.incarnation
                }
                // Not ours, whoever put it there.
                _ => continue,
            };
            if incarnation > writer.incarnation || found.is_full() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn has_entered(writer: &EndedWriter, number: u64) -> bool {
    let mut entered = writer.entered.iter();
    entered.any(|(from, end)| (*from..*end).contains(&number))
}
