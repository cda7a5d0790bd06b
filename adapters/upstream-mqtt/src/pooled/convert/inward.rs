//! From what came in to what it means.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{Properties, SystemProperties};
use humantime_serde::re::humantime::parse_rfc3339;
use percent_encoding::percent_decode_str;

use super::{
    COMPONENT, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, CREATED_AT, MESSAGE_ID, METHOD,
    OURS, SCHEMA, STATUS, USER_ID, VERSION,
};
use crate::client::Properties5;
use crate::pooled::config::MqttEncoding;
use crate::pooled::envelope::Envelope;
use crate::pooled::template::Captures;

/// Properties of the application that a message may have, as many as devices may send: a broker could
/// give a packet full of them.
const MOST_PROPERTIES: usize = 100;

/// A message that came in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::pooled) struct Inward {
    pub(in crate::pooled) id: Option<String>,
    pub(in crate::pooled) request: Option<String>,
    pub(in crate::pooled) method: Option<String>,
    pub(in crate::pooled) status: Option<u16>,
    pub(in crate::pooled) version: Option<u64>,
    pub(in crate::pooled) system: SystemProperties,
    pub(in crate::pooled) properties: Properties,
    pub(in crate::pooled) body: Bytes,
    pub(in crate::pooled) response_topic: Option<String>,
    pub(in crate::pooled) correlation: Option<Bytes>,
    pub(in crate::pooled) expires_in: Option<Duration>,
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

/// Reads a message that came in.
///
/// # Errors
/// Says what cannot be read.
pub(in crate::pooled) fn inward(
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
                take(&mut inward, &name, &value)?;
            }
        }
        MqttEncoding::Properties => {
            inward.body = payload.clone();
            inward.system.content_type = given.content_type;
            for (name, value) in &given.user {
                take(&mut inward, name, value)?;
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

/// Takes a property.
///
/// # Errors
/// There are too many.
fn take(inward: &mut Inward, name: &str, value: &str) -> Result<(), String> {
    match owner(name) {
        Owner::Application(name) => {
            inward.properties.insert(name, value);
            bound(inward.properties.len())?;
        }
        Owner::Ours(MESSAGE_ID) => inward.id = Some(value.to_owned()),
        Owner::Ours(METHOD) => inward.method = Some(value.to_owned()),
        Owner::Ours(STATUS) => inward.status = value.parse().ok(),
        Owner::Ours(VERSION) => inward.version = value.parse().ok(),
        Owner::Ours(name) => set_system(&mut inward.system, name, value),
    }
    Ok(())
}

fn bound(properties: usize) -> Result<(), String> {
    match properties > MOST_PROPERTIES {
        true => Err(format!("it has more than {MOST_PROPERTIES} properties")),
        false => Ok(()),
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
    bound(envelope.properties.len())?;
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
