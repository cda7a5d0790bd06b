//! What a device's callback says, if it says anything.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use gateway_core::DeviceId;
use tokio::time::{Instant, timeout_at};

/// Why a callback has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    Late,
    Panicked,
}

/// Waits for a callback. One that panics has no verdict, and harms nothing else: what it was called for
/// is acknowledged or tried again as without a word from it.
pub(super) async fn verdict<T>(
    device: &DeviceId,
    deadline: Instant,
    call: impl Future<Output = T>,
) -> Result<T, Silence> {
    match timeout_at(deadline, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(verdict)) => Ok(verdict),
        Ok(Err(_)) => {
            tracing::error!(device.id = %device, count = 1, "A callback panicked");
            Err(Silence::Panicked)
        }
        Err(_) => Err(Silence::Late),
    }
}
