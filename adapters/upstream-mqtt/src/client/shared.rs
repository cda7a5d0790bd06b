//! One connection's state behind its lock, and what the holders of the connection and its driver
//! tell each other.

use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{Inbox, Incoming, Receipt};
use super::state::{Arrived, State};
use crate::error::MqttError;

/// What the holders of a connection share with its driver.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Told when there is something to write.
    pub(super) output: Notify,
    /// Ends the connection from our side.
    pub(super) end: CancellationToken,
    is_orderly: AtomicBool,
    /// Tells that it has ended.
    pub(super) down: CancellationToken,
    reason: OnceLock<Arc<MqttError>>,
}

/// What gathers and waits is what devices say: it stays out of sight.
impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("is_down", &self.down.is_cancelled())
            .field("reason", &self.reason.get())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            output: Notify::new(),
            end: CancellationToken::new(),
            is_orderly: AtomicBool::new(false),
            down: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    /// Locks what is whole between statements, whoever panicked.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the state, then has written and woken what came of it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = work(&mut state);
        let wake = std::mem::take(&mut state.wake);
        let has_output = !state.out.is_empty();
        drop(state);
        wake.wake();
        if has_output {
            self.output.notify_one();
        }
        result
    }

    /// Works on what was read, and hands messages to the inbox; tells whether more may be read.
    pub(super) fn on_bytes(
        self: &Arc<Self>,
        buffer: &mut BytesMut,
        inbox: &dyn Inbox,
    ) -> Result<bool, MqttError> {
        let mut arrived = Vec::new();
        let now = Instant::now();
        let worked = self.with(|state| state.on_bytes(buffer, now, &mut arrived));
        for Arrived { received, arrival } in arrived {
            inbox.on_publish(Incoming {
                topic: received.topic,
                payload: received.payload,
                retain: received.retain,
                duplicate: received.duplicate,
                properties: received.properties,
                is_cut: received.is_cut,
                receipt: Receipt::new(self, arrival),
            });
        }
        worked
    }

    /// Waits until messages have room again.
    pub(super) async fn room(&self) {
        poll_fn(|cx| self.lock().poll_room(cx.waker(), Instant::now())).await;
    }

    /// Takes all that is to be written.
    pub(super) fn take_output(&self, empty: BytesMut) -> BytesMut {
        self.lock().take_output(empty, Instant::now())
    }

    pub(super) fn is_orderly(&self) -> bool {
        self.is_orderly.load(Ordering::Acquire)
    }

    /// Ends the connection for a reason of ours.
    pub(super) fn end_for(&self, reason: MqttError) {
        self.reason.get_or_init(|| Arc::new(reason));
        self.end.cancel();
    }

    /// Ends the connection with DISCONNECT.
    pub(super) fn end_in_order(&self) {
        self.is_orderly.store(true, Ordering::Release);
        self.end_for(MqttError::Closed);
    }

    /// Why the connection ends.
    pub(super) fn reason(&self) -> Option<Arc<MqttError>> {
        self.reason.get().cloned()
    }

    /// Fails everything, unless that was done before.
    pub(super) fn conclude(&self, reason: MqttError) {
        self.reason.get_or_init(|| Arc::new(reason));
        self.with(State::fail);
        self.down.cancel();
    }
}

/// A connection for as long as it is driven.
pub(super) struct Served(pub(super) Arc<Shared>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.conclude(MqttError::Down);
    }
}
