//! From a device's message to a publish.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gateway_core::{Uplink, rfc3339};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    COMPONENT, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, CREATED_AT, LONGEST, MESSAGE_ID,
    OURS, SCHEMA, USER_ID, ours, seal,
};
use crate::client::{Properties5, Publish};
use crate::error::MqttError;
use crate::pooled::config::MqttEncoding;
use crate::pooled::envelope::Envelope;
use crate::pooled::template::Values;
use crate::pooled::topics::Topics;

/// What stands in a topic as it is between `=` and `&`.
const BARE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

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
    let created = system.created_at.map(|at| (CREATED_AT, rfc3339(at).into()));
    std::iter::once((MESSAGE_ID, Cow::Borrowed(uplink.id.as_str())))
        .chain(texts)
        .chain(created)
}

/// The name of an application property where ours stand beside it.
fn escape(name: &str) -> Cow<'_, str> {
    match name.starts_with(OURS) {
        true => format!("{OURS}{name}").into(),
        false => name.into(),
    }
}

/// Makes the publish of an uplink.
///
/// # Errors
/// It is too large, or cannot be said in MQTT.
pub(in crate::pooled) fn uplink(
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
