//! Links over QUIC: one connection each, with one stream both ways. Both sides show certificates;
//! the one that opens a link knows which it expects.
//!
//! A dead process is not noticed here for seconds: beats and probes notice it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError};

use firn_proto::cluster::LinkAddress;
use firn_proto::limits::{
    LINK_ACCEPT_MAX, LINK_CONNECT_MAX, LINK_HANDSHAKES_MAX, LINK_HANDSHAKES_PER_HOST_MAX,
    LINK_HELLO_BYTES_MAX, LINK_IDLE_MAX, LINK_KEEP_ALIVE, LINK_WINDOW_BYTES,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ConnectionError, Endpoint, IdleTimeout, ServerConfig, TransportConfig};
use quinn::{Connection, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::net::lookup_host;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::certificate::{self, ProcessCertificate, SERVER_NAME};
use super::transport::{Accepted, ConnectError, LinkReader, LinkWriter, Transport};
use crate::config::HostPort;
use crate::error::FirnError;

/// The UDP socket of a process, on which it opens and takes links.
pub struct QuicTransport {
    certificate: Arc<ProcessCertificate>,
    endpoint: Endpoint,
    accepted: Mutex<mpsc::Receiver<Accepted>>,
}

impl QuicTransport {
    /// Binds the socket. Links that others open from now on wait for [`Transport::accept`].
    ///
    /// # Errors
    /// The address is taken or not this machine's.
    pub fn bind(certificate: ProcessCertificate, bind: SocketAddr) -> Result<Self, FirnError> {
        let failed = |reason: String| {
            let what = format!("cannot open the broker link on {bind} (UDP; link.listener)");
            FirnError::failed(what, reason)
        };
        let tls = certificate.to_accept().map_err(|e| failed(e.to_string()))?;
        let crypto = QuicServerConfig::try_from(tls).map_err(|e| failed(e.to_string()))?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server
            .transport_config(Arc::new(transport_config()))
            .migration(false)
            .max_incoming(LINK_HANDSHAKES_MAX)
            .incoming_buffer_size(LINK_HELLO_BYTES_MAX as u64)
            .incoming_buffer_size_total((LINK_HANDSHAKES_MAX * LINK_HELLO_BYTES_MAX) as u64);
        let endpoint = Endpoint::server(server, bind).map_err(|e| failed(e.to_string()))?;
        let (taken, accepted) = mpsc::channel(LINK_HANDSHAKES_MAX);
        tokio::spawn(take_in(endpoint.clone(), taken));
        Ok(Self {
            certificate: Arc::new(certificate),
            endpoint,
            accepted: Mutex::new(accepted),
        })
    }

    /// Where others reach this process, if clients and brokers are told `host`.
    ///
    /// # Errors
    /// The system does not say which port was bound.
    pub fn address(&self, host: &HostPort) -> Result<LinkAddress, FirnError> {
        let bound = self.endpoint.local_addr();
        let bound = bound.map_err(|e| FirnError::failed("the broker link has no address", e))?;
        Ok(LinkAddress {
            host: host.host.clone(),
            port: bound.port(),
            fingerprint: self.certificate.fingerprint(),
        })
    }
}

impl Transport for QuicTransport {
    fn connect(
        &self,
        to: LinkAddress,
    ) -> BoxFuture<'static, Result<(LinkReader, LinkWriter), ConnectError>> {
        let (endpoint, certificate) = (self.endpoint.clone(), Arc::clone(&self.certificate));
        async move {
            let late = |_| ConnectError::NoAnswer("not in time".to_owned());
            let open = open(&endpoint, &certificate, &to);
            timeout(LINK_CONNECT_MAX, open).await.map_err(late)?
        }
        .boxed()
    }

    fn accept(&self) -> BoxFuture<'_, Option<Accepted>> {
        async { self.accepted.lock().await.recv().await }.boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async {
            self.endpoint.close(CLOSED, b"the process stops");
            // Until the other sides know; those that have gone keep nobody waiting.
            drop(timeout(LINK_ACCEPT_MAX, self.endpoint.wait_idle()).await);
        }
        .boxed()
    }
}

impl Drop for QuicTransport {
    fn drop(&mut self) {
        self.endpoint.close(CLOSED, b"the process stops");
    }
}

async fn open(
    endpoint: &Endpoint,
    certificate: &ProcessCertificate,
    to: &LinkAddress,
) -> Result<(LinkReader, LinkWriter), ConnectError> {
    let no_answer = |reason: String| ConnectError::NoAnswer(reason);
    let tls = certificate.to_open(to.fingerprint);
    let (tls, another) = tls.map_err(|e| ConnectError::Rejected(e.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls);
    let crypto = crypto.map_err(|e| ConnectError::Rejected(e.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport_config()));

    let own = endpoint
        .local_addr()
        .map_err(|e| no_answer(e.to_string()))?;
    let found = lookup_host((to.host.as_str(), to.port)).await;
    let mut found = found.map_err(|e| no_answer(format!("{}: {e}", to.host)))?;
    let address = found.find(|address| own.is_ipv6() || address.is_ipv4());
    let address = address.ok_or_else(|| {
        no_answer(format!(
            "{} has no IPv4 address, and the broker link is bound to {own}",
            to.host
        ))
    })?;
    let connecting = endpoint.connect_with(config, address, SERVER_NAME);
    let connecting = connecting.map_err(|e| no_answer(e.to_string()))?;
    let connection = connecting.await;
    let connection = connection.map_err(|error| match another.get() {
        Some(shown) => ConnectError::Another(*shown),
        None => not_opened(error),
    })?;
    let (writer, reader) = connection.open_bi().await.map_err(not_opened)?;
    Ok((Box::new(reader), Box::new(writer)))
}

fn not_opened(error: ConnectionError) -> ConnectError {
    match error {
        ConnectionError::TransportError(error) => ConnectError::Rejected(error.reason),
        ConnectionError::VersionMismatch => {
            ConnectError::Rejected("it speaks another version of QUIC".to_owned())
        }
        error => ConnectError::NoAnswer(error.to_string()),
    }
}

/// Takes in what others open, each in a task of its own, until the endpoint is closed.
async fn take_in(endpoint: Endpoint, taken: mpsc::Sender<Accepted>) {
    let openings = Arc::<std::sync::Mutex<Openings>>::default();
    while let Some(incoming) = endpoint.accept().await {
        let from = incoming.remote_address().ip();
        let Some((opening, is_busy)) = Opening::begin(&openings, from) else {
            tracing::debug!(%from, "too many links are being opened");
            incoming.refuse();
            continue;
        };
        // Under load whoever opens one shows first that it can be answered where it says it is.
        if is_busy && !incoming.remote_address_validated() && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "a link cannot be asked to come again");
            }
            continue;
        }
        tokio::spawn(take(incoming, taken.clone(), opening));
    }
}

/// Links that others are opening, by their hosts.
#[derive(Debug, Default)]
struct Openings {
    all: usize,
    by_host: BTreeMap<IpAddr, usize>,
}

/// One of them; over when dropped.
struct Opening {
    openings: Arc<std::sync::Mutex<Openings>>,
    host: IpAddr,
}

impl Opening {
    /// Also whether there are many. `None`: there are too many, or of that host.
    fn begin(openings: &Arc<std::sync::Mutex<Openings>>, from: IpAddr) -> Option<(Self, bool)> {
        let host = network_of(from);
        let mut begun = openings.lock().unwrap_or_else(PoisonError::into_inner);
        let of_host = begun.by_host.get(&host).copied().unwrap_or_default();
        if begun.all >= LINK_HANDSHAKES_MAX || of_host >= LINK_HANDSHAKES_PER_HOST_MAX {
            return None;
        }
        begun.all += 1;
        begun.by_host.insert(host, of_host + 1);
        let is_busy = begun.all > LINK_HANDSHAKES_MAX / 2;
        let openings = Arc::clone(openings);
        Some((Self { openings, host }, is_busy))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut begun = self.openings.lock().unwrap_or_else(PoisonError::into_inner);
        begun.all -= 1;
        if let Some(of_host) = begun.by_host.get_mut(&self.host) {
            *of_host -= 1;
            if *of_host == 0 {
                begun.by_host.remove(&self.host);
            }
        }
    }
}

/// A host has all addresses of a /64 network of IPv6.
fn network_of(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => address.into(),
            None => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        },
    }
}

/// Takes one in: the handshake, and the stream.
async fn take(incoming: Incoming, taken: mpsc::Sender<Accepted>, _opening: Opening) {
    let from = incoming.remote_address();
    let opened = async {
        let connection = incoming.await?;
        let (writer, reader) = connection.accept_bi().await?;
        Ok::<_, ConnectionError>((connection, reader, writer))
    };
    let (connection, reader, writer) = match timeout(LINK_ACCEPT_MAX, opened).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "a link was not opened");
            return;
        }
        Err(_) => {
            tracing::debug!(%from, "a link was not opened in time");
            return;
        }
    };
    let Some(peer) = shown_by(&connection) else {
        tracing::debug!(%from, "whoever opened a link has shown no certificate");
        return;
    };
    let accepted = Accepted {
        peer,
        from: from.to_string(),
        reader: Box::new(reader),
        writer: Box::new(writer),
    };
    if taken.send(accepted).await.is_err() {
        tracing::debug!(%from, "a link was opened while this process stops");
    }
}

fn shown_by(connection: &Connection) -> Option<firn_proto::ids::Fingerprint> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().map(certificate::fingerprint)
}

/// One stream both ways; little under way, so that a beat is not long behind what was sent before.
fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    let window = VarInt::from_u32(LINK_WINDOW_BYTES);
    let idle = IdleTimeout::try_from(LINK_IDLE_MAX).ok();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(u64::from(LINK_WINDOW_BYTES))
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(LINK_KEEP_ALIVE));
    config
}

/// The code with which a process closes its links: it says nothing.
const CLOSED: VarInt = VarInt::from_u32(0);

#[cfg(test)]
mod tests;
