//! What a connection runs over: TCP, TLS, or a WebSocket on either.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::options::{Options, Transport};
use super::websocket;

/// Bytes both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) type Wire = Box<dyn Duplex>;

/// Connects once.
///
/// Cancel safe: what is half open is dropped.
pub(super) async fn dial(options: &Options) -> io::Result<Wire> {
    let address = options.address.as_deref().unwrap_or(&options.host);
    let socket = TcpStream::connect((address, options.port)).await?;
    socket.set_nodelay(true)?;
    match &options.transport {
        Transport::Tcp => Ok(Box::new(socket)),
        Transport::Tls(config) => secure(config, &options.host, socket).await,
        Transport::WebSocket { tls, path } => {
            let (scheme, usual, wire): (_, _, Wire) = match tls {
                Some(config) => ("wss", 443, secure(config, &options.host, socket).await?),
                None => ("ws", 80, Box::new(socket)),
            };
            // A host without its usual port is what every server knows itself by.
            let url = match options.port == usual {
                true => format!("{scheme}://{}{path}", options.host),
                false => format!("{scheme}://{}:{}{path}", options.host, options.port),
            };
            let wire = websocket::open(wire, &url, options.limits.max_packet).await?;
            Ok(Box::new(wire))
        }
    }
}

async fn secure(config: &Arc<ClientConfig>, host: &str, socket: TcpStream) -> io::Result<Wire> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let connector = TlsConnector::from(Arc::clone(config));
    Ok(Box::new(connector.connect(name, socket).await?))
}
