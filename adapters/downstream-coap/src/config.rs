//! The downstream's settings.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use gateway_core::credential::Secret;
use gateway_core::{ConfigError, DeviceId};
use serde::Deserialize;

use crate::dtls::DtlsConfig;
use crate::proto::EndpointConfig;
use crate::proto::resource::{RouteConfig, Routes};
use crate::stream::{ConnectionConfig, TcpConfig, TlsConfig};

/// Where to listen, whom to let in, and how much of everything. Every field has a default; one of
/// `udp`, `dtls`, `tcp` and `tls` must be there.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CoapConfig {
    /// Plain UDP. Default: none, since nothing is encrypted and addresses can be forged.
    pub udp: Option<UdpConfig>,
    /// DTLS. Default: none.
    pub dtls: Option<SecureConfig>,
    /// CoAP over TCP (RFC 8323). Default: none.
    pub tcp: Option<TcpConfig>,
    /// CoAP over TLS (RFC 8323). Default: none.
    pub tls: Option<TlsConfig>,
    /// Bounds of connections over TCP and TLS.
    pub connections: ConnectionConfig,
    /// Bytes that the system keeps for a socket until they are read, and until they are sent.
    /// Default 1 MiB: some 2,500 small datagrams, since devices that woke at the same time send at
    /// the same time. What does not fit is lost, and the devices send it again in seconds. The
    /// system may grant less (Linux: `net.core.rmem_max`).
    pub socket_buffer: usize,
    /// How devices without a session prove who they are.
    pub identity: IdentityConfig,
    /// Which path means what.
    pub routes: RouteConfig,
    /// The message layer.
    pub endpoint: EndpointConfig,
    /// How commands reach devices.
    pub commands: CommandConfig,
    /// Bounds of time.
    pub timeouts: TimeoutConfig,
}

impl Default for CoapConfig {
    fn default() -> Self {
        Self {
            udp: None,
            dtls: None,
            tcp: None,
            tls: None,
            connections: ConnectionConfig::default(),
            socket_buffer: 1 << 20,
            identity: IdentityConfig::default(),
            routes: RouteConfig::default(),
            endpoint: EndpointConfig::default(),
            commands: CommandConfig::default(),
            timeouts: TimeoutConfig::default(),
        }
    }
}

/// Where to listen for plain UDP. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct UdpConfig {
    /// The address; port 0 takes a free one. Default `127.0.0.1:5683`: reached from this machine
    /// only, since nothing is encrypted.
    pub listen: SocketAddr,
    /// Sockets on the address, each with a task of its own, among which the system spreads the
    /// devices by their addresses (`SO_REUSEPORT`). Default 1; more where one core is not enough.
    /// They share the bounds of [`endpoint`](CoapConfig::endpoint). What a device asks for at one of
    /// them ends what it has asked for at another: with several, it has to observe and to wait for
    /// commands from one port.
    pub sockets: usize,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5683)),
            sockets: 1,
        }
    }
}

/// Where to listen for DTLS, and which keys are known. Every field has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SecureConfig {
    /// The address; port 0 takes a free one. Default `0.0.0.0:5684`. All of it is one socket, since
    /// a session is known at one socket only.
    pub listen: SocketAddr,
    /// A JSON file with keys by identity
    /// ([`StaticPskStore::read_file`](crate::dtls::StaticPskStore::read_file)), read at the start.
    /// Default: none, so that nobody gets in unless the program brings a store.
    pub keys_file: Option<PathBuf>,
    /// Times and bounds of sessions.
    pub sessions: DtlsConfig,
}

impl Default for SecureConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5684)),
            keys_file: None,
            sessions: DtlsConfig::default(),
        }
    }
}

/// Which proofs of identity are taken over plain UDP. By default none, so that nobody gets in.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentityConfig {
    /// Devices by their address, for networks where no address can be forged. Where that is not
    /// sure, set `endpoint.echo` to `always`. Default: none.
    pub addresses: HashMap<IpAddr, DeviceId>,
    /// Tokens by device, which come in the query as `$.id=<device>&$.token=<token>`, in clear.
    /// Default: none.
    pub tokens: HashMap<DeviceId, Secret>,
    /// A JSON file with one object of tokens by device, read at the start. Default: none.
    pub tokens_file: Option<PathBuf>,
    /// Whether `$.id=<device>` is enough: for networks where nobody else can send. Default: no.
    pub trust_any_id: bool,
    /// The devices that a gateway may speak for, by the gateway's id. Default: none, each speaks for
    /// itself. It holds for gateways with a session too.
    pub children: HashMap<DeviceId, HashSet<DeviceId>>,
}

/// How commands reach devices.
///
/// A command is done when the device has acknowledged the notification with it, or the answer that it
/// waited for, or its own server has answered. What nobody can know counts as sent: an answer to a
/// wait by a confirmable request that has just begun, since over UDP it goes with the acknowledgement
/// of the request ([`ack_delay`](crate::proto::TransmissionConfig::ack_delay)), and what is larger
/// than a block once the last one was asked for. What is not fetched whole in time goes back to the
/// hub. The properties of a message go in options, `name=value` each: one that takes more than
/// 255 bytes has no room there, nor have all that take more than 1 KiB, and the message is rejected.
///
/// A client library may acknowledge each notification and give its application the newest only, since
/// an observation is of a state (RFC 7641, section 1.3). aiocoap does so, unless a callback is
/// registered and `handle_blockwise` is off. Devices on such a library better wait for commands in
/// answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CommandConfig {
    /// A path on the devices' own servers to which commands are posted while a device does not
    /// observe and is not waiting for one. A device then listens from its first request on, until
    /// it was silent for [`TimeoutConfig::idle`]. Over plain UDP each source has to show by Echo first
    /// that it receives at its address, unless `endpoint.echo` is `never`: commands must not go to an
    /// address that somebody else has named. Default: none, since few devices are servers.
    pub post_to: Option<String>,
    /// Commands that wait for a device. Beyond that a method is refused at once, as busy, and all
    /// else waits outside until its time is up. Default 16: what an upstream gives a device at a
    /// time.
    pub max_waiting: usize,
}

impl Default for CommandConfig {
    fn default() -> Self {
        Self {
            post_to: None,
            max_waiting: 16,
        }
    }
}

/// Bounds of time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// Until a device confirms a command or a change, but never past the command's own deadline; a
    /// method has the time that its caller gave it. As long, a device that waited for a command in an
    /// answer is expected to wait anew, and further commands wait for it. Default 45 s, within the
    /// hub's lock of 60 s: four of the five times that a notification is sent by default.
    #[serde(with = "humantime_serde")]
    pub command: Duration,
    /// Silence after which an observing device is sent an empty notification: one that does not
    /// acknowledge it is offline. So is one that has not confirmed a command in time. Default 30 min:
    /// a radio hardly notices, and RFC 7641 (section 4.5) asks for one in 24 h at least. With DTLS it
    /// must have been sent, and sent again, before
    /// [`idle_timeout`](crate::dtls::DtlsConfig::idle_timeout) ends the session of a device that only
    /// listens.
    #[serde(with = "humantime_serde")]
    pub probe: Duration,
    /// Silence after which a device that commands are posted to is offline. Default 2 min: as long
    /// as most translators of addresses keep a way open.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// The longest that a device may wait for a command in an answer. Default 4 min: the device's
    /// exchange must not end before.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// How long a gateway that stops waits for devices to acknowledge answers and commands. Default
    /// 3 s: one retransmission.
    #[serde(with = "humantime_serde")]
    pub farewell: Duration,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(45),
            probe: Duration::from_secs(1800),
            idle: Duration::from_secs(120),
            wait: Duration::from_secs(240),
            farewell: Duration::from_secs(3),
        }
    }
}

impl CoapConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sockets = self.udp.as_ref().map_or(1, |udp| udp.sockets);
        let sizes = [
            ("udp.sockets", sockets, 1, 256),
            ("socket_buffer", self.socket_buffer, 4096, 1 << 30),
            ("commands.max_waiting", self.commands.max_waiting, 1, 1_000),
        ];
        for (key, value, least, most) in sizes {
            ConfigError::check_range(key, value, least, most)?;
        }
        let (milli, day) = (Duration::from_millis(1), Duration::from_secs(24 * 3600));
        let lifetime = self.endpoint.transmission.exchange_lifetime;
        let times = [
            ("timeouts.command", self.timeouts.command, milli, day),
            ("timeouts.probe", self.timeouts.probe, milli, day),
            ("timeouts.idle", self.timeouts.idle, milli, day),
            (
                "timeouts.wait",
                self.timeouts.wait,
                Duration::ZERO,
                lifetime,
            ),
            (
                "timeouts.farewell",
                self.timeouts.farewell,
                Duration::ZERO,
                day,
            ),
        ];
        for (key, value, least, most) in times {
            if !(least..=most).contains(&value) {
                let allowed = format!("{least:?} to {most:?}");
                return Err(ConfigError::new(key, format!("is {value:?}"), allowed));
            }
        }
        let identity = &self.identity;
        let has_tokens = !identity.tokens.is_empty() || identity.tokens_file.is_some();
        if identity.trust_any_id && has_tokens {
            return Err(ConfigError::new(
                "identity.trust_any_id",
                "is true, so that the tokens would protect nothing",
                "false, or no tokens",
            ));
        }
        if let Some(path) = &self.commands.post_to
            && path.trim_matches('/').is_empty()
        {
            let found = format!("is `{path}`");
            let allowed = "a path of at least one segment";
            return Err(ConfigError::new("commands.post_to", found, allowed));
        }
        let endpoint = self.endpoint.validate();
        endpoint.map_err(|error| error.within("endpoint"))?;
        if let Some(dtls) = &self.dtls {
            let sessions = dtls.sessions.validate();
            sessions.map_err(|error| error.within("dtls.sessions"))?;
            let (probe, idle) = (self.timeouts.probe, dtls.sessions.idle_timeout);
            let wait = self.endpoint.transmission.longest_wait();
            if probe.saturating_add(wait) >= idle {
                let found = format!("is {probe:?}");
                let allowed = format!(
                    "{wait:?} less than dtls.sessions.idle_timeout, {idle:?}: else a device that only \
                     listens loses its session"
                );
                return Err(ConfigError::new("timeouts.probe", found, allowed));
            }
        }
        let connections = self.connections.validate();
        connections.map_err(|error| error.within("connections"))?;
        let routes = Routes::new(&self.routes).map(drop);
        routes.map_err(|error| error.within("routes"))?;
        let (udp, dtls) = (self.udp.is_some(), self.dtls.is_some());
        if !(udp || dtls || self.tcp.is_some() || self.tls.is_some()) {
            let allowed = "udp, dtls, tcp, tls, or several of them";
            return Err(ConfigError::new(
                "udp",
                "is missing, and so are the others",
                allowed,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CoapConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn the_defaults_are_valid_once_there_is_somewhere_to_listen() {
        let mut config = CoapConfig::default();
        let nowhere = config.validate().unwrap_err();
        assert_eq!(nowhere.key(), "udp");
        config.udp = Some(UdpConfig::default());
        config.dtls = Some(SecureConfig::default());
        config.validate().unwrap();
    }

    #[test]
    fn a_wrong_key_or_value_names_itself() {
        let error = parse(r#"{"identity": {"token": {}}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`token`") && error.contains("`tokens`"),
            "{error}"
        );
        for (text, expected) in [
            (
                r#"{"udp": {"sockets": 0}}"#,
                "`udp.sockets` is 0; allowed: 1 to 256",
            ),
            (
                r#"{"timeouts": {"wait": "5m"}}"#,
                "`timeouts.wait` is 300s; allowed: 0ns to 247s",
            ),
            (
                r#"{"identity": {"trust_any_id": true, "tokens": {"dev1": "x"}}}"#,
                "`identity.trust_any_id` is true, so that the tokens would protect nothing; \
                 allowed: false, or no tokens",
            ),
            (
                r#"{"connections": {"max": 0}}"#,
                "`connections.max` is 0; allowed: 1 to 1000000",
            ),
            (
                r#"{"dtls": {"sessions": {"idle_timeout": "31m"}}}"#,
                "`timeouts.probe` is 1800s; allowed: 93s less than dtls.sessions.idle_timeout, \
                 1860s: else a device that only listens loses its session",
            ),
            (
                r#"{"identity": {"trust_any_id": true, "tokens_file": "tokens.json"}}"#,
                "`identity.trust_any_id` is true, so that the tokens would protect nothing; \
                 allowed: false, or no tokens",
            ),
            (
                r#"{"endpoint": {"transmission": {"nstart": 0}}}"#,
                "`endpoint.transmission.nstart` is 0; allowed: 1 to 64",
            ),
            (
                r#"{"dtls": {}, "endpoint": {"transmission": {"max_retransmit": 64}}}"#,
                "`endpoint.transmission.max_retransmit` is 64; allowed: 0 to 16",
            ),
            (
                r#"{"dtls": {}, "endpoint": {"transmission": {"ack_random_factor": -1.0}}}"#,
                "`endpoint.transmission.ack_random_factor` is -1; allowed: 1.0 to 8.0",
            ),
        ] {
            let error = parse(text).unwrap().validate().unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn tokens_do_not_show() {
        let config = parse(r#"{"identity": {"tokens": {"dev1": "hidden"}}}"#).unwrap();
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
