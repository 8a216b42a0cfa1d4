//! What is asked of owners over links, and shown to those who ask.

use std::sync::Mutex;
use std::time::Duration;

use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use firn_proto::limits::{LOOK_PARTITIONS_MAX, LOOKS_MAX};
use firn_proto::link::{Look, Looks, Sight, Sights};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

use super::testing::{FakeLeading, Over, Process, World};
use super::*;

/// A question that waits for the test to answer it.
type Asked = (Looks, oneshot::Sender<Sights>);

/// What a process owns, as a test says.
struct FakeOwning(mpsc::UnboundedSender<Asked>);

impl Owning for FakeOwning {
    fn look(&self, looks: Looks) -> BoxFuture<'static, Sights> {
        let (answer, answered) = oneshot::channel();
        let sent = self.0.send((looks, answer));
        async move {
            drop(sent);
            answered.await.unwrap_or_default()
        }
        .boxed()
    }
}

fn looks(partitions: usize) -> Looks {
    let look = |index| Look {
        tp: TopicPartition {
            topic: TopicId([7; 16]),
            partition: PartitionIndex(index),
        },
        epoch: LeaderEpoch(2),
        offset: 40,
        bytes_max: 1000,
    };
    Looks {
        wait: Duration::ZERO,
        bytes_min: 1,
        read_committed: false,
        partitions: (0..i32::try_from(partitions).unwrap()).map(look).collect(),
    }
}

fn sight(end: i64) -> Sight {
    Sight {
        log_start: 0,
        archived_to: 0,
        high_watermark: end,
        last_stable_offset: end,
        log_end: end,
        available: 0,
        runs: Vec::new(),
    }
}

/// An owner that takes links, and what it is asked.
struct Owner {
    process: Process,
    owned: Owned,
    asked: mpsc::UnboundedReceiver<Asked>,
    ask: Mutex<Option<mpsc::UnboundedSender<Asked>>>,
    _open: tokio_util::sync::DropGuard,
}

impl Owner {
    async fn start(world: &World, byte: u8) -> Self {
        let process = world.process(byte).await;
        let owned = Owned::default();
        let open = process.open_with(&FakeLeading::told().leading, Arc::clone(&owned));
        let (ask, asked) = mpsc::unbounded_channel();
        Self {
            process,
            owned,
            asked,
            ask: Mutex::new(Some(ask)),
            _open: open,
        }
    }

    /// From now on it answers.
    fn shows(&self) {
        let ask = self.ask.lock().unwrap().take().unwrap();
        assert!(self.owned.set(Arc::new(FakeOwning(ask))).is_ok());
    }
}

fn owners(process: &Process, world: &World) -> LinkOwners {
    let (transport, me) = (Arc::clone(&process.transport), process.me.clone());
    let figures = Arc::clone(&process.figures);
    LinkOwners::new(transport, me, Arc::clone(&world.clock), figures)
}

#[tokio::test]
async fn many_questions_are_under_way_and_each_gets_its_own_answer() {
    for over in Over::both() {
        let world = World::new(over);
        let mut owner = Owner::start(&world, 1).await;
        owner.shows();
        let reader = world.process(2).await;
        let owners = owners(&reader, &world);
        let at = owner.process.at();
        let asking: Vec<_> = (1..200)
            .map(|count| tokio::spawn(owners.look(at.clone(), looks(count))))
            .collect();
        let mut asked = Vec::new();
        for _ in &asking {
            asked.push(owner.asked.recv().await.unwrap());
        }
        // The last ones first: none waits for those before it.
        for (looks, answer) in asked.into_iter().rev() {
            let count = looks.partitions.len();
            let mut sights = vec![None; count];
            sights[count - 1] = Some(sight(count as i64));
            answer.send(sights).unwrap();
        }
        for (asking, count) in asking.into_iter().zip(1..) {
            let sights = asking.await.unwrap().unwrap();
            assert_eq!(sights.len(), count);
            assert_eq!(sights[count - 1], Some(sight(count as i64)));
        }
    }
}

#[tokio::test]
async fn an_owner_that_has_not_started_that_far_says_nothing_and_later_something() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let mut owner = Owner::start(&world, 1).await;
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    let nothing = owners.look(owner.process.at(), looks(1)).await;
    assert!(matches!(nothing, Err(LookError::Nothing)), "{nothing:?}");
    owner.shows();
    let asking = tokio::spawn(owners.look(owner.process.at(), looks(1)));
    let (_, answer) = owner.asked.recv().await.unwrap();
    answer.send(vec![Some(sight(9))]).unwrap();
    assert_eq!(asking.await.unwrap().unwrap(), [Some(sight(9))]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_stands_still_is_given_up_and_its_link_with_it() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let mut owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    let first = tokio::spawn(owners.look(owner.process.at(), looks(1)));
    let held = owner.asked.recv().await.unwrap();
    let first = first.await.unwrap();
    assert!(matches!(first, Err(LookError::Silent)), "{first:?}");
    drop(held);
    // The next question goes over a link of its own.
    let second = tokio::spawn(owners.look(owner.process.at(), looks(1)));
    let (_, answer) = owner.asked.recv().await.unwrap();
    answer.send(vec![None]).unwrap();
    assert_eq!(second.await.unwrap().unwrap(), [None]);
}

#[tokio::test]
async fn an_owner_that_is_not_there_is_not_looked_for_by_everybody() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let gone = world.stranger(1, Vec::new()).at();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    for _ in 0..3 {
        let asked = owners.look(gone.clone(), looks(1)).await;
        assert!(matches!(asked, Err(LookError::Unreachable(_))), "{asked:?}");
    }
}

#[tokio::test]
async fn more_partitions_than_one_question_may_have_cut_the_link() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    let too_many = looks(LOOK_PARTITIONS_MAX + 1);
    let asked = owners.look(owner.process.at(), too_many).await;
    assert!(matches!(asked, Err(LookError::Unreachable(_))), "{asked:?}");
}

#[tokio::test]
async fn no_more_questions_wait_at_an_owner_than_are_allowed() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let mut owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    let waits = || Looks {
        wait: Duration::from_secs(5),
        ..looks(1)
    };
    let at = owner.process.at();
    let asking: Vec<_> = (0..LOOKS_MAX)
        .map(|_| tokio::spawn(owners.look(at.clone(), waits())))
        .collect();
    let mut held = Vec::new();
    for _ in &asking {
        held.push(owner.asked.recv().await.unwrap());
    }
    let crowded = owners.look(at, waits()).await;
    assert!(matches!(crowded, Err(LookError::Crowded)), "{crowded:?}");
    for (_, answer) in held {
        answer.send(vec![None]).unwrap();
    }
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap(), [None]);
    }
}
