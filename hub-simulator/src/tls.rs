//! A certificate authority of one's own, and the hub's certificates under it, one for each name.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use sha1::Digest as _;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
};

/// The certificates cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Making a key or certificate failed.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// A stored key or certificate cannot be read.
    #[error("a stored certificate cannot be read")]
    Read(#[from] tokio_rustls::rustls::pki_types::pem::Error),
    /// The TLS library refuses the certificate.
    #[error("the certificate cannot be used")]
    Use(#[from] Error),
}

/// The authority's certificate and key, in PEM.
#[derive(Clone)]
pub(crate) struct Authority {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    pub(crate) fn make() -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let certificate = CertifiedIssuer::self_signed(Self::params(), key)?.pem();
        Ok(Self {
            certificate,
            key: key_pem,
        })
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Hub simulator CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    /// Makes a server certificate for `host`, which serves `localhost` and `127.0.0.1` too.
    fn issue(&self, host: &str) -> Result<CertifiedKey, CertificateError> {
        let issuer = Issuer::new(Self::params(), KeyPair::from_pem(&self.key)?);
        let mut names = vec![
            host.to_owned(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ];
        names.dedup();
        let mut server = CertificateParams::new(names)?;
        server.distinguished_name.push(DnType::CommonName, host);
        server.use_authority_key_identifier_extension = true;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        Ok(CertifiedKey::from_der(
            vec![certificate.into()],
            key,
            &ring::default_provider(),
        )?)
    }
}

/// The certificates of all names that share the listeners.
pub(crate) struct Certificates {
    authority: Authority,
    by_name: RwLock<HashMap<String, Arc<CertifiedKey>>>,
    /// For clients that name nobody, or somebody else.
    default: Arc<CertifiedKey>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// Makes the certificate of `host`, which is also the one for unknown names.
    pub(crate) fn new(authority: Authority, host: &str) -> Result<Self, CertificateError> {
        let default = Arc::new(authority.issue(host)?);
        let by_name = RwLock::default();
        Ok(Self {
            authority,
            by_name,
            default,
        })
    }

    /// Makes a certificate for one more name.
    pub(crate) fn add(&self, host: &str) -> Result<(), CertificateError> {
        let certificate = Arc::new(self.authority.issue(host)?);
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        by_name.insert(host.to_ascii_lowercase(), certificate);
        Ok(())
    }

    /// The authority's certificate in PEM, for clients to trust.
    pub(crate) fn authority_pem(&self) -> &str {
        &self.authority.certificate
    }

    /// The acceptor of TLS 1.2 and 1.3 connections.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, CertificateError> {
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(AnyClient { provider }))
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let named = hello
            .server_name()
            .and_then(|name| by_name.get(&name.to_ascii_lowercase()));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

/// Takes any client certificate or none: the registry knows a device by its thumbprint, so that all a
/// handshake has to prove is that the client holds the key.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client certificate as the registry knows it: hashes in hexadecimal, upper case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thumbprints {
    pub(crate) sha1: String,
    pub(crate) sha256: String,
}

impl Thumbprints {
    pub(crate) fn of(certificate: &[u8]) -> Self {
        let hex = |hash: &[u8]| hash.iter().map(|byte| format!("{byte:02X}")).collect();
        Self {
            sha1: hex(&sha1::Sha1::digest(certificate)),
            sha256: hex(&sha2::Sha256::digest(certificate)),
        }
    }

    /// Whether a registered thumbprint, colons and case aside, is one of these.
    pub(crate) fn fits(&self, registered: &str) -> bool {
        let plain: String = registered.chars().filter(|c| *c != ':').collect();
        plain.eq_ignore_ascii_case(&self.sha1) || plain.eq_ignore_ascii_case(&self.sha256)
    }
}
