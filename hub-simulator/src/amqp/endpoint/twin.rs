//! Twins over AMQP: requests in on one link, answers and notifications out on the other.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde_json::json;

use super::unreadable;
use crate::amqp::AmqpError;
use crate::amqp::codec::message::{MessageWriter, OutProperties, Sections};
use crate::amqp::codec::read::Value;
use crate::amqp::codec::write;
use crate::amqp::core::Core;
use crate::amqp::link::Outgoing;
use crate::hub::device::Feed;
use crate::hub::peer::Subscriber;
use crate::hub::throttle::Operation;
use crate::hub::twin::TwinError;

const REPORTED_PROPERTIES: &str = "/properties/reported";
const DESIRED_NOTIFICATIONS: &str = "/notifications/twin/properties/desired";

/// What the hub answers: a status, and a version or a body where there is one.
#[derive(Default)]
struct Answer {
    status: i32,
    version: Option<u64>,
    body: Option<Bytes>,
}

impl Answer {
    fn ok() -> Self {
        Self {
            status: 200,
            ..Self::default()
        }
    }

    fn error(status: i32, text: &str) -> Self {
        let body = json!({ "errorCode": status * 1000, "message": text }).to_string();
        Self {
            status,
            body: Some(body.into()),
            ..Self::default()
        }
    }
}

/// Carries out a twin request; `replies` is where the device's twin messages go.
pub(crate) fn answer(
    core: &mut Core,
    device: &Arc<str>,
    replies: Option<Subscriber>,
    message: &[u8],
) -> Result<Outgoing, AmqpError> {
    let sections = Sections::decode(message).map_err(unreadable)?;
    let correlation_id = sections.properties().map_err(unreadable)?.correlation_id;
    let annotation = |name| {
        sections
            .annotation(name)
            .and_then(Value::text)
            .unwrap_or_default()
    };
    let (operation, resource) = (annotation("operation"), annotation("resource"));
    let throttled = match operation {
        "GET" => core.throttle(Operation::TwinRead, 1),
        "PATCH" => core.throttle(Operation::TwinUpdate, 1),
        _ => Ok(()),
    };
    if let Err(error) = throttled {
        let answer = Answer::error(429, &error.description);
        return Ok(encode(correlation_id, &answer));
    }
    let is_desired = resource.eq_ignore_ascii_case(DESIRED_NOTIFICATIONS);
    let is_report = operation == "PATCH" && resource.eq_ignore_ascii_case(REPORTED_PROPERTIES);
    // While nobody has to wait.
    let report = match is_report {
        true => Some(read_patch(&sections.body().map_err(unreadable)?)),
        false => None,
    };
    let mut state = core.hub.state();
    let answer = match (operation, report) {
        (_, Some(patch)) => {
            let patched = patch.and_then(|patch| state.patch_reported(device, &patch));
            match patched {
                Ok(version) => Answer {
                    status: core.hub.limits.twin_report_status,
                    version: Some(version),
                    ..Answer::ok()
                },
                Err(error) => Answer::error(400, &error.to_string()),
            }
        }
        ("GET", _) => match state.twin(device) {
            Some(twin) => Answer {
                body: Some(twin.to_string().into()),
                ..Answer::ok()
            },
            None => Answer::error(404, "The device is not registered."),
        },
        ("PUT", _) if is_desired => {
            if let Some(subscriber) = replies {
                state.subscribe(device, Feed::Desired, subscriber);
            }
            Answer::ok()
        }
        ("DELETE", _) if is_desired => {
            if let Some(subscriber) = &replies {
                state.unsubscribe(device, Feed::Desired, subscriber);
            }
            Answer::ok()
        }
        _ => Answer::error(400, "No such twin operation."),
    };
    drop(state);
    core.hub.stir();
    tracing::debug!(device.id = %device, operation, resource, status = answer.status, "Twin request");
    Ok(encode(correlation_id, &answer))
}

fn read_patch(body: &[u8]) -> Result<serde_json::Value, TwinError> {
    serde_json::from_slice(body).map_err(|_| TwinError::new("The patch is not JSON."))
}

fn encode(correlation_id: Option<&[u8]>, answer: &Answer) -> Outgoing {
    let writer = MessageWriter::default()
        .annotations(
            1 + u32::from(answer.version.is_some()),
            |out: &mut BytesMut| {
                write::symbol(out, "status");
                write::int(out, answer.status);
                if let Some(version) = answer.version {
                    write::symbol(out, "version");
                    write::long(out, i64::try_from(version).unwrap_or(i64::MAX));
                }
            },
        )
        .properties(&OutProperties {
            correlation_id,
            ..OutProperties::default()
        });
    let writer = match &answer.body {
        Some(body) => writer.data(body),
        None => writer,
    };
    Outgoing::new(writer.finish(), true)
}

/// Encodes a change of desired properties: no correlation id tells it from an answer.
pub(crate) fn encode_desired(patch: &[u8]) -> Outgoing {
    let message = MessageWriter::default()
        .annotations(1, |out| {
            write::symbol(out, "resource");
            write::string(out, "/properties/desired");
        })
        .data(patch)
        .finish();
    Outgoing::new(message, true)
}
