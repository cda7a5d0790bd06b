//! The settings of streams.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gateway_core::ConfigError;
use serde::Deserialize;

/// Where to listen for TCP. Every field has a default.
///
/// A stream has no message ids. A device that sends a message again by another connection, since it
/// saw no answer, says by `$.mid=<id>` in the query that it is the same; without that it is another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TcpConfig {
    /// The address; port 0 takes a free one. Default `127.0.0.1:5683`: reached from this machine
    /// only, since nothing is encrypted.
    pub listen: SocketAddr,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5683)),
        }
    }
}

/// Where to listen for TLS, and the files that it needs, both PEM. The gateway shows a certificate;
/// devices prove who they are as over plain UDP, their tokens encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// The address; port 0 takes a free one. Default `0.0.0.0:5684`.
    #[serde(default = "tls_address")]
    pub listen: SocketAddr,
    /// The gateway's certificate and those between it and the root.
    pub certificate: PathBuf,
    /// The gateway's private key.
    pub key: PathBuf,
}

impl TlsConfig {
    /// Makes a configuration with the default address.
    #[must_use]
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            listen: tls_address(),
            certificate: certificate.into(),
            key: key.into(),
        }
    }
}

fn tls_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5684))
}

/// Bounds of connections, for TCP and for TLS each. Every field has a default.
///
/// Of [`EndpointConfig::limits`](crate::proto::EndpointConfig::limits), those of one peer hold for a
/// connection, and `max_block_bytes` for all together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConnectionConfig {
    /// Connections. Default 10,000; each needs a file descriptor and some 10 KiB, and as much as
    /// the largest message while one comes.
    pub max: usize,
    /// Connections from one address (IPv6: one /64 network). Default 1,000: a site or a mobile
    /// operator puts hundreds of devices behind one address, and no address can take more than a
    /// tenth of all connections.
    pub max_per_address: usize,
    /// Bytes that wait to be written, above which nothing is read. Default 64 KiB; it can be passed
    /// by the answers to what was read before.
    pub max_unwritten: usize,
    /// From the connection to the device's settings, TLS included. Default 10 s: what a radio module
    /// needs, and whoever says nothing holds a place no longer.
    #[serde(with = "humantime_serde")]
    pub hello: Duration,
    /// Silence after which a device is asked by a ping whether it is there. Default 4 min: shorter
    /// than most translators of addresses keep a connection.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// How long a device that was asked may stay silent before its connection is closed. Default
    /// 30 s: a radio that sleeps between has woken by then.
    #[serde(with = "humantime_serde")]
    pub pong: Duration,
    /// From the first byte of a message to its last. Default 30 s: 64 KiB at 17 kbit/s.
    #[serde(with = "humantime_serde")]
    pub message: Duration,
    /// Until bytes that wait to be written are. Default 10 s: a device that reads nothing for so
    /// long is gone.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            max: 10_000,
            max_per_address: 1_000,
            max_unwritten: 64 * 1024,
            hello: Duration::from_secs(10),
            idle: Duration::from_secs(240),
            pong: Duration::from_secs(30),
            message: Duration::from_secs(30),
            write: Duration::from_secs(10),
        }
    }
}

impl ConnectionConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let million = 1_000_000;
        for (key, value, least, most) in [
            ("max", self.max, 1, million),
            ("max_per_address", self.max_per_address, 1, million),
            ("max_unwritten", self.max_unwritten, 1024, 16 << 20),
        ] {
            ConfigError::check_range(key, value, least, most)?;
        }
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(24 * 3600));
        for (key, value) in [
            ("hello", self.hello),
            ("idle", self.idle),
            ("pong", self.pong),
            ("message", self.message),
            ("write", self.write),
        ] {
            if !(least..=most).contains(&value) {
                let found = format!("is {value:?}");
                return Err(ConfigError::new(key, found, "1ms to 24h"));
            }
        }
        Ok(())
    }
}
