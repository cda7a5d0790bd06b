//! Keeps the tokens of one connection fresh: a wheel, a task, and nothing more for a device than its
//! entry.

mod policy;

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use gateway_core::Credential;
use gateway_core::credential::Renewals;
use gateway_core::governor::Turn;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::authorize::{Ask, Signed, renew};
use crate::connection::Connection;
use crate::device::Device;
use crate::env::{Env, Event, lock};
use crate::error::AmqpError;
use crate::wheel::{Due, Entry, Next, Wheel};
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
                true => signed.at + self.env.config.tokens.renewals().by_chance(signed.life),
                false => lapses,
            },
            lapses: can_renew.then_some(lapses),
            is_again: false,
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
        let held = Held {
            keeper: self.clone(),
            entry,
            put,
        };
        let gone = device.change_token(|current| {
            let is_renewed = |current: &Held| renews.is_none_or(|serial| current.is(serial));
            if !current.as_ref().is_none_or(is_renewed) {
                return Some(held);
            }
            self.insert(entry, Holder::Device(Arc::downgrade(device)));
            current.replace(held)
        });
        // It leaves the wheel, if it was there.
        drop(gone);
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
                Next::Renew(due, holder) => {
                    renewing.push(self.renew(&connection, due, holder));
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
                Some(due) = renewing.next() => lock(&self.wheel).done(due),
                () = self.changed.notified() => {}
                () = due => {}
            }
        }
    }

    async fn renew(
        self: &Arc<Self>,
        connection: &Weak<Connection>,
        due: Due,
        holder: Holder,
    ) -> Due {
        let turn = Turn::default();
        let ask = Ask::renewal(&self.env, &due, &turn);
        match (connection.upgrade(), holder) {
            (Some(connection), Holder::Policy) => self.renew_policy(&connection, ask, &due).await,
            (Some(connection), Holder::Device(device)) => {
                let has_token = |device: &Arc<Device>| device.has_token(due.serial);
                if let Some(device) = device.upgrade().filter(has_token)
                    && let Err(error) = renew(&self.env, &connection, &device, ask).await
                {
                    self.failed(&device, &due, &error);
                }
            }
            (None, _) => {}
        }
        due
    }

    /// Tries again later. Even a refusal ends nobody's session before the hub does: until the token
    /// lapses there may be a newer credential, and then the device has to come back anyway.
    fn failed(self: &Arc<Self>, device: &Arc<Device>, due: &Due, error: &AmqpError) {
        let id = &device.id;
        let entry = self.entry_again(due);
        match error.is_passing() {
            true => tracing::debug!(device.id = %id, error = %error, "Token not renewed yet"),
            false => tracing::info!(device.id = %id, error = %error, "Token not renewed"),
        }
        let signs = !matches!(device.wish().identity.credential, Credential::SasToken(_));
        let entry = match signs || entry.due < due.lapses {
            true => entry,
            // It ends with the token that it has.
            false => Entry {
                due: due.lapses,
                lapses: None,
                ..entry
            },
        };
        if let Some(put) = device.token(|token| token.put) {
            self.replace(device, entry, put, Some(due.serial));
        }
    }

    /// The place of a token whose renewal failed.
    fn entry_again(&self, due: &Due) -> Entry {
        let now = Instant::now();
        Entry {
            serial: self.env.serial(),
            due: now + Renewals::again(due.lapses.saturating_duration_since(now)),
            lapses: Some(due.lapses),
            is_again: true,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AmqpConfig;
    use crate::device::Wish;
    use crate::transport::Transport;
    use gateway_core::credential::SymmetricKey;
    use gateway_core::testkit::RecordingCallback;
    use gateway_core::{DeviceId, DeviceIdentity};
    use tokio::sync::mpsc;

    fn keeper() -> Arc<Keeper> {
        let config = AmqpConfig::new("hub.example").with_tls(false);
        let transport = Transport::new(&config).unwrap();
        let (events, _) = mpsc::channel(1);
        Keeper::new(&Arc::new(Env::new(config, transport, events)))
    }

    fn device() -> Arc<Device> {
        let key = SymmetricKey::from_base64("a2V5").unwrap();
        let id = DeviceId::new("device").unwrap();
        Arc::new(Device::new(Wish {
            identity: DeviceIdentity::new(id, Credential::DeviceKey(key.into())),
            callback: RecordingCallback::new().shared(),
        }))
    }

    fn is_empty(keeper: &Keeper) -> bool {
        matches!(lock(&keeper.wheel).next(Instant::now()), Next::Idle)
    }

    #[tokio::test]
    async fn a_device_that_goes_or_moves_leaves_nothing_behind() {
        let (here, there) = (keeper(), keeper());
        let signed = Signed {
            at: Instant::now(),
            life: Duration::from_secs(60),
        };
        let moved = device();
        here.hold(&moved, signed, true, None);
        assert!(!is_empty(&here));
        there.hold(&moved, signed, true, None);
        assert!(is_empty(&here) && !is_empty(&there));
        moved.set_gone();
        assert!(is_empty(&there));
        let dropped = device();
        here.hold(&dropped, signed, true, None);
        drop(dropped);
        assert!(is_empty(&here));
    }

    #[tokio::test]
    async fn a_renewal_that_comes_too_late_does_not_replace_what_came_meanwhile() {
        let keeper = keeper();
        let device = device();
        let signed = |life| Signed {
            at: Instant::now(),
            life: Duration::from_secs(life),
        };
        keeper.hold(&device, signed(60), true, None);
        let old = device.token(|token| token.entry.serial).unwrap();
        keeper.hold(&device, signed(5), false, None);
        let new = device.token(|token| token.entry).unwrap();
        keeper.hold(&device, signed(60), true, Some(old));
        assert_eq!(device.token(|token| token.entry), Some(new));
        assert_eq!(device.token(Held::renewal_in), Some(None), "it ends");
        drop(device);
        assert!(is_empty(&keeper));
    }
}
