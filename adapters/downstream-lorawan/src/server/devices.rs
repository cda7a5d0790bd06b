//! The devices of the configuration, as the hub knows them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gateway_core::{ConfigError, DeviceId};

use super::config::ServerConfig;
use crate::embed::{Device, Directory, Profile};
use crate::event::DevEui;
use crate::payload::PayloadCodec;

/// Knows the configured devices, each by its own name and profile.
#[derive(Debug)]
pub(super) struct Devices {
    devices: HashMap<DevEui, Device>,
    names: HashMap<DeviceId, DevEui>,
}

impl Devices {
    pub(super) fn new(
        config: &ServerConfig,
        mut codecs: BTreeMap<String, Arc<dyn PayloadCodec>>,
    ) -> Result<Self, ConfigError> {
        let mut profiles = HashMap::new();
        for (name, profile) in &config.profiles {
            let mut profile = Profile::new(profile.clone())?;
            if let Some(codec) = codecs.remove(name) {
                profile = profile.with_codec(codec);
            }
            profiles.insert(name.as_str(), Arc::new(profile));
        }
        if let Some(name) = codecs.into_keys().next() {
            let problem = format!("has no {name:?}, which was given a codec");
            return Err(ConfigError::new("profiles", problem, "the codec's profile"));
        }
        let plain = Arc::new(Profile::default());
        let mut this = Self {
            devices: HashMap::new(),
            names: HashMap::new(),
        };
        for device in &config.devices {
            let id = device.device_id()?;
            let profile = device
                .profile
                .as_deref()
                .and_then(|name| profiles.get(name));
            let profile = profile.unwrap_or(&plain).clone();
            if this.names.insert(id.clone(), device.dev_eui).is_some() {
                let problem = format!("has the id {id} twice");
                return Err(ConfigError::new("devices", problem, "each once"));
            }
            this.devices
                .insert(device.dev_eui, Device::new(id, profile));
        }
        Ok(this)
    }
}

impl Directory for Devices {
    fn device(&self, dev_eui: DevEui) -> Option<Device> {
        self.devices.get(&dev_eui).cloned()
    }

    fn dev_eui(&self, device: &DeviceId) -> Option<DevEui> {
        self.names.get(device).copied()
    }
}
