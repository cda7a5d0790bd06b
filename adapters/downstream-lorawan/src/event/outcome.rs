//! What became of downlinks.

use super::{DevEui, DownlinkId};

/// Tells why a concentrator did not send a frame, in the packet forwarders' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransmitError {
    /// It came after its time.
    TooLate,
    /// It came too long before its time.
    TooEarly,
    /// Another frame is sent at that time.
    CollisionPacket,
    /// A beacon is sent at that time.
    CollisionBeacon,
    /// The concentrator cannot send on that frequency.
    Frequency,
    /// The concentrator cannot send at that power.
    Power,
    /// The concentrator has lost GPS, by which the frame was timed.
    GpsUnlocked,
    /// The concentrator's queue is full.
    QueueFull,
    /// The concentrator has used up its share of the air.
    DutyCycle,
    /// Something else.
    Other,
}

/// Is what a concentrator said of a frame: it is on the air, or why not.
pub type TransmitResult = Result<(), TransmitError>;

/// Tells that a concentrator has sent a downlink, or could not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransmitAck {
    /// The device.
    pub dev_eui: DevEui,
    /// The downlink.
    pub downlink: DownlinkId,
    /// What became of it. Failed only if no other window or concentrator is tried.
    pub result: TransmitResult,
    /// The counter that it carried.
    pub frame_counter: Option<u32>,
    /// The concentrator.
    pub gateway: Option<String>,
}

impl TransmitAck {
    /// Makes one.
    #[must_use]
    pub fn new(dev_eui: DevEui, downlink: DownlinkId, result: TransmitResult) -> Self {
        Self {
            dev_eui,
            downlink,
            result,
            frame_counter: None,
            gateway: None,
        }
    }
}

/// Tells whether a device confirmed a downlink.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceAck {
    /// The device.
    pub dev_eui: DevEui,
    /// The downlink.
    pub downlink: DownlinkId,
    /// Whether it did; false only if it is not sent again.
    pub acknowledged: bool,
    /// The counter that the downlink carried.
    pub frame_counter: Option<u32>,
}

impl DeviceAck {
    /// Makes one.
    #[must_use]
    pub fn new(dev_eui: DevEui, downlink: DownlinkId, acknowledged: bool) -> Self {
        Self {
            dev_eui,
            downlink,
            acknowledged,
            frame_counter: None,
        }
    }
}

/// Tells why a downlink never came to a concentrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureReason {
    /// The payload is longer than the data rate carries now. It fits again when the device comes
    /// nearer, but nobody knows when.
    TooLong,
    /// The network takes no downlink on this port.
    BadPort,
    /// The network server knows no such device, or has no session with it.
    UnknownDevice,
    /// It expired in the network server's queue.
    Expired,
    /// No concentrator could be reached.
    NoGateway,
    /// The network server has too much to do.
    Busy,
    /// The network server refuses it and would do so again.
    Refused,
    /// Something else.
    Other,
}

/// Tells that a downlink ended before it came to a concentrator.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DownlinkFailed {
    /// The device.
    pub dev_eui: DevEui,
    /// The downlink.
    pub downlink: DownlinkId,
    /// Why.
    pub reason: FailureReason,
}

impl DownlinkFailed {
    /// Makes one.
    #[must_use]
    pub fn new(dev_eui: DevEui, downlink: DownlinkId, reason: FailureReason) -> Self {
        Self {
            dev_eui,
            downlink,
            reason,
        }
    }
}
