use gateway_core::governor::{BudgetConfig, Rate};
use serde::Deserialize;

/// Says how much of the hub's allowance this gateway may use over MQTT, all devices together: see
/// [`BudgetConfig`].
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MqttHubBudgetConfig {
    /// Connections opened, one for each device and each renewal of its token. Default 100 a second,
    /// 100 at once: what the smallest hub takes of new device connections. 10,000 devices that were
    /// lost together are back in 100 s, those with work first.
    pub connects: Rate,
    /// Messages sent. Default unlimited.
    pub sends: Rate,
    /// Twin requests. Default unlimited.
    pub twins: Rate,
    /// The full rate, a second, of what is unlimited, from the first refusal on until it is
    /// unlimited again. Default 100, what the smallest hub takes of messages.
    pub throttled: f64,
}

impl Default for MqttHubBudgetConfig {
    fn default() -> Self {
        Self {
            connects: Rate::limited(100.0, 1.0),
            sends: Rate::Unlimited,
            twins: Rate::Unlimited,
            throttled: 100.0,
        }
    }
}

impl MqttHubBudgetConfig {
    /// The budget as the core has it.
    pub(in crate::hub) fn whole(&self) -> BudgetConfig {
        let mut budget = BudgetConfig::default();
        budget.connects = self.connects;
        budget.sends = self.sends;
        budget.twins = self.twins;
        budget.throttled = self.throttled;
        budget
    }
}
