//! Folders of the bucket, page by page, in memory that is bounded by a page.

use crate::bucket::{Bucket, BucketError, ListedObject, Purpose};
use crate::layout::Key;

/// What is left of a folder.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    bucket: &'a Bucket,
    purpose: Purpose,
    folder: &'a Key,
    after: Option<Key>,
    page_max: usize,
    is_done: bool,
}

impl<'a> Listing<'a> {
    /// The objects of `folder` in the order of their keys, up to `page_max` at a time, behind
    /// `after` if that is given.
    pub(crate) fn new(
        bucket: &'a Bucket,
        purpose: Purpose,
        folder: &'a Key,
        after: Option<Key>,
        page_max: usize,
    ) -> Self {
        Self {
            bucket,
            purpose,
            folder,
            after,
            page_max,
            is_done: false,
        }
    }

    /// The next page; `None` behind the last.
    ///
    /// # Errors
    /// As [`Bucket::list`].
    pub(crate) async fn next_page(&mut self) -> Result<Option<Vec<ListedObject>>, BucketError> {
        if self.is_done {
            return Ok(None);
        }
        let after = self.after.as_ref();
        let listed = self
            .bucket
            .list(self.purpose, self.folder, after, self.page_max);
        let page = listed.await?;
        self.is_done = page.len() < self.page_max;
        self.after = page.last().map(|last| last.key.clone());
        Ok((!page.is_empty()).then_some(page))
    }
}
