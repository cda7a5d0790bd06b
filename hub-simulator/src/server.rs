//! The listeners: accept connections and own the tasks that serve them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::amqp;
use crate::cloud::{Caller, Cloud};
use crate::http;
use crate::line::Line;
use crate::mqtt;
use crate::tls::Thumbprints;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after a failure to accept, for want of file descriptors mostly.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Amqp,
    Mqtt,
    Http,
}

/// Accepts until it is dropped; dropping it ends every connection.
pub(crate) async fn accept(
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<TlsAcceptor>,
    cloud: Arc<Cloud>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "A connection's task has failed");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _from)) => {
                connections.spawn(serve(stream, protocol, tls.clone(), Arc::clone(&cloud)));
            }
            Err(error) => {
                tracing::warn!(%error, "A connection cannot be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, protocol: Protocol, tls: Option<TlsAcceptor>, cloud: Arc<Cloud>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "Small segments may be delayed");
    }
    let Some(tls) = tls else {
        return speak(stream, protocol, Caller::new(cloud, None, None)).await;
    };
    match timeout(HANDSHAKE, tls.accept(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    {
        Ok(stream) => {
            let session = stream.get_ref().1;
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            let thumbprints = certificate.map(|certificate| Thumbprints::of(certificate));
            let caller = Caller::new(cloud, session.server_name(), thumbprints);
            speak(stream, protocol, caller).await;
        }
        Err(error) => tracing::info!(%error, "TLS handshake failed"),
    }
}

async fn speak(line: impl Line, protocol: Protocol, caller: Caller) {
    match protocol {
        Protocol::Amqp => amqp::shell::serve(line, caller).await,
        Protocol::Mqtt => mqtt::serve(line, caller).await,
        Protocol::Http => http::serve(line, caller).await,
    }
}
