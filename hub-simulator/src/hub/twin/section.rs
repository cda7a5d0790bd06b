//! A half of a twin: properties, the number of their writes, and the check of each write.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::rules::{self, Nulls};
use super::tree::{Stamp, Tree, json_length};
use super::{Mode, TwinError};
use crate::clock::Ticks;

/// Largest properties, desired and reported each, in bytes of keys and values.
pub(super) const MAX_PROPERTIES: usize = 32 * 1024;
/// Largest tags, in the same bytes.
pub(super) const MAX_TAGS: usize = 8 * 1024;
/// Bytes of JSON for each byte that a section may have: nulls, empty texts and control characters are
/// not counted, and are not without end for that. The real hub's bound is not known.
const MAX_JSON: usize = 8;

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
    // Before there is a copy.
    check_json(json_length(change), max)?;
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
    check_json(tree.length(), max)?;
    Ok(tree)
}

/// Refuses JSON of this length for a section that may have so many bytes.
fn check_json(length: usize, max: usize) -> Result<(), TwinError> {
    let most = MAX_JSON * max;
    if length > most {
        let text = format!("The section would exceed {} KB of JSON.", most / 1024);
        return Err(TwinError::new(text));
    }
    Ok(())
}

/// Properties as a client gave them, without the keys that the hub writes itself; refused before
/// there is a copy if they are too long.
pub(super) fn own_keys(section: &Map<String, Value>) -> Result<Map<String, Value>, TwinError> {
    let is_own = |key: &str| !matches!(key, "$version" | "$metadata");
    let own = || section.iter().filter(|(key, _)| is_own(key));
    let lengths = own().map(|(key, value)| key.len() + json_length(value));
    check_json(lengths.sum(), MAX_PROPERTIES)?;
    Ok(own()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect())
}

pub(super) fn versioned(mut tree: Map<String, Value>, version: u64) -> Value {
    tree.insert("$version".to_owned(), version.into());
    Value::Object(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_counts_nothing_is_bounded_all_the_same() {
        let section = Section::new(Ticks::default());
        let write = |section: &Section, change: &Value| {
            section.written(change.as_object().unwrap(), Mode::Merge, Ticks::default())
        };
        let nulls = vec![Value::Null; 50_000];
        let all: Map<_, _> = (0..20).map(|key| (key.to_string(), json!(nulls))).collect();
        write(&section, &all.into()).unwrap_err();
        let section = write(&section, &json!({ "one": nulls })).unwrap();
        write(&section, &json!({ "another": nulls })).unwrap_err();
        write(&section, &json!({ "one": nulls, "another": "\0" })).unwrap();
    }
}
