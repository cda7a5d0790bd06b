//! What commands, changes and twins are as messages, and what a device's own server answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use gateway_core::{
    CloudMessage, DesiredPatch, DeviceId, Downlink, ErrorKind, MethodReply, TwinReply, version_of,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::proto::message::{Code, Message, option};
use crate::proto::resource::{CommandAnswer, Profile, Routes, format_of};
use crate::proto::udp::CallError;
use crate::registry::{Brought, Delivery};
use crate::selection::Selection;

/// The property of a message that is the command's name.
const NAME: &str = "command";
/// The longest part of a path or a query, in bytes (RFC 7252, section 5.10).
const MAX_PART: usize = 255;
const JSON: u32 = 50;
const MERGE_PATCH: u32 = 52;

/// A command as a response or a notification (2.05), with so many bytes of options.
pub(crate) fn command(
    delivery: &Delivery,
    child: Option<&DeviceId>,
    code: Code,
    (routes, room): (&Routes, usize),
) -> Result<Message, ErrorKind> {
    let device = child.map(DeviceId::as_str);
    let request = delivery.request.as_deref();
    let answer = match &delivery.downlink {
        Downlink::Message(message) => CommandAnswer {
            code,
            device,
            name: message.properties.get(NAME),
            request: None,
            content: content(message),
            body: message.body.clone(),
        },
        Downlink::Method(call) => CommandAnswer {
            code,
            device,
            name: Some(call.name.as_str()),
            request,
            content: (Some("application/json"), None),
            body: call.payload.clone(),
        },
        _ => return Err(ErrorKind::Unsupported),
    };
    let mut written = answer.message(routes).ok_or(ErrorKind::Unsupported)?;
    if let Downlink::Message(message) = &delivery.downlink {
        for part in parts(message, routes.profile()) {
            written.options.add(option::LOCATION_QUERY, part);
        }
    }
    bounded(written, room)
}

/// A command as a request to the device's own server, with so many bytes of options.
pub(crate) fn post(delivery: &Delivery, path: &str, room: usize) -> Result<Message, ErrorKind> {
    let request = Message::new(Code::POST).with_path(path);
    let named = |request: Message, name: &str| {
        request.with_option(option::URI_QUERY, format!("{NAME}={name}").into_bytes())
    };
    let request = match &delivery.downlink {
        Downlink::Method(call) => named(request, call.name.as_str())
            .with_uint(option::CONTENT_FORMAT, JSON)
            .with_payload(call.payload.clone()),
        Downlink::Message(message) => {
            let mut request = match message.properties.get(NAME) {
                Some(name) => named(request, name),
                None => request,
            };
            for part in parts(message, Profile::Native) {
                request.options.add(option::URI_QUERY, part);
            }
            let (media_type, encoding) = content(message);
            if let Some(format) = media_type.and_then(|name| format_of(name, encoding)) {
                request
                    .options
                    .set_uint(option::CONTENT_FORMAT, format.into());
            }
            request.with_payload(message.body.clone())
        }
        _ => return Err(ErrorKind::Unsupported),
    };
    bounded(request, room)
}

/// Refuses a message whose options no message has room for: properties are not dropped, nor cut.
fn bounded(message: Message, room: usize) -> Result<Message, ErrorKind> {
    let options = &message.options;
    let is_long = options.iter().any(|(_, value)| value.len() > MAX_PART);
    match is_long || options.encoded_len() > room {
        true => Err(ErrorKind::TooLarge),
        false => Ok(message),
    }
}

fn content(message: &CloudMessage) -> (Option<&str>, Option<&str>) {
    let system = &message.system;
    (
        system.content_type.as_deref(),
        system.content_encoding.as_deref(),
    )
}

/// The properties of a message that are more than its name. The message's id tells a device what it
/// has already.
fn parts(message: &CloudMessage, profile: Profile) -> impl Iterator<Item = Vec<u8>> {
    let id = message.id.iter().map(|id| format!("$.mid={id}"));
    let id = id.filter(move |_| profile == Profile::Native);
    let properties = message.properties.iter();
    let properties = properties.filter(|(name, _)| *name != NAME);
    let properties = properties.map(|(name, value)| format!("{name}={value}"));
    id.chain(properties).map(String::into_bytes)
}

/// What became of a request to the device's own server.
pub(crate) fn posted(
    delivery: &Delivery,
    result: Result<Message, CallError>,
) -> Result<Brought, ErrorKind> {
    let response = match result {
        Ok(response) => response,
        Err(CallError::TimedOut) => return Err(ErrorKind::TimedOut),
        Err(CallError::Busy) => return Err(ErrorKind::Throttled),
        Err(CallError::Reset | CallError::Closed) => return Err(ErrorKind::Disconnected),
        Err(_) => return Err(ErrorKind::Other),
    };
    let code = response.code;
    if matches!(delivery.downlink, Downlink::Method(_)) {
        let status = match code.is_success() {
            true => 200,
            false => i32::from(code.class()) * 100 + i32::from(code.byte() & 31),
        };
        return Ok(Brought::Answered(MethodReply::new(
            status,
            response.payload,
        )));
    }
    match (code, code.class()) {
        (_, 2) => Ok(Brought::Confirmed),
        (Code::TOO_MANY_REQUESTS | Code::UNAVAILABLE, _) => Err(ErrorKind::Throttled),
        (Code::TOO_LARGE, _) => Err(ErrorKind::TooLarge),
        (_, 4) => Err(ErrorKind::Rejected),
        _ => Err(ErrorKind::Other),
    }
}

/// A change of the desired properties: its version is the ETag, and a merge patch is what it is
/// unless it is the whole.
pub(crate) fn desired(patch: &DesiredPatch) -> Message {
    let format = if patch.is_whole { JSON } else { MERGE_PATCH };
    versioned(Message::new(Code::CONTENT), patch.version)
        .with_uint(option::CONTENT_FORMAT, format)
        .with_payload(patch.body.clone())
}

/// A change that changes nothing: asks an observer of the desired properties whether it is there.
pub(crate) fn no_change() -> Message {
    Message::new(Code::CONTENT)
        .with_uint(option::CONTENT_FORMAT, MERGE_PATCH)
        .with_payload(&b"{}"[..])
}

/// A twin, whole or in part.
pub(crate) fn twin(reply: &TwinReply, selection: &Selection) -> Result<Message, serde_json::Error> {
    if *selection == Selection::All {
        return Ok(json(reply.body.clone()));
    }
    let twin: TwinText<'_> = serde_json::from_slice(&reply.body)?;
    let pick = |part: Option<&RawValue>| part.map(|part| selection.pick(part)).transpose();
    let picked = BTreeMap::from([
        ("desired", pick(twin.desired)?),
        ("reported", pick(twin.reported)?),
    ]);
    Ok(json(serde_json::to_vec(&picked)?))
}

/// The desired properties of a twin, with their version as ETag.
pub(crate) fn desired_of(
    reply: &TwinReply,
    selection: &Selection,
) -> Result<Message, serde_json::Error> {
    let twin: TwinText<'_> = serde_json::from_slice(&reply.body)?;
    // A twin without desired properties is one all the same.
    let Some(desired) = twin.desired else {
        return Ok(json("{}"));
    };
    let version = version_of(desired.get().as_bytes()).unwrap_or_default();
    let picked: Box<str> = selection.pick(desired)?.into();
    Ok(versioned(json(picked.into_string()), version))
}

/// A twin's parts as they are written.
#[derive(Deserialize)]
struct TwinText<'a> {
    #[serde(borrow)]
    desired: Option<&'a RawValue>,
    #[serde(borrow)]
    reported: Option<&'a RawValue>,
}

fn json(body: impl Into<Bytes>) -> Message {
    Message::new(Code::CONTENT)
        .with_uint(option::CONTENT_FORMAT, JSON)
        .with_payload(body)
}

fn versioned(message: Message, version: u64) -> Message {
    let bytes = version.to_be_bytes();
    let skipped = version.leading_zeros() as usize / 8;
    match skipped {
        8 => message,
        _ => message.with_option(option::ETAG, bytes[skipped..].to_vec()),
    }
}
