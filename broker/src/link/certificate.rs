//! The certificate of this process: made at its start, known by its fingerprint, gone with the
//! process. Who has it says nothing; that its fingerprint is registered in the bucket does.

use std::fmt;
use std::sync::{Arc, OnceLock};

use firn_proto::ids::Fingerprint;
use rcgen::{CertificateParams, KeyPair};
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme, version,
};

use crate::error::FirnError;
use firn_proto::link::ALPN;

/// A key and the certificate that names it. The key never leaves the memory of the process.
pub struct ProcessCertificate {
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for ProcessCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProcessCertificate({})", self.fingerprint())
    }
}

impl ProcessCertificate {
    /// A new key and its certificate.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn generate() -> Result<Self, FirnError> {
        let failed = |e: rcgen::Error| FirnError::failed("cannot make a certificate", e);
        let key = KeyPair::generate().map_err(failed)?;
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            key: key.serialize_der().into(),
            certificate: certificate.der().clone(),
        })
    }

    /// What other processes know it by.
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.certificate)
    }

    /// How this process opens a link to the one with the certificate `peer`, and to no other; and
    /// where it says whose certificate it was shown, if that is another.
    pub(super) fn to_open(
        &self,
        peer: Fingerprint,
    ) -> Result<(rustls::ClientConfig, Arc<OnceLock<Fingerprint>>), Error> {
        let provider = provider();
        let another = Arc::<OnceLock<Fingerprint>>::default();
        let pinned = Pinned {
            peer,
            another: Arc::clone(&another),
            provider: Arc::clone(&provider),
        };
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok((config, another))
    }

    /// How it takes links: whoever opens one shows a certificate and has its key.
    pub(super) fn to_accept(&self) -> Result<rustls::ServerConfig, Error> {
        let provider = provider();
        let any = AnyKey(Arc::clone(&provider));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(any))
            .with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session taken up again shows no certificate.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// What a certificate is known by.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let hash = digest(&SHA256, certificate);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_ref());
    Fingerprint(bytes)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes the one certificate it was told of. Names and times in it say nothing: clocks differ.
#[derive(Debug)]
struct Pinned {
    peer: Fingerprint,
    /// The certificate that was shown in place of that one.
    another: Arc<OnceLock<Fingerprint>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = fingerprint(certificate);
        if shown == self.peer {
            return Ok(ServerCertVerified::assertion());
        }
        self.another.get_or_init(|| shown);
        let reason = format!("another process answers there, with certificate {shown}");
        Err(Error::General(reason))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Takes every certificate whose key the other side has: whether it is registered is asked later,
/// for the bucket is not asked in the midst of a handshake.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The name in every certificate, and the one that is asked for: fingerprints tell them apart.
pub(super) const SERVER_NAME: &str = "firn";
