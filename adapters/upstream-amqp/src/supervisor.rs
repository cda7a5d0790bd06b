//! Brings back what was lost, ends what the hub ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use gateway_core::{DeviceId, ErrorKind, SessionEnd};
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::time::DelayQueue;

use crate::attach::{bring_up, lose_link, subscribe, watch};
use crate::authorize::newer;
use crate::client::LinkId;
use crate::device::{Device, Link};
use crate::env::{Env, Event, lock};
use crate::error::AmqpError;
use crate::pool::Pool;

/// The wait before a device in use is taken back to a shared lane.
const HOME_AGAIN: Duration = Duration::from_secs(5);
/// Newer credentials that a device is tried with before its session is ended.
const NEWER: usize = 3;

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

impl Supervisor {
    pub(crate) async fn run(mut self) {
        let mut suspects = DelayQueue::<Weak<Device>>::new();
        loop {
            let event = tokio::select! {
                () = self.env.closing.cancelled() => return,
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
                Event::Suspect(device, until) => drop(suspects.insert_at(device, until)),
                Event::LaneLost(lane, mut lost) => {
                    sort(&mut lost);
                    tracing::warn!(lane, count = lost.len(), "Bringing devices back");
                    self.spawn(recover(
                        self.env.clone(),
                        self.pool.clone(),
                        lost,
                        Some(lane),
                    ));
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
                Event::Ended(device, ErrorKind::Unauthorized)
                    if device.wish().identity.can_renew() =>
                {
                    self.spawn(prove_again(self.env.clone(), self.pool.clone(), device));
                }
                Event::Ended(device, reason) => {
                    let judge = {
                        let device = device.clone();
                        move |link: &Link| {
                            is_detached(link).then(|| device.wish().identity.session_end(reason))
                        }
                    };
                    self.spawn(end(self.registry.clone(), device, judge));
                }
                Event::Expired(device) => {
                    let judge = {
                        let device = device.clone();
                        move |_: &Link| {
                            let lapsed = device.wish().identity.has_lapsed(Duration::ZERO);
                            lapsed.then(|| SessionEnd::expired(device.id.clone()))
                        }
                    };
                    self.spawn(end(self.registry.clone(), device, judge));
                }
                Event::Over(device, reason) => {
                    let judge = {
                        let device = device.clone();
                        // Unless somebody who waited for it has attached it anew.
                        move |link: &Link| {
                            let is_over = matches!(link, Link::Ended);
                            is_over.then(|| device.wish().identity.session_end(reason))
                        }
                    };
                    self.spawn(end(self.registry.clone(), device, judge));
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

impl Drop for Supervisor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("The supervisor has failed: no lost device is brought back any more");
        }
    }
}

/// Puts those first that are to come back first. What they rank by changes while they are sorted, so
/// each is looked at once.
fn sort(lost: &mut [Arc<Device>]) {
    lost.sort_by_cached_key(|device| device.priority());
}

/// Takes over the link of a lost device and drops what is left of it. None if it has come up elsewhere,
/// or has been ended.
fn take(
    device: &Device,
    mut link: OwnedMutexGuard<Link>,
    lane: Option<u64>,
) -> Option<OwnedMutexGuard<Link>> {
    let is_lost = match (&*link, lane) {
        (Link::New | Link::Ended, _) => false,
        (_, Some(lane)) => device.is_on(lane),
        (link, None) => matches!(link, Link::Down(_)),
    };
    is_lost.then(|| {
        link.lose();
        device.set_lane(0);
        link
    })
}

/// Brings devices back, those first that come first.
///
/// All links that are at hand are dropped before the first comes back, so that what was unsettled
/// fails at once; until a device is back, its new uplinks wait for its link. A link that somebody else
/// has in hand holds up its own device alone.
async fn recover(env: Arc<Env>, pool: Arc<Pool>, lost: Vec<Arc<Device>>, lane: Option<u64>) {
    let at_hand = lost.into_iter().map(|device| {
        let link = device.link.clone().try_lock_owned();
        let link = link.map(|link| take(&device, link, lane));
        (device, link)
    });
    let lost: Vec<_> = at_hand.collect();
    let turns = Semaphore::new(env.config.pool.recovering);
    stream::iter(lost)
        .for_each_concurrent(None, async |(device, link)| {
            let link = match link {
                Ok(link) => link,
                Err(_) => take(&device, device.link.clone().lock_owned().await, lane),
            };
            let Some(link) = link else { return };
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
    let (mut newer, mut failures) = (0, 0);
    loop {
        let tried = {
            let Ok(_turn) = turns.acquire().await else {
                return;
            };
            restore(env, pool, device, &mut link).await
        };
        match tried {
            Ok(()) => return,
            Err(AmqpError::Held(hold)) if hold.kind.is_retryable() => {
                let wait = hold.wait;
                tracing::info!(device.id = %device.id, ?wait, "Device held back");
                *link = Link::Held(Instant::now() + wait, hold.kind);
                // Its messages are answered meanwhile.
                drop(link);
                sleep(wait).await;
                link = device.link.clone().lock_owned().await;
                if !matches!(*link, Link::Held(..)) {
                    return;
                }
                *link = Link::Down(None);
            }
            Err(error) => {
                let error = match error.kind() {
                    ErrorKind::Unauthorized if newer < NEWER => match adopt(env, device).await {
                        Ok(true) => {
                            newer += 1;
                            continue;
                        }
                        Ok(false) => error,
                        Err(unknown) => unknown,
                    },
                    _ => error,
                };
                if error.is_passing() {
                    let wait = match error {
                        // It was not tried, and has not failed.
                        AmqpError::NotYet(due) => due,
                        _ => {
                            let wait = env.config.pool.reconnect.delay(failures);
                            failures += 1;
                            wait
                        }
                    };
                    tracing::debug!(device.id = %device.id, error = %error, ?wait, "Not back yet");
                    sleep(wait).await;
                    continue;
                }
                tracing::warn!(device.id = %device.id, error = %error, "Device did not come back");
                *link = Link::Ended;
                drop(link);
                env.tell(Event::Over(device.clone(), error.kind())).await;
                return;
            }
        }
    }
}

/// Brings up a device as it was attached last.
async fn restore(
    env: &Arc<Env>,
    pool: &Arc<Pool>,
    device: &Arc<Device>,
    link: &mut Link,
) -> Result<(), AmqpError> {
    let identity = device.wish().identity;
    bring_up(env, pool, device, &identity, link).await?;
    subscribe(env, device, link);
    Ok(())
}

/// Takes a newer credential for a device, if there is one.
async fn adopt(env: &Env, device: &Device) -> Result<bool, AmqpError> {
    let identity = device.wish().identity;
    let newer = newer(env, &identity).await?;
    Ok(newer.is_some_and(|newer| {
        device.adopt(&identity.credential, newer.credential);
        true
    }))
}

/// Takes a device that has been good back to a shared lane, when nothing is on its way.
async fn go_home(env: Arc<Env>, pool: Arc<Pool>, device: Arc<Device>) {
    device.set_watched(false);
    let later = Instant::now() + HOME_AGAIN;
    if let Some(until) = env.suspect_until(&device.id) {
        return watch(&env, &device, until.max(later));
    }
    let Ok(mut link) = device.link.try_lock() else {
        return watch(&env, &device, later);
    };
    let Link::Up(attached) = &*link else { return };
    if !attached.lane.is_own {
        return;
    }
    if device.is_busy() || attached.commands.has_in_hand() {
        return watch(&env, &device, later);
    }
    let moved = tokio::select! {
        biased;
        () = device.gone() => return,
        moved = restore(&env, &pool, &device, &mut link) => moved,
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
        lose_link(&env, &device, &mut link, &error.into());
    }
}

/// Tells whether the hub has detached the device and it is not back since.
fn is_detached(link: &Link) -> bool {
    match link {
        Link::Up(attached) => attached.commands.has_ended(),
        Link::Down(_) => true,
        Link::New | Link::Held(..) | Link::Ended => false,
    }
}

/// Brings back a device that the hub detached as unauthorized, though there may be another token for
/// it: that one may have lapsed, by the hub's clock or because a renewal failed. What the hub says to
/// a fresh one decides.
async fn prove_again(env: Arc<Env>, pool: Arc<Pool>, device: Arc<Device>) {
    {
        let mut link = device.link.lock().await;
        if !is_detached(&link) {
            return;
        }
        link.lose();
        if let Link::Down(Some(place)) = &*link
            && let Ok(connection) = place.connection(&device).await
        {
            connection.keeper().doubt_policy(ErrorKind::Unauthorized);
        }
    }
    recover(env, pool, vec![device], None).await;
}

/// Ends a device's session, as the hub has done, and tells whoever attached it, if there is a notice
/// to give once nobody else has the device in hand.
async fn end(
    registry: Arc<Registry>,
    device: Arc<Device>,
    judge: impl FnOnce(&Link) -> Option<SessionEnd>,
) {
    let notice = {
        let mut link = device.link.lock().await;
        let Some(notice) = judge(&link) else { return };
        *link = Link::Ended;
        device.set_lane(0);
        // Before the next one has the link: who attaches the device then begins anew.
        device.set_gone();
        if !remove(&registry, &device) {
            // Detached: nobody waits for this end.
            return;
        }
        notice
    };
    tracing::info!(
        device.id = %device.id,
        reason = %notice.reason,
        detail = notice.detail,
        "The hub ended a device's session"
    );
    device.wish().callback.on_end(notice).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::device::Wish;
    use gateway_core::testkit::RecordingCallback;
    use gateway_core::{Credential, DeviceIdentity};

    fn device(name: &str) -> Arc<Device> {
        let id = DeviceId::new(name).unwrap();
        Arc::new(Device::new(Wish {
            identity: DeviceIdentity::new(id, Credential::Vouched),
            callback: RecordingCallback::new().shared(),
        }))
    }

    #[test]
    fn devices_that_send_while_they_are_sorted_do_not_confuse_it() {
        let devices: Vec<_> = (0..62).map(|n| device(&format!("device-{n}"))).collect();
        std::thread::scope(|threads| {
            let sorting = threads.spawn(|| (0..5000).for_each(|_| sort(&mut devices.clone())));
            for count in 0.. {
                for (n, device) in (0..).zip(&devices) {
                    let _busy = (count % 3 == 0).then(|| device.engage());
                    device.set_active((count * 7919 + n * 104_729) % 64);
                }
                if sorting.is_finished() {
                    break;
                }
            }
        });
    }
}
