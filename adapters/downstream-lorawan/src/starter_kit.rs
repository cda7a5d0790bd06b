//! For those who come from the Azure IoT Edge LoRaWAN Starter Kit: what becomes of its names.
//!
//! **Telemetry** in its form is [`TelemetryForm::StarterKit`](crate::payload::telemetry::TelemetryForm);
//! what differs is said [there](crate::payload::telemetry::starter_kit_uplink).
//!
//! **Messages** in its form (`Fport`, `RawPayload`, `Payload`, `Confirmed`, `DevEUI`) are
//! [`CommandForm::StarterKit`](crate::payload::command::CommandForm); its `MacCommands` are refused.
//! The direct method `cloudToDeviceMessage` takes the same, of any device, for one that hears now or
//! not; it is called at the device, not at a module. `clearcache` and `closeconnection` have nothing to
//! do here. That a device confirmed a message is told in the hub's feedback, not by the property
//! `C2DMsgConfirmed` of the next uplink.
//!
//! **Device twins** are not read while the gateway runs: what a device is, is said in the settings.
//! [`read_twin`] makes a device of the network server of a twin's desired properties, once, for those
//! who move, and says what it had to leave out:
//!
//! | property | here |
//! | --- | --- |
//! | `AppKey`, `AppEUI` | [`OtaaConfig`] |
//! | `DevAddr`, `NwkSKey`, `AppSKey` | [`AbpConfig`], where there is no `AppKey` |
//! | `ABPRelaxMode` | `reset_allowed`; where it is absent false, though the kit's default is true |
//! | `ClassType` | [`KitDevice::class`], for the profile |
//! | `SensorDecoder` | [`KitDevice::decoder`], for the profile's codec |
//! | `Deduplication` | always `Drop`: copies of a frame are one message |
//! | `Supports32BitFCnt` | always true |
//! | `Downlink` | always true |
//! | `RXDelay` | [`TimingConfig::rx_delay`](crate::server::TimingConfig), for all devices |
//! | `PreferredWindow` | nothing: a downlink goes in RX1, or in RX2 where that is too late |
//! | `RX1DROffset`, `RX2DataRate` | nothing: those of the region |
//! | `GatewayID`, `PreferredGatewayID` | nothing: the concentrator that hears best sends |
//! | `FCntUpStart`, `FCntDownStart`, `FCntResetCounter` | nothing: counters are kept; a device of OTAA joins once, one of ABP that counted before goes on upward, and its downlinks begin at 0 |
//! | `KeepAliveTimeout` | nothing: connections with the hub are shared |
//! | `CN470JoinChannel` | nothing |
//!
//! Whatever else is there is left out, too. Nothing is reported to the twin; in particular no session
//! key is.
//!
//! Source: Azure/iotedge-lorawan-starterkit, `TwinProperty.cs`, `LoRaDevice.cs`.

use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::event::DevEui;
use crate::schedule::Class;
use crate::server::{AbpConfig, DeviceConfig, OtaaConfig};

/// Is what a device's twin says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KitDevice {
    /// The device, without a profile.
    pub device: DeviceConfig,
    /// When it hears.
    pub class: Class,
    /// The name or the address of its decoder, where it has one.
    pub decoder: Option<String>,
    /// The properties that mean nothing here, or something that cannot be had.
    pub left_out: Vec<String>,
}

/// Tells why a twin makes no device. It does not show the property's value, which may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TwinError {
    /// It is no JSON object.
    #[error("the desired properties are no JSON object: {0}")]
    Json(String),
    /// A property is not there.
    #[error("{0} is missing; a device has AppKey, or DevAddr, NwkSKey and AppSKey")]
    Missing(&'static str),
    /// A property is not what it should be.
    #[error("{name} is not what it should be: {problem}")]
    Property {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// Reads a device's desired properties, the JSON object `properties.desired` of its twin.
///
/// # Errors
/// There is no key, or a property is not what it should be.
pub fn read_twin(dev_eui: DevEui, desired: &[u8]) -> Result<KitDevice, TwinError> {
    let object: Map<String, Value> =
        serde_json::from_slice(desired).map_err(|error| TwinError::Json(error.to_string()))?;
    let mut twin = Twin(object);
    let decoder: Option<String> = twin.take("SensorDecoder")?;
    let class = match twin.take::<String>("ClassType")?.as_deref() {
        None | Some("A" | "a") => Class::A,
        Some("C" | "c") => Class::C,
        Some(_) => return Err(wrong("ClassType", "allowed: A, C")),
    };
    let device = match twin.take("AppKey")? {
        Some(app_key) => {
            let mut otaa = OtaaConfig::new(app_key);
            otaa.join_eui = twin.take("AppEUI")?;
            // Those of a session that it had by joining.
            twin.drop(["DevAddr", "NwkSKey", "AppSKey", "ABPRelaxMode"]);
            DeviceConfig::otaa(dev_eui, otaa)
        }
        None => {
            let dev_addr = twin.need("DevAddr")?;
            let mut abp = AbpConfig::new(dev_addr, twin.need("NwkSKey")?, twin.need("AppSKey")?);
            abp.reset_allowed = twin.is_true("ABPRelaxMode")?.unwrap_or_default();
            DeviceConfig::abp(dev_eui, abp)
        }
    };
    // What is so here anyway need not be told.
    let deduplication: Option<String> = twin.peek("Deduplication")?;
    if deduplication.is_none_or(|mode| mode.eq_ignore_ascii_case("drop")) {
        twin.drop(["Deduplication"]);
    }
    for name in ["Supports32BitFCnt", "Downlink"] {
        if twin.clone().is_true(name)? != Some(false) {
            twin.drop([name]);
        }
    }
    let names = twin.0.into_iter().filter(|(_, value)| !value.is_null());
    let left_out = names
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('$'));
    Ok(KitDevice {
        device,
        class,
        decoder: decoder.filter(|decoder| !decoder.is_empty()),
        left_out: left_out.collect(),
    })
}

fn wrong(name: &'static str, problem: impl Display) -> TwinError {
    let problem = problem.to_string();
    TwinError::Property { name, problem }
}

/// The properties that were not read yet.
#[derive(Clone)]
struct Twin(Map<String, Value>);

impl Twin {
    /// Reads a property that is text, and looks no more at it.
    fn take<T: FromStr<Err: Display>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, TwinError> {
        let value = self.peek(name)?;
        self.0.remove(name);
        Ok(value)
    }

    fn peek<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, TwinError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => {
                let value = text.parse().map_err(|error| wrong(name, error))?;
                Ok(Some(value))
            }
            Some(_) => Err(wrong(name, "it is no text")),
        }
    }

    fn need<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Result<T, TwinError> {
        self.take(name)?.ok_or(TwinError::Missing(name))
    }

    /// Reads a property that is true or false, or says so in text, and looks no more at it.
    fn is_true(&mut self, name: &'static str) -> Result<Option<bool>, TwinError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(is_true)) => Ok(Some(is_true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(_) => Err(wrong(name, "allowed: true, false")),
        }
    }

    fn drop<const N: usize>(&mut self, names: [&str; N]) {
        for name in names {
            self.0.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV_EUI: DevEui = DevEui::new([1; 8]);
    const KEY: &str = "2B7E151628AED2A6ABF7158809CF4F3C";

    fn read(desired: &str) -> Result<KitDevice, TwinError> {
        read_twin(DEV_EUI, desired.replace("KEY", KEY).as_bytes())
    }

    #[test]
    fn a_device_that_joins_is_one_here() {
        let device = read(
            r#"{"AppEUI":"70B3D57ED0000001","AppKey":"KEY","GatewayID":"","SensorDecoder":"DecoderValueSensor",
                "ClassType":"C","DevAddr":null,"$metadata":{},"$version":7}"#,
        );
        let device = device.unwrap();
        let mut otaa = OtaaConfig::new(KEY.parse().unwrap());
        otaa.join_eui = Some("70b3d57ed0000001".parse().unwrap());
        assert_eq!(device.device, DeviceConfig::otaa(DEV_EUI, otaa));
        assert_eq!(device.class, Class::C);
        assert_eq!(device.decoder.as_deref(), Some("DecoderValueSensor"));
        assert_eq!(device.left_out, ["GatewayID"]);
    }

    #[test]
    fn a_device_with_a_session_is_one_here() {
        let session = r#""DevAddr":"0228B1B1","NwkSKey":"KEY","AppSKey":"KEY""#;
        for (relaxed, reset_allowed) in [
            ("", false),
            (r#","ABPRelaxMode":false"#, false),
            (r#","ABPRelaxMode":"True""#, true),
        ] {
            let device = read(&format!("{{{session}{relaxed}}}")).unwrap();
            let key = || KEY.parse().unwrap();
            let mut abp = AbpConfig::new("0228b1b1".parse().unwrap(), key(), key());
            abp.reset_allowed = reset_allowed;
            assert_eq!(device.device, DeviceConfig::abp(DEV_EUI, abp));
            assert_eq!((device.class, device.decoder), (Class::A, None));
            assert!(device.left_out.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_had_is_left_out_by_name() {
        let device = read(
            r#"{"AppKey":"KEY","Deduplication":"Drop","Supports32BitFCnt":true,"Downlink":true}"#,
        );
        assert!(device.unwrap().left_out.is_empty());
        let device = read(
            r#"{"AppKey":"KEY","Deduplication":"Mark","Supports32BitFCnt":"false","Downlink":false,
                "PreferredWindow":2,"RXDelay":5,"SensorDecoder":""}"#,
        );
        let device = device.unwrap();
        assert_eq!(device.decoder, None);
        let expected = [
            "Deduplication",
            "Downlink",
            "PreferredWindow",
            "RXDelay",
            "Supports32BitFCnt",
        ];
        assert_eq!(device.left_out, expected);
    }

    #[test]
    fn a_twin_that_makes_no_device_says_why_and_shows_no_key() {
        let missing = |name| Err(TwinError::Missing(name));
        assert_eq!(read("{}"), missing("DevAddr"));
        assert_eq!(
            read(r#"{"DevAddr":"0228B1B1","NwkSKey":"KEY"}"#),
            missing("AppSKey")
        );
        for (twin, name) in [
            (r#"{"AppKey":"SECRET"}"#, "AppKey"),
            (r#"{"AppKey":1234}"#, "AppKey"),
            (r#"{"AppKey":"KEY","AppEUI":"x"}"#, "AppEUI"),
            (r#"{"AppKey":"KEY","ClassType":"B"}"#, "ClassType"),
            (r#"{"AppKey":"KEY","Downlink":1}"#, "Downlink"),
        ] {
            let error = read(twin).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
            assert!(
                !error.contains("SECRET") && !error.contains("1234"),
                "{error}"
            );
        }
        assert!(matches!(read("[]"), Err(TwinError::Json(_))));
    }
}
