//! How long tokens live, and when they are renewed.

use std::time::Duration;

use gateway_core::ConfigError;
use gateway_core::credential::Renewals;
use serde::Deserialize;

/// Says how long the tokens are valid that we sign, and when they are renewed.
///
/// A token is renewed in place, no link is touched. What is renewed on one connection is paced, and
/// goes by what lapses next; all connections together go by the budget for tokens
/// ([`BudgetConfig::tokens`](gateway_core::governor::BudgetConfig::tokens)).
///
/// The part of a life that is left when a token is renewed is for a hub whose clock is ahead of ours,
/// and for further tries: with the defaults a hub may be 11 minutes ahead at no cost, and a renewal may
/// fail for 12 minutes. A device whose token lapses all the same loses its links and comes back with
/// a fresh one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TokenConfig {
    /// How long a token is valid. Default 1 h, as in Microsoft's SDKs.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// The part of its life after which a token is renewed at the latest. Default 0.8: Microsoft's C
    /// SDK renews there.
    pub renew_at: f64,
    /// The part of its life over which renewals are spread by chance, up to `renew_at`. Default 0.2:
    /// 20,000 devices attached in one second are renewed over 12 minutes, 28 a second.
    pub jitter: f64,
    /// Tokens renewed on one connection, a second. Default 20: 995 that are all late, as after
    /// the hub throttled, are renewed in 50 s.
    pub per_second: f64,
    /// Renewals on their way on one connection; half of them may be of devices whose renewal failed
    /// before. Default 8: over 50 ms that is 160 a second, and the hub's credit for tokens, 100, is left
    /// to devices that come.
    pub in_flight: usize,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(3600),
            renew_at: 0.8,
            jitter: 0.2,
            per_second: 20.0,
            in_flight: 8,
        }
    }
}

impl TokenConfig {
    /// Checks the values that a type cannot, for connections of so many devices with keys.
    pub(crate) fn validate(&self, devices: usize) -> Result<(), ConfigError> {
        let ttl = self.ttl.as_secs_f64();
        // All of a connection, should they be late together, before the first of them lapses.
        let pace = devices as f64 / (ttl * (1.0 - self.renew_at));
        let ranges = [
            ("tokens.ttl (s)", ttl, 2.0, 86_400.0),
            ("tokens.renew_at", self.renew_at, 0.1, 0.95),
            ("tokens.jitter", self.jitter, 0.0, self.renew_at),
            ("tokens.per_second", self.per_second, pace.max(0.1), 1e6),
            ("tokens.in_flight", self.in_flight as f64, 2.0, 100.0),
        ];
        for (key, value, least, most) in ranges {
            ConfigError::check_range(key, value, least, most)?;
        }
        Ok(())
    }

    /// When in its life a token is renewed.
    pub(crate) fn renewals(&self) -> Renewals {
        Renewals::new(self.renew_at, self.jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_too_slow_for_the_devices_of_a_connection_names_itself() {
        let mut config = TokenConfig::default();
        config.validate(1000).unwrap();
        config.ttl = Duration::from_secs(60);
        let error = config.validate(995).unwrap_err();
        assert_eq!(error.key(), "tokens.per_second");
        config.per_second = 100.0;
        config.validate(995).unwrap();
        config.jitter = f64::NAN;
        assert_eq!(config.validate(995).unwrap_err().key(), "tokens.jitter");
    }
}
