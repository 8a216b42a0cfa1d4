//! One client connection: reads frames, starts their requests in the order in which they arrive,
//! writes the answers in that same order.
//!
//! Two halves run in one task. The reading half cuts frames and *starts* each request, which for
//! Produce means appending it; the writing half finishes requests one after the other. So Produce
//! requests are appended while earlier ones wait for their acknowledgement, and a parked Fetch or
//! JoinGroup holds up only what comes behind it. A client that does not read its answers, or asks
//! for more than may be in progress, is not read from: the queue between the halves is bounded. A
//! request other than Produce does nothing before its turn, so that of those only a few bytes are
//! read ahead: behind a parked request they would hold memory that others need to get on.
//!
//! Knows nothing about what a request means; that is [`Handler`].

mod pace;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use firn_proto::env::Clock;
use firn_proto::limits::{PENDING_REPLIES_MAX, READ_AHEAD_REQUEST_BYTES};
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::pace::{ANSWER_BYTES_PER_SECOND_MIN, Arriving, Pace, STALL_MAX};
use super::context::ConnectionState;
use super::frame::{BadLength, FrameKind, FrameReader, Next};
use super::memory::{RequestMemory, Reserved};
use super::reply::{Outgoing, Reply};
use crate::metrics::Metrics;

/// What requests mean. One implementation serves clients; tests have their own.
pub trait Handler: Send + Sync + 'static {
    /// Starts the request in `frame`. Called one frame at a time, in the order of arrival; the
    /// next frame is not looked at until this is done.
    fn start(
        &self,
        conn: &Arc<ConnectionState>,
        frame: Bytes,
        memory: Reserved,
    ) -> impl Future<Output = Started> + Send;
}

/// What becomes of a request that has been started.
pub enum Started {
    /// It is answered, or not (acks=0), once this is done. Polled only after every earlier
    /// request of the connection has its answer. An error closes the connection.
    Pending(BoxFuture<'static, Result<Option<Reply>, Refusal>>),
    /// The connection cannot go on.
    Refused(Refusal),
}

/// Why the broker closes a connection: the client broke the protocol, or asked for what cannot be
/// answered in it. For the log.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Why a connection ended.
#[derive(Debug, Error)]
pub enum Ended {
    /// The client closed it.
    #[error("closed by the client")]
    ByClient,
    /// No request for `connections.max.idle.ms`.
    #[error("idle")]
    Idle,
    /// Nothing was sent for a while after the connection was opened.
    #[error("nothing was sent")]
    Silent,
    /// A frame did not arrive in reasonable time.
    #[error("a request arrived too slowly")]
    SlowRequest,
    /// Its next request found no memory, or its turn did not come, for `connections.max.idle.ms`.
    #[error("a request waited too long to be read")]
    Crowded,
    /// The client did not take its answers in reasonable time.
    #[error("answers were not read")]
    SlowReader,
    /// The broker is stopping.
    #[error("the broker is stopping")]
    Stopping,
    /// The client broke the protocol.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<BadLength> for Ended {
    fn from(bad: BadLength) -> Self {
        Self::Refused(Refusal(bad.to_string()))
    }
}

/// What connections share.
pub struct Shared<S> {
    /// What requests mean.
    pub service: S,
    /// Bytes of all requests in progress.
    pub memory: RequestMemory,
    /// The reader of time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Largest request frame.
    pub request_bytes_max: usize,
    /// A connection without a request for this long is closed.
    pub idle_max: Duration,
    /// Cancelled when the broker stops: no more requests are read, those in progress are answered.
    pub stop: CancellationToken,
}

/// Serves one client until either side closes, and says why it ended.
pub async fn serve<S, IO>(shared: &Shared<S>, conn: Arc<ConnectionState>, socket: IO) -> Ended
where
    S: Handler,
    IO: AsyncRead + AsyncWrite + Send,
{
    let (reader, writer) = tokio::io::split(socket);
    serve_halves(shared, conn, reader, writer).await
}

/// [`serve`], for a socket that has two halves of its own.
pub async fn serve_halves<S, R, W>(
    shared: &Shared<S>,
    conn: Arc<ConnectionState>,
    reader: R,
    writer: W,
) -> Ended
where
    S: Handler,
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let (requests, replies) = mpsc::channel(PENDING_REPLIES_MAX);
    let in_progress = InProgress::default();
    let reading = Reading {
        shared,
        conn,
        frames: FrameReader::new(shared.request_bytes_max),
        socket: reader,
        requests,
        in_progress: &in_progress,
        had_request: false,
    };
    let writing = Writing {
        shared,
        socket: writer,
        replies,
        in_progress: &in_progress,
    };
    let writing = writing.run();
    tokio::pin!(writing);
    let ended = tokio::select! {
        ended = reading.run() => ended,
        failed = &mut writing => return failed.err().unwrap_or(Ended::ByClient),
    };
    // What was started is still answered: the client may have closed only its sending side, and a
    // frame that cannot be read takes nothing back of what came before it.
    if !matches!(ended, Ended::Io(_))
        && let Ok(Err(failed)) = timeout(LAST_ANSWERS_MAX, writing).await
        && !matches!(ended, Ended::ByClient | Ended::Refused(_))
    {
        return failed;
    }
    ended
}

struct Reading<'a, S, R> {
    shared: &'a Shared<S>,
    conn: Arc<ConnectionState>,
    frames: FrameReader,
    socket: R,
    requests: mpsc::Sender<Queued>,
    in_progress: &'a InProgress,
    had_request: bool,
}

type Pending = BoxFuture<'static, Result<Option<Reply>, Refusal>>;

/// A request between the halves.
struct Queued {
    pending: Pending,
    /// What counts of it as read ahead until it is its turn.
    ahead: usize,
}

/// What the halves know of the requests between them.
#[derive(Default)]
struct InProgress {
    /// Requests that were read and have no answer yet.
    requests: AtomicUsize,
    /// Bytes of those that do nothing before their turn, which has not come.
    ahead: AtomicUsize,
    /// Told whenever one of the two falls.
    moved: Notify,
}

impl InProgress {
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    fn on_read(&self, ahead: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.ahead.fetch_add(ahead, Ordering::Relaxed);
    }

    fn on_turn(&self, ahead: usize) {
        self.ahead.fetch_sub(ahead, Ordering::Relaxed);
        self.moved.notify_one();
    }

    fn on_finished(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
        self.moved.notify_one();
    }

    /// Waits until `ahead` more bytes may be read ahead: few, unless nothing is in progress.
    async fn room(&self, ahead: usize) {
        while ahead > 0
            && !self.is_idle()
            && self.ahead.load(Ordering::Relaxed) + ahead > READ_AHEAD_REQUEST_BYTES
        {
            self.moved.notified().await;
        }
    }
}

/// What counts as read ahead of a frame of `len` bytes: Produce is started at once.
fn ahead(kind: FrameKind, len: usize) -> usize {
    match kind {
        FrameKind::Produce => 0,
        FrameKind::Journal | FrameKind::Other => len,
    }
}

impl<S: Handler, R: AsyncRead + Send + Unpin> Reading<'_, S, R> {
    async fn run(mut self) -> Ended {
        loop {
            let stop = &self.shared.stop;
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Ended::Stopping,
                next = next_frame(self.shared, &mut self.frames, &mut self.socket, self.in_progress, self.had_request) => next,
            };
            let (frame, memory) = match next {
                Ok(next) => next,
                Err(ended) => return ended,
            };
            self.had_request = true;
            let ahead = ahead(FrameKind::of(&frame), frame.len());
            self.in_progress.on_read(ahead);
            match self.shared.service.start(&self.conn, frame, memory).await {
                Started::Pending(pending) => {
                    let queued = Queued { pending, ahead };
                    if self.requests.send(queued).await.is_err() {
                        return Ended::ByClient;
                    }
                }
                Started::Refused(refusal) => return refusal.into(),
            }
        }
    }
}

/// Reads the next frame and reserves memory for it.
async fn next_frame<S>(
    shared: &Shared<S>,
    frames: &mut FrameReader,
    socket: &mut (impl AsyncRead + Unpin),
    in_progress: &InProgress,
    had_request: bool,
) -> Result<(Bytes, Reserved), Ended> {
    let mut arriving: Option<Arriving> = None;
    loop {
        match frames.next_step()? {
            Next::Frame(frame) => {
                let memory = match arriving {
                    Some(arriving) => arriving.memory,
                    None => {
                        let kind = FrameKind::of(&frame);
                        admit(shared, in_progress, kind, frame.len()).await?
                    }
                };
                return Ok((frame, memory));
            }
            Next::Reserve(kind, len) => {
                let memory = admit(shared, in_progress, kind, len).await?;
                frames.reserved(len);
                arriving = Some(Arriving::new(len, memory, shared.clock.mono()));
            }
            Next::Read => {
                let patience = match &arriving {
                    Some(arriving) => {
                        let left = arriving.patience_left(shared.clock.mono());
                        left.ok_or(Ended::SlowRequest)?
                    }
                    None if frames.is_inside() => STALL_MAX,
                    None if had_request => shared.idle_max,
                    None => FIRST_BYTE_MAX.min(shared.idle_max),
                };
                let patience = match frames.may_rest() {
                    true => patience.min(REST_AFTER),
                    false => patience,
                };
                let mut buffer = frames.buffer();
                let Ok(read) = timeout(patience, socket.read_buf(&mut buffer)).await else {
                    if arriving.is_some() || frames.rest() {
                        continue;
                    }
                    if frames.is_inside() {
                        return Err(Ended::SlowRequest);
                    }
                    if !in_progress.is_idle() {
                        // It waits for an answer: not idle.
                        continue;
                    }
                    return Err(if had_request {
                        Ended::Idle
                    } else {
                        Ended::Silent
                    });
                };
                match read? {
                    0 if frames.is_inside() => {
                        return Err(Ended::Refused(Refusal(
                            "closed in the middle of a request".to_owned(),
                        )));
                    }
                    0 => return Err(Ended::ByClient),
                    n => {
                        shared.metrics.bytes_received.inc_by(n as u64);
                        if let Some(arriving) = &mut arriving {
                            arriving.pace.on_moved(n, shared.clock.mono());
                        }
                    }
                }
            }
        }
    }
}

/// Waits until a frame may be taken in, and for its memory. Not for ever: while it waits nobody sees
/// that the client has gone.
async fn admit<S>(
    shared: &Shared<S>,
    in_progress: &InProgress,
    kind: FrameKind,
    len: usize,
) -> Result<Reserved, Ended> {
    let admitted = async {
        in_progress.room(ahead(kind, len)).await;
        shared.memory.reserve(kind, len).await
    };
    let admitted = timeout(shared.idle_max, admitted).await;
    admitted.map_err(|_| Ended::Crowded)
}

struct Writing<'a, S, W> {
    shared: &'a Shared<S>,
    socket: W,
    replies: mpsc::Receiver<Queued>,
    in_progress: &'a InProgress,
}

impl<S: Handler, W: AsyncWrite + Send + Unpin> Writing<'_, S, W> {
    /// Answers until there is nothing more to answer, or nobody to answer to.
    async fn run(mut self) -> Result<(), Ended> {
        let mut outgoing = Outgoing::default();
        let mut waiting: Option<Pending> = None;
        loop {
            let pending = match waiting.take() {
                Some(pending) => pending,
                None => match self.replies.recv().await {
                    Some(queued) => self.begin(queued),
                    None => return Ok(()),
                },
            };
            self.finish(pending.await?, &mut outgoing);
            // Whatever else is ready goes out with the same write.
            while outgoing.remaining() < WRITE_BYTES_TARGET {
                let Ok(next) = self.replies.try_recv() else {
                    break;
                };
                let mut next = self.begin(next);
                match futures::poll!(&mut next) {
                    std::task::Poll::Ready(Ok(reply)) => self.finish(reply, &mut outgoing),
                    std::task::Poll::Ready(Err(refusal)) => {
                        self.write(&mut outgoing).await?;
                        return Err(refusal.into());
                    }
                    std::task::Poll::Pending => {
                        waiting = Some(next);
                        break;
                    }
                }
            }
            self.write(&mut outgoing).await?;
        }
    }

    fn begin(&self, queued: Queued) -> Pending {
        self.in_progress.on_turn(queued.ahead);
        queued.pending
    }

    fn finish(&self, reply: Option<Reply>, outgoing: &mut Outgoing) {
        self.in_progress.on_finished();
        if let Some(reply) = reply {
            outgoing.push(reply);
        }
    }

    async fn write(&mut self, outgoing: &mut Outgoing) -> Result<(), Ended> {
        let clock = &self.shared.clock;
        let len = outgoing.remaining();
        let mut pace = Pace::new(len, ANSWER_BYTES_PER_SECOND_MIN, clock.mono());
        while outgoing.has_remaining() {
            let patience = pace.patience_left(clock.mono(), outgoing.is_wanted());
            let patience = patience.ok_or(Ended::SlowReader)?;
            let mut part = Buf::take(&mut *outgoing, WRITE_BYTES_MAX);
            let Ok(written) = timeout(patience, self.socket.write_buf(&mut part)).await else {
                continue;
            };
            match written? {
                0 => return Err(Ended::ByClient),
                n => {
                    self.shared.metrics.bytes_sent.inc_by(n as u64);
                    pace.on_moved(n, clock.mono());
                }
            }
            if outgoing.has_remaining() {
                // A socket that takes all that it is offered must not keep others waiting.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// A client that says nothing for this long after it connected is not one.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(30);
/// A connection that says nothing for this long gives its buffer back.
const REST_AFTER: Duration = Duration::from_secs(1);
/// How long requests in progress may still be answered once no more are read.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(5);
/// Answers are collected up to this size while more of them are ready.
const WRITE_BYTES_TARGET: usize = 256 * 1024;
/// What of a long answer is written before others have their turn: copying it takes a fraction of a
/// millisecond.
const WRITE_BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests;
