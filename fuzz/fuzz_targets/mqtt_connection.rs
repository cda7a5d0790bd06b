//! The hub's MQTT connection: it answers whatever comes, and not without measure.
#![no_main]

use hub_simulator::fuzzing::feed_mqtt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (connected, piece, bytes) = input;
    let answered = feed_mqtt(bytes, piece.into(), connected);
    // The longest answer to a short packet is a twin, or an error about one.
    assert!(answered <= 4096 + bytes.len() * 64, "{answered} bytes for {}", bytes.len());
});
