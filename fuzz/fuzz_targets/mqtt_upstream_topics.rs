//! Topics of a hub and of any broker: what is read of one leads to one of which the same is read, and
//! a property bag means the same when it is written anew.
//!
//! The first line is a template, as an operator writes it; the others are topics.
#![no_main]

use gateway_upstream_mqtt::fuzzing::{read_hub_topic, read_topics};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    text.split('\n').for_each(read_hub_topic);
    if let Some((template, topics)) = text.split_once('\n') {
        read_topics(template, topics.split('\n'));
    }
});
