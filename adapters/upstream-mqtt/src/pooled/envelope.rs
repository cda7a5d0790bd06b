//! A message and its properties in one JSON object, for brokers without MQTT 5.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The JSON object. Of `json`, `text` and `base64` there is at most one: the body.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Envelope<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<u64>,
    /// What begins with `$` in the properties of MQTT 5, without it.
    #[serde(borrow, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) system: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) properties: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) json: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub(super) base64: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Puts a body in, so that it comes out byte for byte: as JSON if it is meant as such, else as
    /// text, else in base64.
    pub(super) fn with_body(mut self, body: &'a [u8], is_json: bool) -> Self {
        // What stands around a value would not come out again.
        let verbatim = |value: &&RawValue| value.get().len() == body.len();
        match std::str::from_utf8(body) {
            Ok(text) => {
                let json = is_json.then(|| serde_json::from_str::<&RawValue>(text).ok());
                self.json = json.flatten().filter(verbatim);
                self.text = self.json.is_none().then(|| text.into());
            }
            Err(_) => self.base64 = Some(BASE64.encode(body).into()),
        }
        self
    }

    /// Takes the body out; empty where there is none.
    ///
    /// # Errors
    /// There are several, or what should be base64 is not.
    pub(super) fn body(&self) -> Result<Bytes, String> {
        match (self.json, &self.text, &self.base64) {
            (None, None, None) => Ok(Bytes::new()),
            (Some(json), None, None) => Ok(Bytes::copy_from_slice(json.get().as_bytes())),
            (None, Some(text), None) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            (None, None, Some(text)) => match BASE64.decode(text.as_bytes()) {
                Ok(body) => Ok(body.into()),
                Err(error) => Err(format!("`base64` cannot be read: {error}")),
            },
            _ => Err("an envelope has one of `json`, `text` and `base64`".to_owned()),
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(body: &[u8], is_json: bool) -> (String, Bytes) {
        let text = Envelope::default().with_body(body, is_json).to_bytes();
        let text = String::from_utf8(text.unwrap().to_vec()).unwrap();
        let envelope: Envelope<'_> = serde_json::from_str(&text).unwrap();
        let body = envelope.body().unwrap();
        (text, body)
    }

    #[test]
    fn a_body_is_written_as_what_it_is() {
        let body = br#"{"t": 21.50}"#;
        assert_eq!(round(body, true).0, r#"{"json":{"t": 21.50}}"#);
        assert_eq!(round(body, false).0, r#"{"text":"{\"t\": 21.50}"}"#);
        assert_eq!(round(b" {}", true).0, r#"{"text":" {}"}"#);
        assert_eq!(round(&[0xff], true).0, r#"{"base64":"/w=="}"#);
        let two: Envelope<'_> = serde_json::from_str(r#"{"text":"a","json":1}"#).unwrap();
        assert!(two.body().is_err());
    }

    proptest! {
        #[test]
        fn any_body_comes_out_as_it_went_in(body: Vec<u8>, text in "\\PC{0,40}", is_json: bool) {
            prop_assert_eq!(round(&body, is_json).1, body);
            prop_assert_eq!(round(text.as_bytes(), is_json).1, text.as_bytes());
            let number = text.len().to_string();
            prop_assert_eq!(round(number.as_bytes(), is_json).1, number.as_bytes());
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            drop(serde_json::from_slice::<Envelope<'_>>(&bytes).map(|e| e.body()));
        }
    }
}
