//! What every part of one upstream shares.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gateway_core::governor::{Breakers, Door, Operation, Progress};
use gateway_core::{DeviceId, ErrorKind};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::LinkId;
use crate::commands::Counters;
use crate::config::AmqpConfig;
use crate::device::Device;
use crate::error::AmqpError;
use crate::transport::Transport;

/// Tells the supervisor what only it can mend.
#[derive(Debug)]
pub(crate) enum Event {
    /// A lane is gone; its devices need another.
    LaneLost(u64, Vec<Arc<Device>>),
    /// A device's telemetry link is gone.
    LinkLost(Arc<Device>),
    /// The hub detached a device's telemetry link.
    LinkDetached(Arc<Device>, LinkId),
    /// The hub ended a device's session for this reason.
    Ended(Arc<Device>, ErrorKind),
    /// The token that a device presented has lapsed.
    Expired(Arc<Device>),
    /// A device's session is over for this reason: the hub does not take it back.
    Over(Arc<Device>, ErrorKind),
    /// A device may leave its own lane at this time, if it is good until then.
    Suspect(Weak<Device>, Instant),
}

#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) config: AmqpConfig,
    pub(crate) transport: Transport,
    /// Owns every task; none outlives its connection or, in the end, `closing`.
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
    pub(crate) events: mpsc::Sender<Event>,
    /// One budget for all that the hub is asked for.
    pub(crate) door: Door,
    pub(crate) progress: Progress,
    pub(crate) breakers: Breakers,
    pub(crate) counters: Counters,
    serial: AtomicU64,
    connections: AtomicU64,
    lanes: AtomicU64,
    seed: u32,
}

impl Env {
    pub(crate) fn new(
        config: AmqpConfig,
        transport: Transport,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            door: Door::new(&config.budget),
            progress: Progress::default(),
            breakers: Breakers::new(&config.breaker),
            counters: Counters::default(),
            config,
            transport,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            events,
            serial: AtomicU64::new(1),
            connections: AtomicU64::new(1),
            lanes: AtomicU64::new(1),
            // Names need to differ between processes, not to be secret.
            seed: getrandom::u32().unwrap_or_default(),
        }
    }

    /// Notes that the hub detached a link of a device, if the device is to blame.
    pub(crate) fn note_detach(&self, device: &Device, error: &AmqpError) {
        if error.blames_device() {
            let credential = device.wish().identity.credential;
            self.breakers
                .detached(&device.id, &credential, error.kind());
        }
    }

    /// When a device that is to have a lane of its own may go back to the others.
    pub(crate) fn suspect_until(&self, device: &DeviceId) -> Option<Instant> {
        self.breakers
            .suspect_until(device, self.config.pool.own_lane_after)
    }

    /// Waits until the hub may be asked for this on behalf of a device.
    ///
    /// Cancel safe.
    pub(crate) async fn pass(&self, operation: Operation, device: &Device) {
        let priority = device.priority();
        self.door.pass(operation, priority, &device.turn).await;
    }

    /// A number that this upstream has not used before.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.fetch_add(1, Relaxed)
    }

    /// The next connection's number, from 1.
    pub(crate) fn connection_number(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// The next lane's number, from 1, counted over all connections.
    pub(crate) fn lane_number(&self) -> u64 {
        self.lanes.fetch_add(1, Relaxed)
    }

    /// A name for a link or container: unique per session, as AMQP 1.0 section 2.6.1 asks.
    pub(crate) fn name(&self, prefix: &str, purpose: &str) -> String {
        let serial = self.serial();
        format!("{prefix}-{purpose}-{:08x}-{:x}", self.seed, serial)
    }

    /// Tells the supervisor. Lost only when the upstream itself is gone.
    pub(crate) async fn tell(&self, event: Event) {
        drop(self.events.send(event).await);
    }

    /// Tells the supervisor without waiting for room: nobody who is dropped meanwhile takes it along.
    pub(crate) fn tell_soon(&self, event: Event) {
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            let events = self.events.clone();
            self.tasks
                .spawn(async move { drop(events.send(event).await) });
        }
    }
}

/// Locks what is whole between statements, whoever panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
