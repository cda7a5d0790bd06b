//! A device's twin: desired and reported properties and their merge.
//!
//! Source: Microsoft, "Understand and use device twins in IoT Hub".

use serde_json::{Map, Value, json};

/// Deepest nesting of a section.
const MAX_DEPTH: usize = 10;
/// Largest section, in bytes of keys and values.
const MAX_SECTION: usize = 32 * 1024;
/// Longest key and longest text value.
const MAX_KEY: usize = 1024;
const MAX_TEXT: usize = 4096;
/// Integers stay within 52 bits.
const MAX_INTEGER: u64 = 4_503_599_627_370_496;

/// A patch that a twin cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TwinError(pub(crate) &'static str);

/// Half of a twin: a tree and the number of writes it has had.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    tree: Map<String, Value>,
    version: u64,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            tree: Map::new(),
            version: 1,
        }
    }
}

impl Section {
    /// Merges `patch` in: absent keys stay, nulls delete, objects merge, everything else replaces.
    ///
    /// Returns the new version. A refused patch changes nothing.
    pub(crate) fn patch(&mut self, patch: &Value) -> Result<u64, TwinError> {
        let Value::Object(patch) = patch else {
            return Err(TwinError("a patch must be an object"));
        };
        validate(patch, 1)?;
        let mut merged = self.tree.clone();
        merge(&mut merged, patch);
        if size(&merged) > MAX_SECTION {
            return Err(TwinError("the section would exceed 32 KB"));
        }
        self.tree = merged;
        self.version += 1;
        Ok(self.version)
    }

    /// The tree with its `$version`.
    pub(crate) fn view(&self) -> Value {
        versioned(self.tree.clone(), self.version)
    }
}

/// `patch` as a device is notified of it: nulls kept, `$version` added.
pub(crate) fn notification(patch: &Value, version: u64) -> Value {
    versioned(patch.as_object().cloned().unwrap_or_default(), version)
}

fn versioned(mut tree: Map<String, Value>, version: u64) -> Value {
    tree.insert("$version".to_owned(), version.into());
    Value::Object(tree)
}

fn merge(tree: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (tree.get_mut(key), value) {
            _ if key.starts_with('$') => {}
            (_, Value::Null) => {
                tree.remove(key);
            }
            (Some(Value::Object(inner)), Value::Object(patch)) => merge(inner, patch),
            (_, Value::Object(patch)) => {
                let mut inner = Map::new();
                merge(&mut inner, patch);
                tree.insert(key.clone(), Value::Object(inner));
            }
            (_, value) => {
                tree.insert(key.clone(), value.clone());
            }
        }
    }
}

fn validate(tree: &Map<String, Value>, depth: usize) -> Result<(), TwinError> {
    if depth > MAX_DEPTH {
        return Err(TwinError("a twin is at most 10 levels deep"));
    }
    for (key, value) in tree.iter().filter(|(key, _)| !is_reserved(key)) {
        if key.len() > MAX_KEY
            || key.contains(|c: char| matches!(c, '.' | '$' | ' ') || c.is_control())
        {
            return Err(TwinError(
                "a twin key is too long or holds a character it must not",
            ));
        }
        match value {
            Value::Object(inner) => validate(inner, depth + 1)?,
            Value::String(text) if text.len() > MAX_TEXT => {
                return Err(TwinError("a twin text value is at most 4 KB"));
            }
            Value::Number(number)
                if number.as_u64().is_some_and(|n| n > MAX_INTEGER)
                    || number
                        .as_i64()
                        .is_some_and(|n| n.unsigned_abs() > MAX_INTEGER) =>
            {
                return Err(TwinError("a twin integer has at most 52 bits"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Keys that the hub writes itself and ignores in a patch.
fn is_reserved(key: &str) -> bool {
    matches!(key, "$version" | "$metadata")
}

fn size(tree: &Map<String, Value>) -> usize {
    tree.iter()
        .map(|(key, value)| key.len() + value_size(value))
        .sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(value_size).sum(),
        Value::Object(tree) => size(tree),
    }
}

/// A device's desired and reported properties.
#[derive(Debug, Clone, Default)]
pub(crate) struct Twin {
    pub(crate) desired: Section,
    pub(crate) reported: Section,
}

impl Twin {
    /// What the device itself sees: no tags, no metadata.
    pub(crate) fn device_view(&self) -> Value {
        json!({ "desired": self.desired.view(), "reported": self.reported.view() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn a_patch_applied_twice_changes_only_the_version(start in object(), patch in object()) {
            let mut section = Section::default();
            section.patch(&start).unwrap();
            section.patch(&patch).unwrap();
            let once = section.tree.clone();
            prop_assert_eq!(section.patch(&patch).unwrap(), 4);
            prop_assert_eq!(&section.tree, &once);
            prop_assert!(!has_null(&Value::Object(once)));
        }

        #[test]
        fn keys_that_a_patch_does_not_name_stay(start in object(), patch in object()) {
            let mut section = Section::default();
            section.patch(&start).unwrap();
            let before = section.tree.clone();
            section.patch(&patch).unwrap();
            for (key, value) in &before {
                if patch.get(key).is_none() {
                    prop_assert_eq!(section.tree.get(key), Some(value));
                }
            }
        }
    }

    #[test]
    fn a_refused_patch_changes_nothing() {
        let mut section = Section::default();
        section.patch(&json!({ "a": 1 })).unwrap();
        for bad in [
            json!([]),
            json!({ "a.b": 1 }),
            json!({ "a": 1u64 << 53 }),
            json!({ "b": "x".repeat(40_000) }),
        ] {
            section.patch(&bad).unwrap_err();
        }
        assert_eq!(section.view(), json!({ "a": 1, "$version": 2 }));
    }
}
