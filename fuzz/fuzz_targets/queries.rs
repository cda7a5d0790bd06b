//! Queries over twins: any text is understood or refused, and a query that is understood can be asked.
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
    std::hint::black_box(hub_simulator::fuzzing::ask_query(text, &TWIN));
});
