//! The network between the links of several brokers: a relay of datagrams before each, which loses
//! all that goes from one broker to another, in one direction or both, while it is told to. What a
//! broker says to clients and to its bucket does not pass here.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::cluster::BROKERS;
use crate::wait;

/// The longest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// A link whose broker has ended is given up after this long without a datagram: far behind the time
/// after which either side cuts one on which nothing comes.
const LINK_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The relays. Their threads end with the process.
#[derive(Clone, Debug)]
pub struct LinkNetwork {
    relays: [SocketAddr; BROKERS],
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Where the brokers bind their links.
    brokers: [SocketAddr; BROKERS],
    /// Whether what one says to another is lost: by who says it, then by who is to hear it.
    lost: [[AtomicBool; BROKERS]; BROKERS],
    dropped: AtomicU64,
    passed: AtomicU64,
}

/// A direction: who says something, and who is to hear it.
type Way = (usize, usize);

impl LinkNetwork {
    /// Between brokers that bind their links there, and send from there.
    pub fn between(brokers: [SocketAddr; BROKERS]) -> Self {
        let shared = Arc::new(Shared {
            brokers,
            lost: Default::default(),
            dropped: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        });
        let relays = std::array::from_fn(|at| {
            let front = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            let address = front.local_addr().expect("a bound address");
            let shared = Arc::clone(&shared);
            thread::spawn(move || relay(&Arc::new(front), at, &shared));
            address
        });
        Self { relays, shared }
    }

    /// Where the others are to be told that a broker's link is.
    pub fn address_of(&self, broker: usize) -> SocketAddr {
        self.relays[broker]
    }

    /// From now on nothing that `from` says reaches `to`.
    pub fn lose(&self, from: usize, to: usize) {
        self.shared.lost[from][to].store(true, Ordering::SeqCst);
    }

    /// From now on the two do not reach each other.
    pub fn part(&self, one: usize, other: usize) {
        self.lose(one, other);
        self.lose(other, one);
    }

    /// From now on `broker` reaches none of the others, and none of them reaches it.
    pub fn isolate(&self, broker: usize) {
        (0..BROKERS)
            .filter(|other| *other != broker)
            .for_each(|other| self.part(broker, other));
    }

    /// From now on everything arrives.
    pub fn heal(&self) {
        let ways = self.shared.lost.iter().flatten();
        ways.for_each(|lost| lost.store(false, Ordering::SeqCst));
    }

    /// How many datagrams were lost so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// How many arrived.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Waits until something was lost that is said from now on.
    ///
    /// # Panics
    /// When nobody says anything that is to be lost.
    pub fn wait_dropped(&self) {
        let before = self.dropped();
        wait::until("a datagram to be lost", wait::PATIENCE, || {
            (self.dropped() > before).then_some(())
        });
    }
}

impl Shared {
    /// Whether a datagram arrives.
    fn passes(&self, (from, to): Way) -> bool {
        let lost = self.lost[from][to].load(Ordering::SeqCst);
        let count = if lost { &self.dropped } else { &self.passed };
        count.fetch_add(1, Ordering::SeqCst);
        !lost
    }
}

/// A broker that has opened links through this relay, and the socket from which its datagrams go on.
struct Opener {
    broker: usize,
    back: Arc<UdpSocket>,
    /// The answers are passed on no more, and the place is free.
    is_over: Arc<AtomicBool>,
}

/// Passes on what comes to the link of broker `to`, and what that answers.
fn relay(front: &Arc<UdpSocket>, to: usize, shared: &Arc<Shared>) {
    let openers: Mutex<Vec<Opener>> = Mutex::default();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    while let Some((length, source)) = receive(front, &mut datagram) {
        let Some(from) = shared.brokers.iter().position(|broker| *broker == source) else {
            continue;
        };
        let mut openers = openers.lock().expect("no thread panics with it");
        openers.retain(|opener| !opener.is_over.load(Ordering::SeqCst));
        let known = openers.iter().find(|opener| opener.broker == from);
        let back = match known {
            Some(opener) => Arc::clone(&opener.back),
            None => {
                let opener = open(front, (from, to), shared);
                let back = Arc::clone(&opener.back);
                openers.push(opener);
                back
            }
        };
        if shared.passes((from, to)) {
            // As any network: what does not arrive is sent again.
            let _ = back.send(&datagram[..length]);
        }
    }
}

/// A socket of its own for one opener, so that the answers to it are told from others.
fn open(front: &Arc<UdpSocket>, (from, to): Way, shared: &Arc<Shared>) -> Opener {
    let back = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    back.connect(shared.brokers[to])
        .expect("a loopback address");
    let patience = Some(LINK_FORGOTTEN_AFTER);
    back.set_read_timeout(patience).expect("a patience above 0");
    let opener = Opener {
        broker: from,
        back: Arc::new(back),
        is_over: Arc::default(),
    };
    let (back, is_over) = (Arc::clone(&opener.back), Arc::clone(&opener.is_over));
    let (front, shared) = (Arc::clone(front), Arc::clone(shared));
    thread::spawn(move || {
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        while let Some((length, _)) = receive(&back, &mut datagram) {
            if shared.passes((to, from)) {
                let _ = front.send_to(&datagram[..length], shared.brokers[from]);
            }
        }
        is_over.store(true, Ordering::SeqCst);
    });
    opener
}

/// The next datagram. A broker that is not there, whose kernel says so, is no end.
fn receive(socket: &UdpSocket, datagram: &mut [u8]) -> Option<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(datagram) {
            Ok(received) => return Some(received),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    fn heard(socket: &UdpSocket) -> (u8, SocketAddr) {
        let mut datagram = [0; 8];
        let (_, from) = socket.recv_from(&mut datagram).unwrap();
        (datagram[0], from)
    }

    #[test]
    fn what_one_says_to_another_arrives_unless_it_is_to_be_lost() {
        let brokers: [UdpSocket; BROKERS] = std::array::from_fn(|_| broker());
        let network =
            LinkNetwork::between(std::array::from_fn(|at| brokers[at].local_addr().unwrap()));
        let say = |from: usize, to: SocketAddr, word| {
            brokers[from].send_to(&[word], to).unwrap();
        };
        say(0, network.address_of(1), 1);
        let (word, zero) = heard(&brokers[1]);
        assert_eq!(word, 1);
        say(1, zero, 2);
        assert_eq!(heard(&brokers[0]), (2, network.address_of(1)));

        network.lose(0, 1);
        say(0, network.address_of(1), 3);
        say(2, network.address_of(1), 4);
        let (word, two) = heard(&brokers[1]);
        assert_eq!(word, 4, "only what the first says is lost");
        say(1, zero, 5);
        assert_eq!(heard(&brokers[0]).0, 5, "the other way is open");
        assert_eq!(network.dropped(), 1);

        network.isolate(1);
        say(1, zero, 6);
        say(1, two, 7);
        wait::until("the answers to be lost", wait::PATIENCE, || {
            (network.dropped() == 3).then_some(())
        });
        network.heal();
        say(1, zero, 8);
        assert_eq!(heard(&brokers[0]).0, 8);
        say(0, network.address_of(1), 9);
        assert_eq!(heard(&brokers[1]), (9, zero));
    }
}
