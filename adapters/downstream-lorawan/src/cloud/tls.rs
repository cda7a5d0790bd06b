//! TLS to a broker: which certificates are trusted.

use std::path::Path;
use std::sync::Arc;

use gateway_core::ConfigError;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Trusts the certificates of a file, or those of the system.
///
/// # Errors
/// There are none.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let mut roots = RootCertStore::empty();
    let certificates = match ca_file {
        Some(path) => read(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        let allowed = "a PEM file with certificates, or a system that has some";
        return Err(ConfigError::new("ca_file", "gives no certificate", allowed));
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| {
        let problem = format!("cannot be set up: {error}");
        ConfigError::new("tls", problem, "TLS 1.2 or 1.3")
    })?;
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let pem = std::fs::read(path).map_err(|error| {
        let problem = format!("({}) cannot be read: {error}", path.display());
        ConfigError::new("ca_file", problem, "a readable PEM file")
    })?;
    let certificates = CertificateDer::pem_slice_iter(&pem);
    Ok(certificates.filter_map(Result::ok).collect())
}
