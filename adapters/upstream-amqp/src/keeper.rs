//! Keeps the tokens of one connection fresh: a wheel, a task, and nothing more for a device than its
//! entry.

mod policy;

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gateway_core::Credential;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::authorize::{Ask, Signed, renew};
use crate::connection::Connection;
use crate::device::Device;
use crate::door::Turn;
use crate::env::{Env, Event, lock};
use crate::error::AmqpError;
use crate::token::again;
use crate::wheel::{Entry, Next, Wheel};
use policy::PolicyToken;

/// Whose token it is.
#[derive(Debug, Clone)]
enum Holder {
    Device(Weak<Device>),
    Policy,
}

/// Sees to the tokens on one connection.
#[derive(Debug)]
pub(crate) struct Keeper {
    env: Arc<Env>,
    wheel: Mutex<Wheel<Holder>>,
    changed: Notify,
    policy: PolicyToken,
}

/// Is a device's token, which the hub has, with its place in the wheel. Dropped, it is not renewed.
#[derive(Debug)]
pub(crate) struct Held {
    keeper: Arc<Keeper>,
    entry: Entry,
    put: Instant,
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.keeper.wheel).remove(&self.entry);
    }
}

impl Held {
    pub(crate) fn is(&self, serial: u64) -> bool {
        self.entry.serial == serial
    }

    /// How long the hub has had it.
    pub(crate) fn age(&self) -> Duration {
        self.put.elapsed()
    }

    /// When it is due to be renewed; none if nobody can.
    pub(crate) fn renewal_in(&self) -> Option<Duration> {
        let due = self.entry.due;
        let left = || due.saturating_duration_since(Instant::now());
        self.entry.lapses.map(|_| left())
    }
}

impl Keeper {
    pub(crate) fn new(env: &Arc<Env>) -> Arc<Self> {
        let config = &env.config.tokens;
        let wheel = Wheel::new(config.per_second, config.in_flight, Instant::now());
        Arc::new(Self {
            env: env.clone(),
            wheel: Mutex::new(wheel),
            changed: Notify::new(),
            policy: PolicyToken::default(),
        })
    }

    fn insert(&self, entry: Entry, holder: Holder) {
        if lock(&self.wheel).insert(entry, holder) {
            self.changed.notify_one();
        }
    }

    /// The place of a token that was put just now.
    fn entry(&self, signed: Signed, can_renew: bool) -> Entry {
        let lapses = signed.at + signed.life;
        Entry {
            serial: self.env.serial(),
            due: match can_renew {
                true => signed.at + self.env.config.tokens.some_renewal(signed.life),
                false => lapses,
            },
            lapses: can_renew.then_some(lapses),
        }
    }

    /// Sees to a device's token from now on, unless it was to renew one that another has replaced.
    pub(crate) fn hold(
        self: &Arc<Self>,
        device: &Arc<Device>,
        signed: Signed,
        can_renew: bool,
        renews: Option<u64>,
    ) {
        let entry = self.entry(signed, can_renew);
        self.replace(device, entry, signed.at, renews);
    }

    fn replace(
        self: &Arc<Self>,
        device: &Arc<Device>,
        entry: Entry,
        put: Instant,
        renews: Option<u64>,
    ) {
        self.insert(entry, Holder::Device(Arc::downgrade(device)));
        let held = Held {
            keeper: self.clone(),
            entry,
            put,
        };
        // Whichever does not stay leaves the wheel as it is dropped.
        drop(device.set_token(held, renews));
    }

    /// Renews what is due, until the connection is down.
    pub(crate) async fn run(
        self: Arc<Self>,
        connection: Weak<Connection>,
        down: CancellationToken,
    ) {
        let mut renewing = FuturesUnordered::new();
        loop {
            let next = lock(&self.wheel).next(Instant::now());
            let at = match next {
                Next::Renew(serial, lapses, holder) => {
                    renewing.push(self.renew(&connection, serial, lapses, holder));
                    continue;
                }
                Next::Lapsed(serial, Holder::Device(device)) => {
                    self.lapsed(serial, device).await;
                    continue;
                }
                Next::Lapsed(_, Holder::Policy) => continue,
                Next::At(at) => Some(at),
                Next::Idle => None,
            };
            let due = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = down.cancelled() => return,
                Some(()) = renewing.next() => lock(&self.wheel).done(),
                () = self.changed.notified() => {}
                () = due => {}
            }
        }
    }

    async fn renew(
        self: &Arc<Self>,
        connection: &Weak<Connection>,
        serial: u64,
        lapses: Instant,
        holder: Holder,
    ) {
        let Some(connection) = connection.upgrade() else {
            return;
        };
        let turn = Turn::default();
        let ask = Ask::renewal(&self.env, serial, lapses, &turn);
        match holder {
            Holder::Policy => self.renew_policy(&connection, ask, serial, lapses).await,
            Holder::Device(device) => {
                let Some(device) = device.upgrade().filter(|device| device.has_token(serial))
                else {
                    return;
                };
                if let Err(error) = renew(&self.env, &connection, &device, ask).await {
                    self.failed(&device, serial, lapses, &error);
                }
            }
        }
    }

    /// Tries again later. Even a refusal ends nobody's session before the hub does: until the token
    /// lapses there may be a newer credential, and then the device has to come back anyway.
    fn failed(
        self: &Arc<Self>,
        device: &Arc<Device>,
        serial: u64,
        lapses: Instant,
        error: &AmqpError,
    ) {
        let now = Instant::now();
        let left = lapses.saturating_duration_since(now);
        match error.is_passing() {
            true => {
                tracing::debug!(device.id = %device.id, error = %error, ?left, "Token not renewed yet")
            }
            false => {
                tracing::warn!(device.id = %device.id, error = %error, ?left, "Token not renewed")
            }
        }
        let due = now + again(left);
        let signs = !matches!(device.wish().identity.credential, Credential::SasToken(_));
        let entry = match signs || due < lapses {
            true => Entry {
                serial: self.env.serial(),
                due,
                lapses: Some(lapses),
            },
            // It ends with the token that it has.
            false => Entry {
                serial: self.env.serial(),
                due: lapses,
                lapses: None,
            },
        };
        if let Some(put) = device.token(|token| token.put) {
            self.replace(device, entry, put, Some(serial));
        }
    }

    /// Ends a session whose token nobody can renew.
    async fn lapsed(self: &Arc<Self>, serial: u64, device: Weak<Device>) {
        let Some(device) = device.upgrade().filter(|device| device.has_token(serial)) else {
            return;
        };
        let Credential::SasToken(token) = device.wish().identity.credential else {
            return;
        };
        match token.expires().duration_since(SystemTime::now()) {
            // The two clocks differ, or one was set.
            Ok(life) if !life.is_zero() => {
                let at = Instant::now();
                self.hold(&device, Signed { at, life }, false, Some(serial));
            }
            _ => self.env.tell(Event::Expired(device)).await,
        }
    }
}
