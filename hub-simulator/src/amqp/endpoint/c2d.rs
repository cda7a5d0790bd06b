//! Cloud-to-device messages on their way to a device or module.

use bytes::{BufMut, Bytes, BytesMut};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::amqp::codec::message::{MessageWriter, OutProperties};
use crate::amqp::codec::write;
use crate::clock::unix_millis;
use crate::hub::identity;
use crate::hub::message::Typed;
use crate::hub::state::Delivery;

/// Encodes a message as the hub delivers it (Microsoft, "Read cloud-to-device messages").
pub(crate) fn encode(recipient: &str, delivery: &Delivery) -> Bytes {
    let message = &delivery.message;
    let plain = Typed::default();
    let typed = message.typed.as_deref().unwrap_or(&plain);
    let message_id = id(message.message_id.as_ref(), typed.message_id.as_ref());
    let correlation_id = id(
        message.correlation_id.as_ref(),
        typed.correlation_id.as_ref(),
    );
    let to = address(recipient);
    let properties = OutProperties {
        message_id: message_id.as_deref(),
        user_id: message.user_id.as_deref(),
        to: Some(&to),
        correlation_id: correlation_id.as_deref(),
        content_type: message.content_type.as_deref(),
        content_encoding: message.content_encoding.as_deref(),
        absolute_expiry_time: message.expiry(delivery.enqueued).map(unix_millis),
        creation_time: message.creation_time.map(unix_millis),
    };
    let writer = MessageWriter::default()
        .annotations(3, |out| {
            write::symbol(out, "x-opt-sequence-number");
            write::ulong(out, delivery.sequence);
            write::symbol(out, "iothub-enqueuedtime");
            write::timestamp(out, unix_millis(delivery.enqueued));
            write::symbol(out, "iothub-deliverycount");
            write::ubyte(out, u8::try_from(delivery.deliveries).unwrap_or(u8::MAX));
        })
        .properties(&properties);
    let count = u32::try_from(message.properties.len()).unwrap_or(u32::MAX);
    let writer = if count == 0 {
        writer
    } else {
        writer.application(count, |out| {
            for (name, value) in &message.properties {
                write::string(out, name);
                match typed.properties.get(name) {
                    Some(raw) => out.put_slice(raw),
                    None => write::string(out, value),
                }
            }
        })
    };
    writer.data(&message.body).finish()
}

/// An id encoded: with the type it came with, or as a string.
fn id(text: Option<&String>, typed: Option<&Vec<u8>>) -> Option<BytesMut> {
    let mut encoded = BytesMut::new();
    match typed {
        Some(raw) => encoded.put_slice(raw),
        None => write::string(&mut encoded, text?),
    }
    Some(encoded)
}

/// Where the hub says a message goes: `/devices/{id}/messages/deviceBound`.
fn address(recipient: &str) -> String {
    let (device, module) = identity::split(recipient);
    let encoded = |id| utf8_percent_encode(id, COMPONENT);
    let device = encoded(device);
    match module.map(encoded) {
        None => format!("/devices/{device}/messages/deviceBound"),
        Some(module) => format!("/devices/{device}/modules/{module}/messages/deviceBound"),
    }
}

/// What a path segment keeps unencoded.
const COMPONENT: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
