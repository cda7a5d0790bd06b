//! TLS towards a hub, a broker or another server: whom it trusts.

use std::path::Path;
use std::sync::Arc;

use gateway_core::ConfigError;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Trusts the certificates of a file and of a text, or, if there is neither, those of the system.
///
/// # Errors
/// The certificates cannot be read, or there are none. Names the key `ca_file` or `ca_pem`.
pub fn config(
    ca_file: Option<&Path>,
    ca_pem: Option<&str>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    config_with_certificate(ca_file, ca_pem, None)
}

/// As [`config`], with a certificate chain and its key, both PEM files, for a server that asks for
/// one.
///
/// # Errors
/// As [`config`]; or the certificate or key cannot be read, or they do not belong together. Names
/// the key `certificate_file` or `key_file`.
pub fn config_with_certificate(
    ca_file: Option<&Path>,
    ca_pem: Option<&str>,
    certificate: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = match (ca_file, ca_pem) {
        (None, None) => system_roots()?,
        (file, pem) => {
            let mut roots = RootCertStore::empty();
            if let Some(path) = file {
                add(&mut roots, "ca_file", &read("ca_file", path)?)?;
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
    let builder = builder.with_root_certificates(roots);
    let Some((chain, key)) = certificate else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let chain = certificates(&read("certificate_file", chain)?);
    // What was read is not repeated: it may be a key in another form.
    let key = PrivateKeyDer::from_pem_slice(&read("key_file", key)?)
        .map_err(|_| ConfigError::new("key_file", "has no private key", "a key in PEM form"))?;
    let config = builder.with_client_auth_cert(chain, key);
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

/// The certificates of a text; what is none in a bundle of many spoils nothing.
fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}

fn add(roots: &mut RootCertStore, key: &str, pem: &[u8]) -> Result<(), ConfigError> {
    match roots.add_parsable_certificates(certificates(pem)).0 {
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
