//! Commands, and how they end.

use std::num::NonZeroU8;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use crate::event::{DevEui, Downlink, DownlinkId, FailureReason, Priority, TransmitError};

/// Says when a device hears.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[non_exhaustive]
pub enum Class {
    /// For a moment after each of its uplinks.
    #[default]
    A,
    /// Always, but while it speaks.
    C,
}

/// Says what must have come for a command to count as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Completion {
    /// A concentrator has sent it; whether the device heard it is not known.
    Transmitted,
    /// The device has confirmed it.
    Acknowledged,
}

/// Says what becomes of commands that wait when a new one comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QueueMode {
    /// They stay.
    #[default]
    Append,
    /// Those for the same port give way: only the newest setting matters.
    Replace,
    /// All give way, and the network server drops what it still holds.
    Flush,
}

/// Is something to be sent to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Command {
    /// Its name on the way.
    pub id: DownlinkId,
    /// The device.
    pub dev_eui: DevEui,
    /// The application's port, 1 to 223.
    pub port: u8,
    /// The payload, at most 242 bytes; what the data rate allows may be less.
    pub payload: Bytes,
    /// Whether the device is to confirm it.
    pub confirmed: bool,
    /// What must have come for it to count as delivered.
    pub completion: Completion,
    /// Which goes first.
    pub priority: Priority,
    /// What becomes of those that wait.
    pub mode: QueueMode,
    /// After this it does not go any more.
    pub expires: Instant,
    /// Uplinks of its device after which it ends as [`Failure::Untold`] if nothing was told of it
    /// since the network server has it; for one that expires so late that others wait too long
    /// behind it. Default: none.
    pub untold: Option<NonZeroU8>,
    /// Names what it was made of, the same when that is given out again: see
    /// [`Schedule::withdraw`](super::Schedule::withdraw). Default: none.
    pub origin: Option<Arc<str>>,
    /// Whether what it was made of was given out before. Default false.
    pub redelivered: bool,
}

impl Command {
    /// The longest payload of any region and data rate, in bytes (RP002-1.0.4).
    pub const MAX_PAYLOAD: usize = 242;

    /// Makes a command that is done when it was transmitted.
    #[must_use]
    pub fn new(dev_eui: DevEui, port: u8, payload: impl Into<Bytes>, expires: Instant) -> Self {
        Self {
            id: DownlinkId::random(),
            dev_eui,
            port,
            payload: payload.into(),
            confirmed: false,
            completion: Completion::Transmitted,
            priority: Priority::default(),
            mode: QueueMode::default(),
            expires,
            untold: None,
            origin: None,
            redelivered: false,
        }
    }

    /// Makes it one that the device confirms, and that is done when it has.
    #[must_use]
    pub fn confirmed(mut self) -> Self {
        self.confirmed = true;
        self.completion = Completion::Acknowledged;
        self
    }

    /// Sets which goes first.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets what becomes of those that wait.
    #[must_use]
    pub fn with_mode(mut self, mode: QueueMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets after how many uplinks of its device it ends if nothing is told of it.
    #[must_use]
    pub fn with_untold(mut self, uplinks: NonZeroU8) -> Self {
        self.untold = Some(uplinks);
        self
    }

    /// Names what it was made of, and tells whether that was given out before.
    #[must_use]
    pub fn with_origin(mut self, origin: impl AsRef<str>, redelivered: bool) -> Self {
        self.origin = Some(origin.as_ref().into());
        self.redelivered = redelivered;
        self
    }

    /// Fails if no device could ever be sent it.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self {
            Self {
                port: 0 | 224.., ..
            } => Err(Failure::BadPort(self.port)),
            _ if self.payload.len() > Self::MAX_PAYLOAD => Err(Failure::TooLong),
            // It would wait for what the device is not asked for.
            Self {
                completion: Completion::Acknowledged,
                confirmed: false,
                ..
            } => Err(Failure::NeverConfirmed),
            _ => Ok(()),
        }
    }
}

/// Is how a command was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// A concentrator has sent it.
    Transmitted,
    /// The device has confirmed it.
    Acknowledged,
}

/// Tells why a command was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The port is none of an application's.
    #[error("port {0} is not an application's; allowed: 1 to 223")]
    BadPort(u8),
    /// The payload is longer than any data rate carries.
    #[error("the payload is longer than {max} bytes", max = Command::MAX_PAYLOAD)]
    TooLong,
    /// It waits for a confirmation that the device is not asked for.
    #[error("an unconfirmed downlink is never acknowledged; ask for a confirmed one")]
    NeverConfirmed,
    /// As many commands as may wait for this device do.
    #[error("the device's queue is full; send it again after the device's next uplink")]
    QueueFull,
    /// A newer command took its place.
    #[error("a newer command took its place")]
    Replaced,
    /// The device's commands were dropped: the hub ended its session, or others needed the room.
    #[error("the device's commands were dropped")]
    Flushed,
    /// Its time was up before the device had it.
    #[error("no receive window came in time")]
    Expired,
    /// No concentrator sent it.
    #[error("it was not transmitted: {0:?}")]
    NotTransmitted(TransmitError),
    /// The network server did not tell what became of it, as long as one waits for that.
    #[error("the network server does not tell what became of it")]
    Untold,
    /// The device did not confirm it.
    #[error("the device did not acknowledge it")]
    NotAcknowledged,
    /// The network server gave it up.
    #[error("the network server gave it up: {0:?}")]
    Network(FailureReason),
}

/// Is what a caller of the schedule has to do.
#[derive(Debug)]
#[must_use = "the network server and those who wait must be told"]
#[non_exhaustive]
pub struct Actions<T> {
    /// Have the network server drop this, if it still can, before it is given another.
    pub withdraw: Option<(DevEui, DownlinkId)>,
    /// Give this to the network server, now.
    pub send: Option<Downlink>,
    /// Tell these how their command ended.
    pub ended: Vec<(T, Result<Outcome, Failure>)>,
}

impl<T> Actions<T> {
    pub(crate) const fn new() -> Self {
        Self {
            withdraw: None,
            send: None,
            ended: Vec::new(),
        }
    }

    /// Tells whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_none() && self.send.is_none() && self.ended.is_empty()
    }

    pub(super) fn end(&mut self, ticket: T, outcome: Result<Outcome, Failure>) {
        self.ended.push((ticket, outcome));
    }
}
