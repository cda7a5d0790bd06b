//! The settings of connections to network servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;
use gateway_core::ConfigError;
use gateway_core::credential::Secret;
use serde::Deserialize;

use super::post::Target;
use super::told::is_name;

/// The longest message that is read so that it can be dropped, in bytes.
pub(super) const MAX_SKIPPED: usize = 16 << 20;

/// Says how a network server's MQTT broker is reached (MQTT 3.1.1). Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttConfig {
    /// The broker's name or address. Default `localhost`.
    pub host: String,
    /// Its port. Default 8883 with TLS, 1883 without.
    pub port: Option<u16>,
    /// Whether to speak TLS. Default false.
    pub tls: bool,
    /// Certificates to trust, a PEM file. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The user name. Default none.
    pub username: Option<String>,
    /// The password. Default none.
    pub password: Option<Secret>,
    /// The name of this client, which no other may have. With one, the broker keeps what comes while
    /// the gateway is away; without, the default, that is lost.
    pub client_id: Option<String>,
    /// How long the connection may be silent. Default 30 s: a broker that is gone is noticed within
    /// a minute.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Messages that the hub has not settled yet; when there are so many, no more are read, and
    /// after 1.5 times `keep_alive` the broker may end the connection and keep the rest. Default
    /// 256. All devices share them, and what the broker sends ahead of acknowledgements, of which
    /// Mosquitto's `max_inflight_messages` is 20 by default. A device whose messages the hub keeps
    /// putting off, such as one that another client has taken over there, comes to fill the smaller
    /// of the two, and holds up the others: where that may be, raise both.
    pub max_in_flight: usize,
    /// The longest message, in bytes. Default 1 MiB; a frame that 64 concentrators heard takes some
    /// 40 KiB. A longer one ends the connection. If the broker sends it again, it is read once and
    /// dropped, unless it is longer than 16 MiB; then nothing comes until the broker drops it, which
    /// Mosquitto does with `message_size_limit`.
    pub max_message: usize,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: None,
            tls: false,
            ca_file: None,
            username: None,
            password: None,
            client_id: None,
            keep_alive: Duration::from_secs(30),
            max_in_flight: 256,
            max_message: 1 << 20,
        }
    }
}

impl MqttConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.host.is_empty() {
            return Err(ConfigError::new("host", "is empty", "a name or an address"));
        }
        if self.client_id.as_ref().is_some_and(String::is_empty) {
            return Err(ConfigError::new("client_id", "is empty", "a name, or none"));
        }
        check_seconds("keep_alive", self.keep_alive)?;
        let check = ConfigError::check_range;
        check("max_in_flight", self.max_in_flight, 1, 100_000)?;
        check("max_message", self.max_message, 1024, MAX_SKIPPED)
    }
}

/// Says where what a network server posts is taken. Every field but the token has a default.
///
/// It speaks plain HTTP/1.1; where the network server is not on this machine, put a proxy that
/// speaks TLS before it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HttpConfig {
    /// Where to listen. Default 127.0.0.1, port 8090.
    #[serde(default = "HttpConfig::default_listen")]
    pub listen: SocketAddr,
    /// What requests must have as `Authorization: Bearer ...`, a header to be set at the network
    /// server; at least 16 bytes, since whoever knows it speaks for every device.
    pub token: Secret,
    /// Connections at a time. Default 64. Beyond, the oldest that has not shown the token is closed;
    /// while all have, more wait to be served.
    #[serde(default = "HttpConfig::default_connections")]
    pub max_connections: usize,
    /// The longest body, in bytes. Default 256 KiB.
    #[serde(default = "HttpConfig::default_body")]
    pub max_body: usize,
    /// How long a request may take to come, and how long a connection may be silent. Default 30 s.
    #[serde(default = "HttpConfig::default_idle", with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl HttpConfig {
    /// Makes settings with this token and defaults.
    #[must_use]
    pub fn new(token: Secret) -> Self {
        Self {
            listen: Self::default_listen(),
            token,
            max_connections: Self::default_connections(),
            max_body: Self::default_body(),
            idle_timeout: Self::default_idle(),
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = ConfigError::check_range;
        if self.token.reveal().len() < 16 {
            return Err(ConfigError::new(
                "token",
                "is too short",
                "16 bytes or more",
            ));
        }
        bearer(&self.token, "token")?;
        check("max_connections", self.max_connections, 1, 10_000)?;
        check("max_body", self.max_body, 1024, 16 << 20)?;
        check_seconds("idle_timeout", self.idle_timeout)
    }

    fn default_listen() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 8090).into()
    }

    const fn default_connections() -> usize {
        64
    }

    const fn default_body() -> usize {
        256 * 1024
    }

    const fn default_idle() -> Duration {
        Duration::from_secs(30)
    }
}

/// Says where downlinks are posted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PostConfig {
    /// The network server, such as `https://eu1.cloud.thethings.network`.
    pub url: String,
    /// Its key, which has the right to write downlinks.
    pub api_key: Secret,
    /// Certificates to trust, a PEM file. Default: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl PostConfig {
    /// Makes settings for this server and key.
    #[must_use]
    pub fn new(url: impl Into<String>, api_key: Secret) -> Self {
        Self {
            url: url.into(),
            api_key,
            ca_file: None,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        Target::parse(&self.url)?;
        self.authorization().map(drop)
    }

    pub(super) fn authorization(&self) -> Result<HeaderValue, ConfigError> {
        bearer(&self.api_key, "api_key")
    }
}

/// Writes a token as requests have it.
///
/// # Errors
/// It has what a header cannot have, such as the end of the line that it was read from.
fn bearer(token: &Secret, key: &str) -> Result<HeaderValue, ConfigError> {
    let token = token.reveal();
    let is_whole = !token.is_empty() && token.trim() == token;
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    value.ok().filter(|_| is_whole).ok_or_else(|| {
        let problem = "cannot be sent in a header";
        ConfigError::new(key, problem, "one line without spaces around it")
    })
}

fn check_seconds(key: &str, time: Duration) -> Result<(), ConfigError> {
    match (1..=3600).contains(&time.as_secs()) {
        true => Ok(()),
        false => {
            let problem = format!("is {}", humantime::format_duration(time));
            Err(ConfigError::new(key, problem, "1s to 1h"))
        }
    }
}

/// Checks a setting that is a name in topics and addresses.
pub(crate) fn check_name(key: &str, text: &str) -> Result<(), ConfigError> {
    match is_name(text) {
        true => Ok(()),
        false => {
            let problem = format!("is {text:?}");
            Err(ConfigError::new(key, problem, "letters, digits, - and _"))
        }
    }
}
