use std::path::PathBuf;
use std::time::Duration;

use gateway_core::governor::{BreakerConfig, BudgetConfig};
use gateway_core::{Backoff, ConfigError};
use serde::Deserialize;

use crate::commands::CommandConfig;
use crate::token::TokenConfig;

/// The port of AMQP over TLS (IANA).
pub const AMQPS_PORT: u16 = 5671;

/// Says which hub to speak to, and how.
///
/// Every field but the host has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AmqpConfig {
    /// The hub's name, as in its connection strings: tokens are made for it.
    pub host: String,
    /// Where to connect, if not to the host: a name or an address. Default: the host.
    #[serde(default)]
    pub address: Option<String>,
    /// Default 5671.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Whether to speak TLS. Default true; false is for a hub on this machine only.
    #[serde(default = "default_tls")]
    pub tls: bool,
    /// A PEM file of certification authorities to trust instead of the system's. Default none.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Certification authorities as PEM text, trusted besides those of `ca_file`. Default none.
    #[serde(default)]
    pub ca_pem: Option<String>,
    /// How devices share connections.
    #[serde(default)]
    pub pool: PoolConfig,
    /// What happens on the wire.
    #[serde(default)]
    pub wire: WireConfig,
    /// How long tokens live, and when they are renewed.
    #[serde(default)]
    pub tokens: TokenConfig,
    /// How commands reach devices.
    #[serde(default)]
    pub commands: CommandConfig,
    /// How much of the hub's allowance may be used.
    #[serde(default)]
    pub budget: BudgetConfig,
    /// What becomes of devices that the hub refuses or detaches again and again.
    #[serde(default)]
    pub breaker: BreakerConfig,
}

fn default_port() -> u16 {
    AMQPS_PORT
}

fn default_tls() -> bool {
    true
}

impl AmqpConfig {
    /// Makes a configuration with defaults for all but the hub's name.
    #[must_use]
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            address: None,
            port: AMQPS_PORT,
            tls: true,
            ca_file: None,
            ca_pem: None,
            pool: PoolConfig::default(),
            wire: WireConfig::default(),
            tokens: TokenConfig::default(),
            commands: CommandConfig::default(),
            budget: BudgetConfig::default(),
            breaker: BreakerConfig::default(),
        }
    }

    /// Connects to this name or address and port instead of the hub's own.
    #[must_use]
    pub fn with_address(mut self, address: impl Into<String>, port: u16) -> Self {
        self.address = Some(address.into());
        self.port = port;
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

    /// Sets how devices share connections.
    #[must_use]
    pub fn with_pool(mut self, pool: PoolConfig) -> Self {
        self.pool = pool;
        self
    }

    /// Sets what happens on the wire.
    #[must_use]
    pub fn with_wire(mut self, wire: WireConfig) -> Self {
        self.wire = wire;
        self
    }

    /// Sets how long tokens live, and when they are renewed.
    #[must_use]
    pub fn with_tokens(mut self, tokens: TokenConfig) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets how commands reach devices.
    #[must_use]
    pub fn with_commands(mut self, commands: CommandConfig) -> Self {
        self.commands = commands;
        self
    }

    /// Sets how much of the hub's allowance may be used.
    #[must_use]
    pub fn with_budget(mut self, budget: BudgetConfig) -> Self {
        self.budget = budget;
        self
    }

    /// Sets what becomes of devices that the hub refuses or detaches again and again.
    #[must_use]
    pub fn with_breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker = breaker;
        self
    }

    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let empty = |key: &str| ConfigError::new(key, "is empty", "the hub's name");
        if self.host.trim().is_empty() {
            return Err(empty("host"));
        }
        let (pool, wire) = (&self.pool, &self.wire);
        // Six links a device at most; a session takes 65,535 with every broker known.
        let links = pool
            .devices_per_connection
            .max(pool.devices_per_policy_connection)
            * 6;
        let ranges: [(&str, u128, u128, u128); 12] = [
            ("port", self.port.into(), 1, 65_535),
            (
                "pool.devices_per_connection",
                pool.devices_per_connection as u128,
                1,
                1000,
            ),
            (
                "pool.devices_per_policy_connection",
                pool.devices_per_policy_connection as u128,
                1,
                100_000,
            ),
            (
                "pool.lanes",
                pool.lanes as u128,
                (links / 65_535 + 1) as u128,
                1000,
            ),
            ("pool.own_lane_after", pool.own_lane_after.into(), 1, 1000),
            ("pool.own_lanes", pool.own_lanes as u128, 1, 1000),
            ("pool.recovering", pool.recovering as u128, 1, 100_000),
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
            (
                "wire.idle_timeout (ms)",
                wire.idle_timeout.as_millis(),
                10,
                1_200_000,
            ),
            (
                "wire.heartbeat (ms)",
                wire.heartbeat.as_millis(),
                10,
                600_000,
            ),
            ("wire.buffer", wire.buffer as u128, 1024, 16 << 20),
        ];
        for (key, value, least, most) in ranges {
            ConfigError::check_range(key, value, least, most)?;
        }
        self.commands.validate()?;
        self.tokens.validate(pool.devices_per_connection)?;
        self.breaker.validate()?;
        self.budget.validate()
    }
}

/// Says how devices share connections.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolConfig {
    /// Devices with tokens of their own on one connection. Default 995: the hub takes 1000 tokens
    /// a connection, and Microsoft's C# SDK leaves the same margin.
    pub devices_per_connection: usize,
    /// Devices on one connection under a policy of the hub, which costs one token in all.
    /// Default 995: what the hub takes there is not documented.
    pub devices_per_policy_connection: usize,
    /// Sessions on one connection that devices are spread over. Default 16: a fault of the session
    /// ends a sixteenth of a connection's links, and a session costs few KiB.
    pub lanes: usize,
    /// Refusals and detaches after which a device gets a lane of its own, until its
    /// [breaker](AmqpConfig::breaker) has forgiven it. Default 2: the first may be the hub's upkeep,
    /// which meets every device.
    pub own_lane_after: u32,
    /// Lanes of misbehaving devices on one connection; more such devices share these. Default 32,
    /// each costing 20 KiB.
    pub own_lanes: usize,
    /// The wait between tries to connect. Default 200 ms to 30 s.
    pub reconnect: Backoff,
    /// Devices of one lost session that are brought back side by side. Default 64; for how much the
    /// hub is asked in all, see the [budget](AmqpConfig::budget).
    pub recovering: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            devices_per_connection: 995,
            devices_per_policy_connection: 995,
            lanes: 16,
            own_lane_after: 2,
            own_lanes: 32,
            reconnect: Backoff::new(Duration::from_millis(200), Duration::from_secs(30))
                .unwrap_or_default(),
            recovering: 64,
        }
    }
}

/// Says what happens on the wire.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WireConfig {
    /// From the first packet to an open AMQP connection. Default 15 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the hub may take to answer the opening of a session or link, or a token. Default
    /// 20 s: longer than a hub that delays what comes too fast takes, and within the time that the
    /// core gives an attach
    /// ([`TimeoutConfig::attach`](gateway_core::TimeoutConfig::attach)), so that a hub that says
    /// nothing is noticed, and not only given up on. A session on which it has left 1000 attaches
    /// unanswered is given up, or one without a free handle for detaches; so is a connection on which
    /// it does not answer the opening of a session, or a token and then neither one that it took there
    /// before, of another device if it took two.
    #[serde(with = "humantime_serde")]
    pub answer_timeout: Duration,
    /// How long the hub may be silent before the connection counts as lost. Default 120 s, as
    /// Microsoft's C# SDK. The hub is told half of this value, and refuses less than 10 s, since it
    /// takes no less than 5 s.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long we are silent before an empty frame goes out. Default 30 s, well within the hub's
    /// own limit of 240 s.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// Bytes that gather for one write. Default 256 KiB, a connection.
    pub buffer: usize,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            heartbeat: Duration::from_secs(30),
            buffer: 256 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_value_out_of_range_names_itself() {
        let mut config = AmqpConfig::new("hub.example");
        config.validate().unwrap();
        config.pool.devices_per_connection = 1001;
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`pool.devices_per_connection` is 1001; allowed: 1 to 1000"
        );
    }

    #[test]
    fn a_hub_that_says_nothing_is_noticed_before_the_core_gives_up_an_attach() {
        let attach = gateway_core::TimeoutConfig::default().attach;
        assert!(WireConfig::default().answer_timeout < attach);
    }

    #[test]
    fn lost_devices_are_brought_back_side_by_side_by_a_number_that_can_be() {
        for recovering in [0, 100_001, usize::MAX] {
            let mut config = AmqpConfig::new("hub.example");
            config.pool.recovering = recovering;
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with("`pool.recovering` is"), "{error}");
        }
    }
}
