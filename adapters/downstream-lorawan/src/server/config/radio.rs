//! Concentrators, and where they are listened for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use gateway_core::ConfigError;
use serde::Deserialize;
use serde_json::Value;

use super::check_time;
use crate::proto::Eui64;

/// Says where packet forwarders are listened for (UDP). Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ForwarderConfig {
    /// The address. Default `0.0.0.0:1700`, the port that forwarders come with.
    pub listen: SocketAddr,
    /// Bytes that the system keeps until they are read. Default 1 MiB: some 1,000 datagrams, which
    /// a whole city's concentrators send in a second. What does not fit is lost. The system may
    /// grant less (Linux: `net.core.rmem_max`).
    pub socket_buffer: usize,
}

impl Default for ForwarderConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 1700).into(),
            socket_buffer: 1 << 20,
        }
    }
}

/// Says where Basics Stations are listened for (WebSocket without TLS: put a proxy with TLS before
/// it where others could listen).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StationConfig {
    /// The address. Default `0.0.0.0:3001`, the port that ChirpStack and The Things Stack took up.
    pub listen: SocketAddr,
    /// What stations are sent to when they ask at `/router-info`, such as
    /// `wss://lns.example.com:443`; `/station/<EUI>` is added. Default: `ws://` and the host that
    /// the station asked.
    pub url: Option<String>,
    /// How a station's radios are tuned (`sx1301_conf` of its `router_config`), one for each board.
    /// Required: it depends on the channels.
    pub radios: Vec<Value>,
    /// The hardware that the radios are tuned for. Default `sx1301/` and the number of radios.
    pub hwspec: Option<String>,
    /// Connections at a time; the oldest that has not said which station it is makes room. Default
    /// 1,000.
    pub max_connections: usize,
    /// How long the handshake may take. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a station may be silent; it is asked for a sign of life three times in between.
    /// Default 90 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl Default for StationConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 3001).into(),
            url: None,
            radios: Vec::new(),
            hwspec: None,
            max_connections: 1000,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
        }
    }
}

impl ForwarderConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::check_range("socket_buffer", self.socket_buffer, 4096, 1 << 30)
    }
}

impl StationConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.radios.is_empty() || !self.radios.iter().all(Value::is_object) {
            let allowed = "a table for each board, as `sx1301_conf` has it";
            return Err(ConfigError::new("radios", "does not tune a radio", allowed));
        }
        if let Some(url) = &self.url
            && !url.starts_with("ws://")
            && !url.starts_with("wss://")
        {
            let allowed = "`ws://` or `wss://`, host and port";
            return Err(ConfigError::new("url", format!("is {url:?}"), allowed));
        }
        ConfigError::check_range("max_connections", self.max_connections, 1, 100_000)?;
        const SECOND: Duration = Duration::from_secs(1);
        check_time(
            "handshake_timeout",
            self.handshake_timeout,
            SECOND,
            60 * SECOND,
        )?;
        check_time("idle_timeout", self.idle_timeout, SECOND, 3600 * SECOND)
    }
}

/// Is a concentrator that may speak here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ConcentratorConfig {
    /// Its name, 16 hexadecimal digits.
    pub eui: Eui64,
    /// The only address that it may come from. Default: the one it came from first, until it has
    /// been silent for the pin's time-out.
    #[serde(default)]
    pub source: Option<IpAddr>,
}

impl ConcentratorConfig {
    /// Makes one that may come from anywhere.
    #[must_use]
    pub fn new(eui: Eui64) -> Self {
        Self { eui, source: None }
    }
}
