//! How much of the hub's allowance this gateway may use.

use serde::Deserialize;

use crate::error::ConfigError;

/// Says how often something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Rate {
    /// As often as one likes, until the hub throttles.
    Unlimited,
    /// So often a second in the long run, and so many at once after a pause.
    Limited {
        /// In the long run, a second.
        per_second: f64,
        /// At once after a pause.
        burst: f64,
    },
}

impl Rate {
    /// So often a second, and at once after a pause what comes together in `pause` seconds.
    #[must_use]
    pub const fn limited(per_second: f64, pause: f64) -> Self {
        Self::Limited {
            per_second,
            burst: per_second * pause,
        }
    }
}

/// The size that a hub was bought in: its throttles follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HubTier {
    /// 400,000 messages a day and unit; the free tier and B1 throttle alike.
    S1,
    /// 6,000,000 messages a day and unit.
    S2,
    /// 300,000,000 messages a day and unit.
    S3,
}

/// Says how much of the hub's allowance this gateway may use, all connections together.
///
/// An upstream asks for what its protocol has: MQTT knows no links, for instance. The defaults are for
/// few connections that many devices share.
///
/// A hub does not tell its size, so most rates are unlimited by default: it first delays what comes
/// too fast, then refuses it, and a refusal halves the rate for every device. From there it grows
/// back, by a twentieth of its full value a second. Knowing the size spares the refusals:
/// [`for_hub`](Self::for_hub).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BudgetConfig {
    /// Connections opened. Default 20 a second, 50 at once: a million devices need 1006 of them,
    /// and each costs a TLS handshake.
    pub connects: Rate,
    /// Tokens put. Default unlimited; the hub counts each as a new device connection.
    pub tokens: Rate,
    /// Telemetry links opened. Default unlimited: a token comes before each.
    pub links: Rate,
    /// Links for cloud-to-device messages, methods and twins opened, a pair as one. Default 100 a
    /// second, 6000 at once: the hub throttles them (503008) at a figure that is not public, and
    /// this is what the smallest hub takes of new device connections.
    pub command_links: Rate,
    /// Messages sent. Default unlimited.
    pub sends: Rate,
    /// Twin requests. Default unlimited.
    pub twins: Rate,
    /// The full rate, a second, of what is unlimited, from the first refusal on until it is
    /// unlimited again. Default 100, what the smallest hub takes of tokens and of messages.
    pub throttled: f64,
}

/// The hub takes at once what comes together in "a minute or two" (Microsoft, "IoT Hub quotas and
/// throttling").
const HUB_BURST: f64 = 60.0;

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            connects: Rate::Limited {
                per_second: 20.0,
                burst: 50.0,
            },
            tokens: Rate::Unlimited,
            links: Rate::Unlimited,
            command_links: Rate::limited(100.0, HUB_BURST),
            sends: Rate::Unlimited,
            twins: Rate::Unlimited,
            throttled: 100.0,
        }
    }
}

impl BudgetConfig {
    /// The whole allowance of a hub of this size, for a gateway that has it to itself.
    ///
    /// Figures: Microsoft, "IoT Hub quotas and throttling". Twin reads and updates share one rate
    /// here, that of updates.
    #[must_use]
    pub fn for_hub(tier: HubTier, units: u32) -> Self {
        let units = f64::from(units.max(1));
        let (devices, twins) = match tier {
            HubTier::S1 => ((12.0 * units).max(100.0), 50.0),
            HubTier::S2 => (120.0 * units, (5.0 * units).max(50.0)),
            HubTier::S3 => (6000.0 * units, 250.0 * units),
        };
        let full = Rate::limited(devices, HUB_BURST);
        Self {
            tokens: full,
            command_links: full,
            sends: full,
            twins: Rate::limited(twins, HUB_BURST),
            ..Self::default()
        }
    }

    /// Checks the values that a type cannot.
    ///
    /// # Errors
    /// Names the first rate out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rates = [
            ("budget.connects", self.connects),
            ("budget.tokens", self.tokens),
            ("budget.links", self.links),
            ("budget.command_links", self.command_links),
            ("budget.sends", self.sends),
            ("budget.twins", self.twins),
            ("budget.throttled", Rate::limited(self.throttled, 1.0)),
        ];
        for (key, rate) in rates {
            if let Rate::Limited { per_second, burst } = rate
                && !((0.1..=1e6).contains(&per_second) && (0.1..=1e9).contains(&burst))
            {
                let problem = format!("is {per_second} a second and {burst} at once");
                let allowed = "0.1 to 1000000 a second, 0.1 to 1000000000 at once";
                return Err(ConfigError::new(key, problem, allowed));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_read_and_a_rate_out_of_range_names_itself() {
        let text = r#"{"tokens": {"limited": {"per_second": 120, "burst": 7200}},
            "command_links": "unlimited"}"#;
        let mut budget: BudgetConfig = serde_json::from_str(text).unwrap();
        budget.validate().unwrap();
        assert_eq!(budget.tokens, Rate::limited(120.0, 60.0));
        assert_eq!(budget.tokens, BudgetConfig::for_hub(HubTier::S2, 1).tokens);
        budget.throttled = 0.0;
        let error = budget.validate().unwrap_err();
        assert_eq!(error.key(), "budget.throttled");
    }
}
