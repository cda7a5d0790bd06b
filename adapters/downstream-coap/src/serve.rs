//! The downstream itself: put together, served, and spoken to by the core.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use gateway_core::{Delivered, Downlink, Downstream, DownstreamError, ErrorKind, ServeContext};
use gateway_net::BindError;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::carrier::{Carrier, PeerKey, Plain};
use crate::commands::{self, Answers};
use crate::config::{CoapConfig, SecureConfig};
use crate::dtls::{PskStore, StaticPskStore};
use crate::identity::Authenticator;
use crate::proto::resource::Routes;
use crate::proto::udp::{Endpoint, EndpointGauge, EndpointStats};
use crate::proto::{Budget, EchoPolicy, LimitConfig, Seed};
use crate::registry::Registry;
use crate::secure::Secure;
use crate::stream::Door;
use crate::task::SocketTask;

/// What the sockets' tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: CoapConfig,
    pub(crate) routes: Routes,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) answers: Answers,
}

/// A socket and what it carries, until they are served.
#[derive(Debug)]
struct Port {
    socket: Arc<UdpSocket>,
    carrier: Box<dyn Carrier>,
    endpoint: Endpoint<PeerKey>,
}

/// What is served, once.
#[derive(Debug)]
struct Entrances {
    ports: Vec<Port>,
    doors: Vec<Door>,
}

/// Puts a [`CoapDownstream`] together.
#[derive(Debug)]
pub struct CoapDownstreamBuilder {
    config: CoapConfig,
    authenticator: Option<Arc<dyn Authenticator>>,
    store: Option<Arc<dyn PskStore>>,
}

impl CoapDownstreamBuilder {
    /// Sets who knows the keys of DTLS. Default: the [file](crate::SecureConfig::keys_file), which
    /// is without effect then.
    #[must_use]
    pub fn with_psk_store(mut self, store: impl PskStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets who judges requests that come without a session, and gateways that speak for others.
    /// Default: what the [configuration](crate::IdentityConfig) says, which is without effect then.
    #[must_use]
    pub fn with_authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Some(Arc::new(authenticator));
        self
    }

    /// Checks the settings and opens the sockets. Devices are answered by
    /// [`serve`](Downstream::serve).
    ///
    /// # Errors
    /// A setting is wrong, or the address cannot be listened on.
    pub async fn bind(self) -> Result<CoapDownstream, BindError> {
        let Self {
            config,
            authenticator,
            store,
        } = self;
        config.validate()?;
        let routes = Routes::new(&config.routes)?;
        let authenticator = match authenticator {
            Some(authenticator) => authenticator,
            None => {
                if config.identity.trust_any_id {
                    tracing::warn!("Every device's word is taken for its identity");
                }
                Arc::new(config.identity.clone().with_file()?)
            }
        };
        let mut endpoint = config.endpoint.clone();
        endpoint.limits = limits(&config);
        if config.commands.post_to.is_some() && endpoint.echo == EchoPolicy::Amplification {
            // Commands go to whoever has spoken, and must not go to whom somebody else has named.
            endpoint.echo = EchoPolicy::Always;
        }
        let mut ports = Vec::new();
        let mut udp_address = None;
        if let Some(udp) = &config.udp {
            let mut address = udp.listen;
            for _ in 0..udp.sockets {
                let (socket, taken) = open(address, udp.sockets > 1, config.socket_buffer)?;
                // The first one takes the port that the others share.
                address = taken;
                ports.push(Port {
                    socket: Arc::new(socket),
                    carrier: Box::new(Plain),
                    endpoint: Endpoint::new(endpoint.clone(), seed()?),
                });
            }
            udp_address = Some(address);
        }
        let mut dtls_address = None;
        if let Some(dtls) = &config.dtls {
            let (socket, taken) = open(dtls.listen, false, config.socket_buffer)?;
            let store: Arc<dyn PskStore> = match store {
                Some(store) => store,
                None => Arc::new(keys(dtls)?),
            };
            let carrier = Secure::new(dtls.sessions.clone(), store, seed()?)?;
            ports.push(Port {
                socket: Arc::new(socket),
                carrier: Box::new(carrier),
                endpoint: Endpoint::new(endpoint, seed()?),
            });
            dtls_address = Some(taken);
        }
        let tcp = config.tcp.as_ref().map(Door::tcp).transpose()?;
        let tls = config.tls.as_ref().map(Door::tls).transpose()?;
        let (tcp_address, tls_address) = (
            tcp.as_ref().map(Door::address),
            tls.as_ref().map(Door::address),
        );
        let doors = tcp.into_iter().chain(tls).collect();
        Ok(CoapDownstream {
            shared: Arc::new(Shared {
                config,
                routes,
                authenticator,
                registry: Arc::default(),
                answers: Answers::new(random_number()? as u32),
            }),
            gauges: ports.iter().map(|port| port.endpoint.gauge()).collect(),
            entrances: Mutex::new(Some(Entrances { ports, doors })),
            udp_address,
            dtls_address,
            tcp_address,
            tls_address,
        })
    }
}

/// What of the downstream's bounds each socket has, and all streams have together.
fn limits(config: &CoapConfig) -> LimitConfig {
    let has_streams = config.tcp.is_some() || config.tls.is_some();
    let others = [config.dtls.is_some(), has_streams];
    let sockets = config.udp.as_ref().map_or(0, |udp| udp.sockets);
    let parts = sockets + others.into_iter().filter(|is| *is).count();
    config.endpoint.limits.divided(parts)
}

fn keys(config: &SecureConfig) -> Result<StaticPskStore, BindError> {
    let mut keys = StaticPskStore::new();
    if let Some(path) = &config.keys_file {
        keys.read_file(path)?;
    }
    Ok(keys)
}

/// Opens a socket and says where.
fn open(
    address: SocketAddr,
    is_shared: bool,
    buffer: usize,
) -> Result<(UdpSocket, SocketAddr), BindError> {
    let open = || -> io::Result<_> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if is_shared {
            share(&socket)?;
        }
        // The system may have a lower bound, with which one can live.
        let received = socket.set_recv_buffer_size(buffer);
        if let Err(error) = received.and(socket.set_send_buffer_size(buffer)) {
            tracing::warn!(error = %error, "Socket buffers are smaller than configured");
        }
        let granted = socket.recv_buffer_size()?;
        if granted < buffer {
            tracing::info!(
                granted,
                "System grants a smaller buffer; see net.core.rmem_max"
            );
        }
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket.into())?;
        let taken = socket.local_addr()?;
        Ok((socket, taken))
    };
    open().map_err(|source| BindError::Listen { address, source })
}

#[cfg(unix)]
fn share(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share(_socket: &Socket) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system cannot share a port among sockets; set udp.sockets to 1",
    ))
}

fn random_number() -> Result<u64, BindError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| BindError::Random(error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn seed() -> Result<Seed, BindError> {
    Ok(Seed([random_number()?, random_number()?]))
}

/// Speaks with devices over CoAP.
pub struct CoapDownstream {
    shared: Arc<Shared>,
    entrances: Mutex<Option<Entrances>>,
    gauges: Vec<EndpointGauge>,
    udp_address: Option<SocketAddr>,
    dtls_address: Option<SocketAddr>,
    tcp_address: Option<SocketAddr>,
    tls_address: Option<SocketAddr>,
}

impl fmt::Debug for CoapDownstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoapDownstream")
            .field("udp_address", &self.udp_address)
            .field("dtls_address", &self.dtls_address)
            .field("tcp_address", &self.tcp_address)
            .field("tls_address", &self.tls_address)
            .field("listening", &self.listening())
            .finish_non_exhaustive()
    }
}

impl CoapDownstream {
    /// Starts to put a downstream together.
    #[must_use]
    pub fn builder(config: CoapConfig) -> CoapDownstreamBuilder {
        CoapDownstreamBuilder {
            config,
            authenticator: None,
            store: None,
        }
    }

    /// Makes a downstream and opens its sockets.
    ///
    /// # Errors
    /// As [`CoapDownstreamBuilder::bind`].
    pub async fn bind(config: CoapConfig) -> Result<Self, BindError> {
        Self::builder(config).bind().await
    }

    /// The address of plain UDP, with the port that was taken, if plain UDP is served.
    #[must_use]
    pub fn udp_addr(&self) -> Option<SocketAddr> {
        self.udp_address
    }

    /// The address of DTLS, with the port that was taken, if DTLS is served.
    #[must_use]
    pub fn dtls_addr(&self) -> Option<SocketAddr> {
        self.dtls_address
    }

    /// The address of TCP, with the port that was taken, if TCP is served.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// The address of TLS, with the port that was taken, if TLS is served.
    #[must_use]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// How many devices listen for commands or changes.
    #[must_use]
    pub fn listening(&self) -> usize {
        self.shared.registry.len()
    }

    /// Counts what is known of the peers at all sockets of datagrams.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        self.gauges.iter().map(EndpointGauge::read).sum()
    }
}

#[async_trait]
impl Downstream for CoapDownstream {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        let entrances = self
            .entrances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let failed = |kind| DownstreamError::new(kind, "serve");
        let Entrances { ports, doors } = entrances
            .ok_or_else(|| failed(ErrorKind::Closed).with_source("it serves only once"))?;
        tracing::info!(
            udp = ?self.udp_address,
            dtls = ?self.dtls_address,
            tcp = ?self.tcp_address,
            tls = ?self.tls_address,
            "Serving devices"
        );
        let mut tasks = JoinSet::new();
        // While one is open all are: what devices send would come to another one of the port else,
        // where nobody knows what it answers.
        let mut open = Vec::new();
        for port in ports {
            let Port {
                socket,
                carrier,
                endpoint,
            } = port;
            open.push(socket.clone());
            let (shared, ingress) = (self.shared.clone(), context.ingress.clone());
            let task = SocketTask::new(shared, ingress, socket, carrier, endpoint);
            tasks.spawn(task.run(context.clone()));
        }
        let block_bytes = Budget::new(limits(&self.shared.config).max_block_bytes);
        for door in doors {
            let seed = seed().map_err(|error| {
                DownstreamError::new(ErrorKind::Other, "serve").with_source(error)
            })?;
            let (shared, bytes) = (self.shared.clone(), block_bytes.clone());
            tasks.spawn(door.serve(shared, context.clone(), bytes, seed));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                // Its devices would go unheard for as long as the others are served.
                tracing::error!(error = %error, "A socket's task panicked: a defect");
                return Err(failed(ErrorKind::Other).with_source(error));
            }
        }
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        let delivered = commands::deliver(&self.shared, downlink).await;
        delivered.map_err(DownstreamError::undelivered)
    }
}
