//! A downstream for LoRaWAN devices.
//!
//! Each device appears in the hub as itself, under its DevEUI; commands reach it in its receive
//! windows; and the hub learns what became of each one on air.
//!
//! Where there is no network server, a small one is [here](server) (feature `server`, on by
//! default). Fleets on ChirpStack or The Things Stack are reached by [`chirpstack`] and [`tts`]
//! (feature `cloud`, on by default). Any other network server [embeds](embed) the gateway: it hands
//! in what [happens](event), and gets downlinks when their [window](schedule) is open.
//! [Payloads](payload) are read by a codec of the device's maker. Who comes from the Azure LoRaWAN
//! starter kit finds its names [here](starter_kit). What a network server itself is
//! made of, without IO or a clock, is in [`proto`].

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
