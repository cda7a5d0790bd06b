//! TLS from files.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsConfig;
use crate::error::BindError;

/// The protocol's name for ALPN (RFC 8323, section 8.2). Who names none is taken in too.
const ALPN: &[u8] = b"coap";

pub(super) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, BindError> {
    let chain = certificates(&config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| BindError::file(&config.key, "the gateway's key", error))?;
    let mut server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BindError::Tls(error.into()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| BindError::Tls(error.into()))?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BindError> {
    const PURPOSE: &str = "the gateway's certificates";
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| BindError::file(path, PURPOSE, error))?;
    match all.is_empty() {
        true => Err(BindError::file(path, PURPOSE, "it has no certificate")),
        false => Ok(all),
    }
}
