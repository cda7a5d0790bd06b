//! How long to wait between tries.

use std::time::Duration;

use serde::Deserialize;

use crate::error::{ConfigError, LONGEST_WAIT};

/// Grows waiting times from a least to a most, each with jitter.
///
/// The wait before try `n` is drawn from the upper half of `least * 2^n`, capped at `most`, so
/// that many who failed at once do not come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Limits")]
pub struct Backoff {
    least: Duration,
    most: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(with = "humantime_serde")]
    least: Duration,
    #[serde(with = "humantime_serde")]
    most: Duration,
}

impl TryFrom<Limits> for Backoff {
    type Error = ConfigError;

    fn try_from(limits: Limits) -> Result<Self, ConfigError> {
        Self::new(limits.least, limits.most)
    }
}

impl Default for Backoff {
    /// 100 ms to 10 s, as Microsoft's device SDKs do.
    fn default() -> Self {
        Self {
            least: Duration::from_millis(100),
            most: Duration::from_secs(10),
        }
    }
}

impl Backoff {
    /// Makes a backoff.
    ///
    /// # Errors
    /// `least` is zero or greater than `most`, or `most` is more than a day.
    pub fn new(least: Duration, most: Duration) -> Result<Self, ConfigError> {
        if least.is_zero() || least > most || most > LONGEST_WAIT {
            let problem = format!("goes from {least:?} to {most:?}");
            let allowed = "0s < least <= most <= 1day";
            return Err(ConfigError::new("backoff", problem, allowed));
        }
        Ok(Self { least, most })
    }

    /// The longest wait.
    #[must_use]
    pub const fn most(&self) -> Duration {
        self.most
    }

    /// The wait before the next try, after `failures` failures before this one.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let full = self
            .least
            .saturating_mul(1 << failures.min(31))
            .min(self.most);
        // A missing random source costs the jitter, not the wait.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_lies_in_the_upper_half_of_its_step(failures in 0_u32..200) {
            let backoff = Backoff::default();
            let full = Duration::from_millis(100).saturating_mul(1 << failures.min(31))
                .min(Duration::from_secs(10));
            let delay = backoff.delay(failures);
            prop_assert!(delay >= full / 2 && delay <= full);
        }
    }

    #[test]
    fn a_backoff_without_a_least_wait_is_refused() {
        assert!(Backoff::new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Backoff::new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }

    #[test]
    fn a_backoff_longer_than_a_day_is_refused() {
        assert!(Backoff::new(LONGEST_WAIT, LONGEST_WAIT).is_ok());
        assert!(Backoff::new(LONGEST_WAIT, Duration::MAX).is_err());
    }
}
