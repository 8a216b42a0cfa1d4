//! What the processes of a cluster say of themselves in its bucket (FORMAT.md §6.2): who is
//! registered there is one of them.
//!
//! May not touch: what a card means (`coordinator`).

use bytes::Bytes;
use firn_proto::env::Entropy;
use firn_proto::ids::{ClusterId, Fingerprint};
use thiserror::Error;

use crate::bucket::{Bucket, BucketError, Purpose};
use crate::creation::{CreateError, Creation, create};
use crate::journal::record::{ProcessRecord, RecordFault};
use crate::layout::{self, Key, Place};

/// Why a process cannot be registered or looked up.
#[derive(Clone, Debug, Error)]
pub enum ProcessError {
    /// The bucket does not answer, or refuses.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// It does not take the object.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// What lies there is not what belongs there.
    #[error("{key} cannot be used: {fault}")]
    Corrupt {
        /// The object.
        key: Key,
        /// What is wrong with it.
        fault: RecordFault,
    },
}

/// Registers a process, for good or until it is forgotten. It may be repeated with the same card.
///
/// # Errors
/// [`ProcessError`].
pub async fn register(
    bucket: &Bucket,
    entropy: &Entropy,
    cluster: ClusterId,
    fingerprint: Fingerprint,
    card: Bytes,
) -> Result<(), ProcessError> {
    let key = Place::Process(fingerprint).key();
    let record = ProcessRecord {
        cluster,
        fingerprint,
        card,
    };
    match create(bucket, entropy, Purpose::Meta, &key, record.encode()).await? {
        Creation::Ours => Ok(()),
        Creation::Theirs(_) => Err(wrong(key, "it is there already, with another card")),
    }
}

/// The card of a process; `None` if it is not registered.
///
/// # Errors
/// [`ProcessError`].
pub async fn card(
    bucket: &Bucket,
    cluster: ClusterId,
    fingerprint: Fingerprint,
) -> Result<Option<Bytes>, ProcessError> {
    let key = Place::Process(fingerprint).key();
    let Some(bytes) = bucket.get(Purpose::Meta, &key).await? else {
        return Ok(None);
    };
    let record = match ProcessRecord::decode(&bytes) {
        Ok(record) => record,
        Err(fault) => return Err(ProcessError::Corrupt { key, fault }),
    };
    if record.cluster != cluster {
        return Err(wrong(key, "it belongs to another cluster"));
    }
    if record.fingerprint != fingerprint {
        return Err(wrong(key, "it is that of another process"));
    }
    Ok(Some(record.card))
}

/// The processes that are registered, up to `limit`, in the order of their fingerprints.
///
/// # Errors
/// As [`Bucket::list`].
pub async fn registered(bucket: &Bucket, limit: usize) -> Result<Vec<Fingerprint>, BucketError> {
    let folder = layout::processes();
    let listed = bucket.list(Purpose::Meta, &folder, None, limit).await?;
    let found = listed
        .iter()
        .filter_map(|object| match Place::parse(object.key.as_str()) {
            Some(Place::Process(fingerprint)) => Some(fingerprint),
            _ => None,
        });
    Ok(found.collect())
}

/// Forgets processes: nobody links to them any more, nor takes their links.
///
/// # Errors
/// As [`Bucket::delete`].
pub async fn forget(bucket: &Bucket, processes: &[Fingerprint]) -> Result<(), BucketError> {
    let keys: Vec<_> = processes
        .iter()
        .map(|at| Place::Process(*at).key())
        .collect();
    bucket.delete(Purpose::Meta, &keys).await
}

fn wrong(key: Key, reason: &str) -> ProcessError {
    ProcessError::Corrupt {
        key,
        fault: RecordFault::Field(reason.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_proto::env::SystemClock;

    use super::*;
    use crate::bucket::CreateOutcome;

    const CLUSTER: ClusterId = ClusterId([1; 16]);
    const ONE: Fingerprint = Fingerprint([0xa1; 32]);

    fn bucket() -> (Bucket, Arc<Entropy>) {
        let entropy = Arc::new(Entropy::from_seed(1));
        let bucket = Bucket::memory(Arc::new(SystemClock::new()), Arc::clone(&entropy));
        (bucket, entropy)
    }

    #[tokio::test]
    async fn a_process_is_registered_once_found_and_forgotten() {
        let (bucket, entropy) = bucket();
        assert_eq!(card(&bucket, CLUSTER, ONE).await.unwrap(), None);
        let says = Bytes::from_static(b"one");
        for _ in 0..2 {
            let registered = register(&bucket, &entropy, CLUSTER, ONE, says.clone()).await;
            assert!(registered.is_ok(), "{registered:?}");
        }
        let other = Bytes::from_static(b"other");
        assert!(
            register(&bucket, &entropy, CLUSTER, ONE, other)
                .await
                .is_err()
        );
        assert_eq!(card(&bucket, CLUSTER, ONE).await.unwrap(), Some(says));
        assert_eq!(registered(&bucket, 10).await.unwrap(), [ONE]);
        forget(&bucket, &[ONE]).await.unwrap();
        assert_eq!(card(&bucket, CLUSTER, ONE).await.unwrap(), None);
        assert_eq!(registered(&bucket, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_card_of_another_cluster_or_process_is_none_and_says_why() {
        let (bucket, entropy) = bucket();
        let says = Bytes::from_static(b"one");
        register(&bucket, &entropy, CLUSTER, ONE, says.clone())
            .await
            .unwrap();
        let elsewhere = card(&bucket, ClusterId([2; 16]), ONE).await.unwrap_err();
        assert!(
            elsewhere.to_string().contains("another cluster"),
            "{elsewhere}"
        );

        let two = Fingerprint([0xa2; 32]);
        let record = ProcessRecord {
            cluster: CLUSTER,
            fingerprint: ONE,
            card: says,
        };
        let key = Place::Process(two).key();
        let body = vec![record.encode()];
        let put = bucket.create_once(Purpose::Meta, &key, body).await;
        assert!(matches!(put, CreateOutcome::Created), "{put:?}");
        let copied = card(&bucket, CLUSTER, two).await.unwrap_err();
        assert!(copied.to_string().contains("another process"), "{copied}");
    }
}
