//! What a device's messages ask for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use gateway_core::credential::SasToken;
use gateway_core::credential::Secret;
use gateway_core::{
    Delivered, DeviceId, ErrorKind, MessageId, MethodReply, PropertyAck, TwinProperties,
    TwinRequest, Uplink,
};

use super::decode::{Key, Message};
use super::encode::Frame;
use super::{Fault, JsonLines, Waiting, fault};
use crate::proto::{Actions, Login, Proof};

impl JsonLines {
    fn hello(&mut self, message: Message<'_>, actions: &mut Actions) -> Result<(), Fault> {
        let id = message
            .id
            .ok_or_else(|| fault("bad_id", "`id` is missing"))?;
        let device = DeviceId::new(id.0).map_err(|error| fault("bad_id", error))?;
        if let Some(known) = &self.device {
            if *known != device {
                return Err(fault("already_identified", "one connection, one device"));
            }
            if message.token.is_none() && message.interest.is_none() {
                self.tell(&Frame::Welcome { id: known.as_str() }, actions);
                return Ok(());
            }
        }
        let proof = match (message.token, message.secret) {
            (Some(token), _) => {
                Proof::Token(SasToken::parse(&token.0).map_err(|error| fault("bad_token", error))?)
            }
            (None, Some(secret)) => Proof::Secret(Secret::from(secret.0)),
            (None, None) => Proof::None,
        };
        if let Some(interest) = message.interest {
            self.interest = interest.into();
        }
        actions.identify(Login::new(device, proof).with_interest(self.interest));
        Ok(())
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
        // The `id` of a `c2d` is the service's own.
        let tag = match &*message.kind.0 {
            "method_response" => message.tag.as_ref().or(message.id.as_ref()),
            _ => message.tag.as_ref(),
        };
        let tag = tag.and_then(|tag| tag.0.parse().ok());
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

    fn ask_twin(
        &self,
        message: &Message<'_>,
        frame: &Bytes,
    ) -> Result<(Waiting, TwinRequest), Fault> {
        let id = message.id.as_ref().map(|Key(id)| id.to_string());
        let patch = match message.patch {
            Some(patch) if !patch.get().starts_with('{') => {
                return Err(fault("bad_patch", "`patch` is an object"));
            }
            patch => patch.map(|patch| patch.get().as_bytes()),
        };
        match (&*message.kind.0, patch) {
            ("twin_get", _) => Ok((Waiting::TwinGet { id }, TwinRequest::Get)),
            ("twin_patch", Some(patch)) => {
                let request = TwinRequest::PatchReported(frame.slice_ref(patch));
                Ok((Waiting::TwinPatch { id }, request))
            }
            ("twin_patch", None) => Err(fault("bad_patch", "`patch` is missing")),
            _ => self.acknowledge(id, message, patch),
        }
    }

    fn acknowledge(
        &self,
        id: Option<String>,
        message: &Message<'_>,
        patch: Option<&[u8]>,
    ) -> Result<(Waiting, TwinRequest), Fault> {
        let version = message.version;
        let version = version.ok_or_else(|| fault("bad_version", "`version` is missing"))?;
        let properties = match patch {
            Some(patch) => TwinProperties::parse(patch),
            None => self.unacknowledged.find(version).ok_or_else(|| {
                fault(
                    "unknown_version",
                    "not remembered; give the values in `patch`",
                )
            })?,
        };
        let mut ack = PropertyAck::new(message.status.unwrap_or(PropertyAck::COMPLETED), version);
        ack.description = message.description.as_ref().map(|text| text.0.to_string());
        let request = properties.and_then(|properties| ack.acknowledge(&properties));
        let request = request.map_err(|error| fault("bad_patch", error))?;
        let is_final = patch.is_none() && ack.status != PropertyAck::IN_PROGRESS;
        let waiting = Waiting::DesiredAck {
            id,
            version,
            is_final,
        };
        Ok((waiting, request))
    }

    pub(super) fn take(&mut self, frame: &Bytes, actions: &mut Actions) -> Result<(), Fault> {
        let message = Message::parse(frame).map_err(|error| fault("malformed", error))?;
        let kind = &*message.kind.0;
        if kind == "hello" {
            return self.hello(message, actions);
        }
        let Some(device) = self.device.clone() else {
            return Err(fault("hello_expected", "say `hello` first"));
        };
        match kind {
            "telemetry" => self.telemetry(device, message, frame, actions),
            "c2d_ack" | "method_response" => self.answer(&message, frame, actions)?,
            "ping" => self.tell(&Frame::Pong, actions),
            "twin_get" | "twin_patch" | "desired_ack" => match self.ask_twin(&message, frame) {
                Ok((waiting, request)) => {
                    let token = self.wait_for(waiting);
                    actions.twin(token, request);
                }
                Err((reason, detail)) => self.tell(
                    &Frame::Nack {
                        id: message.id.as_ref().map(|id| &*id.0),
                        seq: None,
                        reason,
                        detail: Some(&detail),
                        retry_after_ms: None,
                    },
                    actions,
                ),
            },
            _ => return Err(fault("unknown_type", format!("{kind:.32?} is no type"))),
        }
        Ok(())
    }
}
