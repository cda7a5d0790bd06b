//! Times and bounds of DTLS sessions.

use std::time::Duration;

use gateway_core::ConfigError;
use serde::Deserialize;

/// What the sessions of a socket may do and hold. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DtlsConfig {
    /// Sessions of devices. Default 20,000, of 16 KiB each at most. For one more, the one that was
    /// silent longest is closed.
    pub max_sessions: usize,
    /// Handshakes of clients that have shown that they receive at their address. Default 2048: at a
    /// round trip of two seconds a thousand devices a second come in. A new one takes the place of
    /// the oldest. As many identities are looked up at a time; beyond that one counts as unknown. One
    /// takes 16 KiB at most, and some 100 KiB where a client names an identity that is known and then
    /// does not prove it.
    pub max_handshakes: usize,
    /// How long a handshake may take, the look-up of the identity included. Default 40 s: what a
    /// flight and its retransmissions take.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// The wait before a flight is sent again; it doubles each time. Default 2 s: networks of small
    /// devices are slower than the second that RFC 6347, section 4.2.4.1 has.
    #[serde(with = "humantime_serde")]
    pub retransmission_timeout: Duration,
    /// How often a flight is sent again. Default 4, as for CoAP's messages.
    pub max_retransmit: usize,
    /// How long a device may be silent before its session is closed. Default 1 h: most devices speak
    /// more often, and one that sleeps longer has most likely another address when it wakes up.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Bytes of the largest datagram that is taken; larger ones are dropped. Default 1536, more than
    /// crosses most networks whole. Sessions keep buffers of that size.
    pub max_datagram: usize,
}

impl Default for DtlsConfig {
    fn default() -> Self {
        Self {
            max_sessions: 20_000,
            max_handshakes: 2048,
            handshake_timeout: Duration::from_secs(40),
            retransmission_timeout: Duration::from_secs(2),
            max_retransmit: 4,
            idle_timeout: Duration::from_secs(3600),
            max_datagram: 1536,
        }
    }
}

impl DtlsConfig {
    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first value out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let millis = |duration: Duration| duration.as_millis();
        let (hour, week) = (3_600_000, 7 * 24 * 3_600_000);
        let ranges = [
            ("max_sessions", self.max_sessions as u128, 1, 1 << 24),
            ("max_handshakes", self.max_handshakes as u128, 1, 1 << 20),
            (
                "handshake_timeout (ms)",
                millis(self.handshake_timeout),
                100,
                hour,
            ),
            (
                "retransmission_timeout (ms)",
                millis(self.retransmission_timeout),
                10,
                hour,
            ),
            ("max_retransmit", self.max_retransmit as u128, 0, 16),
            ("idle_timeout (ms)", millis(self.idle_timeout), 1000, week),
            ("max_datagram", self.max_datagram as u128, 256, 65_535),
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
    fn the_defaults_are_valid_and_a_wrong_value_names_itself() {
        DtlsConfig::default().validate().unwrap();
        let config: DtlsConfig = serde_json::from_str(r#"{"max_sessions": 0}"#).unwrap();
        let error = config.validate().unwrap_err().to_string();
        assert!(error.starts_with("`max_sessions` is 0"), "{error}");
        let error = serde_json::from_str::<DtlsConfig>(r#"{"max_session": 1}"#).unwrap_err();
        assert!(error.to_string().contains("max_session"), "{error}");
    }
}
