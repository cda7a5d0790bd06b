mod budget;
mod commands;

use std::path::PathBuf;
use std::time::Duration;

use gateway_core::governor::BreakerConfig;
use gateway_core::{Backoff, ConfigError};
use serde::Deserialize;

use super::login::MqttTokenConfig;
pub use budget::MqttHubBudgetConfig;
pub use commands::MqttCommandConfig;

/// The port of MQTT over TLS (IANA), and that of MQTT in clear.
const PORTS: (u16, u16) = (8883, 1883);
/// The port of WebSockets over TLS, and that of those in clear.
const WEB_SOCKET_PORTS: (u16, u16) = (443, 80);

/// Says what MQTT is spoken over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MqttTransport {
    /// TCP, as a rule with TLS.
    #[default]
    Tcp,
    /// A WebSocket, for networks that let nothing else through.
    WebSocket,
}

/// Says which IoT hub to speak to over MQTT, and how.
///
/// Every field but the host has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttHubConfig {
    /// The hub's name, as in its connection strings: tokens are made for it.
    pub host: String,
    /// Where to connect, if not to the host: a name or an address. Default: the host.
    #[serde(default)]
    pub address: Option<String>,
    /// Default 8883, over a WebSocket 443; without TLS 1883 and 80.
    #[serde(default)]
    pub port: Option<u16>,
    /// What MQTT is spoken over. Default TCP.
    #[serde(default)]
    pub transport: MqttTransport,
    /// Whether to speak TLS. Default true; false is for a hub on this machine only.
    #[serde(default = "default_tls")]
    pub tls: bool,
    /// A PEM file of certification authorities to trust instead of the system's. Default none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Certification authorities as PEM text, trusted besides those of `ca_file`. Default none.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// What happens on the wire.
    #[serde(default)]
    pub wire: MqttHubWireConfig,
    /// How lost connections come back, and how a connection is replaced by another.
    #[serde(default)]
    pub reconnect: MqttReconnectConfig,
    /// How long tokens live, and when they are renewed.
    #[serde(default)]
    pub tokens: MqttTokenConfig,
    /// How commands reach devices.
    #[serde(default)]
    pub commands: MqttCommandConfig,
    /// How much of the hub's allowance may be used.
    #[serde(default)]
    pub budget: MqttHubBudgetConfig,
    /// What becomes of devices that the hub refuses, or whose connection it closes, again and again.
    #[serde(default)]
    pub breaker: BreakerConfig,
}

fn default_tls() -> bool {
    true
}

impl MqttHubConfig {
    /// Makes a configuration with defaults for all but the hub's name.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            address: None,
            port: None,
            transport: MqttTransport::default(),
            tls: true,
            ca_file: None,
            ca_pem: None,
            wire: MqttHubWireConfig::default(),
            reconnect: MqttReconnectConfig::default(),
            tokens: MqttTokenConfig::default(),
            commands: MqttCommandConfig::default(),
            budget: MqttHubBudgetConfig::default(),
            breaker: BreakerConfig::default(),
        }
    }

    /// Connects to this name or address and port instead of the hub's own.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>, port: u16) -> Self {
        self.address = Some(address.into());
        self.port = Some(port);
        self
    }

    /// Sets what MQTT is spoken over.
    #[must_use]
    pub fn with_transport(mut self, transport: MqttTransport) -> Self {
        self.transport = transport;
        self
    }

    /// Sets whether to speak TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Trusts the certification authorities of a PEM file instead of the system's.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Trusts the certification authorities of a PEM text instead of the system's.
    #[must_use]
    pub fn with_ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// The hub's name without the port that a connection string for a local hub may carry.
    pub(super) fn name(&self) -> &str {
        self.host.split(':').next().unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        let (over_tls, in_clear) = match self.transport {
            MqttTransport::Tcp => PORTS,
            MqttTransport::WebSocket => WEB_SOCKET_PORTS,
        };
        let default = if self.tls { over_tls } else { in_clear };
        self.port.unwrap_or(default)
    }

    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.host.trim().is_empty() {
            return Err(ConfigError::new("host", "is empty", "the hub's name"));
        }
        ConfigError::check_range("port", self.port().into(), 1, 65_535)?;
        self.wire.validate()?;
        self.reconnect.validate()?;
        self.commands.validate()?;
        self.tokens.validate()?;
        self.breaker.validate()?;
        self.budget.whole().validate()
    }
}

/// Says what happens on the wire of each device's connection.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttHubWireConfig {
    /// From the first packet to the hub's CONNACK. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the hub may take to acknowledge a message or subscription, or to answer a twin
    /// request. Default 30 s; a connection without the acknowledgement by then is given up.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// How long we are silent before a ping goes out. Default 180 s, as Microsoft's SDK for Node:
    /// load balancers forget connections that are silent for 240 s. The hub takes up to 1177 s.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Messages of one device without an acknowledgement; more wait. Default 64: a backlog goes out
    /// without a round trip each, and no more than these is in doubt when a connection is lost.
    pub in_flight: u16,
    /// The largest packet taken or sent, in bytes. Default 512 KiB: a message of 256 KiB, a topic of
    /// 64 KiB, or a twin.
    pub max_packet: usize,
    /// Bytes that gather for one write. Default 16 KiB: there is a connection for each device.
    pub buffer: usize,
}

impl Default for MqttHubWireConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(180),
            in_flight: 64,
            max_packet: 512 * 1024,
            buffer: 16 * 1024,
        }
    }
}

impl MqttHubWireConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let ms = |time: Duration| time.as_millis();
        for (key, value, least, most) in [
            (
                "wire.connect_timeout (ms)",
                ms(self.connect_timeout),
                1,
                600_000,
            ),
            (
                "wire.answer_timeout (ms)",
                ms(self.answer_timeout),
                1,
                600_000,
            ),
            (
                "wire.keep_alive (s)",
                self.keep_alive.as_secs().into(),
                1,
                1177,
            ),
            ("wire.in_flight", self.in_flight.into(), 1, 65_535),
            (
                "wire.max_packet",
                self.max_packet as u128,
                350 * 1024,
                16 << 20,
            ),
            ("wire.buffer", self.buffer as u128, 1024, 16 << 20),
        ] {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }
}

/// Says how lost connections come back, and how a connection is replaced by another.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttReconnectConfig {
    /// The wait between tries to connect. Default 200 ms to 30 s.
    pub backoff: Backoff,
    /// Connections that are opened side by side. Default 64: each costs a TLS handshake.
    pub at_once: usize,
    /// How long a new connection waits for what is in flight on the one that it replaces, as when a
    /// token is renewed. Default 10 s; new messages wait meanwhile. What is not settled by then fails
    /// as disconnected, and a message to a device comes again.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How often in a row the hub must close an idle connection soon after it was opened, for the
    /// device to count as another client's. Default 3: the hub does not say why it closes, and once
    /// may be its upkeep.
    pub displaced_after: u32,
    /// How soon is soon. Default 60 s: the other client comes back within its own backoff.
    #[serde(with = "humantime_serde")]
    pub displaced_within: Duration,
}

impl Default for MqttReconnectConfig {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30))
                .unwrap_or_default(),
            at_once: 64,
            drain: Duration::from_secs(10),
            displaced_after: 3,
            displaced_within: Duration::from_secs(60),
        }
    }
}

impl MqttReconnectConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        let ms = |time: Duration| time.as_millis();
        for (key, value, least, most) in [
            ("reconnect.at_once", self.at_once as u128, 1, 10_000),
            ("reconnect.drain (ms)", ms(self.drain), 1, 600_000),
            (
                "reconnect.displaced_after",
                self.displaced_after.into(),
                1,
                1000,
            ),
            (
                "reconnect.displaced_within (ms)",
                ms(self.displaced_within),
                1,
                86_400_000,
            ),
        ] {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_core::governor::Rate;

    #[test]
    fn the_defaults_are_valid_and_a_value_out_of_range_names_itself() {
        let mut config = MqttHubConfig::new("hub.example");
        config.validate().unwrap();
        config.wire.keep_alive = Duration::from_secs(1178);
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`wire.keep_alive (s)` is 1178; allowed: 1 to 1177"
        );
        config.wire = MqttHubWireConfig::default();
        config.budget.connects = Rate::limited(0.0, 1.0);
        assert_eq!(config.validate().unwrap_err().key(), "budget.connects");
    }

    #[test]
    fn a_configuration_is_read_and_one_with_an_unknown_key_is_refused() {
        let read = serde_json::from_str::<MqttHubConfig>;
        let config = read(
            r#"{"host": "hub.example", "transport": "web_socket", "wire": {"keep_alive": "60s"},
                "budget": {"connects": "unlimited"}, "tokens": {"ttl": "10m"}}"#,
        )
        .unwrap();
        assert_eq!(config.port(), 443);
        assert_eq!(config.wire.keep_alive, Duration::from_secs(60));
        assert_eq!(config.budget.connects, Rate::Unlimited);
        for text in [
            r#"{"host": "h", "lanes": 16}"#,
            r#"{"host": "h", "budget": {"links": 1}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_port_follows_from_the_transport_unless_it_is_given() {
        let config = MqttHubConfig::new("hub.example:1234");
        assert_eq!((config.name(), config.port()), ("hub.example", 8883));
        assert_eq!(config.clone().with_tls(false).port(), 1883);
        assert_eq!(config.with_address("::1", 7).port(), 7);
    }
}
