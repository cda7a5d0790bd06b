//! Direct methods over AMQP: a call out on one link, the answer in on the other.

use bytes::{Bytes, BytesMut};

use super::unreadable;
use crate::amqp::codec::encode::Outcome;
use crate::amqp::codec::message::{MessageWriter, OutProperties, Sections};
use crate::amqp::codec::read::{self, Value};
use crate::amqp::codec::write;
use crate::amqp::core::Core;
use crate::amqp::link::{Link, Outgoing};
use crate::amqp::{AmqpError, condition};
use crate::guid::Guid;
use crate::hub::message::MethodResponse;
use crate::hub::peer::MethodCall;

/// Encodes a call; the C SDK wants its correlation id to be a uuid.
pub(crate) fn encode(call: &MethodCall) -> Outgoing {
    let mut id = BytesMut::new();
    write::uuid(&mut id, call.id.as_bytes());
    let message = MessageWriter::default()
        .properties(&OutProperties {
            correlation_id: Some(&id),
            ..OutProperties::default()
        })
        .application(1, |out| {
            write::string(out, "IoThub-methodname");
            write::string(out, &call.name);
        })
        .data(&call.payload)
        .finish();
    Outgoing {
        call: Some(call.id),
        ..Outgoing::new(message, true)
    }
}

/// Hands a device's answer to whoever waits for it.
pub(crate) fn take_answer(core: &mut Core, link: &Link, message: &[u8]) -> Outcome {
    parse_answer(message)
        .and_then(|(call, response)| {
            let Some(device) = &link.device else {
                return Ok(());
            };
            tracing::debug!(device.id = %device, status = response.status, "Device answered a method");
            let taken = core.hub.state().answer_method(device, call, response);
            taken.map_err(|error| core.refusal(&error))
        })
        .into()
}

fn parse_answer(message: &[u8]) -> Result<(Guid, MethodResponse), AmqpError> {
    let invalid = |text| AmqpError::new(condition::INVALID_FIELD, text);
    let sections = Sections::decode(message).map_err(unreadable)?;
    let id = sections.properties().map_err(unreadable)?.correlation_id;
    let id = match id.map(read::value).transpose().map_err(unreadable)? {
        Some(Value::Uuid(bytes)) => Some(Guid::from_bytes(bytes)),
        Some(Value::Str(text)) => Guid::parse(text),
        _ => None,
    };
    let id = id.ok_or_else(|| {
        invalid("A method's answer needs the uuid of its call as correlation-id.")
    })?;
    let status = match sections.application_property("IoThub-status") {
        Some(Value::Signed(status)) => i32::try_from(status).ok(),
        Some(Value::Unsigned(status)) => i32::try_from(status).ok(),
        Some(Value::Str(text)) => text.parse().ok(),
        _ => None,
    };
    let status = status.ok_or_else(|| invalid("A method's answer needs an IoThub-status."))?;
    let payload: Bytes = sections.body().map_err(unreadable)?;
    Ok((id, MethodResponse { status, payload }))
}
