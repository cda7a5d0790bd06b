//! Devices under the names of the downstream suite.

use std::sync::{Arc, Mutex};

use gateway_core::DeviceId;
use gateway_downstream_lorawan::embed::{Device, Directory, Profile, ProfileConfig};
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::payload::telemetry::TelemetryForm;
use gateway_downstream_lorawan::schedule::Class;

/// Numbers devices as they come. They are of class C, with payloads as they are and commands that
/// they confirm.
#[derive(Debug, Default)]
pub(crate) struct Book {
    names: Mutex<Vec<DeviceId>>,
}

impl Book {
    /// Finds the EUI of a device, or gives it one.
    pub(crate) fn add(&self, device: &DeviceId) -> DevEui {
        let mut names = self.names.lock().expect("nobody panicked");
        let at = names.iter().position(|name| name == device);
        let at = at.unwrap_or_else(|| {
            names.push(device.clone());
            names.len() - 1
        });
        DevEui::new((at as u64).to_be_bytes())
    }
}

impl Directory for Book {
    fn device(&self, dev_eui: DevEui) -> Option<Device> {
        let at = usize::try_from(u64::from_be_bytes(dev_eui.bytes())).ok()?;
        let names = self.names.lock().expect("nobody panicked");
        let mut profile = ProfileConfig::default();
        profile.class = Class::C;
        profile.telemetry = TelemetryForm::Raw;
        profile.port = Some(1);
        profile.confirmed = true;
        let profile = Profile::new(profile).expect("the settings are valid");
        Some(Device::new(names.get(at)?.clone(), Arc::new(profile)))
    }

    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui> {
        let names = self.names.lock().expect("nobody panicked");
        let at = names.iter().position(|name| name == device)?;
        Some(DevEui::new((at as u64).to_be_bytes()))
    }
}
