//! The service side: cloud-to-device messages from an application.

use std::time::{Duration, SystemTime};

use super::unreadable;
use crate::amqp::AmqpError;
use crate::amqp::address::c2d_recipient;
use crate::amqp::codec::encode::Outcome;
use crate::amqp::codec::message::{Sections, display_id};
use crate::amqp::core::Core;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::message::C2d;
use crate::hub::throttle::Operation;

/// Puts an application's message into the queue of the device that its `to` names.
pub(crate) fn enqueue(core: &mut Core, message: &[u8]) -> Outcome {
    parse(core, message)
        .and_then(|(device, message)| {
            core.throttle(Operation::C2dSend, 1)?;
            let sent = core.hub.state().enqueue(&device, message, core.now);
            sent.map(drop).map_err(|error| core.refusal(&error.into()))
        })
        .into()
}

fn parse(core: &Core, message: &[u8]) -> Result<(String, C2d), AmqpError> {
    let sections = Sections::decode(message).map_err(unreadable)?;
    let properties = sections.properties().map_err(unreadable)?;
    let device = properties.to.and_then(c2d_recipient).ok_or_else(|| {
        let text = "The message's 'to' names no device.";
        core.refusal(&HubError::new(ErrorCode::ArgumentInvalid, text))
    })?;
    let mut c2d = C2d::new(sections.body().map_err(unreadable)?);
    c2d.message_id = display_id(properties.message_id);
    c2d.correlation_id = display_id(properties.correlation_id);
    c2d.content_type = properties.content_type.map(str::to_owned);
    c2d.content_encoding = properties.content_encoding.map(str::to_owned);
    c2d.ttl = properties.absolute_expiry_time.map(|millis| {
        let expiry = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
        let now = core
            .now
            .system
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        expiry.saturating_sub(now)
    });
    sections
        .each_application_property(|name, value| {
            c2d.properties.insert(name.to_owned(), value);
        })
        .map_err(unreadable)?;
    Ok((device, c2d))
}
