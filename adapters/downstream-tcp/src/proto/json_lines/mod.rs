//! A protocol out of the box: every message is one JSON object with a `type`.
//!
//! From the device:
//!
//! | type | fields |
//! | --- | --- |
//! | `hello` | `id`, one of `token` (its own SAS token) and `secret`, or neither; `interest` {`messages`, `methods`, `desired`} |
//! | `telemetry` | `body` (any JSON but null) or `body_base64`; `id`, `seq`, `properties` (texts), `content_type`, `created_at` (RFC 3339) |
//! | `c2d_ack` | `tag` of the `c2d`, `outcome`: `complete`, `reject` or `abandon` |
//! | `method_response` | `id` of the `method`, `status`, `payload` (any JSON) |
//! | `twin_get`, `twin_patch` | `id`; `patch` (object) |
//! | `ping` | |
//!
//! To the device:
//!
//! | type | fields |
//! | --- | --- |
//! | `welcome` | `id`: the device is let in |
//! | `ack` | `id`, `seq`: the hub has accepted the message |
//! | `nack` | `id`, `seq`, `reason`, `retry_after_ms`: it has not; with `retry_after_ms` send it again after that time, without it never |
//! | `c2d` | `tag`, `body` or `body_base64`, `id`, `properties`, `content_type`, `correlation_id`, `delivery_count`, `sequence` |
//! | `method` | `id`, `name`, `payload` or `payload_base64`, `timeout_ms` |
//! | `desired` | `version`, `patch` |
//! | `twin`, `twin_patched` | `id`; `body` or `version` |
//! | `error` | `reason`, `detail`: the last frame was wrong |
//! | `bye` | `reason`, `retry_after_ms`: the gateway closes the connection |
//! | `pong` | |
//!
//! Ids are texts; a number is taken as its digits. An empty frame is a sign of life. A telemetry message without an id gets one, which
//! the `ack` names; the device's own `seq` comes back as well, so that a device can count instead.
//! Only an id that the device gives lets the hub's readers tell a message sent twice.

mod decode;
mod encode;

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use gateway_core::credential::SasToken;
use gateway_core::{
    Delivered, DeviceId, Downlink, ErrorKind, Interest, MessageId, MethodReply, Settlement,
    TwinReply, TwinRequest, Uplink,
};

use super::{
    Actions, CloseReason, Command, Confirmation, FrameCodec, FrameError, Framing, Login, Peer,
    Proof, Protocol, Refusal, Secret,
};
use decode::{Key, Message};
use encode::Frame;

/// Properties of one message; more are refused. Default 100: the hub limits their size, this
/// limits the work.
const MAX_PROPERTIES: usize = 100;

/// Speaks JSON lines over one connection. See the [module](self) for the messages.
#[derive(Debug)]
pub struct JsonLines {
    codec: FrameCodec,
    interest: Interest,
    accepts_certificate: bool,
    device: Option<DeviceId>,
    /// Makes the ids of messages that came without one: random once, then counted.
    id_prefix: MessageId,
    next_token: u64,
    /// What is on its way, oldest first; as long as the connection's window.
    waiting: VecDeque<(u64, Waiting)>,
}

#[derive(Debug)]
enum Waiting {
    Uplink { id: MessageId, seq: Option<u64> },
    TwinGet { id: Option<String> },
    TwinPatch { id: Option<String> },
}

/// Why a message could not be taken: the reason, and what may help its maker.
type Fault = (&'static str, String);

fn fault(reason: &'static str, detail: impl ToString) -> Fault {
    (reason, detail.to_string())
}

impl JsonLines {
    /// Makes the protocol of one connection. `id_prefix` begins the ids that the gateway makes
    /// and must be another one for every connection.
    #[must_use]
    pub fn new(framing: Framing, max_frame: usize, id_prefix: MessageId) -> Self {
        Self {
            codec: FrameCodec::new(framing, max_frame),
            interest: Interest::COMMANDS,
            accepts_certificate: false,
            device: None,
            id_prefix,
            next_token: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Sets what a device hears that says nothing about it. Default: messages and methods.
    #[must_use]
    pub fn with_interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }

    /// Sets whether a client certificate identifies the device, without a hello. Default: no.
    #[must_use]
    pub fn with_certificate(mut self, accepted: bool) -> Self {
        self.accepts_certificate = accepted;
        self
    }

    fn write(&self, frame: &Frame<'_>, actions: &mut Actions) -> Result<(), FrameError> {
        self.codec
            .encode(actions.output(), |output| frame.append_to(output))
    }

    /// Writes what nobody waits for: a frame that does not fit is lost.
    fn tell(&self, frame: &Frame<'_>, actions: &mut Actions) {
        if let Err(error) = self.write(frame, actions) {
            tracing::debug!(error = %error, "Frame does not fit the framing");
        }
    }

    /// Tells the device what was wrong; one that is not let in yet gets no second try.
    fn complain(&self, (reason, detail): &Fault, actions: &mut Actions) {
        self.tell(
            &Frame::Error {
                reason,
                detail: Some(detail),
            },
            actions,
        );
        if self.device.is_none() {
            actions.close();
        }
    }

    fn hello(&mut self, message: Message<'_>, actions: &mut Actions) -> Result<(), Fault> {
        let id = message
            .id
            .ok_or_else(|| fault("bad_id", "`id` is missing"))?;
        let device = DeviceId::new(id.0).map_err(|error| fault("bad_id", error))?;
        if let Some(known) = &self.device {
            if *known != device {
                return Err(fault("already_identified", "one connection, one device"));
            }
            self.tell(&Frame::Welcome { id: known.as_str() }, actions);
            return Ok(());
        }
        let proof = match (message.token, message.secret) {
            (Some(token), _) => {
                Proof::Token(SasToken::parse(&token.0).map_err(|error| fault("bad_token", error))?)
            }
            (None, Some(secret)) => Proof::Secret(Secret::from(secret.0)),
            (None, None) => Proof::None,
        };
        let interest = message.interest.map_or(self.interest, Interest::from);
        actions.identify(Login::new(device, proof).with_interest(interest));
        Ok(())
    }

    fn wait_for(&mut self, waiting: Waiting) -> u64 {
        self.next_token += 1;
        self.waiting.push_back((self.next_token, waiting));
        self.next_token
    }

    fn take_waiting(&mut self, token: u64) -> Option<Waiting> {
        let at = self
            .waiting
            .iter()
            .position(|(waiting, _)| *waiting == token)?;
        Some(self.waiting.remove(at)?.1)
    }

    fn telemetry(
        &mut self,
        device: DeviceId,
        message: Message<'_>,
        frame: &Bytes,
        actions: &mut Actions,
    ) {
        let seq = message.seq;
        let id_given = message.id.clone();
        match self.uplink(device, message, frame) {
            Ok(uplink) => {
                let waiting = Waiting::Uplink {
                    id: uplink.id.clone(),
                    seq,
                };
                let token = self.wait_for(waiting);
                actions.uplink(token, uplink);
            }
            Err((reason, detail)) => self.tell(
                &Frame::Nack {
                    id: id_given.as_ref().map(|id| &*id.0),
                    seq,
                    reason,
                    detail: Some(&detail),
                    retry_after_ms: None,
                },
                actions,
            ),
        }
    }

    fn uplink(
        &mut self,
        device: DeviceId,
        message: Message<'_>,
        frame: &Bytes,
    ) -> Result<Uplink, Fault> {
        let id = match message.id {
            Some(id) => MessageId::new(id.0).map_err(|error| fault("bad_id", error))?,
            None => MessageId::new(format!("{}-{}", self.id_prefix, self.next_token + 1))
                .map_err(|error| fault("bad_id", error))?,
        };
        let (body, media_type) = match (message.body, message.body_base64) {
            (Some(body), None) => (
                frame.slice_ref(body.get().as_bytes()),
                Some("application/json"),
            ),
            (None, Some(text)) => {
                let body = BASE64
                    .decode(&*text.0)
                    .map_err(|error| fault("bad_body", error))?;
                (Bytes::from(body), None)
            }
            _ => return Err(fault("bad_body", "give one of `body` and `body_base64`")),
        };
        let mut uplink = Uplink::new(device, id, body);
        if let Some(media_type) = message
            .content_type
            .as_ref()
            .map(|text| &*text.0)
            .or(media_type)
        {
            // JSON text is UTF-8 here, whatever the device says about its type.
            uplink = uplink.with_content(media_type, message.body.map(|_| "utf-8"));
        }
        uplink.system.created_at = message.created_at;
        if let Some(properties) = message.properties {
            uplink = uplink.with_properties(properties.0);
        }
        Ok(uplink)
    }

    fn answer(
        &mut self,
        message: &Message<'_>,
        frame: &Bytes,
        actions: &mut Actions,
    ) -> Result<(), Fault> {
        let tag = message
            .tag
            .as_ref()
            .or(message.id.as_ref())
            .and_then(|tag| tag.0.parse().ok());
        let tag = tag.ok_or_else(|| fault("bad_tag", "the answer does not say to what"))?;
        let result = match (
            &*message.kind.0,
            message.outcome.as_ref().map(|text| &*text.0),
        ) {
            ("method_response", _) => {
                let payload = message.payload.map_or(Bytes::new(), |payload| {
                    frame.slice_ref(payload.get().as_bytes())
                });
                let status = message
                    .status
                    .ok_or_else(|| fault("bad_status", "`status` is missing"))?;
                Ok(Delivered::Answered(MethodReply::new(status, payload)))
            }
            (_, Some("complete")) => Ok(Delivered::Acknowledged),
            (_, Some("reject")) => Err(ErrorKind::Rejected),
            (_, Some("abandon")) => Err(ErrorKind::Throttled),
            _ => return Err(fault("bad_outcome", "allowed: complete, reject, abandon")),
        };
        actions.done(tag, result);
        Ok(())
    }

    fn take(&mut self, frame: &Bytes, actions: &mut Actions) -> Result<(), Fault> {
        let message = Message::parse(frame).map_err(|error| fault("malformed", error))?;
        let kind = &*message.kind.0;
        if kind == "hello" {
            return self.hello(message, actions);
        }
        let Some(device) = self.device.clone() else {
            return Err(fault("hello_expected", "say `hello` first"));
        };
        let id = message.id.as_ref().map(|Key(id)| id.to_string());
        match kind {
            "telemetry" => self.telemetry(device, message, frame, actions),
            "c2d_ack" | "method_response" => self.answer(&message, frame, actions)?,
            "ping" => self.tell(&Frame::Pong, actions),
            "twin_get" => {
                let token = self.wait_for(Waiting::TwinGet { id });
                actions.twin(token, TwinRequest::Get);
            }
            "twin_patch" => {
                let patch = message.patch.filter(|patch| patch.get().starts_with('{'));
                let patch = patch.ok_or_else(|| fault("bad_patch", "`patch` is an object"))?;
                let body = frame.slice_ref(patch.get().as_bytes());
                let token = self.wait_for(Waiting::TwinPatch { id });
                actions.twin(token, TwinRequest::PatchReported(body));
            }
            _ => return Err(fault("unknown_type", format!("{kind:.32?} is no type"))),
        }
        Ok(())
    }
}

impl Protocol for JsonLines {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        self.codec.decode(input)
    }

    fn on_connect(&mut self, peer: &Peer, actions: &mut Actions) {
        let Some(name) = peer
            .certificate_name
            .as_deref()
            .filter(|_| self.accepts_certificate)
        else {
            return;
        };
        match DeviceId::new(name) {
            Ok(device) => actions
                .identify(Login::new(device, Proof::Certificate).with_interest(self.interest)),
            Err(error) => self.complain(&fault("bad_certificate_name", error), actions),
        }
    }

    fn on_frame(&mut self, frame: Bytes, actions: &mut Actions) {
        if frame.is_empty() {
            return;
        }
        if let Err(fault) = self.take(&frame, actions) {
            self.complain(&fault, actions);
        }
    }

    fn on_frame_error(&mut self, error: &FrameError, actions: &mut Actions) {
        self.complain(&fault(error.reason(), "see the gateway's limits"), actions);
    }

    fn on_login(&mut self, verdict: Result<&DeviceId, &Refusal>, actions: &mut Actions) {
        // A refusal is told by `on_close`.
        if let Ok(device) = verdict {
            self.device = Some(device.clone());
            self.tell(
                &Frame::Welcome {
                    id: device.as_str(),
                },
                actions,
            );
        }
    }

    fn on_settled(&mut self, token: u64, settlement: Settlement, actions: &mut Actions) {
        let Some(Waiting::Uplink { id, seq }) = self.take_waiting(token) else {
            return;
        };
        let (reason, retry_after_ms) = match settlement {
            Settlement::Accepted => {
                return self.tell(
                    &Frame::Ack {
                        id: id.as_str(),
                        seq,
                    },
                    actions,
                );
            }
            Settlement::Rejected(kind) => (kind.as_str(), None),
            Settlement::RetryLater(after) => ("retry_later", Some(encode::millis(after))),
            // A verdict this version does not know is not an acceptance.
            _ => (
                "retry_later",
                Some(encode::millis(gateway_core::DEFAULT_RETRY_AFTER)),
            ),
        };
        let id = Some(id.as_str());
        self.tell(
            &Frame::Nack {
                id,
                seq,
                reason,
                detail: None,
                retry_after_ms,
            },
            actions,
        );
    }

    fn on_twin(&mut self, token: u64, answer: Result<TwinReply, Refusal>, actions: &mut Actions) {
        let (id, is_get) = match self.take_waiting(token) {
            Some(Waiting::TwinGet { id }) => (id, true),
            Some(Waiting::TwinPatch { id }) => (id, false),
            Some(Waiting::Uplink { .. }) | None => return,
        };
        let id = id.as_deref();
        match answer {
            Ok(reply) if is_get => {
                let text = encode::one_line(&reply.body);
                let body = text.as_deref().and_then(encode::json);
                self.tell(&Frame::Twin { id, body }, actions);
            }
            Ok(reply) => self.tell(
                &Frame::TwinPatched {
                    id,
                    version: reply.version,
                },
                actions,
            ),
            Err(Refusal {
                reason,
                retry_after,
            }) => self.tell(
                &Frame::Nack {
                    id,
                    seq: None,
                    reason: reason.as_str(),
                    detail: None,
                    retry_after_ms: retry_after.map(encode::millis),
                },
                actions,
            ),
        }
    }

    fn on_command(
        &mut self,
        command: Command<'_>,
        actions: &mut Actions,
    ) -> Result<Confirmation, ErrorKind> {
        let Command {
            tag,
            downlink,
            time_left,
        } = command;
        let (written, confirmation) = match downlink {
            Downlink::Message(message) => (
                encode::with_message(tag, message, |f| self.write(f, actions)),
                Confirmation::Awaited,
            ),
            Downlink::Method(call) => (
                encode::with_method(tag, call, time_left, |f| self.write(f, actions)),
                Confirmation::Awaited,
            ),
            Downlink::Desired(patch) => {
                let text = encode::one_line(&patch.body);
                let body = text
                    .as_deref()
                    .and_then(encode::json)
                    .ok_or(ErrorKind::Unsupported)?;
                let frame = Frame::Desired {
                    version: patch.version,
                    patch: body,
                };
                (self.write(&frame, actions), Confirmation::Never)
            }
            _ => return Err(ErrorKind::Unsupported),
        };
        written
            .map(|()| confirmation)
            .map_err(|_| ErrorKind::TooLarge)
    }

    fn on_close(&mut self, reason: CloseReason, actions: &mut Actions) {
        use CloseReason::{BadFrame, FrameTimeout, HelloTimeout, Protocol, Refused, Shutdown};
        let frame = match reason {
            // The device has been told already.
            Protocol | BadFrame => return,
            FrameTimeout | HelloTimeout => Frame::Error {
                reason: reason.as_str(),
                detail: None,
            },
            Refused(refusal) => Frame::Bye {
                reason: reason.as_str(),
                retry_after_ms: refusal.retry_after.map(encode::millis),
            },
            Shutdown => Frame::Bye {
                reason: reason.as_str(),
                retry_after_ms: Some(encode::millis(gateway_core::DEFAULT_RETRY_AFTER)),
            },
            _ => Frame::Bye {
                reason: reason.as_str(),
                retry_after_ms: None,
            },
        };
        self.tell(&frame, actions);
    }
}

#[cfg(test)]
mod tests;
