//! What the service side does: messages, methods, twins.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::HubSimulator;
use crate::hub::calls;
use crate::hub::message::{C2d, C2dError, C2dTicket, MethodError, MethodResponse};
use crate::hub::state::Now;
use crate::hub::twin::TwinError;

impl HubSimulator {
    /// Puts a cloud-to-device message into a device's queue.
    ///
    /// # Errors
    /// Fails if the device is unknown, its queue full or the message too large, and if the hub is of
    /// the basic tier.
    pub fn send_c2d(&self, device: &str, message: C2d) -> Result<C2dTicket, C2dError> {
        let tier = self.hub.demand_standard_tier();
        tier.map_err(|_refusal| C2dError::BasicTier)?;
        self.hub
            .state()
            .enqueue(device, message, Now::read())
            .map(C2dTicket::new)
    }

    /// Calls a direct method and waits for the answer.
    ///
    /// # Errors
    /// Fails at once if the device is unknown or does not listen to methods, if the call is none that
    /// can be made, and after `within` if the device does not answer.
    ///
    /// # Cancel safety
    /// Safe, but the device may still carry out the call.
    pub async fn call_method(
        &self,
        device: &str,
        name: &str,
        payload: impl Into<Bytes>,
        within: Duration,
    ) -> Result<MethodResponse, MethodError> {
        let tier = self.hub.demand_standard_tier();
        tier.map_err(|_refusal| MethodError::BasicTier)?;
        let payload = payload.into();
        calls::check(name, &payload)?;
        self.hub.call_method(device, name, payload, within).await
    }

    /// Merges desired properties of a device and returns their new version.
    ///
    /// # Errors
    /// Fails if the device is unknown or the patch against the rules of twins, and if the hub is of
    /// the basic tier; nothing changes then.
    pub fn patch_desired(&self, device: &str, patch: &Value) -> Result<u64, TwinError> {
        let tier = self.hub.demand_standard_tier();
        tier.map_err(|refusal| TwinError::new(refusal.message))?;
        self.hub.state().patch_desired(device, patch)
    }

    /// Returns a device's reported properties with their `$version`; null if it is unknown.
    #[must_use]
    pub fn reported(&self, device: &str) -> Value {
        self.twin(device)["reported"].take()
    }

    /// Returns a device's twin as the device sees it; null if it is unknown.
    #[must_use]
    pub fn twin(&self, device: &str) -> Value {
        self.hub.state().twin(device).unwrap_or_default()
    }
}
