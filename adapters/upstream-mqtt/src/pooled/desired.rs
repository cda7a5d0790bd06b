//! Changes of desired properties on their way to devices, and all of them for a device that missed one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_core::{
    Backoff, CloudCallback, DesiredPatch, Disposition, Interest, TwinProperties, TwinRequest,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::device::Device;
use super::inbound::Command;
use super::pool::Pool;
use super::queues::{Admission, Order};
use super::verdict::verdict;
use crate::error::MqttError;
use crate::lock::lock;

/// The wait for room where many devices' twins are read again.
const ROOM: Duration = Duration::from_millis(100);
/// The wait before a device is looked at again whose connection or subscription is not there: it would
/// miss what changes behind its twin.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

const DESIRED: Interest = Interest::NONE.with_desired(true);

/// How a device stands with its desired properties.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// It missed something: single changes are of no use until it has been given all.
    is_behind: bool,
    /// All are on their way to it.
    is_reading: bool,
    /// How often it fell behind since it was last given all.
    failures: u32,
    /// When all are to be read for it.
    due: Option<Instant>,
}

impl Standing {
    /// Takes note that the device missed something.
    fn fall_behind(&mut self, backoff: &Backoff) {
        if !self.is_behind {
            self.is_behind = true;
            self.due = Some(Instant::now() + backoff.delay(self.failures));
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// When all are to be read, unless they are being.
    fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.is_behind && !self.is_reading)
    }
}

impl Pool {
    /// Takes note that a device missed a change of its desired properties: it is given all of them,
    /// where they can be read.
    pub(super) fn fall_behind(&self, device: &Device) {
        if self.topics.twin_get.is_some() {
            lock(&device.standing).fall_behind(&self.config.commands.retry);
            self.behind.notify_one();
        }
    }

    /// Takes note that a device begins to listen: it may have forgotten what it was given before, and
    /// what it missed waits for nothing else.
    pub(super) fn begin(&self, device: &Device) {
        device.desired.store(0, Relaxed);
        // What is being read may be from before it listened.
        let has_missed = {
            let standing = lock(&device.standing);
            standing.is_behind || standing.is_reading
        };
        if has_missed || self.has_retained.load(Relaxed) {
            self.fall_behind(device);
        }
    }

    /// Takes note that the broker has kept nothing for a connection, by its place.
    pub(super) fn all_fall_behind(&self, place: usize) {
        let devices: Vec<_> = lock(&self.devices).values().cloned().collect();
        for device in devices {
            let heard = self.filters(&device.id, device.line, DESIRED);
            if device.interest().desired && heard.iter().any(|(at, _)| *at == place) {
                self.fall_behind(&device);
            }
        }
    }

    /// Tells whether the broker gives a device's changes: what is read from then on lacks none.
    fn hears_desired(&self, device: &Device) -> bool {
        let heard = self.filters(&device.id, device.line, DESIRED);
        let is_granted =
            |(place, filter): &(usize, String)| self.lines[*place].filters.standing(filter).0;
        self.lines[device.line].is_up() && heard.iter().all(is_granted)
    }

    /// Has devices that missed something given all their desired properties, each when it is due.
    pub(super) async fn keep_up(self: Arc<Self>) {
        loop {
            let now = Instant::now();
            let mut due = Vec::new();
            let mut next: Option<Instant> = None;
            for device in lock(&self.devices).values() {
                let Some(at) = lock(&device.standing).due() else {
                    continue;
                };
                if !device.interest().desired {
                    continue;
                }
                let at = match at <= now {
                    true if self.hears_desired(device) => {
                        due.push(device.clone());
                        continue;
                    }
                    true => now + LOOK_AGAIN,
                    false => at,
                };
                next = Some(next.map_or(at, |next| next.min(at)));
            }
            for device in due {
                // Leaves room for what comes by itself.
                while self.queues.pending() > self.config.room() / 2 {
                    sleep(ROOM).await;
                }
                self.read(device);
            }
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.behind.notified() => {}
            }
        }
    }

    /// Gives a device all its desired properties, in its turn.
    fn read(self: &Arc<Self>, device: Arc<Device>) {
        lock(&device.standing).is_reading = true;
        let (pool, id) = (self.clone(), device.id.clone());
        let job = move |admission| match admission {
            Admission::Admitted => {
                let work: BoxFuture<'static, ()> = Box::pin(catch_up(pool, device));
                Some(work)
            }
            Admission::Refused => {
                pool.not_read(&device);
                None
            }
        };
        let patience = self.config.commands.patience;
        self.enqueue(&id, Order::InTurn, patience, Box::new(job));
    }

    /// All are to be read later.
    fn not_read(&self, device: &Device) {
        let mut standing = lock(&device.standing);
        (standing.is_reading, standing.is_behind) = (false, false);
        standing.fall_behind(&self.config.commands.retry);
        drop(standing);
        self.behind.notify_one();
    }
}

async fn catch_up(pool: Arc<Pool>, device: Arc<Device>) {
    // What the device misses from now on is not in what is read.
    lock(&device.standing).is_behind = false;
    match give_whole(&pool, &device).await {
        Ok(Disposition::Complete | Disposition::Reject) => {
            let mut standing = lock(&device.standing);
            standing.is_reading = false;
            match standing.is_behind {
                true => pool.behind.notify_one(),
                false => standing.failures = 0,
            }
        }
        Ok(Disposition::Abandon) => pool.not_read(&device),
        Err(error) => {
            tracing::warn!(device.id = %device.id, error = %error, count = 1, "Twin not read again");
            pool.not_read(&device);
        }
    }
}

/// Gives a device all its desired properties, as they are now.
async fn give_whole(pool: &Pool, device: &Device) -> Result<Disposition, MqttError> {
    #[derive(Deserialize)]
    struct Sections<'a> {
        #[serde(borrow)]
        desired: &'a RawValue,
    }
    let reply = pool.ask_twin(device, TwinRequest::Get).await?;
    let Ok(Sections { desired }) = serde_json::from_slice(&reply.body) else {
        return Err(MqttError::Invalid("what was answered is no twin".into()));
    };
    let desired = Bytes::copy_from_slice(desired.get().as_bytes());
    let callback = listener(pool, device).filter(|_| pool.is_attached(device));
    let Some(callback) = callback else {
        // It is still to be given them when it listens again.
        return Ok(Disposition::Abandon);
    };
    Ok(give(pool, device, &*callback, desired, None, true).await)
}

pub(super) fn take(pool: &Arc<Pool>, command: Command) {
    let id = command.device.clone();
    let pool_too = pool.clone();
    let job = move |admission| match admission {
        Admission::Admitted => {
            let work: BoxFuture<'static, ()> = Box::pin(async move {
                let lost = command.lost.clone();
                tokio::select! {
                    biased;
                    () = lost.cancelled() => {}
                    () = change(pool_too, command) => {}
                }
            });
            Some(work)
        }
        Admission::Refused => {
            let id = &command.device;
            tracing::warn!(device.id = %id, count = 1, "A change of desired properties did not fit");
            if let Some(device) = pool_too.find(id) {
                pool_too.fall_behind(&device);
            }
            command.receipt.acknowledge();
            None
        }
    };
    let patience = pool.config.commands.patience;
    pool.enqueue(&id, Order::InTurn, patience, Box::new(job));
}

/// Gives a device a change. What it misses is read for it with all the rest; where that cannot be, the
/// change is given again for as long as a message is.
async fn change(pool: Arc<Pool>, command: Command) {
    let commands = &pool.config.commands;
    let (until, can_read) = (
        Instant::now() + commands.keep,
        pool.topics.twin_get.is_some(),
    );
    let is_whole = command.retain || commands.desired_is_whole;
    let Command {
        inward, receipt, ..
    } = command;
    for failures in 0.. {
        let Some(device) = pool.find(&command.device) else {
            break;
        };
        if lock(&device.standing).is_behind && !is_whole {
            // It is in what will be read.
            break;
        }
        let Some(callback) = listener(&pool, &device) else {
            break;
        };
        let (body, version) = (inward.body.clone(), inward.version);
        let given = give(&pool, &device, &*callback, body, version, is_whole).await;
        if given != Disposition::Abandon {
            break;
        }
        let wait = commands.retry.delay(failures);
        if can_read {
            pool.fall_behind(&device);
            break;
        } else if Instant::now() + wait >= until {
            tracing::warn!(device.id = %device.id, count = 1, "Change of desired properties lost");
            break;
        }
        sleep(wait).await;
    }
    receipt.acknowledge();
}

fn listener(pool: &Pool, device: &Device) -> Option<Arc<dyn CloudCallback>> {
    pool.listener(&device.id, |interest| interest.desired)
}

/// Gives a device a change of its desired properties, unless it has it.
async fn give(
    pool: &Pool,
    device: &Device,
    callback: &dyn CloudCallback,
    body: Bytes,
    version: Option<u64>,
    is_whole: bool,
) -> Disposition {
    let id = &device.id;
    let version = match (version, TwinProperties::parse(&body)) {
        (Some(version), Ok(_)) => version,
        (None, Ok(properties)) => properties.version(),
        (_, Err(error)) => {
            pool.counters.unreadable.fetch_add(1, Relaxed);
            tracing::warn!(device.id = %id, error = %error, count = 1, "Unreadable change dropped");
            return Disposition::Reject;
        }
    };
    let last = device.desired.load(Relaxed);
    if version > 0 && (version == last || (version < last && !is_whole)) {
        return Disposition::Complete;
    }
    let mut patch = DesiredPatch::new(id.clone(), version, body);
    patch.is_whole = is_whole;
    let deadline = Instant::now() + pool.config.commands.verdict_timeout;
    let given = verdict(id, deadline, callback.on_desired(patch)).await;
    let given = given.unwrap_or_else(|silence| {
        pool.count(silence);
        Disposition::Abandon
    });
    if given != Disposition::Abandon {
        device.desired.store(version, Relaxed);
    }
    given
}
