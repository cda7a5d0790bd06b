//! The downstream itself: put together, served, and spoken to by the core.

mod server;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{
    Delivered, Downlink, Downstream, DownstreamError, ErrorKind, MessageId, ServeContext,
};
use gateway_net::{BindError, Listener};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::config::{JsonLinesConfig, TcpConfig};
use crate::identity::{self, Authenticator};
use crate::proto::json_lines::JsonLines;
use crate::proto::{CloseReason, Peer, ProtocolFactory};
use crate::registry::{Delivery, Registry};
use crate::tls;
use server::Server;

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
        let listener = Listener::bind(config.listen)?;
        let address = listener.local_addr();
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

/// Speaks with devices over TCP and TLS.
pub struct TcpDownstream {
    pub(crate) shared: Arc<Shared>,
    listener: Mutex<Option<Listener>>,
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
        let listener = listener.ok_or_else(DownstreamError::served_before)?;
        tracing::info!(address = %self.address, "Serving devices");
        Server::new(self.shared.clone(), context)
            .serve(listener)
            .await;
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        let unknown = || DownstreamError::undelivered(ErrorKind::UnknownDevice);
        let registry = &self.shared.registry;
        let patience = Instant::now() + self.shared.config.timeouts.command;
        let (deadline, is_method) = match &downlink {
            Downlink::Message(message) => (message.deadline.min(patience), false),
            Downlink::Method(call) => (call.deadline, true),
            Downlink::End(end) => {
                let reason = CloseReason::Ended {
                    reason: end.reason,
                    detail: end.detail,
                };
                return match registry.stop(&end.device, reason) {
                    true => Ok(Delivered::Sent),
                    false => Err(unknown()),
                };
            }
            _ => (patience, false),
        };
        let connection = registry.find(downlink.device()).ok_or_else(unknown)?;
        let (reply, outcome) = oneshot::channel();
        let delivery = Box::new(Delivery {
            downlink,
            reply,
            deadline,
        });
        let delivered = async {
            let place = match connection.try_reserve() {
                Ok(place) => place,
                // Whoever calls would rather know than wait for others' answers.
                Err(TrySendError::Full(())) if is_method => return Err(ErrorKind::Throttled),
                Err(_) => {
                    let place = connection.reserve().await;
                    place.map_err(|_| ErrorKind::Disconnected)?
                }
            };
            place.send(delivery);
            outcome.await.unwrap_or(Err(ErrorKind::Disconnected))
        };
        match timeout_at(deadline, delivered).await {
            Ok(outcome) => outcome.map_err(DownstreamError::undelivered),
            Err(_) => Err(DownstreamError::undelivered(ErrorKind::TimedOut)),
        }
    }
}
