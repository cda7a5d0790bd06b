//! A downstream whose network server is elsewhere.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{
    ConfigError, Delivered, Downlink as Command, Downstream, DownstreamError, ServeContext,
};
use gateway_net::{BindError, Listener};
use rumqttc::EventLoop;

use super::config::{HttpConfig, MqttConfig, PostConfig};
use super::dialect::Dialect;
use super::http::Receiver;
use super::intake::{Intake, Routes};
use super::mqtt::{self, Link};
use super::post::PostNetwork;
use crate::embed::{LorawanBuilder, LorawanDownstream, NetworkServer};
use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

/// Where what the network server tells comes from.
enum Source {
    Mqtt(Link, Box<EventLoop>),
    Http(Receiver, Listener),
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
        let listener = Listener::bind(config.listen)?;
        let local_addr = listener.local_addr();
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
        let source = source.ok_or_else(DownstreamError::served_before)?;
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
