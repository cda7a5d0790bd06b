//! How a concentrator is.

use serde::Deserialize;

/// Is what a concentrator says of itself every 30 seconds or so (`stat`).
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct GatewayStatus {
    /// Its time, such as `2014-01-12 08:59:28 GMT`.
    pub time: Option<String>,
    /// Latitude, degrees north.
    #[serde(rename = "lati")]
    pub latitude: Option<f64>,
    /// Longitude, degrees east.
    #[serde(rename = "long")]
    pub longitude: Option<f64>,
    /// Altitude, metres.
    #[serde(rename = "alti")]
    pub altitude: Option<f64>,
    /// Frames heard.
    #[serde(rename = "rxnb")]
    pub heard: Option<u64>,
    /// Frames heard with a checksum that matched.
    #[serde(rename = "rxok")]
    pub heard_well: Option<u64>,
    /// Frames forwarded.
    #[serde(rename = "rxfw")]
    pub forwarded: Option<u64>,
    /// Percentage of its datagrams that were acknowledged.
    #[serde(rename = "ackr")]
    pub acknowledged: Option<f64>,
    /// Downlinks received.
    #[serde(rename = "dwnb")]
    pub downlinks: Option<u64>,
    /// Downlinks sent on air.
    #[serde(rename = "txnb")]
    pub sent: Option<u64>,
    /// Temperature, degrees Celsius (SX1302 and later).
    #[serde(rename = "temp")]
    pub temperature: Option<f64>,
}
