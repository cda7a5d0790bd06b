//! The downstream that is a network server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{ConfigError, Delivered, Downlink, Downstream, DownstreamError, ServeContext};
use gateway_net::Listener;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::concentrators::{Concentrators, Radio};
use super::config::{ForwarderConfig, ServerConfig, StationConfig};
use super::devices::Devices;
use super::engine::Engine;
use super::error::BindError;
use super::forwarder::Forwarders;
use super::losses::Losses;
use super::orders::{Order, Orders};
use super::station::Stations;
use super::store::{EmbeddedStore, SessionStore};
use crate::embed::LorawanDownstream;
use crate::payload::PayloadCodec;
use crate::proto::mac::{Network, Region};
use crate::proto::station::RouterConfig;

/// Puts a [`LorawanServer`] together.
#[derive(Debug)]
pub struct LorawanServerBuilder {
    config: ServerConfig,
    store: Option<Box<dyn SessionStore>>,
    codecs: BTreeMap<String, Arc<dyn PayloadCodec>>,
}

impl LorawanServerBuilder {
    /// Sets where sessions and counters are kept. Default: in the file that is configured.
    #[must_use]
    pub fn with_store(mut self, store: impl SessionStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Sets who reads and writes the payloads of a profile's devices. Default: nobody.
    #[must_use]
    pub fn with_codec(mut self, profile: impl Into<String>, codec: impl PayloadCodec) -> Self {
        self.codecs.insert(profile.into(), Arc::new(codec));
        self
    }

    /// Checks the settings, reads the store and listens. Concentrators are answered by
    /// [`serve`](Downstream::serve).
    ///
    /// # Errors
    /// A setting is wrong, the store cannot be read, or an address cannot be listened on.
    pub async fn bind(self) -> Result<LorawanServer, BindError> {
        let Self {
            config,
            store,
            codecs,
        } = self;
        config.validate()?;
        let region = config.make_region()?;
        let network_config = config.make_network(&region);
        let store = match (store, &config.store) {
            (Some(store), _) => store,
            (None, Some(path)) => Box::new(EmbeddedStore::open(path).await?),
            (None, None) => {
                let allowed = "a file for sessions and counters";
                return Err(ConfigError::new("store", "is missing", allowed).into());
            }
        };
        let devices = Devices::new(&config, codecs)?;
        let mut network = Network::new(region, network_config);
        let records = store.load().await?;
        let mut records: BTreeMap<_, _> = records.into_iter().map(|it| (it.dev_eui, it)).collect();
        for device in &config.devices {
            if let Some(profile) = device.to_profile(&config.profiles) {
                network.insert(profile, records.remove(&device.dev_eui));
            }
        }

        let (orders_sender, orders) = mpsc::channel(config.limits.queue);
        let (radio_sender, radio) = mpsc::channel(config.limits.queue);
        let downstream = LorawanDownstream::builder(config.downstream.clone())
            .with_directory(devices)
            .build(Orders(orders_sender))?;
        let concentrators = Arc::new(Concentrators::new(
            &config.concentrators,
            config.timing.pin_timeout,
            config.limits.rate,
        ));
        let mut addresses = [None, None];
        let forwarders = match &config.forwarders {
            Some(forwarder) => {
                let (forwarders, address) =
                    forwarders(forwarder, &config, &concentrators, &radio_sender).await?;
                addresses[0] = Some(address);
                Some(forwarders)
            }
            None => None,
        };
        let stations = match &config.stations {
            Some(station) => {
                let bound = stations(station, &config, &concentrators, &radio_sender)?;
                addresses[1] = Some(bound.1.local_addr());
                Some(bound)
            }
            None => None,
        };
        let engine = Engine::new(network, store, concentrators, downstream.events(), &config);
        let [forwarder_address, station_address] = addresses;
        Ok(LorawanServer {
            downstream,
            parts: Mutex::new(Some(Parts {
                engine,
                radio,
                orders,
                forwarders,
                stations,
            })),
            forwarder_address,
            station_address,
        })
    }
}

async fn forwarders(
    forwarder: &ForwarderConfig,
    config: &ServerConfig,
    concentrators: &Arc<Concentrators>,
    radio: &mpsc::Sender<Radio>,
) -> Result<(Forwarders, SocketAddr), BindError> {
    let address = forwarder.listen;
    let refused = |source| gateway_net::BindError::Listen { address, source };
    let socket = UdpSocket::bind(address).await.map_err(refused)?;
    let granted = SockRef::from(&socket).set_recv_buffer_size(forwarder.socket_buffer);
    if let Err(error) = granted {
        tracing::warn!(error = %error, "Socket buffer is smaller than configured");
    }
    let address = socket.local_addr().map_err(refused)?;
    let forwarders = Forwarders {
        socket: Arc::new(socket),
        concentrators: concentrators.clone(),
        region: config.make_region()?,
        radio: radio.clone(),
        losses: Losses::default(),
    };
    Ok((forwarders, address))
}

fn stations(
    station: &StationConfig,
    config: &ServerConfig,
    concentrators: &Arc<Concentrators>,
    radio: &mpsc::Sender<Radio>,
) -> Result<(Stations, Listener), BindError> {
    let listener = Listener::bind(station.listen)?;
    let stations = Stations {
        config: station.clone(),
        router_config: router_config(station, &config.make_region()?)?,
        concentrators: concentrators.clone(),
        radio: radio.clone(),
    };
    Ok((stations, listener))
}

fn router_config(station: &StationConfig, region: &Region) -> Result<String, ConfigError> {
    let config = RouterConfig::new(region, station.radios.clone());
    let mut config = config.ok_or_else(|| {
        let allowed = "EU868, US915, AU915, AS923, IN865 or KR920";
        ConfigError::new("region", "is not one of Basics Station's", allowed)
    })?;
    if let Some(hwspec) = &station.hwspec {
        config = config.with_hwspec(hwspec);
    }
    Ok(config.encode())
}

/// What serves, until it is taken to do so.
#[derive(Debug)]
struct Parts {
    engine: Engine,
    radio: mpsc::Receiver<Radio>,
    orders: mpsc::Receiver<Order>,
    forwarders: Option<Forwarders>,
    stations: Option<(Stations, Listener)>,
}

/// A small LoRaWAN network server, for fleets that have none: concentrators speak to it, and its
/// devices appear in the hub.
#[derive(Debug)]
pub struct LorawanServer {
    downstream: LorawanDownstream,
    parts: Mutex<Option<Parts>>,
    forwarder_address: Option<SocketAddr>,
    station_address: Option<SocketAddr>,
}

impl LorawanServer {
    /// Starts to put a server together.
    #[must_use]
    pub fn builder(config: ServerConfig) -> LorawanServerBuilder {
        LorawanServerBuilder {
            config,
            store: None,
            codecs: BTreeMap::new(),
        }
    }

    /// The address that packet forwarders are listened for on, with the port that was taken.
    #[must_use]
    pub fn forwarder_address(&self) -> Option<SocketAddr> {
        self.forwarder_address
    }

    /// The address that stations are listened for on, with the port that was taken.
    #[must_use]
    pub fn station_address(&self) -> Option<SocketAddr> {
        self.station_address
    }

    /// The part that speaks with the hub, for its counts.
    #[must_use]
    pub fn downstream(&self) -> &LorawanDownstream {
        &self.downstream
    }
}

#[async_trait]
impl Downstream for LorawanServer {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        let parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Parts {
            engine,
            radio,
            orders,
            forwarders,
            stations,
        } = parts.ok_or_else(DownstreamError::served_before)?;
        let stop: CancellationToken = context.shutdown.clone();
        let forwarders = async {
            if let Some(forwarders) = forwarders {
                forwarders.serve().await;
            }
            std::future::pending().await
        };
        let stations = async {
            if let Some((stations, listener)) = stations {
                stations.serve(listener).await;
            }
            std::future::pending().await
        };
        // Concentrators are heard, and commands reach them, until what is in flight has settled;
        // from the shutdown on nothing new is taken.
        tokio::select! {
            served = self.downstream.serve(context) => served?,
            () = engine.run(radio, orders, stop) => {}
            () = forwarders => {}
            () = stations => {}
        }
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        self.downstream.send(downlink).await
    }
}
