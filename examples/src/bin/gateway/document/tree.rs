//! Tables below tables, reached by dotted keys.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) type Span = std::ops::Range<usize>;

/// Visits every key below a table, with the places of its name and of its value.
pub(super) fn walk(table: &DeTable<'_>, prefix: &str, visit: &mut dyn FnMut(&str, Span, Span)) {
    for (name, value) in table {
        let key = match prefix {
            "" => name.get_ref().to_string(),
            prefix => format!("{prefix}.{}", name.get_ref()),
        };
        visit(&key, name.span(), value.span());
        if let DeValue::Table(table) = value.get_ref() {
            walk(table, &key, visit);
        }
    }
}

pub(super) fn find<'a, 't>(table: &'a DeTable<'t>, key: &str) -> Option<&'a Spanned<DeValue<'t>>> {
    match key.split_once('.') {
        None => table.get(key),
        Some((name, below)) => find(table.get(name)?.get_ref().as_table()?, below),
    }
}

pub(super) fn remove<'t>(table: &mut DeTable<'t>, key: &str) -> Option<Spanned<DeValue<'t>>> {
    match key.split_once('.') {
        None => table.remove(key),
        Some((name, below)) => match table.get_mut(name)?.get_mut() {
            DeValue::Table(table) => remove(table, below),
            _ => None,
        },
    }
}

/// Sets a text below tables that are there, and tells whether they were.
pub(super) fn insert(table: &mut DeTable<'_>, key: &str, text: &str) -> bool {
    match key.split_once('.') {
        None => {
            let value = DeValue::String(text.to_owned().into());
            table.insert(
                Spanned::new(0..0, key.to_owned().into()),
                Spanned::new(0..0, value),
            );
            true
        }
        Some((name, below)) => match table.get_mut(name).map(Spanned::get_mut) {
            Some(DeValue::Table(table)) => insert(table, below, text),
            _ => false,
        },
    }
}
