//! Basics Station's messages: what is read is a frame that can be on air.
#![no_main]

use gateway_downstream_lorawan::proto::station::discovery::Question;
use gateway_downstream_lorawan::proto::station::{Message, Uplink};
use libfuzzer_sys::fuzz_target;

fn is_framed(uplink: &Uplink) {
    assert!((1..=255).contains(&uplink.frame.len()));
}

fuzz_target!(|text: &str| {
    match Message::decode(text) {
        Ok(Message::Uplink(uplink)) => is_framed(&uplink),
        Ok(Message::Other(name)) => assert!(name.chars().count() <= 32),
        _ => {}
    }
    if let Ok(question) = Question::decode(text) {
        assert_eq!(question.router.to_string().parse(), Ok(question.router));
    }
});
