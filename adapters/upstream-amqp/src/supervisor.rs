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

use crate::attach::{authorize, bring_up, schedule};
use crate::device::{Device, Link};
use crate::env::{Env, Event, lock};
use crate::error::AmqpError;
use crate::pool::Pool;

/// Tokens renewed side by side. Over 50 ms that is 320 a second: a million devices in an hour.
const RENEWING: usize = 16;
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
                event = self.events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
            };
            match event {
                Event::TokenDue(device, at) => drop(tokens.insert_at(device, at)),
                Event::LaneLost(lane) => {
                    let mut lost: Vec<_> = lock(&self.registry)
                        .values()
                        .filter(|d| d.is_on(lane))
                        .cloned()
                        .collect();
                    lost.sort_by_key(|device| std::cmp::Reverse(device.active()));
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
            let bring_back = async {
                if let Ok(_turn) = turns.acquire().await {
                    Box::pin(bring_back(&env, &pool, &device, link)).await;
                }
            };
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
) {
    for failures in 0.. {
        match bring_up(env, pool, device, &mut link).await {
            Ok(()) => return,
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
        Link::Up(attached) => attached.place.connection().await,
        // Whoever brings it back puts a fresh token.
        _ => return,
    };
    let renewed = match connection {
        Ok(connection) => authorize(&env, &connection, &device, &credential).await,
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
