//! The listener: takes connections in, within bounds, and never ends for anything they do.

mod addresses;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{
    Backoff, Delivered, Downlink, Downstream, DownstreamError, ErrorKind, Ingress, MessageId,
    ServeContext,
};
use socket2::{Domain, Protocol as Transport, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::config::{JsonLinesConfig, TcpConfig, TimeoutConfig};
use crate::connection::Connection;
use crate::error::{BindError, undelivered};
use crate::identity::{self, Authenticator};
use crate::proto::json_lines::JsonLines;
use crate::proto::{Actions, CloseReason, Peer, ProtocolFactory};
use crate::registry::{Delivery, Registry, Stop};
use crate::tls;
use addresses::Addresses;

/// Connections that the system completes before they are taken in.
const BACKLOG: i32 = 1024;

/// What the connections share.
pub(crate) struct Shared {
    pub(crate) config: TcpConfig,
    pub(crate) factory: Box<dyn ProtocolFactory>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) registry: Arc<Registry>,
    tls: Option<TlsAcceptor>,
}

/// Puts a [`TcpDownstream`] together.
pub struct TcpDownstreamBuilder {
    config: TcpConfig,
    factory: Option<Box<dyn ProtocolFactory>>,
    authenticator: Option<Arc<dyn Authenticator>>,
}

impl fmt::Debug for TcpDownstreamBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpDownstreamBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl TcpDownstreamBuilder {
    /// Sets the protocol. Default: [`JsonLines`].
    #[must_use]
    pub fn with_protocol(mut self, factory: impl ProtocolFactory) -> Self {
        self.factory = Some(Box::new(factory));
        self
    }

    /// Sets who judges devices that bring a secret or nothing. Default: what the
    /// [configuration](crate::IdentityConfig) says, whose secrets are then without effect.
    #[must_use]
    pub fn with_authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Checks the settings, reads the files and listens. Devices are let in by
    /// [`serve`](Downstream::serve).
    ///
    /// # Errors
    /// A setting or file is wrong, or the address cannot be listened on.
    pub async fn bind(self) -> Result<TcpDownstream, BindError> {
        let Self {
            config,
            factory,
            authenticator,
        } = self;
        config.validate()?;
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let authenticator = match authenticator {
            Some(authenticator) => authenticator,
            None => identity::from_config(&config.identity)?,
        };
        let refused = |source| BindError::Listen {
            address: config.listen,
            source,
        };
        let listener = listen(config.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let factory = factory.unwrap_or_else(|| json_lines(&config));
        let registry = Arc::default();
        Ok(TcpDownstream {
            shared: Arc::new(Shared {
                config,
                factory,
                authenticator,
                registry,
                tls,
            }),
            listener: Mutex::new(Some(listener)),
            address,
        })
    }
}

fn json_lines(config: &TcpConfig) -> Box<dyn ProtocolFactory> {
    let JsonLinesConfig { framing, interest } = config.json_lines.clone();
    let (max_frame, certificate) = (config.limits.max_frame, config.identity.certificate);
    Box::new(move |_: &Peer| {
        JsonLines::new(framing.clone(), max_frame, MessageId::random())
            .with_interest(interest.into())
            .with_certificate(certificate)
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Transport::TCP),
    )?;
    // A restarted gateway takes its address back while old connections fade away.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Speaks with devices over TCP and TLS.
pub struct TcpDownstream {
    shared: Arc<Shared>,
    listener: Mutex<Option<TcpListener>>,
    address: SocketAddr,
}

impl fmt::Debug for TcpDownstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpDownstream")
            .field("address", &self.address)
            .field("devices", &self.devices())
            .finish_non_exhaustive()
    }
}

impl TcpDownstream {
    /// Starts to put a downstream together.
    #[must_use]
    pub fn builder(config: TcpConfig) -> TcpDownstreamBuilder {
        TcpDownstreamBuilder {
            config,
            factory: None,
            authenticator: None,
        }
    }

    /// Makes a downstream that speaks JSON lines and listens.
    ///
    /// # Errors
    /// As [`TcpDownstreamBuilder::bind`].
    pub async fn bind(config: TcpConfig) -> Result<Self, BindError> {
        Self::builder(config).bind().await
    }

    /// The address listened on, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many devices are connected and identified.
    #[must_use]
    pub fn devices(&self) -> usize {
        self.shared.registry.len()
    }
}

#[async_trait]
impl Downstream for TcpDownstream {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        let listener = self
            .listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let listener = listener.ok_or_else(|| {
            DownstreamError::new(ErrorKind::Closed, "serve").with_source("it serves only once")
        })?;
        tracing::info!(address = %self.address, "Serving devices");
        Server {
            shared: self.shared.clone(),
            ingress: context.ingress,
            shutdown: context.shutdown,
            connections: JoinSet::new(),
            addresses: Addresses::default(),
            refused: 0,
        }
        .serve(listener)
        .await;
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        let unknown = || undelivered(ErrorKind::UnknownDevice);
        let registry = &self.shared.registry;
        let now = Instant::now();
        let mut deadline = now + self.shared.config.timeouts.command;
        match &downlink {
            Downlink::Message(message) => deadline = deadline.min(message.deadline),
            Downlink::Method(call) => deadline = deadline.min(call.deadline),
            Downlink::End(end) => {
                return match registry.stop(&end.device, CloseReason::Ended(end.reason)) {
                    true => Ok(Delivered::Sent),
                    false => Err(unknown()),
                };
            }
            _ => {}
        }
        let connection = registry.find(downlink.device()).ok_or_else(unknown)?;
        let (reply, outcome) = oneshot::channel();
        let delivered = async {
            let lost = Err(ErrorKind::Disconnected);
            match connection
                .send(Delivery {
                    downlink,
                    reply,
                    deadline,
                })
                .await
            {
                Ok(()) => outcome.await.unwrap_or(lost),
                Err(_) => lost,
            }
        };
        match timeout_at(deadline, delivered).await {
            Ok(outcome) => outcome.map_err(undelivered),
            Err(_) => Err(undelivered(ErrorKind::TimedOut)),
        }
    }
}

struct Server {
    shared: Arc<Shared>,
    ingress: Ingress,
    shutdown: CancellationToken,
    connections: JoinSet<()>,
    addresses: Addresses,
    refused: u64,
}

impl Server {
    async fn serve(mut self, listener: TcpListener) {
        let mut failures = 0;
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.connections.join_next_with_id() => self.ended(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, address)) => {
                        failures = 0;
                        self.accepted(stream, address);
                    }
                    // The peer gave up already.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        // Most likely out of file descriptors: connections that end free some.
                        let wait = accept_backoff(failures);
                        failures = failures.saturating_add(1);
                        tracing::warn!(error = %error, count = failures, "Cannot take connections in");
                        tokio::select! {
                            () = shutdown.cancelled() => break,
                            () = sleep(wait) => {}
                        }
                    }
                }
            }
        }
        drop(listener);
        while let Some(ended) = self.connections.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), tokio::task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(error = %error, "A connection panicked: a defect in its protocol");
                }
                error.id()
            }
        };
        self.addresses.remove(id);
    }

    fn accepted(&mut self, stream: TcpStream, address: SocketAddr) {
        let limits = &self.shared.config.limits;
        let is_full = self.connections.len() >= limits.max_connections
            || self.addresses.count(address) >= limits.max_connections_per_address;
        let peer = Peer::new(address);
        if is_full {
            self.refused += 1;
            // Not a line for each: whoever floods connections must not flood the log.
            if self.refused.is_power_of_two() {
                tracing::warn!(count = self.refused, %address, "Connections refused: too many");
            }
            return self.turn_away(stream, &peer);
        }
        if let Err(error) = prepare(&stream, &self.shared.config.timeouts) {
            tracing::debug!(error = %error, %address, "Connection was gone before it began");
            return;
        }
        let stop = Stop::new(&self.shutdown);
        let served = converse(
            self.shared.clone(),
            self.ingress.clone(),
            peer,
            stream,
            stop,
        );
        let task = self.connections.spawn(served);
        self.addresses.add(task.id(), address);
    }

    /// Says why, if that costs nothing: not over TLS, and not to a peer that does not read.
    fn turn_away(&self, stream: TcpStream, peer: &Peer) {
        if self.shared.tls.is_some() {
            return;
        }
        let mut actions = Actions::new();
        self.shared
            .factory
            .protocol(peer)
            .on_close(CloseReason::TooManyConnections, &mut actions);
        if let Ok(mut stream) = stream.into_std() {
            drop(io::Write::write(&mut stream, actions.output()));
        }
    }
}

/// The wait after a failed accept: short, since it also holds up the next healthy connection.
fn accept_backoff(failures: u32) -> Duration {
    Backoff::new(Duration::from_millis(10), Duration::from_secs(1))
        .unwrap_or_default()
        .delay(failures)
}

/// Sets what makes dead peers show.
fn prepare(stream: &TcpStream, timeouts: &TimeoutConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(timeouts.keepalive)
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(timeouts.tcp_user))?;
    Ok(())
}

/// Speaks with one device to the end.
async fn converse(
    shared: Arc<Shared>,
    ingress: Ingress,
    peer: Peer,
    stream: TcpStream,
    stop: Stop,
) {
    let deadline = Instant::now() + shared.config.timeouts.hello;
    let Some(acceptor) = shared.tls.clone() else {
        Connection::new(shared, ingress, peer, stream, stop, deadline)
            .run()
            .await;
        return;
    };
    let handshake = tokio::select! {
        _ = stop.stopped() => return,
        handshake = timeout_at(deadline, acceptor.accept(stream)) => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let name = certificates.and_then(|chain| tls::name_of(chain.first()?));
            let peer = Peer {
                certificate_name: name,
                ..peer
            };
            // On the heap: it is larger than its like without TLS.
            Box::pin(Connection::new(shared, ingress, peer, stream, stop, deadline).run()).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %error, peer = %peer.address, "TLS handshake failed");
        }
        Err(_) => tracing::debug!(peer = %peer.address, "TLS handshake took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_watched_by_the_system_for_a_dead_peer() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        prepare(&stream, &TimeoutConfig::default()).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(60))
        );
    }
}
