//! A downstream whose network server is elsewhere.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{
    ConfigError, Delivered, Downlink as Command, Downstream, DownstreamError, ErrorKind,
    ServeContext,
};
use rumqttc::EventLoop;
use tokio::net::TcpListener;

use super::config::{HttpConfig, MqttConfig, PostConfig};
use super::dialect::Dialect;
use super::http::Receiver;
use super::intake::{Intake, Routes};
use super::mqtt::{self, Link};
use super::post::PostNetwork;
use crate::embed::{LorawanBuilder, LorawanDownstream, NetworkServer};
use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

/// Tells why it cannot be listened for a network server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be had.
    #[error("cannot listen on {address}; choose another `listen`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Where what the network server tells comes from.
enum Source {
    Mqtt(Link, Box<EventLoop>),
    Http(Receiver, TcpListener),
}

/// Speaks with LoRaWAN devices through a network server elsewhere.
pub struct CloudDownstream {
    lorawan: LorawanDownstream,
    routes: Arc<Routes>,
    source: Mutex<Option<Source>>,
    local_addr: Option<SocketAddr>,
}

impl fmt::Debug for CloudDownstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudDownstream")
            .field("lorawan", &self.lorawan)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl CloudDownstream {
    pub(crate) fn mqtt(
        config: &MqttConfig,
        dialect: Arc<dyn Dialect>,
        lorawan: LorawanBuilder,
    ) -> Result<Self, ConfigError> {
        let routes = Arc::new(Routes::new(lorawan.config().max_devices));
        let connected = mqtt::connect(config, dialect, routes.clone());
        let (network, link, eventloop) = connected.map_err(|error| error.within("mqtt"))?;
        Ok(Self {
            lorawan: lorawan.build(network)?,
            routes,
            source: Mutex::new(Some(Source::Mqtt(link, Box::new(eventloop)))),
            local_addr: None,
        })
    }

    pub(crate) async fn http(
        config: HttpConfig,
        downlinks: Option<PostConfig>,
        dialect: Arc<dyn Dialect>,
        lorawan: LorawanBuilder,
    ) -> Result<Self, BindError> {
        config.validate().map_err(|error| error.within("http"))?;
        let routes = Arc::new(Routes::new(lorawan.config().max_devices));
        let lorawan = match downlinks {
            Some(config) => {
                let network = PostNetwork::new(&config, dialect.clone(), routes.clone());
                lorawan.build(network.map_err(|error| error.within("downlinks"))?)?
            }
            None => lorawan.build(NoDownlinks)?,
        };
        let address = config.listen;
        let failed = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(Self {
            lorawan,
            routes,
            source: Mutex::new(Some(Source::Http(Receiver { config, dialect }, listener))),
            local_addr: Some(local_addr),
        })
    }

    /// The address that requests are taken on; none where there is an MQTT broker between.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// The downstream within, which knows who listens and how close to their windows commands come.
    #[must_use]
    pub fn lorawan(&self) -> &LorawanDownstream {
        &self.lorawan
    }
}

#[async_trait]
impl Downstream for CloudDownstream {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        let source = self
            .source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let source = source.ok_or_else(|| {
            DownstreamError::new(ErrorKind::Closed, "serve").with_source("it serves only once")
        })?;
        let shutdown = context.shutdown.clone();
        let intake = Intake::new(self.lorawan.events(), self.routes.clone(), shutdown.clone());
        let intake = Arc::new(intake);
        let read = async {
            match source {
                Source::Mqtt(link, eventloop) => link.run(*eventloop, intake, shutdown).await,
                Source::Http(receiver, listener) => receiver.run(listener, intake, shutdown).await,
            }
        };
        let ((), served) = tokio::join!(read, self.lorawan.serve(context));
        served
    }

    async fn send(&self, command: Command) -> Result<Delivered, DownstreamError> {
        self.lorawan.send(command).await
    }
}

/// Stands where there is no way to the network server's queue.
#[derive(Debug)]
struct NoDownlinks;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl NetworkServer for NoDownlinks {
    async fn send(&self, _: Downlink) -> Result<(), FailureReason> {
        Err(FailureReason::Refused)
    }

    async fn withdraw(&self, _: DevEui, _: &DownlinkId) {}
}
