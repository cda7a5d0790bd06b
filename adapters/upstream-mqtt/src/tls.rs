//! Whom TLS trusts, and who the gateway is to a broker that asks for a certificate.

use std::path::Path;
use std::sync::Arc;

use gateway_core::ConfigError;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Where certificates come from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Roots<'a> {
    /// Authorities to trust instead of the system's, a PEM file.
    pub(crate) ca_file: Option<&'a Path>,
    /// More of them, as PEM text.
    pub(crate) ca_pem: Option<&'a str>,
    /// The gateway's own certificate chain and its key, PEM files.
    pub(crate) certificate: Option<(&'a Path, &'a Path)>,
}

/// Prepares TLS 1.2 and 1.3.
///
/// # Errors
/// A certificate or a key cannot be read.
pub(crate) fn client_config(roots: &Roots<'_>) -> Result<Arc<ClientConfig>, ConfigError> {
    let trusted = match (roots.ca_file, roots.ca_pem) {
        (None, None) => system()?,
        (file, pem) => {
            let mut trusted = RootCertStore::empty();
            if let Some(path) = file {
                add(&mut trusted, "ca_file", &read("ca_file", path)?)?;
            }
            if let Some(pem) = pem {
                add(&mut trusted, "ca_pem", pem.as_bytes())?;
            }
            trusted
        }
    };
    let provider = Arc::new(crypto::ring::default_provider());
    let unusable = |problem: String| ConfigError::new("tls", problem, "TLS 1.2 or 1.3");
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(format!("cannot be set up: {error}")))?
        .with_root_certificates(trusted);
    let Some((chain, key)) = roots.certificate else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read("certificate_file", chain)?)
        .filter_map(Result::ok)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(&read("key_file", key)?);
    let key = key.map_err(|_| {
        // What was read is not repeated: it may be a key in another form.
        ConfigError::new("key_file", "has no private key", "a key in PEM form")
    })?;
    let config = builder.with_client_auth_cert(certificates, key);
    config.map(Arc::new).map_err(|error| {
        let problem = format!("cannot be used with its key: {error}");
        ConfigError::new("certificate_file", problem, "a certificate and its own key")
    })
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|error| {
        let problem = format!("({}) cannot be read: {error}", path.display());
        ConfigError::new(key, problem, "a readable PEM file")
    })
}

fn add(trusted: &mut RootCertStore, key: &str, pem: &[u8]) -> Result<(), ConfigError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect();
    match trusted.add_parsable_certificates(certificates).0 {
        0 => Err(ConfigError::new(
            key,
            "has no certificate",
            "certificates in PEM form",
        )),
        _ => Ok(()),
    }
}

fn system() -> Result<RootCertStore, ConfigError> {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match trusted.is_empty() {
        true => Err(ConfigError::new(
            "ca_file",
            "is not set, and this system has no trusted certificates",
            "a PEM file, or install the system's ca-certificates",
        )),
        false => Ok(trusted),
    }
}
