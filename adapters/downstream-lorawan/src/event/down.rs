//! What goes to devices.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use gateway_core::MessageId;
use serde::Deserialize;
use tokio::time::Instant;

use super::DevEui;

/// Names a downlink in everything that is told of it. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DownlinkId(Arc<str>);

impl DownlinkId {
    /// Makes an id of any text.
    #[must_use]
    pub fn new(id: impl AsRef<str>) -> Self {
        Self(id.as_ref().into())
    }

    /// Makes a random one in the form of a UUID, which ChirpStack asks for.
    ///
    /// # Panics
    /// The system has no random source.
    #[must_use]
    pub fn random() -> Self {
        let random = MessageId::random();
        let digits = random.as_str();
        let groups = [
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
        ];
        Self(format!("{}-{}", groups.join("-"), &digits[20..]).into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DownlinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for DownlinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says which of a device's downlinks goes first; equal ones go in the order they came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Priority {
    /// After all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// Says when a downlink is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timing {
    /// In a receive window of the device's last uplink (class A).
    Window {
        /// After this it is too late for that uplink.
        closes: Instant,
    },
    /// At once, on the parameters of RX2 (class C).
    Immediate,
}

/// Is what a network server is asked to send to a device.
///
/// It is to tell what became of it, by this id: a [`TransmitAck`](super::TransmitAck), for a
/// confirmed one a [`DeviceAck`](super::DeviceAck) as well, or a
/// [`DownlinkFailed`](super::DownlinkFailed).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Downlink {
    /// Its name.
    pub id: DownlinkId,
    /// The device.
    pub dev_eui: DevEui,
    /// The application's port, 1 to 223.
    pub port: u8,
    /// The payload, not encrypted.
    pub payload: Bytes,
    /// Whether the device is to confirm it.
    pub confirmed: bool,
    /// Which goes first, for a network server that has a queue of its own.
    pub priority: Priority,
    /// When to send it.
    pub timing: Timing,
    /// Nobody waits for it any more after this; a network server that still holds it drops it.
    pub expires: Instant,
    /// Whether more waits for this device: the network server sets FPending, so that the device
    /// opens another window soon.
    pub more_pending: bool,
    /// Whether everything that the network server still holds for this device is to be dropped
    /// first.
    pub flush: bool,
}

impl Downlink {
    /// Makes an unconfirmed downlink that goes at once.
    #[must_use]
    pub fn new(dev_eui: DevEui, port: u8, payload: impl Into<Bytes>, expires: Instant) -> Self {
        Self {
            id: DownlinkId::random(),
            dev_eui,
            port,
            payload: payload.into(),
            confirmed: false,
            priority: Priority::default(),
            timing: Timing::Immediate,
            expires,
            more_pending: false,
            flush: false,
        }
    }
}
