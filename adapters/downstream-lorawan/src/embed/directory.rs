//! Who a device is at the hub, and how it is treated.

use std::fmt;
use std::sync::Arc;

use gateway_core::{ConfigError, DeviceId};
use serde::Deserialize;

use super::config::ProfileConfig;
use crate::event::DevEui;
use crate::payload::PayloadCodec;

/// Is how devices of one kind are treated: settings and, where there is one, a codec.
#[derive(Debug, Default)]
pub struct Profile {
    pub(super) config: ProfileConfig,
    pub(super) codec: Option<Arc<dyn PayloadCodec>>,
}

impl Profile {
    /// Makes a profile without a codec.
    ///
    /// # Errors
    /// A setting is wrong.
    pub fn new(config: ProfileConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            codec: None,
        })
    }

    /// Sets who reads and writes payloads.
    #[must_use]
    pub fn with_codec(mut self, codec: impl PayloadCodec) -> Self {
        self.codec = Some(Arc::new(codec));
        self
    }
}

/// Is a device as the hub knows it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Device {
    /// Its name there.
    pub id: DeviceId,
    /// How it is treated.
    pub profile: Arc<Profile>,
}

impl Device {
    /// Makes one.
    #[must_use]
    pub fn new(id: DeviceId, profile: Arc<Profile>) -> Self {
        Self { id, profile }
    }
}

/// Knows the devices. It is asked for each event and each command, so it must be quick.
pub trait Directory: fmt::Debug + Send + Sync + 'static {
    /// Finds a device; nothing that a device says reaches the hub if it is not found.
    fn device(&self, dev_eui: DevEui) -> Option<Device>;

    /// Finds the EUI of a device that the hub has a command for.
    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui>;
}

#[deny(clippy::missing_trait_methods)]
impl<T: Directory + ?Sized> Directory for Arc<T> {
    fn device(&self, dev_eui: DevEui) -> Option<Device> {
        (**self).device(dev_eui)
    }

    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui> {
        (**self).dev_eui(device)
    }
}

/// Chooses how EUIs are written in device ids, which are case-sensitive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceIdCase {
    /// As ChirpStack prints them. The default.
    #[default]
    Lower,
    /// As The Things Stack and the Azure starter kit print them.
    Upper,
}

/// Takes every device, under its EUI, with one profile. Credentials decide whom the hub knows.
#[derive(Debug, Default)]
pub struct EuiDirectory {
    profile: Arc<Profile>,
    case: DeviceIdCase,
}

impl EuiDirectory {
    /// Makes a directory with this profile for all.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            profile: Arc::new(profile),
            case: DeviceIdCase::default(),
        }
    }

    /// Sets how EUIs are written. Default: in lower case.
    #[must_use]
    pub fn with_case(mut self, case: DeviceIdCase) -> Self {
        self.case = case;
        self
    }

    fn name(&self, dev_eui: DevEui) -> Option<DeviceId> {
        let mut name = dev_eui.to_string();
        if self.case == DeviceIdCase::Upper {
            name.make_ascii_uppercase();
        }
        DeviceId::new(name).ok()
    }
}

impl Directory for EuiDirectory {
    fn device(&self, dev_eui: DevEui) -> Option<Device> {
        Some(Device::new(self.name(dev_eui)?, self.profile.clone()))
    }

    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui> {
        let dev_eui = device.as_str().parse().ok()?;
        // An EUI has several forms, and the hub knows the device under one.
        (self.name(dev_eui)? == *device).then_some(dev_eui)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_under_one_form_of_its_eui() {
        let directory = EuiDirectory::default().with_case(DeviceIdCase::Upper);
        let dev_eui = DevEui::new([0, 0, 0, 0, 0, 0, 0, 0xab]);
        let device = directory.device(dev_eui).unwrap();
        assert_eq!(device.id.as_str(), "00000000000000AB");
        assert_eq!(directory.dev_eui(&device.id), Some(dev_eui));
        for other in ["00000000000000ab", "::ab", "00-00-00-00-00-00-00-AB", "x"] {
            let other = DeviceId::new(other).unwrap();
            assert_eq!(directory.dev_eui(&other), None);
        }
    }
}
