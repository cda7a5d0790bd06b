//! Direct methods: a call out, its answer in, matched by the request's id.

use bytes::Bytes;

use super::device::Device;
use super::{Core, End};
use crate::guid::Guid;
use crate::hub::message::MethodResponse;
use crate::hub::peer::MethodCall;
use crate::mqtt::bag::Request;
use crate::mqtt::topic;

impl Device {
    pub(super) fn called(&self, core: &mut Core, call: MethodCall) {
        core.publish(topic::method(&call.name, call.id), call.payload);
    }

    /// Hands an answer to whoever waits for it; one that nobody waits for is dropped.
    pub(super) fn answered(
        &self,
        core: &Core,
        status: i32,
        request: &Request<'_>,
        payload: &[u8],
    ) -> Result<(), End> {
        let id = request
            .id
            .ok_or_else(|| End::refused("the answer to a method has no $rid"))?;
        let Some(call) = Guid::parse(id) else {
            tracing::debug!(
                device.id = self.identity(),
                "Answer to a method that nobody called"
            );
            return Ok(());
        };
        let payload = Bytes::copy_from_slice(payload);
        let response = MethodResponse { status, payload };
        core.hub
            .state()
            .answer_method(self.identity(), call, response)?;
        tracing::debug!(
            device.id = self.identity(),
            status,
            "Device answered a method"
        );
        Ok(())
    }
}
