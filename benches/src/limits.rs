//! What a hub of some size takes of new device connections, and how long that must last at least.

use std::time::Duration;

use clap::ValueEnum;
use gateway_core::governor::{BudgetConfig, HubTier};
use hub_simulator::Size;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A tier whose throttles the hub enforces, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Throttles nothing.
    Off,
    /// As a hub of tier S1.
    S1,
    /// As a hub of tier S2.
    S2,
    /// As a hub of tier S3.
    S3,
}

impl Tier {
    /// What the simulator enforces.
    #[must_use]
    pub fn size(self, units: u32) -> Option<Size> {
        let tier = match self {
            Self::Off => return None,
            Self::S1 => hub_simulator::Tier::S1,
            Self::S2 => hub_simulator::Tier::S2,
            Self::S3 => hub_simulator::Tier::S3,
        };
        Some(Size::new(tier, units))
    }

    /// What the gateway is told of it.
    #[must_use]
    pub fn budget(self, units: u32) -> BudgetConfig {
        match self {
            Self::Off => BudgetConfig::default(),
            Self::S1 => BudgetConfig::for_hub(HubTier::S1, units),
            Self::S2 => BudgetConfig::for_hub(HubTier::S2, units),
            Self::S3 => BudgetConfig::for_hub(HubTier::S3, units),
        }
    }

    /// New device connections a second (Microsoft, "IoT Hub quotas and throttling"): over AMQP a
    /// token for a device is one.
    fn connects_a_second(self, units: u32) -> Option<f64> {
        let units = f64::from(units.max(1));
        match self {
            Self::Off => None,
            Self::S1 => Some((12.0 * units).max(100.0)),
            Self::S2 => Some(120.0 * units),
            Self::S3 => Some(6000.0 * units),
        }
    }
}

/// The hub's allowance of new device connections, as it is used up and comes back.
#[derive(Debug)]
pub struct Allowance {
    a_second: Option<f64>,
    burst: Duration,
    /// When all that was taken so far will have been worth it.
    paid_until: Instant,
}

impl Allowance {
    /// Starts with the allowance whole.
    #[must_use]
    pub fn new(tier: Tier, units: u32) -> Self {
        Self {
            a_second: tier.connects_a_second(units),
            burst: tier.size(units).map_or(Duration::ZERO, |size| size.burst),
            paid_until: Instant::now(),
        }
    }

    /// The least time, from now, in which so many devices can connect; nothing without a limit.
    pub fn least(&mut self, devices: usize) -> Option<Duration> {
        let now = Instant::now();
        let cost = Duration::from_secs_f64(devices as f64 / self.a_second?);
        self.paid_until = self.paid_until.max(now) + cost;
        Some((self.paid_until - now).saturating_sub(self.burst))
    }
}
