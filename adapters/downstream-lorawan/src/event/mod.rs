//! What a network server tells of its devices, and what it is asked to send to them.
//!
//! The types are the union of what ChirpStack, The Things Stack and packet forwarders say, in the
//! words of LoRaWAN (TS001-1.0.4). Text and lists in them come from the network: whoever makes them
//! bounds them; [`Uplink::validate`] checks what this crate relies on.

mod down;
mod id;
mod outcome;
mod up;

pub use down::{Downlink, DownlinkId, Priority, Timing};
pub use id::{DevAddr, DevEui, ParseEuiError};
pub use outcome::{
    DeviceAck, DownlinkFailed, FailureReason, TransmitAck, TransmitError, TransmitResult,
};
pub use up::{
    Battery, InvalidUplink, Join, Located, Location, Log, LogLevel, Reception, Status, Uplink,
};

pub use crate::proto::Modulation;

/// Is anything that a network server tells.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A device sent a frame.
    Uplink(Uplink),
    /// A device joined.
    Join(Join),
    /// A concentrator sent a downlink, or could not.
    TransmitAck(TransmitAck),
    /// A device confirmed a downlink, or did not.
    DeviceAck(DeviceAck),
    /// A downlink ended before it came to a concentrator.
    DownlinkFailed(DownlinkFailed),
    /// A device told its battery and link margin.
    Status(Status),
    /// A device was located.
    Located(Located),
    /// Something happened that a person may want to know.
    Log(Log),
}

impl Event {
    /// The device that it is about.
    #[must_use]
    pub fn dev_eui(&self) -> DevEui {
        match self {
            Self::Uplink(event) => event.dev_eui,
            Self::Join(event) => event.dev_eui,
            Self::TransmitAck(event) => event.dev_eui,
            Self::DeviceAck(event) => event.dev_eui,
            Self::DownlinkFailed(event) => event.dev_eui,
            Self::Status(event) => event.dev_eui,
            Self::Located(event) => event.dev_eui,
            Self::Log(event) => event.dev_eui,
        }
    }
}
