//! How a lost device comes back, or why it does not.

use std::sync::Arc;

use gateway_core::{Backoff, ErrorKind, SessionEnd};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::attach::bring_up;
use super::device::{Device, Link};
use super::env::Env;
use super::error::HubError;
use super::line::Line;
use super::login::newer;

/// How long a connection must have lasted for the failures before it to be forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);
/// Newer credentials that a device is tried with before its session is ended.
const NEWER: usize = 3;

/// Counts what failed one after the other, tries to connect and connections that did not last: a hub
/// that lets a device in and closes at once is asked no faster than one that is not there.
#[derive(Debug, Default)]
pub(super) struct Failures(u32);

impl Failures {
    /// Takes note of a connection of this age that was lost. True if it was young.
    pub(super) fn lost(&mut self, age: Duration) -> bool {
        let is_young = age < FORGIVEN_AFTER;
        if !is_young {
            self.0 = 0;
        }
        is_young
    }

    /// The wait for another one, which counts.
    fn next(&mut self, backoff: &Backoff) -> Duration {
        let wait = backoff.delay(self.0);
        self.0 = self.0.saturating_add(1);
        wait
    }
}

/// Tries until the device is back, or the hub says that it will not be. Until then its uplinks wait
/// for its link, but while its breaker is open they are answered.
pub(super) async fn bring_back(
    env: &Arc<Env>,
    device: &Arc<Device>,
    mut link: OwnedMutexGuard<Link>,
    failures: &mut Failures,
    is_young: bool,
) -> Result<Arc<Line>, SessionEnd> {
    let backoff = &env.config.reconnect.backoff;
    if is_young {
        sleep(failures.next(backoff)).await;
    }
    let mut newer = 0;
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
            let wait = match error {
                // It was not tried.
                HubError::NotYet(due) => due.max(backoff.delay(0)),
                _ => failures.next(backoff),
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
