//! The socket of the HTTP door, within limits: so many connections at a time, each for so long.
//! Who asks for health must not depend on who keeps connections open and says nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last, whatever it does.
const LIFETIME_MAX: Duration = Duration::from_secs(60);

/// A socket that accepts no more connections than there is room for; the rest wait in the system's
/// queue.
pub(super) struct Limited {
    socket: TcpListener,
    places: Arc<Semaphore>,
}

impl Limited {
    pub(super) fn new(socket: TcpListener) -> Self {
        Self {
            socket,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Nobody closes the semaphore, so there is always a place in the end.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, peer) = Listener::accept(&mut self.socket).await;
        let connection = Connection {
            stream,
            end: Box::pin(sleep(LIFETIME_MAX)),
            _place: place,
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// A connection and its place.
pub(super) struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Whether its time is over; the task is woken when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(cx).is_ready()
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
        match self.is_over(cx) {
            true => over(),
            false => Pin::new(&mut self.stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.is_over(cx) {
            true => over(),
            false => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
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
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn so_many_connections_and_no_more() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut limited = Limited::new(socket);
        let address = limited.local_addr().unwrap();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let client = TcpStream::connect(address).await.unwrap();
            held.push((client, limited.accept().await));
        }
        let _late = TcpStream::connect(address).await.unwrap();
        {
            let mut accept = Box::pin(limited.accept());
            assert!(poll!(&mut accept).is_pending());
            held.pop();
            accept.await;
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_ends() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut limited = Limited::new(socket);
        let address = limited.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = limited.accept().await;
        tokio::time::pause();
        let ended = connection.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }
}
