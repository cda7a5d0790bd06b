//! One attached device.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use gateway_core::{CloudCallback, DeviceId, DeviceIdentity, ErrorKind};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::Sender;
use crate::commands::Commands;
use crate::door::Turn;
use crate::env::lock;
use crate::governor::{Class, Priority};
use crate::lane::{Lane, Watch};
use crate::pool::Place;

/// What whoever attached the device asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) identity: DeviceIdentity,
    pub(crate) callback: Arc<dyn CloudCallback>,
}

/// How the device stands with the hub.
#[derive(Debug)]
pub(crate) enum Link {
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

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// A fair lock: whoever holds it is the device's only sender, so uplinks keep their order.
    /// Recovery holds it until the device is back, and uplinks wait for it there.
    pub(crate) link: Arc<tokio::sync::Mutex<Link>>,
    wish: Mutex<Wish>,
    /// The serial of the lane it is on; 0 for none.
    lane: AtomicU64,
    /// When it last sent, by the upstream's own count: recovery begins with the latest.
    active: AtomicU64,
    /// The newest version of its desired properties that it was given; 0 if it was given none.
    desired: AtomicU64,
    /// Calls that wait for it or are in flight.
    busy: AtomicUsize,
    /// Where it stands at the door while it is being brought up.
    pub(crate) turn: Turn,
    /// When its token wants care, while that time waits in the supervisor's queue: one entry a
    /// device, however often it comes and goes.
    token_due: Mutex<Option<Instant>>,
    /// Whether the supervisor will look whether it may leave its own lane: one entry a device.
    is_watched: AtomicBool,
    /// Set once nobody wants it any more.
    gone: AtomicBool,
    /// Told when `gone` is set.
    leaving: Notify,
}

impl Device {
    pub(crate) fn new(wish: Wish) -> Self {
        Self {
            id: wish.identity.device.clone(),
            link: Arc::new(tokio::sync::Mutex::new(Link::Down(None))),
            wish: Mutex::new(wish),
            lane: AtomicU64::new(0),
            active: AtomicU64::new(0),
            desired: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            turn: Turn::default(),
            token_due: Mutex::default(),
            is_watched: AtomicBool::new(false),
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

    /// Replaces the wish and gives back the old one.
    pub(crate) fn set_wish(&self, wish: Wish) -> Wish {
        std::mem::replace(&mut lock(&self.wish), wish)
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

    /// Sets when the token wants care. True if the supervisor must be told, having no time for
    /// this device in its queue.
    pub(crate) fn set_token_due(&self, at: Instant) -> bool {
        lock(&self.token_due).replace(at).is_none()
    }

    /// Takes the time at which the token wants care if it has come, else tells what it is now.
    pub(crate) fn take_token_due(&self) -> Result<(), Instant> {
        let mut due = lock(&self.token_due);
        match *due {
            Some(at) if at > Instant::now() => Err(at),
            _ => {
                *due = None;
                Ok(())
            }
        }
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
