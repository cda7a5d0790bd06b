//! What an application gives its messages besides the body.

use std::mem;

/// Holds the application properties of a message, in the order they were set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties(Vec<(String, String)>);

impl Properties {
    /// Makes an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets a property, replacing one of the same name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(existing, _)| *existing == name) {
            Some((_, slot)) => *slot = value,
            None => self.0.push((name, value)),
        }
    }

    /// Finds a property by name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(existing, _)| existing == name)
            .map(|(_, value)| value.as_str())
    }

    /// Walks over names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Tells how many properties there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The same as inserting one after another, and fit for many.
impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Properties {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        let given = iter.into_iter();
        let mut placed: Vec<(usize, (String, String))> = given
            .map(|(name, value)| (name.into(), value.into()))
            .enumerate()
            .collect();
        // Those of one name side by side, in the order in which they came.
        placed.sort_by(|(_, (one, _)), (_, (other, _))| one.cmp(other));
        placed.dedup_by(|(_, later), (_, first)| {
            let is_same = later.0 == first.0;
            if is_same {
                first.1 = mem::take(&mut later.1);
            }
            is_same
        });
        placed.sort_unstable_by_key(|(place, _)| *place);
        Self(placed.into_iter().map(|(_, property)| property).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn properties_collected_are_those_set_one_after_another(
            given in prop::collection::vec(("[a-e]", "[a-z]{2}"), 0..40),
        ) {
            let mut set = Properties::new();
            for (name, value) in given.clone() {
                set.insert(name, value);
            }
            prop_assert_eq!(given.into_iter().collect::<Properties>(), set);
        }
    }

    #[test]
    fn a_property_set_twice_keeps_its_last_value() {
        let properties: Properties = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!(
            properties.iter().collect::<Vec<_>>(),
            [("a", "3"), ("b", "2")]
        );
        assert_eq!(properties.get("b"), Some("2"));
    }
}
