//! What is asked of owners over links, and shown to those who ask.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_proto::cluster::LinkAddress;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicId, TopicPartition};
use firn_proto::limits::{LOOK_PARTITIONS_MAX, LOOKS_MAX, LOOKS_NOW_MIN, LOOKS_SILENT_MAX};
use firn_proto::link::{
    CallPart, Look, Looks, Message, RefusalReason, Sight, Sights, Welcome, decode_sights,
    encode_looks,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::opening::{Opened, open};
use super::testing::{FakeLeading, Over, Process, World};
use super::wire::{MessageReader, MessageWriter};
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

/// A question that waits for records.
fn waits() -> Looks {
    Looks {
        wait: Duration::from_secs(5),
        ..looks(1)
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
async fn a_late_answer_fails_its_own_question_and_no_other() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let mut owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    let late = tokio::spawn(owners.look(owner.process.at(), looks(1)));
    let (_, mut never) = owner.asked.recv().await.unwrap();
    let waits = tokio::spawn(owners.look(owner.process.at(), waits()));
    let (_, answer) = owner.asked.recv().await.unwrap();
    let late = late.await.unwrap();
    assert!(matches!(late, Err(LookError::Silent)), "{late:?}");
    // The owner hears that nobody wants it any more.
    never.closed().await;
    answer.send(vec![None]).unwrap();
    assert_eq!(waits.await.unwrap().unwrap(), [None]);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_stands_still_is_given_up_and_its_link_with_it() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let owner = world.process(1).await;
    let taken = Arc::new(AtomicU32::new(0));
    let stands_still = tokio::spawn(take_and_say_nothing(owner.transport, Arc::clone(&taken)));
    let at = owner.me.card.link.clone();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    for asked in 1..=LOOKS_SILENT_MAX + 1 {
        let silent = owners.look(at.clone(), looks(1)).await;
        assert!(matches!(silent, Err(LookError::Silent)), "{silent:?}");
        let links = taken.load(Ordering::Relaxed);
        assert_eq!(
            links,
            1 + u32::from(asked > LOOKS_SILENT_MAX),
            "asked {asked} times"
        );
    }
    stands_still.abort();
}

/// Takes links, and nothing that is asked over them.
async fn take_and_say_nothing(transport: Arc<dyn Transport>, taken: Arc<AtomicU32>) {
    let mut links = Vec::new();
    while let Some(accepted) = transport.accept().await {
        let mut reader = MessageReader::new(accepted.reader, Arc::default());
        let mut writer = MessageWriter::new(accepted.writer, Arc::default());
        assert!(matches!(reader.next().await, Ok(Message::Hello(_))));
        let welcome = Message::Welcome(Welcome { card: Vec::new() });
        writer.write(&welcome).await.unwrap();
        taken.fetch_add(1, Ordering::Relaxed);
        links.push((reader, writer));
    }
}

#[tokio::test]
async fn whoever_gives_up_leaves_nothing_at_the_owner_and_takes_no_place() {
    for over in Over::both() {
        let world = World::new(over);
        let mut owner = Owner::start(&world, 1).await;
        owner.shows();
        let reader = world.process(2).await;
        let owners = owners(&reader, &world);
        for _ in 0..LOOKS_MAX + 1 {
            let mut gives_up = owners.look(owner.process.at(), waits());
            let (_, mut answer) = tokio::select! {
                said = &mut gives_up => panic!("{said:?}"),
                asked = owner.asked.recv() => asked.unwrap(),
            };
            drop(gives_up);
            answer.closed().await;
        }
        let asking = tokio::spawn(owners.look(owner.process.at(), looks(1)));
        let (_, answer) = owner.asked.recv().await.unwrap();
        answer.send(vec![None]).unwrap();
        assert_eq!(asking.await.unwrap().unwrap(), [None]);
    }
}

/// A link on which a process asks what it likes.
async fn opened(from: &Process, to: LinkAddress) -> Opened {
    let (transport, figures) = (Arc::clone(&from.transport), Arc::clone(&from.figures));
    let opened = open(transport, from.me.clone(), to, figures).await;
    opened.unwrap()
}

async fn assert_refused_as_malformed(link: &mut Opened) {
    let said = link.reader.next().await;
    let Ok(Message::Refused(refusal)) = said else {
        panic!("{said:?}");
    };
    assert_eq!(refusal.reason, RefusalReason::Malformed, "{refusal}");
}

fn look(call: u64) -> Message {
    let bytes = encode_looks(&waits()).unwrap();
    let more = false;
    Message::Look(CallPart { call, more, bytes })
}

#[tokio::test]
async fn what_is_forgotten_is_answered_with_nothing_and_what_was_not_asked_not_at_all() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let mut owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let mut link = opened(&reader, owner.process.at()).await;
    for message in [
        look(1),
        Message::Forget(2),
        Message::Forget(u64::MAX),
        look(2),
        Message::Forget(1),
        Message::Forget(1),
    ] {
        link.writer.write(&message).await.unwrap();
    }
    let Message::Seen(nothing) = link.reader.next().await.unwrap() else {
        panic!("no answer");
    };
    assert_eq!(nothing.call, 1);
    assert_eq!(decode_sights(&nothing.bytes), Ok(Sights::new()));
    let (_, mut forgotten) = owner.asked.recv().await.unwrap();
    forgotten.closed().await;
    let (_, answer) = owner.asked.recv().await.unwrap();
    answer.send(vec![None]).unwrap();
    let Message::Seen(answered) = link.reader.next().await.unwrap() else {
        panic!("no answer");
    };
    assert_eq!(answered.call, 2);
    assert_eq!(decode_sights(&answered.bytes), Ok(vec![None]));
}

#[tokio::test]
async fn a_question_whose_number_is_under_way_cuts_the_link() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let mut link = opened(&reader, owner.process.at()).await;
    link.writer.write(&look(7)).await.unwrap();
    link.writer.write(&look(7)).await.unwrap();
    assert_refused_as_malformed(&mut link).await;
}

#[tokio::test]
async fn a_link_does_not_begin_with_what_is_to_be_forgotten() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let owner = Owner::start(&world, 1).await;
    let reader = world.process(2).await;
    let mut link = opened(&reader, owner.process.at()).await;
    link.writer.write(&Message::Forget(0)).await.unwrap();
    assert_refused_as_malformed(&mut link).await;
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
async fn no_more_questions_wait_at_an_owner_than_are_allowed_and_others_still_ask() {
    let world = World::new(Over::Memory(MemoryNetwork::default()));
    let mut owner = Owner::start(&world, 1).await;
    owner.shows();
    let reader = world.process(2).await;
    let owners = owners(&reader, &world);
    let at = owner.process.at();
    let asking: Vec<_> = (0..LOOKS_MAX - LOOKS_NOW_MIN)
        .map(|_| tokio::spawn(owners.look(at.clone(), waits())))
        .collect();
    let mut held = Vec::new();
    for _ in &asking {
        held.push(owner.asked.recv().await.unwrap());
    }
    let crowded = owners.look(at.clone(), waits()).await;
    assert!(matches!(crowded, Err(LookError::Crowded)), "{crowded:?}");
    let now = tokio::spawn(owners.look(at, looks(1)));
    let (_, answer) = owner.asked.recv().await.unwrap();
    answer.send(vec![None]).unwrap();
    assert_eq!(now.await.unwrap().unwrap(), [None]);
    for (_, answer) in held {
        answer.send(vec![None]).unwrap();
    }
    for asking in asking {
        assert_eq!(asking.await.unwrap().unwrap(), [None]);
    }
}
