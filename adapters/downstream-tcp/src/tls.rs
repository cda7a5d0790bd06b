//! TLS: the files, and the name in a client's certificate.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::config::TlsConfig;
use crate::error::BindError;

pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, BindError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&config.certificate, "the server's certificates")?;
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| BindError::file(&config.key, "the server's key", error))?;
    let verifier: Arc<dyn ClientCertVerifier> = match &config.client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path, "roots of client certificates")? {
                roots.add(root).map_err(|error| {
                    BindError::file(path, "roots of client certificates", error)
                })?;
            }
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            let builder = match config.client_certificate_required {
                true => builder,
                false => builder.allow_unauthenticated(),
            };
            builder
                .build()
                .map_err(|error| BindError::Tls(error.into()))?
        }
    };
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BindError::Tls(error.into()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| BindError::Tls(error.into()))?;
    Ok(TlsAcceptor::from(Arc::new(server)))
}

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

/// The name in a certificate: the first DNS name, else the first URI, else the common name.
pub(crate) fn name_of(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives.map_or(&[][..], |extension| &extension.value.general_names[..]);
    let dns = names.iter().find_map(|name| match name {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(name) => Some(*name),
        _ => None,
    });
    let common = || {
        certificate
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
    };
    dns.or(uri).or_else(common).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common: &str, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_dns_name_comes_before_a_uri_and_that_before_the_common_name() {
        let dns = SanType::DnsName("dns-name".try_into().unwrap());
        let uri = SanType::URI("urn:dev:1".try_into().unwrap());
        let named = |names| name_of(&certificate("common", names));
        assert_eq!(named(vec![uri.clone(), dns]).as_deref(), Some("dns-name"));
        assert_eq!(named(vec![uri]).as_deref(), Some("urn:dev:1"));
        assert_eq!(named(vec![]).as_deref(), Some("common"));
        assert_eq!(name_of(b"no certificate"), None);
    }
}
