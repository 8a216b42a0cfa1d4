//! What of [`ObjectStore`] a directory offers: no overwrite, no multipart upload, no copy.

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload,
    PutResult, Result,
};

use super::super::unused::{refuse_unused_methods, unsupported};
use super::{FileStore, STORE};

/// Objects of a list whose sizes are asked for at a time.
const LIST_PAGE: usize = 256;

impl ObjectStore for FileStore {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        let location = location.clone();
        async move {
            if opts.mode != PutMode::Create {
                return Err(unsupported("overwriting an object", STORE));
            }
            self.create(location, payload).await?;
            Ok(PutResult {
                e_tag: None,
                version: None,
            })
        }
        .boxed()
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: GetOptions,
    ) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.read(location.clone(), options).boxed()
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |location| {
                let store = store.clone();
                async move {
                    let path = location.clone();
                    store.run(move |inner| inner.delete(&path)).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix.cloned(), None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list_from(prefix.cloned(), Some(offset.clone()))
    }

    refuse_unused_methods!(STORE);
}

impl FileStore {
    fn list_from(
        &self,
        prefix: Option<Path>,
        after: Option<Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        async move {
            let names = store
                .run(move |inner| inner.names(prefix.as_ref(), after.as_ref()))
                .await?;
            let pages: Vec<Vec<Path>> = names.chunks(LIST_PAGE).map(<[Path]>::to_vec).collect();
            let pages = futures::stream::iter(pages).then(move |page| {
                let store = store.clone();
                async move {
                    let found = store.run(move |inner| inner.sizes(page)).await?;
                    Ok::<_, Error>(futures::stream::iter(found.into_iter().map(Ok)))
                }
            });
            Ok(pages.try_flatten())
        }
        .try_flatten_stream()
        .boxed()
    }
}
