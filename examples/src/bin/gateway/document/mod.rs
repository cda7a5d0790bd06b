//! A TOML file read with all its mistakes, not only the first.
//!
//! serde stops at the first mistake. So what is wrong is noted with its line and taken out, and
//! the section is read again, until it reads well: each mistake is found once.

mod tree;
mod wrong;

use std::collections::BTreeMap;
use std::fmt;

use gateway_core::ConfigError;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, ValueDeserializer};

use tree::{find, insert, remove, walk};
use wrong::{Wrong, worded};

/// What stands in for a missing key while the rest is read.
const STAND_IN: &str = "missing";

/// Is one mistake of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mistake {
    /// The line where the key, or the nearest thing to it, stands; 0 if nothing does.
    line: usize,
    key: String,
    problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str("the file")?,
            line => write!(f, "line {line}")?,
        }
        match self.key.is_empty() {
            true => write!(f, ": {}", self.problem),
            false => write!(f, ": `{}` {}", self.key, self.problem),
        }
    }
}

/// Is a file, taken apart section by section. Keys are dotted paths from the root.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    text: &'t str,
    /// What has not been read yet.
    rest: Table<'t>,
    lines: BTreeMap<String, usize>,
    mistakes: Vec<Mistake>,
}

type Table<'t> = Spanned<DeTable<'t>>;

impl<'t> Document<'t> {
    /// Parses the text; what does not parse is noted.
    pub(crate) fn parse(text: &'t str) -> Self {
        let (rest, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            text,
            rest,
            lines: BTreeMap::new(),
            mistakes: Vec::new(),
        };
        for error in errors {
            let line = error.span().map_or(0, |span| document.line_at(span.start));
            let problem = error.message().to_owned();
            document.mistakes.push(Mistake {
                line,
                key: String::new(),
                problem,
            });
        }
        let mut lines = BTreeMap::new();
        walk(document.rest.get_ref(), "", &mut |key, name, _| {
            lines.insert(key.to_owned(), document.line_at(name.start));
        });
        document.lines = lines;
        document
    }

    /// Whether the file has the key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.lines.contains_key(key)
    }

    /// Notes a mistake at a key, or at what is nearest above it. A key's first mistake counts: the
    /// next ones come of it.
    pub(crate) fn note(&mut self, key: &str, problem: impl Into<String>) {
        if self.is_noted(key) {
            return;
        }
        let above = std::iter::successors(Some(key), |key| Some(key.rsplit_once('.')?.0));
        let line = above.filter_map(|key| self.lines.get(key)).next();
        let line = line.copied().unwrap_or_default();
        self.mistakes.push(Mistake {
            line,
            key: key.to_owned(),
            problem: problem.into(),
        });
    }

    /// Notes what a validation says of a section.
    pub(crate) fn note_error(&mut self, section: &str, error: &ConfigError) {
        let Wrong { key, problem, .. } = Wrong::of_value(error);
        self.note(&format!("{section}.{key}"), problem);
    }

    fn is_noted(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.key == key)
    }

    fn is_noted_within(&self, section: &str) -> bool {
        let below = |mistake: &Mistake| {
            mistake
                .key
                .strip_prefix(section)?
                .strip_prefix('.')
                .map(drop)
        };
        self.mistakes.iter().any(|mistake| below(mistake).is_some())
    }

    /// Takes out a value and reads it; `None` if it is not there, or wrong, which is noted.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = remove(self.rest.get_mut(), key)?;
        T::deserialize(ValueDeserializer::from(value))
            .map_err(|error| self.note(key, worded(error.message())))
            .ok()
    }

    /// Sets a text, as if the file had it.
    pub(crate) fn set(&mut self, key: &str, text: &str) {
        insert(self.rest.get_mut(), key, text);
    }

    /// Takes out a section and reads it, an absent one like an empty one. What is wrong is noted,
    /// and read as if it were not there; `None` if that cannot be.
    pub(crate) fn section<T: DeserializeOwned>(
        &mut self,
        section: &str,
        validate: impl Fn(&T) -> Result<(), ConfigError>,
    ) -> Option<T> {
        let mut table = match remove(self.rest.get_mut(), section) {
            None => Spanned::new(0..0, DeTable::new()),
            Some(value) => {
                let span = value.span();
                let DeValue::Table(table) = value.into_inner() else {
                    self.note(section, "is a value; allowed: a section");
                    return None;
                };
                Spanned::new(span, table)
            }
        };
        loop {
            let error = match T::deserialize(Deserializer::from(table.clone())) {
                Err(error) => Wrong::of_type(table.get_ref(), &error),
                Ok(value) => match validate(&value) {
                    Err(error) => Wrong::of_value(&error),
                    Ok(()) => return Some(value),
                },
            };
            let key = format!("{section}.{}", error.key);
            let key = key.trim_end_matches('.');
            if error.is_missing && self.is_noted_within(key) {
                // It was there, but wrong, which is told.
                return None;
            }
            let is_new = !self.is_noted(key);
            self.note(key, error.problem);
            let mended = match is_new {
                true if error.is_missing => insert(table.get_mut(), &error.key, STAND_IN),
                true => remove(table.get_mut(), &error.key).is_some(),
                // Taking it out was not enough: its whole table goes.
                false => match error.key.rsplit_once('.') {
                    Some((above, _)) => remove(table.get_mut(), above).is_some(),
                    None => false,
                },
            };
            if !mended {
                return None;
            }
        }
    }

    /// The names in what is left of a table, or of the root.
    pub(crate) fn names(&self, key: &str) -> Vec<String> {
        let table = match key {
            "" => Some(self.rest.get_ref()),
            key => find(self.rest.get_ref(), key).and_then(|value| value.get_ref().as_table()),
        };
        let names = table.into_iter().flat_map(|table| table.keys());
        names.map(|name| name.get_ref().to_string()).collect()
    }

    /// Notes what is left in a table, or at the root, beside the names that are allowed there.
    pub(crate) fn leave(&mut self, key: &str, allowed: &[&str]) {
        let mut names = self.names(key);
        names.retain(|name| !allowed.contains(&&**name));
        for name in names {
            let key = if key.is_empty() {
                name
            } else {
                format!("{key}.{name}")
            };
            self.note(
                &key,
                format!("is not known; allowed: {}", allowed.join(", ")),
            );
        }
    }

    /// Everything that was noted, from top to bottom.
    pub(crate) fn finish(mut self) -> Vec<Mistake> {
        self.mistakes.sort();
        // The parser may say the same of several places in a line.
        self.mistakes.dedup();
        self.mistakes
    }

    fn line_at(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    }
}
