//! What a station is told when it has come.

use serde::Serialize;
use serde_json::Value;

use super::super::mac::{Region, RegionName};

/// Is what a station needs in order to listen (`router_config`).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub struct RouterConfig {
    msgtype: &'static str,
    #[serde(rename = "NetID")]
    net_ids: Option<Vec<u32>>,
    #[serde(rename = "JoinEui")]
    join_euis: Option<Vec<(u64, u64)>>,
    region: &'static str,
    hwspec: String,
    freq_range: (u32, u32),
    #[serde(rename = "DRs")]
    data_rates: [(i8, u16, u8); 16],
    sx1301_conf: Vec<Value>,
    nocca: bool,
    nodc: bool,
    nodwell: bool,
}

impl RouterConfig {
    /// Makes the configuration for stations in a region. How its radios are tuned
    /// (`sx1301_conf`, one object for each) depends on the hardware and the channels: it is
    /// handed through as it is. `None` for a region that stations do not know.
    ///
    /// Without filters, a station forwards what it hears from every network.
    #[must_use]
    pub fn new(region: &Region, sx1301_conf: Vec<Value>) -> Option<Self> {
        // As in the station's `kwlist.txt`; what is not there, it ignores, and sends as quietly as it
        // may anywhere.
        let (name, freq_range) = match region.name() {
            RegionName::Eu868 => ("EU863", (863_000_000, 870_000_000)),
            RegionName::Us915 => ("US902", (902_000_000, 928_000_000)),
            RegionName::Au915 => ("AU915", (915_000_000, 928_000_000)),
            RegionName::As923 => ("AS923-1", (915_000_000, 928_000_000)),
            RegionName::In865 => ("IN865", (865_000_000, 867_000_000)),
            RegionName::Kr920 => ("KR920", (920_900_000, 923_300_000)),
            _ => return None,
        };
        Some(Self {
            msgtype: "router_config",
            net_ids: None,
            join_euis: None,
            region: name,
            hwspec: format!("sx1301/{}", sx1301_conf.len().max(1)),
            freq_range,
            data_rates: region.station_data_rates(),
            sx1301_conf,
            nocca: false,
            nodc: false,
            nodwell: false,
        })
    }

    /// Lets stations forward frames of these networks alone (lowest seven bits of a NetID).
    #[must_use]
    pub fn with_net_ids(mut self, net_ids: Vec<u32>) -> Self {
        self.net_ids = Some(net_ids);
        self
    }

    /// Lets stations forward joins to these ranges of JoinEUI alone, ends included.
    #[must_use]
    pub fn with_join_euis(mut self, ranges: Vec<(u64, u64)>) -> Self {
        self.join_euis = Some(ranges);
        self
    }

    /// Sets another hardware's name than `sx1301/` and the number of its boards.
    #[must_use]
    pub fn with_hwspec(mut self, hwspec: impl Into<String>) -> Self {
        self.hwspec = hwspec.into();
        self
    }

    /// Writes the message.
    #[must_use]
    pub fn encode(&self) -> String {
        // Every key is a text and every number finite: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}
