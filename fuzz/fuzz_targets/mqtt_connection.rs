//! The hub's MQTT connection: it answers whatever comes, and not without measure.
#![no_main]

use hub_simulator::fuzzing::{Between, feed_mqtt};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (head, piece, bytes) = input;
    let (connected, between) = (head % 2 == 1, Between::from_bits(head / 2));
    let answered = feed_mqtt(bytes, piece.into(), between, connected);
    let turns = match between {
        Between::Nothing => {
            // Where the pieces end means nothing; ids are made up, and as long each time.
            let whole = feed_mqtt(bytes, bytes.len(), between, connected);
            assert_eq!(answered.len(), whole.len());
            0
        }
        Between::Turn { .. } => bytes.len() / usize::from(piece.max(1)) + 1,
    };
    // The longest answer to a short packet is a twin, or an error about one; a turn brings what waits in queues.
    let bound = 4096 + bytes.len() * 64 + turns * 64 * 1024;
    assert!(answered.len() <= bound, "{} bytes for {}", answered.len(), bytes.len());
});
