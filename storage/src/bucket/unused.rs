//! What of [`object_store::ObjectStore`] no log needs: multipart uploads, lists by delimiter,
//! copies. Our own stores refuse it, all with the same words.

use object_store::Error;

/// An operation that the store `implementer` does not have.
pub(super) fn unsupported(operation: &str, implementer: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: implementer.to_owned(),
    }
}

/// The methods of an `impl ObjectStore` that nothing here calls; the store is named in the refusal.
macro_rules! refuse_unused_methods {
    ($store:expr) => {
        fn put_multipart_opts<'a, 'b, 'c>(
            &'a self,
            _location: &'b object_store::path::Path,
            _opts: object_store::PutMultipartOptions,
        ) -> futures::future::BoxFuture<
            'c,
            object_store::Result<Box<dyn object_store::MultipartUpload>>,
        >
        where
            'a: 'c,
            'b: 'c,
            Self: 'c,
        {
            let refused = $crate::bucket::unused::unsupported("multipart upload", $store);
            Box::pin(std::future::ready(Err(refused)))
        }

        fn list_with_delimiter<'a, 'b, 'c>(
            &'a self,
            _prefix: Option<&'b object_store::path::Path>,
        ) -> futures::future::BoxFuture<'c, object_store::Result<object_store::ListResult>>
        where
            'a: 'c,
            'b: 'c,
            Self: 'c,
        {
            let refused = $crate::bucket::unused::unsupported("listing with a delimiter", $store);
            Box::pin(std::future::ready(Err(refused)))
        }

        fn copy_opts<'a, 'b, 'd, 'c>(
            &'a self,
            _from: &'b object_store::path::Path,
            _to: &'d object_store::path::Path,
            _options: object_store::CopyOptions,
        ) -> futures::future::BoxFuture<'c, object_store::Result<()>>
        where
            'a: 'c,
            'b: 'c,
            'd: 'c,
            Self: 'c,
        {
            let refused = $crate::bucket::unused::unsupported("copying an object", $store);
            Box::pin(std::future::ready(Err(refused)))
        }
    };
}

pub(super) use refuse_unused_methods;
