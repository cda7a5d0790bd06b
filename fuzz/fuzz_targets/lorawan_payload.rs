//! Payloads and requests: what is read is JSON, and no longer than what it was read from allows.
#![no_main]

use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::payload::CayenneLpp;
use gateway_downstream_lorawan::payload::command::{Content, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = CayenneLpp::read(bytes) {
        let members = value.as_object().expect("it is an object");
        // A channel, a type and a byte at least.
        assert!(members.len() * 3 <= bytes.len());
    }
    let requests = [
        Request::from_method(bytes),
        Request::from_starter_kit(bytes, DevEui::new([0; 8])),
    ];
    for request in requests.into_iter().flatten() {
        let (Content::Raw(content) | Content::Json(content)) = request.content else {
            unreachable!("there is no other content");
        };
        assert!(content.len() < bytes.len());
    }
});
