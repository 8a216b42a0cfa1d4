use futures::FutureExt;
use proptest::prelude::*;

use super::*;

const A: FairKey = FairKey(1);
const B: FairKey = FairKey(2);
const C: FairKey = FairKey(3);

fn tickets(granted: Vec<Granted>) -> Vec<u64> {
    granted.into_iter().map(|granted| granted.ticket).collect()
}

#[test]
fn bytes_are_given_until_the_capacity_is_reached() {
    let mut queue = PermitQueue::new(100);
    assert_eq!(queue.request(A, 60), Requested::Granted);
    assert_eq!(queue.request(B, 40), Requested::Granted);
    assert_eq!(queue.request(C, 1), Requested::Wait(0));
    assert_eq!(tickets(queue.release(A, 60)), [0]);
    assert_eq!(queue.held(), 41);
}

#[test]
fn nobody_passes_a_large_request_that_waits() {
    let mut queue = PermitQueue::new(100);
    queue.request(A, 50);
    assert_eq!(queue.request(B, 80), Requested::Wait(0));
    assert_eq!(queue.request(C, 10), Requested::Wait(1));
    assert_eq!(tickets(queue.release(A, 50)), [0, 1]);
}

#[test]
fn who_holds_least_goes_first() {
    let mut queue = PermitQueue::new(100);
    queue.request(A, 50);
    queue.request(A, 40);
    queue.request(B, 10);
    assert_eq!(queue.request(A, 20), Requested::Wait(0));
    assert_eq!(queue.request(B, 20), Requested::Wait(1));
    assert_eq!(queue.request(C, 20), Requested::Wait(2));
    assert_eq!(tickets(queue.release(A, 40)), [2, 1]);
    assert_eq!(tickets(queue.release(A, 50)), [0]);
}

#[test]
fn requests_of_one_key_keep_their_order() {
    let mut queue = PermitQueue::new(10);
    queue.request(A, 10);
    for ticket in 0..3 {
        assert_eq!(queue.request(A, 5), Requested::Wait(ticket));
    }
    assert_eq!(tickets(queue.release(A, 10)), [0, 1]);
    assert_eq!(tickets(queue.release(A, 5)), [2]);
}

#[test]
fn a_request_for_more_than_there_is_gets_all_there_is() {
    let mut queue = PermitQueue::new(100);
    queue.request(A, 1);
    assert_eq!(queue.request(B, 1_000), Requested::Wait(0));
    assert_eq!(tickets(queue.release(A, 1)), [0]);
    assert_eq!(queue.held(), 100);
    queue.release(B, 1_000);
    assert_eq!(queue.held(), 0);
}

#[test]
fn a_large_request_that_leaves_lets_those_behind_it_go() {
    let mut queue = PermitQueue::new(100);
    queue.request(A, 50);
    queue.request(B, 80);
    queue.request(C, 10);
    let (was_waiting, granted) = queue.cancel(B, 0);
    assert!(was_waiting);
    assert_eq!(tickets(granted), [1]);
}

#[test]
fn nothing_is_kept_of_a_key_that_holds_nothing() {
    let mut queue = PermitQueue::new(100);
    for key in 0..1_000 {
        queue.request(FairKey(key), 10);
        queue.release(FairKey(key), 10);
    }
    assert!(queue.keys.is_empty());
    assert!(queue.order.is_empty());
}

#[tokio::test]
async fn a_permit_that_is_dropped_lets_the_next_caller_in() {
    let permits = Arc::new(Permits::new(10));
    let first = permits.reserve(10, A).await.unwrap();
    let mut second = Box::pin(permits.reserve(4, B));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(second.await.unwrap().bytes(), 4);
    assert_eq!(permits.held(), 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_holds_nothing() {
    let permits = Arc::new(Permits::new(10));
    let first = permits.reserve(10, A).await.unwrap();
    let mut waiting = Box::pin(permits.reserve(4, B));
    assert!(waiting.as_mut().now_or_never().is_none());
    let mut granted = Box::pin(permits.reserve(4, C));
    assert!(granted.as_mut().now_or_never().is_none());
    drop(waiting);
    drop(first);
    // granted by now, though its caller never learns of it
    drop(granted);
    assert_eq!(permits.held(), 0);
    assert!(permits.lock().waiters.is_empty());
}

#[tokio::test]
async fn a_split_permit_gives_each_part_back_by_itself() {
    let permits = Arc::new(Permits::new(10));
    let mut whole = permits.reserve(25, A).await.unwrap();
    assert_eq!(whole.bytes(), 10);
    let part = whole.split(4);
    assert_eq!((whole.bytes(), part.bytes()), (6, 4));
    drop(whole);
    assert_eq!(permits.held(), 4);
    drop(part);
    assert_eq!(permits.held(), 0);
}

#[tokio::test]
async fn closed_permits_turn_everybody_away() {
    let permits = Arc::new(Permits::new(10));
    let held = permits.reserve(10, A).await.unwrap();
    let mut waiting = Box::pin(permits.reserve(1, B));
    assert!(waiting.as_mut().now_or_never().is_none());
    permits.close();
    assert!(waiting.await.is_none());
    assert!(permits.reserve(1, C).await.is_none());
    drop(held);
}

proptest! {
    /// Whatever comes and goes: never more than the capacity is held, nobody waits while what
    /// they ask for is free and nobody is before them, and in the end all have been served.
    #[test]
    fn permits_are_bounded_and_everybody_is_served(
        steps in prop::collection::vec((0..4_u64, 1..150_usize, 0..3_u8), 1..200),
    ) {
        let mut queue = PermitQueue::new(100);
        let mut waiting = BTreeMap::new();
        let mut held: VecDeque<(FairKey, usize)> = VecDeque::new();
        let take = |granted: Vec<Granted>, waiting: &mut BTreeMap<u64, _>, held: &mut VecDeque<_>| {
            for ticket in tickets(granted) {
                held.push_back(waiting.remove(&ticket).unwrap());
            }
        };
        for (key, bytes, what) in steps {
            let key = FairKey(key);
            match what {
                0 | 1 => match queue.request(key, bytes) {
                    Requested::Granted => held.push_back((key, bytes)),
                    Requested::Wait(ticket) => {
                        waiting.insert(ticket, (key, bytes));
                    }
                },
                _ => {
                    if let Some((key, bytes)) = held.pop_front() {
                        let granted = queue.release(key, bytes);
                        take(granted, &mut waiting, &mut held);
                    }
                }
            }
            let sum: usize = held.iter().map(|(_, bytes)| *bytes.min(&100)).sum();
            prop_assert_eq!(queue.held(), sum);
            prop_assert!(sum <= 100);
            prop_assert!(waiting.is_empty() || sum > 0);
        }
        while let Some((key, bytes)) = held.pop_front() {
            let granted = queue.release(key, bytes);
            take(granted, &mut waiting, &mut held);
        }
        prop_assert!(waiting.is_empty());
    }
}
