//! An uplink's sections, encoded by hand (AMQP 1.0, section 3.2).
//!
//! Every message goes through here. What the types of `fe2o3-amqp-types` would cost on the way, a
//! copy of each text and a serializer's bookkeeping, is more than all the rest of sending it.

use bytes::BufMut;
use gateway_core::{Uplink, rfc3339};

/// System properties that IoT Hub takes as application properties or annotations.
const CREATED_AT: &str = "iothub-creation-time-utc";
const SCHEMA: &str = "iothub-message-schema";
const COMPONENT: &str = "dt-subject";

const MESSAGE_ANNOTATIONS: u8 = 0x72;
const PROPERTIES: u8 = 0x73;
const APPLICATION_PROPERTIES: u8 = 0x74;
const DATA: u8 = 0x75;

const NULL: u8 = 0x40;
const LIST8: u8 = 0xc0;
const LIST32: u8 = 0xd0;
const MAP8: u8 = 0xc1;
const MAP32: u8 = 0xd1;
/// A variable-width type's constructor with a length of one byte; that of four is 0x10 above.
const BINARY: u8 = 0xa0;
const STRING: u8 = 0xa1;
const SYMBOL: u8 = 0xa3;

/// Bytes that an encoded uplink may take besides its texts and body; a guess that saves growing.
pub(crate) const OVERHEAD: usize = 128;

/// Writes an uplink's sections.
pub(crate) fn put_uplink(out: &mut Vec<u8>, uplink: &Uplink) {
    let system = &uplink.system;
    if let Some(component) = &system.component {
        section(out, MESSAGE_ANNOTATIONS);
        compound(out, MAP8, MAP32, 2, |out| {
            put(out, SYMBOL, COMPONENT.as_bytes());
            put(out, STRING, component.as_bytes());
        });
    }
    section(out, PROPERTIES);
    // message-id, user-id, to, subject, reply-to, correlation-id, content-type, content-encoding.
    compound(out, LIST8, LIST32, 8, |out| {
        put(out, STRING, uplink.id.as_str().as_bytes());
        put_some(out, BINARY, system.user_id.as_deref());
        out.put_slice(&[NULL, NULL, NULL]);
        put_some(out, STRING, system.correlation_id.as_deref());
        put_some(out, SYMBOL, system.content_type.as_deref());
        put_some(out, SYMBOL, system.content_encoding.as_deref());
    });
    let extra = usize::from(system.created_at.is_some()) + usize::from(system.schema.is_some());
    let entries = uplink.properties.len() + extra;
    if entries > 0 {
        section(out, APPLICATION_PROPERTIES);
        compound(out, MAP8, MAP32, 2 * entries as u32, |out| {
            for (name, value) in uplink.properties.iter() {
                put(out, STRING, name.as_bytes());
                put(out, STRING, value.as_bytes());
            }
            if let Some(created) = system.created_at {
                put(out, STRING, CREATED_AT.as_bytes());
                put(out, STRING, rfc3339(created).as_bytes());
            }
            if let Some(schema) = &system.schema {
                put(out, STRING, SCHEMA.as_bytes());
                put(out, STRING, schema.as_bytes());
            }
        });
    }
    put_data(out, &uplink.body);
}

/// Writes a data section.
pub(crate) fn put_data(out: &mut Vec<u8>, bytes: &[u8]) {
    section(out, DATA);
    put(out, BINARY, bytes);
}

fn section(out: &mut Vec<u8>, code: u8) {
    out.put_slice(&[0x00, 0x53, code]);
}

fn put_some(out: &mut Vec<u8>, constructor: u8, text: Option<&str>) {
    match text {
        Some(text) => put(out, constructor, text.as_bytes()),
        None => out.put_u8(NULL),
    }
}

fn put(out: &mut Vec<u8>, constructor: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(length) => out.put_slice(&[constructor, length]),
        Err(_) => {
            out.put_u8(constructor + 0x10);
            out.put_u32(bytes.len() as u32);
        }
    }
    out.put_slice(bytes);
}

/// Writes a list or map of `count` values in its shortest form.
fn compound(out: &mut Vec<u8>, small: u8, large: u8, count: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_slice(&[large, 0, 0, 0, 0]);
    out.put_u32(count);
    write(out);
    // The size counts what follows it: the count, in its own width, and the values.
    let values = out.len() - start - 9;
    if values < 255 && count < 256 {
        out[start..start + 3].copy_from_slice(&[small, values as u8 + 1, count as u8]);
        out.copy_within(start + 9.., start + 3);
        out.truncate(start + 3 + values);
    } else {
        let size = (values + 4) as u32;
        out[start + 1..start + 5].copy_from_slice(&size.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use fe2o3_amqp_types::messaging::MessageId as WireId;
    use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
    use fe2o3_amqp_types::primitives::{SimpleValue, Symbol, Value};
    use gateway_core::{DeviceId, MessageId, Properties, SystemProperties};
    use proptest::prelude::*;

    use super::*;
    use crate::convert;

    fn text() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            2 => Just(None),
            4 => "[ -~]{0,20}".prop_map(Some),
            1 => "[a-z]{250,300}".prop_map(Some),
        ]
    }

    #[test]
    fn a_time_out_of_range_is_the_nearest_that_can_be_written() {
        for (time, text) in [
            (
                SystemTime::UNIX_EPOCH - Duration::from_secs(1),
                "1970-01-01T00:00:00.000Z",
            ),
            (
                SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40),
                "9999-12-31T23:59:59.000Z",
            ),
        ] {
            let device = DeviceId::new("device").unwrap();
            let mut uplink = Uplink::new(device, MessageId::new("m").unwrap(), "");
            uplink.system.created_at = Some(time);
            let mut out = Vec::new();
            put_uplink(&mut out, &uplink);
            let message = convert::decode(&out).unwrap();
            let application = message.application_properties.unwrap_or_default().0;
            let written = application.get(CREATED_AT);
            assert_eq!(written, Some(&SimpleValue::String(text.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn an_uplink_reads_back_as_it_was_written(
            body in proptest::collection::vec(any::<u8>(), 0..400),
            properties in proptest::collection::hash_map("[a-z]{1,9}", "[ -~]{0,40}", 0..9),
            texts in proptest::array::uniform6(text()),
            created in proptest::option::of(0_u64..4_000_000_000),
        ) {
            let [user_id, correlation_id, content_type, content_encoding, schema, component] = texts;
            let mut system = SystemProperties::default();
            system.user_id = user_id.clone();
            system.correlation_id = correlation_id.clone();
            system.content_type = content_type.clone();
            system.content_encoding = content_encoding.clone();
            system.schema = schema.clone();
            system.component = component.clone();
            system.created_at = created.map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at));
            let mut given = Properties::new();
            properties.iter().for_each(|(name, value)| given.insert(name, value));
            let device = DeviceId::new("device").unwrap();
            let uplink = Uplink::new(device, MessageId::new("an id").unwrap(), body.clone())
                .with_properties(given)
                .with_system(system);

            let mut out = Vec::new();
            put_uplink(&mut out, &uplink);
            let message = convert::decode(&out).unwrap();
            let sections = message.properties.unwrap();
            prop_assert_eq!(sections.message_id, Some(WireId::String("an id".to_owned())));
            prop_assert_eq!(sections.user_id.map(|id| id.into_vec()), user_id.map(String::into_bytes));
            prop_assert_eq!(sections.correlation_id, correlation_id.map(WireId::String));
            prop_assert_eq!(sections.content_type.map(|symbol| symbol.0), content_type);
            prop_assert_eq!(sections.content_encoding.map(|symbol| symbol.0), content_encoding);
            let mut application = message.application_properties.unwrap_or_default().0;
            let mut taken = |name: &str| match application.swap_remove(name) {
                Some(SimpleValue::String(text)) => Some(text),
                other => other.map(|other| format!("{other:?}")),
            };
            prop_assert_eq!(taken(SCHEMA), schema);
            prop_assert_eq!(taken(CREATED_AT).is_some(), created.is_some());
            for (name, value) in properties {
                prop_assert_eq!(taken(&name), Some(value));
            }
            prop_assert!(application.is_empty());
            let annotations = message.message_annotations.unwrap_or_default();
            let subject = annotations.get(&Symbol::from(COMPONENT) as &dyn AnnotationKey);
            prop_assert_eq!(subject.cloned(), component.map(Value::String));
            prop_assert_eq!(&convert::body(message.body)[..], &body[..]);
        }
    }
}
