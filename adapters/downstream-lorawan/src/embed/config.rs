//! The settings of the embedding API.

use std::num::NonZeroUsize;
use std::time::Duration;

use gateway_core::ConfigError;
use serde::Deserialize;

use crate::payload::command::CommandForm;
use crate::payload::telemetry::TelemetryForm;
use crate::schedule::{Class, Completion};

/// Bounds and times of the downstream. Every field has a default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LorawanConfig {
    /// How long after an uplink was handed in a downlink can still be taken for its receive windows,
    /// where the uplink does not [say](crate::event::Uplink::window). Default 1.5 s: RX2 opens 2 s
    /// after the frame's end, less 200 ms in which copies of the frame are awaited, and 300 ms to
    /// reach the concentrator.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Devices that are remembered and that listen at a time. Default 100,000, as the gateway's
    /// session table; each costs some 300 bytes.
    pub max_devices: NonZeroUsize,
    /// Commands of one device that wait. Default 8: a device of class A takes one an uplink.
    pub max_queued_per_device: usize,
    /// How long the network server may take over a downlink that it is given, or is to drop. Default
    /// 1 s; it only has to queue it. Nobody waits longer for its word, but the downlink is in flight
    /// until its outcome is told or its time is up, since the network server may have it.
    #[serde(with = "humantime_serde")]
    pub handover_timeout: Duration,
    /// How long a device that listens [always](ListenPolicy::Always) does so after its last sign of
    /// life. Default 48 h: many devices speak once a day.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a command whose method was [answered at once](MethodPolicy::Later) waits for the
    /// device. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub later_ttl: Duration,
    /// Tasks that wait for the hub at a time, and as many that wait for their turn: devices that
    /// begin to listen, and results that are reported. Default 1024: more would only queue at the
    /// hub.
    pub max_tasks: usize,
    /// Downlinks on their way in an [`OrderStream`](super::OrderStream). Default 1024; when it is
    /// full, commands are given back to the hub.
    pub max_orders: usize,
    /// What becomes a message besides uplinks.
    pub reports: ReportConfig,
}

impl Default for LorawanConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_millis(1500),
            max_devices: NonZeroUsize::MIN.saturating_add(99_999),
            max_queued_per_device: 8,
            handover_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(48 * 3600),
            later_ttl: Duration::from_secs(24 * 3600),
            max_tasks: 1024,
            max_orders: 1024,
            reports: ReportConfig::default(),
        }
    }
}

impl LorawanConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const SECOND: Duration = Duration::from_secs(1);
        let times = [
            ("window", self.window, 15 * SECOND),
            ("handover_timeout", self.handover_timeout, 60 * SECOND),
            ("idle_timeout", self.idle_timeout, 366 * 86_400 * SECOND),
            ("later_ttl", self.later_ttl, 366 * 86_400 * SECOND),
        ];
        for (key, value, most) in times {
            if !(Duration::from_millis(1)..=most).contains(&value) {
                let problem = format!("is {}", humantime::format_duration(value));
                let allowed = format!("1ms to {}", humantime::format_duration(most));
                return Err(ConfigError::new(key, problem, allowed));
            }
        }
        let check = ConfigError::check_range;
        check("max_devices", self.max_devices.get(), 1, 10_000_000)?;
        check("max_queued_per_device", self.max_queued_per_device, 1, 1000)?;
        check("max_tasks", self.max_tasks, 1, 100_000)?;
        check("max_orders", self.max_orders, 1, 1_000_000)
    }
}

/// Chooses what becomes a message of its device, besides what applications say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ReportConfig {
    /// Frames without a port, which are for the network alone: a sign of life. Default true.
    pub empty: bool,
    /// That it joined. Default true.
    pub joins: bool,
    /// Its battery and link margin. Default true.
    pub status: bool,
    /// Where it is. Default true.
    pub locations: bool,
    /// The network server's remarks. Default false: they can be many, and concern the operator.
    pub logs: bool,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self {
            empty: true,
            joins: true,
            status: true,
            locations: true,
            logs: false,
        }
    }
}

/// Says how devices of one kind are treated. Every field has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ProfileConfig {
    /// When the devices hear. Default class A.
    pub class: Class,
    /// When their commands are fetched from the hub. Default: `window` for class A, `always` for
    /// class C.
    pub listen: Option<ListenPolicy>,
    /// The port of commands that name none. Default: none; such commands are rejected.
    pub port: Option<u8>,
    /// Whether commands that do not say are to be confirmed by the device. Default false.
    pub confirmed: bool,
    /// What completes a confirmed command. Default `acknowledged`; an unconfirmed one is always
    /// complete when it was transmitted. A device of class A confirms with its next uplink: when
    /// the hub's lock has lapsed by then, the hub gives the message out again, which is recognised
    /// by its sequence number or id, not sent again, and completed.
    pub completion: Option<Completion>,
    /// What becomes of a method for a device that sleeps.
    pub methods: MethodPolicy,
    /// The body of telemetry.
    pub telemetry: TelemetryForm,
    /// How cloud-to-device messages are read.
    pub commands: CommandForm,
}

impl ProfileConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The port is none of an application's.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self.port {
            Some(port) => ConfigError::check_range("port", port, 1, 223),
            None => Ok(()),
        }
    }

    /// When commands are fetched.
    pub(super) fn listens(&self) -> ListenPolicy {
        self.listen.unwrap_or(match self.class {
            Class::A => ListenPolicy::Window,
            Class::C => ListenPolicy::Always,
        })
    }
}

/// Says when a device's commands are fetched from the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ListenPolicy {
    /// From each uplink until its receive windows have passed: a message waits in the hub, where it
    /// is safe, and methods reach only a device that is awake.
    Window,
    /// From the first sign of life on: commands are here before the window opens. A message that no
    /// window takes before the hub's lock on it lapses (60 s on Azure IoT Hub) is given back, which
    /// the hub counts; on the tenth time it gives the message up. So this is for devices that speak
    /// more often than that, for class C, and for methods.
    Always,
}

/// Says what becomes of a method for a device that sleeps. A device that is awake is always asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MethodPolicy {
    /// The caller waits for the window, as long as its time-out allows. The default.
    #[default]
    Wait,
    /// The caller is told 202 at once; what became of the command is a message of the device later.
    /// That is so after three uplinks, too, if the network server, which has the command, tells nothing
    /// of it. The command is forgotten if the gateway ends first.
    Later,
    /// The caller is told 503 at once, and when the next window is expected.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_wrong_setting_is_named() {
        LorawanConfig::default().validate().unwrap();
        ProfileConfig::default().validate().unwrap();
        let config = LorawanConfig {
            window: Duration::from_secs(16),
            ..LorawanConfig::default()
        };
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "`window` is 16s; allowed: 1ms to 15s");
        let profile = ProfileConfig {
            port: Some(224),
            ..ProfileConfig::default()
        };
        assert_eq!(profile.validate().unwrap_err().key(), "port");
    }

    #[test]
    fn a_device_of_class_a_listens_in_its_windows_unless_told_otherwise() {
        let mut profile = ProfileConfig::default();
        assert_eq!(profile.listens(), ListenPolicy::Window);
        profile.class = Class::C;
        assert_eq!(profile.listens(), ListenPolicy::Always);
        profile.listen = Some(ListenPolicy::Window);
        assert_eq!(profile.listens(), ListenPolicy::Window);
    }
}
