//! The service side: cloud-to-device messages from an application.

use std::time::{Duration, SystemTime};

use super::unreadable;
use crate::amqp::AmqpError;
use crate::amqp::address::c2d_recipient;
use crate::amqp::codec::encode::Outcome;
use crate::amqp::codec::message::{Sections, display, display_id};
use crate::amqp::codec::read::{self, Value};
use crate::amqp::core::Core;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::message::{C2d, C2dError, Typed};
use crate::hub::throttle::Operation;

/// Puts an application's message into the queue of the device or module that its `to` names.
pub(crate) fn enqueue(core: &mut Core, message: &[u8]) -> Outcome {
    parse(core, message)
        .and_then(|(recipient, message)| {
            core.throttle(Operation::C2dSend, 1)?;
            let mut state = core.hub.state();
            let error = match state.enqueue(&recipient, message, core.now) {
                Ok(_fate) => return Ok(()),
                Err(C2dError::UnknownDevice) => {
                    HubError::not_registered(&recipient, state.registry.short_name())
                }
                Err(error) => error.into(),
            };
            drop(state);
            Err(core.refusal(&error))
        })
        .into()
}

fn parse(core: &Core, message: &[u8]) -> Result<(String, C2d), AmqpError> {
    let sections = Sections::decode(message).map_err(unreadable)?;
    let properties = sections.properties().map_err(unreadable)?;
    let recipient = properties.to.and_then(c2d_recipient).ok_or_else(|| {
        let text = "The message's 'to' names no device.";
        core.refusal(&HubError::new(ErrorCode::ArgumentInvalid, text))
    })?;
    let mut c2d = C2d::new(sections.body().map_err(unreadable)?);
    c2d.message_id = display_id(properties.message_id);
    c2d.correlation_id = display_id(properties.correlation_id);
    c2d.user_id = properties.user_id.map(<[u8]>::to_vec);
    c2d.content_type = properties.content_type.map(str::to_owned);
    c2d.content_encoding = properties.content_encoding.map(str::to_owned);
    c2d.creation_time = properties.creation_time.map(time);
    c2d.ttl = properties.absolute_expiry_time.map(|millis| {
        let left = time(millis).duration_since(core.now.system);
        left.unwrap_or_default()
    });
    let mut typed = Typed {
        message_id: typed_id(properties.message_id),
        correlation_id: typed_id(properties.correlation_id),
        ..Typed::default()
    };
    sections
        .each_raw_application_property(|name, value, raw| {
            if let Some(text) = display(value) {
                c2d.properties.insert(name.to_owned(), text);
                if !matches!(value, Value::Str(_)) {
                    typed.properties.insert(name.to_owned(), raw.to_owned());
                }
            }
        })
        .map_err(unreadable)?;
    c2d.typed = (typed != Typed::default()).then(|| typed.into());
    Ok((recipient, c2d))
}

/// An id as encoded, unless it is a text.
fn typed_id(raw: Option<&[u8]>) -> Option<Vec<u8>> {
    let raw = raw?;
    let is_text = matches!(read::value(raw), Ok(Value::Str(_)));
    (!is_text).then(|| raw.to_owned())
}

/// The time of a timestamp; what lies before 1970 is 1970.
fn time(millis: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    SystemTime::UNIX_EPOCH
        .checked_add(since)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
