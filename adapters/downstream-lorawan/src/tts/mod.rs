//! For fleets on The Things Stack v3 (The Things Network, The Things Industries): its messages and
//! downlinks in JSON.
//!
//! [`decode`], [`push`] and [`clear`] are pure; [`mqtt`] speaks with its MQTT server, and [`http`]
//! takes what its webhooks post, and posts downlinks. Sources: The Things Stack v3.32
//! `api/ttn/lorawan/v3/messages.proto` and `pkg/applicationserver/io/{mqtt,web}`.
//!
//! A downlink has no name there, but correlation ids that come back in everything that is told of
//! it; one of them is its name here.

#[cfg(feature = "cloud")]
mod connect;
mod down;
mod up;

use bytes::Bytes;

use crate::cloud::{DecodeError, Told};
use crate::event::Downlink;

#[cfg(feature = "cloud")]
pub use connect::{TtsConfig, TtsWebhookConfig, http, mqtt};

/// Reads a message. What is told of downlinks that are not from here is nothing.
///
/// # Errors
/// It is not what it should be, or its payload is encrypted end to end.
pub fn decode(body: &[u8]) -> Result<Told, DecodeError> {
    serde_json::from_slice::<up::ApplicationUp>(body)?.told()
}

/// Writes the request that puts a downlink into the device's queue, behind what is there (`push`),
/// or in the place of it (`replace`).
#[must_use]
pub fn push(downlink: &Downlink) -> Bytes {
    down::encode(Some(downlink))
}

/// Writes the request that empties the device's queue (`replace`).
#[must_use]
pub fn clear() -> Bytes {
    down::encode(None)
}
