//! The hub's HTTPS side, with the provisioning service's and what is spoken over WebSockets: it
//! answers whatever comes, in any pieces, and not without measure.
#![no_main]

use hub_simulator::fuzzing::feed_http;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let answered = feed_http(bytes, piece.into());
    assert!(answered.is_empty() || answered.starts_with(b"HTTP/1."));
    // The longest answers are errors, with an id and a time each.
    let bound = 4096 + bytes.len() * 64;
    assert!(answered.len() <= bound, "{} bytes for {}", answered.len(), bytes.len());
});
