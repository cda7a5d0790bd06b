//! How a lost device comes back, or why it does not.

use std::sync::Arc;

use gateway_core::{ErrorKind, SessionEnd};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, sleep_until};

use super::attach::bring_up;
use super::device::{Device, Link};
use super::env::Env;
use super::error::HubError;
use super::line::Line;
use super::login::newer;

/// Newer credentials that a device is tried with before its session is ended.
const NEWER: usize = 3;

/// Tries until the device is back, or the hub says that it will not be. Until then its uplinks wait
/// for its link, but while its breaker is open they are answered.
pub(super) async fn bring_back(
    env: &Arc<Env>,
    device: &Arc<Device>,
    mut link: OwnedMutexGuard<Link>,
) -> Result<Arc<Line>, SessionEnd> {
    let mut newer = 0;
    let mut failures = 0;
    loop {
        let identity = device.wish().identity;
        let error = match bring_up(env, device, &mut link, &identity).await {
            Ok(()) => match link.line() {
                Ok(line) => return Ok(line.clone()),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if let HubError::Held(held) = &error
            && held.kind.is_retryable()
        {
            let until = Instant::now() + held.wait;
            tracing::info!(device.id = %device.id, wait = ?held.wait, "Device held back");
            device.set(&mut link, Link::Held(until, held.kind));
            drop(link);
            held_back(device, until).await;
            link = device.link.clone().lock_owned().await;
            if let Link::Up(line) = &*link {
                return Ok(line.clone());
            }
            continue;
        }
        let error = match error.kind() {
            ErrorKind::Unauthorized if newer < NEWER => match adopt_newer(env, device).await {
                Ok(true) => {
                    newer += 1;
                    continue;
                }
                Ok(false) => error,
                Err(unknown) => unknown,
            },
            _ => error,
        };
        if error.is_passing() {
            let wait = env.config.reconnect.backoff.delay(failures);
            failures += 1;
            let wait = match error {
                HubError::NotYet(due) => wait.max(due),
                _ => wait,
            };
            tracing::debug!(device.id = %device.id, error = %error, ?wait, "Not back yet");
            sleep(wait).await;
            continue;
        }
        tracing::warn!(device.id = %device.id, error = %error, "Device did not come back");
        device.set(&mut link, Link::Ended);
        return Err(device.wish().identity.session_end(error.kind()));
    }
}

/// Waits until a device may be tried again, or is there before by another credential.
async fn held_back(device: &Device, until: Instant) {
    while device.line().is_none() {
        tokio::select! {
            () = sleep_until(until) => return,
            () = device.changed.notified() => {}
        }
    }
}

/// Takes a newer credential for a device, if there is one.
async fn adopt_newer(env: &Env, device: &Device) -> Result<bool, HubError> {
    let identity = device.wish().identity;
    let newer = newer(env, &identity).await?;
    Ok(newer.is_some_and(|newer| {
        device.adopt(&identity.credential, newer);
        true
    }))
}
