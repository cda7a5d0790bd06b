//! One attached device.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gateway_core::governor::{Class, Priority, Turn};
use gateway_core::{
    CloudCallback, Credential, DeviceId, DeviceIdentity, ErrorKind, Interest, LastError,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::Sender;
use crate::commands::Commands;
use crate::env::lock;
use crate::error::AmqpError;
use crate::keeper::Held;
use crate::lane::{Lane, Watch};
use crate::pool::Place;

/// Characters of an error that are kept.
const ERROR_TEXT: usize = 200;

/// What whoever attached the device asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) identity: DeviceIdentity,
    pub(crate) callback: Arc<dyn CloudCallback>,
}

/// How the device stands with the hub.
#[derive(Debug)]
pub(crate) enum Link {
    /// The hub has not let the device in yet.
    New,
    /// Not there, or lost and not back yet; with its place, if it still has one.
    Down(Option<Place>),
    Up(Box<Attached>),
    /// Its breaker is open until then, after a refusal of this kind.
    Held(Instant, ErrorKind),
    /// The hub ended the session.
    Ended,
}

impl Link {
    /// Drops the links and keeps the place: the connection may be as good as before, and must not
    /// be closed for want of devices.
    pub(crate) fn lose(&mut self) {
        *self = match std::mem::replace(self, Self::Down(None)) {
            Self::Up(attached) => {
                let Attached { place, .. } = *attached;
                Self::Down(Some(place))
            }
            other => other,
        };
    }

    /// Takes the place out of a lost link.
    pub(crate) fn take_place(&mut self) -> Option<Place> {
        match self {
            Self::Down(place) => place.take(),
            _ => None,
        }
    }
}

/// What an attached device has. Fields are dropped in this order: links before their place.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) watched: Watch,
    pub(crate) sender: Sender,
    pub(crate) commands: Commands,
    pub(crate) lane: Arc<Lane>,
    pub(crate) place: Place,
}

impl Attached {
    /// Tells whether the hub has ended none of it, as far as is known.
    pub(crate) fn is_live(&self) -> bool {
        let is_ended = self.sender.end().is_some() || self.commands.has_ended();
        !is_ended && !self.lane.down.is_cancelled()
    }
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// A fair lock: whoever holds it is the device's only sender, so uplinks keep their order.
    /// Recovery holds it until the device is back, and uplinks wait for it there.
    pub(crate) link: Arc<tokio::sync::Mutex<Link>>,
    /// What the hub has let it in with, but for a moment in which it is tried with a newer key.
    wish: Mutex<Wish>,
    /// The number of the lane it is on; 0 for none.
    lane: AtomicU64,
    /// When it last sent, by the upstream's own count: recovery begins with the latest.
    active: AtomicU64,
    /// The newest version of its desired properties that it was given; 0 if it was given none.
    desired: AtomicU64,
    /// Calls that wait for it or are in flight.
    busy: AtomicUsize,
    /// Where it stands at the door while it is being brought up.
    pub(crate) turn: Turn,
    /// Its token, if it has one of its own.
    token: Mutex<Option<Held>>,
    /// Which of two keys the hub took last.
    pub(crate) prefers_secondary: AtomicBool,
    /// Whether the supervisor will look whether it may leave its own lane: one entry a device.
    is_watched: AtomicBool,
    /// What went wrong last, and when. Rare, so it takes room only then.
    last_error: Mutex<Option<Box<(ErrorKind, String, Instant)>>>,
    /// Set once nobody wants it any more.
    gone: AtomicBool,
    /// Told when `gone` is set.
    leaving: Notify,
}

impl Device {
    pub(crate) fn new(wish: Wish) -> Self {
        Self {
            id: wish.identity.device.clone(),
            link: Arc::new(tokio::sync::Mutex::new(Link::New)),
            wish: Mutex::new(wish),
            lane: AtomicU64::new(0),
            active: AtomicU64::new(0),
            desired: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            turn: Turn::default(),
            token: Mutex::default(),
            prefers_secondary: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            last_error: Mutex::default(),
            gone: AtomicBool::new(false),
            leaving: Notify::new(),
        }
    }

    pub(crate) fn wish(&self) -> Wish {
        lock(&self.wish).clone()
    }

    pub(crate) fn callback(&self) -> Arc<dyn CloudCallback> {
        lock(&self.wish).callback.clone()
    }

    /// What whoever attached it wants it to hear.
    pub(crate) fn interest(&self) -> Interest {
        lock(&self.wish).identity.interest
    }

    /// Replaces the wish by one whose proof the hub has taken.
    pub(crate) fn set_wish(&self, wish: Wish) {
        *lock(&self.wish) = wish;
    }

    pub(crate) fn is_on(&self, lane: u64) -> bool {
        self.lane.load(Relaxed) == lane
    }

    pub(crate) fn set_lane(&self, lane: u64) {
        self.lane.store(lane, Relaxed);
    }

    pub(crate) fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    pub(crate) fn set_active(&self, count: u64) {
        self.active.store(count, Relaxed);
    }

    pub(crate) fn desired(&self) -> u64 {
        self.desired.load(Relaxed)
    }

    /// Notes which version of its desired properties it was given. Only all of them at once may be
    /// of a lower version than before.
    pub(crate) fn set_desired(&self, version: u64, is_whole: bool) {
        match is_whole {
            true => self.desired.store(version, Relaxed),
            false => drop(self.desired.fetch_max(version, Relaxed)),
        }
    }

    /// Notes that somebody waits for the device, until the guard is dropped.
    pub(crate) fn engage(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Relaxed);
        Busy(self)
    }

    /// Calls that wait for it or are in flight.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Relaxed)
    }

    /// Keeps what went wrong for whoever asks.
    pub(crate) fn note_error(&self, error: &AmqpError) {
        let text: String = error.to_string().chars().take(ERROR_TEXT).collect();
        *lock(&self.last_error) = Some(Box::new((error.kind(), text, Instant::now())));
    }

    pub(crate) fn last_error(&self) -> Option<LastError> {
        let last = lock(&self.last_error);
        let (kind, text, at) = last.as_deref()?;
        Some(LastError::new(*kind, text.as_str(), at.elapsed()))
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    /// How it ranks among those that are brought up.
    pub(crate) fn priority(&self) -> Priority {
        let class = match self.is_busy() {
            true => Class::Wanted,
            false => Class::Quiet,
        };
        Priority::new(class, self.active())
    }

    /// Replaces a credential, unless it is another by now.
    pub(crate) fn adopt(&self, old: &Credential, new: Credential) {
        let mut wish = lock(&self.wish);
        if wish.identity.credential == *old {
            wish.identity.credential = new;
        }
    }

    /// Changes its token, if it has one of its own. What is taken out must be dropped after this.
    pub(crate) fn change_token<T>(&self, change: impl FnOnce(&mut Option<Held>) -> T) -> T {
        change(&mut lock(&self.token))
    }

    /// Tells whether the hub has this very token for it.
    pub(crate) fn has_token(&self, serial: u64) -> bool {
        lock(&self.token).as_ref().is_some_and(|t| t.is(serial))
    }

    /// Looks at its token, if it has one of its own.
    pub(crate) fn token<T>(&self, look: impl FnOnce(&Held) -> T) -> Option<T> {
        lock(&self.token).as_ref().map(look)
    }

    /// Gives up its token: it is not renewed any more.
    pub(crate) fn forget_token(&self) {
        drop(self.change_token(Option::take));
    }

    /// Notes whether the supervisor watches it, and tells whether it did before.
    pub(crate) fn set_watched(&self, is_watched: bool) -> bool {
        self.is_watched.swap(is_watched, Relaxed)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Relaxed);
        self.forget_token();
        self.leaving.notify_waiters();
    }

    /// Waits until nobody wants it any more.
    pub(crate) async fn gone(&self) {
        // Made before the look, so that what happens in between is not missed.
        let leaving = self.leaving.notified();
        if !self.is_gone() {
            leaving.await;
        }
    }
}

/// Counts a call that waits for a device.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Device);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}
