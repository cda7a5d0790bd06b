//! Documents written to a twin: whatever they are, the metadata has the shape of the properties.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|text: &str| {
    let documents: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let [device, service] = hub_simulator::fuzzing::write_twin(&documents);
    for section in ["desired", "reported"] {
        let properties = without_reserved(&service[section]);
        assert_eq!(properties, without_reserved(&device[section]));
        same_shape(&Value::Object(properties), &service[section]["$metadata"]);
    }
});

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
