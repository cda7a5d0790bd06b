//! The twin: requests in, answers and changes of desired properties out.

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

impl Device {
    /// Answers with desired and reported properties.
    pub(super) fn twin_read(&self, core: &mut Core, request: &Request<'_>) -> Result<(), End> {
        if request.id.is_none() {
            return Err(End::refused("a request for the twin has no $rid"));
        }
        let twin = self.read(core).map(|twin| (200, None, twin));
        self.reply(core, request, twin);
        Ok(())
    }

    fn read(&self, core: &Core) -> Result<Bytes, HubError> {
        core.hub
            .throttles
            .take(Operation::TwinRead, core.now.instant)?;
        let state = core.hub.state();
        let twin = state.twin(self.identity()).ok_or_else(|| {
            HubError::not_registered(self.identity(), state.registry.short_name())
        })?;
        Ok(twin.to_string().into())
    }

    /// Merges reported properties; one who gives no id is not answered.
    pub(super) fn twin_patched(&self, core: &mut Core, request: &Request<'_>, payload: &[u8]) {
        let version = self.patch(core, payload);
        core.hub.stir();
        self.reply(
            core,
            request,
            version.map(|version| (204, Some(version), Bytes::new())),
        );
    }

    fn patch(&self, core: &Core, payload: &[u8]) -> Result<u64, HubError> {
        core.hub
            .throttles
            .take(Operation::TwinUpdate, core.now.instant)?;
        let patch: Value = serde_json::from_slice(payload)
            .map_err(|_| HubError::new(ErrorCode::ArgumentInvalid, "The patch is not JSON."))?;
        Ok(core.hub.state().patch_reported(self.identity(), &patch)?)
    }

    fn reply(
        &self,
        core: &mut Core,
        request: &Request<'_>,
        answer: Result<(u16, Option<u64>, Bytes), HubError>,
    ) {
        let (status, version, body) = answer.unwrap_or_else(|error| {
            let body = describe(&error, core).to_string();
            (error.code.http_status(), None, body.into())
        });
        tracing::debug!(device.id = self.identity(), status, "Twin request");
        if let Some(id) = request.id
            && self.is_subscribed(core, Channel::TwinReplies)
        {
            core.publish(topic::twin_reply(status, id, version), body);
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
