//! A small LoRaWAN 1.0.x network server, pure.
//!
//! [`Collector`] makes one frame of what several concentrators heard; [`Network`] knows the
//! devices, judges the frame, and makes what is answered. Neither has a clock: time is an argument.
//!
//! ```
//! # use std::time::Duration;
//! # use gateway_downstream_lorawan::proto::gwmp::{Body, Datagram, TxRequest};
//! # use gateway_downstream_lorawan::proto::mac::*;
//! /// From a datagram to the datagrams that answer it.
//! fn handle(
//!     datagram: &Datagram,
//!     collector: &mut Collector,
//!     network: &mut Network,
//!     now: Duration,
//!     since_unix: Duration,
//! ) -> Vec<Vec<u8>> {
//!     if let Body::PushData(data) = &datagram.body {
//!         for packet in &data.packets {
//!             if let Some(reception) = packet.reception(datagram.gateway, network.region()) {
//!                 collector.hear(now, packet.frame.clone(), reception);
//!             }
//!         }
//!     }
//!     let mut answers = Vec::new();
//!     while let Some(heard) = collector.next(now) {
//!         let answer = match network.hear(&heard, since_unix) {
//!             Ok(Heard::Join(join)) => Some(join.accept),
//!             // Store `network.record(..)`, tell the hub, and say what it made of it; then answer.
//!             Ok(Heard::Uplink(uplink)) => {
//!                 network.settle(uplink.dev_eui, uplink.counter, uplink.mic, true);
//!                 network.answer(uplink.dev_eui, None, false).ok().flatten()
//!             }
//!             Ok(Heard::Repeat(repeat)) => {
//!                 network.answer(repeat.dev_eui, None, false).ok().flatten()
//!             }
//!             Ok(_) | Err(_) => None,
//!         };
//!         let request = answer.and_then(|answer| {
//!             let window = answer.windows.first()?;
//!             TxRequest::new(&answer, window)
//!         });
//!         answers.extend(request.map(|request| request.encode([0, 1])));
//!     }
//!     answers
//! }
//! ```
//!
//! Sources: TS001-1.0.4 and LoRaWAN 1.0.3 for frames, RP002-1.0.x for regions.

mod adr;
mod collector;
mod commands;
mod counter;
mod downlink;
mod join;
mod network;
mod outcome;
mod profile;
mod region;
mod session;
#[cfg(test)]
mod tests;
mod uplink;

pub use collector::{Collected, Collector, CopyKind};
pub use network::{Network, NetworkConfig, WindowConfig};
pub use outcome::{
    Delivery, DeviceStatus, Heard, Join, Message, Refusal, Repeat, SendError, Uplink,
};
pub use profile::{Activation, Class, DeviceProfile, NonceRule};
pub use region::{Region, RegionError, RegionName};

use std::time::Duration;

/// The GPS epoch, 6 January 1980, since the Unix epoch.
const GPS_EPOCH: Duration = Duration::from_secs(315_964_800);
/// Leap seconds since the GPS epoch; the last was in 2016, and none is announced.
const LEAP_SECONDS: Duration = Duration::from_secs(18);

/// Returns the time since the GPS epoch, as devices and stations want it told, of a time since the
/// Unix epoch.
#[must_use]
pub fn gps_time(since_unix: Duration) -> Duration {
    since_unix
        .saturating_add(LEAP_SECONDS)
        .saturating_sub(GPS_EPOCH)
}

/// Returns the time since the Unix epoch of a time since the GPS epoch.
#[must_use]
pub fn unix_time(since_gps_epoch: Duration) -> Duration {
    since_gps_epoch
        .saturating_add(GPS_EPOCH)
        .saturating_sub(LEAP_SECONDS)
}
