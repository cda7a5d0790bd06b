//! The record of accepted telemetry that tests and benchmarks read.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::watch;

use super::stamps::Stamps;
use crate::ConnectionId;

/// How much of each accepted message is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RecordMode {
    /// Whole messages, all of them.
    #[default]
    Full,
    /// Whole messages, at least this many of the latest and at most twice as many.
    Recent(usize),
    /// Device, message id and time of arrival.
    Compact,
    /// Counts only.
    Count,
}

impl RecordMode {
    /// What is kept of a message.
    pub(crate) fn keep(self, message: Accepted) -> Option<Accepted> {
        match self {
            Self::Full | Self::Recent(_) => Some(message),
            Self::Compact => Some(Accepted {
                message_id: message.message_id,
                ..Accepted::bare(&message.device_id, message.enqueued, message.connection)
            }),
            Self::Count => None,
        }
    }
}

/// A telemetry message that the hub has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accepted {
    /// The device, as the hub knows it from link and token; `device/module` for a module.
    pub device_id: String,
    /// The message id; uuids hyphenated, numbers in decimal.
    pub message_id: Option<String>,
    /// The correlation id, written like the message id.
    pub correlation_id: Option<String>,
    /// The content type.
    pub content_type: Option<String>,
    /// The content encoding.
    pub content_encoding: Option<String>,
    /// The user id, as text.
    pub user_id: Option<String>,
    /// Message annotations that the device set, values as text.
    pub annotations: BTreeMap<String, String>,
    /// The body; empty in compact mode.
    pub body: Bytes,
    /// Application properties, values as text.
    pub properties: BTreeMap<String, String>,
    /// When the hub took it.
    pub enqueued: SystemTime,
    /// The connection it came over.
    pub connection: ConnectionId,
    /// Who sent it and how that was proved, as the hub writes it onto the message; none in compact
    /// mode.
    pub stamps: Option<Arc<Stamps>>,
}

impl Accepted {
    pub(crate) fn bare(device_id: &str, enqueued: SystemTime, connection: ConnectionId) -> Self {
        Self {
            device_id: device_id.to_owned(),
            message_id: None,
            correlation_id: None,
            content_type: None,
            content_encoding: None,
            user_id: None,
            annotations: BTreeMap::new(),
            body: Bytes::new(),
            properties: BTreeMap::new(),
            enqueued,
            connection,
            stamps: None,
        }
    }
}

impl Accepted {
    /// The size as the hub meters it, in bytes: body, system properties, names and values of
    /// application properties (Microsoft, "Create and read IoT Hub messages").
    pub(crate) fn size(&self) -> usize {
        let system = [
            &self.message_id,
            &self.correlation_id,
            &self.content_type,
            &self.content_encoding,
            &self.user_id,
        ];
        let texts = |map: &BTreeMap<String, String>| -> usize {
            map.iter()
                .map(|(name, value)| name.len() + value.len())
                .sum()
        };
        self.body.len()
            + system.into_iter().flatten().map(String::len).sum::<usize>()
            + texts(&self.properties)
    }
}

/// A handle on the record of accepted telemetry; clones share it.
#[derive(Debug, Clone)]
pub struct Record {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    mode: RecordMode,
    total: watch::Sender<u64>,
    accepted: Mutex<Vec<Accepted>>,
    devices: Mutex<HashMap<String, Arc<AtomicU64>>>,
}

impl Record {
    pub(crate) fn new(mode: RecordMode) -> Self {
        let (accepted, devices) = (Mutex::default(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                mode,
                total: watch::Sender::new(0),
                accepted,
                devices,
            }),
        }
    }

    pub(crate) fn mode(&self) -> RecordMode {
        self.inner.mode
    }

    /// The counter of a device, for a link to keep.
    pub(crate) fn counter(&self, device: &str) -> Arc<AtomicU64> {
        let mut devices = self
            .inner
            .devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match devices.get(device) {
            Some(counter) => Arc::clone(counter),
            None => Arc::clone(devices.entry(device.to_owned()).or_default()),
        }
    }

    /// Adds `count` messages, of which `kept` are what the mode keeps.
    pub(crate) fn add(&self, count: u64, kept: &mut Vec<Accepted>) {
        let mut accepted = self.lock();
        accepted.append(kept);
        if let RecordMode::Recent(least) = self.inner.mode
            && accepted.len() > 2 * least
        {
            let surplus = accepted.len() - least;
            accepted.drain(..surplus);
        }
        drop(accepted);
        self.inner.total.send_modify(|total| *total += count);
    }

    /// Returns the accepted messages that are kept, in the order of acceptance per device.
    ///
    /// Empty in [`RecordMode::Count`].
    #[must_use]
    pub fn accepted(&self) -> Vec<Accepted> {
        self.lock().clone()
    }

    /// Removes and returns the messages; counts stay as they are.
    #[must_use]
    pub fn take(&self) -> Vec<Accepted> {
        std::mem::take(&mut *self.lock())
    }

    /// Forgets all messages and starts counting at zero.
    pub fn clear(&self) {
        self.lock().clear();
        let devices = self
            .inner
            .devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for counter in devices.values() {
            counter.store(0, Ordering::Relaxed);
        }
        self.inner.total.send_replace(0);
    }

    /// Counts the accepted messages.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.inner.total.borrow()
    }

    /// Counts the accepted messages of one device.
    #[must_use]
    pub fn count_of(&self, device: &str) -> u64 {
        let devices = self
            .inner
            .devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        devices
            .get(device)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Waits until at least `count` messages are accepted.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn wait_for(&self, count: u64) {
        let mut total = self.inner.total.subscribe();
        // The sender lives as long as `self`.
        drop(total.wait_for(|total| *total >= count).await);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Accepted>> {
        self.inner
            .accepted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recent_record_keeps_the_latest_and_counts_all() {
        let record = Record::new(RecordMode::Recent(3));
        for number in 0..100 {
            let mut message = Accepted::bare("d", SystemTime::UNIX_EPOCH, ConnectionId(1));
            message.message_id = Some(number.to_string());
            record.add(1, &mut vec![message]);
        }
        assert_eq!(record.count(), 100);
        let kept = record.accepted();
        assert!((3..=6).contains(&kept.len()));
        assert_eq!(
            kept.last().and_then(|m| m.message_id.as_deref()),
            Some("99")
        );
    }
}
