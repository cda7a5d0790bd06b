//! The acknowledgement of desired properties that hubs' services expect.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::{COMPONENT_MARKER, TwinError, TwinProperties, component};
use crate::message::TwinRequest;

/// Says how a device took desired properties.
///
/// Source: Microsoft, "IoT Plug and Play conventions", writable properties: a device reports
/// `{"name": {"value": .., "ac": status, "av": version, "ad": description}}` for each, within its
/// component where it has one.
///
/// ```
/// # use gateway_core::*;
/// # let device = DeviceId::new("device-1").unwrap();
/// let change = DesiredPatch::new(device, 4, r#"{"interval":60,"$version":4}"#);
/// let ack = PropertyAck::new(PropertyAck::COMPLETED, change.version).with_description("set");
/// let request = ack.acknowledge(&change.properties()?)?;
/// assert_eq!(
///     request,
///     TwinRequest::PatchReported(
///         r#"{"interval":{"value":60,"ac":200,"av":4,"ad":"set"}}"#.into()
///     )
/// );
/// # Ok::<(), TwinError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PropertyAck {
    /// The status, in the manner of HTTP (`ac`).
    pub status: i32,
    /// The version of the desired properties that is acknowledged (`av`).
    pub version: u64,
    /// More in words (`ad`).
    pub description: Option<String>,
}

impl PropertyAck {
    /// The device has the desired value.
    pub const COMPLETED: i32 = 200;
    /// The device has taken the desired value and is at work; another status follows.
    pub const IN_PROGRESS: i32 = 202;
    /// The device has set the value by itself; goes with version 0.
    pub const SET_BY_DEVICE: i32 = 203;
    /// The device does not accept the desired value; the value reported is the one it uses.
    pub const REFUSED: i32 = 400;
    /// The device failed over the desired value; the value reported is the one it uses.
    pub const FAILED: i32 = 500;

    /// Makes an acknowledgement without a description.
    #[must_use]
    pub const fn new(status: i32, version: u64) -> Self {
        Self {
            status,
            version,
            description: None,
        }
    }

    /// Sets the description.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Makes the request that reports these properties so acknowledged: the values desired, or the
    /// ones that the device really uses.
    ///
    /// A property whose value is `null`, which a change deletes, is deleted from the reported ones
    /// too; the conventions leave that open.
    ///
    /// # Errors
    /// A value cannot be written as JSON, which one that was read can.
    pub fn acknowledge(&self, properties: &TwinProperties) -> Result<TwinRequest, TwinError> {
        let patch = serde_json::to_vec(&Patch {
            ack: self,
            properties,
        });
        let patch = patch.map_err(TwinError::new("a patch that can be written"))?;
        Ok(TwinRequest::PatchReported(Bytes::from(patch)))
    }
}

struct Patch<'a> {
    ack: &'a PropertyAck,
    properties: &'a TwinProperties,
}

impl Serialize for Patch<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut patch = serializer.serialize_map(None)?;
        for (name, value) in &self.properties.values {
            let Some(component) = component(value) else {
                patch.serialize_entry(name, &Property::new(self.ack, value))?;
                continue;
            };
            let component = Component {
                ack: self.ack,
                properties: &component,
            };
            patch.serialize_entry(name, &component)?;
        }
        patch.end()
    }
}

struct Component<'a> {
    ack: &'a PropertyAck,
    properties: &'a BTreeMap<String, Box<RawValue>>,
}

impl Serialize for Component<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut component = serializer.serialize_map(None)?;
        component.serialize_entry(COMPONENT_MARKER, "c")?;
        for (name, value) in self.properties {
            component.serialize_entry(name, &Property::new(self.ack, value))?;
        }
        component.end()
    }
}

/// A property as it is reported: nothing where it is to be deleted.
#[derive(Serialize)]
#[serde(untagged)]
enum Property<'a> {
    Deleted,
    Acknowledged {
        value: &'a RawValue,
        ac: i32,
        av: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        ad: Option<&'a str>,
    },
}

impl<'a> Property<'a> {
    fn new(ack: &'a PropertyAck, value: &'a RawValue) -> Self {
        match value.get() {
            "null" => Self::Deleted,
            _ => Self::Acknowledged {
                value,
                ac: ack.status,
                av: ack.version,
                ad: ack.description.as_deref(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn acknowledged(ack: &PropertyAck, desired: &str) -> Value {
        let desired = TwinProperties::parse(desired.as_bytes()).unwrap();
        let TwinRequest::PatchReported(patch) = ack.acknowledge(&desired).unwrap() else {
            panic!("not a patch");
        };
        serde_json::from_slice(&patch).unwrap()
    }

    #[test]
    fn every_property_is_acknowledged_with_value_status_version_and_description() {
        let ack = PropertyAck::new(PropertyAck::IN_PROGRESS, 3).with_description("moving");
        assert_eq!(
            acknowledged(&ack, r#"{"a":1,"b":{"x":[null]},"$version":3}"#),
            json!({
                "a": {"value": 1, "ac": 202, "av": 3, "ad": "moving"},
                "b": {"value": {"x": [null]}, "ac": 202, "av": 3, "ad": "moving"},
            })
        );
    }

    #[test]
    fn a_components_properties_are_acknowledged_within_it() {
        let ack = PropertyAck::new(PropertyAck::COMPLETED, 5);
        let desired = r#"{"heater":{"__t":"c","target":21.5,"old":null},"mode":"eco"}"#;
        assert_eq!(
            acknowledged(&ack, desired),
            json!({
                "heater": {
                    "__t": "c",
                    "target": {"value": 21.5, "ac": 200, "av": 5},
                    "old": null,
                },
                "mode": {"value": "eco", "ac": 200, "av": 5},
            })
        );
    }

    #[test]
    fn a_deleted_property_is_deleted_from_the_reported_ones() {
        let ack = PropertyAck::new(PropertyAck::COMPLETED, 6);
        assert_eq!(
            acknowledged(&ack, r#"{"gone": null }"#),
            json!({"gone": null})
        );
    }

    #[test]
    fn a_device_reports_what_it_uses_instead() {
        let used = TwinProperties::new().with("interval", &10).unwrap();
        let ack = PropertyAck::new(PropertyAck::REFUSED, 7).with_description("least is 10");
        let request = ack.acknowledge(&used).unwrap();
        let patch = r#"{"interval":{"value":10,"ac":400,"av":7,"ad":"least is 10"}}"#;
        assert_eq!(request, TwinRequest::PatchReported(patch.into()));
    }

    proptest! {
        #[test]
        fn any_change_is_acknowledged_whole_and_nothing_else(
            texts in prop::collection::btree_map("[a-z]{1,6}", "\\PC{0,12}", 0..8),
            numbers in prop::collection::btree_map("[A-Z]{1,6}", any::<i64>(), 0..8),
            status in any::<i32>(),
            version in any::<u64>(),
            description in prop::option::of("\\PC{0,12}"),
        ) {
            let mut change = serde_json::Map::new();
            change.extend(texts.into_iter().map(|(name, text)| (name, Value::from(text))));
            change.extend(numbers.into_iter().map(|(name, number)| (name, Value::from(number))));
            let ack = PropertyAck { status, version, description };
            let patch = acknowledged(&ack, &Value::Object(change.clone()).to_string());
            prop_assert_eq!(patch.as_object().unwrap().len(), change.len());
            for (name, value) in change {
                let property = &patch[&name];
                prop_assert_eq!(&property["value"], &value);
                prop_assert_eq!(&property["ac"], &json!(status));
                prop_assert_eq!(&property["av"], &json!(version));
                prop_assert_eq!(property.get("ad").and_then(Value::as_str), ack.description.as_deref());
            }
        }
    }
}
