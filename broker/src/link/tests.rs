use std::time::Duration;

use firn_coordinator::{FromLeader, LeaderLink, PeerAnswer, PeerError, Peers, Probed};
use firn_proto::cluster::{
    Beat, BrokerImage, CoordinatorError, ImageUpdate, LeaderBeat, LinkAddress, Listener, Part,
    Reply, Request, SecurityProtocol,
};
use firn_proto::env::Mono;
use firn_proto::ids::{BrokerId, ClusterId, CoordinatorEpoch, Fingerprint, Incarnation, StreamId};
use firn_proto::limits::{
    LINK_ACCEPT_MAX, LINK_PART_BYTES_MAX, LINK_SILENCE_MAX, LINK_STALL_MAX, LINKS_PER_PEER_MAX,
};
use firn_proto::link::{Message, PROTOCOL_VERSION, Refusal, RefusalReason};
use firn_storage::bucket::Bucket;
use firn_storage::bucket::testing::{Fault, FaultStore, On, Rule};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::opening::{Introduction, Opened, open};
use super::testing::{EPOCH, FakeLeading, Over, Process, World};
use super::wire::MessageReader;
use super::*;

fn beat(sent: u64) -> Beat {
    Beat {
        broker: Some(Incarnation(9)),
        sent: Mono(sent),
        reads: false,
        journal: None,
    }
}

fn image(at: u64) -> FromLeader {
    let part = Part {
        at,
        len: u64::MAX,
        bytes: vec![7; LINK_PART_BYTES_MAX],
    };
    FromLeader::Image(ImageUpdate { base: None, part })
}

fn leader_beat() -> FromLeader {
    FromLeader::Beat(LeaderBeat {
        epoch: EPOCH,
        echo: Mono(1),
        alone_age: None,
        picture: 0,
    })
}

fn leave(incarnation: u64) -> Request {
    Request::LeaveBroker(Incarnation(incarnation))
}

/// A leader and a follower of it, linked.
async fn linked(world: &World) -> (Process, Process, testing::Told, Box<dyn LeaderLink>, Guard) {
    let (one, two) = (world.process(1).await, world.process(2).await);
    let told = FakeLeading::told();
    let open = one.open(&told.leading);
    let link = two.peers().follow(one.card(), EPOCH).await.unwrap();
    (one, two, told, link, open)
}

type Guard = tokio_util::sync::DropGuard;

#[tokio::test]
async fn a_follower_gets_pictures_and_beats_and_the_leader_its_beats_and_calls() {
    for over in Over::both() {
        let world = World::new(over);
        let (_one, _two, mut told, mut link, _open) = linked(&world).await;
        link.beat(beat(1));
        assert_eq!(told.beats.recv().await, Some(beat(1)));
        for update in [image(0), leader_beat(), image(1)] {
            told.pictures.send(update.clone()).await.unwrap();
            assert_eq!(link.next().await, Ok(update));
        }
        let answered = tokio::spawn(link.call(leave(9)));
        let asked = told.asked.recv().await.unwrap();
        assert_eq!(asked.request, leave(9));
        asked.answer.send(Ok(Reply::Done)).unwrap();
        assert_eq!(answered.await.unwrap(), Ok(Reply::Done));
    }
}

#[tokio::test]
async fn many_calls_are_under_way_and_each_gets_its_own_answer_when_that_is_ready() {
    for over in Over::both() {
        let world = World::new(over);
        let (_one, _two, mut told, link, _open) = linked(&world).await;
        let calls: Vec<_> = (0..500)
            .map(|n| tokio::spawn(link.call(leave(n))))
            .collect();
        let mut asked = Vec::new();
        for _ in &calls {
            asked.push(told.asked.recv().await.unwrap());
        }
        // The last ones first: none waits for those before it.
        for asked in asked.into_iter().rev() {
            let Request::LeaveBroker(Incarnation(n)) = asked.request else {
                panic!("{:?}", asked.request);
            };
            let reply = Err(CoordinatorError::Refused(n.to_string()));
            asked.answer.send(reply).unwrap();
        }
        for (call, n) in calls.into_iter().zip(0..) {
            let refused = CoordinatorError::Refused(format!("{n}"));
            assert_eq!(call.await.unwrap(), Err(refused));
        }
    }
}

#[tokio::test]
async fn long_requests_and_replies_pass_in_parts_and_beats_between_them() {
    for over in Over::both() {
        let world = World::new(over);
        let (_one, _two, mut told, mut link, _open) = linked(&world).await;
        let names: Vec<_> = (0..100_000).map(|n| format!("{n:020}")).collect();
        let long = Request::DescribeGroups(names.clone());
        let calls: Vec<_> = (0..3)
            .map(|_| tokio::spawn(link.call(long.clone())))
            .collect();
        for _ in &calls {
            let asked = told.asked.recv().await.unwrap();
            assert_eq!(asked.request, long);
            let reply = Err(CoordinatorError::Refused(names.concat()));
            asked.answer.send(reply).unwrap();
        }
        told.pictures.send(leader_beat()).await.unwrap();
        assert_eq!(link.next().await, Ok(leader_beat()));
        for call in calls {
            let reply = Err(CoordinatorError::Refused(names.concat()));
            assert_eq!(call.await.unwrap(), reply);
        }
    }
}

#[tokio::test]
async fn calls_on_a_link_that_breaks_may_or_may_not_have_happened() {
    for over in Over::both() {
        let world = World::new(over);
        let (_one, _two, mut told, mut link, open) = linked(&world).await;
        let waits = tokio::spawn(link.call(leave(9)));
        let _asked = told.asked.recv().await.unwrap();
        drop(open);
        assert_eq!(link.next().await, Err(PeerError::Busy));
        for lost in [waits.await.unwrap(), link.call(leave(9)).await] {
            let Err(CoordinatorError::NotLeader(reason)) = lost else {
                panic!("{lost:?}");
            };
            assert!(reason.contains("may or may not"), "{reason}");
        }
        assert_eq!(link.next().await, Err(PeerError::Busy), "and stays so");
    }
}

#[tokio::test]
async fn a_link_that_is_dropped_answers_its_callers() {
    for over in Over::both() {
        let world = World::new(over);
        let (_one, _two, mut told, link, _open) = linked(&world).await;
        let waits = tokio::spawn(link.call(leave(9)));
        let asked = told.asked.recv().await.unwrap();
        drop(link);
        let lost = waits.await.unwrap();
        assert!(
            matches!(lost, Err(CoordinatorError::NotLeader(_))),
            "{lost:?}"
        );
        // The leader gives the call up with the link.
        let mut answer = asked.answer;
        answer.closed().await;
    }
}

#[tokio::test]
async fn who_does_not_lead_says_so_and_who_resigns_too() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, two, told, mut link, _open) = linked(&world).await;
        let other = two.peers().follow(one.card(), CoordinatorEpoch(4)).await;
        assert_eq!(other.err(), Some(PeerError::NotLeading));
        drop(told.pictures);
        assert_eq!(link.next().await, Err(PeerError::NotLeading));
    }
}

#[tokio::test]
async fn a_process_of_another_cluster_or_without_a_card_is_refused_with_the_reason() {
    for over in Over::both() {
        let world = World::new(over);
        let one = world.process(1).await;
        let told = FakeLeading::told();
        let _open = one.open(&told.leading);

        let stranger = world.stranger(2, Vec::new());
        let refused = stranger.peers().follow(one.card(), EPOCH).await.err();
        assert_eq!(refused, Some(PeerError::Unregistered));
        let asked = stranger.peers().ask_all(Vec::new()).await;
        assert_eq!(asked, [PeerAnswer::Unregistered], "it lives");
        assert_eq!(stranger.peers().own_card().await, Some(false));
        assert_eq!(one.peers().own_card().await, Some(true));

        let lost = world.process(3).await;
        let me = Introduction {
            cluster: ClusterId([9; 16]),
            ..lost.me.clone()
        };
        let figures = || Arc::clone(&lost.figures);
        let refused = open(Arc::clone(&lost.transport), me, one.at(), figures());
        let refused = refused.await.err();
        let Some(PeerError::Rejected(reason)) = refused else {
            panic!("{refused:?}");
        };
        assert!(reason.contains("another one"), "{reason}");

        let masked = Introduction {
            card: Arc::clone(&one.me.card),
            ..lost.me.clone()
        };
        let refused = open(Arc::clone(&lost.transport), masked, one.at(), figures()).await;
        assert!(matches!(refused.err(), Some(PeerError::Rejected(_))));
        // And whoever belongs there is still served.
        assert!(lost.peers().follow(one.card(), EPOCH).await.is_ok());
    }
}

/// Opens a link, says `bytes`, and returns what comes back until the other side ends it.
async fn answer_to(from: &Process, to: LinkAddress, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = from.transport.connect(to).await.unwrap();
    writer.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // The refusal comes first; then the other side waits until it is read.
    loop {
        let mut piece = [0; 1024];
        match reader.read(&mut piece).await {
            Ok(0) | Err(_) => return answer,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
        }
    }
}

fn refusal_in(answer: &[u8]) -> Refusal {
    assert!(answer.len() > 8, "{answer:02x?}");
    let reader = std::io::Cursor::new(answer.to_vec());
    let mut reader = MessageReader::new(Box::new(reader), Arc::default());
    let message = futures::executor::block_on(reader.next()).unwrap();
    let Message::Refused(refusal) = message else {
        panic!("{message:?}");
    };
    refusal
}

#[tokio::test]
async fn other_versions_and_garbage_are_refused_with_the_reason() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, two) = (world.process(1).await, world.process(2).await);
        let told = FakeLeading::told();
        let _open = one.open(&told.leading);
        for (bytes, reason) in [
            (&b"FL\x03\x01\x05\0\0\0hello"[..], RefusalReason::Version),
            (b"FL\x01\x01\x05\0\0\0hello", RefusalReason::Version),
            (b"GET / HTTP/1.1\r\n\r\n", RefusalReason::Malformed),
            (b"FL\x02\x01\xff\xff\xff\xff", RefusalReason::Malformed),
            (b"FL\x02\x01\x05\0\0\0hello", RefusalReason::Malformed),
            (b"FL\x02\x06\x01\0\0\0\x03", RefusalReason::Malformed),
        ] {
            let answer = answer_to(&two, one.at(), bytes).await;
            let refusal = refusal_in(&answer);
            assert_eq!(refusal.reason, reason, "{bytes:x?}: {refusal}");
            assert_eq!(refusal.version, PROTOCOL_VERSION);
        }
        assert!(two.peers().follow(one.card(), EPOCH).await.is_ok());
    }
}

/// A link from a process to the one there, which has said what it is for no more than that.
async fn opened(from: &Process, to: LinkAddress) -> Result<Opened, PeerError> {
    let (transport, figures) = (Arc::clone(&from.transport), Arc::clone(&from.figures));
    open(transport, from.me.clone(), to, figures).await
}

#[tokio::test]
async fn a_process_that_stops_and_one_that_has_no_room_say_so() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, two) = (world.process(1).await, world.process(2).await);
        let told = FakeLeading::told();
        let stop = one.open(&told.leading);
        let mut links = Vec::new();
        for _ in 0..LINKS_PER_PEER_MAX {
            links.push(opened(&two, one.at()).await.unwrap());
        }
        let refusal = refusal_in(&answer_to(&two, one.at(), b"FL").await);
        assert_eq!(refusal.reason, RefusalReason::Busy, "{refusal}");
        drop(stop);
        let mut link = links.remove(0);
        let said = link.reader.next().await.unwrap();
        let Message::Refused(refusal) = said else {
            panic!("{said:?}");
        };
        assert_eq!(refusal.reason, RefusalReason::Stopping, "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_links_and_followers_that_say_nothing_are_cut() {
    let [memory, _] = Over::both();
    let world = World::new(memory);
    let (one, two) = (world.process(1).await, world.process(2).await);
    let told = FakeLeading::told();
    let _open = one.open(&told.leading);
    let began = tokio::time::Instant::now();
    let answer = answer_to(&two, one.at(), b"FL\x02").await;
    assert!(answer.is_empty() && began.elapsed() >= LINK_ACCEPT_MAX);

    let began = tokio::time::Instant::now();
    let mut link = two.peers().follow(one.card(), EPOCH).await.unwrap();
    let ended = link.next().await;
    assert_eq!(ended, Err(PeerError::NoAnswer));
    assert!(began.elapsed() >= LINK_SILENCE_MAX, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_reads_nothing_is_cut_and_the_pictures_stop_meanwhile() {
    let [memory, _] = Over::both();
    let world = World::new(memory);
    let (one, two) = (world.process(1).await, world.process(2).await);
    let mut told = FakeLeading::told();
    let _open = one.open(&told.leading);
    let mut opened = opened(&two, one.at()).await.unwrap();
    opened.ask(&Message::Follow(EPOCH)).await.unwrap();
    let began = tokio::time::Instant::now();
    let mut sent = 0;
    while told.pictures.send(image(sent)).await.is_ok() {
        sent += 1;
        // It lives, and says so.
        let beaten = opened.writer.write(&Message::Beat(beat(sent))).await;
        drop(beaten);
    }
    assert!(sent < 8, "{sent} pictures were taken");
    assert!(began.elapsed() >= LINK_STALL_MAX, "{:?}", began.elapsed());
    assert!(told.beats.recv().await.is_some());
}

#[tokio::test]
async fn one_process_has_only_so_many_links() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, two) = (world.process(1).await, world.process(2).await);
        let told = FakeLeading::told();
        let _open = one.open(&told.leading);
        let mut links = Vec::new();
        for _ in 0..LINKS_PER_PEER_MAX {
            links.push(opened(&two, one.at()).await.unwrap());
        }
        let refused = opened(&two, one.at()).await;
        assert_eq!(refused.err(), Some(PeerError::Busy));
        let peers = two.peers();
        let asked = peers.look_after(one.at().fingerprint).await;
        assert_eq!(asked, Probed::Answers, "it lives");
        assert_eq!(peers.ask_all(Vec::new()).await, [PeerAnswer::Refuses]);
        drop(links);
        let three = world.process(3).await;
        assert!(three.peers().follow(one.card(), EPOCH).await.is_ok());
    }
}

#[tokio::test]
async fn all_others_are_asked_for_the_leader_and_each_gives_one_answer() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, two) = (world.process(1).await, world.process(2).await);
        let three = world.process(3).await;
        let heard = FakeLeading::told();
        let ago = Duration::from_millis(250);
        heard.leading.heard(Some((EPOCH, ago)));
        let unheard = FakeLeading::told();
        let _open = [two.open(&heard.leading), three.open(&unheard.leading)];
        let forgotten = LinkAddress {
            host: "127.0.0.1".to_owned(),
            port: 9,
            fingerprint: Fingerprint([0xee; 32]),
        };
        let mut answers = one.peers().ask_all(vec![forgotten, two.at()]).await;
        let order = |answer: &PeerAnswer| match answer {
            PeerAnswer::Heard { .. } => 0,
            PeerAnswer::NotHeard => 1,
            PeerAnswer::NoAnswer | PeerAnswer::Refuses | PeerAnswer::Unregistered => 2,
            PeerAnswer::Refused => 3,
        };
        answers.sort_by_key(order);
        let heard = PeerAnswer::Heard { epoch: EPOCH, ago };
        // The one that has no card has left, or was declared dead.
        assert_eq!(answers, [heard, PeerAnswer::NotHeard, PeerAnswer::Refused]);
    }
}

/// As after the death of a leader, over a bucket that takes seconds for a request.
#[tokio::test(start_paused = true)]
async fn peers_whose_addresses_are_known_are_asked_though_the_bucket_does_not_answer() {
    let [memory, _] = Over::both();
    let mut world = World::new(memory);
    let store = FaultStore::in_memory();
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    world.bucket = Bucket::from_store(Arc::new(store.clone()), clock, entropy);
    let (one, two) = (world.process(1).await, world.process(2).await);
    let told = FakeLeading::told();
    let _open = two.open(&told.leading);
    // From then on it knows the other one.
    drop(opened(&one, two.at()).await.unwrap());
    store.inject(Rule::new(On::Get, Fault::Hang).times(u64::MAX));
    let answers = one.peers().ask_all(vec![two.at()]).await;
    assert_eq!(answers, [PeerAnswer::NotHeard]);
}

fn broker(link: LinkAddress, listeners: Vec<Listener>) -> Arc<BrokerImage> {
    Arc::new(BrokerImage {
        broker: BrokerId(2),
        incarnation: Incarnation(2),
        stream: StreamId(2),
        listeners,
        rack: None,
        disk: None,
        link: Some(link),
        draining: false,
    })
}

/// A container that was started again: the card of the process before names an address at which
/// another one answers.
#[tokio::test]
async fn a_process_in_whose_place_another_one_answers_is_dead() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, next) = (world.process(1).await, world.process(2).await);
        let told = FakeLeading::told();
        let _open = next.open(&told.leading);
        // Clients are taken there again, too.
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut before = next.card();
        before.link.fingerprint = Fingerprint([0xdd; 32]);
        before.listeners = vec![listener(&socket)];
        let link = before.link.clone();
        one.registry.register(&before).await.unwrap();
        let peers = one.peers();
        let asked = peers.look_after(link.fingerprint).await;
        assert_eq!(asked, Probed::Refused);
        let asked = peers.ask_all(Vec::new()).await;
        assert!(asked.contains(&PeerAnswer::Refused), "{asked:?}");
        assert!(asked.contains(&PeerAnswer::NotHeard), "{asked:?}");
        let dead = broker(link, before.listeners.clone());
        assert_eq!(peers.probe(dead).await, Probed::Refused);
        let followed = peers.follow(before, EPOCH).await;
        assert_eq!(followed.err(), Some(PeerError::Another));
    }
}

/// Answers every request for the versions of the APIs.
async fn answer_clients(socket: tokio::net::TcpListener) {
    while let Ok((mut stream, _)) = socket.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 14];
            if stream.read_exact(&mut request).await.is_ok() {
                let answer = [&10_i32.to_be_bytes()[..], &request[8..12], &[0; 6]].concat();
                // Who has asked may have gone.
                drop(stream.write_all(&answer).await);
            }
        });
    }
}

/// Two processes have been told one address for their links.
#[tokio::test]
async fn a_process_that_answers_clients_may_live_though_another_one_answers_its_links() {
    for over in Over::both() {
        let world = World::new(over);
        let (one, next) = (world.process(1).await, world.process(2).await);
        let told = FakeLeading::told();
        let _open = next.open(&told.leading);
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut other = next.card();
        other.link.fingerprint = Fingerprint([0xdd; 32]);
        other.listeners = vec![listener(&socket)];
        let clients = tokio::spawn(answer_clients(socket));
        one.registry.register(&other).await.unwrap();
        let peers = one.peers();
        let asked = peers.look_after(other.link.fingerprint).await;
        assert_eq!(asked, Probed::Silent);
        let asked = peers.ask_all(Vec::new()).await;
        assert!(!asked.contains(&PeerAnswer::Refused), "{asked:?}");
        let probed = peers.probe(broker(other.link, other.listeners)).await;
        assert_eq!(probed, Probed::Silent);
        clients.abort();
    }
}

fn listener(socket: &tokio::net::TcpListener) -> Listener {
    Listener {
        name: "KAFKA".to_owned(),
        security: SecurityProtocol::Plaintext,
        host: "127.0.0.1".to_owned(),
        port: socket.local_addr().unwrap().port(),
    }
}

#[tokio::test]
async fn a_peer_whose_kafka_port_is_closed_is_dead_now() {
    let [_, quic] = Over::both();
    let world = World::new(quic);
    let one = world.process(1).await;
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = listener(&socket);
    // Nobody takes its links: a process that stands still.
    let two = world.stranger(2, vec![listener.clone()]);
    two.registry.register(&two.me.card).await.unwrap();
    let broker = broker(two.at(), vec![listener]);
    let peers = one.peers();
    assert_eq!(peers.probe(Arc::clone(&broker)).await, Probed::Silent);
    assert_eq!(peers.ask_all(Vec::new()).await, [PeerAnswer::NoAnswer]);
    let asked = peers.look_after(two.at().fingerprint).await;
    assert_eq!(asked, Probed::Silent, "it may come back");
    let told = FakeLeading::told();
    let open = two.open(&told.leading);
    assert_eq!(peers.probe(Arc::clone(&broker)).await, Probed::Answers);
    drop((open, socket));
    assert_eq!(peers.probe(broker).await, Probed::Refused);
    assert_eq!(peers.ask_all(Vec::new()).await, [PeerAnswer::Refused]);
    let refused = peers.follow(two.card(), EPOCH).await.err();
    assert_eq!(refused, Some(PeerError::Refused));
}
