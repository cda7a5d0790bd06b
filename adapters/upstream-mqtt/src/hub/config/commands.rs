use std::time::Duration;

use gateway_core::{Backoff, ConfigError, Interest};
use serde::Deserialize;

/// Says how commands reach devices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttCommandConfig {
    /// What every attached device listens to, even one that only speaks. Default nothing.
    pub always: Interest,
    /// Cloud-to-device messages of one device, and methods of one device, that are on their way at
    /// a time. Default 8: the hub's queue is 50 deep and its lock lasts 60 s.
    pub credit: usize,
    /// How long a message may take to be settled, from its arrival; then it counts as one that could
    /// not be delivered. Default 55 s, 5 s within the hub's lock.
    #[serde(with = "humantime_serde")]
    pub lock: Duration,
    /// How long after a message could not be delivered the device's connection is replaced, so that
    /// the hub delivers it again; longer each time. Default 10 s to 10 min: over MQTT a message can be
    /// given back in no other way, and each connection counts at the hub.
    pub abandon: Backoff,
    /// How long a device may take to answer a method, which the hub does not tell over MQTT.
    /// Default 30 s, the hub's own default.
    #[serde(with = "humantime_serde")]
    pub method_timeout: Duration,
    /// Twin requests of one device that wait for the hub's answer at a time; more are refused as
    /// throttled. Default 16.
    pub twin_requests: usize,
    /// The wait before changes of the twin that could not be fetched, or that the device missed, are
    /// fetched again. Default 500 ms to 30 s.
    pub refetch: Backoff,
}

impl Default for MqttCommandConfig {
    fn default() -> Self {
        let backoff = |least, most| {
            Backoff::new(Duration::from_millis(least), Duration::from_millis(most))
                .unwrap_or_default()
        };
        Self {
            always: Interest::NONE,
            credit: 8,
            lock: Duration::from_secs(55),
            abandon: backoff(10_000, 600_000),
            method_timeout: Duration::from_secs(30),
            twin_requests: 16,
            refetch: backoff(500, 30_000),
        }
    }
}

impl MqttCommandConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let ms = |time: Duration| time.as_millis();
        for (key, value, least, most) in [
            ("commands.credit", self.credit as u128, 1, 50),
            // What the hub's own lock lasts.
            ("commands.lock (ms)", ms(self.lock), 10, 60_000),
            // The longest that the hub waits itself.
            (
                "commands.method_timeout (ms)",
                ms(self.method_timeout),
                1,
                300_000,
            ),
            (
                "commands.twin_requests",
                self.twin_requests as u128,
                1,
                1000,
            ),
        ] {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }
}
