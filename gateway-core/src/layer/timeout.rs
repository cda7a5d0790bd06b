use super::{Layer, Request};
use crate::config::TimeoutConfig;
use crate::error::{ErrorKind, UpstreamError};

/// Ends each try of an operation after its time, as `TimedOut`.
#[derive(Debug)]
pub struct Timeout {
    config: TimeoutConfig,
}

impl Timeout {
    /// Gives each operation its time.
    #[must_use]
    pub fn new(config: TimeoutConfig) -> Self {
        Self { config }
    }
}

impl Layer for Timeout {
    async fn call<T, F>(
        &self,
        request: &Request<'_>,
        next: impl Fn() -> F + Send + Sync,
    ) -> Result<T, UpstreamError>
    where
        T: Send,
        F: Future<Output = Result<T, UpstreamError>> + Send,
    {
        let time = match request {
            Request::Attach(_) => self.config.attach,
            Request::Send(..) => self.config.send,
            Request::Twin(..) => self.config.twin,
            Request::Detach(_) => self.config.detach,
        };
        match tokio::time::timeout(time, next()).await {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::new(ErrorKind::TimedOut, request.operation())),
        }
    }
}
