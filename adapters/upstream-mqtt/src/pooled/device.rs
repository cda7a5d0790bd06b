use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gateway_core::{CloudCallback, DeviceId, ErrorKind, Interest, LastError};
use tokio::time::Instant;

use super::desired::Standing;
use crate::error::MqttError;
use crate::lock::lock;

/// What whoever attached a device wants.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) interest: Interest,
    pub(super) callback: Arc<dyn CloudCallback>,
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wish")
            .field("interest", &self.interest)
            .finish_non_exhaustive()
    }
}

/// A device that is attached.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    /// The connection that everything of it goes over, by its place in the pool.
    pub(super) line: usize,
    pub(super) wish: Mutex<Wish>,
    /// Whether answers about its twin are subscribed to.
    pub(super) hears_twin: AtomicBool,
    /// The version of the desired properties that it was given last since it began to listen to them;
    /// 0 if it has none.
    pub(super) desired: AtomicU64,
    /// What of its desired properties it missed.
    pub(super) standing: Mutex<Standing>,
    in_flight: AtomicUsize,
    last_error: Mutex<Option<(Instant, ErrorKind, String)>>,
}

/// Counts messages of a device as in flight.
#[derive(Debug)]
pub(super) struct InFlight<'a> {
    device: &'a Device,
    count: usize,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.device.in_flight.fetch_sub(self.count, Relaxed);
    }
}

impl Device {
    pub(super) fn new(id: DeviceId, line: usize, wish: Wish) -> Self {
        Self {
            id,
            line,
            wish: Mutex::new(wish),
            hears_twin: AtomicBool::new(false),
            desired: AtomicU64::new(0),
            standing: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            last_error: Mutex::new(None),
        }
    }

    pub(super) fn interest(&self) -> Interest {
        lock(&self.wish).interest
    }

    pub(super) fn send(&self, count: usize) -> InFlight<'_> {
        self.in_flight.fetch_add(count, Relaxed);
        InFlight {
            device: self,
            count,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn note_error(&self, error: &MqttError) {
        *lock(&self.last_error) = Some((Instant::now(), error.kind(), error.to_string()));
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        let last = lock(&self.last_error);
        let (at, kind, text) = last.as_ref()?;
        Some(LastError::new(*kind, text.clone(), at.elapsed()))
    }
}
