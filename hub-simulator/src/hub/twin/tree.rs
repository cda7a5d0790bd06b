//! A tree of properties that remembers when each part of it was last written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Ticks;

/// A write: its time, and the version of the section that it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) time: Ticks,
    /// 0 before the first write.
    pub(crate) version: u64,
}

/// An object of properties.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Tree {
    stamp: Stamp,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Entry {
    Leaf(Stamp, Value),
    Tree(Tree),
}

impl Tree {
    /// An empty object.
    pub(crate) fn new(stamp: Stamp) -> Self {
        Self {
            stamp,
            entries: BTreeMap::new(),
        }
    }

    /// Merges `patch` in: absent keys stay, nulls delete, objects merge, everything else replaces.
    /// What the patch names bears the stamp afterwards, and so does what holds it.
    pub(crate) fn merge(&mut self, patch: &Map<String, Value>, stamp: Stamp) {
        self.stamp = stamp;
        for (key, value) in patch {
            match (self.entries.get_mut(key), value) {
                (_, Value::Null) => {
                    self.entries.remove(key);
                }
                (Some(Entry::Tree(inner)), Value::Object(patch)) => inner.merge(patch, stamp),
                (_, Value::Object(patch)) => {
                    let mut inner = Self::new(stamp);
                    inner.merge(patch, stamp);
                    self.entries.insert(key.clone(), Entry::Tree(inner));
                }
                (_, value) => {
                    let leaf = Entry::Leaf(stamp, value.clone());
                    self.entries.insert(key.clone(), leaf);
                }
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The properties alone.
    pub(crate) fn values(&self) -> Map<String, Value> {
        let value = |entry: &Entry| match entry {
            Entry::Leaf(_, value) => value.clone(),
            Entry::Tree(tree) => tree.values().into(),
        };
        self.entries
            .iter()
            .map(|(key, entry)| (key.clone(), value(entry)))
            .collect()
    }

    /// The tree with `$lastUpdated` in the place of values, and with `$lastUpdatedVersion` if wanted.
    pub(crate) fn metadata(&self, versions: bool) -> Map<String, Value> {
        let mut metadata = stamped(self.stamp, versions);
        for (key, entry) in &self.entries {
            let below = match entry {
                Entry::Leaf(stamp, _) => stamped(*stamp, versions),
                Entry::Tree(tree) => tree.metadata(versions),
            };
            metadata.insert(key.clone(), below.into());
        }
        metadata
    }

    /// The property at a path; the whole tree at the empty one.
    pub(crate) fn get(&self, path: &[String]) -> Option<Cow<'_, Value>> {
        let Some((key, rest)) = path.split_first() else {
            return Some(Cow::Owned(self.values().into()));
        };
        match self.entries.get(key)? {
            Entry::Tree(tree) => tree.get(rest),
            Entry::Leaf(_, value) if rest.is_empty() => Some(Cow::Borrowed(value)),
            Entry::Leaf(..) => None,
        }
    }

    /// The length as JSON in bytes, commas after the last of an object included.
    pub(crate) fn length(&self) -> usize {
        let length = |entry: &Entry| match entry {
            Entry::Leaf(_, value) => json_length(value),
            Entry::Tree(tree) => tree.length(),
        };
        let entries = self.entries.iter();
        let entries = entries.map(|(key, entry)| json_length(key) + length(entry) + ":,".len());
        "{}".len() + entries.sum::<usize>()
    }

    /// The size as the hub counts it, in bytes of keys and values.
    pub(crate) fn size(&self) -> usize {
        let size = |entry: &Entry| match entry {
            Entry::Leaf(_, value) => value_size(value),
            Entry::Tree(tree) => tree.size(),
        };
        self.entries
            .iter()
            .map(|(key, entry)| text_size(key) + size(entry))
            .sum()
    }
}

/// The length of a value as JSON, in bytes.
pub(super) fn json_length(value: &impl Serialize) -> usize {
    struct Length(usize);
    impl io::Write for Length {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut length = Length(0);
    match serde_json::to_writer(&mut length, value) {
        Ok(()) => length.0,
        Err(_) => usize::MAX,
    }
}

fn stamped(stamp: Stamp, versions: bool) -> Map<String, Value> {
    let mut metadata = Map::new();
    metadata.insert("$lastUpdated".to_owned(), stamp.time.to_string().into());
    if versions && stamp.version > 0 {
        metadata.insert("$lastUpdatedVersion".to_owned(), stamp.version.into());
    }
    metadata
}

/// Control characters are not counted (Microsoft, "Understand and use device twins", size).
fn text_size(text: &str) -> usize {
    let control: usize = text
        .chars()
        .filter(|c| c.is_control())
        .map(char::len_utf8)
        .sum();
    text.len() - control
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text_size(text),
        Value::Array(items) => items.iter().map(value_size).sum(),
        Value::Object(tree) => tree
            .iter()
            .map(|(key, value)| text_size(key) + value_size(value))
            .sum(),
    }
}
