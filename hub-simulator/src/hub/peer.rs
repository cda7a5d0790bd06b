//! A connection as the hub sees it: a mailbox and some counters.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::faults::Order;
use crate::guid::Guid;

/// Most notices that wait for a connection; one that falls further behind is cut.
const MAX_WAITING: usize = 100_000;

/// Names a connection for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    /// No connection: they are counted from one.
    pub(crate) const NONE: Self = Self(0);
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place within a connection; only the connection knows what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Route(pub(crate) u64);

impl Route {
    /// Packs an AMQP channel, a link handle (24 bits) and a link's serial number (24 bits).
    pub(crate) fn pack(channel: u16, handle: u32, serial: u32) -> Self {
        Self(
            u64::from(channel) << 48
                | u64::from(handle & Self::MASK) << 24
                | u64::from(serial & Self::MASK),
        )
    }

    /// Takes a packed route apart again.
    pub(crate) fn unpack(self) -> (u16, u32, u32) {
        let low = |bits: u64| (bits & u64::from(Self::MASK)) as u32;
        ((self.0 >> 48) as u16, low(self.0 >> 24), low(self.0))
    }

    /// The largest handle and serial number that fit.
    pub(crate) const MASK: u32 = 0x00ff_ffff;
}

/// Where something for a device is sent.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    pub(crate) peer: Arc<Peer>,
    pub(crate) route: Route,
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.peer.id == other.peer.id && self.route == other.route
    }
}

impl Subscriber {
    pub(crate) fn post(&self, notice: impl FnOnce(Route) -> Notice) {
        self.peer.post(notice(self.route));
    }
}

/// What the hub tells a connection.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// Messages wait in the queue that this route listens to.
    MessageReady(Route),
    /// The device's desired properties changed; the patch as the device sees it.
    Desired(Route, Bytes),
    /// A direct method for the device.
    Method(Route, MethodCall),
    /// Somebody else listens now.
    Displaced(Route),
    /// Another reader of events has taken this one's place; what it is told.
    Stolen(Route, Arc<str>),
    /// The device was disabled.
    Disabled(Arc<str>),
    /// The device was removed; one of the same name may be there by now.
    Removed(Arc<str>),
    /// A scripted fault.
    Order(Order),
}

/// A direct method on its way to a device.
#[derive(Debug, Clone)]
pub(crate) struct MethodCall {
    pub(crate) id: Guid,
    pub(crate) name: Arc<str>,
    pub(crate) payload: Bytes,
}

/// A connection's mailbox and counters.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: ConnectionId,
    mail: Mutex<Mail>,
    wake: Notify,
    pub(crate) tokens: AtomicUsize,
    pub(crate) tokens_put: AtomicU64,
    pub(crate) sessions: AtomicUsize,
    pub(crate) links: AtomicUsize,
    pub(crate) devices: AtomicUsize,
    pub(crate) messages: AtomicU64,
}

#[derive(Debug, Default)]
struct Mail {
    /// Told once however often it became true.
    ready: BTreeSet<Route>,
    notices: VecDeque<Notice>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        // Names stay unique when a connection moves from one hub to another.
        static OPENED: AtomicU64 = AtomicU64::new(0);
        Self {
            id: ConnectionId(OPENED.fetch_add(1, Ordering::Relaxed) + 1),
            mail: Mutex::default(),
            wake: Notify::new(),
            tokens: AtomicUsize::new(0),
            tokens_put: AtomicU64::new(0),
            sessions: AtomicUsize::new(0),
            links: AtomicUsize::new(0),
            devices: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
        }
    }

    pub(crate) fn post(&self, notice: Notice) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::MessageReady(route) => {
                mail.ready.insert(route);
            }
            _ if mail.notices.len() >= MAX_WAITING => {
                mail.notices.push_front(Notice::Order(Order::Cut));
                mail.notices.truncate(MAX_WAITING);
            }
            notice => mail.notices.push_back(notice),
        }
        drop(mail);
        self.wake.notify_one();
    }

    /// Takes everything that waits.
    pub(crate) fn collect(&self) -> Vec<Notice> {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let notices = std::mem::take(&mut mail.notices);
        let ready = std::mem::take(&mut mail.ready);
        notices
            .into_iter()
            .chain(ready.into_iter().map(Notice::MessageReady))
            .collect()
    }

    /// Waits until something may have been posted.
    pub(crate) async fn posted(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        ConnectionStats {
            id: self.id,
            devices: of(&self.devices),
            tokens: of(&self.tokens),
            tokens_put: self.tokens_put.load(Ordering::Relaxed),
            sessions: of(&self.sessions),
            links: of(&self.links),
            messages: self.messages.load(Ordering::Relaxed),
        }
    }
}

/// What an open connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// The connection.
    pub id: ConnectionId,
    /// Devices with a link on it.
    pub devices: usize,
    /// Tokens that count against the limit of 1000.
    pub tokens: usize,
    /// Tokens taken over it so far, those that renew another one included.
    pub tokens_put: u64,
    /// Open sessions.
    pub sessions: usize,
    /// Open links.
    pub links: usize,
    /// Telemetry messages accepted over it.
    pub messages: u64,
}
