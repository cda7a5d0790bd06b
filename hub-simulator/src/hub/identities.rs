//! What the service side does with identities, and what it means for open connections.

use std::sync::Arc;

use serde::Serialize;

use super::Hub;
use super::device::Device;
use super::error::{ErrorCode, HubError};
use super::identity;
use super::identity_record::IdentityDocument;
use super::identity_write::{IdentityWrite, invalid};
use super::keys::KeyPair;
use super::peer::Notice;
use super::registry::is_valid_id;
use super::state::HubState;
use crate::clock::Ticks;

/// Modules that a device can have (Microsoft, "IoT Hub quotas and throttling").
const MAX_MODULES: usize = 50;
/// Devices that a hub can have.
const MAX_DEVICES: usize = 1_000_000;
/// Modules that every edge device is made with.
const EDGE_MODULES: [&str; 2] = ["$edgeAgent", "$edgeHub"];

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected<'a> {
    /// Nothing of this name.
    Nothing,
    /// Whatever there is, if there is anything.
    Anything,
    /// Something with this entity tag.
    Etag(&'a str),
}

/// How many devices there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistryStatistics {
    total_device_count: usize,
    enabled_device_count: usize,
    disabled_device_count: usize,
}

impl Hub {
    /// An identity as the service side reads it.
    pub(crate) fn identity(&self, id: &str) -> Result<IdentityDocument, HubError> {
        self.state()
            .known(id)
            .map(|device| IdentityDocument::of(id, device))
    }

    /// The first `top` devices.
    pub(crate) fn list_devices(&self, top: usize) -> Vec<IdentityDocument> {
        let state = self.state();
        let devices = state.registry.devices();
        devices
            .filter(|(id, _)| !id.contains('/'))
            .take(top)
            .map(|(id, device)| IdentityDocument::of(id, device))
            .collect()
    }

    /// The modules of a device.
    pub(crate) fn list_modules(&self, device: &str) -> Result<Vec<IdentityDocument>, HubError> {
        let state = self.state();
        state.known(device)?;
        let modules = state.registry.modules(device);
        Ok(modules
            .map(|(id, module)| IdentityDocument::of(id, module))
            .collect())
    }

    /// Registers an identity or changes one.
    pub(crate) fn put_identity(
        &self,
        id: &str,
        write: &IdentityWrite,
        expected: Expected<'_>,
    ) -> Result<IdentityDocument, HubError> {
        let now = Ticks::now();
        let mut state = self.state();
        let was_enabled = state.registry.get(id).is_some_and(|device| device.enabled);
        let device = state.put(id, write, expected, now)?;
        let is_enabled = device.enabled;
        let document = IdentityDocument::of(id, device);
        let disabled = if was_enabled && !is_enabled {
            state.with_modules(id)
        } else {
            Vec::new()
        };
        drop(state);
        self.tell(disabled, Notice::Disabled);
        Ok(document)
    }

    /// Deletes an identity, and with a device its modules.
    pub(crate) fn delete_identity(&self, id: &str, expected: Expected<'_>) -> Result<(), HubError> {
        let mut state = self.state();
        let device = state.known(id)?;
        check_etag(device, expected)?;
        let gone = state.remove_with_modules(id);
        drop(state);
        self.tell(gone, Notice::Removed);
        Ok(())
    }

    /// Removes an identity; tells whether it was there.
    pub(crate) fn remove_identity(&self, id: &str) -> bool {
        self.delete_identity(id, Expected::Anything).is_ok()
    }

    /// Enables or disables a device or module; tells whether it is there.
    pub(crate) fn set_enabled(&self, id: &str, enabled: bool) -> bool {
        let mut state = self.state();
        let Some(device) = state.registry.get_mut(id) else {
            return false;
        };
        device.set_enabled(enabled, Ticks::now());
        device.written();
        let disabled = if enabled {
            Vec::new()
        } else {
            state.with_modules(id)
        };
        drop(state);
        self.tell(disabled, Notice::Disabled);
        true
    }

    /// Tells every connection what has happened to identities.
    pub(crate) fn tell(&self, identities: Vec<Arc<str>>, what: impl Fn(Arc<str>) -> Notice) {
        for identity in identities {
            self.broadcast(&what(identity));
        }
        self.stir();
    }

    /// Counts the devices.
    pub(crate) fn registry_statistics(&self) -> RegistryStatistics {
        let state = self.state();
        let devices = state.registry.devices();
        let (mut total, mut enabled) = (0, 0);
        for (_, device) in devices.filter(|(id, _)| !id.contains('/')) {
            total += 1;
            enabled += usize::from(device.enabled);
        }
        RegistryStatistics {
            total_device_count: total,
            enabled_device_count: enabled,
            disabled_device_count: total - enabled,
        }
    }
}

impl HubState {
    /// The device or module of this name.
    pub(crate) fn known(&self, id: &str) -> Result<&Device, HubError> {
        let device = self.registry.get(id);
        device.ok_or_else(|| {
            let (owner, _) = identity::split(id);
            let missing = match self.registry.get(owner) {
                Some(_) => id,
                None => owner,
            };
            HubError::not_registered(missing, self.registry.short_name())
        })
    }

    fn with_modules(&self, id: &str) -> Vec<Arc<str>> {
        let modules = self.registry.modules(id).map(|(id, _)| Arc::clone(id));
        std::iter::once(Arc::from(id)).chain(modules).collect()
    }

    /// Takes an identity and its modules out of the registry; returns what is gone.
    pub(crate) fn remove_with_modules(&mut self, id: &str) -> Vec<Arc<str>> {
        let mut gone = self.with_modules(id);
        gone.retain(|id| self.remove_device(id));
        gone
    }

    /// Registers an identity or changes one.
    pub(crate) fn put(
        &mut self,
        id: &str,
        write: &IdentityWrite,
        expected: Expected<'_>,
        now: Ticks,
    ) -> Result<&Device, HubError> {
        let (owner, module) = identity::split(id);
        let is_named =
            |given: &Option<String>, name| given.as_deref().is_none_or(|given| given == name);
        if !is_named(&write.device_id, owner)
            || !is_named(&write.module_id, module.unwrap_or_default())
        {
            return Err(invalid("The ids in the path and in the body differ."));
        }
        let before = match (self.registry.get(id), expected) {
            (Some(_), Expected::Nothing) => return Err(already_there(owner, module)),
            (Some(before), _) => {
                check_etag(before, expected)?;
                Some(before)
            }
            (None, Expected::Nothing) => {
                self.check_place(owner, module)?;
                None
            }
            (None, _) => return self.known(id),
        };
        let resolved = write.resolve(before)?;
        if before.is_none() {
            let keys = KeyPair::default();
            self.registry.insert(id, Device::new(keys, now));
        }
        if let Some(device) = self.registry.get_mut(id) {
            resolved.apply(id, device, now);
        }
        if module.is_none() {
            self.make_edge_modules(id, now);
        }
        self.known(id)
    }

    /// Whether there is room for a new identity of this name.
    fn check_place(&self, owner: &str, module: Option<&str>) -> Result<(), HubError> {
        let name = module.unwrap_or(owner);
        if !is_valid_id(name) {
            return Err(invalid(format!(
                "The id '{}' is not 1 to 128 letters, digits and -.+%_#*?!(),:=@$'.",
                name.escape_debug()
            )));
        }
        if module.is_none() {
            return if self.registry.count_devices() < MAX_DEVICES {
                Ok(())
            } else {
                let text = "The hub has 1,000,000 devices, as many as it can have.";
                Err(HubError::new(ErrorCode::TooManyDevices, text))
            };
        }
        self.known(owner)?;
        if self.registry.modules(owner).count() < MAX_MODULES {
            Ok(())
        } else {
            let text = format!("The device '{owner}' has 50 modules, as many as it can have.");
            Err(HubError::new(ErrorCode::TooManyModulesOnDevice, text))
        }
    }

    /// Gives an edge device the modules that each one has.
    pub(crate) fn make_edge_modules(&mut self, id: &str, now: Ticks) {
        if !self.registry.get(id).is_some_and(Device::is_edge) {
            return;
        }
        for module in EDGE_MODULES {
            let name = identity::module(id, module);
            if self.registry.get(&name).is_none() {
                let mut device = Device::new(KeyPair::random(), now);
                device.details.get_or_insert_default().managed_by = Some("IotEdge".to_owned());
                self.registry.insert(&name, device);
            }
        }
    }
}

fn already_there(owner: &str, module: Option<&str>) -> HubError {
    match module {
        None => HubError::new(
            ErrorCode::DeviceAlreadyExists,
            format!("A device with ID '{owner}' is already registered."),
        ),
        Some(module) => HubError::new(
            ErrorCode::ModuleAlreadyExistsOnDevice,
            format!("A module with ID '{module}' is already registered on device '{owner}'."),
        ),
    }
}

/// Whether an identity is what a write expects.
fn check_etag(device: &Device, expected: Expected<'_>) -> Result<(), HubError> {
    match expected {
        Expected::Etag(etag) if etag != device.etag_text() => {
            let text = format!(
                "Precondition failed: Device version did not match, existingVersion:{} newVersion:{}",
                device.etag,
                Device::etag_number(etag).unwrap_or_default(),
            );
            Err(HubError::new(ErrorCode::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}
