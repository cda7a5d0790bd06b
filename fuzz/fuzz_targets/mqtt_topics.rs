//! Topics, filters, property bags and user names: none makes the hub panic, and a bag means the same
//! when it is written anew.
#![no_main]

use hub_simulator::fuzzing::parse_mqtt_topic;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| parse_mqtt_topic(text));
