//! The hub's connection: it answers whatever comes, and not without measure.
#![no_main]

use hub_simulator::fuzzing::{Between, feed_amqp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    // Odd: nothing happens between the pieces, and where they end means nothing.
    let between = Between::from_bits(if piece % 2 == 1 { 0 } else { piece / 2 | 16 });
    let answered = feed_amqp(bytes, piece.into(), between);
    let turns = match between {
        Between::Nothing => {
            assert!(bytes.len() < 8 || answered.starts_with(b"AMQP"));
            let whole = feed_amqp(bytes, bytes.len(), between);
            // Ids are made up, and as long each time.
            assert_eq!(answered.len(), whole.len());
            0
        }
        Between::Turn { .. } => bytes.len() / usize::from(piece.max(1)) + 1,
    };
    // Each frame of at least eight bytes draws at most a few frames of answer, and a turn what waits in queues.
    let bound = 4096 + bytes.len() * 512 + turns * 64 * 1024;
    assert!(answered.len() <= bound, "{} bytes for {}", answered.len(), bytes.len());
});
