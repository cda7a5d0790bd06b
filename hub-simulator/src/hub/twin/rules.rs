//! What a twin may hold (Microsoft, "Understand and use device twins in IoT Hub", format).

use serde_json::{Map, Value};

use super::TwinError;

/// Objects and arrays within each other, the section itself not counted. What is stored has three
/// levels of JSON for each, and is read with at most 128.
const MAX_DEPTH: usize = 10;
/// Longest key and longest text value, in bytes.
const MAX_KEY: usize = 1024;
const MAX_TEXT: usize = 4096;
/// Integers have 53 bits, the sign among them.
const MIN_INTEGER: i64 = -4_503_599_627_370_496;
const MAX_INTEGER: u64 = 4_503_599_627_370_495;

/// What becomes of nulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nulls {
    /// They delete.
    Delete,
    /// They are refused: there is nothing to delete.
    Refuse,
}

/// Checks the keys and values of a section or of a patch for one.
pub(crate) fn check(section: &Map<String, Value>, nulls: Nulls) -> Result<(), TwinError> {
    check_object(section, nulls, 0)
}

fn check_object(object: &Map<String, Value>, nulls: Nulls, depth: usize) -> Result<(), TwinError> {
    check_depth(depth)?;
    for (key, value) in object {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(TwinError::new(
                "A key in a twin has between 1 byte and 1 KB.",
            ));
        }
        if key.contains(|c: char| matches!(c, '.' | '$' | ' ') || c.is_control()) {
            return Err(TwinError::new(format!(
                "The key '{}' in a twin holds a character it must not.",
                key.escape_debug()
            )));
        }
        if value.is_null() && nulls == Nulls::Refuse {
            return Err(TwinError::new(format!(
                "Value of Property or Tag cannot be null. Error in Property/Tag {key}"
            )));
        }
        check_value(value, nulls, depth)?;
    }
    Ok(())
}

fn check_depth(depth: usize) -> Result<(), TwinError> {
    if depth > MAX_DEPTH {
        return Err(TwinError::new("A twin is at most 10 levels deep."));
    }
    Ok(())
}

fn check_value(value: &Value, nulls: Nulls, depth: usize) -> Result<(), TwinError> {
    match value {
        Value::Object(object) => check_object(object, nulls, depth + 1),
        Value::Array(items) => {
            check_depth(depth + 1)?;
            let mut items = items.iter();
            items.try_for_each(|item| check_value(item, nulls, depth + 1))
        }
        Value::String(text) if text.len() > MAX_TEXT => {
            Err(TwinError::new("A text in a twin is at most 4 KB."))
        }
        Value::Number(number)
            if number.as_u64().is_some_and(|n| n > MAX_INTEGER)
                || number.as_i64().is_some_and(|n| n < MIN_INTEGER) =>
        {
            Err(TwinError::new(
                "An integer in a twin is between -4503599627370496 and 4503599627370495.",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(section: &Value) -> Result<(), TwinError> {
        check(section.as_object().unwrap(), Nulls::Delete)
    }

    #[test]
    fn ten_objects_and_arrays_may_lie_within_a_section_and_no_more() {
        let objects =
            |depth, inner| (0..depth).fold(inner, |inner: Value, _| json!({ "k": inner }));
        let arrays = |depth| (0..depth).fold(json!("value"), |inner, _| json!([inner]));
        for (nested, arrays_within) in [(11, 0), (1, 10), (6, 5)] {
            verdict(&objects(nested, arrays(arrays_within))).unwrap();
            verdict(&objects(nested, arrays(arrays_within + 1))).unwrap_err();
            verdict(&objects(nested + 1, arrays(arrays_within))).unwrap_err();
        }
    }

    #[test]
    fn integers_end_where_the_documentation_says() {
        verdict(&json!({ "a": 4_503_599_627_370_495_i64, "b": -4_503_599_627_370_496_i64 }))
            .unwrap();
        verdict(&json!({ "a": 4_503_599_627_370_496_i64 })).unwrap_err();
        verdict(&json!({ "a": [-4_503_599_627_370_497_i64] })).unwrap_err();
    }

    #[test]
    fn keys_and_texts_are_bounded_wherever_they_are() {
        for bad in ["a.b", "a$", "a b", "a\u{7}", ""] {
            verdict(&json!({ "o": { bad: 1 } })).unwrap_err();
            verdict(&json!({ "o": [{ bad: 1 }] })).unwrap_err();
        }
        verdict(&json!({ "o": "x".repeat(4096) })).unwrap();
        verdict(&json!({ "o": "x".repeat(4097) })).unwrap_err();
        verdict(&json!({ "k".repeat(1025): 1 })).unwrap_err();
    }
}
