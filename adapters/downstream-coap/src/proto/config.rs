//! Times and bounds of the message layer.

use std::time::Duration;

use gateway_core::ConfigError;
use serde::Deserialize;

use super::block::{Block, room};
use super::message::Options;

/// What an endpoint may do and hold. Every field has a default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EndpointConfig {
    /// How datagrams are sent again, and how long they are remembered.
    pub transmission: TransmissionConfig,
    /// How bodies are cut into blocks.
    pub blocks: BlockConfig,
    /// Bounds of memory and work.
    pub limits: LimitConfig,
    /// What is asked of sources that have not shown that they receive at their address.
    pub echo: EchoPolicy,
}

/// Times and counts of RFC 7252, section 4.8.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TransmissionConfig {
    /// The least wait for an acknowledgement. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
    /// The most wait as a multiple of the least. Default 1.5.
    pub ack_random_factor: f64,
    /// How often a message is sent again, with twice the wait each time. Default 4.
    pub max_retransmit: u32,
    /// Messages to one peer that wait for their acknowledgement. Default 1, as the RFC has it for
    /// networks that nobody knows.
    pub nstart: usize,
    /// How long a request may take before it is acknowledged and the response comes apart. Default
    /// 500 ms: a quarter of the time after which the device sends again.
    #[serde(with = "humantime_serde")]
    pub ack_delay: Duration,
    /// How long a message is remembered, so that a duplicate is known; also how long a message id
    /// is not used again, and a request waits for its answer. Default 247 s.
    #[serde(with = "humantime_serde")]
    pub exchange_lifetime: Duration,
    /// How long a request of ours waits for its response. Default 93 s, the RFC's
    /// MAX_TRANSMIT_WAIT.
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
}

impl Default for TransmissionConfig {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
            nstart: 1,
            ack_delay: Duration::from_millis(500),
            exchange_lifetime: Duration::from_secs(247),
            response_timeout: Duration::from_secs(93),
        }
    }
}

impl TransmissionConfig {
    /// The longest that an acknowledgement is waited for: MAX_TRANSMIT_WAIT.
    pub(crate) fn longest_wait(&self) -> Duration {
        let times = f64::from(self.max_retransmit + 1).exp2() - 1.0;
        self.ack_timeout.mul_f64(times * self.ack_random_factor)
    }
}

/// How bodies are cut into blocks (RFC 7959).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BlockConfig {
    /// Bytes of a block, where the peer does not ask for smaller ones: 16, 32, 64, 128, 256, 512 or
    /// 1024. Default 1024, the largest that fits every network's datagrams.
    pub size: usize,
    /// Bytes of a body that is put together from blocks, or that a response to us may have. Default
    /// 64 KiB: what devices send is far smaller.
    pub max_body: usize,
    /// How long a body that is not whole waits for the next block, and one that is fetched in blocks
    /// for the next question. Default 247 s, the exchange lifetime.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Bodies of one peer that are put together, and as many that it fetches. Default 2: one at a
    /// time is usual. A new one takes the place of the oldest.
    pub max_per_peer: usize,
}

impl BlockConfig {
    /// The same with blocks that fit in a message of this size beside such options.
    pub(crate) fn within(&self, message_size: usize, options: &Options) -> Self {
        let most = Block::new(0, Block::exponent_of(room(message_size, options)));
        Self {
            size: self.size.min(most.size()),
            ..self.clone()
        }
    }
}

impl Default for BlockConfig {
    fn default() -> Self {
        Self {
            size: 1024,
            max_body: 64 * 1024,
            timeout: Duration::from_secs(247),
            max_per_peer: 2,
        }
    }
}

/// Bounds of memory and work. Those that are not of one peer are divided equally among the sockets
/// of a downstream, DTLS's included, and all its streams as if they were one more, so that a flood at
/// one takes nothing from the others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Messages remembered in all, and one for each peer. A message takes about 130 bytes, a peer
    /// 1 KiB. Default 262,144: 1,000 messages a second over the whole lifetime, in 40 MiB if they
    /// are of few peers and 130 MiB if each is of another. When it is reached, the peer
    /// that was silent longest forgets something for a new one.
    pub max_remembered: usize,
    /// Messages remembered of one peer; beyond that its oldest is forgotten. Default 64: with one
    /// exchange at a time only the last few can come again.
    pub max_remembered_per_peer: usize,
    /// Requests that wait for the handler, and separate answers that wait for the device to
    /// acknowledge them. Default 8192; beyond that 5.03.
    pub max_pending: usize,
    /// The same of one peer. Default 16; beyond that 4.29.
    pub max_pending_per_peer: usize,
    /// Requests of ours to one peer that wait for a response. Default 8.
    pub max_calls_per_peer: usize,
    /// Observations in all. Default 100,000, as many as devices are kept attached.
    pub max_observations: usize,
    /// Observations of one peer. Default 8; beyond that a registration is answered as a plain
    /// request.
    pub max_observations_per_peer: usize,
    /// Bytes of bodies that are not whole, or not fetched whole. Default 16 MiB; the second half is
    /// for those only who have shown that they receive at their address.
    pub max_block_bytes: usize,
    /// What a device is told to wait when there is too much to do, in Max-Age. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            max_remembered: 262_144,
            max_remembered_per_peer: 64,
            max_pending: 8192,
            max_pending_per_peer: 16,
            max_calls_per_peer: 8,
            max_observations: 100_000,
            max_observations_per_peer: 8,
            max_block_bytes: 16 << 20,
            retry_after: Duration::from_secs(5),
        }
    }
}

impl LimitConfig {
    /// The share of one of so many endpoints, of everything that is not a bound of one peer; of each
    /// at least one unit, if there is any.
    #[must_use]
    pub fn divided(&self, endpoints: usize) -> Self {
        let part = |limit: usize| limit.div_ceil(endpoints.max(1));
        Self {
            max_remembered: part(self.max_remembered),
            max_pending: part(self.max_pending),
            max_observations: part(self.max_observations),
            max_block_bytes: part(self.max_block_bytes),
            ..self.clone()
        }
    }
}

/// Says when a source has to show, by Echo, that it receives at its address (RFC 9175). Not every
/// stack brings the value back by itself: libcoap does, aiocoap leaves it to the application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EchoPolicy {
    /// Never: for networks where no address can be forged.
    Never,
    /// When a response is more than three times as large as what came, for an observation, and for
    /// what is kept while room is scarce. A downstream that posts commands to devices
    /// ([`post_to`](crate::CommandConfig::post_to)) takes it for [`Always`](Self::Always).
    #[default]
    Amplification,
    /// At every request, until it has.
    Always,
}

impl EndpointConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let (times, blocks, limits) = (&self.transmission, &self.blocks, &self.limits);
        if !(1.0..=8.0).contains(&times.ack_random_factor) {
            let found = format!("is {}", times.ack_random_factor);
            return Err(ConfigError::new(
                "transmission.ack_random_factor",
                found,
                "1.0 to 8.0",
            ));
        }
        if !blocks.size.is_power_of_two() || !(16..=1024).contains(&blocks.size) {
            let found = format!("is {}", blocks.size);
            let allowed = "16, 32, 64, 128, 256, 512, 1024";
            return Err(ConfigError::new("blocks.size", found, allowed));
        }
        let millis = |duration: Duration| duration.as_millis();
        let (hour, count) = (3_600_000, 1 << 24);
        let ranges: [(&str, u128, u128, u128); 18] = [
            (
                "transmission.ack_timeout (ms)",
                millis(times.ack_timeout),
                10,
                hour,
            ),
            (
                "transmission.max_retransmit",
                times.max_retransmit.into(),
                0,
                16,
            ),
            ("transmission.nstart", times.nstart as u128, 1, 64),
            (
                "transmission.ack_delay (ms)",
                millis(times.ack_delay),
                0,
                hour,
            ),
            (
                "transmission.exchange_lifetime (ms)",
                millis(times.exchange_lifetime),
                10,
                hour,
            ),
            (
                "transmission.response_timeout (ms)",
                millis(times.response_timeout),
                10,
                hour,
            ),
            ("blocks.max_body", blocks.max_body as u128, 16, 1 << 24),
            ("blocks.timeout (ms)", millis(blocks.timeout), 10, hour),
            ("blocks.max_per_peer", blocks.max_per_peer as u128, 1, 64),
            (
                "limits.max_remembered",
                limits.max_remembered as u128,
                1,
                count,
            ),
            (
                "limits.max_remembered_per_peer",
                limits.max_remembered_per_peer as u128,
                1,
                65_536,
            ),
            ("limits.max_pending", limits.max_pending as u128, 1, count),
            (
                "limits.max_pending_per_peer",
                limits.max_pending_per_peer as u128,
                1,
                65_536,
            ),
            (
                "limits.max_calls_per_peer",
                limits.max_calls_per_peer as u128,
                1,
                256,
            ),
            (
                "limits.max_observations",
                limits.max_observations as u128,
                0,
                count,
            ),
            (
                "limits.max_observations_per_peer",
                limits.max_observations_per_peer as u128,
                0,
                256,
            ),
            (
                "limits.max_block_bytes",
                limits.max_block_bytes as u128,
                0,
                1 << 32,
            ),
            (
                "limits.retry_after (ms)",
                millis(limits.retry_after),
                0,
                hour,
            ),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                let allowed = format!("{least} to {most}");
                return Err(ConfigError::new(key, format!("is {value}"), allowed));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        EndpointConfig::default().validate().unwrap();
    }

    #[test]
    fn a_share_of_the_limits_is_of_the_whole_and_not_of_a_peer() {
        let limits = LimitConfig::default();
        let part = limits.divided(3);
        assert_eq!(part.max_observations, 33_334);
        assert_eq!(part.max_block_bytes, (16 << 20) / 3 + 1);
        assert_eq!(part.max_pending_per_peer, limits.max_pending_per_peer);
        assert_eq!(limits.divided(1), limits);
        let bare = LimitConfig {
            max_block_bytes: 0,
            max_pending: 1,
            ..limits
        };
        let part = bare.divided(8);
        assert_eq!((part.max_block_bytes, part.max_pending), (0, 1));
    }

    #[test]
    fn a_wrong_key_or_value_names_itself() {
        let parse = |text| serde_json::from_str::<EndpointConfig>(text);
        let error = parse(r#"{"blocks": {"sise": 64}}"#).unwrap_err();
        assert!(error.to_string().contains("sise"), "{error}");
        let config = parse(r#"{"blocks": {"size": 100}}"#).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("`blocks.size` is 100"), "{error}");
        let config = parse(r#"{"transmission": {"nstart": 0}}"#).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("`transmission.nstart` is 0"), "{error}");
    }
}
