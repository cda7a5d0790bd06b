mod commands;
mod room;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use gateway_core::credential::Secret;
use gateway_core::governor::Rate;
use gateway_core::{Backoff, ConfigError};
use gateway_net::tls::client::config_with_certificate;
use serde::Deserialize;

use super::topics::{MqttPoolTopics, Topics};
use crate::client::Transport;
pub use commands::{MqttPoolCommands, MqttSubscriptions};
pub use wire::MqttPoolWire;

/// Says which broker is the hub, and how its topics stand for a hub's services.
///
/// Every field but the host and the instance has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttPoolConfig {
    /// The broker's name, which its certificate must bear.
    pub host: String,
    /// Names this gateway at the broker: its client ids are `<instance>-1`, `<instance>-2` and so
    /// on, and templates name it `{instance_id}`. 1 to 64 ASCII letters, digits, `-`, `_` and `.`.
    ///
    /// Each gateway at one broker needs its own, since a broker closes the older of two connections
    /// under one client id; and it must stay the same over restarts, since the broker keeps the
    /// commands that come meanwhile under it.
    pub instance: String,
    /// Where to connect, if not to the host: a name or an address. Default: the host.
    #[serde(default)]
    pub address: Option<String>,
    /// Default 8883 with TLS and 1883 without (IANA).
    #[serde(default)]
    pub port: Option<u16>,
    /// Whether to speak TLS. Default true; false is for a broker on this machine only.
    #[serde(default = "default_tls")]
    pub tls: bool,
    /// A PEM file of certification authorities to trust instead of the system's. Default none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Certification authorities as PEM text, trusted besides those of `ca_file`. Default none.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// The gateway's own certificate chain as a PEM file, for brokers that ask for one, as AWS IoT
    /// does. Default none.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// The private key of `certificate_file`, a PEM file. Default none.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The path of a WebSocket to speak through, such as `/mqtt`. Default none: plain MQTT.
    #[serde(default)]
    pub websocket: Option<String>,
    /// The gateway's user name at the broker. Default none.
    #[serde(default)]
    pub user_name: Option<String>,
    /// The gateway's password at the broker. Default none.
    #[serde(default)]
    pub password: Option<Secret>,
    /// The protocol's version. Default 5, which can refuse a message and say why; 3.1.1 cannot.
    #[serde(default)]
    pub version: MqttVersion,
    /// How properties travel. Default `properties` in MQTT 5, `envelope` in 3.1.1.
    #[serde(default)]
    pub encoding: Option<MqttEncoding>,
    /// Connections that all devices share, 1 to 1000. Default 8: a broker serves one connection on
    /// one thread, as a rule, and the messages of one device stay on one.
    #[serde(default = "default_connections")]
    pub connections: usize,
    /// The topics.
    #[serde(default)]
    pub topics: MqttPoolTopics,
    /// How commands reach devices.
    #[serde(default)]
    pub commands: MqttPoolCommands,
    /// What happens on the wire.
    #[serde(default)]
    pub wire: MqttPoolWire,
    /// The wait between tries to connect. Default 200 ms to 30 s.
    #[serde(default = "default_reconnect")]
    pub reconnect: Backoff,
    /// Connections opened, all together. Default 20 a second, 50 at once: less than the reconnect
    /// waits allow only where there are hundreds of them.
    #[serde(default = "default_connects")]
    pub connects: Rate,
}

fn default_tls() -> bool {
    true
}

fn default_connections() -> usize {
    8
}

fn default_reconnect() -> Backoff {
    backoff(200, 30_000)
}

fn default_connects() -> Rate {
    Rate::Limited {
        per_second: 20.0,
        burst: 50.0,
    }
}

fn backoff(least: u64, most: u64) -> Backoff {
    Backoff::new(Duration::from_millis(least), Duration::from_millis(most)).unwrap_or_default()
}

/// Names a version of MQTT.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum MqttVersion {
    /// MQTT 3.1.1 (OASIS, 2014), `"3.1.1"` in a configuration.
    #[serde(rename = "3.1.1")]
    V3_1_1,
    /// MQTT 5 (OASIS, 2019), `"5"` in a configuration.
    #[default]
    #[serde(rename = "5")]
    V5,
}

/// Says where a message's properties are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MqttEncoding {
    /// In the properties of MQTT 5: application properties as user properties under their own names,
    /// the content type and the correlation id as such, everything else as user properties whose
    /// names begin with `$`. An application property whose name begins with `$` gets a second one.
    Properties,
    /// With the body in a JSON object: see [the envelope](crate::pooled#the-envelope).
    Envelope,
    /// In the topic, where the template has `{properties}`; the payload is the body as it is. What the
    /// template does not name is not sent.
    Topic,
}

impl MqttPoolConfig {
    /// Makes a configuration with defaults for all but the broker's name and the gateway's.
    #[must_use]
    pub fn new(host: impl Into<String>, instance: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            instance: instance.into(),
            address: None,
            port: None,
            tls: true,
            ca_file: None,
            ca_pem: None,
            certificate_file: None,
            key_file: None,
            websocket: None,
            user_name: None,
            password: None,
            version: MqttVersion::default(),
            encoding: None,
            connections: default_connections(),
            topics: MqttPoolTopics::default(),
            commands: MqttPoolCommands::default(),
            wire: MqttPoolWire::default(),
            reconnect: default_reconnect(),
            connects: default_connects(),
        }
    }

    /// Connects to this name or address and port instead of the broker's own.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>, port: u16) -> Self {
        self.address = Some(address.into());
        self.port = Some(port);
        self
    }

    /// Sets whether to speak TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// Trusts the certification authorities of a PEM text instead of the system's.
    #[must_use]
    pub fn with_ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.ca_pem = Some(pem.into());
        self
    }

    /// Sets the gateway's user name and password.
    #[must_use]
    pub fn with_login(mut self, user_name: impl Into<String>, password: Secret) -> Self {
        self.user_name = Some(user_name.into());
        self.password = Some(password);
        self
    }

    /// Sets the protocol's version.
    #[must_use]
    pub fn with_version(mut self, version: MqttVersion) -> Self {
        self.version = version;
        self
    }

    /// Sets where properties are.
    #[must_use]
    pub fn with_encoding(mut self, encoding: MqttEncoding) -> Self {
        self.encoding = Some(encoding);
        self
    }

    /// Sets how many connections all devices share.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets the topics.
    #[must_use]
    pub fn with_topics(mut self, topics: MqttPoolTopics) -> Self {
        self.topics = topics;
        self
    }

    /// Sets how commands reach devices.
    #[must_use]
    pub fn with_commands(mut self, commands: MqttPoolCommands) -> Self {
        self.commands = commands;
        self
    }

    /// Sets what happens on the wire.
    #[must_use]
    pub fn with_wire(mut self, wire: MqttPoolWire) -> Self {
        self.wire = wire;
        self
    }

    /// Sets the wait between tries to connect.
    #[must_use]
    pub fn with_reconnect(mut self, reconnect: Backoff) -> Self {
        self.reconnect = reconnect;
        self
    }

    pub(in crate::pooled) fn encoding(&self) -> MqttEncoding {
        self.encoding.unwrap_or(match self.version {
            MqttVersion::V5 => MqttEncoding::Properties,
            MqttVersion::V3_1_1 => MqttEncoding::Envelope,
        })
    }

    pub(in crate::pooled) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 8883 } else { 1883 })
    }

    /// What the broker is reached over; reads the certificates.
    pub(in crate::pooled) fn transport(&self) -> Result<Transport, ConfigError> {
        let certificate = match (&self.certificate_file, &self.key_file) {
            (Some(chain), Some(key)) => Some((chain.as_path(), key.as_path())),
            (None, None) => None,
            (Some(_), None) => return Err(lacks("key_file", "certificate_file")),
            (None, Some(_)) => return Err(lacks("certificate_file", "key_file")),
        };
        let ca_file = self.ca_file.as_deref();
        let tls = match self.tls {
            true => Some(config_with_certificate(
                ca_file,
                self.ca_pem.as_deref(),
                certificate,
            )?),
            false => None,
        };
        Ok(match (&self.websocket, tls) {
            (Some(path), tls) => Transport::WebSocket {
                tls,
                path: path.clone(),
            },
            (None, Some(tls)) => Transport::Tls(tls),
            (None, None) => Transport::Tcp,
        })
    }

    /// Checks the values that a type cannot, and the topics; reads the certificates.
    ///
    /// # Errors
    /// Names the first value that cannot be, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.host.trim().is_empty() {
            return Err(ConfigError::new("host", "is empty", "the broker's name"));
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&self.instance.len()) || !self.instance.chars().all(is_plain) {
            let problem = format!("is {:?}", self.instance);
            let allowed = "1 to 64 ASCII letters, digits, - _ and .";
            return Err(ConfigError::new("instance", problem, allowed));
        }
        if self.password.is_some() && self.user_name.is_none() {
            // MQTT 3.1.1 section 3.1.2.9.
            return Err(lacks("user_name", "password"));
        }
        if self.encoding() == MqttEncoding::Properties && self.version != MqttVersion::V5 {
            let problem = "is `properties`, which MQTT 3.1.1 does not have";
            return Err(ConfigError::new("encoding", problem, "envelope, topic"));
        }
        let most = Duration::from_secs(86_400 * 30).as_millis();
        let (wire, commands) = (&self.wire, &self.commands);
        let ranges: [(&str, u128, u128, u128); 16] = [
            ("port", self.port().into(), 1, 65_535),
            ("connections", self.connections as u128, 1, 1000),
            (
                "wire.connect_timeout (ms)",
                wire.connect_timeout.as_millis(),
                1,
                600_000,
            ),
            (
                "wire.answer_timeout (ms)",
                wire.answer_timeout.as_millis(),
                1,
                600_000,
            ),
            // Seconds in two bytes.
            (
                "wire.keep_alive (ms)",
                wire.keep_alive.as_millis(),
                1000,
                65_535_000,
            ),
            (
                "wire.session_expiry (ms)",
                wire.session_expiry.as_millis(),
                0,
                most,
            ),
            ("wire.in_flight", wire.in_flight.into(), 1, 65_535),
            ("wire.unacknowledged", wire.unacknowledged.into(), 1, 65_535),
            ("wire.max_message", wire.max_message as u128, 1, 200 << 20),
            // The most that the protocol can say.
            (
                "wire.max_packet",
                wire.max_packet as u128,
                1024,
                (256 << 20) - 1,
            ),
            ("wire.buffer", wire.buffer as u128, 1024, 16 << 20),
            ("commands.per_device", commands.per_device as u128, 1, 1000),
            (
                "commands.patience (ms)",
                commands.patience.as_millis(),
                0,
                60_000,
            ),
            (
                "commands.verdict_timeout (ms)",
                commands.verdict_timeout.as_millis(),
                1,
                most,
            ),
            ("commands.keep (ms)", commands.keep.as_millis(), 1, most),
            (
                "commands.method_timeout (ms)",
                commands.method_timeout.as_millis(),
                1,
                most,
            ),
        ];
        for (key, value, least, most) in ranges {
            ConfigError::check_range(key, value, least, most)?;
        }
        commands.validate()?;
        if let Rate::Limited { per_second, burst } = self.connects
            && !((0.1..=1e6).contains(&per_second) && (0.1..=1e9).contains(&burst))
        {
            let problem = format!("is {per_second} a second and {burst} at once");
            let allowed = "0.1 to 1000000 a second, 0.1 to 1000000000 at once";
            return Err(ConfigError::new("connects", problem, allowed));
        }
        if self
            .websocket
            .as_ref()
            .is_some_and(|path| !path.starts_with('/'))
        {
            let problem = "does not begin with a slash";
            return Err(ConfigError::new(
                "websocket",
                problem,
                "a path such as /mqtt",
            ));
        }
        self.transport()?;
        Topics::new(self).map(drop)
    }
}

fn lacks(key: &str, other: &str) -> ConfigError {
    ConfigError::new(
        key,
        format!("is not set, and `{other}` is"),
        "both, or neither",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> MqttPoolConfig {
        MqttPoolConfig::new("broker.example", "gw-1").with_tls(false)
    }

    #[test]
    fn the_defaults_are_valid_for_both_versions() {
        config().validate().unwrap();
        config()
            .with_version(MqttVersion::V3_1_1)
            .validate()
            .unwrap();
        let text = r#"{"host": "h", "instance": "a", "version": "3.1.1", "tls": false,
            "encoding": "envelope", "commands": {"subscriptions": "wildcard", "group": "g",
            "retry": {"least": "1s", "most": "2s"}}, "wire": {"session_expiry": "0s"},
            "topics": {"telemetry": "t/{device_id}"}, "connects": "unlimited"}"#;
        let config: MqttPoolConfig = serde_json::from_str(text).unwrap();
        config.validate().unwrap();
        assert!(config.commands.hands_over());
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let key = |change: &dyn Fn(&mut MqttPoolConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().key().to_owned()
        };
        assert_eq!(key(&|c| c.host.clear()), "host");
        assert_eq!(key(&|c| c.instance = "a/b".to_owned()), "instance");
        assert_eq!(key(&|c| c.connections = 0), "connections");
        assert_eq!(key(&|c| c.password = Some(Secret::new("x"))), "user_name");
        assert_eq!(key(&|c| c.key_file = Some("k".into())), "certificate_file");
        assert_eq!(
            key(&|c| c.commands.group = Some("a/b".to_owned())),
            "commands.group"
        );
        assert_eq!(
            key(&|c| c.commands.handover = "a/+".to_owned()),
            "commands.handover"
        );
        assert_eq!(key(&|c| c.commands.pending = 1), "commands.pending");
        assert_eq!(
            key(&|c| c.topics.telemetry = "t".to_owned()),
            "topics.telemetry"
        );
        let old = |c: &mut MqttPoolConfig| {
            c.version = MqttVersion::V3_1_1;
            c.encoding = Some(MqttEncoding::Properties);
        };
        assert_eq!(key(&old), "encoding");
        let unknown = r#"{"host": "h", "instance": "a", "conections": 3}"#;
        assert!(serde_json::from_str::<MqttPoolConfig>(unknown).is_err());
    }

    #[test]
    fn a_password_does_not_show() {
        let config = config().with_login("user", Secret::new("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
