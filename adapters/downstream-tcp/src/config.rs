//! The downstream's settings.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gateway_core::{ConfigError, DeviceId, Interest};
use serde::Deserialize;

use crate::proto::{Framing, Secret};

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
    /// The device's own SAS token, which the hub judges. Default: yes.
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
    /// Connections. Default 10,000; each needs a file descriptor and about 10 KiB.
    pub max_connections: usize,
    /// Connections from one address (IPv6: one /64 network). Default 1,000: a site or a mobile
    /// operator puts hundreds of devices behind one address, and no address can take more than a
    /// tenth of all connections.
    pub max_connections_per_address: usize,
    /// Uplinks of a connection on their way to the hub; while there are as many, nothing is read.
    /// Default 8: enough to hide the way to the device, few enough that a gateway that stops
    /// has little to send again.
    pub window: usize,
    /// Commands of a connection that wait for the device; more wait outside until their time is
    /// up. Default 16.
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
    /// Until bytes that wait to be written are. Default 10 s: a device that reads nothing for so
    /// long is gone.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// Until a device confirms a command, but never past the command's own deadline. Default 30 s,
    /// the hub's own patience with a method.
    #[serde(with = "humantime_serde")]
    pub command: Duration,
    /// Silence after which TCP asks whether the peer is there, three times, 10 s apart. Default
    /// 60 s.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long sent bytes may stay unconfirmed by the peer's TCP, where the system can tell
    /// (Linux). Default 60 s: a dead link ends sooner than after the usual 15 min, and a tunnel is
    /// survived.
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
            tcp_user: Duration::from_secs(60),
        }
    }
}

impl TcpConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let sizes = [
            ("limits.max_frame", limits.max_frame, 16, 16 << 20),
            (
                "limits.max_connections",
                limits.max_connections,
                1,
                1_000_000,
            ),
            (
                "limits.max_connections_per_address",
                limits.max_connections_per_address,
                1,
                1_000_000,
            ),
            ("limits.window", limits.window, 1, 64),
            ("limits.max_commands", limits.max_commands, 1, 1_000),
            ("limits.max_unwritten", limits.max_unwritten, 1024, 16 << 20),
        ];
        for (key, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                let allowed = format!("{least} to {most}");
                return Err(ConfigError::new(key, format!("is {value}"), allowed));
            }
        }
        let day = Duration::from_secs(24 * 3600);
        let times = [
            (
                "timeouts.hello",
                self.timeouts.hello,
                Duration::from_millis(1),
            ),
            (
                "timeouts.idle",
                self.timeouts.idle,
                Duration::from_millis(1),
            ),
            (
                "timeouts.frame",
                self.timeouts.frame,
                Duration::from_millis(1),
            ),
            (
                "timeouts.write",
                self.timeouts.write,
                Duration::from_millis(1),
            ),
            (
                "timeouts.command",
                self.timeouts.command,
                Duration::from_millis(1),
            ),
            // Whole seconds are what systems take.
            (
                "timeouts.keepalive",
                self.timeouts.keepalive,
                Duration::from_secs(1),
            ),
            (
                "timeouts.tcp_user",
                self.timeouts.tcp_user,
                Duration::from_secs(1),
            ),
        ];
        for (key, value, least) in times {
            if !(least..=day).contains(&value) {
                let allowed = format!("{least:?} to 24h");
                return Err(ConfigError::new(key, format!("is {value:?}"), allowed));
            }
        }
        self.validate_identity()?;
        self.validate_framing()
    }

    fn validate_identity(&self) -> Result<(), ConfigError> {
        let asks_for_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if self.identity.certificate && !asks_for_certificates {
            return Err(ConfigError::new(
                "identity.certificate",
                "is true, but no client is asked for a certificate",
                "false, or set tls.client_ca",
            ));
        }
        if self
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_certificate_required)
            && !asks_for_certificates
        {
            return Err(ConfigError::new(
                "tls.client_certificate_required",
                "is true without roots to judge by",
                "false, or set tls.client_ca",
            ));
        }
        let has_secrets = !self.identity.secrets.is_empty() || self.identity.secrets_file.is_some();
        if self.identity.trust_any_id && has_secrets {
            return Err(ConfigError::new(
                "identity.trust_any_id",
                "is true, so that the secrets would protect nothing",
                "false, or no secrets",
            ));
        }
        Ok(())
    }

    fn validate_framing(&self) -> Result<(), ConfigError> {
        let framing = &self.json_lines.framing;
        framing.validate(self.limits.max_frame)?;
        match framing {
            // Any other byte may stand in a JSON text.
            Framing::Delimiter { delimiter } if delimiter.iter().any(|byte| *byte >= b' ') => {
                Err(ConfigError::new(
                    "json_lines.framing.delimiter",
                    "has a byte that JSON may contain",
                    "bytes 0 to 31",
                ))
            }
            Framing::Fixed { .. } => Err(ConfigError::new(
                "json_lines.framing.kind",
                "is fixed, which JSON objects are not",
                "line, delimiter, length_prefixed",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TcpConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn the_defaults_are_valid() {
        TcpConfig::default().validate().unwrap();
    }

    #[test]
    fn a_wrong_key_or_value_names_itself() {
        let error = parse(r#"{"limits": {"window_size": 3}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("window_size") && error.contains("`window`"),
            "{error}"
        );
        for (text, expected) in [
            (
                r#"{"limits": {"window": 0}}"#,
                "`limits.window` is 0; allowed: 1 to 64",
            ),
            (
                r#"{"timeouts": {"hello": "0s"}}"#,
                "`timeouts.hello` is 0ns; allowed: 1ms to 24h",
            ),
            (
                r#"{"identity": {"certificate": true}}"#,
                "`identity.certificate` is true, but no client is asked for a certificate; \
                 allowed: false, or set tls.client_ca",
            ),
            (
                r#"{"json_lines": {"framing": {"kind": "delimiter", "delimiter": "}"}}}"#,
                "`json_lines.framing.delimiter` has a byte that JSON may contain; \
                 allowed: bytes 0 to 31",
            ),
        ] {
            let error = parse(text).unwrap().validate().unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn every_framing_can_be_written_down() {
        for (text, framing) in [
            (r#"{"kind": "line"}"#, Framing::Line),
            (
                r#"{"kind": "delimiter", "delimiter": "\r\n"}"#,
                Framing::Delimiter {
                    delimiter: b"\r\n".to_vec(),
                },
            ),
            (
                r#"{"kind": "delimiter", "delimiter": [255, 0]}"#,
                Framing::Delimiter {
                    delimiter: vec![255, 0],
                },
            ),
            (
                r#"{"kind": "length_prefixed", "bytes": 2, "endian": "little"}"#,
                Framing::LengthPrefixed {
                    bytes: 2,
                    endian: crate::proto::Endian::Little,
                    includes_header: false,
                },
            ),
            (
                r#"{"kind": "fixed", "size": 32}"#,
                Framing::Fixed { size: 32 },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Framing>(text).unwrap(), framing);
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let config = parse(r#"{"identity": {"secrets": {"dev1": "hidden"}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
