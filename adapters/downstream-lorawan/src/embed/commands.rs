//! What the hub asks of devices.

use std::num::NonZeroU8;
use std::sync::Arc;

use gateway_core::{
    CloudMessage, Delivered, DeviceId, DownstreamError, ErrorKind, MethodCall, MethodReply,
    SessionEnd,
};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::config::MethodPolicy;
use super::directory::Device;
use super::error::{refused, undelivered};
use super::shared::{Later, Shared, Ticket};
use crate::event::DevEui;
use crate::payload::command::{CommandForm, Content, Request, RequestError};
use crate::payload::guard;
use crate::schedule::{Class, Command, Completion, Outcome};

/// The method that sends a downlink as it is asked for.
const SEND: &str = "send_downlink";

/// The starter kit's method that does, with its message for an argument.
const SEND_STARTER_KIT: &str = "cloudToDeviceMessage";

/// Uplinks of a device after which a command that nobody waits for is given up if nothing was told
/// of it. Its network server has had a window with each.
const UNTOLD: NonZeroU8 = NonZeroU8::MIN.saturating_add(2);

impl Shared {
    /// Finds a device that listens.
    fn reach(&self, device: &DeviceId) -> Result<(DevEui, Device), DownstreamError> {
        let dev_eui = self.directory.dev_eui(device);
        let dev_eui = dev_eui.filter(|dev_eui| self.listening.contains(*dev_eui));
        let found = dev_eui.and_then(|eui| Some((eui, self.directory.device(eui)?)));
        found.ok_or_else(|| DownstreamError::new(ErrorKind::UnknownDevice, "send"))
    }

    /// Brings a message to its device.
    pub(super) async fn message(
        self: &Arc<Self>,
        message: CloudMessage,
    ) -> Result<Delivered, DownstreamError> {
        let (dev_eui, device) = self.reach(&message.device)?;
        let deadline = message.deadline;
        let request = match device.profile.config.commands {
            CommandForm::Properties => Request::from_message(&message),
            CommandForm::StarterKit => Request::from_starter_kit(&message.body, dev_eui),
        };
        let sequence = message.sequence.map(|sequence| sequence.to_string());
        let origin = sequence.or(message.id);
        let redelivered = message.delivery_count > 0;
        let sent = async {
            let mut command = command(dev_eui, &device, request, deadline).await?;
            if let Some(origin) = origin {
                command = command.with_origin(origin, redelivered);
            }
            let ended = self.run(command, device.profile.config.class).await;
            ended.map_err(undelivered)
        };
        match timeout_at(deadline, sent).await {
            Ok(Ok(Outcome::Transmitted)) => Ok(Delivered::Sent),
            Ok(Ok(Outcome::Acknowledged)) => Ok(Delivered::Acknowledged),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(DownstreamError::new(ErrorKind::TimedOut, "send")),
        }
    }

    /// Has a method become a downlink, and answers it.
    pub(super) async fn method(
        self: &Arc<Self>,
        call: MethodCall,
    ) -> Result<Delivered, DownstreamError> {
        let (dev_eui, device) = self.reach(&call.device)?;
        let request = method_request(&call, dev_eui, &device)?;
        let class = device.profile.config.class;
        let now = Instant::now();
        let is_awake = class == Class::C || self.schedule().is_awake(dev_eui, now);
        match device.profile.config.methods {
            MethodPolicy::Refuse if !is_awake => {
                return Ok(Delivered::Answered(self.asleep(dev_eui, now)));
            }
            MethodPolicy::Later if !is_awake => {
                let expires = now + self.config.later_ttl;
                let command = command(dev_eui, &device, request, expires).await?;
                return self.later(call, command.with_untold(UNTOLD), class).await;
            }
            _ => {}
        }
        let sent = async {
            let command = command(dev_eui, &device, request, call.deadline).await?;
            self.run(command, class).await.map_err(undelivered)
        };
        let outcome = match timeout_at(call.deadline, sent).await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(DownstreamError::new(ErrorKind::TimedOut, "send")),
        };
        let body = json!({"outcome": outcome.as_str()}).to_string();
        Ok(Delivered::Answered(MethodReply::new(200, body)))
    }

    /// Answers in the place of a device that sleeps.
    fn asleep(&self, dev_eui: DevEui, now: Instant) -> MethodReply {
        let mut body = json!({"error": "asleep"});
        if let Some(expected) = self.schedule().expected(dev_eui) {
            let seconds = expected.saturating_duration_since(now).as_secs();
            body["expectedInSeconds"] = seconds.into();
        }
        MethodReply::new(503, body.to_string())
    }

    /// Queues a command that is reported later, and says so.
    async fn later(
        &self,
        call: MethodCall,
        command: Command,
        class: Class,
    ) -> Result<Delivered, DownstreamError> {
        let body = json!({"outcome": "queued", "request": call.request}).to_string();
        let later = Later {
            device: call.device,
            dev_eui: command.dev_eui,
            request: call.request,
            method: call.name,
        };
        let ticket = Ticket::Later(later.clone());
        let mut actions = self.schedule().push(command, ticket, class, Instant::now());
        let is_own =
            |(ticket, _): &(Ticket, _)| matches!(ticket, Ticket::Later(other) if *other == later);
        let refusal = actions.ended.iter().position(is_own);
        let refusal = refusal.map(|at| actions.ended.remove(at).1);
        self.perform(actions).await;
        match refusal {
            Some(Err(failure)) => Err(undelivered(failure)),
            _ => Ok(Delivered::Answered(MethodReply::new(202, body))),
        }
    }

    /// Drops what the hub ended.
    pub(super) async fn end(&self, end: SessionEnd) -> Result<Delivered, DownstreamError> {
        let (dev_eui, _) = self.reach(&end.device)?;
        tracing::info!(device.id = %end.device, reason = %end.reason, "Hub ended a device's session");
        self.listening.end(dev_eui);
        let actions = self.schedule().clear(dev_eui);
        self.perform(actions).await;
        Ok(Delivered::Sent)
    }
}

impl Outcome {
    /// The outcome in one word, as it is told to the hub.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Transmitted => "transmitted",
            Self::Acknowledged => "acknowledged",
        }
    }
}

fn rejected(error: RequestError) -> DownstreamError {
    refused(ErrorKind::Rejected, error)
}

/// Reads a method: one that sends a downlink as its argument says, or any other for a device with a
/// codec, which gets `{"<method>": <argument>}`.
fn method_request(
    call: &MethodCall,
    dev_eui: DevEui,
    device: &Device,
) -> Result<Result<Request, RequestError>, DownstreamError> {
    let profile = &device.profile;
    match call.name.as_str() {
        SEND => return Ok(Request::from_method(&call.payload)),
        SEND_STARTER_KIT => return Ok(Request::from_starter_kit(&call.payload, dev_eui)),
        _ => {}
    }
    if profile.codec.is_none() {
        let reason = "without a codec only the method send_downlink is understood";
        return Err(refused(ErrorKind::Unsupported, reason));
    }
    let argument = match &call.payload[..] {
        [] => b"null",
        payload => payload,
    };
    Ok(match serde_json::from_slice::<&RawValue>(argument) {
        Ok(argument) => {
            // As it was written: not all that is JSON is a `Value`, such as 1e999.
            let value = format!("{{\"{}\":{argument}}}", call.name);
            Ok(Request::new(Content::Json(value.into())))
        }
        Err(error) => Err(RequestError::Json(error.to_string())),
    })
}

/// Makes a command of a request, with what the device's profile says besides.
async fn command(
    dev_eui: DevEui,
    device: &Device,
    request: Result<Request, RequestError>,
    expires: Instant,
) -> Result<Command, DownstreamError> {
    let request = request.map_err(rejected)?;
    let profile = &device.profile;
    let (encoded_port, payload) = match request.content {
        Content::Raw(payload) => (None, payload),
        Content::Json(data) => {
            let Some(codec) = &profile.codec else {
                let reason = "JSON needs a codec; send the payload itself";
                return Err(refused(ErrorKind::Rejected, reason));
            };
            let port = request.port.or(profile.config.port);
            let encoded = guard(codec.encode(data, port)).await;
            let encoded = encoded.map_err(|error| refused(codec_kind(&error), error))?;
            (encoded.port, encoded.bytes)
        }
    };
    let port = request.port.or(encoded_port).or(profile.config.port);
    let port = port.ok_or_else(|| {
        let reason = "no port; set the property lorawan-port, or the profile's port";
        refused(ErrorKind::Rejected, reason)
    })?;
    let mut command = Command::new(dev_eui, port, payload, expires)
        .with_priority(request.priority)
        .with_mode(request.mode);
    if request.confirmed.unwrap_or(profile.config.confirmed) {
        command = command.confirmed();
        command.completion = profile
            .config
            .completion
            .unwrap_or(Completion::Acknowledged);
    }
    Ok(command)
}

/// Decides whether a codec would say the same again.
fn codec_kind(error: &crate::payload::CodecError) -> ErrorKind {
    use crate::payload::CodecError::*;
    match error {
        Refused(_) | Failed(_) | TimedOut | TooLarge | Unsupported(_) => ErrorKind::Rejected,
        Busy => ErrorKind::Throttled,
    }
}
