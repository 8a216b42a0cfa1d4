//! Order, limits and ends of connections, over pipes in memory and paused time.

use std::sync::{Mutex, OnceLock};

use firn_proto::kafka::Response;
use firn_proto::kafka::sync_group::SyncGroupResponse;
use firn_proto::limits::SMALL_REQUEST_BYTES;
use futures::FutureExt;
use tokio::io::DuplexStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use firn_proto::env::Mono;

use super::pace::{CROWDED_LOOK, CROWDED_STALL_MAX};
use super::*;
use crate::config::HostPort;
use crate::kafka::context::OpenListener;

/// An answer that carries what was sent: SyncGroup's is the smallest with bytes in it.
fn echo(sent: &Bytes) -> Reply {
    let response = SyncGroupResponse {
        assignment: sent.clone(),
        ..SyncGroupResponse::default()
    };
    Response::SyncGroup(response).encode(0, 0).into()
}

/// Answers `p…` (a Produce: started at once) and `f…` (a Fetch: does nothing until it is its turn)
/// with the frame itself; what starts with `w`, or as Produce does, waits for `go` first; `0` has no answer; `x` is
/// refused when started and `l` when finished.
#[derive(Default)]
struct Echo {
    started: Mutex<Vec<Bytes>>,
    go: Arc<Notify>,
}

impl Handler for Echo {
    async fn start(&self, _: &Arc<ConnectionState>, frame: Bytes, memory: Reserved) -> Started {
        self.started.lock().unwrap().push(frame.clone());
        let go = Arc::clone(&self.go);
        let waits = frame.starts_with(b"w") || frame.starts_with(&[0, 0]);
        match frame.first() {
            Some(b'x') => Started::Refused(Refusal("x".to_owned())),
            Some(b'l') => Started::Pending(async { Err(Refusal("l".to_owned())) }.boxed()),
            Some(b'0') => Started::Pending(async { Ok(None) }.boxed()),
            _ if waits => Started::Pending(
                async move {
                    go.notified().await;
                    let memory = Some(memory);
                    Ok(Some(Reply {
                        memory,
                        ..echo(&frame)
                    }))
                }
                .boxed(),
            ),
            _ => Started::Pending(async move { Ok(Some(echo(&frame))) }.boxed()),
        }
    }
}

/// Time as tokio tells it, which a test may pause.
struct PausedClock(tokio::time::Instant);

impl Clock for PausedClock {
    fn wall_ms(&self) -> i64 {
        0
    }

    fn mono(&self) -> Mono {
        Mono::default().after(self.0.elapsed())
    }
}

struct Client {
    shared: Arc<Shared<Echo>>,
    pipe: DuplexStream,
    server: JoinHandle<Ended>,
}

impl Client {
    fn connect() -> Self {
        Self::connect_with(1 << 20)
    }

    fn connect_with(memory: usize) -> Self {
        let shared = Arc::new(Shared {
            service: Echo::default(),
            memory: RequestMemory::new(memory, 128 << 20),
            clock: Arc::new(PausedClock(tokio::time::Instant::now())),
            metrics: Arc::new(Metrics::new()),
            request_bytes_max: 100_000,
            idle_max: Duration::from_secs(600),
            stop: CancellationToken::new(),
        });
        Self::connect_to(shared)
    }

    fn connect_to(shared: Arc<Shared<Echo>>) -> Self {
        let (pipe, far) = tokio::io::duplex(64 * 1024);
        let address = "127.0.0.1:9092".parse().unwrap();
        let listener = OpenListener {
            name: "TEST".to_owned(),
            bound: address,
            advertised: HostPort {
                host: "localhost".to_owned(),
                port: 9092,
            },
        };
        let conn = ConnectionState {
            id: 1,
            listener: Arc::new(listener),
            peer: address,
            software: OnceLock::new(),
        };
        let server = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { serve(&shared, Arc::new(conn), far).await })
        };
        Self {
            shared,
            pipe,
            server,
        }
    }

    async fn send(&mut self, frame: &[u8]) {
        let len = u32::try_from(frame.len()).unwrap();
        self.pipe.write_all(&len.to_be_bytes()).await.unwrap();
        self.pipe.write_all(frame).await.unwrap();
    }

    async fn answer(&mut self) -> Vec<u8> {
        let len = self.pipe.read_u32().await.unwrap();
        let mut answer = vec![0; len as usize];
        self.pipe.read_exact(&mut answer).await.unwrap();
        // Correlation id, error code and the length of what follows.
        answer.split_off(4 + 2 + 4)
    }

    fn started(&self) -> usize {
        self.shared.service.started.lock().unwrap().len()
    }
}

/// A Produce request, as far as its memory is concerned.
const PRODUCE: [u8; 15_000] = [0; 15_000];

/// Lets every task do what it can without waiting for time to pass.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_requests() {
    let mut client = Client::connect();
    for frame in [b"p1", b"w2", b"p3", b"f4"] {
        client.send(frame).await;
    }
    assert_eq!(client.answer().await, b"p1");
    client.shared.service.go.notify_one();
    assert_eq!(client.answer().await, b"w2");
    assert_eq!(client.answer().await, b"p3");
    assert_eq!(client.answer().await, b"f4");
}

#[tokio::test]
async fn requests_are_started_while_an_earlier_one_waits() {
    let mut client = Client::connect();
    for frame in [b"w1", b"p2", b"p3"] {
        client.send(frame).await;
    }
    settle().await;
    assert_eq!(client.started(), 3);
}

#[tokio::test]
async fn a_request_without_an_answer_leaves_no_trace() {
    let mut client = Client::connect();
    for frame in [b"p1", b"00", b"p3"] {
        client.send(frame).await;
    }
    assert_eq!(client.answer().await, b"p1");
    assert_eq!(client.answer().await, b"p3");
}

#[tokio::test]
async fn a_long_frame_comes_back_whole() {
    let mut client = Client::connect();
    let frame: Vec<u8> = (0..90_000u32)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    let writes = async { client.send(&frame).await };
    writes.await;
    assert_eq!(client.answer().await, frame);
}

#[tokio::test]
async fn the_number_of_requests_in_progress_is_bounded() {
    let mut client = Client::connect();
    for _ in 0..PENDING_REPLIES_MAX + 50 {
        client.send(b"w").await;
    }
    settle().await;
    assert!(
        client.started() <= PENDING_REPLIES_MAX + 2,
        "{}",
        client.started()
    );
}

#[tokio::test]
async fn a_client_that_finds_no_memory_is_not_read() {
    let mut client = Client::connect_with(40_000);
    client.send(&PRODUCE).await;
    client.send(&PRODUCE).await;
    settle().await;
    assert_eq!(client.started(), 1);
    client.shared.service.go.notify_one();
    client.answer().await;
    settle().await;
    assert_eq!(client.started(), 2);
}

/// Produce requests wait for the bucket, which may be away for an hour. Consumers read on from
/// memory meanwhile, and groups stay together.
#[tokio::test]
async fn produce_requests_that_wait_hold_up_nobody_else() {
    let mut first = Client::connect_with(40_000);
    first.send(&PRODUCE).await;
    let mut second = Client::connect_to(Arc::clone(&first.shared));
    second.send(&PRODUCE).await;
    let mut small = Client::connect_to(Arc::clone(&first.shared));
    small.send(&[0; 5_000]).await;
    settle().await;
    assert_eq!(first.started(), 1, "the memory of Produce is taken");
    let mut consumer = Client::connect_to(Arc::clone(&first.shared));
    for frame in [vec![b'f'; 100], vec![b'f'; 50_000]] {
        consumer.send(&frame).await;
        assert_eq!(consumer.answer().await, frame);
    }
}

/// A request that is parked, say a Fetch with the longest wait, is no reason to take in what comes
/// behind it: a few such connections would hold the memory of everybody's heartbeats.
#[tokio::test]
async fn what_comes_behind_a_parked_request_holds_up_nobody_else() {
    let mut first = Client::connect();
    let mut parked = Vec::new();
    for _ in 0..8 {
        parked.push(Client::connect_to(Arc::clone(&first.shared)));
    }
    let frame = vec![b'w'; SMALL_REQUEST_BYTES - 4];
    for _ in 0..20 {
        for client in &mut parked {
            // What the broker does not read stays in the pipe, which may be full.
            let _ = client.send(&frame).now_or_never();
        }
        settle().await;
    }
    assert_eq!(first.started(), 8, "one of each connection");
    first.send(b"p").await;
    settle().await;
    assert_eq!(first.answer().now_or_never().unwrap(), b"p");
    first.shared.service.go.notify_one();
    settle().await;
    assert_eq!(first.started(), 8 + 1 + 1, "the next one, in its turn");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_memory_for_long_is_given_up() {
    let mut first = Client::connect_with(40_000);
    first.send(&PRODUCE).await;
    settle().await;
    let mut second = Client::connect_to(Arc::clone(&first.shared));
    second.send(&PRODUCE).await;
    assert!(matches!(second.server.await.unwrap(), Ended::Crowded));
}

#[tokio::test]
async fn a_refused_request_closes_the_connection() {
    for frame in [b"x", b"l"] {
        let mut client = Client::connect();
        client.send(frame).await;
        assert!(matches!(client.server.await.unwrap(), Ended::Refused(_)));
    }
}

#[tokio::test]
async fn what_is_finished_is_answered_before_a_refusal_closes_the_connection() {
    for refused in [b"x", b"l"] {
        let mut client = Client::connect();
        for frame in [&b"w1"[..], b"p2", refused] {
            client.send(frame).await;
        }
        settle().await;
        client.shared.service.go.notify_one();
        assert_eq!(client.answer().await, b"w1");
        assert_eq!(client.answer().await, b"p2");
        assert!(matches!(client.server.await.unwrap(), Ended::Refused(_)));
    }
}

#[tokio::test]
async fn a_hostile_length_closes_the_connection() {
    let mut client = Client::connect();
    client
        .pipe
        .write_all(&i32::MAX.to_be_bytes())
        .await
        .unwrap();
    let Ended::Refused(reason) = client.server.await.unwrap() else {
        panic!("not refused")
    };
    assert_eq!(
        reason.0,
        "a frame of 2147483647 bytes was announced; the largest allowed is 100000"
    );
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_still_gets_its_answers() {
    let mut client = Client::connect();
    client.send(b"w1").await;
    client.pipe.shutdown().await.unwrap();
    settle().await;
    client.shared.service.go.notify_one();
    assert_eq!(client.answer().await, b"w1");
    assert!(matches!(client.server.await.unwrap(), Ended::ByClient));
}

#[tokio::test]
async fn a_stop_answers_what_was_started_and_reads_no_more() {
    let mut client = Client::connect();
    client.send(b"w1").await;
    settle().await;
    client.shared.stop.cancel();
    client.send(b"p2").await;
    settle().await;
    client.shared.service.go.notify_one();
    assert_eq!(client.answer().await, b"w1");
    assert!(matches!(client.server.await.unwrap(), Ended::Stopping));
    assert_eq!(client.shared.service.started.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_before_an_idle_one() {
    let silent = Client::connect();
    assert!(matches!(silent.server.await.unwrap(), Ended::Silent));
    let mut idle = Client::connect();
    idle.send(b"p").await;
    idle.answer().await;
    assert!(matches!(idle.server.await.unwrap(), Ended::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_an_answer_is_not_idle() {
    let mut client = Client::connect();
    client.send(b"w").await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    client.shared.service.go.notify_one();
    assert_eq!(client.answer().await, b"w");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stalls_is_given_up() {
    let mut client = Client::connect();
    client.pipe.write_all(&[0, 0, 1]).await.unwrap();
    assert!(matches!(client.server.await.unwrap(), Ended::SlowRequest));
    let mut client = Client::connect();
    client
        .pipe
        .write_all(&90_000u32.to_be_bytes())
        .await
        .unwrap();
    client.pipe.write_all(&[0; 60_000]).await.unwrap();
    assert!(matches!(client.server.await.unwrap(), Ended::SlowRequest));
}

/// Announces a Produce that takes all the memory of short ones, and sends a part of it.
async fn announce(client: &mut Client, sent: usize) {
    let len = u32::try_from(PRODUCE.len()).unwrap();
    client.pipe.write_all(&len.to_be_bytes()).await.unwrap();
    client.pipe.write_all(&PRODUCE[..sent]).await.unwrap();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_announced_and_not_sent_holds_no_memory() {
    let mut slow = Client::connect_with(40_000);
    announce(&mut slow, SMALL_REQUEST_BYTES / 2).await;
    let mut other = Client::connect_to(Arc::clone(&slow.shared));
    other.send(&PRODUCE).await;
    settle().await;
    assert_eq!(other.started(), 1);
}

/// A length costs nothing to announce. Who does not send what he announced keeps nobody from being
/// read for long, and is left alone while nobody needs the memory.
#[tokio::test(start_paused = true)]
async fn a_request_that_stalls_is_given_up_soon_when_others_wait_for_its_memory() {
    let mut slow = Client::connect_with(40_000);
    announce(&mut slow, SMALL_REQUEST_BYTES).await;
    let began = tokio::time::Instant::now();
    tokio::time::sleep(CROWDED_STALL_MAX * 2).await;
    assert!(!slow.server.is_finished());
    let mut other = Client::connect_to(Arc::clone(&slow.shared));
    other.send(&PRODUCE).await;
    assert!(matches!(slow.server.await.unwrap(), Ended::SlowRequest));
    let waited = began.elapsed() - CROWDED_STALL_MAX * 2;
    assert!(waited <= CROWDED_LOOK, "{waited:?} until it was given up");
    settle().await;
    assert_eq!(other.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_trickles_is_given_up_soon_when_others_wait_for_its_memory() {
    let mut slow = Client::connect_with(40_000);
    announce(&mut slow, SMALL_REQUEST_BYTES).await;
    let mut other = Client::connect_to(Arc::clone(&slow.shared));
    other.send(&PRODUCE).await;
    let began = tokio::time::Instant::now();
    let trickle = async {
        while slow.pipe.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        // The broker reads no more of it.
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        () = trickle => unreachable!("it goes on until the connection ends"),
        ended = &mut slow.server => ended.unwrap(),
    };
    assert!(matches!(ended, Ended::SlowRequest));
    assert!(began.elapsed() <= CROWDED_STALL_MAX + CROWDED_LOOK);
    settle().await;
    assert_eq!(other.started(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answers_is_given_up() {
    let mut client = Client::connect();
    client.send(&[b'p'; 90_000]).await;
    assert!(matches!(client.server.await.unwrap(), Ended::SlowReader));
}

/// A few who ask for long answers and read none of them keep nobody from being answered for long.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_answers_is_given_up_soon_when_others_wait_for_its_memory()
{
    let mut deaf = Client::connect_with(200_000);
    // Longer than the pipe.
    let frame = vec![0; 90_000];
    deaf.send(&frame).await;
    settle().await;
    deaf.shared.service.go.notify_one();
    let began = tokio::time::Instant::now();
    tokio::time::sleep(CROWDED_STALL_MAX * 2).await;
    assert!(!deaf.server.is_finished());
    let mut other = Client::connect_to(Arc::clone(&deaf.shared));
    other.send(&frame).await;
    assert!(matches!(deaf.server.await.unwrap(), Ended::SlowReader));
    let waited = began.elapsed() - CROWDED_STALL_MAX * 2;
    assert!(waited <= CROWDED_LOOK, "{waited:?} until it was given up");
    settle().await;
    assert_eq!(other.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sips_its_answers_is_given_up() {
    let mut client = Client::connect();
    client.send(&[b'p'; 90_000]).await;
    let sips = async {
        loop {
            let mut sip = [0; 100];
            let _ = client.pipe.read_exact(&mut sip).await;
            tokio::time::sleep(STALL_MAX / 3).await;
        }
    };
    let ended = tokio::select! {
        () = sips => unreachable!("sips end with the connection"),
        ended = &mut client.server => ended.unwrap(),
    };
    assert!(matches!(ended, Ended::SlowReader));
}
