//! Links in the memory of one process, for tests and simulations: a network of places that processes
//! take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use firn_proto::cluster::LinkAddress;
use firn_proto::ids::Fingerprint;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{duplex, split};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::transport::{Accepted, ConnectError, LinkReader, LinkWriter, Transport};

/// Where such processes find each other. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<Places>>);

/// Who is reached at which host and port.
type Places = BTreeMap<(String, u16), (Fingerprint, mpsc::Sender<Accepted>)>;

/// One process's place in the network.
pub struct MemoryTransport {
    network: MemoryNetwork,
    own: LinkAddress,
    accepted: AsyncMutex<mpsc::Receiver<Accepted>>,
}

impl MemoryNetwork {
    /// A process takes its place: it is reached there until the transport is closed or dropped.
    pub fn join(&self, own: LinkAddress) -> MemoryTransport {
        let (taken, accepted) = mpsc::channel(WAITING_MAX);
        let at = (own.host.clone(), own.port);
        self.with(|places| places.insert(at, (own.fingerprint, taken)));
        MemoryTransport {
            network: self.clone(),
            own,
            accepted: AsyncMutex::new(accepted),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Places) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MemoryTransport {
    fn leave(&self) {
        let at = (self.own.host.clone(), self.own.port);
        self.network.with(|places| places.remove(&at));
    }
}

impl Transport for MemoryTransport {
    fn connect(
        &self,
        to: LinkAddress,
    ) -> BoxFuture<'static, Result<(LinkReader, LinkWriter), ConnectError>> {
        let place = self.network.with(|places| {
            let place = places.get(&(to.host, to.port));
            place.cloned()
        });
        let expected = to.fingerprint;
        let (here, there) = duplex(PIPE_BYTES);
        let ((reader, writer), (peer_reader, peer_writer)) = (split(here), split(there));
        let accepted = Accepted {
            peer: self.own.fingerprint,
            from: format!("{}:{}", self.own.host, self.own.port),
            reader: Box::new(peer_reader),
            writer: Box::new(peer_writer),
        };
        async move {
            let (peer, place) = place.ok_or(ConnectError::Refused)?;
            if peer != expected {
                return Err(ConnectError::Another(peer));
            }
            let sent = place.send(accepted).await;
            sent.map_err(|_| ConnectError::Refused)?;
            Ok((Box::new(reader) as _, Box::new(writer) as _))
        }
        .boxed()
    }

    fn accept(&self) -> BoxFuture<'_, Option<Accepted>> {
        async { self.accepted.lock().await.recv().await }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.leave();
        }
        .boxed()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Bytes under way between two processes.
const PIPE_BYTES: usize = 64 * 1024;
/// Links that wait to be accepted.
const WAITING_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn address(port: u16, byte: u8) -> LinkAddress {
        LinkAddress {
            host: "one".to_owned(),
            port,
            fingerprint: Fingerprint([byte; 32]),
        }
    }

    #[tokio::test]
    async fn processes_find_each_other_until_they_leave() {
        let network = MemoryNetwork::default();
        let one = network.join(address(1, 1));
        let two = network.join(address(2, 2));
        let (_reader, mut writer) = one.connect(address(2, 2)).await.unwrap();
        writer.write_all(b"ping").await.unwrap();
        let mut accepted = two.accept().await.unwrap();
        assert_eq!(accepted.peer, Fingerprint([1; 32]));
        let mut read = [0; 4];
        accepted.reader.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");

        let another = one.connect(address(2, 9)).await.err();
        assert_eq!(another, Some(ConnectError::Another(Fingerprint([2; 32]))));
        two.close().await;
        assert!(two.accept().await.is_none());
        let gone = one.connect(address(2, 2)).await.err();
        assert_eq!(gone, Some(ConnectError::Refused));
    }
}
