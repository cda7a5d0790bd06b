//! The gateway's MQTT client: whatever its holders, its broker and time do in any order, strange
//! things of the broker included, each packet is settled once and by its answer, what came is
//! acknowledged as it was judged, and all is done when it is due; when all is over, nobody waits and
//! nothing is left.
//!
//! The input is how a run begins and ends, then acts, as the client's model has them.
#![no_main]

use gateway_upstream_mqtt::fuzzing::play_client;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| play_client(input));
