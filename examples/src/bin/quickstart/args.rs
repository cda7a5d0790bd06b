//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum, value_parser};
use serde::{Deserialize, Serialize};

/// Runs a simulated hub, a gateway and a fleet of devices, and checks what arrived.
///
/// Devices speak JSON lines over TCP, CoAP over UDP, or LoRaWAN over simulated concentrators, to the
/// gateway, a process of its own, which carries them all with TLS to the hub: over few AMQP
/// connections, or one MQTT connection each. Everything is on this machine. The run ends by itself;
/// its exit code is 0 if the hub has every message that was acknowledged to a device and everything
/// was answered.
#[derive(Debug, Clone, Parser)]
#[command(name = "quickstart", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Devices, each with an identity of its own at the hub.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) devices: u32,
    /// Messages that each device sends, the next when the one before is acknowledged.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) messages: u32,
    /// Messages a second of the whole fleet; 0: as fast as they are acknowledged.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate: u32,
    /// What the gateway speaks to the hub.
    #[arg(long, value_enum, default_value_t = Upstream::Amqp)]
    pub(crate) upstream: Upstream,
    /// What the devices speak to the gateway.
    #[arg(long, value_enum, default_value_t = Downstream::Tcp)]
    pub(crate) downstream: Downstream,
    /// Cloud-to-device messages, and as many direct methods, spread over the run and over devices
    /// [default: one to each of up to 100 devices].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(0..=100_000))]
    pub(crate) commands: Option<u32>,
    /// Cut all connections to the hub once, in the middle of the run. Messages may then arrive
    /// twice, but none is lost.
    #[arg(long)]
    pub(crate) cut: bool,
    /// Give up after so many seconds [default: a minute and what a slow machine needs].
    #[arg(long, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..))]
    pub(crate) timeout: Option<u64>,
    /// Print one JSON object to standard output instead of a summary.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

/// A protocol of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Upstream {
    /// Thousands of devices share few connections.
    Amqp,
    /// Each device has a connection, as the hub wants it over MQTT.
    Mqtt,
}

/// A protocol of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Downstream {
    /// JSON lines, a connection for each device.
    Tcp,
    /// Confirmable messages over UDP, a port for each device, which observes its commands.
    Coap,
    /// Class A in EU868: every frame is heard by three packet forwarders. A LoRaWAN network asks for
    /// no frame again, so devices send confirmed ones, each until it is acknowledged in a receive
    /// window, a second after it: a message takes that long. Commands are confirmed, too.
    Lorawan,
}

/// What the program runs as, if not as the whole.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Part {
    /// The gateway: set up by one line on standard input, ends when that closes.
    #[command(hide = true)]
    Gateway,
}

impl Args {
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.devices) * u64::from(self.messages)
    }

    pub(crate) fn commands(&self) -> u32 {
        self.commands.unwrap_or(self.devices.min(100))
    }

    /// How long the whole run may take: 20 ms a device to come up, 1000 messages a second.
    pub(crate) fn timeout(&self) -> Duration {
        let rate = match self.rate {
            0 => 1000,
            rate => rate.min(1000),
        };
        // A join and each message wait for their windows, and now and then for another try.
        let windows = match self.downstream {
            Downstream::Lorawan => 60 + 3 * u64::from(self.messages),
            Downstream::Tcp | Downstream::Coap => 0,
        };
        match self.timeout {
            Some(seconds) => Duration::from_secs(seconds),
            None => {
                Duration::from_secs(60 + windows + self.total() / u64::from(rate))
                    + Duration::from_millis(20) * self.devices
            }
        }
    }
}
