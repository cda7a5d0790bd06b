//! A device of the network server.

use std::collections::BTreeMap;

use gateway_core::{ConfigError, DeviceId};
use serde::Deserialize;

use crate::embed::ProfileConfig;
use crate::event::{DevAddr, DevEui};
use crate::proto::mac::{Activation, Class, DeviceProfile, NonceRule};
use crate::proto::{Eui64, Key};
use crate::schedule;

/// Is a device that may use the network: it either joins, or was made with a session.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DeviceConfig {
    /// Its name for ever, 16 hexadecimal digits.
    pub dev_eui: DevEui,
    /// Its name at the hub. Default: its DevEUI in lower case.
    #[serde(default)]
    pub id: Option<String>,
    /// The profile that it is treated by. Default: class A without a codec.
    #[serde(default)]
    pub profile: Option<String>,
    /// Whether the network chooses its data rate, if it lets it. Default true.
    #[serde(default = "yes")]
    pub adr: bool,
    /// How it joins.
    #[serde(default)]
    pub otaa: Option<OtaaConfig>,
    /// The session that it was made with.
    #[serde(default)]
    pub abp: Option<AbpConfig>,
}

/// Says how a device joins (OTAA).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OtaaConfig {
    /// Its root key, 32 hexadecimal digits. With a new one it begins anew: what it said under the old
    /// one is not taken any more, and its DevNonces may come again.
    pub app_key: Key,
    /// The JoinEUI that it must name. Default: any.
    #[serde(default)]
    pub join_eui: Option<Eui64>,
    /// Whether its DevNonces only rise, as LoRaWAN 1.0.4 has it. Default false.
    #[serde(default)]
    pub rising_nonces: bool,
}

/// Is the session that a device was made with (ABP).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AbpConfig {
    /// Its address, 8 hexadecimal digits.
    pub dev_addr: DevAddr,
    /// Signs frames and encrypts MAC commands; 32 hexadecimal digits.
    pub nwk_s_key: Key,
    /// Encrypts what applications say; 32 hexadecimal digits.
    pub app_s_key: Key,
    /// Whether its counter may begin at 0 again. Default false: it lets whoever recorded its frames
    /// replay them, and is for devices that cannot be mended.
    #[serde(default)]
    pub reset_allowed: bool,
}

const fn yes() -> bool {
    true
}

impl OtaaConfig {
    /// Makes a device's that may name any JoinEUI.
    #[must_use]
    pub fn new(app_key: Key) -> Self {
        Self {
            app_key,
            join_eui: None,
            rising_nonces: false,
        }
    }
}

impl AbpConfig {
    /// Makes a session whose counters never begin anew.
    #[must_use]
    pub fn new(dev_addr: DevAddr, nwk_s_key: Key, app_s_key: Key) -> Self {
        Self {
            dev_addr,
            nwk_s_key,
            app_s_key,
            reset_allowed: false,
        }
    }
}

impl DeviceConfig {
    /// Makes a device that joins.
    #[must_use]
    pub fn otaa(dev_eui: DevEui, otaa: OtaaConfig) -> Self {
        Self {
            otaa: Some(otaa),
            ..Self::new(dev_eui)
        }
    }

    /// Makes a device that was made with a session.
    #[must_use]
    pub fn abp(dev_eui: DevEui, abp: AbpConfig) -> Self {
        Self {
            abp: Some(abp),
            ..Self::new(dev_eui)
        }
    }

    pub(super) fn new(dev_eui: DevEui) -> Self {
        Self {
            dev_eui,
            id: None,
            profile: None,
            adr: true,
            otaa: None,
            abp: None,
        }
    }

    pub(super) fn validate(
        &self,
        profiles: &BTreeMap<String, ProfileConfig>,
    ) -> Result<(), ConfigError> {
        if self.otaa.is_some() == self.abp.is_some() {
            let problem = "is to be one of two";
            return Err(ConfigError::new("otaa", problem, "either `otaa` or `abp`"));
        }
        if let Some(name) = self
            .profile
            .as_ref()
            .filter(|it| !profiles.contains_key(*it))
        {
            let problem = format!("names {name:?}, which is not there");
            return Err(ConfigError::new("profile", problem, "one of `profiles`"));
        }
        self.device_id().map(|_| ())
    }

    /// Its name at the hub.
    pub(in crate::server) fn device_id(&self) -> Result<DeviceId, ConfigError> {
        let id = self.id.clone().unwrap_or_else(|| self.dev_eui.to_string());
        DeviceId::new(id).map_err(|error| {
            ConfigError::new("id", "is no device id of the hub", error.to_string())
        })
    }

    /// What the network knows of it, if it is valid.
    pub(in crate::server) fn to_profile(
        &self,
        profiles: &BTreeMap<String, ProfileConfig>,
    ) -> Option<DeviceProfile> {
        let activation = match (&self.otaa, &self.abp) {
            (Some(otaa), None) => Activation::Otaa {
                app_key: otaa.app_key,
                join_eui: otaa.join_eui,
                nonces: match otaa.rising_nonces {
                    true => NonceRule::Higher,
                    false => NonceRule::New,
                },
            },
            (None, Some(abp)) => Activation::Abp {
                dev_addr: abp.dev_addr,
                nwk_s_key: abp.nwk_s_key,
                app_s_key: abp.app_s_key,
                reset_allowed: abp.reset_allowed,
            },
            _ => return None,
        };
        let profile = self.profile.as_ref().and_then(|name| profiles.get(name));
        let class = match profile.map(|profile| profile.class) {
            Some(schedule::Class::C) => Class::C,
            _ => Class::A,
        };
        let device = DeviceProfile::new(self.dev_eui, activation);
        Some(device.with_class(class).with_adr(self.adr))
    }
}
