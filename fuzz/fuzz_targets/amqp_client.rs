//! The gateway's AMQP client: whatever its holders and the hub do in any order, strange things of the
//! hub included, each message has one end, which is its own; no rule of AMQP is broken; and when all
//! is over, nobody waits and nothing is left.
//!
//! The input is how a run begins and ends, then acts, as the client's model has them.
#![no_main]

use gateway_upstream_amqp::fuzzing::play_client;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| play_client(input));
