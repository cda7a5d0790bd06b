use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::callback::CloudCallback;
use crate::config::TimeoutConfig;
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::UpstreamExplanation;
use crate::id::DeviceId;
use crate::message::{TwinReply, TwinRequest, Uplink};
use crate::upstream::{DeviceIdentity, Upstream};

/// Ends each try of an operation after its time, as `TimedOut`.
#[derive(Debug)]
pub struct Timeout<U> {
    inner: U,
    config: TimeoutConfig,
}

impl<U> Timeout<U> {
    /// Wraps an upstream.
    #[must_use]
    pub fn new(inner: U, config: TimeoutConfig) -> Self {
        Self { inner, config }
    }
}

async fn within<T>(
    time: Duration,
    operation: &'static str,
    work: impl Future<Output = Result<T, UpstreamError>>,
) -> Result<T, UpstreamError> {
    match timeout(time, work).await {
        Ok(result) => result,
        Err(_) => Err(UpstreamError::new(ErrorKind::TimedOut, operation)),
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<U: Upstream> Upstream for Timeout<U> {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        within(
            self.config.attach,
            "attach",
            self.inner.attach(identity, callback),
        )
        .await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        within(self.config.send, "send", self.inner.send(uplink)).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        within(self.config.send, "send", self.inner.send_batch(uplinks)).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        within(self.config.twin, "twin", self.inner.twin(device, request)).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        within(self.config.detach, "detach", self.inner.detach(device)).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.inner.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.inner.close(grace).await
    }
}
