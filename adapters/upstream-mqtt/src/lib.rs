//! Carries devices to a hub over MQTT 3.1.1 or 5, in one of two dialects.
//!
//! | | [`MqttHubUpstream`] | [`MqttPoolUpstream`] |
//! | --- | --- | --- |
//! | the hub | Azure IoT Hub, or what speaks as it does | any broker |
//! | connections | one for each device, opened on demand | few, for all devices |
//! | who is judged | the device, by its token | the gateway, by its own login |
//! | topics | the hub's | templates |
//! | see | | [`pooled`] |
//!
//! | module | what it holds |
//! | --- | --- |
//! | `client` | one MQTT connection: what is sent is settled at its acknowledgement, never before |
//! | `error` | what can go wrong, and what can be done about it |
//! | `hub` | Azure IoT Hub's own dialect |
//! | [`pooled`] | any broker as the hub |
//!
//! # What a client must get right
//! Each has a test in `client/tests`, `tests/` or beside the code:
//! - `send` is Ok at PUBACK: an entry in a ledger of one's own from the call to the broker's word;
//! - when the connection ends, or a new one finds no session, every open entry fails at once; nothing
//!   is sent again behind the caller's back, so that order and identifiers of two connections never
//!   mix;
//! - an acknowledgement that does not come ends the wait, and the connection, whose identifier it
//!   holds;
//! - acknowledgements in another order, or twice, settle what they name and nothing else;
//! - a connection that fails is tried again after a wait with jitter that grows until one has lasted;
//! - what comes is acknowledged after its verdict;
//! - topics and texts that a broker would close the connection for never leave.
//!
//! # What MQTT cannot do
//! A message from the hub is acknowledged or it is not: there is neither reject nor abandon. MQTT
//! 3.1.1 has no word for a refused message: the broker acknowledges it all the same, or closes.
//!
//! # The client
//!
//! Connections are this crate's own; `rumqttc` gives the packets that are written. Its event loop is
//! not used: "published" means queued there, what was not acknowledged is dropped without a word when
//! a session is fresh, what comes is acknowledged before anybody has seen it, an acknowledgement out
//! of turn stops the sending, and it connects again without a pause. Here each message has an entry
//! from the call to its PUBACK, which fails with the connection; each of those traps has a test that
//! bears its name, and so have the faults of the codec's reader, which is not used either.
//!
//! What gathers is written at once. Both clients in one run of `mqtt_publish` (in `benches`), 4
//! connections with 100 messages of 64 bytes in flight each, two cores with other work on them,
//! release build, Linux:
//!
//! | broker | client | CPU a settled message | messages a second |
//! | --- | --- | --- | --- |
//! | one that only acknowledges | this | 0.85 us | 990,000 |
//! | the same | `rumqttc` 0.25 | 2.45 us | 220,000 |
//! | Mosquitto 2.0.11 | this | 5.1 us | 48,000 |
//! | the same | `rumqttc` 0.25 | 4.5 us | 34,000 |
//!
//! Mosquitto acknowledges each message in a system call of its own, so that there is nothing to
//! gather: there the two cost the same within what runs differ by (5.6 and 6.1 us in another). With
//! one message in flight on each of 200 connections it is 8.0 and 9.1 us. A connection at rest takes
//! 3.9 KiB of memory here, and 48 KiB with `rumqttc`.

mod client;
mod error;
mod hub;
mod lock;
pub mod pooled;

pub use hub::{
    MqttCommandConfig, MqttHubBudgetConfig, MqttHubConfig, MqttHubStats, MqttHubUpstream,
    MqttHubWireConfig, MqttReconnectConfig, MqttTokenConfig, MqttTransport,
};
pub use pooled::{
    MqttEncoding, MqttEventTopic, MqttPoolCommands, MqttPoolConfig, MqttPoolStats, MqttPoolTopics,
    MqttPoolUpstream, MqttPoolWire, MqttSubscriptions, MqttVersion,
};

/// What fuzz targets feed. Not part of the interface: it changes at will.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::client::fuzzing::{feed_client, play_client, read_packets};
    pub use crate::hub::fuzzing::read_hub_topic;
    pub use crate::pooled::fuzzing::{read_publish, read_topics};
}

/// What benchmarks compare with other clients. Not part of the interface: it changes at will.
#[doc(hidden)]
pub mod internal {
    pub use crate::client::bench::{MqttClient, read_packets, write_publish};
}
