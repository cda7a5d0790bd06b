//! The downstream's settings.

mod validate;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gateway_core::credential::Secret;
use gateway_core::{DeviceId, Interest};
use serde::Deserialize;

use crate::proto::Framing;

/// Where to listen, whom to let in, and how much of everything. Every field has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TcpConfig {
    /// The address to listen on; port 0 takes a free one. Default `127.0.0.1:7007`: reached from
    /// this machine only, since the default has no TLS.
    pub listen: SocketAddr,
    /// TLS; without it everything, tokens and secrets too, goes over the network in clear.
    /// Default: none.
    pub tls: Option<TlsConfig>,
    /// How devices prove who they are.
    pub identity: IdentityConfig,
    /// The JSON-lines protocol; without effect on a protocol of your own.
    pub json_lines: JsonLinesConfig,
    /// Bounds of memory and work.
    pub limits: LimitConfig,
    /// Bounds of time.
    pub timeouts: TimeoutConfig,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7007)),
            tls: None,
            identity: IdentityConfig::default(),
            json_lines: JsonLinesConfig::default(),
            limits: LimitConfig::default(),
            timeouts: TimeoutConfig::default(),
        }
    }
}

/// The files that TLS needs, all PEM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The server's certificate and those between it and the root.
    pub certificate: PathBuf,
    /// The server's private key.
    pub key: PathBuf,
    /// The roots that client certificates must come from. Default: clients are not asked for one.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused. Default: no.
    #[serde(default)]
    pub client_certificate_required: bool,
}

impl TlsConfig {
    /// Makes a configuration that asks clients for nothing.
    #[must_use]
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: None,
            client_certificate_required: false,
        }
    }
}

/// Which proofs of identity are taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentityConfig {
    /// The device's own SAS token, which the hub judges. Default: yes. Where the hub is a broker,
    /// nobody judges tokens, and its upstream refuses them.
    pub token: bool,
    /// The name in the client certificate. Default: no, since every certificate below the client
    /// roots then names a device.
    pub certificate: bool,
    /// Secrets by device. Default: none.
    pub secrets: HashMap<DeviceId, Secret>,
    /// A JSON file with one object of secrets by device, read at the start. Default: none.
    pub secrets_file: Option<PathBuf>,
    /// Whether a device's word is enough: for networks where nobody else can connect. Default: no.
    pub trust_any_id: bool,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            token: true,
            certificate: false,
            secrets: HashMap::new(),
            secrets_file: None,
            trust_any_id: false,
        }
    }
}

/// The JSON-lines protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct JsonLinesConfig {
    /// How frames are cut. Default: lines.
    pub framing: Framing,
    /// What a device hears whose hello does not say.
    pub interest: InterestConfig,
}

/// What devices hear from the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct InterestConfig {
    /// Cloud-to-device messages. Default: yes.
    pub messages: bool,
    /// Direct methods. Default: yes.
    pub methods: bool,
    /// Changes of the desired properties. Default: no, since it costs the hub two more links.
    pub desired: bool,
}

impl Default for InterestConfig {
    fn default() -> Self {
        Self {
            messages: true,
            methods: true,
            desired: false,
        }
    }
}

impl From<InterestConfig> for Interest {
    fn from(config: InterestConfig) -> Self {
        Self::NONE
            .with_messages(config.messages)
            .with_methods(config.methods)
            .with_desired(config.desired)
    }
}

/// Bounds of memory and work.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Bytes of a frame from a device. Default 64 KiB: what devices send is far smaller, and
    /// 10,000 connections take at most 640 MiB.
    pub max_frame: usize,
    /// Connections. Default 10,000; each needs a file descriptor and about 16 KiB,
    /// its session included.
    pub max_connections: usize,
    /// Connections from one address (IPv6: one /64 network). Default 1,000: a site or a mobile
    /// operator puts hundreds of devices behind one address, and no address can take more than a
    /// tenth of all connections.
    pub max_connections_per_address: usize,
    /// Uplinks and twin requests of a connection on their way to the hub; while there are as many,
    /// nothing is read. Default 8: enough to hide the way to the device, few enough that a gateway that stops
    /// has little to send again.
    pub window: usize,
    /// Commands of a connection that wait for the device's answer, and as many in front of them.
    /// Beyond that a method is refused at once, as busy, and all else waits outside until its time
    /// is up. Default 16: what an upstream gives a device at a time.
    pub max_commands: usize,
    /// Bytes that wait to be written, above which neither frames nor commands are taken. Default
    /// 64 KiB; it can be passed by one command and the acknowledgements of the window.
    pub max_unwritten: usize,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            max_frame: 64 * 1024,
            max_connections: 10_000,
            max_connections_per_address: 1_000,
            window: 8,
            max_commands: 16,
            max_unwritten: 64 * 1024,
        }
    }
}

/// How often TCP asks a silent peer whether it is there, and the time between.
pub(crate) const PROBES: u32 = 3;
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Bounds of time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// From the connection to the device's hello, TLS included. Default 10 s: what a radio module
    /// needs, and whoever says nothing holds a place no longer.
    #[serde(with = "humantime_serde")]
    pub hello: Duration,
    /// From one frame to the next. Default 5 min: longer than trackers' heartbeats, shorter than
    /// most translators of addresses keep a connection.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// From the first byte of a frame to its last. Default 30 s: 64 KiB at 17 kbit/s.
    #[serde(with = "humantime_serde")]
    pub frame: Duration,
    /// Until all bytes that wait to be written are, behind those that the system holds. Default
    /// 10 s: a device that reads nothing for so long is gone. One on a slow line that gets large
    /// messages needs longer.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// Until a device confirms a message, but never past the message's own deadline; a method has
    /// the time that its caller gave it. Default 30 s, half of the hub's lock.
    #[serde(with = "humantime_serde")]
    pub command: Duration,
    /// Silence after which TCP asks whether the peer is there, three times, 10 s apart. At most 9 h,
    /// about what Linux takes. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long sent bytes may stay unconfirmed by the peer's TCP, where the system can tell
    /// (Linux). At least `keepalive` and 30 s more: once it is over, Linux ends a silent connection
    /// for a single question without an answer. Default 90 s: a dead link ends sooner than after
    /// the usual 15 min, and a tunnel is survived.
    #[serde(with = "humantime_serde")]
    pub tcp_user: Duration,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            frame: Duration::from_secs(30),
            write: Duration::from_secs(10),
            command: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            tcp_user: Duration::from_secs(90),
        }
    }
}
