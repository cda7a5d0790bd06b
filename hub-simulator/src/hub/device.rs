//! One registered device and what the hub keeps for it.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::identity;
use super::keys::KeyPair;
use super::message::C2d;
use super::peer::Subscriber;
use super::queue::{C2dOutcome, Queue};
use super::twin::Twin;
use crate::clock::Ticks;
use crate::guid::random_bytes;
use crate::mqtt::session::Session;
use crate::tls::Thumbprints;

/// A device or module in the registry; what few of them use is made on first use.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) auth: Auth,
    pub(crate) enabled: bool,
    /// When it was registered; tells it from one of the same name that was there before.
    pub(crate) generation: u64,
    /// Changes with every write; shown in base64.
    pub(crate) etag: u32,
    /// Open links over all connections.
    pub(crate) links: u32,
    /// How often it came with its first link.
    pub(crate) attaches: u64,
    /// Tokens of it that were taken over AMQP.
    pub(crate) tokens_put: u64,
    /// When it last came or went.
    pub(crate) connection_updated: Ticks,
    /// When it last did something else than send telemetry over AMQP.
    pub(crate) last_activity: Ticks,
    /// When it last sent telemetry over AMQP, in ticks, for its links to write.
    pub(crate) sent: Option<Arc<AtomicU64>>,
    pub(crate) details: Option<Box<Details>>,
    pub(crate) queue: Option<Box<Queue<QueuedC2d>>>,
    /// When the hub's clock next looks at the queue.
    pub(crate) armed: Option<Instant>,
    pub(crate) twin: Option<Box<Twin>>,
    pub(crate) mqtt: Option<Box<Session>>,
    /// Where its messages, method calls and desired properties go.
    pub(crate) messages: Option<Subscriber>,
    pub(crate) methods: Option<Subscriber>,
    pub(crate) desired: Option<Subscriber>,
    pub(crate) twin_link: Option<Subscriber>,
}

/// How a device shows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Auth {
    /// By tokens made with a key.
    Sas(KeyPair),
    /// By one of two certificates.
    SelfSigned(Box<RegisteredThumbprints>),
    /// By any certificate of an authority that the hub trusts.
    CertificateAuthority,
    /// Not at all: it cannot come.
    Nothing,
}

/// Hashes of a device's certificates in hexadecimal, as they were registered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct RegisteredThumbprints {
    pub(crate) primary: Option<String>,
    pub(crate) secondary: Option<String>,
}

impl RegisteredThumbprints {
    pub(crate) fn fit(&self, shown: &Thumbprints) -> bool {
        let own = [&self.primary, &self.secondary];
        own.into_iter().flatten().any(|own| shown.fits(own))
    }
}

/// What most devices have nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    pub(crate) status_reason: Option<String>,
    pub(crate) status_updated: Ticks,
    /// Of a module: what looks after it.
    pub(crate) managed_by: Option<String>,
    pub(crate) iot_edge: bool,
    pub(crate) device_scope: Option<String>,
    pub(crate) parent_scopes: Vec<String>,
}

impl Device {
    pub(crate) fn new(keys: KeyPair, created: Ticks) -> Self {
        Self {
            auth: Auth::Sas(keys),
            enabled: true,
            generation: created.0,
            etag: u32::from_be_bytes(random_bytes()) >> 2,
            links: 0,
            attaches: 0,
            tokens_put: 0,
            connection_updated: Ticks::default(),
            last_activity: Ticks::default(),
            sent: None,
            details: None,
            queue: None,
            armed: None,
            twin: None,
            mqtt: None,
            messages: None,
            methods: None,
            desired: None,
            twin_link: None,
        }
    }

    /// The keys, if it has any.
    pub(crate) fn keys(&self) -> Option<&KeyPair> {
        match &self.auth {
            Auth::Sas(keys) => Some(keys),
            _ => None,
        }
    }

    /// The entity tag: a number in base64.
    pub(crate) fn etag_text(&self) -> String {
        BASE64.encode(self.etag.to_string())
    }

    /// The number in an entity tag.
    pub(crate) fn etag_number(etag: &str) -> Option<u32> {
        String::from_utf8(BASE64.decode(etag).ok()?)
            .ok()?
            .parse()
            .ok()
    }

    pub(crate) fn status(&self) -> &'static str {
        if self.enabled { "enabled" } else { "disabled" }
    }

    pub(crate) fn status_updated(&self) -> Ticks {
        let details = self.details.as_ref();
        details.map_or(Ticks::default(), |details| details.status_updated)
    }

    pub(crate) fn connection_state(&self) -> &'static str {
        if self.links > 0 {
            "Connected"
        } else {
            "Disconnected"
        }
    }

    /// When it last did anything.
    pub(crate) fn last_activity(&self) -> Ticks {
        let sent = self.sent.as_ref();
        let sent = sent.map_or(0, |sent| sent.load(Ordering::Relaxed));
        self.last_activity.max(Ticks(sent))
    }

    pub(crate) fn is_edge(&self) -> bool {
        self.details
            .as_ref()
            .is_some_and(|details| details.iot_edge)
    }

    /// Cloud-to-device messages in its queue.
    pub(crate) fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// Gives it new keys.
    pub(crate) fn set_keys(&mut self, keys: KeyPair) {
        self.auth = Auth::Sas(keys);
        self.written();
    }

    /// Enables or disables it; the caller notes the write.
    pub(crate) fn set_enabled(&mut self, enabled: bool, now: Ticks) {
        if self.enabled != enabled {
            self.enabled = enabled;
            self.details.get_or_insert_default().status_updated = now;
        }
    }

    /// The twin; a fresh one if nothing was written to it yet.
    pub(crate) fn twin(&self, id: &str) -> Cow<'_, Twin> {
        match &self.twin {
            Some(twin) => Cow::Borrowed(twin),
            None => Cow::Owned(fresh_twin(id, self.generation)),
        }
    }

    pub(crate) fn twin_mut(&mut self, id: &str) -> &mut Twin {
        let generation = self.generation;
        self.twin
            .get_or_insert_with(|| Box::new(fresh_twin(id, generation)))
    }

    /// Notes that its first link has opened or its last one closed.
    pub(crate) fn came_or_went(&mut self, now: Ticks) {
        (self.connection_updated, self.last_activity) = (now, now);
    }

    /// Notes a change of the identity.
    pub(crate) fn written(&mut self) {
        self.etag = self.etag.wrapping_add(1);
    }

    pub(crate) fn slot(&mut self, feed: Feed) -> &mut Option<Subscriber> {
        match feed {
            Feed::Messages => &mut self.messages,
            Feed::Methods => &mut self.methods,
            Feed::Desired => &mut self.desired,
            Feed::Twin => &mut self.twin_link,
        }
    }
}

/// The hub dates the twin of a device, and not that of a module.
fn fresh_twin(id: &str, generation: u64) -> Twin {
    let is_module = identity::split(id).1.is_some();
    Twin::new(Ticks(if is_module { 0 } else { generation }))
}

/// What a device can listen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    Messages,
    Methods,
    Desired,
    /// The AMQP link that answers twin requests; nothing else is sent there.
    Twin,
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
