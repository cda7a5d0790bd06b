//! Messages of any broker, in each of the encodings: what is read of one is no longer than it was, and
//! what is written of that reads as the same.
//!
//! The input is a byte of the encoding, then parts of a message: a byte of what it is, a byte of
//! length and so many bytes.
#![no_main]

use gateway_upstream_mqtt::fuzzing::read_publish;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| read_publish(input));
