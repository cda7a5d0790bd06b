//! Queries over twins: any text is understood or refused with its place, and a query that is understood
//! can be asked.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static TWIN: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "deviceId": "dev-1",
        "status": "enabled",
        "tags": { "site": "north", "floor": 3, "open": true, "none": null, "list": [1, "a"] },
        "properties": { "desired": { "rate": 5, "$version": 2 }, "reported": { "$version": 1 } },
    })
});

fuzz_target!(|text: &str| {
    if let Err(error) = hub_simulator::fuzzing::ask_query(text, &TWIN) {
        let (_, place) = error.rsplit_once(" at character ").expect("a place");
        let place = place.split(' ').next().and_then(|place| place.parse().ok());
        // Counted from 1; where something is missing, it is behind the last.
        let last = text.chars().count() + 1;
        assert!(place.is_some_and(|place| (1..=last).contains(&place)), "{error}, of {last}");
    }
});
