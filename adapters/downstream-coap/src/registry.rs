//! Which socket's task speaks with a device.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_core::{DeviceId, Downlink, ErrorKind, MethodReply, SessionEnd};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// How far a downlink came.
#[derive(Debug)]
pub(crate) enum Brought {
    /// The device acknowledged it.
    Confirmed,
    /// It was sent, and nobody can tell whether it arrived.
    Unconfirmed,
    /// The device's own server answered.
    Answered(MethodReply),
}

/// A downlink on its way to a device. Dropped, it counts as disconnected.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) downlink: Downlink,
    /// Names a method in its answer.
    pub(crate) request: Option<String>,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Brought, ErrorKind>>,
    /// Its place among the device's commands.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl Delivery {
    /// Tells whoever waits how it ended, if they still wait.
    pub(crate) fn end(self, outcome: Result<Brought, ErrorKind>) {
        drop(self.reply.send(outcome));
    }
}

/// What a socket's task is told to do.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are deliveries, which a box would cost an allocation each"
)]
#[derive(Debug)]
pub(crate) enum Order {
    /// Brings something to a device.
    Deliver(Delivery),
    /// The hub ended a device's session.
    End(SessionEnd),
    /// The device speaks with another socket now.
    Leave { device: DeviceId, number: u64 },
}

/// Where a device's commands go.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    number: u64,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) places: Arc<Semaphore>,
}

/// The devices that listen, each at one socket.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    seats: Mutex<HashMap<DeviceId, Seat>>,
    numbers: AtomicU64,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Seat>> {
        // The map is whole between statements, whoever panicked.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, device: &DeviceId) -> Option<Seat> {
        self.lock().get(device).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A task's claim to speak with a device; dropped, it is given up.
#[derive(Debug)]
pub(crate) struct Claim {
    registry: Arc<Registry>,
    device: DeviceId,
    number: u64,
}

impl Claim {
    /// Speaks with the device from now on; the task that did is told.
    pub(crate) fn take(
        registry: Arc<Registry>,
        device: DeviceId,
        orders: mpsc::Sender<Order>,
        max_waiting: usize,
    ) -> Self {
        let number = registry.numbers.fetch_add(1, Relaxed);
        let seat = Seat {
            number,
            orders,
            places: Arc::new(Semaphore::new(max_waiting)),
        };
        let older = registry.lock().insert(device.clone(), seat);
        if let Some(older) = older {
            let order = Order::Leave {
                device: device.clone(),
                number: older.number,
            };
            // A task with that much to do finds out at the next probe.
            drop(older.orders.try_send(order));
        }
        Self {
            registry,
            device,
            number,
        }
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut seats = self.registry.lock();
        let is_ours = |seat: &Seat| seat.number == self.number;
        if seats.get(&self.device).is_some_and(is_ours) {
            seats.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_taken_last_stands_and_the_one_before_is_told() {
        let registry = Arc::new(Registry::default());
        let device = DeviceId::new("dev1").unwrap();
        let claim = |orders| Claim::take(registry.clone(), device.clone(), orders, 1);
        let (older_orders, mut told) = mpsc::channel(1);
        let (newer_orders, mut untold) = mpsc::channel(1);
        let older = claim(older_orders);
        let newer = claim(newer_orders);
        let Ok(Order::Leave { number, .. }) = told.try_recv() else {
            panic!("the older one was not told");
        };
        assert_eq!(number, older.number());
        drop(older);
        assert_eq!(registry.find(&device).unwrap().number, newer.number());
        assert!(untold.try_recv().is_err());
        drop(newer);
        assert_eq!(registry.len(), 0);
    }
}
