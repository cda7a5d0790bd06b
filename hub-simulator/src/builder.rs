//! How a simulator is set up and started.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::cloud::Cloud;
use crate::hub::events::{EventRetention, Layout, MAX_PARTITIONS};
use crate::hub::record::RecordMode;
use crate::limits::Limits;
use crate::provisioning::ProvisioningOptions;
use crate::simulator::HubSimulator;
use crate::store::StoreError;
use crate::tls::CertificateError;

/// Sets up a [`HubSimulator`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    pub(crate) host: String,
    pub(crate) tls: bool,
    pub(crate) amqps: SocketAddr,
    pub(crate) mqtts: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) control: Option<SocketAddr>,
    pub(crate) beside: Option<Arc<Cloud>>,
    pub(crate) limits: Limits,
    pub(crate) auto_register: bool,
    pub(crate) provisioning: ProvisioningOptions,
    pub(crate) group_key: Option<String>,
    pub(crate) record: RecordMode,
    pub(crate) layout: Layout,
    pub(crate) retention: Option<EventRetention>,
    pub(crate) state: Option<PathBuf>,
}

/// The simulator cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The port cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was to be listened on.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The group key is none.
    #[error("the group key is no base64 of at least 16 bytes")]
    GroupKey,
    /// The number of partitions is out of range.
    #[error("a hub has 1 to {MAX_PARTITIONS} partitions")]
    Partitions,
    /// The certificates cannot be made or used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The stored state cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A hub that was to start with this one cannot.
    #[error("the hub {host} cannot start")]
    Beside {
        /// Its host name.
        host: String,
        /// Why not.
        source: Box<Self>,
    },
}

/// A hub and those beside it, on their way.
type Starting =
    Pin<Box<dyn Future<Output = Result<(HubSimulator, Vec<HubSimulator>), StartError>> + Send>>;

impl Default for Builder {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            tls: true,
            amqps: (Ipv4Addr::LOCALHOST, 0).into(),
            mqtts: (Ipv4Addr::LOCALHOST, 0).into(),
            https: (Ipv4Addr::LOCALHOST, 0).into(),
            control: None,
            beside: None,
            limits: Limits::default(),
            auto_register: false,
            provisioning: ProvisioningOptions::default(),
            group_key: None,
            record: RecordMode::default(),
            layout: Layout::default(),
            retention: None,
            state: None,
        }
    }
}

impl Builder {
    /// Sets the hub's host name in tokens, connection strings and certificate; `localhost` by default.
    pub fn with_host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Chooses TLS (the default) or plain TCP.
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Sets the port for AMQP; 0, the default, takes a free one.
    pub fn with_port(mut self, port: u16) -> Self {
        self.amqps.set_port(port);
        self
    }

    /// Sets the address for AMQP, port and all; `127.0.0.1:0` by default.
    pub fn with_address(mut self, address: SocketAddr) -> Self {
        self.amqps = address;
        self
    }

    /// Sets the address for MQTT, port and all; `127.0.0.1:0` by default.
    pub fn with_mqtts_address(mut self, address: SocketAddr) -> Self {
        self.mqtts = address;
        self
    }

    /// Sets the address for HTTP, port and all; `127.0.0.1:0` by default.
    pub fn with_https_address(mut self, address: SocketAddr) -> Self {
        self.https = address;
        self
    }

    /// Serves the control endpoint, plain HTTP, at an address; nowhere by default.
    ///
    /// It makes faults and tells what the hubs behind the listeners carry; `GET /` lists what it
    /// knows. It asks for no password: keep it on this machine.
    pub fn with_control(mut self, address: SocketAddr) -> Self {
        self.control = Some(address);
        self
    }

    /// Puts the hub behind the listeners of another one, which must outlive it.
    ///
    /// Clients are led to either by the host name that they call. Addresses and TLS are the other's.
    /// The other one serves already: use [`start_with`](Self::start_with) for stored hubs that devices
    /// move between.
    pub fn beside(mut self, other: &HubSimulator) -> Self {
        self.beside = Some(other.cloud());
        self
    }

    /// Sets the limits; the real hub's by default.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits.bounded();
        self
    }

    /// Registers any device at first sight, with keys derived from the group key; off by default.
    pub fn with_auto_register(mut self, auto_register: bool) -> Self {
        self.auto_register = auto_register;
        self
    }

    /// Sets up the provisioning service; a hub beside another shares the other's.
    pub fn with_provisioning(mut self, provisioning: ProvisioningOptions) -> Self {
        self.provisioning = provisioning;
        self
    }

    /// Sets the group key, in base64; the stored one by default, or else a random one.
    pub fn with_group_key(mut self, key: impl Into<String>) -> Self {
        self.group_key = Some(key.into());
        self
    }

    /// Sets how much of each accepted message is kept; everything by default.
    pub fn with_record(mut self, record: RecordMode) -> Self {
        self.record = record;
        self
    }

    /// Sets the number of partitions that telemetry is read from, 1 to 32; 4 by default.
    pub fn with_partitions(mut self, partitions: usize) -> Self {
        self.layout.partitions = partitions;
        self
    }

    /// Adds a consumer group for readers of telemetry; `$Default` is always there.
    pub fn with_consumer_group(mut self, name: impl Into<String>) -> Self {
        self.layout.groups.push(name.into());
        self
    }

    /// Sets how much telemetry is kept for readers; by default what [`EventRetention::default`] says,
    /// and nothing if the record is [`RecordMode::Compact`] or [`RecordMode::Count`].
    pub fn with_event_retention(mut self, retention: EventRetention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Keeps certificates, policies and devices in a directory, over restarts; nowhere by default.
    pub fn with_state(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state = Some(directory.into());
        self
    }

    /// Starts the hub; it listens when this returns.
    ///
    /// # Errors
    /// Fails if the port is taken, or if state or certificates cannot be read, made or stored.
    ///
    /// # Cancel safety
    /// Safe: nothing runs before it returns.
    pub async fn start(self) -> Result<HubSimulator, StartError> {
        let (hub, _none) = self.starting(Vec::new()).await?;
        Ok(hub)
    }

    /// Starts the hub and others [`beside`](Self::beside) it; they listen when this returns, and let
    /// nobody in before all of them are there.
    ///
    /// Started one after the other, stored hubs may lose what they hold of a device that registers at
    /// the provisioning service in between: it is assigned to another hub, and moves without its data.
    ///
    /// # Errors
    /// Fails as [`start`](Self::start) does, if any of them cannot start.
    ///
    /// # Cancel safety
    /// Safe: nothing runs before it returns.
    pub async fn start_with(
        self,
        others: impl IntoIterator<Item = Self>,
    ) -> Result<(HubSimulator, Vec<HubSimulator>), StartError> {
        self.starting(others.into_iter().collect()).await
    }

    /// Boxed, since a future is compiled where it is polled: the whole hub again in every program
    /// and test that starts one.
    #[inline(never)]
    fn starting(self, others: Vec<Self>) -> Starting {
        Box::pin(HubSimulator::start(self, others))
    }
}
