//! Messages and calls as the service side gives them to the hub.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::device::Fate;
use super::feedback::Ack;
use super::keys;
use super::queue::C2dOutcome;

/// A cloud-to-device message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct C2d {
    /// The body.
    #[serde(with = "keys::base64_bytes")]
    pub body: Bytes,
    /// The message id; none by default.
    pub message_id: Option<String>,
    /// The correlation id; none by default.
    pub correlation_id: Option<String>,
    /// The user id; none by default.
    pub user_id: Option<Vec<u8>>,
    /// When it was made, as its sender says; none by default.
    pub creation_time: Option<SystemTime>,
    /// The content type; none by default.
    pub content_type: Option<String>,
    /// The content encoding; none by default.
    pub content_encoding: Option<String>,
    /// Application properties; none by default.
    pub properties: BTreeMap<String, String>,
    /// How long the message waits for its device; one hour by default.
    pub ttl: Option<Duration>,
    /// What its sender gave another type than text.
    pub(crate) typed: Option<Box<Typed>>,
}

/// Fields of a message that are no texts, as AMQP encodes them, for a receiver that knows types.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Typed {
    pub(crate) message_id: Option<Vec<u8>>,
    pub(crate) correlation_id: Option<Vec<u8>>,
    /// Application properties by name.
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
}

impl C2d {
    /// Makes a message of a body alone.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// Sets the message id.
    #[must_use]
    pub fn with_message_id(mut self, id: impl Into<String>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Sets the correlation id.
    #[must_use]
    pub fn with_correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Adds an application property.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Sets what the sender wants to be told; it is told by a feedback message.
    #[must_use]
    pub fn with_ack(self, ack: Ack) -> Self {
        self.with_property(Ack::PROPERTY, ack.as_str())
    }

    /// What the sender wants to be told: the application property `iothub-ack`.
    pub(crate) fn ack(&self) -> Ack {
        let asked = self.properties.get(Ack::PROPERTY);
        asked.map_or(Ack::None, |text| Ack::parse(text))
    }

    /// The size as the hub meters it, in bytes: body, system properties, names and values of
    /// application properties (Microsoft, "Create and read IoT Hub messages").
    pub(crate) fn size(&self) -> usize {
        let system = [
            &self.message_id,
            &self.correlation_id,
            &self.content_type,
            &self.content_encoding,
        ];
        let system = system.into_iter().flatten().map(String::len);
        let user_id = self.user_id.as_ref().map_or(0, Vec::len);
        let properties = self.properties.iter();
        let properties = properties.map(|(name, value)| name.len() + value.len());
        self.body.len() + user_id + system.chain(properties).sum::<usize>()
    }

    /// When it expires, if its sender has said so and time reaches that far.
    pub(crate) fn expiry(&self, enqueued: SystemTime) -> Option<SystemTime> {
        enqueued.checked_add(self.ttl?)
    }

    /// Sets how long the message waits for its device.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The hub does not take a cloud-to-device message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum C2dError {
    /// No such device is registered (404001).
    #[error("the device is not registered")]
    UnknownDevice,
    /// The device's queue is full (403004).
    #[error("the device's queue is full")]
    QueueFull,
    /// Body and properties are together over 64 KB (413001).
    #[error("the message is over 64 KB")]
    TooLarge,
    /// The hub is of the basic tier, which has no messages to devices.
    #[error("the hub is of the basic tier, which has no messages to devices")]
    BasicTier,
}

/// A cloud-to-device message on its way; ask it what became of the message.
#[derive(Debug, Clone)]
pub struct C2dTicket {
    fate: Arc<Fate>,
}

impl C2dTicket {
    pub(crate) fn new(fate: Arc<Fate>) -> Self {
        Self { fate }
    }

    /// Waits until the message has left the queue.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost by dropping the future, ask again.
    pub async fn outcome(&self) -> C2dOutcome {
        let mut outcome = self.fate.outcome.subscribe();
        loop {
            if let Some(outcome) = *outcome.borrow_and_update() {
                return outcome;
            }
            // The sender lives as long as `self.fate`.
            if outcome.changed().await.is_err() {
                return C2dOutcome::Purged;
            }
        }
    }

    /// The outcome, if there is one yet.
    #[must_use]
    pub fn outcome_now(&self) -> Option<C2dOutcome> {
        *self.fate.outcome.borrow()
    }

    /// How often the message was handed to the device.
    #[must_use]
    pub fn delivery_count(&self) -> u32 {
        self.fate.deliveries.load(Ordering::Relaxed)
    }
}

/// A device's answer to a direct method.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodResponse {
    /// The status the device chose.
    pub status: i32,
    /// The payload, JSON by convention; empty if the device sent none.
    pub payload: Bytes,
}

/// A direct method has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// The device does not listen to methods (404103).
    #[error("the device is not online")]
    DeviceNotOnline,
    /// As many methods of the device wait for an answer as may (403800).
    #[error("too many methods of the device wait for an answer")]
    TooMany,
    /// The device did not answer in time (504101).
    #[error("the device did not answer in time")]
    TimedOut,
    /// No such device is registered (404001).
    #[error("the device is not registered")]
    UnknownDevice,
    /// The name is empty or has a character that no method's name has.
    #[error("the name is none that a method can have")]
    InvalidName,
    /// The payload is over 128 KB.
    #[error("the payload is over 128 KB")]
    TooLarge,
    /// The hub is of the basic tier, which has no methods.
    #[error("the hub is of the basic tier, which has no methods")]
    BasicTier,
}
