//! As few connections as the devices need, each filled before the next is opened.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use gateway_core::governor::Operation;
use gateway_core::{Backoff, Credential};
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
    tries: Mutex<Tries>,
}

/// One budget for the hub: if it cannot be reached for one, it cannot for the others.
#[derive(Debug, Default)]
struct Tries {
    failures: u32,
    last_failure: Option<Instant>,
    not_before: Option<Instant>,
}

impl Tries {
    /// Notes a failed try. Those that were under way at the last failure say nothing new.
    fn fail(&mut self, begun: Instant, reconnect: &Backoff) -> Duration {
        let now = Instant::now();
        if self.last_failure.is_none_or(|last| last < begun) {
            let wait = reconnect.delay(self.failures);
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(now + wait);
        }
        self.last_failure = Some(now);
        self.not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
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
        Self {
            env,
            slots: Mutex::default(),
            tries: Mutex::default(),
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
        let due = lock(&self.pool.tries)
            .not_before
            .map(|at| at.saturating_duration_since(Instant::now()));
        if let Some(wait) = due.filter(|wait| !wait.is_zero()) {
            return Err(AmqpError::NotYet(wait));
        }
        let env = &self.pool.env;
        env.pass(Operation::Connect, device).await;
        let begun = Instant::now();
        match Connection::open(env).await {
            Ok(opened) => {
                *lock(&self.pool.tries) = Tries::default();
                // A slot gets one connection in its life.
                drop(self.slot.down.set(opened.down().clone()));
                *connection = Some(opened.clone());
                Ok(opened)
            }
            Err(error) => {
                let wait = lock(&self.pool.tries).fail(begun, &env.config.pool.reconnect);
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
