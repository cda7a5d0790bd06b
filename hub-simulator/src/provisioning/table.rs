//! Rows by id that remember which of them have changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Rows as they are to be stored, with nothing for those that are gone.
pub(crate) type Rows<T> = Vec<(String, Option<T>)>;

/// A part of the service's state, by id in lower case.
#[derive(Debug, Deserialize)]
#[serde(from = "BTreeMap<String, T>")]
pub(crate) struct Table<T> {
    rows: BTreeMap<String, T>,
    /// Rows that may have changed since they were last stored; nothing if they are not stored.
    changed: Option<BTreeSet<String>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        BTreeMap::new().into()
    }
}

impl<T> From<BTreeMap<String, T>> for Table<T> {
    fn from(rows: BTreeMap<String, T>) -> Self {
        Self {
            rows,
            changed: None,
        }
    }
}

impl<T> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.rows.iter()
    }

    pub(super) fn contains_key(&self, id: &str) -> bool {
        self.rows.contains_key(id)
    }

    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(id)
    }

    /// A row to be changed in what need not be stored.
    pub(super) fn peek_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.touch(id);
        self.rows.get_mut(id)
    }

    pub(super) fn get_or_insert_with(&mut self, id: String, make: impl FnOnce() -> T) -> &mut T {
        self.touch(&id);
        self.rows.entry(id).or_insert_with(make)
    }

    pub(super) fn insert(&mut self, id: String, row: T) {
        self.touch(&id);
        self.rows.insert(id, row);
    }

    pub(super) fn remove(&mut self, id: &str) -> Option<T> {
        self.touch(id);
        self.rows.remove(id)
    }

    fn touch(&mut self, id: &str) {
        if let Some(changed) = &mut self.changed
            && !changed.contains(id)
        {
            changed.insert(id.to_owned());
        }
    }

    /// Takes rows that are stored.
    pub(super) fn restore(&mut self, rows: Vec<(String, T)>) {
        self.rows.extend(rows);
    }

    /// Starts to remember which rows change.
    pub(super) fn track_changes(&mut self) {
        self.changed = Some(self.rows.keys().cloned().collect());
    }

    /// The rows that may have changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> Rows<T>
    where
        T: Clone,
    {
        let changed = self.changed.as_mut().map(std::mem::take);
        let changed = changed.unwrap_or_default().into_iter();
        changed
            .map(|id| {
                let row = self.rows.get(&id).cloned();
                (id, row)
            })
            .collect()
    }

    /// Remembers rows as changed again.
    pub(super) fn put_back(&mut self, rows: &Rows<T>) {
        for (id, _) in rows {
            self.touch(id);
        }
    }
}
