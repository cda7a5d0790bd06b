//! The gateway's AMQP client: whatever bytes a hub says, in any pieces, nobody waits for ever, and
//! little is said back.
#![no_main]

use gateway_upstream_amqp::fuzzing::feed_client;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let said = feed_client(bytes, piece.into());
    // A frame of at least eight bytes draws a verdict, credit, or the messages that a credit allows.
    assert!(said <= 1024 + bytes.len() * 64, "{said} bytes for {}", bytes.len());
});
