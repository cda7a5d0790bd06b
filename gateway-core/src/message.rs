//! What travels: uplinks, downlinks, and the answers to both.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{DownstreamError, ErrorKind, UpstreamError};
use crate::id::{CorrelationId, DeviceId, MessageId, MethodName};
use crate::properties::Properties;

/// Holds the properties of a message that the hub itself gives a meaning to.
///
/// Source: Microsoft, "Create and read IoT Hub messages", system properties.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SystemProperties {
    /// Ties this message to another, for instance an answer to its request.
    pub correlation_id: Option<String>,
    /// Media type of the body, such as `application/json`; the hub routes on it.
    pub content_type: Option<String>,
    /// Encoding of the body, such as `utf-8`; the hub routes on it.
    pub content_encoding: Option<String>,
    /// Who made the message, in the application's own terms.
    pub user_id: Option<String>,
    /// When the device made the message (`iothub-creation-time-utc`).
    pub created_at: Option<SystemTime>,
    /// Schema of the body (`iothub-message-schema`).
    pub schema: Option<String>,
    /// Plug-and-play component that sent the message (`dt-subject`).
    pub component: Option<String>,
}

/// Is a message from a device to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uplink {
    /// The device that speaks.
    pub device: DeviceId,
    /// The message's id, the same on every retry.
    pub id: MessageId,
    /// The body. Azure IoT Hub takes 256 KiB a message, properties included.
    pub body: Bytes,
    /// Properties with a meaning to the hub.
    pub system: SystemProperties,
    /// Properties with a meaning to the application.
    pub properties: Properties,
}

impl SystemProperties {
    /// The texts that are there.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        let texts = [
            &self.correlation_id,
            &self.content_type,
            &self.content_encoding,
            &self.user_id,
            &self.schema,
            &self.component,
        ];
        texts.into_iter().flatten().map(String::as_str)
    }
}

impl Uplink {
    /// Makes an uplink without properties.
    #[must_use]
    pub fn new(device: DeviceId, id: MessageId, body: impl Into<Bytes>) -> Self {
        Self {
            device,
            id,
            body: body.into(),
            system: SystemProperties::default(),
            properties: Properties::new(),
        }
    }

    /// Counts bytes as hubs do: the body, the id, values of system properties, names and values of the
    /// others.
    #[must_use]
    pub fn size(&self) -> usize {
        let system: usize = self.system.texts().map(str::len).sum();
        let properties = self.properties.iter();
        let properties: usize = properties
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.body.len() + self.id.as_str().len() + system + properties
    }

    /// Sets the application properties.
    #[must_use]
    pub fn with_properties(mut self, properties: Properties) -> Self {
        self.properties = properties;
        self
    }

    /// Sets the system properties.
    #[must_use]
    pub fn with_system(mut self, system: SystemProperties) -> Self {
        self.system = system;
        self
    }

    /// Sets media type and encoding of the body.
    #[must_use]
    pub fn with_content(mut self, media_type: &str, encoding: Option<&str>) -> Self {
        self.system.content_type = Some(media_type.to_owned());
        self.system.content_encoding = encoding.map(str::to_owned);
        self
    }
}

/// Tells a downstream what became of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a device must be told what became of its message"]
#[non_exhaustive]
pub enum Settlement {
    /// The hub has accepted the message; only now may the device be told so.
    Accepted,
    /// The hub will never take this message from this device.
    Rejected(ErrorKind),
    /// The hub has not taken the message, but may take it after this time.
    RetryLater(Duration),
}

/// How long a device is asked to wait when nobody said how long.
pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<&UpstreamError> for Settlement {
    fn from(error: &UpstreamError) -> Self {
        use ErrorKind::*;
        match error.kind() {
            kind @ (Rejected | Unauthorized | UnknownDevice | TooLarge | Unsupported) => {
                Self::Rejected(kind)
            }
            Closed | Disconnected | Displaced | Throttled | TimedOut | Other => {
                Self::RetryLater(error.retry_after().unwrap_or(DEFAULT_RETRY_AFTER))
            }
        }
    }
}

/// Is a message from the hub to a device (C2D).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloudMessage {
    /// The device it is meant for.
    pub device: DeviceId,
    /// The message's id, if its sender gave one.
    pub id: Option<String>,
    /// The body, at most 64 KiB on Azure IoT Hub.
    pub body: Bytes,
    /// Properties with a meaning to the hub.
    pub system: SystemProperties,
    /// Properties with a meaning to the application.
    pub properties: Properties,
    /// How often the hub has given it out before; 0 at the first time.
    ///
    /// Every [`Disposition::Abandon`] and, on some hubs, every lapsed deadline counts up. From 1 on
    /// the device may have the message already. Azure IoT Hub gives it up at 10 by default.
    pub delivery_count: u32,
    /// Its place in the device's queue, where the hub counts.
    pub sequence: Option<u64>,
    /// By when it must be settled. The upstream sets it short of the time at which the hub's lock
    /// lapses (60 s on Azure IoT Hub), so that the verdict still counts; who has none by then gets
    /// [`Disposition::Abandon`], even if the device has it and only its confirmation is late.
    pub deadline: Instant,
}

impl CloudMessage {
    /// Makes a message without properties, to be settled before the deadline.
    #[must_use]
    pub fn new(device: DeviceId, body: impl Into<Bytes>, deadline: Instant) -> Self {
        Self {
            device,
            id: None,
            body: body.into(),
            system: SystemProperties::default(),
            properties: Properties::new(),
            delivery_count: 0,
            sequence: None,
            deadline,
        }
    }

    /// Sets the message's id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
}

/// Settles a [`CloudMessage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "the hub waits for the verdict"]
pub enum Disposition {
    /// The device has it; the hub forgets it.
    Complete,
    /// It can never be delivered; the hub dead-letters it.
    Reject,
    /// It could not be delivered now; the hub tries again.
    Abandon,
}

/// Is a request from the hub that a device answers (direct method).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodCall {
    /// The device that is called.
    pub device: DeviceId,
    /// Ties the answer to this call.
    pub request: CorrelationId,
    /// The method's name.
    pub name: MethodName,
    /// The argument, JSON on Azure IoT Hub; empty where there is none.
    pub payload: Bytes,
    /// When nobody waits for the answer any more: the upstream takes it from the request, or from
    /// its configuration where the hub does not say. An answer after it is dropped and counted.
    pub deadline: Instant,
}

impl MethodCall {
    /// Makes a call.
    #[must_use]
    pub fn new(
        device: DeviceId,
        request: CorrelationId,
        name: MethodName,
        payload: impl Into<Bytes>,
        deadline: Instant,
    ) -> Self {
        Self {
            device,
            request,
            name,
            payload: payload.into(),
            deadline,
        }
    }
}

/// Answers a [`MethodCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodReply {
    /// The device's status, in the manner of HTTP: 200 is success.
    pub status: i32,
    /// The answer, JSON on Azure IoT Hub; empty where there is none.
    pub payload: Bytes,
}

impl MethodReply {
    /// Makes a reply.
    #[must_use]
    pub fn new(status: i32, payload: impl Into<Bytes>) -> Self {
        Self {
            status,
            payload: payload.into(),
        }
    }

    /// Makes a reply that the gateway gives in a device's place: 404 not connected, as Azure IoT
    /// Hub itself says it, 501 not supported, 503 not now, 504 no answer in time; the payload names
    /// the reason.
    #[must_use]
    pub fn from_error(error: &DownstreamError) -> Self {
        use ErrorKind::*;
        let status = match error.kind() {
            UnknownDevice | Displaced => 404,
            TooLarge => 413,
            Rejected | Unauthorized => 403,
            Unsupported => 501,
            TimedOut => 504,
            Closed | Disconnected | Throttled => 503,
            Other => 500,
        };
        Self::new(status, format!("{{\"error\":\"{}\"}}", error.kind()))
    }
}

/// Brings a change of a device's desired properties.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DesiredPatch {
    /// The device it is meant for.
    pub device: DeviceId,
    /// The version that the desired properties have after the change; 0 where the hub does not
    /// count. A device gets only versions that grow, with gaps where changes came as one; only a
    /// [whole](Self::is_whole) set may have a lower one, where the hub made the twin anew.
    pub version: u64,
    /// Whether the body is all desired properties instead of a change: what is not in it is not
    /// desired any more. So it is after changes were missed, as while the hub was out of reach.
    pub is_whole: bool,
    /// The change, a JSON object; see [`properties`](Self::properties).
    pub body: Bytes,
}

impl DesiredPatch {
    /// Makes a patch.
    #[must_use]
    pub fn new(device: DeviceId, version: u64, body: impl Into<Bytes>) -> Self {
        Self {
            device,
            version,
            is_whole: false,
            body: body.into(),
        }
    }

    /// Marks the body as all desired properties.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.is_whole = true;
        self
    }
}

/// Tells that the hub ended a device's session: nothing more comes until it is attached anew.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionEnd {
    /// The device concerned.
    pub device: DeviceId,
    /// Why: `Unauthorized` (token expired, device disabled), `Displaced` (another client took the
    /// device over), `UnknownDevice` (deleted).
    pub reason: ErrorKind,
    /// What to tell the device or its maker besides, in a sentence, where there is more to say.
    pub detail: Option<&'static str>,
}

impl SessionEnd {
    /// Makes the notice.
    #[must_use]
    pub fn new(device: DeviceId, reason: ErrorKind) -> Self {
        Self {
            device,
            reason,
            detail: None,
        }
    }

    /// Makes the notice that the token which the device presented has lapsed.
    #[must_use]
    pub fn expired(device: DeviceId) -> Self {
        Self::new(device, ErrorKind::Unauthorized)
            .with_detail("the device's token has expired; it must present a new one")
    }

    /// Sets what to tell the device or its maker besides.
    #[must_use]
    pub fn with_detail(mut self, detail: &'static str) -> Self {
        self.detail = Some(detail);
        self
    }
}

/// Is anything that goes to a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Downlink {
    /// A cloud-to-device message, settled by what [`Downstream::send`](crate::Downstream::send)
    /// returns.
    Message(CloudMessage),
    /// A direct method, answered with [`Delivered::Answered`].
    Method(MethodCall),
    /// A change of the desired properties.
    Desired(DesiredPatch),
    /// The hub ended the device's session; close the device's connection if it has one.
    End(SessionEnd),
}

impl Downlink {
    /// The device it is meant for.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Message(message) => &message.device,
            Self::Method(call) => &call.device,
            Self::Desired(patch) => &patch.device,
            Self::End(end) => &end.device,
        }
    }
}

/// Tells the truth about how far a downlink came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Delivered {
    /// The device answered (a method).
    Answered(MethodReply),
    /// The device confirmed that it has it.
    Acknowledged,
    /// It was sent, and the protocol has no confirmation.
    Sent,
}

/// Asks the hub about a device's twin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TwinRequest {
    /// Reads desired and reported properties.
    Get,
    /// Merges a JSON object into the reported properties; `null` deletes.
    PatchReported(Bytes),
}

/// Answers a [`TwinRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TwinReply {
    /// A JSON object with `desired` and `reported` after `Get`, else empty; see
    /// [`twin`](Self::twin).
    pub body: Bytes,
    /// The version of the reported properties after a patch, where the hub says it.
    pub version: Option<u64>,
}

impl TwinReply {
    /// Makes a reply.
    #[must_use]
    pub fn new(body: impl Into<Bytes>, version: Option<u64>) -> Self {
        Self {
            body: body.into(),
            version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lasting_refusal_rejects_an_uplink() {
        let settle = |kind| Settlement::from(&UpstreamError::new(kind, "send"));
        assert_eq!(
            settle(ErrorKind::TooLarge),
            Settlement::Rejected(ErrorKind::TooLarge)
        );
        assert_eq!(
            settle(ErrorKind::Disconnected),
            Settlement::RetryLater(DEFAULT_RETRY_AFTER)
        );
        assert_eq!(
            settle(ErrorKind::Other),
            Settlement::RetryLater(DEFAULT_RETRY_AFTER)
        );
    }
}
