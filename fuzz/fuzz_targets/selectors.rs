//! Selectors of readers of events, and the messages that they read.
#![no_main]

use hub_simulator::fuzzing::{parse_selector, split_annotations};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    assert!(split_annotations(bytes) <= bytes.len());
    if let Ok(text) = std::str::from_utf8(bytes)
        && parse_selector(text)
    {
        // What is understood is nothing but a comparison, and means the same with space around it.
        assert!(text.contains('>') && text.contains("amqp.annotation.x-opt-"));
        assert!(parse_selector(&format!(" {text} ")));
        assert!(!parse_selector(&format!("{text} OR 1 = 1")));
    }
});
