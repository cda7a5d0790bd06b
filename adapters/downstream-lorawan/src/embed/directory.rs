//! Who a device is at the hub, and how it is treated.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use gateway_core::{ConfigError, DeviceId};
use serde::Deserialize;

use super::config::ProfileConfig;
use crate::event::DevEui;
use crate::hex::Digits;
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

impl DeviceIdCase {
    /// Writes an EUI as a device id.
    #[must_use]
    pub fn write(self, dev_eui: DevEui) -> String {
        self.digits(dev_eui).as_str().to_owned()
    }

    fn digits(self, dev_eui: DevEui) -> Digits {
        let mut digits = Digits::new(&dev_eui.bytes());
        if self == Self::Upper {
            digits.make_upper_case();
        }
        digits
    }
}

/// Takes every device: one that is listed as it says there, any other under its EUI with one profile
/// for all. Credentials decide whom the hub knows.
#[derive(Debug, Default)]
pub struct EuiDirectory {
    profile: Arc<Profile>,
    case: DeviceIdCase,
    listed: HashMap<DevEui, Device>,
    names: HashMap<DeviceId, DevEui>,
}

impl EuiDirectory {
    /// Makes a directory with this profile for all.
    #[must_use]
    pub fn new(profile: impl Into<Arc<Profile>>) -> Self {
        Self {
            profile: profile.into(),
            ..Self::default()
        }
    }

    /// Sets how EUIs are written. Default: in lower case.
    #[must_use]
    pub fn with_case(mut self, case: DeviceIdCase) -> Self {
        self.case = case;
        self
    }

    /// Lists a device, which has a name or a profile of its own. One that is listed before under the
    /// same EUI, or the same name, is forgotten.
    #[must_use]
    pub fn with_device(mut self, dev_eui: DevEui, device: Device) -> Self {
        if let Some(before) = self.names.insert(device.id.clone(), dev_eui) {
            self.listed.remove(&before);
        }
        if let Some(before) = self.listed.insert(dev_eui, device) {
            self.names.remove(&before.id);
        }
        self
    }

    fn name(&self, dev_eui: DevEui) -> Option<DeviceId> {
        DeviceId::new(self.case.digits(dev_eui).as_str()).ok()
    }
}

impl Directory for EuiDirectory {
    fn device(&self, dev_eui: DevEui) -> Option<Device> {
        let listed = self.listed.get(&dev_eui).cloned();
        listed.or_else(|| Some(Device::new(self.name(dev_eui)?, self.profile.clone())))
    }

    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui> {
        if let Some(dev_eui) = self.names.get(device) {
            return Some(*dev_eui);
        }
        let dev_eui = device.as_str().parse().ok()?;
        if self.listed.contains_key(&dev_eui) {
            return None;
        }
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

    #[test]
    fn a_listed_device_has_a_name_of_its_own_and_no_other() {
        let (first, second) = (DevEui::new([1; 8]), DevEui::new([2; 8]));
        let device = |name: &str| Device::new(DeviceId::new(name).unwrap(), Arc::default());
        let directory = EuiDirectory::default()
            .with_device(first, device("pump"))
            .with_device(second, device("valve"));
        assert_eq!(directory.device(first).unwrap().id.as_str(), "pump");
        assert_eq!(directory.dev_eui(&device("valve").id), Some(second));
        assert_eq!(directory.dev_eui(&device("0101010101010101").id), None);

        let renamed = directory.with_device(first, device("valve"));
        assert_eq!(renamed.dev_eui(&device("pump").id), None);
        assert_eq!(renamed.dev_eui(&device("valve").id), Some(first));
        let forgotten = renamed.device(second).unwrap().id;
        assert_eq!(forgotten.as_str(), "0202020202020202");
    }
}
