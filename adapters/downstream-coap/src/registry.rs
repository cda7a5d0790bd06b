//! Which socket's task speaks with a device.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
#[derive(Debug)]
pub(crate) enum Order {
    /// Brings something to a device.
    /// On the heap, since every task keeps room for some orders, and there are few.
    Deliver(Box<Delivery>),
    /// The hub ended a device's session.
    End(SessionEnd),
    /// Another task may have claimed the device.
    Leave(DeviceId),
}

/// Where a device's commands go.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) places: Arc<Semaphore>,
    /// The device has asked for something there; else it was only heard.
    is_firm: AtomicBool,
    /// When it did so last.
    asked: Mutex<Option<Instant>>,
    is_lost: AtomicBool,
}

impl Seat {
    fn asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether the device has asked for something there since then.
    pub(crate) fn was_asked_since(&self, since: Instant) -> bool {
        self.asked().is_some_and(|asked| asked > since)
    }
}

/// The devices that listen, each at one socket.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<DeviceId, Arc<Seat>>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, Arc<Seat>>> {
        // The map is whole between statements, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, device: &DeviceId) -> Option<Arc<Seat>> {
        self.lock().get(device).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

/// A task's claim to speak with a device; dropped, it is given up.
///
/// A device may come to more than one task: from several ports, with and without a session, or
/// because its address has changed. The task at which it last asked for something has it, be that an
/// observation or a wait; a task that has merely heard it does not take it from there.
#[derive(Debug)]
pub(crate) struct Claim {
    registry: Arc<Registry>,
    device: DeviceId,
    seat: Arc<Seat>,
}

impl Claim {
    /// Speaks with the device from now on, unless the device was merely heard here and has asked for
    /// something elsewhere; `asked` tells when it did here. The task that spoke with it is told.
    pub(crate) fn take(
        registry: Arc<Registry>,
        device: DeviceId,
        orders: mpsc::Sender<Order>,
        max_waiting: usize,
        asked: Option<Instant>,
    ) -> Option<Self> {
        let is_firm = asked.is_some();
        let seat = Arc::new(Seat {
            orders,
            places: Arc::new(Semaphore::new(max_waiting)),
            is_firm: AtomicBool::new(is_firm),
            asked: Mutex::new(asked),
            is_lost: AtomicBool::new(false),
        });
        let mut seats = registry.lock();
        if !is_firm
            && seats
                .get(&device)
                .is_some_and(|seat| seat.is_firm.load(Relaxed))
        {
            return None;
        }
        let older = seats.insert(device.clone(), seat.clone());
        if let Some(older) = &older {
            older.is_lost.store(true, Relaxed);
        }
        drop(seats);
        if let Some(older) = older {
            // A task with that much to do finds out when it looks at the device next.
            drop(older.orders.try_send(Order::Leave(device.clone())));
        }
        Some(Self {
            registry,
            device,
            seat,
        })
    }

    /// Says that the device asked for something here then, though it may come about only now.
    pub(crate) fn ask(&self, at: Instant) {
        let mut asked = self.seat.asked();
        *asked = (*asked).max(Some(at));
        drop(asked);
        self.hold(true);
    }

    /// Says whether the device has asked for something here, and still wants it.
    pub(crate) fn hold(&self, is_firm: bool) {
        self.seat.is_firm.store(is_firm, Relaxed);
    }

    /// Tells whether another task speaks with the device by now.
    pub(crate) fn is_lost(&self) -> bool {
        self.seat.is_lost.load(Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut seats = self.registry.lock();
        let is_ours = |seat: &Arc<Seat>| Arc::ptr_eq(seat, &self.seat);
        if seats.get(&self.device).is_some_and(is_ours) {
            seats.remove(&self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Bench(Arc<Registry>, DeviceId);

    impl Bench {
        fn new() -> Self {
            Self(Arc::default(), DeviceId::new("dev1").unwrap())
        }

        fn claim(&self, is_firm: bool) -> (Option<Claim>, mpsc::Receiver<Order>) {
            let (orders, told) = mpsc::channel(1);
            let asked = is_firm.then(Instant::now);
            let claim = Claim::take(self.0.clone(), self.1.clone(), orders, 1, asked);
            (claim, told)
        }
    }

    #[test]
    fn the_claim_taken_last_stands_and_the_one_before_is_told() {
        let bench = Bench::new();
        let (older, mut told) = bench.claim(true);
        let (newer, mut untold) = bench.claim(true);
        let (older, newer) = (older.unwrap(), newer.unwrap());
        assert!(matches!(told.try_recv(), Ok(Order::Leave(_))));
        assert!(older.is_lost() && !newer.is_lost());
        drop(older);
        assert!(Arc::ptr_eq(&bench.0.find(&bench.1).unwrap(), &newer.seat));
        assert!(untold.try_recv().is_err());
        drop(newer);
        assert_eq!(bench.0.len(), 0);
    }

    #[test]
    fn who_has_merely_heard_a_device_leaves_it_to_whom_it_has_asked() {
        let bench = Bench::new();
        let asked = bench.claim(true).0.unwrap();
        assert!(bench.claim(false).0.is_none());
        let before = Instant::now() - Duration::from_secs(1);
        assert!(asked.seat.was_asked_since(before) && !asked.seat.was_asked_since(Instant::now()));
        asked.hold(false);
        assert!(bench.claim(false).0.is_some());
        assert!(asked.is_lost());
    }
}
