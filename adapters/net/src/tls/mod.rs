//! TLS 1.2 and 1.3 of PEM files.

pub mod client;
pub mod server;

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::bind::BindError;

/// Reads the certificates of a file, of which there must be one.
fn certificates(
    path: &Path,
    purpose: &'static str,
) -> Result<Vec<CertificateDer<'static>>, BindError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| BindError::file(path, purpose, error))?;
    match all.is_empty() {
        true => Err(BindError::file(path, purpose, "it has no certificate")),
        false => Ok(all),
    }
}
