//! The settings of the network server.

mod device;
mod list;
mod radio;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use gateway_core::ConfigError;
use serde::Deserialize;

use crate::embed::{LorawanConfig, ProfileConfig};
use crate::proto::mac::{NetworkConfig, Region, RegionName};

pub use device::{AbpConfig, DeviceConfig, OtaaConfig};
pub use list::{DeviceListError, parse_devices};
pub use radio::{ConcentratorConfig, ForwarderConfig, StationConfig};

/// Says how the network server runs: its region, its concentrators, its devices. Every field but
/// the region has a default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where it is, such as `EU868`. Required: law says what may be sent where.
    pub region: Option<RegionName>,
    /// Channels beside the region's own, of which devices learn when they join; Hertz. Default
    /// none.
    pub channels: Vec<u32>,
    /// The group of eight channels (1 to 8) that is used in US915 and AU915. Default: all.
    pub sub_band: Option<u8>,
    /// The most that packet forwarders are asked to send with, dBm EIRP, 0 to 36. Default: what the
    /// region allows. One that cannot send so loudly refuses the frame (`TX_POWER`), as forwarders
    /// do whose table of powers ends at 27 dBm, below the 29 dBm of the second window in EU868.
    /// Stations have their own.
    pub max_power: Option<i8>,
    /// The network's number, 24 bits. Default 0, which is for private networks.
    pub net_id: u32,
    /// When frames are sent and given up.
    pub timing: TimingConfig,
    /// Bounds of what is held.
    pub limits: LimitConfig,
    /// The file that sessions and counters are kept in; it holds keys. Without what was in it,
    /// recorded frames of devices with a session of their own are taken again, and they do not hear
    /// what comes under counters that they know. Required, unless the program brings a [`SessionStore`](super::SessionStore) of its own.
    pub store: Option<PathBuf>,
    /// Listens for Semtech's packet forwarders. Default: it does not.
    pub forwarders: Option<ForwarderConfig>,
    /// Listens for Basics Stations. Default: it does not.
    pub stations: Option<StationConfig>,
    /// The concentrators that may speak here. Default none.
    pub concentrators: Vec<ConcentratorConfig>,
    /// How devices of each kind are treated, by names that devices refer to.
    pub profiles: BTreeMap<String, ProfileConfig>,
    /// The devices. Default none.
    pub devices: Vec<DeviceConfig>,
    /// How their messages and commands travel.
    pub downstream: LorawanConfig,
}

/// Says when frames are sent and given up. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TimingConfig {
    /// Seconds from an uplink's end to the first receive window, 1 to 15. Default 1, LoRaWAN's own;
    /// more leaves the hub more time: for a command in the same window, and to take the uplink, on
    /// which its acknowledgement waits. A hub that is slower than the second window, a second on,
    /// makes the device say it again. Devices that join are told; others must have been made with
    /// the same.
    pub rx_delay: u8,
    /// How long copies of a frame from other concentrators are waited for. Default 200 ms. Those
    /// that come later are dropped; after the second window it is the device that says it again.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// How long a frame whose copies have come waits for other devices' frames, so that one write to
    /// the store is for all of them. Default 5 ms: a disk that is flushed for each frame is busy
    /// with a thousand a second, and it is little beside the second that a device waits for its
    /// window. 0: each frame is stored at once.
    #[serde(with = "humantime_serde")]
    pub gather: Duration,
    /// How long before its window a frame must be on its way to the concentrator. Default 300 ms:
    /// a mobile network takes 100 ms, and a concentrator wants it some 30 ms ahead.
    #[serde(with = "humantime_serde")]
    pub lead: Duration,
    /// How long a device of class C has to acknowledge. Default 10 s, as a slow data rate takes
    /// up to 3 s and the device may send when it likes.
    #[serde(with = "humantime_serde")]
    pub ack_timeout: Duration,
    /// How often a device is asked for its battery and link margin, with an answer to one of its
    /// uplinks. Default: never; each time costs a downlink.
    #[serde(with = "humantime_serde")]
    pub status_interval: Option<Duration>,
    /// How long a concentrator may be silent before it may come from another address. Default
    /// 2 min; forwarders and stations make themselves heard every 10 to 30 s.
    #[serde(with = "humantime_serde")]
    pub pin_timeout: Duration,
}

impl Default for TimingConfig {
    fn default() -> Self {
        Self {
            rx_delay: 1,
            hold: Duration::from_millis(200),
            gather: Duration::from_millis(5),
            lead: Duration::from_millis(300),
            ack_timeout: Duration::from_secs(10),
            status_interval: None,
            pin_timeout: Duration::from_secs(120),
        }
    }
}

/// Bounds what is held. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Frames that wait for copies of themselves, or are remembered until the second window for late
    /// ones; where there are more, the oldest of these are forgotten. Default 10,000: what some
    /// hundred concentrators hear at their busiest within two seconds, some 2 MB.
    pub frames: usize,
    /// What one concentrator may say in a second, datagrams or messages and the frames in them;
    /// what is more is dropped, so that it does not drown the others. Default 1,000: eight channels
    /// at the fastest data rate carry some 200 frames.
    pub rate: u32,
    /// Uplinks that wait for the hub; new ones beyond are lost and counted, and not acknowledged,
    /// so that a device that wants to be heard says them again. Default 10,000, some 10 MB.
    pub uplinks: usize,
    /// Uplinks of one device that wait for the hub, so that a device whose messages the hub keeps
    /// putting off does not take all the room; beyond, they are lost as above. Default 256: a day of
    /// one every six minutes, and a fortieth of all.
    pub uplinks_per_device: usize,
    /// Messages of concentrators and downlinks that wait for the server, which stores what came
    /// before. Default 8,192 of each, some 2 MB.
    pub queue: usize,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            frames: 10_000,
            rate: 1000,
            uplinks: 10_000,
            uplinks_per_device: 256,
            queue: 8192,
        }
    }
}

impl ServerConfig {
    /// Makes the defaults for a region.
    #[must_use]
    pub fn new(region: RegionName) -> Self {
        Self {
            region: Some(region),
            ..Self::default()
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.make_region()?;
        ConfigError::check_range("net_id", self.net_id, 0, 0x00ff_ffff)?;
        if let Some(power) = self.max_power {
            ConfigError::check_range("max_power", power, 0, 36)?;
        }
        self.timing
            .validate()
            .map_err(|error| error.within("timing"))?;
        let LimitConfig {
            frames,
            rate,
            uplinks,
            uplinks_per_device,
            queue,
        } = self.limits;
        ConfigError::check_range("limits.rate", rate, 1, 1_000_000)?;
        for (key, value) in [
            ("limits.frames", frames),
            ("limits.uplinks", uplinks),
            ("limits.uplinks_per_device", uplinks_per_device),
            ("limits.queue", queue),
        ] {
            ConfigError::check_range(key, value, 1, 1_000_000)?;
        }
        if self.forwarders.is_none() && self.stations.is_none() {
            let allowed = "a section `forwarders` or `stations`, or both";
            return Err(ConfigError::new("forwarders", "is missing", allowed));
        }
        if let Some(forwarders) = &self.forwarders {
            let checked = forwarders.validate();
            checked.map_err(|error| error.within("forwarders"))?;
        }
        if let Some(stations) = &self.stations {
            stations
                .validate()
                .map_err(|error| error.within("stations"))?;
        }
        let mut known = HashSet::new();
        for concentrator in &self.concentrators {
            unique(&mut known, "concentrators", concentrator.eui)?;
        }
        for (name, profile) in &self.profiles {
            let within = |error: ConfigError| error.within(name).within("profiles");
            profile.validate().map_err(within)?;
        }
        let mut known = HashSet::new();
        for device in &self.devices {
            unique(&mut known, "devices", device.dev_eui)?;
            device
                .validate(&self.profiles)
                .map_err(|error| error.within(&format!("devices.{}", device.dev_eui)))?;
        }
        let downstream = self.downstream.validate();
        downstream.map_err(|error| error.within("downstream"))
    }

    /// Makes the region with its channels.
    pub(super) fn make_region(&self) -> Result<Region, ConfigError> {
        let missing = || ConfigError::new("region", "is missing", "such as `EU868` or `US915`");
        let mut region = Region::new(self.region.ok_or_else(missing)?);
        let wrong = |key: &str, error: crate::proto::mac::RegionError| {
            ConfigError::new(key, "does not fit the region", error.to_string())
        };
        region = region
            .with_channels(&self.channels)
            .map_err(|error| wrong("channels", error))?;
        if let Some(sub_band) = self.sub_band {
            region = region
                .with_sub_band(sub_band)
                .map_err(|error| wrong("sub_band", error))?;
        }
        if let Some(power) = self.max_power {
            region = region.with_max_power(power);
        }
        Ok(region)
    }

    pub(super) fn make_network(&self, region: &Region) -> NetworkConfig {
        let [_, net_id @ ..] = self.net_id.to_be_bytes();
        NetworkConfig::new(region)
            .with_net_id(net_id)
            .with_delay(self.timing.rx_delay)
    }
}

impl TimingConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        const SECOND: Duration = Duration::from_secs(1);
        ConfigError::check_range("rx_delay", self.rx_delay, 1, 15)?;
        let day = 86_400 * SECOND;
        let status = self.status_interval.unwrap_or(day);
        for (key, value, least, most) in [
            ("hold", self.hold, Duration::from_millis(1), SECOND / 2),
            ("gather", self.gather, Duration::ZERO, SECOND / 20),
            ("lead", self.lead, Duration::from_millis(10), SECOND / 2),
            ("ack_timeout", self.ack_timeout, SECOND, 600 * SECOND),
            ("status_interval", status, 60 * SECOND, 366 * day),
            ("pin_timeout", self.pin_timeout, SECOND, day),
        ] {
            check_time(key, value, least, most)?;
        }
        Ok(())
    }
}

fn check_time(
    key: &str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let shown = |time| humantime::format_duration(time).to_string();
    let allowed = format!("{} to {}", shown(least), shown(most));
    Err(ConfigError::new(
        key,
        format!("is {}", shown(value)),
        allowed,
    ))
}

fn unique<T: std::hash::Hash + Eq + Copy + std::fmt::Display>(
    known: &mut HashSet<T>,
    key: &str,
    name: T,
) -> Result<(), ConfigError> {
    match known.insert(name) {
        true => Ok(()),
        false => Err(ConfigError::new(
            key,
            format!("has {name} twice"),
            "each once",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parsed(change: impl FnOnce(&mut serde_json::Value)) -> Result<(), String> {
        let mut document = json!({
            "region": "EU868",
            "forwarders": {"listen": "127.0.0.1:0"},
            "concentrators": [{"eui": "0102030405060708", "source": "10.0.0.1"}],
            "profiles": {"valve": {"class": "C", "port": 2}},
            "devices": [
                {"dev_eui": "0000000000000001", "profile": "valve",
                 "otaa": {"app_key": "000102030405060708090a0b0c0d0e0f"}},
                {"dev_eui": "0000000000000002", "id": "meter-2",
                 "abp": {"dev_addr": "01020304", "nwk_s_key": "000102030405060708090a0b0c0d0e0f",
                         "app_s_key": "000102030405060708090a0b0c0d0e0f"}},
            ],
        });
        change(&mut document);
        let config: ServerConfig =
            serde_json::from_value(document).map_err(|error| error.to_string())?;
        config.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn a_complete_document_is_valid_and_a_wrong_one_is_told_what_is_allowed() {
        assert_eq!(parsed(|_| {}), Ok(()));
        let wrong = |change: fn(&mut serde_json::Value), word: &str| {
            let error = parsed(change).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        wrong(|it| it["region"] = json!(null), "`region` is missing");
        wrong(|it| it["sub_band"] = json!(2), "`sub_band`");
        wrong(
            |it| it["max_power"] = json!(37),
            "`max_power` is 37; allowed: 0 to 36",
        );
        wrong(|it| it["forwarders"] = json!(null), "`forwarders`");
        wrong(|it| it["timing"] = json!({"hold": "2s"}), "`timing.hold`");
        wrong(
            |it| it["timing"] = json!({"gather": "60ms"}),
            "`timing.gather` is 60ms; allowed: 0s to 50ms",
        );
        wrong(|it| it["timing"] = json!({"holds": "2s"}), "unknown field");
        wrong(|it| it["devices"][0]["profile"] = json!("x"), "profile");
        wrong(|it| it["devices"][1]["abp"] = json!(null), "otaa");
        wrong(|it| it["devices"][1]["dev_eui"] = json!("::1"), "EUI");
        wrong(|it| it["devices"][1]["id"] = json!("a b"), "id");
    }

    #[test]
    fn the_document_in_the_manual_is_valid() {
        let config: ServerConfig = toml::from_str(include_str!("sample.toml")).unwrap();
        config.validate().unwrap();
    }

    #[test]
    fn keys_do_not_show_themselves() {
        let mut config = ServerConfig::new(RegionName::Eu868);
        let key = "00112233445566778899aabbccddeeff";
        let device = json!({"dev_eui": "0000000000000001", "otaa": {"app_key": key}});
        config.devices.push(serde_json::from_value(device).unwrap());
        assert!(!format!("{config:?}").contains("0011"));
    }
}
