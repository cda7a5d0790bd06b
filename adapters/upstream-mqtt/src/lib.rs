//! Carries devices to a hub over MQTT 3.1.1 or 5.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`pooled`] | any broker as the hub: few connections carry all devices |
//! | `client` | one MQTT connection: what is sent is settled at its acknowledgement, never before |
//! | `error` | what can go wrong, and what can be done about it |
//! | `tls` | which certificates are trusted |

#[allow(dead_code, reason = "the two dialects that use all of it come next")]
mod client;
#[allow(dead_code, reason = "the two dialects that use all of it come next")]
mod error;
pub mod pooled;
#[allow(dead_code, reason = "the two dialects that use all of it come next")]
mod tls;

pub use pooled::{
    MqttEncoding, MqttEventTopic, MqttPoolCommands, MqttPoolConfig, MqttPoolStats, MqttPoolTopics,
    MqttPoolUpstream, MqttPoolWire, MqttSubscriptions, MqttVersion, Password,
};
