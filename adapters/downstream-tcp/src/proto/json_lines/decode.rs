//! From a frame's text to what it says, in one pass and without copying bodies.

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use gateway_core::{Interest, Properties};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::MAX_PROPERTIES;

/// Is any message of a device: the fields of all types, of which each uses some.
///
/// One flat object, since telling types apart in serde would copy and parse everything twice.
/// Unknown fields are ignored, so that newer devices can speak to older gateways.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(rename = "type", borrow)]
    pub kind: Text<'a>,
    #[serde(borrow)]
    pub id: Option<Key<'a>>,
    pub seq: Option<u64>,
    #[serde(borrow)]
    pub tag: Option<Key<'a>>,
    #[serde(borrow)]
    pub token: Option<Text<'a>>,
    #[serde(borrow)]
    pub secret: Option<Text<'a>>,
    pub interest: Option<Interests>,
    #[serde(borrow)]
    pub body: Option<&'a RawValue>,
    #[serde(borrow)]
    pub body_base64: Option<Text<'a>>,
    pub properties: Option<PropertyMap>,
    #[serde(borrow)]
    pub content_type: Option<Text<'a>>,
    #[serde(default, with = "humantime_serde")]
    pub created_at: Option<SystemTime>,
    #[serde(borrow)]
    pub outcome: Option<Text<'a>>,
    pub version: Option<u64>,
    #[serde(borrow)]
    pub description: Option<Text<'a>>,
    pub status: Option<i32>,
    #[serde(borrow)]
    pub payload: Option<&'a RawValue>,
    #[serde(borrow)]
    pub patch: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    pub(super) fn parse(frame: &'a [u8]) -> Result<Self, serde_json::Error> {
        match str::from_utf8(frame) {
            // Looked at once for the whole frame instead of for each text in it.
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(frame),
        }
    }
}

/// Is a text, borrowed unless it has escapes.
#[derive(Deserialize, Clone)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Is an id: a text, or a number taken as its digits.
#[derive(Clone)]
pub(super) struct Key<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(number.to_string())))
            }
        }
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// Is what a device wants to hear.
#[derive(Deserialize, Clone, Copy)]
#[serde(default)]
pub(super) struct Interests {
    messages: bool,
    methods: bool,
    desired: bool,
}

impl Default for Interests {
    fn default() -> Self {
        let Interest {
            messages,
            methods,
            desired,
            ..
        } = Interest::COMMANDS;
        Self {
            messages,
            methods,
            desired,
        }
    }
}

impl From<Interests> for Interest {
    fn from(interests: Interests) -> Self {
        Self::NONE
            .with_messages(interests.messages)
            .with_methods(interests.methods)
            .with_desired(interests.desired)
    }
}

/// Is the application's properties, not more than [`MAX_PROPERTIES`].
pub(super) struct PropertyMap(pub Properties);

impl<'de> Deserialize<'de> for PropertyMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = PropertyMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut properties = Properties::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if properties.len() == MAX_PROPERTIES {
                        let problem = format!("more than {MAX_PROPERTIES} properties");
                        return Err(A::Error::custom(problem));
                    }
                    properties.insert(name, value);
                }
                Ok(PropertyMap(properties))
            }
        }
        deserializer.deserialize_map(MapVisitor)
    }
}
