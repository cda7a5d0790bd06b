use tokio::sync::Semaphore;

use super::{Layer, Request};
use crate::error::{ErrorKind, UpstreamError};

/// Bounds how many requests an upstream serves at a time; more of them wait in order.
///
/// The gateway's own credits bound uplinks already; use this in front of a hub, or a part of one,
/// that takes less than the rest.
#[derive(Debug)]
pub struct Limit {
    permits: Semaphore,
}

impl Limit {
    /// Allows at most this many requests at a time (at least one).
    #[must_use]
    pub fn new(requests: usize) -> Self {
        let permits = requests.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Semaphore::new(permits),
        }
    }
}

impl Layer for Limit {
    async fn call<T, F>(
        &self,
        request: &Request<'_>,
        next: impl Fn() -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        if let Request::Detach(_) = request {
            // Never behind the requests that it might free.
            return next().await;
        }
        match self.permits.acquire().await {
            Ok(_permit) => next().await,
            Err(_) => Err(UpstreamError::new(ErrorKind::Closed, request.operation())),
        }
    }

    fn close(&self) {
        self.permits.close();
    }
}
