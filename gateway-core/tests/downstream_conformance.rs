//! The downstream suite over the downstream in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use support::memory_devices::Memory;

async fn fixture() -> Memory {
    Memory::default()
}

gateway_core::downstream_conformance!(fixture);
