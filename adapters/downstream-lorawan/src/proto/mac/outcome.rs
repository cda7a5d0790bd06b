//! What a network makes of a frame, and what it is given to send.

use bytes::Bytes;

use super::super::radio::Transmission;
use crate::event::{DevAddr, DevEui};

/// Is what a frame was.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Heard {
    /// A device joins.
    Join(Join),
    /// A device says something new, or what was lost.
    Uplink(Uplink),
    /// A device says the last thing again, since it heard no answer. It is not delivered again;
    /// [`Network::answer`](super::Network::answer) answers it again.
    Repeat(Repeat),
}

/// Is a device that joins.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Join {
    /// The device.
    pub dev_eui: DevEui,
    /// Its address from now on.
    pub dev_addr: DevAddr,
    /// The join-accept. The session counts once the device has used it: see [`Uplink::first`].
    pub accept: Transmission,
}

/// Is something new that a device said.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Uplink {
    /// The device.
    pub dev_eui: DevEui,
    /// Its address.
    pub dev_addr: DevAddr,
    /// All 32 bits of its counter.
    pub counter: u32,
    /// Its signature, which tells it from others with the same counter: those of other sessions,
    /// and of a device that begins its counters anew.
    pub mic: [u8; 4],
    /// Whether it is the first of its session: the device has joined.
    pub first: bool,
    /// The port, 1 to 255; `None` if it was for the network alone.
    pub port: Option<u8>,
    /// What it says, decrypted.
    pub payload: Bytes,
    /// Whether the device wants an acknowledgement. [`Network::answer`](super::Network::answer)
    /// gives it, once [`Network::settle`](super::Network::settle) was told that the message was
    /// taken.
    pub confirmed: bool,
    /// Whether the device lets the network choose its data rate.
    pub adr: bool,
    /// What became of the last confirmed downlink, if one was waiting for this uplink.
    pub delivery: Option<Delivery>,
    /// How the device is, if it was asked.
    pub status: Option<DeviceStatus>,
    /// Whether the device waits for an answer, even without a message for it, or will once it is
    /// settled.
    pub answer_due: bool,
}

/// Is the last thing a device said, again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repeat {
    /// The device.
    pub dev_eui: DevEui,
    /// All 32 bits of its counter.
    pub counter: u32,
    /// What became of the last confirmed downlink: the device did not hear it, or it would not
    /// repeat itself.
    pub delivery: Option<Delivery>,
    /// Whether the device waits for an answer, even without a message for it, or will once it is
    /// settled.
    pub answer_due: bool,
}

/// Is what became of a confirmed downlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The message's number.
    pub id: u64,
    /// Whether the device has it. If not, it may still: its acknowledgement can be lost.
    pub acknowledged: bool,
}

/// Is how a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceStatus {
    /// 0 is a power supply, 1 to 254 a battery's charge, 255 unknown.
    pub battery: u8,
    /// How much better than needed it hears, dB, -32 to 31.
    pub margin: i8,
}

/// Is a message for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The caller's number for it.
    pub id: u64,
    /// Its port, 1 to 223.
    pub port: u8,
    /// What it says.
    pub payload: Bytes,
    /// Whether the device shall acknowledge it.
    pub confirmed: bool,
}

impl Message {
    /// Makes a message that wants no acknowledgement.
    #[must_use]
    pub fn new(id: u64, port: u8, payload: impl Into<Bytes>) -> Self {
        Self {
            id,
            port,
            payload: payload.into(),
            confirmed: false,
        }
    }

    /// Sets whether the device shall acknowledge it.
    #[must_use]
    pub fn with_confirmed(mut self, confirmed: bool) -> Self {
        self.confirmed = confirmed;
        self
    }
}

/// Says why a frame is no device's of this network, or nothing that may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is no frame of LoRaWAN 1.0.
    #[error("the frame is malformed")]
    Malformed,
    /// It is of a kind that is not for this server: a downlink, a rejoin, a proprietary one.
    #[error("the frame is of a kind that is not for this network")]
    Kind,
    /// A device joins that is not known, or names another JoinEUI than it should.
    #[error("no device {0} is known that joins so")]
    UnknownDevice(DevEui),
    /// A join was not signed with the device's key.
    #[error("the join of {0} is not signed with its key")]
    JoinMic(DevEui),
    /// A join was heard before.
    #[error("the join of {0} uses a DevNonce again: it is replayed, or the device forgets")]
    NonceUsed(DevEui),
    /// A device has joined 16,777,216 times.
    #[error("{0} has used all its joins: give it a new key")]
    Exhausted(DevEui),
    /// No session has the address.
    #[error("no session has the address {0}")]
    UnknownAddress(DevAddr),
    /// It is replayed, changed, too far ahead, another one with the counter of the last, or another
    /// network's.
    #[error("no session with the address {0} has signed this frame")]
    Mic(DevAddr),
}

/// Says why a message cannot be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The device is not known, or has no session.
    #[error("{0} has no session: it must join first")]
    NoSession(DevEui),
    /// The device has said nothing since its last answer, or its window has passed; it cannot hear.
    #[error("{0} does not listen before it has said something")]
    NoWindow(DevEui),
    /// The device cannot hear at any time.
    #[error("{0} is not of class C")]
    NotClassC(DevEui),
    /// It can never be sent.
    #[error("port {0} is not for applications: 1 to 223 are")]
    Port(u8),
    /// It does not fit what the device can hear now; `max` bytes would.
    #[error("the message is too long for the data rate: {max} bytes fit")]
    TooLong {
        /// Bytes that fit.
        max: usize,
    },
    /// Another confirmed message has not been acknowledged yet.
    #[error("message {0} waits to be acknowledged")]
    Waiting(u64),
    /// The session has used all its counters.
    #[error("the session of {0} is used up: it must join again")]
    Exhausted(DevEui),
}
