//! The hub's messages to devices: whatever comes on a link for messages, methods or the twin, it is
//! read or refused, and nothing is read that is not there.
#![no_main]

use std::sync::LazyLock;

use gateway_core::DeviceId;
use gateway_upstream_amqp::fuzzing::read_message;
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;

static DEVICE: LazyLock<DeviceId> = LazyLock::new(|| DeviceId::new("dev1").expect("a valid id"));

fuzz_target!(|payload: &[u8]| read_message(&DEVICE, payload, Instant::now()));
