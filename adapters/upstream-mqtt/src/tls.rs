//! TLS to a hub or a broker: which certificates are trusted.

use std::path::Path;
use std::sync::Arc;

use gateway_core::ConfigError;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Trusts the certificates of a file and of a text, or, if there is neither, those of the system.
///
/// # Errors
/// The certificates cannot be read, or there are none.
pub(crate) fn client_config(
    ca_file: Option<&Path>,
    ca_pem: Option<&str>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = match (ca_file, ca_pem) {
        (None, None) => system_roots()?,
        (file, pem) => {
            let mut roots = RootCertStore::empty();
            if let Some(path) = file {
                let pem = std::fs::read(path).map_err(|error| {
                    let problem = format!("({}) cannot be read: {error}", path.display());
                    ConfigError::new("ca_file", problem, "a readable PEM file")
                })?;
                add(&mut roots, "ca_file", &pem)?;
            }
            if let Some(pem) = pem {
                add(&mut roots, "ca_pem", pem.as_bytes())?;
            }
            roots
        }
    };
    let provider = Arc::new(crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| {
        let problem = format!("cannot be set up: {error}");
        ConfigError::new("tls", problem, "TLS 1.2 or 1.3")
    })?;
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn add(roots: &mut RootCertStore, key: &str, pem: &[u8]) -> Result<(), ConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect();
    match roots.add_parsable_certificates(certificates).0 {
        0 => Err(ConfigError::new(
            key,
            "has no certificate",
            "certificates in PEM form",
        )),
        _ => Ok(()),
    }
}

fn system_roots() -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(ConfigError::new(
            "ca_file",
            "is not set, and this system has no trusted certificates",
            "a PEM file, or install the system's ca-certificates",
        )),
        false => Ok(roots),
    }
}
