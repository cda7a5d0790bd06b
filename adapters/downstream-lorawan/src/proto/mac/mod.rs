//! A small LoRaWAN 1.0.x network server, pure.
//!
//! [`Collector`] makes one frame of what several concentrators heard; [`Network`] knows the
//! devices, judges the frame, and makes what is answered. Neither has a clock: time is an argument.
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
