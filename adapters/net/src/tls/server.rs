//! TLS towards devices: what the gateway shows, and whether it asks for a certificate.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::{certificates, worded};
use crate::bind::BindError;

/// Whether and how clients prove who they are by a certificate.
#[derive(Debug, Clone, Copy)]
pub enum Clients<'a> {
    /// They are not asked for one.
    Unasked,
    /// They may bring one that comes from these roots, a PEM file, or must.
    Asked {
        /// The roots.
        roots: &'a Path,
        /// Whether a client without one is refused.
        required: bool,
    },
}

/// Makes a server's TLS of its certificate chain and its key, both PEM files.
///
/// # Errors
/// A file cannot be used, or they do not go together.
pub fn config(
    certificate: &Path,
    key: &Path,
    clients: Clients<'_>,
) -> Result<ServerConfig, BindError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(certificate, "the gateway's certificates")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| BindError::file(key, "the gateway's key", worded(error)))?;
    let verifier: Arc<dyn ClientCertVerifier> = match clients {
        Clients::Unasked => WebPkiClientVerifier::no_client_auth(),
        Clients::Asked { roots, required } => {
            let store = Arc::new(client_roots(roots)?);
            let builder = WebPkiClientVerifier::builder_with_provider(store, provider.clone());
            let builder = match required {
                true => builder,
                false => builder.allow_unauthenticated(),
            };
            builder
                .build()
                .map_err(|error| BindError::Tls(error.into()))?
        }
    };
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BindError::Tls(error.into()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| BindError::Tls(error.into()))
}

fn client_roots(path: &Path) -> Result<RootCertStore, BindError> {
    const PURPOSE: &str = "roots of client certificates";
    let mut roots = RootCertStore::empty();
    for root in certificates(path, PURPOSE)? {
        roots
            .add(root)
            .map_err(|error| BindError::file(path, PURPOSE, error))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    /// An error with its causes, as programs print and debug it.
    fn told(error: &dyn Error) -> String {
        let causes = std::iter::successors(error.source(), |error| (*error).source());
        causes.fold(format!("{error} {error:?}"), |told, cause| {
            format!("{told} {cause} {cause:?}")
        })
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["gateway".to_owned()]).unwrap();
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let secret = key.lines().nth(1).unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let good = (write("cert.pem", &certificate), write("key.pem", &key));
        config(&good.0, &good.1, Clients::Unasked).unwrap();
        for (name, text) in [
            ("spaces.pem", key.replace('\n', " ")),
            ("escaped.pem", key.replace('\n', "\\n")),
            ("torn.pem", key.replace("-----END", "END")),
            ("begun.pem", key.replacen("-----\n", "", 1)),
            ("empty.pem", String::new()),
        ] {
            let wrong = write(name, &text);
            for error in [
                config(&good.0, &wrong, Clients::Unasked).unwrap_err(),
                config(&wrong, &good.1, Clients::Unasked).unwrap_err(),
            ] {
                let told = told(&error);
                assert!(told.contains(name), "{told}");
                assert!(!told.contains(secret), "{told}");
                // Debugging shows bytes as numbers.
                let bytes = format!("{:?}", &secret.as_bytes()[..8]);
                assert!(!told.contains(bytes.trim_matches(['[', ']'])), "{told}");
            }
        }
    }
}
