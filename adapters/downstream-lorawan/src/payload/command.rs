//! The forms in which the hub asks for a downlink.

mod starter_kit;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use gateway_core::CloudMessage;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use serde_json::value::RawValue;

use crate::event::{DevEui, Priority};
use crate::schedule::QueueMode;

/// Base64 of senders who pad, and of those who do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Chooses how cloud-to-device messages are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CommandForm {
    /// The body is the payload, or JSON for the codec; the rest is in application properties. See
    /// [`Request::from_message`]. The default.
    #[default]
    Properties,
    /// The body is the JSON of the Azure IoT Edge LoRaWAN Starter Kit. See
    /// [`Request::from_starter_kit`].
    StarterKit,
}

/// Is what is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The payload itself.
    Raw(Bytes),
    /// A JSON value, which the device's codec is to write.
    Json(Bytes),
}

/// Is a downlink as the hub asks for it. What is not said is for the device's profile to say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The port.
    pub port: Option<u8>,
    /// What is to be sent.
    pub content: Content,
    /// Whether the device is to confirm it.
    pub confirmed: Option<bool>,
    /// Which goes first.
    pub priority: Priority,
    /// What becomes of those that wait.
    pub mode: QueueMode,
}

/// Tells what is wrong with a request. It would be wrong again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A property does not say what it may.
    #[error("{name} is {value:?}; allowed: {allowed}")]
    Property {
        /// Its name.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// The body is not what was expected.
    #[error("the body is no such JSON: {0}")]
    Json(String),
    /// The payload is not base64.
    #[error("the payload is no base64")]
    Base64,
    /// It has no payload, or two.
    #[error("there must be one payload, raw or to be encoded")]
    Content,
    /// It is for another device.
    #[error("it is for the device {0}")]
    OtherDevice(DevEui),
    /// It asks for MAC commands, which the network server keeps to itself.
    #[error("MAC commands cannot be sent through the gateway; the network server has its own")]
    MacCommands,
}

impl Request {
    /// Makes a request that leaves everything but its content to the profile.
    #[must_use]
    pub fn new(content: Content) -> Self {
        Self {
            port: None,
            content,
            confirmed: None,
            priority: Priority::default(),
            mode: QueueMode::default(),
        }
    }

    /// Reads a message whose body is the payload, or, with the content type `application/json`, a
    /// value for the codec.
    ///
    /// Application properties say the rest: `lorawan-port` (1 to 223), `lorawan-confirmed` (`true`,
    /// `false`), `lorawan-priority` (`low`, `normal`, `high`), `lorawan-mode` (`append`, `replace`,
    /// `flush`).
    ///
    /// # Errors
    /// A property says something else.
    pub fn from_message(message: &CloudMessage) -> Result<Self, RequestError> {
        let body = message.body.clone();
        let is_json = message.system.content_type.as_deref() == Some("application/json");
        let mut request = Self::new(match is_json {
            true => Content::Json(body),
            false => Content::Raw(body),
        });
        let read = |name: &'static str| message.properties.get(name).map(|value| (name, value));
        if let Some(port) = read("lorawan-port") {
            request.port = Some(parse(port, "1 to 223", |text| text.parse().ok())?);
        }
        if let Some(confirmed) = read("lorawan-confirmed") {
            let confirmed = parse(confirmed, "true, false", |text| text.parse().ok())?;
            request.confirmed = Some(confirmed);
        }
        if let Some(priority) = read("lorawan-priority") {
            request.priority = parse(priority, "low, normal, high", word)?;
        }
        if let Some(mode) = read("lorawan-mode") {
            request.mode = parse(mode, "append, replace, flush", word)?;
        }
        Ok(request)
    }

    /// Reads the argument of a method: `{"port":10,"data":"AQID","confirmed":true,
    /// "priority":"high","mode":"replace"}`, all but the payload optional. The payload is `data`, in
    /// base64, or `object`, a value for the codec.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_method(payload: &[u8]) -> Result<Self, RequestError> {
        let json: MethodJson<'_> = serde_json::from_slice(payload)
            .map_err(|error| RequestError::Json(error.to_string()))?;
        let content = match (json.data, json.object) {
            (Some(data), None) => Content::Raw(base64(&data)?),
            (None, Some(object)) => Content::Json(Bytes::copy_from_slice(object.get().as_bytes())),
            _ => return Err(RequestError::Content),
        };
        let mut request = Self::new(content);
        request.port = json.port;
        request.confirmed = json.confirmed;
        request.priority = json.priority;
        request.mode = json.mode;
        Ok(request)
    }
}

type Text<'a> = std::borrow::Cow<'a, str>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodJson<'a> {
    port: Option<u8>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    confirmed: Option<bool>,
    #[serde(default)]
    priority: Priority,
    #[serde(default)]
    mode: QueueMode,
}

fn base64(text: &str) -> Result<Bytes, RequestError> {
    let bytes = BASE64.decode(text).map_err(|_| RequestError::Base64)?;
    Ok(bytes.into())
}

fn parse<T>(
    (name, value): (&'static str, &str),
    allowed: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, RequestError> {
    read(value).ok_or_else(|| RequestError::Property {
        name,
        value: value.to_owned(),
        allowed,
    })
}

/// Reads a word as the configuration would.
fn word<T: DeserializeOwned>(text: &str) -> Option<T> {
    let text: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    T::deserialize(text).ok()
}

#[cfg(test)]
mod tests {
    use gateway_core::{DeviceId, Properties};
    use tokio::time::Instant;

    use super::*;

    const DEVICE: DevEui = DevEui::new([1; 8]);

    fn message(properties: &[(&str, &str)]) -> CloudMessage {
        let device = DeviceId::new(DEVICE.to_string()).unwrap();
        let mut message = CloudMessage::new(device, &b"\x01\x02"[..], Instant::now());
        message.properties = properties.iter().copied().collect::<Properties>();
        message
    }

    #[test]
    fn a_message_says_in_properties_how_it_is_to_go() {
        let request = Request::from_message(&message(&[
            ("lorawan-port", "10"),
            ("lorawan-confirmed", "true"),
            ("lorawan-priority", "high"),
            ("lorawan-mode", "replace"),
            ("other", "x"),
        ]));
        let mut expected = Request::new(Content::Raw(b"\x01\x02"[..].into()));
        expected.port = Some(10);
        expected.confirmed = Some(true);
        expected.priority = Priority::High;
        expected.mode = QueueMode::Replace;
        assert_eq!(request, Ok(expected));
        let error = Request::from_message(&message(&[("lorawan-port", "300")]));
        assert_eq!(
            error.unwrap_err().to_string(),
            r#"lorawan-port is "300"; allowed: 1 to 223"#
        );
    }

    #[test]
    fn a_method_brings_a_payload_or_a_value_for_the_codec() {
        let request =
            Request::from_method(br#"{"port":10,"data":"AQI","confirmed":true}"#).unwrap();
        assert_eq!(request.content, Content::Raw(b"\x01\x02"[..].into()));
        assert_eq!((request.port, request.confirmed), (Some(10), Some(true)));
        let request = Request::from_method(br#"{"object":{"led": "on"}}"#).unwrap();
        assert_eq!(request.content, Content::Json(r#"{"led": "on"}"#.into()));
        for wrong in [
            "",
            "{}",
            "[]",
            r#"{"data":"AQI","object":1}"#,
            r#"{"data":"?"}"#,
            r#"{"port":256,"data":""}"#,
            r#"{"data":"","prot":1}"#,
        ] {
            assert!(Request::from_method(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
