//! Between the gateway's messages and AMQP's.

pub(crate) mod bench;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fe2o3_amqp_types::messaging::message::__private::{Deserializable, Serializable};
use fe2o3_amqp_types::messaging::{
    ApplicationProperties, Body, Data, Message, MessageId, Properties as Sections, SerializableBody,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Symbol, Timestamp, Value};
use gateway_core::{
    CloudMessage, CorrelationId, DeviceId, MethodCall, MethodName, MethodReply, Properties,
    SystemProperties, Uplink, rfc3339,
};
use tokio::time::Instant;

use crate::client::{ClientError, check_sections};
use crate::error::AmqpError;
use crate::sections::{OVERHEAD, put_data, put_uplink};

/// The largest message the hub takes, properties included, in bytes (Microsoft, "IoT Hub quotas
/// and throttling").
pub(crate) const MAX_UPLINK: usize = 256 * 1024;

/// The most messages in a batch, and the format that says that a message is one, each of its data
/// sections an encoded message (Azure/azure-iot-sdk-csharp, `AmqpConstants.AmqpBatchedMessageFormat`).
const MAX_BATCH: usize = 500;
const BATCH_FORMAT: u32 = 0x8001_3700;

const SCHEMA: &str = "iothub-message-schema";
const METHOD_NAME: &str = "IoThub-methodname";
const METHOD_STATUS: &str = "IoThub-status";

/// Encodes a message's sections.
pub(crate) fn encode<B: SerializableBody>(message: &Message<B>) -> Result<Bytes, AmqpError> {
    match serde_amqp::to_vec(&Serializable(message)) {
        Ok(encoded) => Ok(encoded.into()),
        Err(error) => Err(AmqpError::Unexpected(error.to_string())),
    }
}

/// Decodes what came from the hub.
pub(crate) fn decode(payload: &[u8]) -> Result<Message<Body<Value>>, AmqpError> {
    check_sections(payload)?;
    match serde_amqp::from_slice::<Deserializable<Message<Body<Value>>>>(payload) {
        Ok(message) => Ok(message.0),
        Err(_) => Err(ClientError::Malformed("a message that cannot be decoded").into()),
    }
}

/// Encodes one uplink, or several of one device as a batch, with the format of what it made.
pub(crate) fn uplinks(uplinks: &[Uplink]) -> Result<(Vec<u8>, u32), AmqpError> {
    let size = uplinks.iter().map(Uplink::size).sum();
    if size > MAX_UPLINK || uplinks.len() > MAX_BATCH {
        return Err(AmqpError::TooLarge(size));
    }
    let mut message = Vec::with_capacity(size + OVERHEAD * uplinks.len());
    if let [uplink] = uplinks {
        put_uplink(&mut message, uplink);
        return Ok((message, 0));
    }
    let mut one = Vec::new();
    for uplink in uplinks {
        one.clear();
        put_uplink(&mut one, uplink);
        put_data(&mut message, &one);
    }
    Ok((message, BATCH_FORMAT))
}

/// Makes a cloud-to-device message of what came on the device's link.
pub(crate) fn cloud_message(
    device: DeviceId,
    message: Message<Body<Value>>,
    deadline: Instant,
) -> CloudMessage {
    let mut cloud = CloudMessage::new(device, body(message.body), deadline);
    if let Some(sections) = message.properties {
        cloud.id = sections.message_id.map(id_text);
        cloud.system.correlation_id = sections.correlation_id.map(id_text);
        cloud.system.content_type = sections.content_type.map(|symbol| symbol.0);
        cloud.system.content_encoding = sections.content_encoding.map(|symbol| symbol.0);
        cloud.system.user_id = sections
            .user_id
            .map(|user| String::from_utf8_lossy(&user).into_owned());
    }
    if let Some(application) = message.application_properties {
        cloud.properties = properties(application, &mut cloud.system);
    }
    let annotation = |name: &str| {
        let annotations = message.message_annotations.as_ref()?;
        annotations.get(
            &Symbol::from(name) as &dyn fe2o3_amqp_types::messaging::annotations::AnnotationKey
        )
    };
    cloud.delivery_count = match annotation("iothub-deliverycount") {
        Some(Value::Ubyte(count)) => (*count).into(),
        Some(Value::Uint(count)) => *count,
        _ => message.header.map_or(0, |header| header.delivery_count),
    };
    cloud.sequence = match annotation("x-opt-sequence-number") {
        Some(Value::Ulong(number)) => Some(*number),
        Some(Value::Long(number)) => u64::try_from(*number).ok(),
        _ => None,
    };
    cloud
}

fn properties(application: ApplicationProperties, system: &mut SystemProperties) -> Properties {
    let mut properties = Properties::new();
    for (name, value) in application.0 {
        let text = simple_text(value);
        match name.as_str() {
            SCHEMA => system.schema = Some(text),
            _ => properties.insert(name, text),
        }
    }
    properties
}

/// Makes a method call of what came on the device's method link, with the id to answer to. One that
/// is no method may have an id all the same.
pub(crate) fn method_call(
    device: DeviceId,
    message: Message<Body<Value>>,
    deadline: Instant,
) -> Result<(MessageId, MethodCall), Option<MessageId>> {
    let id = message
        .properties
        .and_then(|sections| sections.correlation_id);
    let id = id.ok_or(None)?;
    let name = message
        .application_properties
        .as_ref()
        .and_then(|map| map.get(METHOD_NAME));
    let name = match name {
        Some(SimpleValue::String(name)) => MethodName::new(name).ok(),
        _ => None,
    };
    match (name, CorrelationId::new(id_text(id.clone()))) {
        (Some(name), Ok(request)) => {
            let call = MethodCall::new(device, request, name, body(message.body), deadline);
            Ok((id, call))
        }
        _ => Err(Some(id)),
    }
}

/// Makes the answer to a method call.
pub(crate) fn method_reply(id: MessageId, reply: &MethodReply) -> Message<Data> {
    let mut application = ApplicationProperties::default();
    application.insert(METHOD_STATUS.to_owned(), SimpleValue::Int(reply.status));
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(Sections {
            correlation_id: Some(id),
            ..Sections::default()
        }),
        application_properties: Some(application),
        body: Data(Binary::from(&reply.payload[..])),
        footer: None,
    }
}

pub(crate) fn body(body: Body<Value>) -> Bytes {
    match body {
        Body::Data(batch) => {
            let mut sections = batch.into_iter().map(|Data(section)| section.into_vec());
            let mut whole = sections.next().unwrap_or_default();
            sections.for_each(|section| whole.extend(section));
            whole.into()
        }
        Body::Value(value) => match value.0 {
            Value::String(text) => text.into(),
            Value::Binary(bytes) => bytes.into_vec().into(),
            _ => Bytes::new(),
        },
        Body::Sequence(_) | Body::Empty => Bytes::new(),
    }
}

pub(crate) fn id_text(id: MessageId) -> String {
    match id {
        MessageId::String(text) => text,
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Uuid(uuid) => uuid_text(uuid.into_inner()),
        MessageId::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

fn simple_text(value: SimpleValue) -> String {
    match value {
        SimpleValue::String(text) => text,
        SimpleValue::Symbol(symbol) => symbol.0,
        SimpleValue::Bool(value) => value.to_string(),
        SimpleValue::Int(value) => value.to_string(),
        SimpleValue::Uint(value) => value.to_string(),
        SimpleValue::Long(value) => value.to_string(),
        SimpleValue::Ulong(value) => value.to_string(),
        SimpleValue::Short(value) => value.to_string(),
        SimpleValue::Ushort(value) => value.to_string(),
        SimpleValue::Byte(value) => value.to_string(),
        SimpleValue::Ubyte(value) => value.to_string(),
        SimpleValue::Char(value) => value.to_string(),
        SimpleValue::Float(value) => value.into_inner().to_string(),
        SimpleValue::Double(value) => value.into_inner().to_string(),
        SimpleValue::Uuid(value) => uuid_text(value.into_inner()),
        SimpleValue::Timestamp(value) => time_text(value),
        SimpleValue::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        SimpleValue::Null => String::new(),
        other => format!("{other:?}"),
    }
}

fn time_text(value: Timestamp) -> String {
    let milliseconds = Duration::from_millis(value.into_inner().max(0) as u64);
    rfc3339(SystemTime::UNIX_EPOCH + milliseconds)
}
