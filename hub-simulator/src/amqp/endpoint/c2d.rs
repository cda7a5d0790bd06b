//! Cloud-to-device messages on their way to a device.

use bytes::{Bytes, BytesMut};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::amqp::codec::message::{MessageWriter, OutProperties};
use crate::amqp::codec::write;
use crate::clock::unix_millis;
use crate::hub::state::Delivery;

/// Encodes a message as the hub delivers it (Microsoft, "Read cloud-to-device messages").
pub(crate) fn encode(device: &str, delivery: &Delivery) -> Bytes {
    let message = &delivery.message;
    let id = |id: &Option<String>| {
        id.as_ref().map(|id| {
            let mut encoded = BytesMut::new();
            write::string(&mut encoded, id);
            encoded
        })
    };
    let (message_id, correlation_id) = (id(&message.message_id), id(&message.correlation_id));
    let device = utf8_percent_encode(device, NON_ALPHANUMERIC_BUT_UNRESERVED);
    let to = format!("/devices/{device}/messages/deviceBound");
    let properties = OutProperties {
        message_id: message_id.as_deref(),
        to: Some(&to),
        correlation_id: correlation_id.as_deref(),
        content_type: message.content_type.as_deref(),
        content_encoding: message.content_encoding.as_deref(),
        ..OutProperties::default()
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
                write::string(out, value);
            }
        })
    };
    writer.data(&message.body).finish()
}

const NON_ALPHANUMERIC_BUT_UNRESERVED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');
