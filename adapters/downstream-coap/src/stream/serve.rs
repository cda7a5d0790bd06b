//! A listener: takes connections in, within bounds, and never ends for anything they do.

use std::net::SocketAddr;
use std::sync::Arc;

use gateway_core::{Ingress, ServeContext};
use gateway_net::{BindError, Listener, Sources};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::{TcpConfig, TlsConfig, tls};
use crate::proto::tcp::{Session, StreamConfig};
use crate::proto::{Budget, Random, Seed};
use crate::serve::Shared;

/// A listener and what its connections begin with, until it is served.
#[derive(Debug)]
pub(crate) struct Door {
    listener: Listener,
    tls: Option<Tls>,
}

/// Begins TLS on a connection.
#[derive(Clone)]
struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Door {
    pub(crate) fn tcp(config: &TcpConfig) -> Result<Self, BindError> {
        Self::open(config.listen, None)
    }

    pub(crate) fn tls(config: &TlsConfig) -> Result<Self, BindError> {
        Self::open(config.listen, Some(Tls(tls::acceptor(config)?)))
    }

    fn open(address: SocketAddr, tls: Option<Tls>) -> Result<Self, BindError> {
        let listener = Listener::bind(address)?;
        Ok(Self { listener, tls })
    }

    /// The address, with the port that was taken.
    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves until the context's shutdown fires and every connection has ended. Sessions share the
    /// budget for bytes of bodies in blocks.
    pub(crate) async fn serve(
        mut self,
        shared: Arc<Shared>,
        context: ServeContext,
        block_bytes: Budget,
        seed: Seed,
    ) {
        let mut server = Server {
            shared,
            ingress: context.ingress,
            shutdown: context.shutdown.clone(),
            tls: self.tls,
            block_bytes,
            random: Random::new(seed),
            connections: JoinSet::new(),
            sources: Sources::default(),
            refused: 0,
        };
        loop {
            tokio::select! {
                biased;
                () = context.shutdown.cancelled() => break,
                Some(ended) = server.connections.join_next() => report(ended),
                (stream, address) = self.listener.accept() => server.accepted(stream, address),
            }
        }
        drop(self.listener);
        while let Some(ended) = server.connections.join_next().await {
            report(ended);
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = %error, "A connection's task panicked: a defect");
    }
}

/// What the connections of one listener have in common.
struct Server {
    shared: Arc<Shared>,
    ingress: Ingress,
    shutdown: CancellationToken,
    tls: Option<Tls>,
    block_bytes: Budget,
    random: Random,
    connections: JoinSet<()>,
    sources: Sources,
    refused: u64,
}

impl Server {
    fn accepted(&mut self, stream: TcpStream, address: SocketAddr) {
        let bounds = &self.shared.config.connections;
        let place = match self.connections.len() < bounds.max {
            true => self.sources.enter(address, bounds.max_per_address),
            false => None,
        };
        let Some(place) = place else {
            self.refused += 1;
            // Not a line for each: whoever floods connections must not flood the log.
            if self.refused.is_power_of_two() {
                tracing::warn!(count = self.refused, peer = %address, "Connections refused: too many");
            }
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, peer = %address, "Connection was gone before it began");
            return;
        }
        let endpoint = &self.shared.config.endpoint;
        let config = StreamConfig {
            blocks: endpoint.blocks.clone(),
            limits: endpoint.limits.clone(),
        };
        let seed = Seed([self.random.next(), self.random.next()]);
        let session = Session::new(config, self.block_bytes.clone(), seed);
        let hello_by = Instant::now() + bounds.hello;
        let (shared, ingress) = (self.shared.clone(), self.ingress.clone());
        let source = (address, place);
        let connection = Connection::new(shared, ingress, session, source, hello_by);
        let shutdown = self.shutdown.clone();
        match self.tls.clone() {
            None => self.connections.spawn(connection.run(stream, shutdown)),
            Some(tls) => self
                .connections
                .spawn(begin_tls(tls, connection, stream, shutdown)),
        };
    }
}

/// Speaks with a peer to the end, in a TLS session that the settings' time is enough for.
async fn begin_tls(
    Tls(acceptor): Tls,
    connection: Connection,
    stream: TcpStream,
    shutdown: CancellationToken,
) {
    let peer = connection.address();
    let handshake = timeout_at(connection.hello_by(), acceptor.accept(stream));
    let handshake = tokio::select! {
        () = shutdown.cancelled() => return,
        handshake = handshake => handshake,
    };
    match handshake {
        // On the heap: it is larger than its like without TLS.
        Ok(Ok(stream)) => Box::pin(connection.run(stream, shutdown)).await,
        Ok(Err(error)) => tracing::debug!(error = %error, %peer, "TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
}
