//! The gateway's MQTT client: however the bytes are cut, the packets are the same; whatever a broker
//! says, in any pieces, each packet of ours is settled once and by its answer, and little is said back.
#![no_main]

use gateway_upstream_mqtt::fuzzing::{feed_client, read_packets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (is_version_5, piece, bytes) = input;
    read_packets(bytes, piece.into(), is_version_5);
    let said = feed_client(bytes, piece.into(), is_version_5);
    // A message of seven bytes draws an acknowledgement of four; what waits may follow, and a goodbye.
    assert!(said <= 64 + bytes.len(), "{said} bytes for {}", bytes.len());
});
