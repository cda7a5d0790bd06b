//! What every part of one upstream shares.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gateway_core::DeviceId;
use gateway_core::governor::{Breakers, Door, Operation, Priority, Progress, Reach, Turn};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::MqttHubConfig;
use super::device::Device;
use super::error::HubError;
use super::takeover::Closings;
use crate::client::Transport;
use crate::lock::lock;

/// The devices that are attached, by id.
pub(super) type Registry = Mutex<HashMap<DeviceId, Arc<Device>>>;

/// Counts what became of things, since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Messages to devices that were refused, and acknowledged all the same.
    pub(super) rejected: AtomicU64,
    /// Messages to devices that were not acknowledged.
    pub(super) abandoned: AtomicU64,
    /// Commands dropped because too many waited.
    pub(super) dropped: AtomicU64,
    /// Methods without an answer in time.
    pub(super) late: AtomicU64,
    /// Connections that took the place of another.
    pub(super) replaced: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Env {
    pub(super) config: MqttHubConfig,
    pub(super) transport: Transport,
    /// Owns every task; none outlives its connection or, in the end, `closing`.
    pub(super) tasks: TaskTracker,
    pub(super) closing: CancellationToken,
    pub(super) registry: Registry,
    /// One budget for all that the hub is asked for.
    pub(super) door: Door,
    pub(super) reach: Reach,
    pub(super) progress: Progress,
    pub(super) breakers: Breakers,
    pub(super) closings: Closings,
    pub(super) counters: Counters,
    /// Connections that may be opened side by side.
    pub(super) connecting: Semaphore,
    lines: AtomicU64,
}

impl Env {
    pub(super) fn new(config: MqttHubConfig, transport: Transport) -> Self {
        Self {
            door: Door::new(&config.budget.whole()),
            reach: Reach::new(config.reconnect.backoff),
            progress: Progress::default(),
            breakers: Breakers::new(&config.breaker),
            closings: Closings::default(),
            counters: Counters::default(),
            connecting: Semaphore::new(config.reconnect.at_once),
            config,
            transport,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            registry: Registry::default(),
            lines: AtomicU64::new(1),
        }
    }

    /// Waits until the hub may be asked for something, unless the upstream closes: then nobody is let
    /// through any more.
    ///
    /// Cancel safe.
    pub(super) async fn pass(
        &self,
        operation: Operation,
        priority: Priority,
        turn: &Turn,
    ) -> Result<(), HubError> {
        tokio::select! {
            biased;
            () = self.door.pass(operation, priority, turn) => Ok(()),
            () = self.closing.cancelled() => Err(HubError::Closed),
        }
    }

    /// The next connection's number, from 1.
    pub(super) fn line_number(&self) -> u64 {
        self.lines.fetch_add(1, Relaxed)
    }

    pub(super) fn find(&self, device: &DeviceId) -> Option<Arc<Device>> {
        lock(&self.registry).get(device).cloned()
    }

    /// Takes a device out of the registry. False if it is not there, or another by its name is.
    pub(super) fn remove(&self, device: &Arc<Device>) -> bool {
        let mut registry = lock(&self.registry);
        let is_current = registry
            .get(&device.id)
            .is_some_and(|current| Arc::ptr_eq(current, device));
        if is_current {
            registry.remove(&device.id);
        }
        is_current
    }
}
