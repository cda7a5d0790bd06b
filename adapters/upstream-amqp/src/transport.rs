//! TCP, with TLS unless told otherwise.

use std::io;

use gateway_core::ConfigError;
use gateway_net::tls::client;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
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
                let trust = client::config(config.ca_file.as_deref(), config.ca_pem.as_deref())?;
                Some((TlsConnector::from(trust), server))
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
