//! How a device comes up: through its breaker and the door, by a connection of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use gateway_core::governor::{Operation, Priority, Trial};
use gateway_core::{Credential, DeviceIdentity, ErrorKind};
use tokio::time::timeout;

use super::device::{Device, Link};
use super::env::Env;
use super::error::HubError;
use super::line::Line;
use super::login::{connect, newer};

/// Why a connection is replaced by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its token is about to lapse.
    Token,
    /// A message was not acknowledged: the hub delivers it again on another connection.
    Redelivery,
}

/// Tells when the hub may be tried again, if that is not now.
fn reachable(env: &Env) -> Result<(), HubError> {
    let wait = env.reach.wait();
    wait.map_or(Ok(()), |wait| Err(HubError::NotYet(wait)))
}

/// Waits until the hub may be asked for another connection.
async fn gate(env: &Env, device: &Device, priority: Priority) -> Result<(), HubError> {
    reachable(env)?;
    env.pass(Operation::Connect, priority, &device.turn).await
}

/// Opens a connection as one of so many at once, for whoever holds the device's link: who waits for
/// that has no place here, or all places could be theirs.
async fn open(
    env: &Arc<Env>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
) -> Result<Arc<Line>, HubError> {
    let permit = env.connecting.acquire().await;
    let _permit = permit.map_err(|_| HubError::Closed)?;
    // The hub may have been lost meanwhile.
    reachable(env)?;
    connect(env, device, identity).await
}

/// Brings up a device whose link the caller holds, unless its breaker is open.
///
/// Cancel safe: what was opened is closed as it is dropped.
pub(super) async fn bring_up(
    env: &Arc<Env>,
    device: &Arc<Device>,
    link: &mut Link,
    identity: &DeviceIdentity,
) -> Result<(), HubError> {
    let trial = env.breakers.enter(&device.id, &identity.credential)?;
    let opened = async {
        gate(env, device, device.priority()).await?;
        open(env, device, identity).await
    };
    let opened = opened.await;
    end(trial, &opened);
    let line = opened.inspect_err(|error| device.note_error(error))?;
    device.set(link, Link::Up(line));
    Ok(())
}

/// Tells the breaker what came of a trial; what was no fault of the device's counts for nothing.
fn end<T>(trial: Trial<'_>, result: &Result<T, HubError>) {
    match result {
        Ok(_) => trial.end(None),
        Err(error) if error.blames_device() => trial.end(Some(error.kind())),
        Err(_) => drop(trial),
    }
}

/// Replaces a device's connection by one with another credential. If the hub refuses that, the device
/// keeps what it has.
pub(super) async fn change_credential(
    env: &Arc<Env>,
    device: &Arc<Device>,
    link: &mut Link,
    identity: &DeviceIdentity,
) -> Result<(), HubError> {
    let trial = env.breakers.enter(&device.id, &identity.credential)?;
    gate(env, device, device.priority()).await?;
    if let Link::Up(old) = &*link {
        drain(env, old).await;
    }
    let replaced = replace(env, device, link, identity).await;
    end(trial, &replaced);
    replaced
}

/// Opens another connection for a device that is up, in its turn, unless it is lost before.
pub(super) async fn renew(
    env: &Arc<Env>,
    device: &Arc<Device>,
    old: &Line,
    why: Why,
    priority: Priority,
) -> Result<(), HubError> {
    let turn = async {
        gate(env, device, priority).await?;
        Ok::<_, HubError>(device.link.lock().await)
    };
    let mut link = tokio::select! {
        biased;
        () = old.client.down().cancelled() => return Ok(()),
        turn = turn => turn?,
    };
    if !matches!(&*link, Link::Up(line) if line.number == old.number) {
        // Replaced or detached meanwhile.
        return Ok(());
    }
    if !drain(env, old).await && why == Why::Redelivery {
        return Err(HubError::Unanswered("what is in flight"));
    }
    let identity = device.wish().identity;
    let refused = match (why, &identity.credential) {
        // Nobody here can sign another.
        (Why::Token, Credential::SasToken(_)) => HubError::TokenExpired,
        _ => match replace(env, device, &mut link, &identity).await {
            Err(error) if error.kind() == ErrorKind::Unauthorized => error,
            result => return result,
        },
    };
    let Some(credential) = newer(env, &identity).await? else {
        return Err(refused);
    };
    let mut fresh = identity.clone();
    fresh.credential = credential;
    replace(env, device, &mut link, &fresh).await?;
    device.adopt(&identity.credential, fresh.credential);
    Ok(())
}

/// Waits until nothing is in flight on a connection. False if it takes too long.
async fn drain(env: &Env, line: &Line) -> bool {
    line.work.close();
    timeout(env.config.reconnect.drain, line.work.wait())
        .await
        .is_ok()
}

/// Opens another connection; the hub closes the first as this one is there. If there is none, the
/// first stays.
async fn replace(
    env: &Arc<Env>,
    device: &Arc<Device>,
    link: &mut Link,
    identity: &DeviceIdentity,
) -> Result<(), HubError> {
    let line = open(env, device, identity).await?;
    let old = device.set(link, Link::Up(line));
    if let Link::Up(old) = old {
        old.client.abort();
        env.counters.replaced.fetch_add(1, Relaxed);
    }
    Ok(())
}
