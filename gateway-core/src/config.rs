//! The gateway's settings.

use std::time::Duration;

use serde::Deserialize;

use crate::backoff::Backoff;
use crate::error::ConfigError;

/// Bounds and times of the gateway's core. Every field has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GatewayConfig {
    /// Uplinks between reservation and settlement, over all devices. Default 4096: at 50 ms to the
    /// hub that is 80,000 messages a second, and at 1 KiB a message 4 MiB.
    pub max_in_flight: usize,
    /// Uplinks of one device that wait or are in flight; more get `RetryLater` at once. Default
    /// 64, so that no device can take all credits. It bounds batches too: raise it where devices
    /// bring a backlog.
    pub max_queued_per_device: u32,
    /// How long devices may take to settle when the gateway stops. Default 10 s, the usual
    /// patience of a service manager.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Which devices are kept attached.
    pub sessions: SessionConfig,
    /// Which messages of a device go together.
    pub batches: BatchConfig,
    /// How long each operation may take.
    pub timeouts: TimeoutConfig,
    /// What is tried again, and how often.
    pub retry: RetryConfig,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 4096,
            max_queued_per_device: 64,
            shutdown_grace: Duration::from_secs(10),
            sessions: SessionConfig::default(),
            batches: BatchConfig::default(),
            timeouts: TimeoutConfig::default(),
            retry: RetryConfig::default(),
        }
    }
}

/// Bounds of the session table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SessionConfig {
    /// Devices attached at a time; the one silent for longest is detached for a new one. Default
    /// 100,000: about 101 connections and 160 MiB over AMQP, 0.75 GiB if all listen. Here each
    /// costs 300 bytes.
    pub capacity: usize,
    /// How long a device that is not online may be silent before it is detached. Default 1 h,
    /// longer than most devices sleep, so that they need no new attach.
    #[serde(with = "humantime_serde")]
    pub idle_ttl: Duration,
    /// How long a device that the hub refused is refused without asking again. Default 1 s to
    /// 60 s, doubling: a wrong key costs the hub one request a minute. A token that the device
    /// presents is judged for itself: each new one is asked for at once, two of a device at a time.
    pub refusal: Backoff,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            idle_ttl: Duration::from_secs(3600),
            refusal: Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
                .unwrap_or_default(),
        }
    }
}

/// Bounds of a batch: messages of one device that waited for each other and then go together, since
/// the hub settles a batch as fast as a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BatchConfig {
    /// Messages in a batch. Default 500, as many as Azure IoT Hub takes; 1 turns batches off.
    pub max_messages: usize,
    /// Size of a batch in bytes: bodies, properties, and some bytes for each. Default 255 KiB, what
    /// Azure IoT Hub takes (256 KiB) less what a batch itself may need. A message larger than this
    /// goes alone.
    pub max_bytes: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            max_messages: 500,
            max_bytes: 255 * 1024,
        }
    }
}

/// How long one try of an operation may take.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// Making a device known to the hub, and before that the credential provider's answer. Default 30 s:
    /// after a blink of the hub thousands wait for their turn.
    #[serde(with = "humantime_serde")]
    pub attach: Duration,
    /// Sending a message or a batch, to the hub's verdict. Default 10 s: a hub that shapes traffic answers
    /// within that.
    #[serde(with = "humantime_serde")]
    pub send: Duration,
    /// Reading or patching a twin. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub twin: Duration,
    /// Detaching a device. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub detach: Duration,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            attach: Duration::from_secs(30),
            send: Duration::from_secs(10),
            twin: Duration::from_secs(10),
            detach: Duration::from_secs(10),
        }
    }
}

/// What is tried again, and for how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryConfig {
    /// From the first failure to the start of the last try. Default 30 s; after that the device is told to
    /// come back later. Zero turns retries off.
    #[serde(with = "humantime_serde")]
    pub budget: Duration,
    /// The wait between tries, unless the hub names a longer one. Default 100 ms to 10 s.
    pub backoff: Backoff,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            budget: Duration::from_secs(30),
            backoff: Backoff::default(),
        }
    }
}

impl GatewayConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges: [(&str, u128, u128, u128); 12] = [
            ("max_in_flight", self.max_in_flight as u128, 1, 1_000_000),
            (
                "max_queued_per_device",
                self.max_queued_per_device.into(),
                1,
                100_000,
            ),
            (
                "shutdown_grace (ms)",
                self.shutdown_grace.as_millis(),
                0,
                86_400_000,
            ),
            (
                "sessions.capacity",
                self.sessions.capacity as u128,
                1,
                10_000_000,
            ),
            (
                "sessions.idle_ttl (ms)",
                self.sessions.idle_ttl.as_millis(),
                10,
                1 << 40,
            ),
            (
                "batches.max_messages",
                self.batches.max_messages as u128,
                1,
                10_000,
            ),
            (
                "batches.max_bytes",
                self.batches.max_bytes as u128,
                1,
                1 << 24,
            ),
            (
                "timeouts.attach (ms)",
                self.timeouts.attach.as_millis(),
                1,
                3_600_000,
            ),
            (
                "timeouts.send (ms)",
                self.timeouts.send.as_millis(),
                1,
                3_600_000,
            ),
            (
                "timeouts.twin (ms)",
                self.timeouts.twin.as_millis(),
                1,
                3_600_000,
            ),
            (
                "timeouts.detach (ms)",
                self.timeouts.detach.as_millis(),
                1,
                3_600_000,
            ),
            (
                "retry.budget (ms)",
                self.retry.budget.as_millis(),
                0,
                86_400_000,
            ),
        ];
        for (key, value, least, most) in ranges {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        GatewayConfig::default().validate().unwrap();
        let longest = SessionConfig::default().refusal.delay(30);
        assert!(longest >= Duration::from_secs(30) && longest <= Duration::from_secs(60));
    }

    #[test]
    fn a_wrong_key_or_value_names_itself() {
        let parse = |text| serde_json::from_str::<GatewayConfig>(text);
        let error = parse(r#"{"max_inflight": 1}"#).unwrap_err().to_string();
        assert!(
            error.contains("max_inflight") && error.contains("max_in_flight"),
            "{error}"
        );
        let config = parse(r#"{"max_in_flight": 0}"#).unwrap();
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "`max_in_flight` is 0; allowed: 1 to 1000000"
        );
        let error = parse(r#"{"retry": {"backoff": {"least": "0s", "most": "1s"}}}"#).unwrap_err();
        assert!(error.to_string().contains("0s < least <= most"), "{error}");
    }

    #[test]
    fn a_time_that_no_clock_reaches_names_its_key() {
        let (mut grace, mut budget) = (GatewayConfig::default(), GatewayConfig::default());
        grace.shutdown_grace = Duration::MAX;
        budget.retry.budget = Duration::MAX;
        for (config, key) in [
            (grace, "shutdown_grace (ms)"),
            (budget, "retry.budget (ms)"),
        ] {
            assert_eq!(config.validate().unwrap_err().key(), key);
        }
    }
}
