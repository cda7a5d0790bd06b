//! Payloads, requests and twins of the starter kit: what is read is JSON, and no longer than what it was
//! read from allows; no error shows a key.
#![no_main]

use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::payload::CayenneLpp;
use gateway_downstream_lorawan::payload::command::{Content, Request};
use gateway_downstream_lorawan::starter_kit::read_twin;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

/// Bytes of a key's text.
const KEY: usize = 32;

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
    read_kit(bytes);
    for request in requests.into_iter().flatten() {
        let (Content::Raw(content) | Content::Json(content)) = request.content else {
            unreachable!("there is no other content");
        };
        assert!(content.len() < bytes.len());
    }
});

fn read_kit(desired: &[u8]) {
    let Ok(properties) = serde_json::from_slice::<Map<String, Value>>(desired) else {
        return assert!(read_twin(DevEui::new([0; 8]), desired).is_err());
    };
    match read_twin(DevEui::new([0; 8]), desired) {
        Ok(kit) => assert!(kit.left_out.iter().all(|name| properties.contains_key(name))),
        Err(error) => {
            let error = error.to_string();
            let keys = ["AppKey", "NwkSKey", "AppSKey"].iter().filter_map(|name| properties.get(*name)?.as_str());
            let mut keys = keys.filter(|key| key.len() >= KEY);
            assert!(!keys.any(|key| error.contains(key)), "{error}");
        }
    }
}
