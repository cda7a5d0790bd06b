//! What TLS needs on both sides.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use benches::HOST;
use gateway_downstream_tcp::TlsConfig;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate of this run, which signs itself.
#[derive(Debug)]
pub(crate) struct Pki {
    directory: TempDir,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Pki {
    pub(crate) fn new() -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([HOST.to_owned()])?;
        let pki = Self {
            directory: TempDir::new()?,
            certificate: cert.der().clone(),
            key: signing_key.serialize_der(),
        };
        std::fs::write(pki.path("certificate"), cert.pem())?;
        std::fs::write(pki.path("key"), signing_key.serialize_pem())?;
        Ok(pki)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// For the gateway.
    pub(crate) fn files(&self) -> TlsConfig {
        TlsConfig::new(self.path("certificate"), self.path("key"))
    }

    /// For the bare server, with the gateway's choice of ciphers.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let key = PrivateKeyDer::try_from(self.key.clone()).map_err(anyhow::Error::msg)?;
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], key)?;
        Ok(TlsAcceptor::from(Arc::new(server)))
    }

    /// For the devices.
    pub(crate) fn connector(&self) -> Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(client)))
    }
}
