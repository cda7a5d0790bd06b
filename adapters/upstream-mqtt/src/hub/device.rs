//! One attached device.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gateway_core::governor::{Class, Held, Priority, Turn};
use gateway_core::{
    CloudCallback, Credential, DeviceId, DeviceIdentity, ErrorKind, Interest, LastError,
};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::HubError;
use super::line::{Line, Waiting};
use super::twin::{Asks, Desired};
use crate::lock::lock;

/// Characters of an error that are kept.
const ERROR_TEXT: usize = 200;

/// What whoever attached the device asked for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) identity: DeviceIdentity,
    pub(super) callback: Arc<dyn CloudCallback>,
}

/// How the device stands with the hub.
#[derive(Debug)]
pub(super) enum Link {
    /// Not there, or lost and not back yet.
    Down,
    Up(Arc<Line>),
    /// Its breaker is open until then, after a refusal of this kind.
    Held(Instant, ErrorKind),
    /// The session is over.
    Ended,
}

impl Link {
    /// The connection of a device that is up.
    pub(super) fn line(&self) -> Result<&Arc<Line>, HubError> {
        match self {
            Self::Up(line) => Ok(line),
            Self::Down => Err(HubError::Down),
            Self::Held(until, kind) => {
                let wait = until.saturating_duration_since(Instant::now());
                Err(Held::new(wait, *kind).into())
            }
            Self::Ended => Err(HubError::NotAttached),
        }
    }
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    /// A fair lock: whoever holds it is the device's only sender, so uplinks keep their order. Whoever
    /// brings the device back, or replaces its connection, holds it, and uplinks wait for it there.
    pub(super) link: Arc<tokio::sync::Mutex<Link>>,
    /// The line of a link that is up, for whoever only looks.
    line: Mutex<Option<Arc<Line>>>,
    wish: Mutex<Wish>,
    /// When it last sent, by the upstream's own count: recovery begins with the latest.
    active: AtomicU64,
    /// Calls that wait for it or are in flight.
    busy: AtomicUsize,
    /// Where it stands at the door.
    pub(super) turn: Turn,
    /// Methods that wait for its task. Whichever connection they came on, any takes the answer.
    pub(super) methods: Waiting,
    /// Twin requests without an answer.
    pub(super) asks: Asks,
    /// What it is to be told of its desired properties.
    pub(super) desired: Desired,
    /// Which of two keys the hub took last.
    pub(super) prefers_secondary: AtomicBool,
    /// What went wrong last, and when. Rare, so it takes room only then.
    last_error: Mutex<Option<Box<(ErrorKind, String, Instant)>>>,
    /// Whether it has a task.
    has_session: AtomicBool,
    /// Wakes its task: something came, or is wanted otherwise.
    pub(super) changed: Notify,
    /// Cancelled once nobody wants it any more.
    pub(super) gone: CancellationToken,
}

impl Device {
    /// Makes a device that is not there yet; so many changes of its twin may wait for it.
    pub(super) fn new(wish: Wish, room: usize) -> Self {
        Self {
            id: wish.identity.device.clone(),
            link: Arc::new(tokio::sync::Mutex::new(Link::Down)),
            line: Mutex::default(),
            wish: Mutex::new(wish),
            active: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            turn: Turn::default(),
            methods: Waiting::default(),
            asks: Asks::default(),
            desired: Desired::new(room),
            prefers_secondary: AtomicBool::new(false),
            last_error: Mutex::default(),
            has_session: AtomicBool::new(false),
            changed: Notify::new(),
            gone: CancellationToken::new(),
        }
    }

    pub(super) fn wish(&self) -> Wish {
        lock(&self.wish).clone()
    }

    pub(super) fn callback(&self) -> Arc<dyn CloudCallback> {
        lock(&self.wish).callback.clone()
    }

    pub(super) fn interest(&self) -> Interest {
        lock(&self.wish).identity.interest
    }

    pub(super) fn set_wish(&self, wish: Wish) {
        *lock(&self.wish) = wish;
    }

    /// Replaces a credential, unless it is another by now.
    pub(super) fn adopt(&self, old: &Credential, new: Credential) {
        let mut wish = lock(&self.wish);
        if wish.identity.credential == *old {
            wish.identity.credential = new;
        }
    }

    /// The connection that it has now.
    pub(super) fn line(&self) -> Option<Arc<Line>> {
        lock(&self.line).clone()
    }

    /// Changes how it stands, by whoever holds its link, wakes its task, and gives how it stood.
    pub(super) fn set(&self, link: &mut Link, to: Link) -> Link {
        *lock(&self.line) = match &to {
            Link::Up(line) => Some(line.clone()),
            _ => None,
        };
        let before = std::mem::replace(link, to);
        self.changed.notify_one();
        before
    }

    /// Claims the right to be its task: true once.
    pub(super) fn claim_session(&self) -> bool {
        !self.has_session.swap(true, Relaxed)
    }

    pub(super) fn set_active(&self, count: u64) {
        self.active.store(count, Relaxed);
    }

    /// Notes that somebody waits for the device, until the guard is dropped.
    pub(super) fn engage(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Relaxed);
        Busy(self)
    }

    /// Calls that wait for it or are in flight.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Relaxed)
    }

    /// How it ranks among those that are brought up.
    pub(super) fn priority(&self) -> Priority {
        let class = match self.busy() {
            0 => Class::Quiet,
            _ => Class::Wanted,
        };
        self.rank(class)
    }

    /// How it ranks in a class.
    pub(super) fn rank(&self, class: Class) -> Priority {
        Priority::new(class, self.active.load(Relaxed))
    }

    /// Keeps what went wrong for whoever asks.
    pub(super) fn note_error(&self, error: &HubError) {
        let text: String = error.to_string().chars().take(ERROR_TEXT).collect();
        *lock(&self.last_error) = Some(Box::new((error.kind(), text, Instant::now())));
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        let last = lock(&self.last_error);
        let (kind, text, at) = last.as_deref()?;
        Some(LastError::new(*kind, text.as_str(), at.elapsed()))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

/// Counts a call that waits for a device.
#[derive(Debug)]
pub(super) struct Busy<'a>(&'a Device);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}
