//! TLS: the files, and the name in a client's certificate.

use std::sync::Arc;

use gateway_net::BindError;
use gateway_net::tls::server::{self, Clients};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::config::TlsConfig;

pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, BindError> {
    let clients = match &config.client_ca {
        None => Clients::Unasked,
        Some(roots) => Clients::Asked {
            roots,
            required: config.client_certificate_required,
        },
    };
    let tls = server::config(&config.certificate, &config.key, clients)?;
    Ok(TlsAcceptor::from(Arc::new(tls)))
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
