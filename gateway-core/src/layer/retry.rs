use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::callback::CloudCallback;
use crate::config::RetryConfig;
use crate::error::UpstreamError;
use crate::explain::UpstreamExplanation;
use crate::id::DeviceId;
use crate::message::{TwinReply, TwinRequest, Uplink};
use crate::upstream::{DeviceIdentity, Upstream};

/// Tries again what failed in passing, within a budget of time. The one layer that retries.
///
/// A message may reach the hub twice when its first verdict was lost; its id stays the same.
#[derive(Debug)]
pub struct Retry<U> {
    inner: U,
    config: RetryConfig,
}

impl<U> Retry<U> {
    /// Wraps an upstream.
    #[must_use]
    pub fn new(inner: U, config: RetryConfig) -> Self {
        Self { inner, config }
    }

    fn tries(&self) -> Tries<'_> {
        Tries {
            config: &self.config,
            failures: 0,
            deadline: None,
        }
    }
}

/// The tries of one request. Costs nothing until the first has failed.
struct Tries<'a> {
    config: &'a RetryConfig,
    failures: u32,
    deadline: Option<Instant>,
}

impl Tries<'_> {
    /// Waits before the next try, or says that there is none.
    async fn again(&mut self, error: &UpstreamError) -> bool {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.config.budget);
        let asked = error.retry_after().unwrap_or_default();
        let wait = self.config.backoff.delay(self.failures).max(asked);
        if !error.is_retryable() || now + wait > deadline {
            return false;
        }
        self.failures += 1;
        tracing::debug!(error = %error, failures = self.failures, "Trying again");
        sleep(wait).await;
        true
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<U: Upstream> Upstream for Retry<U> {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let mut tries = self.tries();
        loop {
            match self.inner.attach(identity.clone(), callback.clone()).await {
                Err(error) if tries.again(&error).await => {}
                verdict => return verdict,
            }
        }
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let mut tries = self.tries();
        loop {
            match self.inner.send(uplink).await {
                Err(error) if tries.again(&error).await => {}
                verdict => return verdict,
            }
        }
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let mut tries = self.tries();
        loop {
            match self.inner.send_batch(uplinks).await {
                Err(error) if tries.again(&error).await => {}
                verdict => return verdict,
            }
        }
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let mut tries = self.tries();
        loop {
            // Reading twice and merging twice both come to the same.
            match self.inner.twin(device, request.clone()).await {
                Err(error) if tries.again(&error).await => {}
                verdict => return verdict,
            }
        }
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        // The device is forgotten whatever the hub said.
        self.inner.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.inner.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.inner.close(grace).await
    }
}
