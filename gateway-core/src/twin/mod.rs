//! A device's twin in types: what is desired of it, and what it has reported.

mod acknowledge;
mod desired;

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::message::{DesiredPatch, TwinReply};
pub use acknowledge::PropertyAck;
pub use desired::{DesiredChange, DesiredChanges, desired_of, version_of};

/// Marks an object as a component, under this name with the value `"c"`.
const COMPONENT_MARKER: &str = "__t";
/// Begins the names that the hub keeps for itself.
const RESERVED: char = '$';
const VERSION: &str = "$version";

/// Tells why a text is no twin, or a value no property of one.
///
/// Its text does not repeat its [`source`](StdError::source).
#[derive(Debug)]
pub struct TwinError {
    what: &'static str,
    source: serde_json::Error,
}

impl TwinError {
    fn new(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self { what, source }
    }
}

impl fmt::Display for TwinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}", self.what)
    }
}

impl StdError for TwinError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

/// Is a device's twin, as the device may see it.
///
/// ```
/// # use gateway_core::{Twin, TwinReply};
/// let reply = TwinReply::new(r#"{"desired":{"interval":60,"$version":4},"reported":{}}"#, None);
/// let twin: Twin = reply.twin()?;
/// assert_eq!(twin.desired.version(), 4);
/// assert_eq!(twin.desired.read::<u32>("interval")?, Some(60));
/// # Ok::<(), gateway_core::TwinError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Twin {
    /// What is desired of the device.
    pub desired: TwinProperties,
    /// What the device has reported.
    pub reported: TwinProperties,
}

impl Twin {
    /// Reads the answer to [`TwinRequest::Get`](crate::TwinRequest::Get): a JSON object with
    /// `desired` and `reported`, of which one that is not there counts as empty.
    ///
    /// # Errors
    /// The text is something else.
    pub fn parse(text: &[u8]) -> Result<Self, TwinError> {
        #[derive(Deserialize)]
        struct Sections<'a> {
            #[serde(borrow)]
            desired: Option<&'a RawValue>,
            #[serde(borrow)]
            reported: Option<&'a RawValue>,
        }
        let sections: Sections<'_> =
            serde_json::from_slice(text).map_err(TwinError::new("a twin"))?;
        let section = |text: Option<&RawValue>| match text {
            Some(text) => TwinProperties::parse(text.get().as_bytes()),
            None => Ok(TwinProperties::default()),
        };
        Ok(Self {
            desired: section(sections.desired)?,
            reported: section(sections.reported)?,
        })
    }
}

/// Holds one side of a twin, or a change of it: JSON values by name, and a version.
///
/// Values stay as they were written. In a change, `null` deletes.
#[derive(Debug, Clone, Default)]
pub struct TwinProperties {
    version: u64,
    values: BTreeMap<String, Box<RawValue>>,
}

impl TwinProperties {
    /// Makes an empty set without a version.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a JSON object. Names that begin with `$` are the hub's: `$version` becomes the
    /// [`version`](Self::version), and the others are left out.
    ///
    /// # Errors
    /// The text is something else, or `$version` is no whole number.
    pub fn parse(text: &[u8]) -> Result<Self, TwinError> {
        let error = TwinError::new("a JSON object of properties");
        let mut values: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(text).map_err(error)?;
        let version = match values.get(VERSION) {
            Some(version) => {
                serde_json::from_str(version.get()).map_err(TwinError::new("a version"))?
            }
            None => 0,
        };
        values.retain(|name, _| !name.starts_with(RESERVED));
        Ok(Self { version, values })
    }

    /// Sets a property.
    ///
    /// # Errors
    /// The value cannot be written as JSON.
    pub fn with(
        mut self,
        name: impl Into<String>,
        value: &(impl Serialize + ?Sized),
    ) -> Result<Self, TwinError> {
        let value = serde_json::value::to_raw_value(value);
        let value = value.map_err(TwinError::new("a property's value"))?;
        self.values.insert(name.into(), value);
        Ok(self)
    }

    /// The version, which grows with every change; 0 if the text named none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Finds a property and gives its value as JSON text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.get())
    }

    /// Finds a property and reads its value; none if it is not there.
    ///
    /// # Errors
    /// The value is not of this type.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, TwinError> {
        let value = self.get(name).map(serde_json::from_str).transpose();
        value.map_err(TwinError::new("a value of the type asked for"))
    }

    /// Finds a component and gives its properties, under the version of the whole; none if no
    /// component has this name.
    ///
    /// Source: Microsoft, "IoT Plug and Play conventions", multiple components: an object with
    /// `"__t": "c"` is one.
    #[must_use]
    pub fn component(&self, name: &str) -> Option<Self> {
        let values = component(self.values.get(name)?)?;
        Some(Self {
            version: self.version,
            values,
        })
    }

    /// Walks over names and values as JSON text, ordered by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.values
            .iter()
            .map(|(name, value)| (name.as_str(), value.get()))
    }

    /// Tells how many properties there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// A component's properties, without its marker, if the value is one.
fn component(value: &RawValue) -> Option<BTreeMap<String, Box<RawValue>>> {
    let mut properties = TwinProperties::parse(value.get().as_bytes()).ok()?.values;
    let marker = properties.remove(COMPONENT_MARKER)?;
    (serde_json::from_str(marker.get()).ok() == Some("c")).then_some(properties)
}

impl TwinReply {
    /// Reads the answer to [`TwinRequest::Get`](crate::TwinRequest::Get).
    ///
    /// # Errors
    /// The body is no twin, as after a patch.
    pub fn twin(&self) -> Result<Twin, TwinError> {
        Twin::parse(&self.body)
    }
}

impl DesiredPatch {
    /// Reads the change.
    ///
    /// # Errors
    /// The body is no JSON object.
    pub fn properties(&self) -> Result<TwinProperties, TwinError> {
        let mut properties = TwinProperties::parse(&self.body)?;
        properties.version = self.version;
        Ok(properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeviceId;

    #[test]
    fn a_twin_shows_both_sides_with_their_versions_and_values_as_written() {
        let twin = Twin::parse(
            br#"{"desired": {"rate": 1.50, "$version": 7, "$metadata": {"x": 1}},
                 "reported": {"fw": {"a": [1,  2]}, "$version": 3}}"#,
        )
        .unwrap();
        assert_eq!((twin.desired.version(), twin.reported.version()), (7, 3));
        assert_eq!(
            twin.desired.iter().collect::<Vec<_>>(),
            [("rate", "1.50")],
            "the hub's own names are no properties"
        );
        assert_eq!(twin.reported.get("fw"), Some(r#"{"a": [1,  2]}"#));
        assert_eq!(twin.desired.read::<f64>("rate").unwrap(), Some(1.5));
        assert_eq!(twin.desired.read::<f64>("none").unwrap(), None);
        assert!(twin.desired.read::<bool>("rate").is_err());
        assert!(Twin::parse(b"{}").unwrap().reported.is_empty());
    }

    #[test]
    fn what_is_no_twin_is_an_error_with_its_reason() {
        for text in [
            &b""[..],
            b"[]",
            br#"{"desired":5}"#,
            br#"{"desired":{"$version":-1}}"#,
            b"\xff",
        ] {
            let error = Twin::parse(text).unwrap_err();
            assert!(error.to_string().starts_with("not a "), "{error}");
            assert!(error.source().is_some());
        }
    }

    #[test]
    fn a_component_is_an_object_with_its_marker() {
        let patch = DesiredPatch::new(
            DeviceId::new("dev1").unwrap(),
            9,
            r#"{"thermostat":{"target":21,"__t":"c"},"plain":{"target":21},"other":{"__t":"d"}}"#,
        );
        let properties = patch.properties().unwrap();
        assert_eq!(properties.version(), 9, "the version is the patch's own");
        let thermostat = properties.component("thermostat").unwrap();
        assert_eq!(thermostat.iter().collect::<Vec<_>>(), [("target", "21")]);
        assert_eq!(thermostat.version(), 9);
        for name in ["plain", "other", "absent"] {
            assert!(properties.component(name).is_none(), "{name}");
        }
    }
}
