//! Tells when a script's thread is lost: when it is in one of the engine's natives that never look
//! at the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::CodecError;

/// What a busy machine may add to a call.
const SLACK: Duration = Duration::from_secs(1);

/// Is what the thread and those who wait for it know of each other.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Duration,
    numbers: AtomicU64,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    /// The number of a call, and when it began.
    call: Option<(u64, Instant)>,
    /// Somebody has said that it does not end.
    is_told: bool,
}

impl Watch {
    pub(super) fn new(time_limit: Duration) -> Self {
        Self {
            // The script may have to be run anew before the call.
            patience: 2 * time_limit + SLACK,
            numbers: AtomicU64::default(),
            work: Mutex::default(),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Whole between statements, whoever panicked.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a call its number.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that the thread begins with a call.
    pub(super) fn begin(&self, call: u64) {
        self.work().call = Some((call, Instant::now()));
    }

    /// Notes that it has ended it.
    pub(super) fn end(&self) {
        *self.work() = Work::default();
    }

    /// The call that the thread has been at for longer than any may take.
    pub(super) fn lost(&self) -> Option<u64> {
        let mut work = self.work();
        let (call, since) = work.call?;
        if since.elapsed() < self.patience {
            return None;
        }
        if !work.is_told {
            work.is_told = true;
            tracing::warn!("A codec's script does not end; until it does, payloads are not read");
        }
        Some(call)
    }

    /// Waits for what comes of a call; gives it up when the thread is lost.
    ///
    /// # Errors
    /// It does not end, or one before it does not: the thread has not looked at it then.
    ///
    /// # Cancel safety
    /// As what is waited for.
    pub(super) async fn wait<T>(
        &self,
        call: u64,
        result: impl Future<Output = T>,
    ) -> Result<T, CodecError> {
        let mut result = std::pin::pin!(result);
        loop {
            match timeout(self.patience, result.as_mut()).await {
                Ok(result) => return Ok(result),
                Err(_) => match self.lost() {
                    Some(lost) if lost == call => return Err(CodecError::TimedOut),
                    Some(_) => return Err(CodecError::Busy),
                    None => {}
                },
            }
        }
    }
}
