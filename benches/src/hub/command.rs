//! What the hub's process is told and asked: a line of JSON each way.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use gateway_core::credential::{ConnectionString, GroupKey, SharedAccessPolicy};
use gateway_upstream_amqp::AmqpConfig;
use hub_simulator::{Fault, HubSimulator};
use serde::{Deserialize, Serialize};

use crate::HOST;
use crate::limits::Tier;

/// How the hub is set up. By default it is near, throttles nothing and counts messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubSetup {
    /// The way to the hub and back, in milliseconds.
    pub latency_ms: u64,
    /// Whose throttles it enforces.
    pub tier: Tier,
    /// So many units of the tier.
    pub units: u32,
    /// Whether it keeps the books on each message, for [`Command::Tally`].
    pub tally: bool,
}

impl Default for HubSetup {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            tier: Tier::Off,
            units: 1,
            tally: false,
        }
    }
}

/// What one must know to speak to a hub.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HubAccess {
    address: SocketAddr,
    ca_pem: String,
    policy: String,
    group_key: String,
}

impl HubAccess {
    /// How to speak to this hub.
    ///
    /// # Errors
    /// It speaks no TLS.
    pub fn of(hub: &HubSimulator) -> Result<Self> {
        Ok(Self {
            address: hub.addr(),
            ca_pem: hub.ca_pem().context("the hub speaks TLS")?.to_owned(),
            policy: hub.policy_connection_string("device"),
            group_key: hub.group_key(),
        })
    }

    /// The adapter's configuration for this hub, all else by default.
    #[must_use]
    pub fn amqp(&self) -> AmqpConfig {
        AmqpConfig::new(HOST)
            .with_address(self.address.ip().to_string(), self.address.port())
            .with_ca_pem(&self.ca_pem)
    }

    /// A policy that may act for every device.
    ///
    /// # Errors
    /// The hub gave none.
    pub fn policy(&self) -> Result<SharedAccessPolicy> {
        let parsed: ConnectionString = self.policy.parse()?;
        Ok(parsed.policy().context("a policy's string")?.clone())
    }

    /// The key that every device's own key derives from.
    ///
    /// # Errors
    /// The hub gave none.
    pub fn group_key(&self) -> Result<GroupKey> {
        Ok(GroupKey::from_base64(&self.group_key)?)
    }
}

/// What comes again and again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Flood {
    /// Cloud-to-device messages for a device, as many as its queue takes.
    Messages(String),
    /// Direct methods of a device.
    Methods(String),
    /// A fault.
    Fault(Fault),
}

/// What the hub is told, or asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Makes faults.
    Make(Vec<Fault>),
    /// Cuts every connection; answers when so many devices are attached over new ones.
    Cut {
        /// Devices.
        attached: usize,
    },
    /// Answers when exactly so many devices are attached.
    AwaitAttached(usize),
    /// Answers when each device from the one number to before the other listens to messages, and
    /// to methods if `methods`; or, if not `listening`, to nothing.
    AwaitListening {
        /// The first device's number.
        from: usize,
        /// Behind the last one's.
        to: usize,
        /// Whether they are to listen, or to be deaf.
        listening: bool,
        /// Whether to methods, too.
        methods: bool,
    },
    /// Sends a message to a device; the body is the machine's time in nanoseconds.
    Message {
        /// The device.
        device: String,
    },
    /// Begins a flood.
    Flood {
        /// Of what.
        of: Flood,
        /// How many a second.
        per_second: u32,
    },
    /// Ends every flood.
    Calm,
    /// Answers with [`HubCounts`].
    Count,
    /// Answers with the [`Books`](super::tally::Books) on all messages.
    Tally,
}

/// What the hub carries, and has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubCounts {
    /// Devices with a link.
    pub attached: usize,
    /// Open connections.
    pub connections: usize,
    /// Connections opened since the start.
    pub connections_opened: u64,
    /// Telemetry messages accepted.
    pub messages: u64,
    /// The memory of its process that is in RAM, in bytes.
    pub resident: u64,
}
