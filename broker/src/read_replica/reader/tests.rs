use std::sync::Mutex;

use firn_proto::env::SystemClock;
use firn_proto::ids::{PartitionIndex, Slot, SlotPosition, StreamId, TopicId};
use firn_proto::link::Sights;
use futures::FutureExt;
use tokio::sync::Notify;

use super::*;

/// Owners by port. What port n owns ends at n; 0 is not there, too many wait at 8, and 9 answers when it
/// is told to.
#[derive(Default)]
struct FakeOwners {
    asked: Mutex<Vec<(u16, Looks)>>,
    told: Notify,
}

impl Owners for Arc<FakeOwners> {
    fn look(
        &self,
        owner: LinkAddress,
        looks: Looks,
    ) -> BoxFuture<'static, Result<Sights, LookError>> {
        let owners = Self::clone(self);
        async move {
            let (end, count) = (i64::from(owner.port), looks.partitions.len());
            let is_now = looks.wait.is_zero();
            owners.asked.lock().unwrap().push((owner.port, looks));
            match owner.port {
                0 => return Err(LookError::Silent),
                8 if !is_now => return Err(LookError::Crowded),
                9 => owners.told.notified().await,
                _ => tokio::task::yield_now().await,
            }
            Ok(vec![Some(sight(end)); count])
        }
        .boxed()
    }
}

fn sight(end: i64) -> Sight {
    Sight {
        log_start: 0,
        archived_to: 0,
        high_watermark: end,
        last_stable_offset: end,
        log_end: end,
        available: 300,
        runs: vec![run(0, 9, 100), run(10, 19, 100), run(20, 29, 100)],
    }
}

fn run(base_offset: i64, last_offset: i64, byte_len: u32) -> SightRun {
    SightRun {
        at: SlotPosition {
            stream: StreamId(3),
            slot: Slot(base_offset.unsigned_abs()),
        },
        epoch: LeaderEpoch(1),
        base_offset,
        last_offset,
        byte_start: 512,
        byte_len,
        max_timestamp: 7,
        flags: 0,
    }
}

fn followed(partition: i32, port: u16) -> Followed {
    let mut fingerprint = [0; 32];
    fingerprint[..2].copy_from_slice(&port.to_le_bytes());
    Followed {
        tp: TopicPartition {
            topic: TopicId([1; 16]),
            partition: PartitionIndex(partition),
        },
        epoch: LeaderEpoch(1),
        owner: Arc::new(LinkAddress {
            host: "owner".to_owned(),
            port,
            fingerprint: Fingerprint(fingerprint),
        }),
    }
}

fn question(partition: i32, port: u16) -> Question {
    Question {
        followed: followed(partition, port),
        offset: 5,
        bytes_max: 1000,
        available: 10,
    }
}

fn readers() -> (Arc<FakeOwners>, Readers) {
    let owners = Arc::new(FakeOwners::default());
    let clock = Arc::new(SystemClock::new());
    let asked = Arc::new(Arc::clone(&owners));
    let readers = Readers::new(asked, clock, Arc::new(Metrics::new()));
    (owners, readers)
}

fn end(views: &Views, partition: i32, port: u16) -> Option<Option<i64>> {
    let view = views.of(&followed(partition, port))?;
    Some(view.map(|view| view.bounds().high_watermark))
}

#[tokio::test]
async fn each_owner_is_asked_once_for_all_that_it_owns() {
    let (owners, readers) = readers();
    let questions = vec![question(0, 1), question(1, 2), question(2, 1)];
    let views = readers.look_now(questions, false).await;
    let said: Vec<_> = [(0, 1), (1, 2), (2, 1)]
        .map(|(partition, port)| end(&views, partition, port))
        .to_vec();
    assert_eq!(said, [Some(Some(1)), Some(Some(2)), Some(Some(1))]);
    let mut asked = owners.asked.lock().unwrap().clone();
    asked.sort_by_key(|(port, _)| *port);
    let counts: Vec<_> = asked
        .iter()
        .map(|(port, looks)| (*port, looks.partitions.len()))
        .collect();
    assert_eq!(counts, [(1, 2), (2, 1)]);
}

#[tokio::test]
async fn more_partitions_than_a_question_may_have_are_several_questions() {
    let (owners, readers) = readers();
    let count = i32::try_from(LOOK_PARTITIONS_MAX).unwrap() + 1;
    let questions = (0..count).map(|partition| question(partition, 4));
    let views = readers.look_now(questions.collect(), false).await;
    assert!((0..count).all(|partition| end(&views, partition, 4) == Some(Some(4))));
    assert_eq!(owners.asked.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn of_an_owner_that_does_not_answer_it_is_known_that_it_does_not() {
    let (_owners, readers) = readers();
    let views = readers
        .look_now(vec![question(0, 0), question(1, 2)], false)
        .await;
    assert_eq!(end(&views, 0, 0), Some(None));
    assert_eq!(end(&views, 1, 2), Some(Some(2)));
    assert_eq!(end(&views, 2, 2), None, "nobody asked");
    let later = Followed {
        epoch: LeaderEpoch(2),
        ..followed(1, 2)
    };
    assert_eq!(views.of(&later), None, "in that epoch nobody was asked");
    assert_eq!(readers.0.metrics.replica_unanswered.get(), 1);
}

#[tokio::test]
async fn who_waits_goes_on_with_the_first_owner_that_has_more() {
    let (owners, readers) = readers();
    let wait = Duration::from_secs(60);
    let questions = vec![question(0, 9), question(1, 9), question(2, 3)];
    let views = readers.look_first(questions, wait, 7, true).await;
    assert_eq!(end(&views, 2, 3), Some(Some(3)));
    assert_eq!(end(&views, 0, 9), None, "its owner waits still");
    let asked = owners.asked.lock().unwrap();
    let of_nine = asked.iter().find(|(port, _)| *port == 9).unwrap();
    assert_eq!(
        of_nine.1.bytes_min, 27,
        "what is there, and what is missing"
    );
    assert_eq!(of_nine.1.wait, LOOK_WAIT_MAX);
    assert!(of_nine.1.read_committed);
}

#[tokio::test(start_paused = true)]
async fn owners_at_whom_too_many_wait_keep_nobody_from_the_others() {
    let (owners, readers) = readers();
    let wait = Duration::from_secs(60);
    owners.told.notify_one();
    let questions = vec![question(0, 8), question(1, 9)];
    let views = readers.look_first(questions, wait, 7, false).await;
    assert_eq!(end(&views, 1, 9), Some(Some(9)));
    assert_eq!(
        end(&views, 0, 8),
        None,
        "it is asked again, and not to wait"
    );

    let began = tokio::time::Instant::now();
    let views = readers
        .look_first(vec![question(0, 8)], wait, 7, false)
        .await;
    assert_eq!(end(&views, 0, 8), None);
    assert!(
        began.elapsed() >= LOOK_WAIT_MAX,
        "as if it had waited there"
    );
    assert_eq!(readers.0.metrics.replica_unanswered.get(), 0);
}

#[test]
fn a_view_gives_the_runs_of_a_read_and_no_others() {
    let view = View::of(&followed(0, 1), &sight(25));
    let bases = |offset, end, bytes| {
        let runs = view.runs(offset, end, bytes);
        runs.iter()
            .map(|found| found.run.base_offset)
            .collect::<Vec<_>>()
    };
    assert_eq!(bases(5, 25, 1000), [0, 10, 20]);
    assert_eq!(bases(10, 25, 1000), [10, 20]);
    assert_eq!(bases(10, 20, 1000), [10]);
    assert_eq!(bases(5, 25, 1), [0], "at least one");
    assert_eq!(bases(5, 25, 101), [0, 10]);
    assert_eq!(bases(30, 40, 1000), [0; 0]);
}
