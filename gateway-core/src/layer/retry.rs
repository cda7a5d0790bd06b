use tokio::time::{Instant, sleep};

use super::{Layer, Request};
use crate::config::RetryConfig;
use crate::error::UpstreamError;

/// Tries again what failed in passing, within a budget of time. The one layer that retries.
///
/// A message may reach the hub twice when its first verdict was lost; its id stays the same.
#[derive(Debug)]
pub struct Retry {
    config: RetryConfig,
}

impl Retry {
    /// Gives each request its budget of time.
    #[must_use]
    pub fn new(config: RetryConfig) -> Self {
        Self { config }
    }
}

/// The tries of one request. Costs nothing until the first has failed.
struct Tries<'a> {
    config: &'a RetryConfig,
    failures: u32,
    /// When the first failed.
    since: Option<Instant>,
}

impl Tries<'_> {
    /// Waits before the next try, or says that there is none.
    async fn again(&mut self, error: &UpstreamError) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let asked = error.retry_after().unwrap_or_default();
        let wait = self.config.backoff.delay(self.failures).max(asked);
        // Compared as times that passed: the hub may ask for one that no clock reaches.
        let spent = since.elapsed().saturating_add(wait);
        if !error.is_retryable() || spent > self.config.budget {
            return false;
        }
        self.failures += 1;
        tracing::debug!(error = %error, failures = self.failures, "Trying again");
        sleep(wait).await;
        true
    }
}

impl Layer for Retry {
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
            // The device is forgotten whatever the hub said.
            return next().await;
        }
        let mut tries = Tries {
            config: &self.config,
            failures: 0,
            since: None,
        };
        loop {
            // A twin read or merged twice comes to the same.
            match next().await {
                Err(error) if tries.again(&error).await => {}
                verdict => return verdict,
            }
        }
    }
}
