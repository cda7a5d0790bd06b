//! Carries devices to a hub over MQTT 3.1.1 or 5.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `client` | one MQTT connection: what is sent is settled at its acknowledgement, never before |
//! | `error` | what can go wrong, and what can be done about it |
//! | `hub` | Azure IoT Hub's own dialect: one connection for each device |
//! | `tls` | which certificates are trusted |

#[allow(dead_code, reason = "the two dialects that use all of it come next")]
mod client;
#[allow(dead_code, reason = "the two dialects that use all of it come next")]
mod error;
mod hub;
#[allow(dead_code, reason = "the two dialects that use all of it come next")]
mod tls;

pub use hub::{
    MqttCommandConfig, MqttHubBudgetConfig, MqttHubConfig, MqttHubStats, MqttHubUpstream,
    MqttHubWireConfig, MqttReconnectConfig, MqttTokenConfig, MqttTransport,
};

/// What fuzz targets feed. Not part of the interface: it changes at will.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::client::fuzzing::{feed_client, read_packets};
}

/// What benchmarks compare with other clients. Not part of the interface: it changes at will.
#[doc(hidden)]
pub mod internal {
    pub use crate::client::bench::MqttClient;
}
