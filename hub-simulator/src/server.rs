//! The listener: accepts connections and owns the tasks that serve them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::amqp::shell;
use crate::hub::Hub;

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after a failure to accept, for want of file descriptors mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until it is dropped; dropping it ends every connection.
pub(crate) async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, hub: Arc<Hub>) {
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
                connections.spawn(serve(stream, tls.clone(), Arc::clone(&hub)));
            }
            Err(error) => {
                tracing::warn!(%error, "A connection cannot be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, hub: Arc<Hub>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "Small segments may be delayed");
    }
    let Some(tls) = tls else {
        return shell::serve(stream, hub).await;
    };
    match timeout(HANDSHAKE, tls.accept(stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    {
        Ok(stream) => shell::serve(stream, hub).await,
        Err(error) => tracing::info!(%error, "TLS handshake failed"),
    }
}
