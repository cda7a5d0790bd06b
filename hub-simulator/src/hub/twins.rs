//! Twins of devices and modules: who writes what, and who is told.

use bytes::Bytes;
use serde_json::Value;

use super::Hub;
use super::device::Device;
use super::error::{ErrorCode, HubError};
use super::identities::Expected;
use super::identity;
use super::identity_record::twin_document;
use super::peer::Notice;
use super::state::HubState;
use super::twin::{Change, Mode, TwinError};
use crate::clock::Ticks;

/// Longest model id, in bytes.
const MAX_MODEL_ID: usize = 2048;

impl Hub {
    /// A twin as the service side reads it.
    pub(crate) fn twin_document(&self, id: &str) -> Result<Value, HubError> {
        self.state()
            .known(id)
            .map(|device| twin_document(id, device, false))
    }

    /// Writes tags and desired properties; returns the twin that this makes.
    pub(crate) fn write_twin(
        &self,
        id: &str,
        document: &Value,
        mode: Mode,
        expected: Expected<'_>,
    ) -> Result<Value, HubError> {
        let change = Change::of(document)?;
        let mut state = self.state();
        state.check_twin(id, expected)?;
        state.write_twin(id, change, mode)?;
        state
            .known(id)
            .map(|device| twin_document(id, device, false))
    }
}

impl HubState {
    /// The twin as its device sees it.
    pub(crate) fn twin(&self, id: &str) -> Option<Value> {
        Some(self.registry.get(id)?.twin(id).device_view())
    }

    /// Merges desired properties and tells the device if it listens.
    pub(crate) fn patch_desired(&mut self, id: &str, patch: &Value) -> Result<u64, TwinError> {
        let Value::Object(patch) = patch else {
            return Err(TwinError::new("A patch must be an object."));
        };
        let change = Change {
            desired: Some(patch),
            tags: None,
        };
        self.write_twin(id, change, Mode::Merge)?;
        Ok(self.device(id)?.twin_mut(id).desired_version())
    }

    /// Writes tags and desired properties and tells the device if it listens.
    pub(crate) fn write_twin(
        &mut self,
        id: &str,
        change: Change<'_>,
        mode: Mode,
    ) -> Result<(), TwinError> {
        let device = self.device(id)?;
        let told = device.twin_mut(id).write(change, mode, Ticks::now())?;
        if let (Some(told), Some(subscriber)) = (told, &device.desired) {
            let told = Bytes::from(told.to_string());
            subscriber.post(|route| Notice::Desired(route, told));
        }
        Ok(())
    }

    /// Notes the IoT Plug and Play model that a device has announced; it stands in its twin.
    pub(crate) fn announce_model(&mut self, id: &str, model: &str) {
        if let Some(device) = self.registry.get_mut(id)
            && model.len() <= MAX_MODEL_ID
        {
            device.twin_mut(id).model_id = model.to_owned();
        }
    }

    pub(crate) fn patch_reported(&mut self, id: &str, patch: &Value) -> Result<u64, TwinError> {
        let now = Ticks::now();
        let device = self.device(id)?;
        device.last_activity = now;
        device.twin_mut(id).report(patch, now)
    }

    fn device(&mut self, id: &str) -> Result<&mut Device, TwinError> {
        self.registry
            .get_mut(id)
            .ok_or(TwinError::new("The device is not registered."))
    }

    /// Whether a twin is what a write expects.
    pub(crate) fn check_twin(&self, id: &str, expected: Expected<'_>) -> Result<(), HubError> {
        let device = self.known(id)?;
        match expected {
            Expected::Etag(etag) if etag != device.twin(id).etag() => {
                let owner = identity::split(id).0;
                let text = format!("ETag mismatch for device ID '{owner}'");
                Err(HubError::new(ErrorCode::PreconditionFailed, text))
            }
            _ => Ok(()),
        }
    }
}
