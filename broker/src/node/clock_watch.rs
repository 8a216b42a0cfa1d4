//! Whether the store still takes requests with the time of this machine. One whose clock has jumped
//! can put nothing until somebody sets it, and other brokers can: it makes room for them.

use std::time::Duration;

use firn_storage::bucket::{Bucket, Purpose};
use firn_storage::layout::Place;
use tokio::time::{MissedTickBehavior, interval};

use crate::error::FirnError;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many looks in a row find the clock off before the process ends: it may be set right just now.
const LOOKS: u32 = 5;

/// Resolves, with what to say, once the store has taken nothing for a while because of the clock of
/// this machine. Asks the store only while it says so. Cancellation safe.
pub(super) async fn clock_off(bucket: &Bucket, url: &str) -> FirnError {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut found = 0;
    loop {
        ticks.tick().await;
        if !bucket.clock_is_off() {
            found = 0;
            continue;
        }
        // no other error says that the clock is off
        let asked = bucket.get(Purpose::Meta, &Place::Cluster.key()).await;
        match asked {
            Err(error) if bucket.clock_is_off() => {
                found += 1;
                if found >= LOOKS {
                    return FirnError::bucket(url, error);
                }
            }
            _ => found = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_proto::env::{Entropy, SystemClock};
    use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_whose_clock_the_store_refuses_ends_and_says_why() {
        let store = FaultStore::in_memory();
        let rules = store.clone();
        let (clock, entropy) = (SystemClock::new(), Entropy::from_seed(1));
        let bucket = Bucket::from_store(Arc::new(store), Arc::new(clock), Arc::new(entropy));
        let mut off = std::pin::pin!(clock_off(&bucket, "s3://b"));
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, &mut off).await.is_err());

        // Refused for a moment, and for another reason for long.
        rules.inject(Rule::new(On::Get, Fault::ClockOff).times(3));
        assert!(
            bucket
                .get(Purpose::Meta, &Place::Cluster.key())
                .await
                .is_err()
        );
        assert!(tokio::time::timeout(hour, &mut off).await.is_err());
        rules.inject(Rule::new(On::Get, Fault::Denied).times(100));
        assert!(
            bucket
                .get(Purpose::Meta, &Place::Cluster.key())
                .await
                .is_err()
        );
        assert!(tokio::time::timeout(hour, &mut off).await.is_err());

        while bucket
            .get(Purpose::Meta, &Place::Cluster.key())
            .await
            .is_err()
        {}
        rules.inject(Rule::new(On::Get, Fault::ClockOff).times(u64::MAX));
        assert!(
            bucket
                .get(Purpose::Meta, &Place::Cluster.key())
                .await
                .is_err()
        );
        let error = off.await.to_string();
        assert!(
            error.contains("s3://b") && error.contains("set the clock"),
            "{error}"
        );
    }
}
