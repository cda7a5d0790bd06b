//! A downstream for LoRaWAN devices.
//!
//! Each device appears in the hub as itself, under its DevEUI or a name of its own; commands reach
//! it in its receive windows; and the hub learns what became of each one on air.
//!
//! Where there is no network server, a small one is [here](server). Fleets on ChirpStack or The
//! Things Stack are reached by [`chirpstack`] and [`tts`]. Any other network server
//! [embeds](embed) the gateway: it hands in what [happens](event), and gets downlinks when their
//! [window](schedule) is open. [Payloads](payload) are read by a codec of the device's maker. Who
//! comes from the Azure LoRaWAN starter kit finds its names [here](starter_kit). What a network
//! server itself is made of, without IO or a clock, is in [`proto`].
//!
//! # Telemetry and messages
//! [`TelemetryForm`](payload::telemetry::TelemetryForm) says what an uplink is to the hub, and
//! [`CommandForm`](payload::command::CommandForm) how a message to a device is read; both are chosen
//! by the device's [profile](embed::ProfileConfig).
//!
//! # Methods
//! | method | argument |
//! | --- | --- |
//! | `send_downlink` | A payload, or a value for the codec, and how it is to go: [`from_method`](payload::command::Request::from_method). |
//! | `cloudToDeviceMessage` | The starter kit's message: [`from_starter_kit`](payload::command::Request::from_starter_kit). |
//! | any other | Any JSON. The device's codec gets `{"<method>": <argument>}`. |
//!
//! | status | answer | when |
//! | --- | --- | --- |
//! | 200 | `{"outcome":"transmitted"}`, `{"outcome":"acknowledged"}` | The command was sent, or confirmed where the [completion](embed::ProfileConfig::completion) wants that. |
//! | 202 | `{"outcome":"queued","request":".."}` | The device sleeps, by [`MethodPolicy::Later`](embed::MethodPolicy::Later). A message of the device, with the property `event` = `command`, says later what became of it: `{"devEui":"..","command":{"method":"..","request":"..","outcome":".."}}`, with `outcome` as above, or `failed` and an `error`. |
//! | 503 | `{"error":"asleep","expectedInSeconds":60}` | The device sleeps, by [`MethodPolicy::Refuse`](embed::MethodPolicy::Refuse); the second field is there if its next window is foreseen. |
//! | 403 | `{"error":".."}` | The argument makes no sense, or the codec refuses it, or it can never be sent. |
//! | 413 | the same | The payload is too long for the data rate. |
//! | 501 | the same | The method is another one, and the device has no codec. |
//! | 404, 503, 504, 500 | the same | The device does not listen; too much waits; no window came in time; the network failed. |
//!
//! # Features
//! | feature | default | |
//! | --- | --- | --- |
//! | `server` | on | the network server, and `starter_kit` |
//! | `cloud` | on | connections to ChirpStack and The Things Stack |
//! | `javascript` | on | codecs in JavaScript; its engine is C, so it needs a C compiler |
//! | `protobuf` | off | ChirpStack's events as protobuf, beside JSON |

pub mod chirpstack;
pub mod cloud;
pub mod embed;
pub mod event;
mod hex;
pub mod payload;
pub mod proto;
pub mod schedule;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod starter_kit;
pub mod tts;

/// What fuzz targets feed. Not part of the interface: it changes at will.
#[cfg(all(feature = "cloud", feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::chirpstack::fuzzing::read_topic;
}
