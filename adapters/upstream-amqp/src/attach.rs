//! How a device comes up: a place, a token, a telemetry link, and then what it wants to hear.

use std::sync::Arc;

use gateway_core::DeviceIdentity;
use gateway_core::governor::Operation;
use tokio::time::Instant;

use crate::authorize::authorize;
use crate::client::LinkSpec;
use crate::commands::{Commands, Scope};
use crate::connection::Connection;
use crate::device::{Attached, Device, Link};
use crate::env::{Env, Event};
use crate::error::AmqpError;
use crate::link::{address, client_properties};
use crate::pool::{Kind, Pool};

/// What the hub says when a connection has its fill of tokens.
const TOO_MANY_TOKENS: &str = "maximum number of tokens";
/// Connections found full by the hub, though not by us, before a device is turned away.
const FULL_TRIES: usize = 4;

/// Brings up a device whose link the caller holds, unless its breaker is open.
///
/// Cancel safe: what was opened is closed as it is dropped.
pub(crate) async fn bring_up(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    link: &mut Link,
) -> Result<(), AmqpError> {
    let identity = device.wish().identity;
    let trial = env.breakers.enter(&device.id, &identity.credential)?;
    let result = try_up(env, pool, device, &identity, link).await;
    match &result {
        Ok(()) => trial.end(None),
        Err(error) if error.blames_device() => trial.end(Some(error.kind())),
        Err(_) => drop(trial),
    }
    result.inspect_err(|error| device.note_error(error))
}

async fn try_up(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
    link: &mut Link,
) -> Result<(), AmqpError> {
    // The old links end before new ones begin.
    link.lose();
    let kind = Kind::of(&identity.credential);
    let mut tries = 0;
    let connection = loop {
        let kept = link
            .take_place()
            .filter(|place| place.is_of(&kind) && !place.is_lost());
        // Kept in the link while this tries, so that another try finds it there.
        *link = Link::Down(Some(kept.unwrap_or_else(|| pool.place(&kind))));
        let Link::Down(Some(place)) = &*link else {
            continue;
        };
        let connection = place.connection(device).await?;
        match authorize(env, &connection, device, identity).await {
            Ok(()) => break connection,
            Err(AmqpError::Token { description, .. })
                if description.contains(TOO_MANY_TOKENS) && tries < FULL_TRIES =>
            {
                place.mark_full();
                *link = Link::Down(None);
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    };
    let suspect_until = env.suspect_until(&device.id);
    let lane = match suspect_until {
        None => connection.lane().await?,
        Some(_) => connection.own_lane().await?,
    };
    let spec = LinkSpec {
        name: env.name(device.id.as_str(), "telemetry"),
        address: address(env, device, "messages/events"),
        settled: false,
        properties: client_properties(),
    };
    turn(env, device, &connection, Operation::Link).await?;
    let opened = lane.open_sender(spec).await;
    let sender = opened.inspect_err(|error| {
        note_throttle(env, Operation::Link, error);
        connection.keeper().doubt_policy(error.kind());
    })?;
    let mut commands = Commands::default();
    let scope = Scope {
        env,
        device,
        lane: &lane,
    };
    commands.want(scope, identity.interest.or(env.config.commands.always));
    device.set_lane(lane.number);
    let watched = lane.watch(sender.id(), device);
    // What was lost until here was lost without this device; from here on the supervisor finds it.
    if let Some(error) = sender.end() {
        return Err(error.into());
    }
    if lane.down.is_cancelled() {
        return Err(AmqpError::Down);
    }
    if let Some(place) = link.take_place() {
        *link = Link::Up(Box::new(Attached {
            watched,
            sender,
            commands,
            lane,
            place,
        }));
    }
    if let Some(until) = suspect_until {
        watch(env, device, until).await;
    }
    Ok(())
}

/// Takes note of a telemetry link that the hub has detached, once.
pub(crate) async fn lose_link(env: &Env, device: &Arc<Device>, link: &mut Link, error: &AmqpError) {
    // Of a whole lane that is lost the supervisor knows.
    if !matches!(link, Link::Up(attached) if !attached.lane.down.is_cancelled()) {
        return;
    }
    link.lose();
    device.note_error(error);
    note_throttle(env, Operation::Link, error);
    env.note_detach(device, error);
    env.tell(match error.is_passing() {
        true => Event::LinkLost(device.clone()),
        false => Event::Ended(device.clone(), error.kind()),
    })
    .await;
}

/// Sees to a device on a lane of its own at a later time.
pub(crate) async fn watch(env: &Env, device: &Arc<Device>, at: Instant) {
    if !device.set_watched(true) {
        env.tell(Event::Suspect(Arc::downgrade(device), at)).await;
    }
}

/// Waits for the device's turn, unless the connection goes.
async fn turn(
    env: &Env,
    device: &Device,
    connection: &Connection,
    operation: Operation,
) -> Result<(), AmqpError> {
    tokio::select! {
        biased;
        () = connection.down().cancelled() => Err(AmqpError::Down),
        () = env.pass(operation, device) => Ok(()),
    }
}

/// Has all devices go slower if the hub's answer to one says so.
pub(crate) fn note_throttle(env: &Env, operation: Operation, error: &AmqpError) {
    if error.is_throttle() {
        env.door.throttled(operation);
    }
}
