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
    use gateway_core::TimeoutConfig;
    use gateway_core::layer::{Layered, Timeout};

    async fn fixture() -> Memory {
        Memory::new(|hub| Layered::new(Timeout::new(TimeoutConfig::default()), hub))
    }
    gateway_core::upstream_conformance!(fixture);
}

mod limit {
    use super::Memory;
    use gateway_core::layer::{Layered, Limit};

    async fn fixture() -> Memory {
        Memory::new(|hub| Layered::new(Limit::new(16), hub))
    }
    gateway_core::upstream_conformance!(fixture);
}

mod observe {
    use super::Memory;
    use gateway_core::layer::{Layered, Observe};

    async fn fixture() -> Memory {
        Memory::new(|hub| Layered::new(Observe::new(Default::default()), hub))
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
    use gateway_core::layer::{Layered, Retry};

    async fn fixture() -> Memory {
        let mut memory = Memory::new(|hub| Layered::new(Retry::new(quick_retries()), hub));
        memory.retries = true;
        memory
    }
    gateway_core::upstream_conformance!(fixture);
}

mod all_layers_of_a_gateway {
    use super::{Memory, quick_retries};
    use gateway_core::layer::{Layered, Observe, Retry, Timeout};

    async fn fixture() -> Memory {
        let mut memory = Memory::new(|hub| {
            let timeout = Timeout::new(Default::default());
            let retry = Retry::new(quick_retries());
            Layered::new((Observe::new(Default::default()), (retry, timeout)), hub)
        });
        memory.retries = true;
        memory
    }
    gateway_core::upstream_conformance!(fixture);
}
