//! TLS 1.2 and 1.3 of PEM files.

pub mod client;
pub mod server;

use std::error::Error;
use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};

use crate::bind::BindError;

/// Reads the certificates of a file, of which there must be one.
fn certificates(
    path: &Path,
    purpose: &'static str,
) -> Result<Vec<CertificateDer<'static>>, BindError> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| BindError::file(path, purpose, worded(error)))?;
    match all.is_empty() {
        true => Err(BindError::file(path, purpose, "it has no certificate")),
        false => Ok(all),
    }
}

/// Says what is wrong with a PEM file. The library's words repeat what was read, which of a key
/// whose line breaks are lost is all of it.
fn worded(error: pem::Error) -> Box<dyn Error + Send + Sync> {
    match error {
        pem::Error::Io(error) => error.into(),
        pem::Error::NoItemsFound => "it has none in PEM form".into(),
        _ => "it is no well-formed PEM; are all its line breaks there?".into(),
    }
}
