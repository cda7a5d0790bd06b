//! How a device's credential becomes a token that the hub has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use gateway_core::credential::{KeyPair, SasToken, SymmetricKey, sas_resource};
use gateway_core::governor::{Class, Operation, Priority, Turn};
use gateway_core::{Credential, DeviceIdentity, ErrorKind};
use tokio::time::{Instant, timeout};

use crate::attach::note_throttle;
use crate::connection::Connection;
use crate::device::Device;
use crate::env::Env;
use crate::error::AmqpError;
use crate::pool::Kind;
use crate::wheel::Due;

/// An expiry is a whole second, rounded down: up to one second of the life is not there.
const ROUNDING: Duration = Duration::from_secs(1);

/// How a token is put: how urgent it is, how long the hub is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    priority: Priority,
    turn: &'a Turn,
    patience: Duration,
    /// Whether the device brings another credential than before.
    pub(crate) is_change: bool,
    /// The entry of the token that this one renews; none if it is new, whatever was before.
    renews: Option<u64>,
}

impl<'a> Ask<'a> {
    fn new(env: &Env, device: &'a Device) -> Self {
        Self {
            priority: device.priority(),
            turn: &device.turn,
            patience: env.config.wire.answer_timeout,
            is_change: false,
            renews: None,
        }
    }

    /// Renews the token of an entry: the sooner it lapses the sooner, and with time for another try.
    pub(crate) fn renewal(env: &Env, due: &Due, turn: &'a Turn) -> Self {
        let left = due.lapses.saturating_duration_since(Instant::now());
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at = since_epoch.unwrap_or_default().saturating_add(left);
        let patience = env.config.wire.answer_timeout;
        Self {
            priority: Priority::new(Class::Standing, u64::MAX - at.as_millis() as u64),
            turn,
            patience: match left.is_zero() {
                true => patience,
                false => patience.min(left / 4),
            },
            is_change: false,
            renews: Some(due.serial),
        }
    }
}

/// What became of a token that was put.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed {
    pub(crate) at: Instant,
    /// How long it is good from then on.
    pub(crate) life: Duration,
}

/// Puts the device's token on the connection and sees to its renewal or end.
pub(crate) async fn authorize(
    env: &Arc<Env>,
    connection: &Connection,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
) -> Result<(), AmqpError> {
    put(env, connection, device, identity, Ask::new(env, device)).await
}

/// Puts the token of another credential in place: no link is touched.
pub(crate) async fn reauthorize(
    env: &Arc<Env>,
    connection: &Connection,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
) -> Result<(), AmqpError> {
    let ask = Ask {
        is_change: true,
        ..Ask::new(env, device)
    };
    put(env, connection, device, identity, ask).await
}

async fn put(
    env: &Arc<Env>,
    connection: &Connection,
    device: &Arc<Device>,
    identity: &DeviceIdentity,
    ask: Ask<'_>,
) -> Result<(), AmqpError> {
    let keeper = connection.keeper();
    let audience = || sas_resource(&env.config.host, &device.id);
    match &identity.credential {
        Credential::Policy(policy) => {
            keeper.put_policy(connection, policy, identity, ask).await?;
            // One of its own is of no more use.
            device.forget_token();
            Ok(())
        }
        Credential::DeviceKey(keys) => {
            let audience = audience();
            let sign = |key: &SymmetricKey, expires| SasToken::sign(&audience, key, expires);
            let favourite = &device.prefers_secondary;
            let signed = put_signed(env, connection, &audience, keys, favourite, sign, ask).await?;
            keeper.hold(device, signed, true, ask.renews);
            Ok(())
        }
        Credential::SasToken(token) => {
            let left = token.expires().duration_since(SystemTime::now());
            let life = left.map_err(|_| AmqpError::TokenExpired)?;
            let signed = Signed {
                at: Instant::now(),
                life,
            };
            pass(env, connection, ask).await?;
            put_one(env, connection, audience(), token.clone(), ask).await?;
            keeper.hold(device, signed, identity.source.is_some(), ask.renews);
            Ok(())
        }
        _ => Err(AmqpError::NoProof),
    }
}

/// Puts a token signed with the key that the hub took last, or with the other if it refuses that.
pub(crate) async fn put_signed(
    env: &Env,
    connection: &Connection,
    audience: &str,
    keys: &KeyPair,
    prefers_secondary: &AtomicBool,
    sign: impl Fn(&SymmetricKey, SystemTime) -> SasToken,
    ask: Ask<'_>,
) -> Result<Signed, AmqpError> {
    let ttl = env.config.tokens.ttl;
    let mut refused = AmqpError::TokenExpired;
    for (key, is_secondary) in keys.in_order(prefers_secondary.load(Relaxed)) {
        // A token that is signed before may have lapsed when its turn comes.
        pass(env, connection, ask).await?;
        let signed = Signed {
            at: Instant::now(),
            life: ttl.saturating_sub(ROUNDING),
        };
        let token = sign(key, SystemTime::now() + ttl);
        match put_one(env, connection, audience.to_owned(), token, ask).await {
            Ok(()) => {
                prefers_secondary.store(is_secondary, Relaxed);
                return Ok(signed);
            }
            Err(error) if error.kind() == ErrorKind::Unauthorized => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

/// Waits until a token may be put, unless the connection goes.
async fn pass(env: &Env, connection: &Connection, ask: Ask<'_>) -> Result<(), AmqpError> {
    tokio::select! {
        biased;
        () = connection.down().cancelled() => Err(AmqpError::Down),
        () = env.door.pass(Operation::Token, ask.priority, ask.turn) => Ok(()),
    }
}

/// Puts a token whose turn it is.
async fn put_one(
    env: &Env,
    connection: &Connection,
    audience: String,
    token: SasToken,
    ask: Ask<'_>,
) -> Result<(), AmqpError> {
    let put = timeout(ask.patience, connection.put_token(audience, token)).await;
    let put = put.unwrap_or(Err(AmqpError::Unanswered("a token")));
    put.inspect_err(|error| note_throttle(env, Operation::Token, error))
}

/// Renews a device's token in place; if the hub refuses what it has, with what its provider has now.
pub(crate) async fn renew(
    env: &Arc<Env>,
    connection: &Connection,
    device: &Arc<Device>,
    ask: Ask<'_>,
) -> Result<(), AmqpError> {
    let identity = device.wish().identity;
    let refused = match &identity.credential {
        // Nobody here can sign another.
        Credential::SasToken(_) => AmqpError::TokenExpired,
        _ => match put(env, connection, device, &identity, ask).await {
            Err(error) if error.kind() == ErrorKind::Unauthorized => error,
            result => return result,
        },
    };
    let Some(newer) = newer(env, &identity).await? else {
        return Err(refused);
    };
    if Kind::of(&newer.credential) != Kind::of(&identity.credential) {
        // It has no place on this connection; the device gets it when it comes back.
        return Err(refused);
    }
    put(env, connection, device, &newer, ask).await?;
    device.adopt(&identity.credential, newer.credential);
    Ok(())
}

/// Asks whoever gave a credential that the hub refuses for a newer one. None if there is none.
pub(crate) async fn newer(
    env: &Env,
    identity: &DeviceIdentity,
) -> Result<Option<DeviceIdentity>, AmqpError> {
    let Some(source) = identity.source.clone() else {
        return Ok(None);
    };
    let patience = env.config.wire.answer_timeout;
    let credential = match source.credential(&identity.device, patience).await {
        Ok(credential) => credential,
        Err(error) if error.is_retryable() => return Err(AmqpError::Credential(error)),
        Err(error) => {
            tracing::debug!(device.id = %identity.device, error = %error, "No newer credential");
            return Ok(None);
        }
    };
    if credential == identity.credential {
        return Ok(None);
    }
    let mut newer = identity.clone();
    newer.credential = credential;
    Ok(Some(newer))
}
