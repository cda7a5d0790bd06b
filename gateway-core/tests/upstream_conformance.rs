//! The upstream suite over the hub in memory, bare and under each layer.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::time::Duration;

use gateway_core::{Backoff, RetryConfig};
use support::memory_hub::Memory;

mod bare {
    use super::Memory;

    async fn fixture() -> Memory {
        Memory::new(|hub| hub)
    }
    gateway_core::upstream_conformance!(fixture);
}

mod timeout {
    use super::Memory;
    use gateway_core::{TimeoutConfig, layer};

    async fn fixture() -> Memory {
        Memory::new(|hub| layer::Timeout::new(hub, TimeoutConfig::default()))
    }
    gateway_core::upstream_conformance!(fixture);
}

mod limit {
    use super::Memory;
    use gateway_core::layer;

    async fn fixture() -> Memory {
        Memory::new(|hub| layer::Limit::new(hub, 16))
    }
    gateway_core::upstream_conformance!(fixture);
}

mod observe {
    use super::Memory;
    use gateway_core::layer;

    async fn fixture() -> Memory {
        Memory::new(|hub| layer::Observe::new(hub, Default::default()))
    }
    gateway_core::upstream_conformance!(fixture);
}

/// Short waits, since the faults of the suite pass at once.
fn quick_retries() -> RetryConfig {
    let mut config = RetryConfig::default();
    config.backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20)).unwrap();
    config
}

mod retry {
    use super::{Memory, quick_retries};
    use gateway_core::layer;

    async fn fixture() -> Memory {
        let mut memory = Memory::new(|hub| layer::Retry::new(hub, quick_retries()));
        memory.retries = true;
        memory
    }
    gateway_core::upstream_conformance!(fixture);
}

mod all_layers_of_a_gateway {
    use super::{Memory, quick_retries};
    use gateway_core::layer::{Observe, Retry, Timeout};

    async fn fixture() -> Memory {
        let mut memory = Memory::new(|hub| {
            let timed = Timeout::new(hub, Default::default());
            Observe::new(Retry::new(timed, quick_retries()), Default::default())
        });
        memory.retries = true;
        memory
    }
    gateway_core::upstream_conformance!(fixture);
}
