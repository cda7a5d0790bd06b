//! A protocol out of the box: every message is one JSON object with a `type`.
//!
//! From the device:
//!
//! | type | fields |
//! | --- | --- |
//! | `hello` | `id`, one of `token` (its own SAS token) and `secret`, or neither; `interest` {`messages`, `methods`, `desired`}; again with a new `token` before the old one expires, or with another `interest` (and the token, of who came with one) |
//! | `telemetry` | `body` (any JSON but null) or `body_base64`; `id`, `seq`, `properties` (texts), `content_type`, `created_at` (RFC 3339) |
//! | `c2d_ack` | `tag` of the `c2d`, `outcome`: `complete`, `reject` or `abandon` |
//! | `method_response` | `id` of the `method`, `status`, `payload` (any JSON) |
//! | `twin_get` | `id` |
//! | `twin_patch` | `id`, `patch` (object): merged into the reported properties, `null` deletes |
//! | `desired_ack` | `version` of the `desired`; `id`, `status`, `description`, `patch` |
//! | `ping` | |
//!
//! To the device:
//!
//! | type | fields |
//! | --- | --- |
//! | `welcome` | `id`: the device is let in |
//! | `ack` | `id`, `seq`: the hub has accepted the message |
//! | `nack` | `id`, `seq`, `reason`, `detail`, `retry_after_ms`: it has not; with `retry_after_ms` send it again after that time (where it is the device that is refused, as by a token that has expired, once it is let in), without it never |
//! | `c2d` | `tag`, `body` or `body_base64`, `id`, `properties`, `content_type`, `correlation_id`, `delivery_count`, `sequence` |
//! | `method` | `id`, `name`, `payload` or `payload_base64`, `timeout_ms` |
//! | `desired` | `version`, `patch` with its `$version`; `whole` if the patch is all there is: to a device with the interest `desired` |
//! | `twin` | `id`, `body` {`desired`, `reported`}, each with its `$version` |
//! | `twin_patched` | `id`, `version` of the reported properties |
//! | `error` | `reason`, `detail`: the last frame was wrong |
//! | `bye` | `reason`, `detail`, `retry_after_ms`: the gateway closes the connection |
//! | `pong` | |
//!
//! Ids are texts; a number is taken as its digits. An empty frame is a sign of life. A telemetry
//! message without an id gets one, which the `ack` names; the device's own `seq` comes back as
//! well, so that a device can count instead. Only an id that the device gives lets the hub's
//! readers tell a message sent twice.
//!
//! # Commands
//! A `c2d` with a `delivery_count` above 0 was given out before, and the device may have it
//! already: `complete` it again. An acknowledgement that comes after
//! [`timeouts.command`](crate::TimeoutConfig::command), or when the hub's lock lapses, comes too
//! late: the hub gives the message out again. A `method` wants its answer within `timeout_ms`; a
//! later one is dropped.
//!
//! # Twins
//! `twin_get`, `twin_patch` and `desired_ack` go to the hub one after the other, at most
//! [`limits.window`](crate::LimitConfig::window) of them and telemetry at a time; more are not
//! read. Each is answered under its `id`, if the device gave one, by a `twin`, a `twin_patched` or
//! a `nack`.
//!
//! Versions of `desired` grow, with gaps where changes came as one. A device that was away asks
//! `twin_get` when it is back, and then ignores a `desired` whose version is not above that of
//! the `desired` in the answer. What the gateway missed while the hub was out of reach comes as a
//! `desired` with `"whole": true`: a property that is not in it is not desired any more. Only such
//! a one may have a lower version than before, where the hub made the twin anew.
//!
//! `desired_ack` reports what a service expects to see of a property that it set:
//! `{"name": {"value": .., "ac": status, "av": version, "ad": description}}`, within components
//! where they are ([`PropertyAck`]). `status` is 200 unless given; after 202, in progress, the same
//! version can be acknowledged again. The values are those of the `desired` of this version, one of
//! the last eight that were not acknowledged, or those in `patch`: give it if the device uses other
//! values, takes some and refuses others, or was told by a `twin`. So
//!
//! ```text
//! ← {"type":"desired","version":4,"patch":{"interval":60,"$version":4}}
//! → {"type":"desired_ack","version":4}
//! ```
//!
//! reports `{"interval":{"value":60,"ac":200,"av":4}}`.

mod decode;
mod desired;
mod encode;
mod inbound;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
#[cfg(doc)]
use gateway_core::PropertyAck;
use gateway_core::{
    DEFAULT_RETRY_AFTER, DeviceId, Downlink, ErrorKind, Interest, MessageId, Settlement, TwinReply,
    UpstreamError,
};

use super::{
    Actions, CloseReason, Command, Confirmation, FrameCodec, FrameError, Framing, Login, Peer,
    Proof, Protocol, Refusal,
};
use desired::Unacknowledged;
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
    unacknowledged: Unacknowledged,
}

#[derive(Debug)]
enum Waiting {
    Uplink {
        id: MessageId,
        seq: Option<u64>,
    },
    TwinGet {
        id: Option<String>,
    },
    TwinPatch {
        id: Option<String>,
    },
    /// A change acknowledged; for good if it needs not be remembered after that.
    DesiredAck {
        id: Option<String>,
        version: u64,
        is_final: bool,
    },
}

/// Why a message could not be taken: the reason, and what may help its maker.
type Fault = (&'static str, String);

fn fault(reason: &'static str, detail: impl ToString) -> Fault {
    (reason, detail.to_string())
}

fn note_lost(written: Result<(), FrameError>) {
    if let Err(error) = written {
        tracing::debug!(error = %error, "Frame does not fit the framing");
    }
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
            unacknowledged: Unacknowledged::default(),
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

    /// Writes what is told: a frame that does not fit is said in short, or lost.
    fn tell(&self, frame: &Frame<'_>, actions: &mut Actions) {
        let written = self.write(frame, actions);
        note_lost(written.or_else(|error| match frame.in_short() {
            Some(frame) => self.write(&frame, actions),
            None => Err(error),
        }));
    }

    fn tell_accepted(&self, id: &MessageId, seq: Option<u64>, actions: &mut Actions) {
        note_lost(self.codec.encode(actions.output(), |output| {
            encode::append_ack(id.as_str(), seq, output);
        }));
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
        match verdict {
            Ok(device) => {
                self.device = Some(device.clone());
                self.tell(
                    &Frame::Welcome {
                        id: device.as_str(),
                    },
                    actions,
                );
            }
            Err(refusal) if self.device.is_some() => {
                let detail = "this hello is refused; what stood before stands";
                self.complain(&fault(refusal.reason.as_str(), detail), actions);
            }
            // Told by `on_close`.
            Err(_) => {}
        }
    }

    fn on_settled(&mut self, token: u64, settlement: Settlement, actions: &mut Actions) {
        use ErrorKind::{Unauthorized, UnknownDevice};
        let Some(Waiting::Uplink { id, seq }) = self.take_waiting(token) else {
            return;
        };
        let (reason, retry_after_ms) = match settlement {
            Settlement::Accepted => return self.tell_accepted(&id, seq, actions),
            // The device was refused, not what it said.
            Settlement::Rejected(kind @ (Unauthorized | UnknownDevice)) => {
                (kind.as_str(), Some(encode::millis(DEFAULT_RETRY_AFTER)))
            }
            Settlement::Rejected(kind) => (kind.as_str(), None),
            Settlement::RetryLater(after) => ("retry_later", Some(encode::millis(after))),
            // A verdict this version does not know is not an acceptance.
            _ => ("retry_later", Some(encode::millis(DEFAULT_RETRY_AFTER))),
        };
        let nack = Frame::Nack {
            id: Some(id.as_str()),
            seq,
            reason,
            detail: None,
            retry_after_ms,
        };
        self.tell(&nack, actions);
    }

    fn on_twin(&mut self, token: u64, answer: Result<TwinReply, Refusal>, actions: &mut Actions) {
        let (id, is_get, acknowledged) = match self.take_waiting(token) {
            Some(Waiting::TwinGet { id }) => (id, true, None),
            Some(Waiting::TwinPatch { id }) => (id, false, None),
            Some(Waiting::DesiredAck {
                id,
                version,
                is_final,
            }) => (id, false, is_final.then_some(version)),
            Some(Waiting::Uplink { .. }) | None => return,
        };
        let id = id.as_deref();
        match answer {
            Ok(reply) if is_get => {
                let text = encode::one_line(&reply.body);
                let body = text.as_deref().and_then(encode::json);
                self.tell(&Frame::Twin { id, body }, actions);
            }
            Ok(TwinReply { version, .. }) => {
                if let Some(version) = acknowledged {
                    self.unacknowledged.forget(version);
                }
                self.tell(&Frame::TwinPatched { id, version }, actions);
            }
            Err(Refusal {
                reason,
                retry_after,
            }) => {
                // As an uplink would be: what may succeed later is to be asked again.
                let settlement = Settlement::from(&UpstreamError::new(reason, "twin"));
                let retry_after = match settlement {
                    Settlement::RetryLater(after) => Some(retry_after.unwrap_or(after)),
                    _ => None,
                };
                let nack = Frame::Nack {
                    id,
                    seq: None,
                    reason: reason.as_str(),
                    detail: None,
                    retry_after_ms: retry_after.map(encode::millis),
                };
                self.tell(&nack, actions);
            }
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
                    whole: patch.is_whole,
                    patch: body,
                };
                let written = self.write(&frame, actions);
                if written.is_ok() {
                    self.unacknowledged.remember(patch);
                }
                (written, Confirmation::Never)
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
                detail: None,
                retry_after_ms: refusal.retry_after.map(encode::millis),
            },
            Shutdown => Frame::Bye {
                reason: reason.as_str(),
                detail: None,
                retry_after_ms: Some(encode::millis(DEFAULT_RETRY_AFTER)),
            },
            other => Frame::Bye {
                reason: reason.as_str(),
                detail: match other {
                    CloseReason::Ended { detail, .. } => detail,
                    _ => None,
                },
                retry_after_ms: None,
            },
        };
        self.tell(&frame, actions);
    }
}

#[cfg(test)]
mod tests;
