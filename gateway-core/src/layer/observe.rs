use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;

use crate::callback::CloudCallback;
use crate::error::UpstreamError;
use crate::explain::UpstreamExplanation;
use crate::id::DeviceId;
use crate::message::{TwinReply, TwinRequest, Uplink};
use crate::upstream::{DeviceIdentity, Upstream};

/// Counts what an upstream was asked and what failed.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct UpstreamCounters {
    /// Devices attached, or changed while attached.
    pub attached: AtomicU64,
    /// Attaches that failed.
    pub attach_failed: AtomicU64,
    /// Messages that the hub accepted.
    pub sent: AtomicU64,
    /// Messages that the hub did not accept.
    pub send_failed: AtomicU64,
    /// Batches that the hub accepted, each of several messages.
    pub batches: AtomicU64,
    /// Twin requests answered.
    pub twin: AtomicU64,
    /// Twin requests that failed.
    pub twin_failed: AtomicU64,
    /// Devices detached.
    pub detached: AtomicU64,
}

/// Counts and traces what passes.
#[derive(Debug)]
pub struct Observe<U> {
    inner: U,
    counters: Arc<UpstreamCounters>,
}

impl<U> Observe<U> {
    /// Wraps an upstream.
    #[must_use]
    pub fn new(inner: U, counters: Arc<UpstreamCounters>) -> Self {
        Self { inner, counters }
    }
}

fn note<T>(
    device: &DeviceId,
    result: &Result<T, UpstreamError>,
    count: usize,
    good: &AtomicU64,
    bad: &AtomicU64,
) {
    match result {
        Ok(_) => good.fetch_add(count as u64, Relaxed),
        Err(error) => {
            let source = std::error::Error::source(error).map(tracing::field::display);
            tracing::debug!(device.id = %device, error = %error, source, "Upstream failed");
            bad.fetch_add(count as u64, Relaxed)
        }
    };
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<U: Upstream> Upstream for Observe<U> {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let device = identity.device.clone();
        let result = self.inner.attach(identity, callback).await;
        note(
            &device,
            &result,
            1,
            &self.counters.attached,
            &self.counters.attach_failed,
        );
        result
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let result = self.inner.send(uplink).await;
        note(
            &uplink.device,
            &result,
            1,
            &self.counters.sent,
            &self.counters.send_failed,
        );
        result
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let result = self.inner.send_batch(uplinks).await;
        if let [first, ..] = uplinks {
            note(
                &first.device,
                &result,
                uplinks.len(),
                &self.counters.sent,
                &self.counters.send_failed,
            );
        }
        if result.is_ok() {
            self.counters.batches.fetch_add(1, Relaxed);
        }
        result
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let result = self.inner.twin(device, request).await;
        note(
            device,
            &result,
            1,
            &self.counters.twin,
            &self.counters.twin_failed,
        );
        result
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        self.counters.detached.fetch_add(1, Relaxed);
        self.inner.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.inner.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.inner.close(grace).await
    }
}
