//! The hub's connection: it answers whatever comes, and not without measure.
#![no_main]

use hub_simulator::fuzzing::feed_connection;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let answered = feed_connection(bytes, piece.into());
    // Each frame of at least eight bytes draws at most a few frames of answer.
    assert!(answered <= 4096 + bytes.len() * 512, "{answered} bytes for {}", bytes.len());
});
