//! TCP, with TLS unless told otherwise.

use std::io;
use std::sync::Arc;

use gateway_core::ConfigError;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_util::either::Either;

use crate::config::AmqpConfig;

/// What a connection to the hub runs over.
pub type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// Knows how to reach the hub.
pub struct Transport {
    address: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("address", &self.address)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl Transport {
    /// Prepares TLS.
    ///
    /// # Errors
    /// The CA certificates cannot be read.
    pub fn new(config: &AmqpConfig) -> Result<Self, ConfigError> {
        // A host may carry a port, as connection strings for a local hub do.
        let name = config.host.split(':').next().unwrap_or_default();
        let address = config.address.clone().unwrap_or_else(|| name.to_owned());
        let tls = match config.tls {
            true => {
                let server = ServerName::try_from(name.to_owned()).map_err(|_| {
                    ConfigError::new("host", format!("is {name:?}"), "a DNS name or an address")
                })?;
                Some((TlsConnector::from(Arc::new(client_config(config)?)), server))
            }
            false => None,
        };
        Ok(Self {
            address,
            port: config.port,
            tls,
        })
    }

    /// Connects once.
    ///
    /// # Errors
    /// The hub cannot be reached, or its certificate is not trusted.
    pub async fn connect(&self) -> io::Result<Stream> {
        let socket = TcpStream::connect((self.address.as_str(), self.port)).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Either::Left(socket)),
            Some((connector, server)) => Ok(Either::Right(
                connector.connect(server.clone(), socket).await?,
            )),
        }
    }
}

fn client_config(config: &AmqpConfig) -> Result<ClientConfig, ConfigError> {
    let roots = match (&config.ca_file, &config.ca_pem) {
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
        ConfigError::new(
            "tls",
            format!("cannot be set up: {error}"),
            "TLS 1.2 or 1.3",
        )
    })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
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
