//! A half of a twin: properties, the number of their writes, and the check of each write.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rules::{self, Nulls};
use super::tree::{Stamp, Tree};
use super::{Mode, TwinError};
use crate::clock::Ticks;

/// Largest properties, desired and reported each, in bytes of keys and values.
pub(super) const MAX_PROPERTIES: usize = 32 * 1024;
/// Largest tags, in the same bytes.
pub(super) const MAX_TAGS: usize = 8 * 1024;

/// Properties and the number of writes they have had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(super) tree: Tree,
    pub(super) version: u64,
}

impl Section {
    pub(super) fn new(created: Ticks) -> Self {
        let never_written = Stamp {
            time: created,
            version: 0,
        };
        Self {
            tree: Tree::new(never_written),
            version: 1,
        }
    }

    /// The section after a write; `change` holds no reserved keys.
    pub(super) fn written(
        &self,
        change: &Map<String, Value>,
        mode: Mode,
        now: Ticks,
    ) -> Result<Self, TwinError> {
        let version = self.version + 1;
        let stamp = Stamp { time: now, version };
        let tree = written(&self.tree, change, mode, stamp, MAX_PROPERTIES)?;
        Ok(Self { tree, version })
    }

    /// The properties with their `$version`.
    pub(crate) fn view(&self) -> Value {
        versioned(self.tree.values(), self.version)
    }

    /// The properties with `$version` and `$metadata`.
    pub(super) fn full_view(&self, versions: bool) -> Value {
        let mut view = self.tree.values();
        view.insert("$metadata".to_owned(), self.tree.metadata(versions).into());
        versioned(view, self.version)
    }

    pub(super) fn get(&self, path: &[String], versions: bool) -> Option<Cow<'_, Value>> {
        match path.split_first() {
            None => Some(Cow::Owned(self.full_view(versions))),
            Some((key, [])) if key == "$version" => Some(Cow::Owned(self.version.into())),
            Some((key, rest)) if key == "$metadata" => {
                let metadata = Value::from(self.tree.metadata(versions));
                let found = rest.iter().try_fold(&metadata, |at, key| at.get(key))?;
                Some(Cow::Owned(found.clone()))
            }
            Some(_) => self.tree.get(path),
        }
    }
}

pub(super) fn written(
    tree: &Tree,
    change: &Map<String, Value>,
    mode: Mode,
    stamp: Stamp,
    max: usize,
) -> Result<Tree, TwinError> {
    let (mut tree, nulls) = match mode {
        Mode::Merge => (tree.clone(), Nulls::Delete),
        Mode::Replace => (Tree::new(stamp), Nulls::Refuse),
    };
    rules::check(change, nulls)?;
    tree.merge(change, stamp);
    if tree.size() > max {
        let text = format!("The section would exceed {} KB.", max / 1024);
        return Err(TwinError::new(text));
    }
    Ok(tree)
}

/// A section as a client gave it, without the keys that the hub writes itself.
pub(super) fn own_keys(section: &Map<String, Value>) -> Map<String, Value> {
    let mut own = section.clone();
    own.remove("$version");
    own.remove("$metadata");
    own
}

pub(super) fn versioned(mut tree: Map<String, Value>, version: u64) -> Value {
    tree.insert("$version".to_owned(), version.into());
    Value::Object(tree)
}
