//! One registered device and what the hub keeps for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use super::message::C2d;
use super::peer::Subscriber;
use super::queue::{C2dOutcome, Queue};
use super::registry::KeyPair;
use super::twin::Twin;
use crate::guid::random_bytes;

/// A device in the registry; what few devices use is made on first use.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) keys: KeyPair,
    pub(crate) enabled: bool,
    /// Changes when the device is removed and registered anew.
    pub(crate) generation: u64,
    /// Open links over all connections.
    pub(crate) links: u32,
    /// How often it came with its first link.
    pub(crate) attaches: u64,
    pub(crate) queue: Option<Box<Queue<QueuedC2d>>>,
    /// When the hub's clock next looks at the queue.
    pub(crate) armed: Option<Instant>,
    pub(crate) twin: Option<Box<Twin>>,
    /// Where its messages, method calls and desired properties go.
    pub(crate) messages: Option<Subscriber>,
    pub(crate) methods: Option<Subscriber>,
    pub(crate) desired: Option<Subscriber>,
}

impl Device {
    pub(crate) fn new(keys: KeyPair) -> Self {
        Self {
            keys,
            enabled: true,
            generation: u64::from_be_bytes(random_bytes()),
            links: 0,
            attaches: 0,
            queue: None,
            armed: None,
            twin: None,
            messages: None,
            methods: None,
            desired: None,
        }
    }

    pub(crate) fn slot(&mut self, feed: Feed) -> &mut Option<Subscriber> {
        match feed {
            Feed::Messages => &mut self.messages,
            Feed::Methods => &mut self.methods,
            Feed::Desired => &mut self.desired,
        }
    }
}

/// What a device can listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    Messages,
    Methods,
    Desired,
}

/// A cloud-to-device message in a queue.
#[derive(Debug)]
pub(crate) struct QueuedC2d {
    pub(crate) message: Arc<C2d>,
    pub(crate) enqueued: std::time::SystemTime,
    pub(crate) fate: Arc<Fate>,
}

/// What becomes of a message, shared with whoever sent it.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) deliveries: AtomicU32,
    pub(crate) outcome: watch::Sender<Option<C2dOutcome>>,
}

impl Fate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            deliveries: AtomicU32::new(0),
            outcome: watch::Sender::new(None),
        })
    }

    pub(crate) fn delivered(&self) {
        self.deliveries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn decide(&self, outcome: C2dOutcome) {
        self.outcome.send_replace(Some(outcome));
    }
}
