use std::time::Duration;

use gateway_core::{Backoff, ConfigError, Interest};
use serde::Deserialize;

/// Says how commands reach devices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct CommandConfig {
    /// What every attached device listens to, even one that only speaks. Default nothing: links
    /// are opened for devices that are online and want to hear, since the hub paces their opening.
    /// Only for devices that can be reached whenever they are attached: a message that comes while
    /// its device cannot be reached is given back, and the hub gives it up after 10 times.
    pub always: Interest,
    /// How long a device that only speaks listens to messages after it has sent one, as one that
    /// sleeps in between; its link is closed again when nothing was sent either way for this time.
    /// Default 0 s, not at all: whoever knows better when a device hears announces it
    /// ([`Ingress::online`](gateway_core::Ingress::online)).
    #[serde(with = "humantime_serde")]
    pub after_uplink: Duration,
    /// Cloud-to-device messages of one device, and methods of one device, that are on their way at
    /// a time. Default 8: the hub's queue is 50 deep and its lock lasts 60 s.
    pub credit: u32,
    /// How long a message may take to be settled, from its arrival; then the hub gets it back.
    /// Default 55 s, 5 s within the hub's lock.
    #[serde(with = "humantime_serde")]
    pub lock: Duration,
    /// How long a message that a device could not take is kept before the hub gets it back, which
    /// delivers it again at once; longer with each delivery, and never longer than `lock`. Default
    /// 1 s to 30 s: a device that is busy for minutes does not use up the 10 deliveries that the
    /// hub gives a message.
    pub abandon: Backoff,
    /// How long a device may take to answer a method, which the hub does not tell over AMQP.
    /// Default 30 s, the hub's own default.
    #[serde(with = "humantime_serde")]
    pub method_timeout: Duration,
    /// Twin requests of one device that wait for the hub's answer at a time, and that wait for
    /// their turn; more are refused as throttled. Default 16.
    pub twin_requests: usize,
    /// How long the twin's links stay after the last request of a device that does not listen to
    /// changes. Default 60 s, so that one that asks often does not open them each time.
    #[serde(with = "humantime_serde")]
    pub twin_idle: Duration,
    /// The wait before a command link that was lost or refused is opened again, and before changes
    /// of the twin that could not be fetched, or that the device missed, are. Default 500 ms to 30 s.
    pub reopen: Backoff,
}

impl Default for CommandConfig {
    fn default() -> Self {
        let backoff = |least, most| {
            Backoff::new(Duration::from_millis(least), Duration::from_millis(most))
                .unwrap_or_default()
        };
        Self {
            always: Interest::NONE,
            after_uplink: Duration::ZERO,
            credit: 8,
            lock: Duration::from_secs(55),
            abandon: backoff(1_000, 30_000),
            method_timeout: Duration::from_secs(30),
            twin_requests: 16,
            twin_idle: Duration::from_secs(60),
            reopen: backoff(500, 30_000),
        }
    }
}

impl CommandConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        const DAY: u128 = 86_400_000;
        let ranges: [(&str, u128, u128, u128); 6] = [
            (
                "commands.after_uplink (ms)",
                self.after_uplink.as_millis(),
                0,
                DAY,
            ),
            ("commands.credit", self.credit.into(), 1, 50),
            // What the hub's own lock lasts.
            ("commands.lock (ms)", self.lock.as_millis(), 10, 60_000),
            // The longest that the hub waits itself.
            (
                "commands.method_timeout (ms)",
                self.method_timeout.as_millis(),
                1,
                300_000,
            ),
            (
                "commands.twin_requests",
                self.twin_requests as u128,
                1,
                1000,
            ),
            (
                "commands.twin_idle (ms)",
                self.twin_idle.as_millis(),
                1,
                DAY,
            ),
        ];
        for (key, value, least, most) in ranges {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }
}
