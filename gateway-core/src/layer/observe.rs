use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Layer, Request};
use crate::error::UpstreamError;

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
pub struct Observe {
    counters: Arc<UpstreamCounters>,
}

impl Observe {
    /// Counts into these.
    #[must_use]
    pub fn new(counters: Arc<UpstreamCounters>) -> Self {
        Self { counters }
    }
}

impl Layer for Observe {
    async fn call<T, F>(
        &self,
        request: &Request<'_>,
        next: impl Fn() -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        let counters = &*self.counters;
        let (count, good, bad) = match request {
            Request::Attach(_) => (1, &counters.attached, &counters.attach_failed),
            Request::Send(_, uplinks) => (uplinks.len(), &counters.sent, &counters.send_failed),
            Request::Twin(..) => (1, &counters.twin, &counters.twin_failed),
            Request::Detach(_) => {
                // The device is forgotten whatever the hub says.
                counters.detached.fetch_add(1, Relaxed);
                return next().await;
            }
        };
        let result = next().await;
        match &result {
            Ok(_) => {
                good.fetch_add(count as u64, Relaxed);
                if count > 1 {
                    counters.batches.fetch_add(1, Relaxed);
                }
            }
            Err(error) => {
                let source = std::error::Error::source(error).map(tracing::field::display);
                let device = request.device();
                tracing::debug!(device.id = %device, error = %error, source, "Upstream failed");
                bad.fetch_add(count as u64, Relaxed);
            }
        }
        result
    }
}
