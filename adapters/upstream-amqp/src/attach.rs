//! How a device comes up: a place, a token, a telemetry link, and then what it wants to hear.

use std::sync::Arc;

use gateway_core::DeviceIdentity;
use gateway_core::governor::Operation;
use tokio::time::Instant;

use crate::authorize::{authorize, reauthorize};
use crate::client::LinkSpec;
use crate::commands::{Commands, Scope};
use crate::connection::Connection;
use crate::device::{Attached, Device, Link, Wish};
use crate::env::{Env, Event};
use crate::error::AmqpError;
use crate::link::{address, client_properties};
use crate::pool::{Kind, Place, Pool};

/// What the hub says when a connection has its fill of tokens.
const TOO_MANY_TOKENS: &str = "maximum number of tokens";
/// Connections found full by the hub, though not by us, before a device is turned away.
const FULL_TRIES: usize = 4;

/// Gives a device what is wished for it, or leaves it as it is.
///
/// Cancel safe: a wish counts only once the hub has taken its proof.
pub(crate) async fn change(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    link: &mut Link,
    wish: Wish,
) -> Result<(), AmqpError> {
    let identity = &wish.identity;
    let stays = match link {
        Link::Up(attached)
            if attached.is_live() && attached.place.is_of(&Kind::of(&identity.credential)) =>
        {
            if identity.credential != device.wish().identity.credential {
                let proven = async {
                    let connection = attached.place.connection(device).await?;
                    reauthorize(env, &connection, device, identity).await
                };
                tokio::select! {
                    biased;
                    () = attached.lane.down.cancelled() => {}
                    proven = proven => proven?,
                }
            }
            // The hub may have ended it meanwhile.
            attached.is_live()
        }
        _ => false,
    };
    if !stays {
        // What the hub did to the one before counts all the same.
        if let Link::Up(attached) = &*link
            && let Some(error) = attached.sender.end()
        {
            lose_link(env, device, link, &error.into());
        }
        bring_up(env, pool, device, identity, link).await?;
    }
    device.set_wish(wish);
    subscribe(env, device, link);
    Ok(())
}

/// Brings up a device whose link the caller holds, unless its breaker is open. What it has stays until
/// the hub has taken its proof.
///
/// Cancel safe: what was opened is closed as it is dropped. The link is down then if what the device
/// had is gone.
pub(crate) async fn bring_up(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
    link: &mut Link,
) -> Result<(), AmqpError> {
    let trial = env.breakers.enter(&device.id, &identity.credential)?;
    let result = try_up(env, pool, device, identity, link).await;
    match &result {
        Ok(()) => trial.end(None),
        Err(error) if error.blames_device() => trial.end(Some(error.kind())),
        Err(_) => drop(trial),
    }
    result.inspect_err(|error| device.note_error(error))
}

/// Has the hub asked for what a device that is up wants to hear.
pub(crate) fn subscribe(env: &Arc<Env>, device: &Arc<Device>, link: &mut Link) {
    if let Link::Up(attached) = link {
        let interest = device.interest().or(env.config.commands.always);
        let scope = Scope {
            env,
            device,
            lane: &attached.lane,
        };
        attached.commands.want(scope, interest);
    }
}

async fn try_up(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
    link: &mut Link,
) -> Result<(), AmqpError> {
    let kind = Kind::of(&identity.credential);
    // To another lane: what it has proven on its connection stands.
    if matches!(link, Link::Up(attached) if attached.place.is_of(&kind)) {
        link.lose();
    }
    let mut elsewhere = None;
    let place = match link {
        // Kept in the link while this tries, so that another try finds it there.
        Link::Down(place) => place,
        _ => &mut elsewhere,
    };
    let connection = let_in(env, pool, device, identity, place).await?;
    // The old links end before new ones begin.
    link.lose();
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
    device.set_lane(lane.number);
    let watched = lane.watch(sender.id(), device);
    // What was lost until here was lost without this device; from here on the supervisor finds it.
    if let Some(error) = sender.end() {
        return Err(error.into());
    }
    if lane.down.is_cancelled() {
        return Err(AmqpError::Down);
    }
    if let Some(place) = elsewhere.or_else(|| link.take_place()) {
        *link = Link::Up(Box::new(Attached {
            watched,
            sender,
            commands: Commands::default(),
            lane,
            place,
        }));
    }
    if let Some(until) = suspect_until {
        watch(env, device, until);
    }
    Ok(())
}

/// Puts the device's token on the connection of its place; on that of another if the device has none
/// of its kind, or it is lost, or the hub takes no more there.
async fn let_in(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
    place: &mut Option<Place>,
) -> Result<Arc<Connection>, AmqpError> {
    let kind = Kind::of(&identity.credential);
    let mut tries = 0;
    loop {
        let kept = place
            .take()
            .filter(|place| place.is_of(&kind) && !place.is_lost());
        let here = place.insert(kept.unwrap_or_else(|| pool.place(&kind)));
        let connection = here.connection(device).await?;
        match authorize(env, &connection, device, identity).await {
            Ok(()) => return Ok(connection),
            Err(AmqpError::Token { description, .. })
                if description.contains(TOO_MANY_TOKENS) && tries < FULL_TRIES =>
            {
                here.mark_full();
                *place = None;
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes note of a telemetry link that the hub has detached, once.
pub(crate) fn lose_link(env: &Env, device: &Arc<Device>, link: &mut Link, error: &AmqpError) {
    // Of a whole lane that is lost the supervisor knows.
    if !matches!(link, Link::Up(attached) if !attached.lane.down.is_cancelled()) {
        return;
    }
    link.lose();
    device.note_error(error);
    note_throttle(env, Operation::Link, error);
    env.note_detach(device, error);
    env.tell_soon(match error.is_passing() {
        true => Event::LinkLost(device.clone()),
        false => Event::Ended(device.clone(), error.kind()),
    });
}

/// Sees to a device on a lane of its own at a later time.
pub(crate) fn watch(env: &Env, device: &Arc<Device>, at: Instant) {
    if !device.set_watched(true) {
        env.tell_soon(Event::Suspect(Arc::downgrade(device), at));
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
