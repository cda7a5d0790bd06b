//! As few connections as the devices need, each filled before the next is opened.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

use gateway_core::Credential;
use gateway_core::governor::{Operation, Reach};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::device::Device;
use crate::env::{Env, lock};
use crate::error::AmqpError;

/// Devices that can share a connection: those with tokens of their own, and those under one and
/// the same policy, whose token counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    Policy(String),
}

impl Kind {
    pub(crate) fn of(credential: &Credential) -> Self {
        match credential {
            Credential::Policy(policy) => Self::Policy(policy.name().to_owned()),
            _ => Self::Device,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Pool {
    env: Arc<Env>,
    slots: Mutex<Vec<Arc<Slot>>>,
    reach: Reach,
}

#[derive(Debug)]
struct Slot {
    kind: Kind,
    /// Changed under the pool's lock only.
    used: AtomicUsize,
    /// The hub takes no more tokens here.
    is_full: AtomicBool,
    /// The connection's own token, once there is a connection.
    down: OnceLock<tokio_util::sync::CancellationToken>,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

impl Slot {
    fn is_lost(&self) -> bool {
        self.down
            .get()
            .is_some_and(tokio_util::sync::CancellationToken::is_cancelled)
    }
}

/// Is a device's right to be on a connection. Dropped, it frees its place; the last one closes
/// the connection.
#[derive(Debug)]
pub(crate) struct Place {
    pool: Arc<Pool>,
    slot: Arc<Slot>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut slots = lock(&self.pool.slots);
        if self.slot.used.fetch_sub(1, Relaxed) == 1 {
            slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        }
    }
}

impl Pool {
    pub(crate) fn new(env: Arc<Env>) -> Self {
        let reach = Reach::new(env.config.pool.reconnect);
        Self {
            env,
            slots: Mutex::default(),
            reach,
        }
    }

    /// Finds a place on the fullest connection that has one, or makes room for a new connection.
    pub(crate) fn place(self: &Arc<Self>, kind: &Kind) -> Place {
        let config = &self.env.config.pool;
        let bound = match kind {
            Kind::Device => config.devices_per_connection,
            Kind::Policy(_) => config.devices_per_policy_connection,
        };
        let mut slots = lock(&self.slots);
        slots.retain(|slot| !slot.is_lost());
        let fullest = slots
            .iter()
            .filter(|slot| slot.kind == *kind && !slot.is_full.load(Relaxed))
            .filter(|slot| slot.used.load(Relaxed) < bound)
            .max_by_key(|slot| slot.used.load(Relaxed))
            .cloned();
        let slot = fullest.unwrap_or_else(|| {
            let slot = Arc::new(Slot {
                kind: kind.clone(),
                used: AtomicUsize::new(0),
                is_full: AtomicBool::new(false),
                down: OnceLock::new(),
                connection: tokio::sync::Mutex::default(),
            });
            slots.push(slot.clone());
            slot
        });
        slot.used.fetch_add(1, Relaxed);
        Place {
            pool: self.clone(),
            slot,
        }
    }

    /// Devices on each open connection.
    pub(crate) fn fill(&self) -> Vec<usize> {
        let slots = lock(&self.slots);
        let open = slots
            .iter()
            .filter(|slot| slot.down.get().is_some() && !slot.is_lost());
        open.map(|slot| slot.used.load(Relaxed)).collect()
    }

    /// Lets go of every connection.
    pub(crate) fn clear(&self) {
        lock(&self.slots).clear();
    }
}

impl Place {
    /// The connection, opened by the first device that asks.
    ///
    /// Cancel safe: a connection that was being opened for it is closed.
    pub(crate) async fn connection(&self, device: &Device) -> Result<Arc<Connection>, AmqpError> {
        let mut connection = self.slot.connection.lock().await;
        if let Some(connection) = &*connection {
            return match connection.down().is_cancelled() {
                true => Err(AmqpError::Down),
                false => Ok(connection.clone()),
            };
        }
        let (env, reach) = (&self.pool.env, &self.pool.reach);
        let is_due = || match reach.wait() {
            Some(wait) => Err(AmqpError::NotYet(wait)),
            None => Ok(()),
        };
        is_due()?;
        let tried = async {
            env.pass(Operation::Connect, device).await;
            // Another may have failed meanwhile.
            is_due()?;
            Ok::<_, AmqpError>((Instant::now(), Connection::open(env).await))
        };
        let (begun, opened) = tokio::select! {
            biased;
            // Then nobody keeps the door.
            () = env.closing.cancelled() => return Err(AmqpError::Closed),
            tried = tried => tried?,
        };
        match opened {
            Ok(opened) => {
                reach.reached();
                // A slot gets one connection in its life.
                drop(self.slot.down.set(opened.down().clone()));
                *connection = Some(opened.clone());
                Ok(opened)
            }
            Err(error) => {
                let wait = reach.failed(begun);
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(error = %error, source, ?wait, "Cannot reach the hub");
                Err(error)
            }
        }
    }

    /// Notes that the hub takes no more tokens on this connection.
    pub(crate) fn mark_full(&self) {
        self.slot.is_full.store(true, Relaxed);
    }

    /// Tells whether the connection was lost; this place is of no more use then.
    pub(crate) fn is_lost(&self) -> bool {
        self.slot.is_lost()
    }

    pub(crate) fn is_of(&self, kind: &Kind) -> bool {
        self.slot.kind == *kind
    }
}
