//! TLS from files.

use std::sync::Arc;

use gateway_net::BindError;
use gateway_net::tls::server::{self, Clients};
use tokio_rustls::TlsAcceptor;

use super::TlsConfig;

/// The protocol's name for ALPN (RFC 8323, section 8.2). Who names none is taken in too.
const ALPN: &[u8] = b"coap";

pub(super) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, BindError> {
    let mut tls = server::config(&config.certificate, &config.key, Clients::Unasked)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}
