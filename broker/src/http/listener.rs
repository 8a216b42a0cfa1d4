//! The socket of the HTTP door, within limits: so many connections at a time, each for so long,
//! and none that stands still.
//! Who asks for health must not depend on who keeps connections open and says nothing: when there
//! is no place left, the connection that has stood still longest makes room.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may go without a byte in either direction.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever it does. It carries one request.
const LIFETIME_MAX: Duration = Duration::from_secs(60);

/// A socket that holds no more connections than there are places.
pub(super) struct Limited {
    socket: TcpListener,
    places: Vec<Weak<Place>>,
    moves: Arc<AtomicU64>,
}

impl Limited {
    pub(super) fn new(socket: TcpListener) -> Self {
        Self {
            socket,
            places: Vec::with_capacity(CONNECTIONS_MAX),
            moves: Arc::default(),
        }
    }

    /// A place for one more connection.
    fn take_place(&mut self) -> Arc<Place> {
        self.places.retain(|place| place.strong_count() > 0);
        if self.places.len() >= CONNECTIONS_MAX {
            let last_move = |place: &Weak<Place>| {
                let place = place.upgrade()?;
                Some(place.last_move.load(Ordering::Relaxed))
            };
            let stillest = (0..self.places.len()).min_by_key(|at| last_move(&self.places[*at]));
            let stillest = stillest.and_then(|at| self.places.swap_remove(at).upgrade());
            if let Some(place) = stillest {
                place.lost.cancel();
            }
        }
        let place = Arc::new(Place {
            last_move: AtomicU64::new(self.moves.fetch_add(1, Ordering::Relaxed)),
            lost: CancellationToken::new(),
        });
        self.places.push(Arc::downgrade(&place));
        place
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.socket).await;
        let place = self.take_place();
        let connection = Connection {
            stream,
            end: Box::pin(sleep(LIFETIME_MAX)),
            stall: Box::pin(sleep(STALL_MAX)),
            lost: Box::pin(place.lost.clone().cancelled_owned()),
            moves: Arc::clone(&self.moves),
            place,
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// One of the places. It is free when its connection is gone.
struct Place {
    /// When a byte last came or went, in moves of all connections.
    last_move: AtomicU64,
    /// Cancelled when another connection needs the place.
    lost: CancellationToken,
}

/// A connection and its place.
pub(super) struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    stall: Pin<Box<Sleep>>,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    moves: Arc<AtomicU64>,
    place: Arc<Place>,
}

impl Connection {
    /// Whether its time is over, or its place lost; the task is woken when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(cx).is_ready()
            || self.stall.as_mut().poll(cx).is_ready()
            || self.lost.as_mut().poll(cx).is_ready()
    }

    /// Bytes came or went.
    fn moved(&mut self) {
        self.stall.as_mut().set(sleep(STALL_MAX));
        let now = self.moves.fetch_add(1, Ordering::Relaxed);
        self.place.last_move.store(now, Ordering::Relaxed);
    }
}

fn over<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return over();
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.moved();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return over();
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.moved();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn listening() -> (Limited, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        (Limited::new(socket), address)
    }

    #[tokio::test]
    async fn when_all_places_are_taken_the_one_that_stands_still_longest_makes_room() {
        let (mut limited, address) = listening().await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let client = TcpStream::connect(address).await.unwrap();
            held.push((client, limited.accept().await.0));
        }
        let (client, connection) = &mut held[0];
        client.write_all(b"x").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'x');

        let _late = TcpStream::connect(address).await.unwrap();
        let (mut late, _) = limited.accept().await;

        let (_client, mut stillest) = held.remove(1);
        let ended = stillest.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        for (_, connection) in &mut held {
            assert!(poll!(Box::pin(connection.read_u8())).is_pending());
        }
        assert!(poll!(Box::pin(late.read_u8())).is_pending());
    }

    #[tokio::test]
    async fn a_place_that_is_left_is_taken_before_anyone_makes_room() {
        let (mut limited, address) = listening().await;
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let client = TcpStream::connect(address).await.unwrap();
            held.push((client, limited.accept().await.0));
        }
        held.pop();
        let _late = TcpStream::connect(address).await.unwrap();
        let _accepted = limited.accept().await;
        for (_, connection) in &mut held {
            assert!(poll!(Box::pin(connection.read_u8())).is_pending());
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_ends() {
        let (mut limited, address) = listening().await;
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = limited.accept().await;
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        let ended = connection.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < LIFETIME_MAX, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_connection_that_goes_on_for_ever_ends_too() {
        let (mut limited, address) = listening().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = limited.accept().await;
        tokio::time::pause();
        let ended = loop {
            client.write_all(b"x").await.unwrap();
            tokio::time::advance(STALL_MAX / 2).await;
            if let Err(ended) = connection.read_u8().await {
                break ended;
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }
}
