//! The devices that the hub knows through us.

mod attach;
mod attachment;
mod backlog;
mod desired;
mod judge;
mod leave;
mod standing;
mod table;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::UpstreamError;
use crate::id::DeviceId;
use crate::lock::lock;
use backlog::Backlog;
pub(crate) use backlog::{Batch, Place};
use judge::Judging;
pub(crate) use leave::SWEEPS_PER_TTL;
use standing::Standing;
pub use table::SessionStats;
pub(crate) use table::SessionTable;

/// Which downstream last saw a device, by its place in the gateway's list.
pub(crate) type Route = u32;
const NO_ROUTE: Route = Route::MAX;

/// One device. There may be millions, so what is rare is boxed, and nothing is allocated apart.
#[derive(Debug)]
struct Session {
    device: DeviceId,
    /// A fair lock: whoever holds it is the device's only sender, which keeps uplinks in order over
    /// retries and makes any number of parallel attaches one.
    gate: Semaphore,
    /// Locked for a look, by anybody; changed only by whoever holds the gate.
    standing: Mutex<Standing>,
    backlog: Mutex<Option<Box<Backlog>>>,
    /// When it was last used, in milliseconds of the table's clock.
    used: AtomicU64,
    /// Users that came in and have not left; while there are any, the session stays.
    busy: AtomicU32,
    route: AtomicU32,
    /// The number of the last announcement, so that an older connection's end does not unsubscribe a
    /// newer one.
    presence: AtomicU32,
    judging: Judging,
    /// The newest version of the desired properties on its way to the device since it came online,
    /// or since the hub ended its session.
    desired: AtomicU64,
    online: AtomicBool,
    /// Never taken by the hub yet, or refused by it when it last came.
    is_stranger: AtomicBool,
}

impl Session {
    fn new(device: DeviceId) -> Self {
        Self {
            device,
            gate: Semaphore::new(1),
            standing: Mutex::default(),
            backlog: Mutex::default(),
            used: AtomicU64::new(0),
            busy: AtomicU32::new(0),
            route: AtomicU32::new(NO_ROUTE),
            presence: AtomicU32::new(0),
            judging: Judging::default(),
            desired: AtomicU64::new(0),
            online: AtomicBool::new(false),
            is_stranger: AtomicBool::new(false),
        }
    }

    fn may_go(&self) -> bool {
        self.busy.load(Relaxed) == 0 && !self.online.load(Relaxed)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }

    async fn gate(&self) -> Gate<'_> {
        Gate {
            session: self,
            // Never closed.
            _permit: self.gate.acquire().await.ok(),
        }
    }
}

/// Is the right to act for a device, one at a time.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    session: &'a Session,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Gate<'_> {
    /// The number of the last attach that the hub accepted.
    pub(crate) fn last_attach(&self) -> u64 {
        self.session.standing().attach
    }

    /// Notes that the hub does not know the device any more.
    pub(crate) fn forget(&self) {
        self.session.standing().forget();
    }

    /// Remembers why a message was not accepted.
    pub(crate) fn fail(&self, error: &UpstreamError) {
        self.session.standing().fail(error);
    }
}

/// Keeps a session in the table while somebody works with it.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Session>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Busy {
    fn enter(session: &Arc<Session>) -> Self {
        session.busy.fetch_add(1, Relaxed);
        Self(session.clone())
    }

    /// Waits for its turn with the device.
    pub(crate) async fn gate(&self) -> Gate<'_> {
        self.0.gate().await
    }

    /// Takes its turn if nobody else has it or waits for it.
    pub(crate) fn try_gate(&self) -> Option<Gate<'_>> {
        let permit = self.0.gate.try_acquire().ok()?;
        // One that waits need not stand at the gate yet: a task that has used up its budget of steps is
        // kept from it.
        let is_first = lock(&self.0.backlog).is_none();
        is_first.then_some(Gate {
            session: &self.0,
            _permit: Some(permit),
        })
    }

    /// Sets the route of a device that has none.
    pub(crate) fn claim_route(&self, route: Route) {
        let claimed = (self.0.route).compare_exchange(NO_ROUTE, route, Relaxed, Relaxed);
        // Who fails finds the route set.
        claimed.ok();
    }

    pub(crate) fn set_route(&self, route: Route) {
        if self.0.route.load(Relaxed) != route {
            self.0.route.store(route, Relaxed);
        }
    }
}
