//! Between the gateway's messages and MQTT's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{DeviceId, MethodReply, Properties, SystemProperties, Uplink};
use humantime_serde::re::humantime::{format_rfc3339_millis, parse_rfc3339};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::config::MqttEncoding;
use super::envelope::Envelope;
use super::template::{Captures, Template, Values};
use super::topics::Topics;
use crate::client::{Properties5, Publish};
use crate::error::MqttError;

/// Begins the names that are not the application's.
const OURS: char = '$';
const MESSAGE_ID: &str = "message_id";
const CORRELATION_ID: &str = "correlation_id";
const CONTENT_TYPE: &str = "content_type";
const CONTENT_ENCODING: &str = "content_encoding";
const USER_ID: &str = "user_id";
const CREATED_AT: &str = "created_at";
const SCHEMA: &str = "schema";
const COMPONENT: &str = "component";
const METHOD: &str = "method";
const STATUS: &str = "status";
const VERSION: &str = "version";
/// What stands in a topic as it is between `=` and `&`.
const BARE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// The longest text (MQTT 5 section 1.5.4).
const LONGEST: usize = 65_535;

/// A message that came in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inward {
    pub(super) id: Option<String>,
    pub(super) request: Option<String>,
    pub(super) method: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) version: Option<u64>,
    pub(super) system: SystemProperties,
    pub(super) properties: Properties,
    pub(super) body: Bytes,
    pub(super) response_topic: Option<String>,
    pub(super) correlation: Option<Bytes>,
    pub(super) expires_in: Option<Duration>,
}

/// The properties that are the hub's in the manner of this crate, in a fixed order.
fn system(uplink: &Uplink) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
    let system = &uplink.system;
    let texts = [
        (CORRELATION_ID, &system.correlation_id),
        (CONTENT_TYPE, &system.content_type),
        (CONTENT_ENCODING, &system.content_encoding),
        (USER_ID, &system.user_id),
        (SCHEMA, &system.schema),
        (COMPONENT, &system.component),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, value)| Some((name, Cow::Borrowed(value.as_deref()?))));
    let created = system
        .created_at
        .map(|at| (CREATED_AT, format_rfc3339_millis(at).to_string().into()));
    std::iter::once((MESSAGE_ID, Cow::Borrowed(uplink.id.as_str())))
        .chain(texts)
        .chain(created)
}

fn set_system(system: &mut SystemProperties, name: &str, value: &str) {
    let value = value.to_owned();
    match name {
        CORRELATION_ID => system.correlation_id = Some(value),
        CONTENT_TYPE => system.content_type = Some(value),
        CONTENT_ENCODING => system.content_encoding = Some(value),
        USER_ID => system.user_id = Some(value),
        SCHEMA => system.schema = Some(value),
        COMPONENT => system.component = Some(value),
        // A time that cannot be read is no reason to lose the message.
        CREATED_AT => system.created_at = parse_rfc3339(&value).ok(),
        _ => {}
    }
}

/// The name of an application property where ours stand beside it.
fn escape(name: &str) -> Cow<'_, str> {
    match name.starts_with(OURS) {
        true => format!("{OURS}{name}").into(),
        false => name.into(),
    }
}

/// Is whose a property is, by its name.
enum Owner<'a> {
    Ours(&'a str),
    Application(&'a str),
}

fn owner(name: &str) -> Owner<'_> {
    match name.strip_prefix(OURS) {
        Some(escaped) if escaped.starts_with(OURS) => Owner::Application(escaped),
        Some(ours) => Owner::Ours(ours),
        None => Owner::Application(name),
    }
}

/// Makes the publish of an uplink.
///
/// # Errors
/// It is too large, or cannot be said in MQTT.
pub(super) fn uplink(
    topics: &Topics,
    encoding: MqttEncoding,
    max_message: usize,
    uplink: &Uplink,
) -> Result<Publish, MqttError> {
    let properties = uplink.properties.iter();
    let size = uplink.body.len() + properties.map(|(n, v)| n.len() + v.len()).sum::<usize>();
    if size > max_message {
        let limit = max_message;
        return Err(MqttError::TooLarge { size, limit });
    }
    let bag = (encoding == MqttEncoding::Topic).then(|| bag(uplink));
    let values = Values {
        device: Some(&uplink.device),
        message: Some(uplink.id.as_str()),
        bag: bag.as_deref(),
        properties: Some(&uplink.properties),
        ..Values::default()
    };
    let topic = topics.of_uplink(&uplink.properties).write(&values)?;
    let mut publish = Publish {
        topic,
        payload: uplink.body.clone(),
        retain: false,
        properties: None,
    };
    match encoding {
        MqttEncoding::Topic => {}
        MqttEncoding::Envelope => {
            let text = uplink.system.content_type.as_deref().unwrap_or_default();
            let mut system: BTreeMap<_, _> = system(uplink).map(|(n, v)| (n.into(), v)).collect();
            let properties = uplink.properties.iter();
            let envelope = Envelope {
                id: system.remove(MESSAGE_ID),
                system,
                properties: properties.map(|(n, v)| (n.into(), v.into())).collect(),
                ..Envelope::default()
            };
            let envelope = envelope.with_body(&uplink.body, text.starts_with("application/json"));
            publish.payload = seal(&envelope)?;
        }
        MqttEncoding::Properties => publish.properties = Some(properties5(uplink)?),
    }
    Ok(publish)
}

fn properties5(uplink: &Uplink) -> Result<Properties5, MqttError> {
    let mut properties = Properties5::default();
    for (name, value) in system(uplink) {
        check(&value)?;
        match name {
            CONTENT_TYPE => properties.content_type = Some(value.into_owned()),
            CORRELATION_ID => {
                properties.correlation_data = Some(value.into_owned().into_bytes().into());
            }
            name => properties.user.push((ours(name), value.into_owned())),
        }
    }
    for (name, value) in uplink.properties.iter() {
        check(name)?;
        check(value)?;
        let pair = (escape(name).into_owned(), value.to_owned());
        properties.user.push(pair);
    }
    Ok(properties)
}

fn ours(name: &str) -> String {
    format!("{OURS}{name}")
}

/// Refuses a text that a broker may take as a fault of the connection (MQTT 5 section 1.5.4), which
/// would cost all devices on it: Mosquitto does.
fn check(text: &str) -> Result<(), MqttError> {
    let is_foul = |c: char| {
        let code = u32::from(c);
        c.is_control() || (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
    };
    if text.len() >= LONGEST {
        let (size, limit) = (text.len(), LONGEST);
        return Err(MqttError::TooLarge { size, limit });
    }
    match text.find(is_foul) {
        None => Ok(()),
        Some(at) => Err(MqttError::Invalid(format!(
            "a property has a control character (at byte {at}), which MQTT does not allow"
        ))),
    }
}

fn seal(envelope: &Envelope<'_>) -> Result<Bytes, MqttError> {
    envelope
        .to_bytes()
        .map_err(|error| MqttError::Invalid(format!("the envelope cannot be written: {error}")))
}

fn bag(uplink: &Uplink) -> String {
    let encode = |text: &str| utf8_percent_encode(text, BARE).to_string();
    let system = system(uplink).map(|(name, value)| (ours(name), value.into_owned()));
    let properties = uplink.properties.iter();
    let properties = properties.map(|(n, v)| (escape(n).into_owned(), v.to_owned()));
    let pairs = system
        .chain(properties)
        .map(|(name, value)| format!("{}={}", encode(&name), encode(&value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Reads a message that came in.
///
/// # Errors
/// Says what cannot be read.
pub(super) fn inward(
    encoding: MqttEncoding,
    captures: Captures<'_>,
    payload: &Bytes,
    properties: Option<Properties5>,
) -> Result<Inward, String> {
    let mut inward = Inward::default();
    let given = properties.unwrap_or_default();
    inward.response_topic = given.response_topic;
    let seconds = given.message_expiry.map(u64::from);
    inward.expires_in = seconds.map(Duration::from_secs);
    match encoding {
        MqttEncoding::Envelope => open(&mut inward, payload)?,
        MqttEncoding::Topic => {
            inward.body = payload.clone();
            for pair in captures.bag.unwrap_or_default().split('&') {
                let Some((name, value)) = pair.split_once('=') else {
                    continue;
                };
                let decode = |text| percent_decode_str(text).decode_utf8();
                let (Ok(name), Ok(value)) = (decode(name), decode(value)) else {
                    return Err("the properties in the topic are not UTF-8".to_owned());
                };
                take(&mut inward, &name, &value);
            }
        }
        MqttEncoding::Properties => {
            inward.body = payload.clone();
            inward.system.content_type = given.content_type;
            for (name, value) in &given.user {
                take(&mut inward, name, value);
            }
        }
    }
    if let Some(correlation) = given.correlation_data {
        if let Ok(text) = std::str::from_utf8(&correlation) {
            inward.system.correlation_id = Some(text.to_owned());
            inward.request = Some(text.to_owned());
        }
        inward.correlation = Some(correlation);
    }
    let keep = |slot: &mut Option<String>, found: Option<Cow<'_, str>>| {
        if let Some(found) = found {
            *slot = Some(found.into_owned());
        }
    };
    keep(&mut inward.id, captures.message);
    keep(&mut inward.request, captures.request);
    keep(&mut inward.method, captures.method);
    if let Some(status) = captures.status {
        inward.status = status.parse().ok();
    }
    Ok(inward)
}

fn take(inward: &mut Inward, name: &str, value: &str) {
    match owner(name) {
        Owner::Application(name) => inward.properties.insert(name, value),
        Owner::Ours(MESSAGE_ID) => inward.id = Some(value.to_owned()),
        Owner::Ours(METHOD) => inward.method = Some(value.to_owned()),
        Owner::Ours(STATUS) => inward.status = value.parse().ok(),
        Owner::Ours(VERSION) => inward.version = value.parse().ok(),
        Owner::Ours(name) => set_system(&mut inward.system, name, value),
    }
}

fn open(inward: &mut Inward, payload: &[u8]) -> Result<(), String> {
    let envelope: Envelope<'_> = serde_json::from_slice(payload)
        .map_err(|error| format!("the envelope cannot be read: {error}"))?;
    inward.body = envelope.body()?;
    let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    for (name, value) in &envelope.system {
        set_system(&mut inward.system, name, value);
    }
    let properties = envelope.properties.iter();
    inward.properties = properties.map(|(n, v)| (n.as_ref(), v.as_ref())).collect();
    inward.id = owned(envelope.id);
    inward.request = owned(envelope.request_id);
    inward.method = owned(envelope.method);
    inward.status = envelope
        .status
        .and_then(|status| u16::try_from(status).ok());
    inward.version = envelope.version;
    Ok(())
}

/// Who waits for the answer to a method, and where.
#[derive(Debug, Clone)]
pub(super) struct ReturnAddress {
    pub(super) device: DeviceId,
    pub(super) method: Option<String>,
    pub(super) request: Option<String>,
    pub(super) topic: Option<String>,
    pub(super) correlation: Option<Bytes>,
}

impl ReturnAddress {
    /// Takes the address out of a request.
    pub(super) fn of(device: DeviceId, call: &mut Inward) -> Self {
        Self {
            device,
            method: call.method.clone(),
            request: call.request.clone(),
            topic: call.response_topic.take().filter(|topic| is_topic(topic)),
            correlation: call.correlation.take(),
        }
    }
}

/// Tells whether one may publish to a topic that another names.
fn is_topic(topic: &str) -> bool {
    !topic.is_empty()
        && !topic.starts_with('$')
        && topic.len() < LONGEST
        && !topic.contains(|c: char| c.is_control() || c == '+' || c == '#')
}

/// Makes the publish of a method's answer.
///
/// # Errors
/// There is no topic for it.
pub(super) fn reply(
    responses: Option<&Template>,
    encoding: MqttEncoding,
    to: &ReturnAddress,
    reply: &MethodReply,
) -> Result<Publish, MqttError> {
    let status = reply.status.to_string();
    let topic = match (&to.topic, responses) {
        (Some(topic), _) => topic.clone(),
        (None, Some(template)) => template.write(&Values {
            device: Some(&to.device),
            method: to.method.as_deref(),
            request: to.request.as_deref(),
            status: Some(&status),
            ..Values::default()
        })?,
        (None, None) => {
            let problem = "the request names no response topic, and none is configured";
            return Err(MqttError::Invalid(problem.to_owned()));
        }
    };
    let mut properties = Properties5 {
        correlation_data: to.correlation.clone(),
        ..Properties5::default()
    };
    let payload = match encoding {
        MqttEncoding::Envelope => {
            let envelope = Envelope {
                request_id: to.request.as_deref().map(Cow::Borrowed),
                status: Some(reply.status),
                ..Envelope::default()
            };
            seal(&envelope.with_body(&reply.payload, true))?
        }
        MqttEncoding::Topic | MqttEncoding::Properties => {
            properties.user.push((ours(STATUS), status));
            reply.payload.clone()
        }
    };
    Ok(Publish {
        topic,
        payload,
        retain: false,
        properties: Some(properties),
    })
}

/// Makes the publish of a twin request, which is to be answered to `response_topic`.
///
/// # Errors
/// The topic cannot be written.
pub(super) fn twin_request(
    template: &Template,
    encoding: MqttEncoding,
    device: &DeviceId,
    request: &str,
    response_topic: Option<String>,
    body: &Bytes,
) -> Result<Publish, MqttError> {
    let topic = template.write(&Values {
        device: Some(device),
        request: Some(request),
        ..Values::default()
    })?;
    let mut publish = Publish {
        topic,
        payload: body.clone(),
        retain: false,
        properties: None,
    };
    match encoding {
        MqttEncoding::Topic => {}
        MqttEncoding::Envelope => {
            let envelope = Envelope {
                request_id: Some(request.into()),
                ..Envelope::default()
            };
            publish.payload = seal(&match body.is_empty() {
                true => envelope,
                false => envelope.with_body(body, true),
            })?;
        }
        MqttEncoding::Properties => {
            let correlation = response_topic.is_some().then(|| request.to_owned().into());
            publish.properties = Some(Properties5 {
                response_topic,
                correlation_data: correlation,
                ..Properties5::default()
            });
        }
    }
    Ok(publish)
}

/// Makes the dead letter of a message to a device, with the topic that it came on and the reason.
///
/// # Errors
/// The envelope cannot be written.
pub(super) fn dead_letter(
    topic: String,
    encoding: MqttEncoding,
    from: &str,
    inward: &Inward,
    reason: &str,
) -> Result<Publish, MqttError> {
    let notes = [("topic", from), ("reason", reason)];
    let mut publish = Publish {
        topic,
        payload: inward.body.clone(),
        retain: false,
        properties: None,
    };
    if encoding == MqttEncoding::Envelope {
        let envelope = Envelope {
            id: inward.id.as_deref().map(Cow::Borrowed),
            system: notes
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            ..Envelope::default()
        };
        publish.payload = seal(&envelope.with_body(&inward.body, false))?;
        return Ok(publish);
    }
    let id = inward.id.as_deref().map(|id| (MESSAGE_ID, id));
    let user = id.into_iter().chain(notes);
    publish.properties = Some(Properties5 {
        user: user
            .map(|(name, value)| (ours(name), value.to_owned()))
            .collect(),
        ..Properties5::default()
    });
    Ok(publish)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pooled::config::{MqttPoolConfig, MqttVersion};
    use crate::pooled::topics::Kind;
    use gateway_core::MessageId;

    fn full() -> Uplink {
        let mut uplink = Uplink::new(
            DeviceId::new("dev+1").unwrap(),
            MessageId::new("m 1").unwrap(),
            &b"\x00\xffbody"[..],
        );
        let properties = [
            ("plain", "v"),
            ("$odd", "a=b&c"),
            ("größe", "23 °C, 水"),
            ("", ""),
        ];
        uplink.properties = properties.into_iter().collect();
        uplink.system.correlation_id = Some("answer to 7".to_owned());
        uplink.system.content_type = Some("application/json".to_owned());
        uplink.system.content_encoding = Some("utf-8".to_owned());
        uplink.system.user_id = Some("someone".to_owned());
        uplink.system.created_at = parse_rfc3339("2023-11-14T22:13:20.250Z").ok();
        uplink.system.schema = Some("readings".to_owned());
        uplink.system.component = Some("thermostat".to_owned());
        uplink
    }

    fn topics(encoding: MqttEncoding) -> (Topics, MqttPoolConfig) {
        let mut config = MqttPoolConfig::new("h", "gw").with_encoding(encoding);
        if encoding != MqttEncoding::Properties {
            config.version = MqttVersion::V3_1_1;
        }
        // The same topics both ways, so that what goes out can be read as what comes in.
        let topic = match encoding {
            MqttEncoding::Topic => "d/{device_id}/m/{message_id}/{properties}",
            _ => "d/{device_id}/m/{message_id}",
        };
        config.topics.telemetry = format!("up/{topic}");
        config.topics.messages = topic.to_owned();
        config.topics.methods = "d/{device_id}/call/{method}/{request_id}".to_owned();
        config.topics.responses = "d/{device_id}/res/{request_id}/{status}".to_owned();
        (Topics::new(&config).unwrap(), config)
    }

    #[test]
    fn an_uplink_is_read_back_whole_in_each_encoding() {
        for encoding in [
            MqttEncoding::Properties,
            MqttEncoding::Envelope,
            MqttEncoding::Topic,
        ] {
            let (topics, _) = topics(encoding);
            let sent = full();
            let publish = uplink(&topics, encoding, 1000, &sent).unwrap();
            let topic = publish.topic.strip_prefix("up/").unwrap();
            let (kind, captures) = topics.read(topic).unwrap();
            assert_eq!(kind, Kind::Message);
            assert_eq!(captures.device.as_deref(), Some("dev+1"));
            let read = inward(encoding, captures, &publish.payload, publish.properties).unwrap();
            assert_eq!(read.id.as_deref(), Some("m 1"), "{encoding:?}");
            assert_eq!(read.system, sent.system, "{encoding:?}");
            assert_eq!(read.body, sent.body, "{encoding:?}");
            let sorted = |properties: &Properties| -> BTreeMap<String, String> {
                let properties = properties.iter();
                properties
                    .map(|(n, v)| (n.to_owned(), v.to_owned()))
                    .collect()
            };
            assert_eq!(
                sorted(&read.properties),
                sorted(&sent.properties),
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn what_a_broker_would_close_the_connection_for_is_refused() {
        let (topics, _) = topics(MqttEncoding::Properties);
        for foul in ["a\nb", "\0", "\u{9f}", "\u{fdd0}", "\u{ffff}", "\u{1fffe}"] {
            let mut message = full();
            message.properties.insert("foul", foul);
            let refused = uplink(&topics, MqttEncoding::Properties, 1000, &message);
            assert!(matches!(refused, Err(MqttError::Invalid(_))), "{foul:?}");
        }
        let mut message = full();
        message.properties.insert("x".repeat(70_000), "");
        let refused = uplink(&topics, MqttEncoding::Properties, 100_000, &message);
        assert!(matches!(refused, Err(MqttError::TooLarge { .. })));
        message.body = vec![0; 1001].into();
        let refused = uplink(&topics, MqttEncoding::Envelope, 1000, &message);
        assert!(matches!(
            refused,
            Err(MqttError::TooLarge { limit: 1000, .. })
        ));
    }

    #[test]
    fn an_answer_goes_to_the_response_topic_of_its_request_or_the_template() {
        let (topics, _) = topics(MqttEncoding::Properties);
        let mut call = Inward {
            method: Some("reboot".to_owned()),
            request: Some("r/1".to_owned()),
            response_topic: Some("answers/here".to_owned()),
            correlation: Some(Bytes::from_static(b"\xff")),
            ..Inward::default()
        };
        let device = DeviceId::new("d").unwrap();
        let mut to = ReturnAddress::of(device, &mut call);
        let answer = MethodReply::new(207, "{}");
        let responses = topics.responses.as_ref();
        let publish = reply(responses, MqttEncoding::Properties, &to, &answer).unwrap();
        assert_eq!(publish.topic, "answers/here");
        let properties = publish.properties.unwrap();
        assert_eq!(properties.correlation_data.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(properties.user, [("$status".to_owned(), "207".to_owned())]);
        to.topic = None;
        let publish = reply(responses, MqttEncoding::Envelope, &to, &answer).unwrap();
        assert_eq!(publish.topic, "d/d/res/r%2F1/207");
        assert_eq!(
            publish.payload,
            r#"{"request_id":"r/1","status":207,"json":{}}"#
        );
        for foul in ["a/+", "#", "", "$SYS/x", "a\nb"] {
            call.response_topic = Some(foul.to_owned());
            let to = ReturnAddress::of(DeviceId::new("d").unwrap(), &mut call);
            assert_eq!(to.topic, None, "{foul:?}");
        }
    }
}
