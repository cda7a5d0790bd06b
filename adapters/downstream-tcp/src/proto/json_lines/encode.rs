//! From what the gateway says to a frame's text.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut as _, BytesMut};
use gateway_core::{CloudMessage, ErrorKind, MethodCall, Properties};
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// Is any message to a device.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Frame<'a> {
    Welcome {
        id: &'a str,
    },
    Nack {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    C2d {
        tag: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body_base64: Option<&'a str>,
        #[serde(serialize_with = "as_object")]
        properties: &'a Properties,
        #[serde(skip_serializing_if = "Option::is_none")]
        content_type: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        correlation_id: Option<&'a str>,
        delivery_count: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence: Option<u64>,
    },
    Method {
        id: u64,
        name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload_base64: Option<&'a str>,
        timeout_ms: u64,
    },
    Desired {
        version: u64,
        #[serde(skip_serializing_if = "is_false")]
        whole: bool,
        patch: &'a RawValue,
    },
    Twin {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        body: Option<&'a RawValue>,
    },
    TwinPatched {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    Error {
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
    },
    Bye {
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    Pong,
}

impl Frame<'_> {
    /// What is told where there is no room for all of it.
    pub(super) fn in_short(&self) -> Option<Self> {
        match *self {
            Self::Twin { id, body: Some(_) } => Some(Self::Nack {
                id,
                seq: None,
                reason: ErrorKind::TooLarge.as_str(),
                detail: None,
                retry_after_ms: None,
            }),
            Self::Nack {
                id,
                seq,
                reason,
                detail: Some(_),
                retry_after_ms,
            } => Some(Self::Nack {
                id,
                seq,
                reason,
                detail: None,
                retry_after_ms,
            }),
            Self::Error {
                reason,
                detail: Some(_),
            } => Some(Self::Error {
                reason,
                detail: None,
            }),
            _ => None,
        }
    }

    pub(super) fn append_to(&self, output: &mut BytesMut) {
        let start = output.len();
        if let Err(error) = serde_json::to_writer(output.writer(), self) {
            // Only a serializer with a fault of its own fails on memory and text keys.
            tracing::error!(error = %error, "Frame could not be written");
            output.truncate(start);
        }
    }
}

/// Appends an `ack`, which is most of what is ever written, without the detour by way of serde.
pub(super) fn append_ack(id: &str, seq: Option<u64>, output: &mut BytesMut) {
    output.extend_from_slice(br#"{"type":"ack","id":"#);
    append_text(id, output);
    if let Some(seq) = seq {
        output.extend_from_slice(br#","seq":"#);
        output.extend_from_slice(seq.to_string().as_bytes());
    }
    output.put_u8(b'}');
}

/// Appends a text in quotes, escaped where it has to be (RFC 8259, section 7).
fn append_text(text: &str, output: &mut BytesMut) {
    if text
        .bytes()
        .any(|byte| byte < b' ' || byte == b'"' || byte == b'\\')
    {
        output.extend_from_slice(Value::from(text).to_string().as_bytes());
        return;
    }
    output.put_u8(b'"');
    output.extend_from_slice(text.as_bytes());
    output.put_u8(b'"');
}

fn is_false(value: &bool) -> bool {
    !value
}

fn as_object<S: Serializer>(properties: &Properties, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(properties.iter())
}

/// The time in whole milliseconds, rounded up.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The text as JSON, if it is.
pub(super) fn json(text: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(text).ok()
}

/// The text, if it is JSON, without line breaks and other control characters, which JSON may have
/// between its tokens only (RFC 8259, sections 2 and 7), so that no delimiter stands in a frame.
pub(super) fn one_line(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    json(text)?;
    Some(match text.iter().any(|byte| *byte < b' ') {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.iter().copied().filter(|byte| *byte >= b' ').collect()),
    })
}

/// Shows bytes as JSON where they are, else in base64.
fn with_bytes<R>(bytes: &[u8], show: impl FnOnce(Option<&RawValue>, Option<&str>) -> R) -> R {
    match one_line(bytes) {
        Some(text) => show(json(&text), None),
        None => show(None, Some(&BASE64.encode(bytes))),
    }
}

pub(super) fn with_message<R>(
    tag: u64,
    message: &CloudMessage,
    write: impl FnOnce(&Frame<'_>) -> R,
) -> R {
    with_bytes(&message.body, |body, body_base64| {
        write(&Frame::C2d {
            tag,
            id: message.id.as_deref(),
            body,
            body_base64,
            properties: &message.properties,
            content_type: message.system.content_type.as_deref(),
            correlation_id: message.system.correlation_id.as_deref(),
            delivery_count: message.delivery_count,
            sequence: message.sequence,
        })
    })
}

pub(super) fn with_method<R>(
    id: u64,
    call: &MethodCall,
    time_left: Duration,
    write: impl FnOnce(&Frame<'_>) -> R,
) -> R {
    let (name, timeout_ms) = (call.name.as_str(), millis(time_left));
    if call.payload.is_empty() {
        let (payload, payload_base64) = (None, None);
        return write(&Frame::Method {
            id,
            name,
            payload,
            payload_base64,
            timeout_ms,
        });
    }
    with_bytes(&call.payload, |payload, payload_base64| {
        write(&Frame::Method {
            id,
            name,
            payload,
            payload_base64,
            timeout_ms,
        })
    })
}
