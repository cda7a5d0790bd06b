//! Tells when a script's thread is lost: when it is in one of the engine's natives that never look
//! at the time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// What a busy machine may add to a call.
const SLACK: Duration = Duration::from_secs(1);

/// Is what the thread and those who wait for it know of each other.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Duration,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    since: Option<Instant>,
    /// Somebody has said that it does not end.
    is_told: bool,
}

impl Watch {
    pub(super) fn new(time_limit: Duration) -> Self {
        Self {
            // The script may have to be run anew before the call.
            patience: 2 * time_limit + SLACK,
            work: Mutex::default(),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Whole between statements, whoever panicked.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the thread begins with a call.
    pub(super) fn begin(&self) {
        self.work().since = Some(Instant::now());
    }

    /// Notes that it has ended it.
    pub(super) fn end(&self) {
        *self.work() = Work::default();
    }

    /// Tells whether the thread is at one call for longer than any may take.
    pub(super) fn is_lost(&self) -> bool {
        let mut work = self.work();
        let is_lost = work
            .since
            .is_some_and(|since| since.elapsed() >= self.patience);
        if is_lost && !work.is_told {
            work.is_told = true;
            tracing::warn!("A codec's script does not end; until it does, payloads are not read");
        }
        is_lost
    }

    /// Waits for what comes of a call, or those before it; gives it up when the thread is lost.
    ///
    /// # Cancel safety
    /// As what is waited for.
    pub(super) async fn wait<T>(&self, result: impl Future<Output = T>) -> Option<T> {
        let mut result = std::pin::pin!(result);
        loop {
            match timeout(self.patience, result.as_mut()).await {
                Ok(result) => return Some(result),
                Err(_) if self.is_lost() => return None,
                Err(_) => {}
            }
        }
    }
}
