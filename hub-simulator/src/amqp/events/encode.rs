//! Events as they are read: the message as it came, with the hub's stamps for annotations.

use bytes::{BufMut, Bytes, BytesMut};

use crate::amqp::codec::message::{MessageWriter, OutProperties, annotated};
use crate::amqp::codec::read::Fields;
use crate::amqp::codec::{code, write};
use crate::clock::unix_millis;
use crate::hub::events::{Event, Last, Read};
use crate::hub::record::Accepted;
use crate::hub::state::Now;

/// Room for the stamps of an event, mostly.
const STAMPS: usize = 512;

/// Encodes telemetry that came by another protocol.
pub(crate) fn telemetry(message: &Accepted) -> Bytes {
    let id = |id: &Option<String>| {
        id.as_ref().map(|id| {
            let mut encoded = BytesMut::new();
            write::string(&mut encoded, id);
            encoded
        })
    };
    let (message_id, correlation_id) = (id(&message.message_id), id(&message.correlation_id));
    let pairs = |texts: &std::collections::BTreeMap<_, _>| u32::try_from(texts.len()).unwrap_or(0);
    let mut writer = MessageWriter::default();
    if !message.annotations.is_empty() {
        writer = writer.annotations(pairs(&message.annotations), |out| {
            for (name, value) in &message.annotations {
                write::symbol(out, name);
                write::string(out, value);
            }
        });
    }
    writer = writer.properties(&OutProperties {
        message_id: message_id.as_deref(),
        user_id: message.user_id.as_deref().map(str::as_bytes),
        correlation_id: correlation_id.as_deref(),
        content_type: message.content_type.as_deref(),
        content_encoding: message.content_encoding.as_deref(),
        ..OutProperties::default()
    });
    if !message.properties.is_empty() {
        writer = writer.application(pairs(&message.properties), |out| {
            for (name, value) in &message.properties {
                write::string(out, name);
                write::string(out, value);
            }
        });
    }
    writer.data(&message.body).finish()
}

/// Encodes an event for a reader, with the state of the partition if the reader wants to know it.
pub(super) fn event(read: &Read, metrics: Option<Now>) -> Bytes {
    let event = &read.event;
    let parts = annotated(event.message());
    let mut out = BytesMut::with_capacity(STAMPS + event.message().len());
    if let Some(now) = metrics {
        write::descriptor(&mut out, code::DELIVERY_ANNOTATIONS);
        write::map(&mut out, 4, |out| put_metrics(out, &read.last, now));
    }
    write::descriptor(&mut out, code::MESSAGE_ANNOTATIONS);
    write::counted_map(&mut out, |out| {
        put_stamps(out, event, read.sequence) + put_own(out, parts.annotations)
    });
    for section in parts.others {
        out.put_slice(section);
    }
    out.freeze()
}

/// What the Event Hubs clients read as properties of the last enqueued event.
fn put_metrics(out: &mut BytesMut, last: &Last, now: Now) {
    write::symbol(out, "last_enqueued_sequence_number");
    write::long(out, last.sequence);
    write::symbol(out, "last_enqueued_offset");
    write::string(out, &last.offset.to_string());
    write::symbol(out, "last_enqueued_time_utc");
    write::timestamp(out, last.enqueued);
    write::symbol(out, "runtime_info_retrieval_time_utc");
    write::timestamp(out, unix_millis(now.system));
}

/// The annotations that the hub sets (Microsoft, "Create and read IoT Hub messages"); returns how
/// many there are.
fn put_stamps(out: &mut BytesMut, event: &Event, sequence: i64) -> u32 {
    let stamps = &event.stamps;
    let mut pairs = 9;
    let text = |out: &mut BytesMut, name: &str, value: &str| {
        write::symbol(out, name);
        write::string(out, value);
    };
    // As the real hub was seen to send it since event hubs can be replicated.
    write::symbol(out, "x-opt-sequence-number-epoch");
    write::int(out, -1);
    write::symbol(out, "x-opt-sequence-number");
    write::long(out, sequence);
    text(out, "x-opt-offset", &event.offset.to_string());
    write::symbol(out, "x-opt-enqueued-time");
    write::timestamp(out, event.enqueued);
    text(out, "iothub-connection-device-id", &stamps.device_id);
    if let Some(module) = &stamps.module_id {
        text(out, "iothub-connection-module-id", module);
        pairs += 1;
    }
    text(out, "iothub-connection-auth-method", stamps.auth_method);
    text(
        out,
        "iothub-connection-auth-generation-id",
        &stamps.generation_id,
    );
    write::symbol(out, "iothub-enqueuedtime");
    write::timestamp(out, event.enqueued);
    text(out, "iothub-message-source", "Telemetry");
    if let Some(model) = &stamps.model_id {
        text(out, "dt-dataschema", model);
        pairs += 1;
    }
    pairs
}

/// The annotations that the device set, but for those that only the hub sets; returns how many.
fn put_own(out: &mut BytesMut, annotations: Option<Fields<'_>>) -> u32 {
    let Some(mut fields) = annotations else {
        return 0;
    };
    let mut pairs = 0;
    while !fields.is_empty() {
        let (Ok((name, raw_name)), Ok((_, value))) = (fields.next_raw(), fields.next_raw()) else {
            break;
        };
        if name.text().is_some_and(|name| !is_reserved(name)) {
            out.put_slice(raw_name);
            out.put_slice(value);
            pairs += 1;
        }
    }
    pairs
}

fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 3] = [
        "iothub-enqueuedtime",
        "iothub-message-source",
        "dt-dataschema",
    ];
    let starts = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    starts("x-opt-")
        || starts("iothub-connection-")
        || NAMES.iter().any(|own| name.eq_ignore_ascii_case(own))
}
