use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::callback::CloudCallback;
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::UpstreamExplanation;
use crate::id::DeviceId;
use crate::message::{TwinReply, TwinRequest, Uplink};
use crate::upstream::{DeviceIdentity, Upstream};

/// Bounds how many requests an upstream serves at a time; more of them wait in order.
///
/// The gateway's own credits bound uplinks already; use this in front of a hub, or a part of one,
/// that takes less than the rest.
#[derive(Debug)]
pub struct Limit<U> {
    inner: U,
    permits: Semaphore,
}

impl<U> Limit<U> {
    /// Wraps an upstream, with at most this many requests at a time (at least one).
    #[must_use]
    pub fn new(inner: U, requests: usize) -> Self {
        let permits = requests.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner,
            permits: Semaphore::new(permits),
        }
    }

    async fn permit(&self, operation: &'static str) -> Result<SemaphorePermit<'_>, UpstreamError> {
        let permit = self.permits.acquire().await;
        permit.map_err(|_| UpstreamError::new(ErrorKind::Closed, operation))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<U: Upstream> Upstream for Limit<U> {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let _permit = self.permit("attach").await?;
        self.inner.attach(identity, callback).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let _permit = self.permit("send").await?;
        self.inner.send(uplink).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let _permit = self.permit("send").await?;
        self.inner.send_batch(uplinks).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let _permit = self.permit("twin").await?;
        self.inner.twin(device, request).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        // Never behind the requests that it might free.
        self.inner.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.inner.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.permits.close();
        self.inner.close(grace).await
    }
}
