//! Folds many partitions, so that one whose log is damaged keeps none of the others from going on.

use firn_proto::cluster::PartitionFold;
use firn_proto::ids::{ClusterId, TopicPartition};
use firn_storage::bucket::Bucket;
use firn_storage::fold::{FoldError, fold};
use firn_storage::state::StateRow;

use super::{Folded, RecoveryError};

/// Partitions that one request names, and one fold reads together.
pub const PARTITIONS_PER_REQUEST: usize = 2_000;

/// What became of partitions that were to be folded.
#[derive(Debug, Default)]
pub struct Folds {
    /// What was asked for and where it ended.
    pub rows: Vec<(PartitionFold, StateRow)>,
    /// What is damaged, and how.
    pub damaged: Vec<(TopicPartition, FoldError)>,
}

impl Folds {
    /// The partitions that have ended as the journal says, and what is wrong with the others.
    pub fn ended(self) -> (Vec<Folded>, Vec<(TopicPartition, RecoveryError)>) {
        let damaged = self.damaged.into_iter();
        let mut damaged: Vec<_> = damaged.map(|(tp, error)| (tp, error.into())).collect();
        let mut ended = Vec::with_capacity(self.rows.len());
        for (fold, row) in self.rows {
            match Folded::of(&fold, row) {
                Ok(folded) => ended.push(folded),
                Err(error) => damaged.push((fold.tp, error)),
            }
        }
        (ended, damaged)
    }
}

/// Folds `folds`, each index read once for all of them; if some of it is damaged, those that are
/// whole and those that are not are told apart. `now_ms` is wall time.
///
/// # Errors
/// The bucket does not serve what is needed: nothing is known.
pub async fn fold_each(
    bucket: &Bucket,
    cluster: ClusterId,
    folds: Vec<PartitionFold>,
    now_ms: i64,
) -> Result<Folds, FoldError> {
    let mut done = Folds::default();
    let mut left = vec![folds];
    while let Some(mut some) = left.pop() {
        if some.is_empty() {
            continue;
        }
        match fold(bucket, cluster, &some, now_ms).await {
            Ok(rows) => done.rows.extend(some.into_iter().zip(rows)),
            Err(error) if error.is_of_bucket() => return Err(error),
            Err(error) if some.len() == 1 => {
                let tps = some.iter().map(|fold| fold.tp);
                done.damaged.extend(tps.map(|tp| (tp, error.clone())));
            }
            Err(_) => {
                let second = some.split_off(some.len() / 2);
                left.extend([second, some]);
            }
        }
    }
    Ok(done)
}

/// Cuts a list into what one request names.
pub fn chunks<T>(list: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut rest = list.into_iter();
    std::iter::from_fn(move || {
        let chunk: Vec<T> = rest.by_ref().take(PARTITIONS_PER_REQUEST).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}
