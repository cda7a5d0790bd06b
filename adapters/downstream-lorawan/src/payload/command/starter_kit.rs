//! The message of the Azure IoT Edge LoRaWAN Starter Kit.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{Content, Request, RequestError, Text, base64};
use crate::event::DevEui;

impl Request {
    /// Reads the starter kit's message: `DevEUI`, `Fport`, `Payload` as text or `RawPayload` in
    /// base64, `Confirmed`; names in capitals or not, as there. If there is a text, the raw payload
    /// is ignored. So is `MessageId`: the hub's message has one, and the hub's feedback tells what
    /// became of it.
    ///
    /// # Errors
    /// It is something else, is for another device, or asks for MAC commands (`MacCommands`), with
    /// which the network server would be at odds.
    ///
    /// Source: Azure/iotedge-lorawan-starterkit, `LoRaCloudToDeviceMessage.cs` and
    /// `ReceivedLoRaCloudToDeviceMessage.cs`.
    pub fn from_starter_kit(body: &[u8], device: DevEui) -> Result<Self, RequestError> {
        let message: Message<'_> =
            serde_json::from_slice(body).map_err(|error| RequestError::Json(error.to_string()))?;
        if let Some(other) = message.dev_eui.filter(|other| *other != device) {
            return Err(RequestError::OtherDevice(other));
        }
        if message.mac_commands.is_some_and(|list| !list.is_empty()) {
            return Err(RequestError::MacCommands);
        }
        let text = message.payload.filter(|text| !text.is_empty());
        let content = match (text, message.raw_payload) {
            (Some(text), _) => Bytes::from(text.into_owned()),
            (None, Some(raw)) => base64(&raw)?,
            (None, None) => return Err(RequestError::Content),
        };
        let mut request = Self::new(Content::Raw(content));
        request.port = message.port;
        request.confirmed = Some(message.confirmed.unwrap_or_default());
        Ok(request)
    }
}

#[derive(Default)]
struct Message<'a> {
    dev_eui: Option<DevEui>,
    port: Option<u8>,
    raw_payload: Option<Text<'a>>,
    payload: Option<Text<'a>>,
    confirmed: Option<bool>,
    mac_commands: Option<Vec<&'a RawValue>>,
}

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AnyCase)
    }
}

/// Reads names in any case.
struct AnyCase;

impl<'de> Visitor<'de> for AnyCase {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with Fport and RawPayload or Payload")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'de>, A::Error> {
        let mut message = Message::default();
        while let Some(name) = map.next_key::<Text<'de>>()? {
            match &*name.to_ascii_lowercase() {
                "deveui" => message.dev_eui = map.next_value()?,
                "fport" => message.port = map.next_value()?,
                "rawpayload" => message.raw_payload = map.next_value()?,
                "payload" => message.payload = map.next_value()?,
                "confirmed" => message.confirmed = map.next_value()?,
                "maccommands" => message.mac_commands = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DevEui = DevEui::new([1; 8]);

    fn read(body: &str) -> Result<Request, RequestError> {
        Request::from_starter_kit(body.as_bytes(), DEVICE)
    }

    #[test]
    fn the_starter_kits_message_is_understood() {
        let request = read(
            r#"{"DevEUI":"0101010101010101","Fport":5,"RawPayload":"AQI=","Confirmed":true,"MessageId":"m"}"#,
        );
        let request = request.unwrap();
        assert_eq!(request.content, Content::Raw(b"\x01\x02"[..].into()));
        assert_eq!((request.port, request.confirmed), (Some(5), Some(true)));
        for body in [
            r#"{"fport":5,"payload":"on"}"#,
            r#"{"FPORT":5,"PAYLOAD":"on","RawPayload":"AQI=","MacCommands":[]}"#,
            r#"{"fPort":5,"Payload":"o\u006e","RawPayload":null,"DevEUI":null,"Confirmed":null}"#,
        ] {
            let request = read(body).unwrap();
            assert_eq!(request.content, Content::Raw("on".into()), "{body}");
            assert_eq!((request.port, request.confirmed), (Some(5), Some(false)));
        }
        let raw = read(r#"{"Fport":5,"Payload":"","RawPayload":"AQI"}"#).unwrap();
        assert_eq!(raw.content, Content::Raw(b"\x01\x02"[..].into()));
    }

    #[test]
    fn what_cannot_be_done_of_the_starter_kits_message_is_said() {
        let other = read(r#"{"DevEUI":"0202020202020202","Fport":5,"Payload":"on"}"#);
        assert_eq!(other, Err(RequestError::OtherDevice(DevEui::new([2; 8]))));
        for commands in [
            r#"{"Fport":5,"Payload":"on","MacCommands":[{"cid":6}]}"#,
            r#"{"Fport":0,"MacCommands":[{"cid":"DevStatusCmd"}]}"#,
        ] {
            assert_eq!(read(commands), Err(RequestError::MacCommands));
        }
        for nothing in [r#"{"Fport":5}"#, r#"{"Fport":5,"Payload":""}"#] {
            assert_eq!(read(nothing), Err(RequestError::Content));
        }
        let garbled = read(r#"{"Fport":5,"RawPayload":"?"}"#);
        assert_eq!(garbled, Err(RequestError::Base64));
        for other in ["", "on", "[]", r#"{"Fport":"five"}"#, r#"{"Fport":256}"#] {
            assert!(matches!(read(other), Err(RequestError::Json(_))), "{other}");
        }
    }
}
