//! A twin: tags, desired and reported properties, and how they are written.
//!
//! Source: Microsoft, "Understand and use device twins in IoT Hub".

mod rules;
mod section;
mod tree;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::clock::Ticks;
use section::{MAX_PROPERTIES, MAX_TAGS, Section, own_keys, versioned, written};
use tree::{Stamp, Tree};

/// A write that a twin cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TwinError(Cow<'static, str>);

impl TwinError {
    pub(crate) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self(text.into())
    }
}

/// How a write treats what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Absent keys stay, nulls delete, objects merge.
    Merge,
    /// Everything else goes.
    Replace,
}

/// A write of the service side: the sections that it names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Change<'a> {
    pub(crate) tags: Option<&'a Map<String, Value>>,
    pub(crate) desired: Option<&'a Map<String, Value>>,
}

impl<'a> Change<'a> {
    /// Reads the document of a `PATCH` or `PUT`; what only the hub writes is passed over.
    pub(crate) fn of(document: &'a Value) -> Result<Self, TwinError> {
        let section = |value: Option<&'a Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(section)) => Ok(Some(section)),
            Some(_) => Err(TwinError::new("A section of a twin must be an object.")),
        };
        let document = section(Some(document))?;
        let document = document.ok_or_else(|| TwinError::new("A twin must be an object."))?;
        let properties = section(document.get("properties"))?;
        Ok(Self {
            tags: section(document.get("tags"))?,
            desired: section(properties.and_then(|properties| properties.get("desired")))?,
        })
    }

    /// Whether it names anything.
    pub(crate) fn is_some(&self) -> bool {
        self.tags.is_some() || self.desired.is_some()
    }
}

/// Tags and properties of a device or module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Twin {
    tags: Tree,
    desired: Section,
    reported: Section,
    /// Writes of either side.
    version: u64,
    /// Writes of the service side.
    etag: u64,
    /// The IoT Plug and Play model that the device has announced.
    #[serde(default)]
    pub(crate) model_id: String,
}

impl Twin {
    /// The twin of something registered at a time.
    pub(crate) fn new(created: Ticks) -> Self {
        Self {
            tags: Tree::default(),
            desired: Section::new(created),
            reported: Section::new(created),
            version: 2,
            etag: 1,
            model_id: String::new(),
        }
    }

    /// Puts in what a device is registered with, which counts as no write.
    pub(crate) fn begin_with(&mut self, change: Change<'_>) -> Result<(), TwinError> {
        let never = Stamp {
            time: Ticks::default(),
            version: self.desired.version,
        };
        let tags = change
            .tags
            .map(|tags| written(&self.tags, tags, Mode::Merge, never, MAX_TAGS))
            .transpose()?;
        let desired = change
            .desired
            .map(|desired| {
                let before = &self.desired.tree;
                let desired = own_keys(desired)?;
                written(before, &desired, Mode::Merge, never, MAX_PROPERTIES)
            })
            .transpose()?;
        if let Some(tags) = tags {
            self.tags = tags;
        }
        if let Some(desired) = desired {
            self.desired.tree = desired;
        }
        Ok(())
    }

    pub(crate) fn etag(&self) -> String {
        BASE64.encode(self.etag.to_be_bytes())
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn tags(&self) -> &Tree {
        &self.tags
    }

    /// The version of the desired properties.
    pub(crate) fn desired_version(&self) -> u64 {
        self.desired.version
    }

    /// Writes tags and desired properties.
    ///
    /// Returns what a device that listens is told: the patch, or all of the new section. A refused
    /// write changes nothing.
    pub(crate) fn write(
        &mut self,
        change: Change<'_>,
        mode: Mode,
        now: Ticks,
    ) -> Result<Option<Value>, TwinError> {
        if mode == Mode::Merge && !change.is_some() {
            return Ok(None);
        }
        let nothing = Map::new();
        let (tags, desired) = match mode {
            Mode::Merge => (change.tags, change.desired),
            // A document that is put stands for the whole twin.
            Mode::Replace => (
                Some(change.tags.unwrap_or(&nothing)),
                Some(change.desired.unwrap_or(&nothing)),
            ),
        };
        let stamp = Stamp {
            time: now,
            version: 0,
        };
        let tags = tags
            .map(|tags| written(&self.tags, tags, mode, stamp, MAX_TAGS))
            .transpose()?;
        let desired = desired.map(own_keys).transpose()?;
        let section = desired
            .as_ref()
            .map(|desired| self.desired.written(desired, mode, now))
            .transpose()?;
        if let Some(tags) = tags {
            self.tags = tags;
        }
        self.version += 1;
        self.etag += 1;
        let (Some(section), Some(patch)) = (section, desired) else {
            return Ok(None);
        };
        self.desired = section;
        Ok(Some(match mode {
            Mode::Merge => versioned(patch, self.desired.version),
            Mode::Replace => self.desired.view(),
        }))
    }

    /// Merges what the device reports; returns the new version of the section.
    pub(crate) fn report(&mut self, patch: &Value, now: Ticks) -> Result<u64, TwinError> {
        let Value::Object(patch) = patch else {
            return Err(TwinError::new("A patch must be an object."));
        };
        self.reported = self.reported.written(&own_keys(patch)?, Mode::Merge, now)?;
        self.version += 1;
        Ok(self.reported.version)
    }

    /// What the device itself sees: no tags, no metadata.
    pub(crate) fn device_view(&self) -> Value {
        json!({ "desired": self.desired.view(), "reported": self.reported.view() })
    }

    /// The properties as the service side sees them.
    pub(crate) fn properties(&self) -> Value {
        json!({
            "desired": self.desired.full_view(true),
            "reported": self.reported.full_view(false),
        })
    }

    /// The property at a path below `properties`.
    pub(crate) fn property(&self, path: &[String]) -> Option<Cow<'_, Value>> {
        match path.split_first() {
            None => Some(Cow::Owned(self.properties())),
            Some((key, rest)) if key.eq_ignore_ascii_case("desired") => {
                self.desired.get(rest, true)
            }
            Some((key, rest)) if key.eq_ignore_ascii_case("reported") => {
                self.reported.get(rest, false)
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Ticks = Ticks(637_287_135_293_829_234);

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z]{0,4}".prop_map(Value::from),
            proptest::collection::vec(any::<i8>(), 0..3).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        tree().prop_filter("an object", Value::is_object)
    }

    fn has_null(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Object(tree) => tree.values().any(has_null),
            _ => false,
        }
    }

    fn fresh() -> Twin {
        Twin::new(Ticks::default())
    }

    fn desired(twin: &mut Twin, patch: &Value, mode: Mode) -> Result<Option<Value>, TwinError> {
        let change = Change {
            desired: patch.as_object(),
            ..Change::default()
        };
        twin.write(change, mode, NOW)
    }

    /// Asserts that every property has its metadata, and nothing else has.
    fn assert_same_shape(values: &Value, metadata: &Value) {
        let metadata = metadata.as_object().unwrap();
        assert!(metadata["$lastUpdated"].is_string());
        let named: Vec<_> = metadata
            .keys()
            .filter(|key| !key.starts_with('$'))
            .collect();
        match values {
            Value::Object(tree) => {
                let keys: Vec<_> = tree.keys().filter(|key| !key.starts_with('$')).collect();
                assert_eq!(keys, named);
                for key in keys {
                    assert_same_shape(&tree[key], &metadata[key]);
                }
            }
            _ => assert!(named.is_empty()),
        }
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_changes_only_the_version(start in object(), patch in object()) {
            let mut twin = fresh();
            twin.report(&start, NOW).unwrap();
            twin.report(&patch, NOW).unwrap();
            let once = twin.reported.tree.values();
            prop_assert_eq!(twin.report(&patch, NOW).unwrap(), 4);
            prop_assert_eq!(&twin.reported.tree.values(), &once);
            prop_assert!(!has_null(&Value::Object(once)));
        }

        #[test]
        fn keys_that_a_patch_does_not_name_stay(start in object(), patch in object()) {
            let mut twin = fresh();
            twin.report(&start, NOW).unwrap();
            let before = twin.reported.tree.values();
            twin.report(&patch, NOW).unwrap();
            for (key, value) in &before {
                if patch.get(key).is_none() {
                    let now = twin.reported.tree.get(std::slice::from_ref(key));
                    prop_assert_eq!(now.as_deref(), Some(value));
                }
            }
        }

        #[test]
        fn metadata_has_the_shape_of_the_properties(patches in proptest::collection::vec(object(), 0..4)) {
            let mut twin = fresh();
            for patch in &patches {
                desired(&mut twin, patch, Mode::Merge).unwrap();
                twin.report(patch, NOW).unwrap();
            }
            let properties = twin.properties();
            for section in ["desired", "reported"] {
                assert_same_shape(&properties[section], &properties[section]["$metadata"]);
            }
        }

        #[test]
        fn what_a_merge_is_told_leads_a_follower_to_the_same_section(
            patches in proptest::collection::vec(object(), 1..4),
        ) {
            let (mut twin, mut follower) = (fresh(), fresh());
            for patch in &patches {
                let told = desired(&mut twin, patch, Mode::Merge).unwrap().unwrap();
                follower.report(&told, NOW).unwrap();
                prop_assert_eq!(&told["$version"], &twin.desired.view()["$version"]);
            }
            prop_assert_eq!(twin.desired.view(), follower.reported.view());
        }
    }

    #[test]
    fn a_refused_write_changes_nothing() {
        let mut twin = fresh();
        twin.report(&json!({ "a": 1 }), NOW).unwrap();
        let before = twin.clone();
        for bad in [
            json!([]),
            json!({ "a.b": 1 }),
            json!({ "a": 1u64 << 53 }),
            json!({ "b": "x".repeat(4000), "c": vec!["x".repeat(4000); 8] }),
        ] {
            twin.report(&bad, NOW).unwrap_err();
        }
        let tags = json!({ "a": "x".repeat(4000), "b": "x".repeat(4000), "c": "x".repeat(200) });
        let nothing = Map::new();
        let change = Change {
            tags: tags.as_object(),
            desired: Some(&nothing),
        };
        twin.write(change, Mode::Merge, NOW).unwrap_err();
        assert_eq!(twin, before);
    }

    #[test]
    fn a_write_is_stamped_as_the_hub_stamps_it() {
        let mut twin = Twin::new(Ticks(637_287_135_293_360_931));
        let fresh = json!({
            "$metadata": { "$lastUpdated": "2020-06-25T20:25:29.3360931Z" },
            "$version": 1,
        });
        assert_eq!(twin.properties()["desired"], fresh);
        assert_eq!((&*twin.etag(), twin.version()), ("AAAAAAAAAAE=", 2));
        // A client may send back what it has read.
        let mut sent = fresh.clone();
        sent["username"] = "userA".into();
        let told = desired(&mut twin, &sent, Mode::Merge).unwrap();
        assert_eq!(told, Some(json!({ "username": "userA", "$version": 2 })));
        let stamp = json!({
            "$lastUpdated": "2020-06-25T20:25:29.3829234Z",
            "$lastUpdatedVersion": 2,
        });
        let mut metadata = stamp.clone();
        metadata["username"] = stamp;
        assert_eq!(
            twin.properties(),
            json!({
                "desired": { "username": "userA", "$metadata": metadata, "$version": 2 },
                "reported": fresh,
            })
        );
        assert_eq!((&*twin.etag(), twin.version()), ("AAAAAAAAAAI=", 3));
    }

    #[test]
    fn what_a_device_begins_with_counts_as_no_write() {
        let mut twin = fresh();
        let document = json!({ "tags": { "t": 1 }, "properties": { "desired": { "user": "a" } } });
        twin.begin_with(Change::of(&document).unwrap()).unwrap();
        assert_eq!((&*twin.etag(), twin.version()), ("AAAAAAAAAAE=", 2));
        let stamp = json!({ "$lastUpdated": "0001-01-01T00:00:00Z", "$lastUpdatedVersion": 1 });
        let mut metadata = stamp.clone();
        metadata["user"] = stamp;
        assert_eq!(
            twin.properties()["desired"],
            json!({ "user": "a", "$metadata": metadata, "$version": 1 })
        );
    }

    #[test]
    fn a_report_leaves_the_etag_alone() {
        let mut twin = fresh();
        twin.report(&json!({ "a": 1 }), NOW).unwrap();
        assert_eq!((&*twin.etag(), twin.version()), ("AAAAAAAAAAE=", 3));
    }

    #[test]
    fn a_replaced_section_is_told_whole_and_takes_no_nulls() {
        let mut twin = fresh();
        desired(&mut twin, &json!({ "a": 1, "b": { "c": 2 } }), Mode::Merge).unwrap();
        let told = desired(&mut twin, &json!({ "b": { "d": 3 } }), Mode::Replace).unwrap();
        assert_eq!(told, Some(json!({ "b": { "d": 3 }, "$version": 3 })));
        let refused = desired(&mut twin, &json!({ "a": null }), Mode::Replace).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Value of Property or Tag cannot be null. Error in Property/Tag a"
        );
    }
}
