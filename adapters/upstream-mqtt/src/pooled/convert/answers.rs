//! What the gateway says besides devices' messages: answers, questions, dead letters.

use std::borrow::Cow;

use bytes::Bytes;
use gateway_core::{DeviceId, MethodReply};

use super::{Inward, LONGEST, MESSAGE_ID, STATUS, ours, seal};
use crate::client::{Properties5, Publish};
use crate::error::MqttError;
use crate::pooled::config::MqttEncoding;
use crate::pooled::envelope::Envelope;
use crate::pooled::template::{Template, Values};

/// Who waits for the answer to a method, and where.
#[derive(Debug, Clone)]
pub(in crate::pooled) struct ReturnAddress {
    pub(in crate::pooled) device: DeviceId,
    pub(in crate::pooled) method: Option<String>,
    pub(in crate::pooled) request: Option<String>,
    pub(in crate::pooled) topic: Option<String>,
    pub(in crate::pooled) correlation: Option<Bytes>,
}

impl ReturnAddress {
    /// Takes the address out of a request.
    pub(in crate::pooled) fn of(device: DeviceId, call: &mut Inward) -> Self {
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
pub(in crate::pooled) fn reply(
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
pub(in crate::pooled) fn twin_request(
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
pub(in crate::pooled) fn dead_letter(
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
