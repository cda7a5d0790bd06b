//! Topics that an operator has chosen, and what comes on them, for fuzz targets.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use gateway_core::{DeviceId, MessageId, MethodReply, Properties, Uplink};

use super::config::{MqttEncoding, MqttPoolConfig, MqttVersion};
use super::convert::{Inward, ReturnAddress, dead_letter, inward, reply, uplink};
use super::template::{Captures, Purpose, Template, Values};
use super::topics::{Kind, Topics};
use crate::client::{Properties5, Publish};
use crate::hub::fuzzing::whole_milliseconds;

/// Bytes that a message of ours may have.
const MAX_MESSAGE: usize = 64 * 1024;
/// Begins the topics of what goes out; they are those of what comes in otherwise.
const UP: &str = "up/";

const ENCODINGS: [MqttEncoding; 3] = [
    MqttEncoding::Topic,
    MqttEncoding::Envelope,
    MqttEncoding::Properties,
];

static TOPICS: LazyLock<[Topics; 3]> = LazyLock::new(|| ENCODINGS.map(topics));

/// Everything that a topic may name.
const NAMES: &[&str] = &[
    "{device_id}",
    "{message_id}",
    "{method}",
    "{request_id}",
    "{status}",
    "{properties}",
    "{property:...}",
];

/// Reads topics by a template.
///
/// # Panics
/// Panics if what is read of a topic leads to a topic of which something else is read.
pub fn read_topics<'a>(template: &str, topics: impl Iterator<Item = &'a str>) {
    let purpose = Purpose {
        key: "any",
        allowed: NAMES,
        required: &[],
        is_heard: true,
    };
    let Ok(template) = Template::parse(template, "gateway-1", purpose) else {
        return;
    };
    assert!(template.overlaps(&template));
    for topic in topics {
        let Some(captures) = template.read(topic) else {
            continue;
        };
        let device = captures.device.as_deref().map(DeviceId::new).transpose();
        let Ok(device) = device else { continue };
        let values = Values {
            device: device.as_ref(),
            message: captures.message.as_deref(),
            method: captures.method.as_deref(),
            request: captures.request.as_deref(),
            status: captures.status.as_deref(),
            bag: captures.bag,
            properties: None,
        };
        if let Ok(written) = template.write(&values) {
            assert_eq!(
                template.read(&written),
                Some(captures),
                "{topic} and {written}"
            );
        }
    }
}

fn topics(encoding: MqttEncoding) -> Topics {
    let mut config = MqttPoolConfig::new("broker", "gateway-1").with_encoding(encoding);
    if encoding != MqttEncoding::Properties {
        config.version = MqttVersion::V3_1_1;
    }
    let message = match encoding {
        MqttEncoding::Topic => "d/{device_id}/m/{message_id}/{properties}",
        _ => "d/{device_id}/m/{message_id}",
    };
    config.topics.telemetry = format!("{UP}{message}");
    config.topics.messages = message.to_owned();
    config.topics.methods = "d/{device_id}/call/{method}/{request_id}".to_owned();
    config.topics.responses = "d/{device_id}/res/{request_id}/{status}".to_owned();
    Topics::new(&config).expect("valid topics")
}

/// A message, as a broker may send it.
#[derive(Default)]
struct Sent<'a> {
    topic: &'a str,
    payload: Vec<u8>,
    properties: Properties5,
}

impl<'a> Sent<'a> {
    /// Puts a message together of parts: a byte of what it is, a byte of length, so many bytes.
    fn cut(mut rest: &'a [u8]) -> Self {
        let (mut sent, mut name) = (Self::default(), "");
        let properties = &mut sent.properties;
        while let [what, length, tail @ ..] = rest {
            let (part, tail) = tail.split_at(tail.len().min(usize::from(*length)));
            match (what & 7, std::str::from_utf8(part)) {
                (0, Ok(text)) => sent.topic = text,
                (1, Ok(text)) => name = text,
                (2, Ok(text)) => properties.user.push((name.to_owned(), text.to_owned())),
                (3, Ok(text)) => properties.content_type = Some(text.to_owned()),
                (4, Ok(text)) => properties.response_topic = Some(text.to_owned()),
                (5, _) => properties.correlation_data = Some(Bytes::copy_from_slice(part)),
                (6, _) => {
                    properties.message_expiry = part.first_chunk().copied().map(u32::from_be_bytes);
                }
                _ => sent.payload.extend_from_slice(part),
            }
            rest = tail;
        }
        sent
    }
}

/// Reads what a broker may have sent, in each of the encodings, answers it, and says it again: the
/// input is a byte of the encoding, then the message in parts.
///
/// # Panics
/// Panics if more is read of a message than it has, or less of one that is written of it.
pub fn read_publish(input: &[u8]) {
    let Some((encoding, parts)) = input.split_first() else {
        return;
    };
    let number = usize::from(*encoding) % ENCODINGS.len();
    let (encoding, topics) = (ENCODINGS[number], &TOPICS[number]);
    let sent = Sent::cut(parts);
    let Some((_, captures)) = topics.read(sent.topic) else {
        return;
    };
    let device = captures.device.as_deref().map(DeviceId::new);
    let payload = Bytes::from(sent.payload);
    let read = inward(encoding, captures, &payload, Some(sent.properties));
    let (Some(Ok(device)), Ok(mut read)) = (device, read) else {
        return;
    };
    assert!(read.body.len() <= payload.len());
    answer(topics, encoding, &device, &mut read);
    let id = read.id.and_then(|id| MessageId::new(id).ok());
    let id = id.unwrap_or_else(|| MessageId::new("m").expect("a valid id"));
    let mut message = Uplink::new(device, id, read.body);
    (message.system, message.properties) = (read.system, read.properties);
    let created = message.system.created_at;
    message.system.created_at = created.map(whole_milliseconds);
    if let Ok(publish) = uplink(topics, encoding, MAX_MESSAGE, &message) {
        check_same(topics, encoding, &message, publish);
    }
}

/// What goes back to the sender says what was asked, where it may go; what goes nowhere is whole.
fn answer(topics: &Topics, encoding: MqttEncoding, device: &DeviceId, read: &mut Inward) {
    let letter = dead_letter("dead".to_owned(), encoding, "topic", read, "none").expect("a letter");
    let captures = Captures::default();
    let again = inward(encoding, captures, &letter.payload, letter.properties);
    let again = again.expect("a letter can be read");
    assert_eq!(again.body, read.body);
    if encoding != MqttEncoding::Topic {
        assert_eq!(again.id, read.id);
    }
    let correlation = read.correlation.clone();
    let to = ReturnAddress::of(device.clone(), read);
    let answer = MethodReply::new(200, "{}");
    if let Ok(publish) = reply(topics.responses.as_ref(), encoding, &to, &answer) {
        assert!(!publish.topic.starts_with('$') && !publish.topic.contains(['+', '#', '\0']));
        let properties = publish.properties.expect("properties");
        assert_eq!(properties.correlation_data, correlation);
    }
}

/// An uplink that is read as what came in is the same.
fn check_same(topics: &Topics, encoding: MqttEncoding, sent: &Uplink, publish: Publish) {
    let topic = publish.topic.strip_prefix(UP).expect("it goes up");
    let (kind, captures) = topics.read(topic).expect("it is one of the topics");
    assert_eq!(kind, Kind::Message);
    assert_eq!(captures.device.as_deref(), Some(sent.device.as_str()));
    let read = inward(encoding, captures, &publish.payload, publish.properties);
    let read = read.expect("what was written can be read");
    assert_eq!(read.id.as_deref(), Some(sent.id.as_str()));
    assert_eq!((&read.system, &read.body), (&sent.system, &sent.body));
    assert_eq!(by_name(&read.properties), by_name(&sent.properties));
}

fn by_name(properties: &Properties) -> BTreeMap<&str, &str> {
    properties.iter().collect()
}
