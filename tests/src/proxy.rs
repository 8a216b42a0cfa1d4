//! A proxy before a TCP server that counts requests of HTTP, delays, drops answers, refuses and
//! goes silent, as it is told, while connections stand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::wait;

/// Bytes that are passed on at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// How often a thread that holds bytes back looks whether it may pass them on.
const HOLD_PAUSE: Duration = Duration::from_millis(20);

/// What the proxy does to what passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Passes everything on.
    Fair,
    /// Passes everything on, each chunk this much later.
    Slow(Duration),
    /// Passes requests on, and no answer: each connection ends instead of answering.
    AnswersLost,
    /// Answers each request with 503.
    Unavailable,
    /// Holds everything back until the weather changes.
    Silent,
    /// Ends every connection at its next byte.
    Cut,
}

/// A running proxy; its threads end with the process.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    weather: Mutex<Weather>,
    requests: AtomicU64,
}

impl Proxy {
    /// Starts one before `server`.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared {
            server,
            weather: Mutex::new(Weather::Fair),
            requests: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || relay(&client, &shared));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the weather, for connections that stand and those to come.
    pub fn set(&self, weather: Weather) {
        *self
            .shared
            .weather
            .lock()
            .expect("no thread panics with it") = weather;
    }

    /// How many requests of HTTP have come so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().expect("no thread panics with it")
    }

    /// Waits while nothing passes, and as long as a slow chunk takes. The weather then.
    fn wait(&self) -> Weather {
        if let Weather::Slow(delay) = self.weather() {
            wait::pause(delay);
        }
        loop {
            match self.weather() {
                Weather::Silent => wait::pause(HOLD_PAUSE),
                weather => return weather,
            }
        }
    }
}

/// Passes a connection on, both ways, until either side ends it.
fn relay(client: &TcpStream, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.server) else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    std::thread::scope(|scope| {
        scope.spawn(|| pass_requests(client, &server, shared));
        pass_answers(&server, client, shared);
    });
}

fn pass_requests(client: &TcpStream, server: &TcpStream, shared: &Shared) {
    let mut counter = RequestCounter::default();
    pass(client, server, |bytes| {
        let begun = counter.begun(bytes);
        shared.requests.fetch_add(begun, Ordering::Relaxed);
        match shared.wait() {
            Weather::Cut => false,
            Weather::Unavailable => {
                let refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
                                Connection: close\r\n\r\n";
                let _ = (&mut &*client).write_all(refusal);
                false
            }
            _ => true,
        }
    });
}

fn pass_answers(server: &TcpStream, client: &TcpStream, shared: &Shared) {
    pass(server, client, |_| {
        !matches!(shared.wait(), Weather::Cut | Weather::AnswersLost)
    });
}

/// Passes bytes on for as long as `may` says; then, or at the end of either, both are shut.
fn pass(mut from: &TcpStream, mut to: &TcpStream, mut may: impl FnMut(&[u8]) -> bool) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read) = from.read(&mut chunk) {
        let bytes = &chunk[..read];
        if read == 0 || !may(bytes) || to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Counts the requests that begin in the bytes of a connection, whose bodies have a length.
#[derive(Debug, Default)]
struct RequestCounter {
    head: Vec<u8>,
    /// Bytes of the body that are still to come.
    body: usize,
}

impl RequestCounter {
    fn begun(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while !bytes.is_empty() {
            let skipped = self.body.min(bytes.len());
            self.body -= skipped;
            bytes = &bytes[skipped..];
            if let Some((first, rest)) = bytes.split_first() {
                self.head.push(*first);
                bytes = rest;
                if self.head.ends_with(b"\r\n\r\n") {
                    begun += 1;
                    self.body = content_length(&self.head);
                    self.head.clear();
                }
            }
        }
        begun
    }
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    line.and_then(|length| length.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_however_their_bytes_are_cut() {
        let put = b"PUT /a HTTP/1.1\r\nContent-Length: 5\r\n\r\n\r\n\r\n!";
        let get = b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n";
        let wire = [put.as_slice(), get, put].concat();
        for cut in 1..wire.len() {
            let mut counter = RequestCounter::default();
            let counted: u64 = wire.chunks(cut).map(|chunk| counter.begun(chunk)).sum();
            assert_eq!(counted, 3, "in chunks of {cut}");
        }
    }
}
