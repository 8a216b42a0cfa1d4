use firn_proto::ids::Fingerprint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

fn transport() -> (QuicTransport, LinkAddress) {
    let certificate = ProcessCertificate::generate().unwrap();
    let transport = QuicTransport::bind(certificate, LOOPBACK.into()).unwrap();
    let host = HostPort {
        host: "127.0.0.1".to_owned(),
        port: 9092,
    };
    let address = transport.address(&host).unwrap();
    (transport, address)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_side_knows_the_certificate_of_the_other() {
    let ((one, one_at), (two, two_at)) = (transport(), transport());
    assert_ne!(one_at.fingerprint, two_at.fingerprint);
    let (mut reader, mut writer) = one.connect(two_at).await.unwrap();
    writer.write_all(b"ping").await.unwrap();
    let mut accepted = two.accept().await.unwrap();
    assert_eq!(accepted.peer, one_at.fingerprint);
    let mut read = [0; 4];
    accepted.reader.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
    accepted.writer.write_all(b"pong").await.unwrap();
    reader.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"pong");
}

#[tokio::test]
async fn a_process_with_another_certificate_is_not_the_one_that_was_dialled() {
    let ((one, _), (_two, mut two_at)) = (transport(), transport());
    let another = two_at.fingerprint;
    two_at.fingerprint = Fingerprint([7; 32]);
    let refused = one.connect(two_at).await.err();
    assert_eq!(refused, Some(ConnectError::Another(another)));
}

#[tokio::test]
async fn both_halves_dropped_end_the_link_on_the_other_side() {
    let ((one, _), (two, two_at)) = (transport(), transport());
    let (reader, mut writer) = one.connect(two_at).await.unwrap();
    writer.write_all(b"ping").await.unwrap();
    let mut accepted = two.accept().await.unwrap();
    drop((reader, writer));
    let mut all = Vec::new();
    // Whether that is an end or an error, it is no wait.
    drop(accepted.reader.read_to_end(&mut all).await);
    assert!(b"ping".starts_with(&all));
}

#[tokio::test]
async fn nobody_at_the_address_is_no_answer() {
    let ((one, _), (two, two_at)) = (transport(), transport());
    two.close().await;
    assert!(two.accept().await.is_none(), "it takes no more");
    drop(two);
    let refused = one.connect(two_at).await.err();
    assert!(
        matches!(refused, Some(ConnectError::NoAnswer(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn whoever_shows_no_certificate_is_not_taken() {
    let (two, two_at) = transport();
    let certificate = ProcessCertificate::generate().unwrap();
    let (mut tls, _) = certificate.to_open(two_at.fingerprint).unwrap();
    tls.client_auth_cert_resolver = Arc::new(NoCertificate);
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut client = Endpoint::client(LOOPBACK.into()).unwrap();
    client.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    let at = SocketAddr::from((LOOPBACK.0, two_at.port));
    let connection = client.connect(at, SERVER_NAME).unwrap().await;
    // TLS 1.3 tells the one that opens only after its own handshake is over.
    if let Ok(connection) = connection {
        let closed = connection.closed().await;
        assert!(
            matches!(closed, ConnectionError::ConnectionClosed(_)),
            "{closed:?}"
        );
    }
    two.close().await;
    assert!(two.accept().await.is_none());
}

#[test]
fn one_host_that_opens_links_leaves_room_for_others() {
    let openings = Arc::default();
    let host = |n: u128| IpAddr::from(Ipv6Addr::from_bits((1 << 96) + n));
    let mut begun = Vec::new();
    // Wherever in its network it says it is.
    while let Some((opening, _)) = Opening::begin(&openings, host(begun.len() as u128)) {
        begun.push(opening);
    }
    assert_eq!(begun.len(), LINK_HANDSHAKES_PER_HOST_MAX);
    let (_other, is_busy) = Opening::begin(&openings, LOOPBACK.0.into()).unwrap();
    assert!(is_busy);
    for n in 0.. {
        let Some((opening, _)) = Opening::begin(&openings, [10, 0, 0, n].into()) else {
            break;
        };
        begun.push(opening);
    }
    assert_eq!(begun.len(), LINK_HANDSHAKES_MAX - 1);
    drop((begun, _other));
    let left = openings.lock().unwrap();
    assert!(left.all == 0 && left.by_host.is_empty());
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
