//! Which connection speaks for a device.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gateway_core::{Delivered, DeviceId, Downlink, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::proto::CloseReason;

/// What a device made of a downlink.
pub(crate) type Outcome = Result<Delivered, ErrorKind>;

/// A downlink on its way to a connection. Dropped unanswered, it counts as disconnected.
///
/// It goes in a box, since every connection has a channel, and every channel room for 32 of them.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) downlink: Downlink,
    pub(crate) reply: oneshot::Sender<Outcome>,
    pub(crate) deadline: tokio::time::Instant,
}

/// Tells a connection to stop, and why.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<CloseReason>>,
}

impl Stop {
    /// Makes one that stops by itself when the gateway shuts down.
    pub(crate) fn new(shutdown: &CancellationToken) -> Self {
        Self {
            token: shutdown.child_token(),
            reason: Arc::default(),
        }
    }

    fn stop(&self, reason: CloseReason) {
        // The first reason stands.
        self.reason.get_or_init(|| reason);
        self.token.cancel();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(crate) async fn stopped(&self) -> CloseReason {
        self.token.cancelled().await;
        self.reason.get().copied().unwrap_or(CloseReason::Shutdown)
    }
}

#[derive(Debug, Clone)]
struct Seat {
    number: u64,
    deliveries: mpsc::Sender<Box<Delivery>>,
    stop: Stop,
}

/// The connections of identified devices, one for each.
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

    pub(crate) fn find(&self, device: &DeviceId) -> Option<mpsc::Sender<Box<Delivery>>> {
        self.lock().get(device).map(|seat| seat.deliveries.clone())
    }

    /// Stops the device's connection; false if it has none.
    pub(crate) fn stop(&self, device: &DeviceId, reason: CloseReason) -> bool {
        let seat = self.lock().get(device).cloned();
        seat.map(|seat| seat.stop.stop(reason)).is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A connection's claim to speak for a device; dropped, it is given up.
#[derive(Debug)]
pub(crate) struct Claim {
    registry: Arc<Registry>,
    device: DeviceId,
    seat: Seat,
}

impl Claim {
    /// Prepares to speak for a device. If nobody does, its commands wait here from now on, so that
    /// none is lost between the hub's consent and [`take`](Self::take).
    pub(crate) fn new(
        registry: Arc<Registry>,
        device: DeviceId,
        deliveries: mpsc::Sender<Box<Delivery>>,
        stop: Stop,
    ) -> Self {
        let number = registry.numbers.fetch_add(1, Relaxed);
        let seat = Seat {
            number,
            deliveries,
            stop,
        };
        if let Entry::Vacant(vacant) = registry.lock().entry(device.clone()) {
            vacant.insert(seat.clone());
        }
        Self {
            registry,
            device,
            seat,
        }
    }

    /// Speaks for the device from now on; an older connection is told to stop.
    pub(crate) fn take(&self) {
        let older = self
            .registry
            .lock()
            .insert(self.device.clone(), self.seat.clone());
        if let Some(older) = older.filter(|older| older.number != self.seat.number) {
            older.stop.stop(CloseReason::Replaced);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut seats = self.registry.lock();
        if seats
            .get(&self.device)
            .is_some_and(|seat| seat.number == self.seat.number)
        {
            seats.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn claim(registry: &Arc<Registry>) -> (Claim, Stop, mpsc::Receiver<Box<Delivery>>) {
        let (sender, receiver) = mpsc::channel(1);
        let stop = Stop::new(&CancellationToken::new());
        let device = DeviceId::new("dev1").unwrap();
        (
            Claim::new(registry.clone(), device, sender, stop.clone()),
            stop,
            receiver,
        )
    }

    /// Whether this receiver is the one that the device's commands go to.
    fn hears(registry: &Registry, receiver: &mpsc::Receiver<Box<Delivery>>) -> bool {
        let sender = registry.find(&DeviceId::new("dev1").unwrap());
        let before = receiver.sender_strong_count();
        drop(sender);
        receiver.sender_strong_count() < before
    }

    #[test]
    fn a_claim_without_a_verdict_gets_commands_only_where_nobody_else_does() {
        let registry = Arc::new(Registry::default());
        let (first, first_stop, first_receiver) = claim(&registry);
        assert!(hears(&registry, &first_receiver));
        first.take();
        let (second, _, second_receiver) = claim(&registry);
        assert!(hears(&registry, &first_receiver) && !hears(&registry, &second_receiver));
        drop(second);
        assert!(hears(&registry, &first_receiver));
        assert_eq!(first_stop.stopped().now_or_never(), None);
    }

    #[test]
    fn the_claim_taken_last_stands_and_the_one_before_is_stopped() {
        let registry = Arc::new(Registry::default());
        let (first, first_stop, _) = claim(&registry);
        first.take();
        let (second, second_stop, second_receiver) = claim(&registry);
        second.take();
        assert_eq!(
            first_stop.stopped().now_or_never(),
            Some(CloseReason::Replaced)
        );
        drop(first);
        assert!(hears(&registry, &second_receiver));
        assert_eq!(second_stop.stopped().now_or_never(), None);
        drop(second);
        assert_eq!(registry.len(), 0);
    }
}
