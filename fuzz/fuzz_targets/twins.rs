//! Documents written to a twin: whatever they are, the metadata has the shape of the properties, what is
//! refused changes nothing, and nothing is in a twin that may not be.
//!
//! The input is a document a line. A text of one letter stands for the longest one that there may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// What a twin may hold (Microsoft, "Understand and use device twins in IoT Hub"), in bytes.
const MAX_TEXT: usize = 4096;
const MAX_KEY: usize = 1024;
const MAX_TAGS: usize = 8 * 1024;
const MAX_PROPERTIES: usize = 32 * 1024;
/// Objects within objects, the section itself not counted.
const MAX_DEPTH: usize = 10;

fuzz_target!(|text: &str| {
    let documents = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    let documents: Vec<Value> = documents.map(lengthened).collect();
    let written = hub_simulator::fuzzing::write_twin(&documents);
    for section in ["desired", "reported"] {
        let properties = without_reserved(&written.service[section]);
        assert_eq!(properties, without_reserved(&written.device[section]));
        let properties = Value::Object(properties);
        same_shape(&properties, &written.service[section]["$metadata"]);
        within(&properties, MAX_PROPERTIES);
    }
    within(&written.tags, MAX_TAGS);
});

fn lengthened(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() == 1 => text.repeat(MAX_TEXT).into(),
        Value::Array(items) => items.into_iter().map(lengthened).collect(),
        Value::Object(tree) => tree.into_iter().map(|(key, value)| (key, lengthened(value))).collect(),
        other => other,
    }
}

fn without_reserved(section: &Value) -> Map<String, Value> {
    let section = section.as_object().expect("a section is an object");
    section
        .iter()
        .filter(|(key, _)| !key.starts_with('$'))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn same_shape(value: &Value, metadata: &Value) {
    assert!(metadata["$lastUpdated"].is_string());
    let metadata = without_reserved(metadata);
    match value {
        Value::Object(tree) => {
            assert!(tree.keys().eq(metadata.keys()));
            for (key, value) in tree {
                same_shape(value, &metadata[key]);
            }
        }
        _ => assert!(metadata.is_empty()),
    }
}

fn within(section: &Value, max: usize) {
    let size = size(section, 0);
    assert!(size <= max, "{size}");
}

/// The bytes that count, of keys and values at most so deep.
fn size(value: &Value, depth: usize) -> usize {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => {
            assert!(text.len() <= MAX_TEXT);
            counted(text)
        }
        Value::Array(items) => {
            assert!(depth <= MAX_DEPTH);
            items.iter().map(|item| size(item, depth + 1)).sum()
        }
        Value::Object(tree) => {
            assert!(depth <= MAX_DEPTH);
            let of = |(key, value): (&String, &Value)| {
                assert!((1..=MAX_KEY).contains(&key.len()), "{key:?}");
                assert!(!key.contains(['.', '$', ' ']), "{key:?}");
                counted(key) + size(value, depth + 1)
            };
            tree.iter().map(of).sum()
        }
    }
}

fn counted(text: &str) -> usize {
    text.chars().filter(|c| !c.is_control()).map(char::len_utf8).sum()
}
