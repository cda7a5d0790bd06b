//! Brings back what was lost, renews tokens, ends what the hub ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use gateway_core::{Credential, DeviceId, ErrorKind, SessionEnd};
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::time::DelayQueue;

use crate::attach::{authorize, bring_up, lose_link, schedule, watch};
use crate::client::LinkId;
use crate::device::{Device, Link};
use crate::door::Turn;
use crate::env::{Env, Event, lock};
use crate::error::AmqpError;
use crate::governor::{Class, Operation, Priority};
use crate::pool::Pool;

/// Tokens renewed side by side. Over 50 ms that is 320 a second: a million devices in an hour.
const RENEWING: usize = 16;
/// The wait before a device in use is taken back to a shared lane.
const HOME_AGAIN: Duration = Duration::from_secs(5);
/// The wait before a token that could not be renewed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// The devices that are attached, by id.
pub(crate) type Registry = Mutex<HashMap<DeviceId, Arc<Device>>>;

/// Takes a device out of the registry. False if it is not there, or another by its name is.
pub(crate) fn remove(registry: &Registry, device: &Arc<Device>) -> bool {
    let mut registry = lock(registry);
    let is_current = registry
        .get(&device.id)
        .is_some_and(|current| Arc::ptr_eq(current, device));
    if is_current {
        registry.remove(&device.id);
    }
    is_current
}

pub(crate) struct Supervisor {
    pub(crate) env: Arc<Env>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) events: mpsc::Receiver<Event>,
}

type Held = (Arc<Device>, OwnedMutexGuard<Link>);

impl Supervisor {
    pub(crate) async fn run(mut self) {
        let mut tokens = DelayQueue::<Weak<Device>>::new();
        let mut suspects = DelayQueue::<Weak<Device>>::new();
        let renewing = Arc::new(Semaphore::new(RENEWING));
        loop {
            let event = tokio::select! {
                () = self.env.closing.cancelled() => return,
                Some(due) = tokens.next() => {
                    let due = due.into_inner();
                    match due.upgrade().map(|device| (device.take_token_due(), device)) {
                        Some((Ok(()), device)) => {
                            self.spawn(renew(self.env.clone(), device, renewing.clone()));
                        }
                        // It has a younger token by now.
                        Some((Err(later), _)) => drop(tokens.insert_at(due, later)),
                        None => {}
                    }
                    continue;
                }
                Some(due) = suspects.next() => {
                    if let Some(device) = due.into_inner().upgrade() {
                        self.spawn(go_home(self.env.clone(), self.pool.clone(), device));
                    }
                    continue;
                }
                event = self.events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
            };
            match event {
                Event::TokenDue(device, at) => drop(tokens.insert_at(device, at)),
                Event::Suspect(device, until) => drop(suspects.insert_at(device, until)),
                Event::LaneLost(lane) => {
                    let mut lost: Vec<_> = lock(&self.registry)
                        .values()
                        .filter(|d| d.is_on(lane))
                        .cloned()
                        .collect();
                    lost.sort_by_key(|device| device.priority());
                    if !lost.is_empty() {
                        tracing::warn!(lane, count = lost.len(), "Bringing devices back");
                        self.spawn(recover(
                            self.env.clone(),
                            self.pool.clone(),
                            lost,
                            Some(lane),
                        ));
                    }
                }
                Event::LinkDetached(device, link) => {
                    self.spawn(detached(self.env.clone(), device, link));
                }
                Event::LinkLost(device) => {
                    self.spawn(recover(
                        self.env.clone(),
                        self.pool.clone(),
                        vec![device],
                        None,
                    ));
                }
                Event::Ended(device, reason) => {
                    let registry = self.registry.clone();
                    self.spawn(end(registry, device, reason));
                }
            }
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.env.closing.clone();
        self.env.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Brings devices back, those first that come first.
///
/// All links are taken and dropped before the first comes back, so that what was unsettled fails
/// at once; until a device is back, its new uplinks wait for its link.
async fn recover(env: Arc<Env>, pool: Arc<Pool>, lost: Vec<Arc<Device>>, lane: Option<u64>) {
    let take = lost.into_iter().map(async |device| {
        let mut link = device.link.clone().lock_owned().await;
        // It may have come up elsewhere, or have been ended, before this had its turn.
        let is_lost = match (&*link, lane) {
            (Link::Ended, _) => false,
            (_, Some(lane)) => device.is_on(lane),
            (link, None) => matches!(link, Link::Down(_)),
        };
        is_lost.then(|| {
            link.lose();
            device.set_lane(0);
            (device, link)
        })
    });
    let held: Vec<Held> = join_all(take).await.into_iter().flatten().collect();
    let turns = Semaphore::new(env.config.pool.recovering);
    stream::iter(held)
        .for_each_concurrent(None, async |(device, link)| {
            let _missing = env.progress.missing();
            let bring_back = Box::pin(bring_back(&env, &pool, &device, link, &turns));
            tokio::select! {
                biased;
                // Whoever detaches it waits for its link.
                () = device.gone() => {}
                () = bring_back => {}
            }
        })
        .await;
}

async fn bring_back(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    mut link: OwnedMutexGuard<Link>,
    turns: &Semaphore,
) {
    for failures in 0.. {
        let tried = {
            let Ok(_turn) = turns.acquire().await else {
                return;
            };
            bring_up(env, pool, device, &mut link).await
        };
        match tried {
            Ok(()) => return,
            Err(AmqpError::Held { wait, kind }) if kind.is_retryable() => {
                tracing::info!(device.id = %device.id, ?wait, "Device held back");
                *link = Link::Held(Instant::now() + wait, kind);
                // Its messages are answered meanwhile.
                drop(link);
                sleep(wait).await;
                link = device.link.clone().lock_owned().await;
                if !matches!(*link, Link::Held(..)) {
                    return;
                }
            }
            Err(error) if error.is_passing() => {
                let wait = env.config.pool.reconnect.delay(failures);
                let wait = match error {
                    AmqpError::NotYet(due) => wait.max(due),
                    _ => wait,
                };
                tracing::debug!(device.id = %device.id, error = %error, ?wait, "Not back yet");
                sleep(wait).await;
            }
            Err(error) => {
                let reason = error.kind();
                tracing::warn!(device.id = %device.id, error = %error, "Device did not come back");
                *link = Link::Ended;
                drop(link);
                env.tell(Event::Ended(device.clone(), reason)).await;
                return;
            }
        }
    }
}

/// Takes a device that has been good back to a shared lane, when nothing is on its way.
async fn go_home(env: Arc<Env>, pool: Arc<Pool>, device: Arc<Device>) {
    device.set_watched(false);
    let later = Instant::now() + HOME_AGAIN;
    if let Some(until) = env.breakers.suspect_until(&device.id) {
        return watch(&env, &device, until.max(later)).await;
    }
    let Ok(mut link) = device.link.try_lock() else {
        return watch(&env, &device, later).await;
    };
    if !matches!(&*link, Link::Up(attached) if attached.lane.is_own) {
        return;
    }
    if device.is_busy() {
        return watch(&env, &device, later).await;
    }
    let moved = tokio::select! {
        biased;
        () = device.gone() => return,
        moved = bring_up(&env, &pool, &device, &mut link) => moved,
    };
    if let Err(error) = moved {
        tracing::debug!(device.id = %device.id, error = %error, "Device lost on its way");
        env.tell(Event::LinkLost(device.clone())).await;
    }
}

/// Takes note of a telemetry link that the hub detached, unless the device has another by now.
async fn detached(env: Arc<Env>, device: Arc<Device>, id: LinkId) {
    let mut link = device.link.lock().await;
    if let Link::Up(attached) = &*link
        && attached.sender.id() == id
        && let Some(error) = attached.sender.end()
    {
        lose_link(&env, &device, &mut link, &error.into()).await;
    }
}

/// Ends a device's session, as the hub has done, and tells whoever attached it.
async fn end(registry: Arc<Registry>, device: Arc<Device>, reason: ErrorKind) {
    {
        let mut link = device.link.lock().await;
        *link = Link::Ended;
        device.set_lane(0);
    }
    device.set_gone();
    if !remove(&registry, &device) {
        // Detached or attached anew since: nobody waits for this end.
        return;
    }
    tracing::info!(device.id = %device.id, reason = %reason, "The hub ended a device's session");
    let notice = SessionEnd::new(device.id.clone(), reason);
    device.wish().callback.on_end(notice).await;
}

/// Renews a device's token in place, or ends the session of a device whose own token has lapsed.
async fn renew(env: Arc<Env>, device: Arc<Device>, renewing: Arc<Semaphore>) {
    let Ok(_permit) = renewing.acquire().await else {
        return;
    };
    if device.is_gone() {
        return;
    }
    let credential = device.wish().identity.credential;
    if let Credential::SasToken(token) = &credential {
        if token.expires() <= SystemTime::now() + Duration::from_secs(1) {
            env.tell(Event::Ended(device, ErrorKind::Unauthorized))
                .await;
        }
        return;
    }
    let connection = match &*device.link.lock().await {
        Link::Up(attached) => attached.place.connection(&device).await,
        // Whoever brings it back puts a fresh token.
        _ => return,
    };
    let renewed = match connection {
        Ok(connection) => {
            let priority = Priority::new(Class::Standing, device.active());
            env.door
                .pass(Operation::Token, priority, &Turn::default())
                .await;
            authorize(&env, &connection, &device, &credential).await
        }
        Err(error) => Err(error),
    };
    match renewed {
        Ok(()) => {}
        Err(error) if error.is_passing() => {
            tracing::debug!(device.id = %device.id, error = %error, "Token not renewed yet");
            schedule(&env, &device, Instant::now() + RENEW_AGAIN).await;
        }
        Err(error) => {
            tracing::warn!(device.id = %device.id, error = %error, "Token not renewed");
            env.tell(Event::Ended(device, error.kind())).await;
        }
    }
}
