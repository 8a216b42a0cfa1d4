//! Opens broker links as proto/PROTOCOL.md says, with a certificate of its own that nobody knows, and
//! shares no code with the product.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use tokio::runtime::Runtime;

const MAGIC: &[u8] = b"FL";
const HELLO: u8 = 1;
const REFUSED: u8 = 3;
const HEADER_BYTES: usize = 8;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A process of no cluster.
pub(super) struct Stranger {
    runtime: Runtime,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// What it says first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello {
    /// Of the protocol.
    pub(super) version: u8,
    /// To which cluster it wants.
    pub(super) cluster: [u8; 16],
    /// The fingerprint in its card.
    pub(super) shown: [u8; 32],
}

/// What it is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: u8,
    pub(super) text: String,
}

impl Hello {
    pub(super) fn frame(&self) -> Vec<u8> {
        // No broker id; host `h`, port 1, the fingerprint; no listeners; nothing about the process.
        let card = [&[0, 1, b'h', 1][..], &self.shown, &[0, 0, 0, 0, 0, 0]].concat();
        let length = u8::try_from(card.len()).unwrap();
        let body = [&self.cluster[..], &[length], &card].concat();
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        [MAGIC, &[self.version, HELLO], &length, &body].concat()
    }
}

impl Stranger {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["stranger".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            runtime: Runtime::new().unwrap(),
            certificate: certificate.der().clone(),
            key: key.serialize_der().into(),
        }
    }

    /// What its certificate is known by.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.certificate);
        hash.as_ref().try_into().unwrap()
    }

    /// Opens a link, says that, and reads why it is refused.
    pub(super) fn open(&self, to: SocketAddr, hello: &[u8]) -> Refusal {
        let answer = self.runtime.block_on(async {
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let connecting = endpoint.connect_with(self.config(), to, "firn").unwrap();
            let connection = connecting.await.unwrap();
            let (mut writer, mut reader) = connection.open_bi().await.unwrap();
            writer.write_all(hello).await.unwrap();
            // Whoever refuses ends its side, and waits for the end of ours.
            let answer = reader.read_to_end(ANSWER_BYTES_MAX).await.unwrap();
            writer.finish().unwrap();
            answer
        });
        let (header, body) = answer
            .split_at_checked(HEADER_BYTES)
            .expect("a whole frame");
        assert_eq!((&header[..2], header[3]), (MAGIC, REFUSED), "{answer:?}");
        // Reason, version, length of the text and the text, which is shorter than 64 KiB.
        let (reason, rest) = (body[0], &body[2..]);
        let text = match rest[0] {
            251 => &rest[3..],
            _ => &rest[1..],
        };
        let text = String::from_utf8(text.to_vec()).unwrap();
        Refusal { reason, text }
    }

    fn config(&self) -> ClientConfig {
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let shown = vec![self.certificate.clone()];
        let key = self.key.clone_key().into();
        let mut tls = tls.with_client_auth_cert(shown, key).unwrap();
        tls.alpn_protocols = vec![b"firn-link/1".to_vec()];
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
    }
}

/// Talks to whoever answers.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
