//! The twin: requests in, answers and changes of desired properties out.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::device::Device;
use super::{Core, End};
use crate::clock::iso8601;
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::throttle::Operation;
use crate::mqtt::bag::Request;
use crate::mqtt::topic::{self, Channel};

/// Answers that may wait under a throttle; more are refused.
const MAX_LATER: usize = 1000;

/// What the hub has to say to a request.
struct Answer {
    status: u16,
    version: Option<u64>,
    body: Bytes,
    /// How long it waits for its turn.
    wait: Duration,
}

impl Device {
    /// Answers with desired and reported properties.
    pub(super) fn twin_read(&mut self, core: &mut Core, request: &Request<'_>) -> Result<(), End> {
        if request.id.is_none() {
            return Err(End::refused("a request for the twin has no $rid"));
        }
        let answer = self.read(core);
        self.reply(core, request, answer);
        Ok(())
    }

    fn read(&self, core: &Core) -> Result<Answer, HubError> {
        let wait = self.throttle(core, Operation::TwinRead)?;
        let state = core.hub.state();
        let twin = state.twin(self.identity()).ok_or_else(|| {
            HubError::not_registered(self.identity(), state.registry.short_name())
        })?;
        Ok(Answer {
            status: 200,
            version: None,
            body: twin.to_string().into(),
            wait,
        })
    }

    /// Merges reported properties; one who gives no id is not answered.
    pub(super) fn twin_patched(&mut self, core: &mut Core, request: &Request<'_>, payload: &[u8]) {
        let answer = self.patch(core, payload);
        core.hub.stir();
        self.reply(core, request, answer);
    }

    fn patch(&self, core: &Core, payload: &[u8]) -> Result<Answer, HubError> {
        let wait = self.throttle(core, Operation::TwinUpdate)?;
        let patch: Value = serde_json::from_slice(payload)
            .map_err(|_| HubError::new(ErrorCode::ArgumentInvalid, "The patch is not JSON."))?;
        let version = core.hub.state().patch_reported(self.identity(), &patch)?;
        Ok(Answer {
            status: 204,
            version: Some(version),
            body: Bytes::new(),
            wait,
        })
    }

    fn throttle(&self, core: &Core, operation: Operation) -> Result<Duration, HubError> {
        if self.later.len() >= MAX_LATER {
            let text = "Too many requests for the twin wait for their turn.";
            return Err(HubError::new(ErrorCode::ThrottleBacklogLimitExceeded, text));
        }
        core.hub.throttles.take(operation, core.now.instant)
    }

    fn reply(&mut self, core: &mut Core, request: &Request<'_>, answer: Result<Answer, HubError>) {
        let answer = answer.unwrap_or_else(|error| Answer {
            status: error.code.http_status(),
            version: None,
            body: describe(&error, core).to_string().into(),
            wait: Duration::ZERO,
        });
        tracing::debug!(
            device.id = self.identity(),
            status = answer.status,
            "Twin request"
        );
        let Some(id) = request.id else {
            return;
        };
        if !self.is_subscribed(core, Channel::TwinReplies) {
            return;
        }
        let topic = topic::twin_reply(answer.status, id, answer.version);
        if answer.wait.is_zero() {
            core.publish(topic, answer.body);
        } else {
            self.put_off(core.now.instant + answer.wait, topic, answer.body);
        }
    }

    /// Tells the device of a change; the version stands in the topic, too.
    pub(super) fn desired_changed(&self, core: &mut Core, patch: Bytes) {
        let version = serde_json::from_slice::<Value>(&patch)
            .ok()
            .and_then(|patch| patch["$version"].as_u64());
        core.publish(topic::desired(version.unwrap_or_default()), patch);
    }
}

/// A refusal as the hub words it in a body.
fn describe(error: &HubError, core: &Core) -> Value {
    let time = iso8601(core.now.system);
    json!({
        "errorCode": error.code.number(),
        "trackingId": format!("{}-G:0-TimeStamp:{time}", Guid::random().simple()),
        "message": error.message,
        "timestampUtc": time,
    })
}
