//! AMQP frames, messages and values: never more is consumed than there is, and each value is the bytes
//! that it was split off with.
#![no_main]

use hub_simulator::fuzzing::{decode_frame, decode_message, decode_values};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    assert!(decode_frame(bytes) <= bytes.len());
    assert!(decode_values(bytes) <= bytes.len());
    decode_message(bytes);
});
