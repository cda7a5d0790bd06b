//! How far a run has come: counted by devices, read by everybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::watch;

use crate::plan::Plan;

/// Steps in which those who wait learn how many messages are settled.
const STEPS: u64 = 1000;
/// Longer waits count as this long.
const LONGEST: Duration = Duration::from_secs(3600);

/// Counts one kind of event.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub(crate) fn add(&self) {
        self.next();
    }

    /// Counts one more and returns how many there are now.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Is what has happened so far.
#[derive(Debug)]
pub(crate) struct Progress {
    total: u64,
    /// Devices welcomed for the first time.
    pub(crate) welcomed: watch::Sender<u64>,
    /// Messages sent for the first time.
    pub(crate) sent: Counter,
    pub(crate) acked: Counter,
    /// Messages refused for good.
    pub(crate) refused: Counter,
    settled: Counter,
    told: watch::Sender<u64>,
    pub(crate) c2d_sent: Counter,
    pub(crate) c2d_completed: Counter,
    pub(crate) methods_called: Counter,
    pub(crate) methods_answered: Counter,
    /// From a message's first byte out to its acknowledgement in, in microseconds.
    latency: Mutex<Histogram<u64>>,
    complaint: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new(plan: &Plan) -> anyhow::Result<Self> {
        Ok(Self {
            total: plan.total(),
            welcomed: watch::Sender::new(0),
            sent: Counter::default(),
            acked: Counter::default(),
            refused: Counter::default(),
            settled: Counter::default(),
            told: watch::Sender::new(0),
            c2d_sent: Counter::default(),
            c2d_completed: Counter::default(),
            methods_called: Counter::default(),
            methods_answered: Counter::default(),
            latency: Mutex::new(Histogram::new_with_max(LONGEST.as_micros() as u64, 3)?),
            complaint: Mutex::default(),
        })
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn acknowledge(&self, latency: Duration) {
        lock(&self.latency).saturating_record(latency.as_micros() as u64);
        self.acked.add();
        self.settle();
    }

    pub(crate) fn refuse(&self) {
        self.refused.add();
        self.settle();
    }

    fn settle(&self) {
        let settled = self.settled.next();
        if settled.is_multiple_of(self.total.div_ceil(STEPS)) || settled == self.total {
            // Not for every message: each time wakes those who wait.
            self.told.send_if_modified(|told| {
                let is_later = settled > *told;
                *told = settled.max(*told);
                is_later
            });
        }
    }

    /// Waits until about `count` messages are acknowledged or refused; all of them exactly.
    pub(crate) async fn settled(&self, count: u64) {
        let mut told = self.told.subscribe();
        // The sender lives as long as `self`.
        drop(told.wait_for(|told| *told >= count).await);
    }

    /// Waits until `count` devices were welcomed.
    pub(crate) async fn all_welcomed(&self, count: u32) {
        let mut welcomed = self.welcomed.subscribe();
        drop(
            welcomed
                .wait_for(|welcomed| *welcomed >= u64::from(count))
                .await,
        );
    }

    /// Messages that wait for their acknowledgement now.
    pub(crate) fn in_flight(&self) -> u64 {
        let settled = self.settled.get();
        self.sent.get().saturating_sub(settled)
    }

    /// The time in milliseconds that a share of messages took at most; `None` before the first.
    pub(crate) fn latency_ms(&self, quantile: f64) -> Option<f64> {
        let latency = lock(&self.latency);
        (!latency.is_empty()).then(|| latency.value_at_quantile(quantile) as f64 / 1000.0)
    }

    /// Keeps what a device met last, for whoever asks why there is no progress.
    pub(crate) fn complain(&self, complaint: String) {
        *lock(&self.complaint) = Some(complaint);
    }

    pub(crate) fn complaint(&self) -> Option<String> {
        lock(&self.complaint).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
