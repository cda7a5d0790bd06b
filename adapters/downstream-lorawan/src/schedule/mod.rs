//! Which command goes to which device, and when: the downlink deadline engine.
//!
//! A device of class A hears only for a moment after each uplink. Commands wait in a bounded queue
//! for each device; an uplink opens a window, and the command that is to go is known at once. One
//! command of a device is in flight at a time, until the moment that completes it has come. A device
//! of class C hears always.
//!
//! There is neither IO nor a clock in here: the caller brings the time, does what the returned
//! [`Actions`] say, and [withdraws](Schedule::withdraw) a command whose time is up.

mod command;
mod lane;
mod margins;
mod orphans;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;

use lru::LruCache;
use tokio::time::Instant;

use crate::event::{
    DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, TransmitAck, TransmitError,
};
use lane::{Lane, Place};

pub use command::{Actions, Class, Command, Completion, Failure, Outcome, QueueMode};
pub use margins::{MARGIN_BOUNDS, Margins};

/// Decides which command goes when. `T` is what the caller gets back when a command has ended.
#[derive(Debug)]
pub struct Schedule<T> {
    /// The device that was used last is at the young end.
    lanes: LruCache<DevEui, Lane<T>>,
    max_queued: usize,
    margins: Margins,
}

impl<T> Schedule<T> {
    /// Makes an empty schedule for at most so many devices, each with at most so many commands that
    /// wait.
    #[must_use]
    pub fn new(max_devices: NonZeroUsize, max_queued: usize) -> Self {
        Self {
            lanes: LruCache::new(max_devices),
            max_queued,
            margins: Margins::default(),
        }
    }

    /// Notes an uplink, whose receive windows can be used until `closes`.
    pub fn uplink(&mut self, device: DevEui, now: Instant, closes: Instant) -> Actions<T> {
        self.uplink_heard(device, now, now, closes)
    }

    /// Notes an uplink that was heard earlier, as one that had to wait: it says nothing of a command
    /// that was sent since.
    pub fn uplink_heard(
        &mut self,
        device: DevEui,
        heard: Instant,
        now: Instant,
        closes: Instant,
    ) -> Actions<T> {
        let mut actions = Actions::new();
        let lane = lane(&mut self.lanes, device, &mut actions);
        lane.open(heard, closes, &mut actions);
        advance(lane, &mut self.margins, now, actions)
    }

    /// Takes a command for a device.
    pub fn push(&mut self, command: Command, ticket: T, class: Class, now: Instant) -> Actions<T> {
        let mut actions = Actions::new();
        let (device, max_queued) = (command.dev_eui, self.max_queued);
        if let Err(failure) = command.check() {
            actions.end(ticket, Err(failure));
            return actions;
        }
        let lane = lane(&mut self.lanes, device, &mut actions);
        let late = lane.push(command, ticket, class, max_queued, now, &mut actions);
        if let Some(late) = late {
            self.margins.record_after(late);
        }
        advance(lane, &mut self.margins, now, actions)
    }

    /// Notes what a concentrator said of a downlink.
    pub fn transmitted(&mut self, ack: &TransmitAck, now: Instant) -> Actions<T> {
        if ack.result == Err(TransmitError::TooLate) {
            self.margins.too_late += 1;
        }
        self.settle(ack.dev_eui, now, |lane, actions| {
            lane.transmitted(&ack.downlink, ack.result, now, actions);
        })
    }

    /// Notes whether a device confirmed a downlink.
    pub fn acknowledged(&mut self, ack: &DeviceAck, now: Instant) -> Actions<T> {
        let outcome = match ack.acknowledged {
            true => Ok(Outcome::Acknowledged),
            false => Err(Failure::NotAcknowledged),
        };
        self.settle(ack.dev_eui, now, |lane, actions| {
            lane.acknowledged(&ack.downlink, outcome, actions);
        })
    }

    /// Notes that the network server gave a downlink up.
    pub fn failed(&mut self, failed: &DownlinkFailed, now: Instant) -> Actions<T> {
        self.settle(failed.dev_eui, now, |lane, actions| {
            lane.give_up(&failed.downlink, failed.reason, actions);
        })
    }

    /// Takes a command back that nobody waits for any more, whether it waits or is in flight.
    /// Nothing if it has ended already.
    ///
    /// One that was transmitted and that its device has not confirmed yet is remembered by its
    /// [origin](Command::origin): a device of class A confirms with its next uplink, which may be
    /// long after the hub's lock on the message has lapsed. When it is [pushed](Self::push) again
    /// it is not sent again, and ends as its device says.
    pub fn withdraw(&mut self, device: DevEui, id: &DownlinkId, now: Instant) -> Withdrawn<T> {
        let Some(lane) = self.lanes.peek_mut(&device) else {
            return Withdrawn::Ended;
        };
        let place = lane.withdraw(id);
        let mut next = || advance(lane, &mut self.margins, now, Actions::new());
        match place {
            None => Withdrawn::Ended,
            Some(Place::Waiting) => Withdrawn::Waiting,
            Some(Place::InFlight) => {
                let mut actions = next();
                actions.withdraw = Some((device, id.clone()));
                Withdrawn::InFlight(actions)
            }
            Some(Place::Transmitted) => Withdrawn::Transmitted(next()),
        }
    }

    /// Ends everything that waits for a device or is in flight to it, as [`Failure::Flushed`].
    pub fn clear(&mut self, device: DevEui) -> Actions<T> {
        let mut actions = Actions::new();
        if let Some(lane) = self.lanes.pop(&device) {
            lane.abandon(&mut actions);
        }
        actions
    }

    /// Ends everything for every device, as [`Failure::Flushed`].
    pub fn clear_all(&mut self) -> Actions<T> {
        let mut actions = Actions::new();
        while let Some((_, lane)) = self.lanes.pop_lru() {
            lane.abandon(&mut actions);
        }
        actions
    }

    /// When the device's next uplink is due, as far as its last ones tell.
    #[must_use]
    pub fn expected(&self, device: DevEui) -> Option<Instant> {
        self.lanes.peek(&device)?.expected()
    }

    /// How many commands wait for a device or are in flight to it.
    #[must_use]
    pub fn pending(&self, device: DevEui) -> usize {
        self.lanes.peek(&device).map_or(0, Lane::pending)
    }

    /// Whether a command would go at once, as far as the device's windows are concerned.
    #[must_use]
    pub fn is_awake(&self, device: DevEui, now: Instant) -> bool {
        let lane = self.lanes.peek(&device);
        lane.is_some_and(|lane| lane.is_awake(now))
    }

    /// Whether the network server has a command for the device that has not ended.
    #[must_use]
    pub fn is_in_flight(&self, device: DevEui) -> bool {
        self.in_flight(device).is_some()
    }

    /// What the caller gets back when the command that the network server has for the device ends.
    pub(crate) fn in_flight(&self, device: DevEui) -> Option<&T> {
        self.lanes.peek(&device)?.in_flight()
    }

    /// How far before or after its window each command was.
    #[must_use]
    pub fn margins(&self) -> &Margins {
        &self.margins
    }

    fn settle(
        &mut self,
        device: DevEui,
        now: Instant,
        change: impl FnOnce(&mut Lane<T>, &mut Actions<T>),
    ) -> Actions<T> {
        let mut actions = Actions::new();
        match self.lanes.peek_mut(&device) {
            Some(lane) => {
                change(lane, &mut actions);
                advance(lane, &mut self.margins, now, actions)
            }
            None => actions,
        }
    }
}

/// The device's lane; the one unused for longest makes room for a new one.
fn lane<'a, T>(
    lanes: &'a mut LruCache<DevEui, Lane<T>>,
    device: DevEui,
    actions: &mut Actions<T>,
) -> &'a mut Lane<T> {
    if lanes.len() == lanes.cap().get()
        && !lanes.contains(&device)
        && let Some((_, oldest)) = lanes.pop_lru()
    {
        oldest.abandon(actions);
    }
    lanes.get_or_insert_mut(device, Lane::default)
}

/// Sends what may go now.
fn advance<T>(
    lane: &mut Lane<T>,
    margins: &mut Margins,
    now: Instant,
    mut actions: Actions<T>,
) -> Actions<T> {
    if let Some(sent) = lane.next(now, &mut actions) {
        if let Some(margin) = sent.margin {
            margins.record_before(margin);
        }
        actions.send = Some(sent.downlink);
    }
    actions
}

/// Tells where a command was when it was taken back.
#[derive(Debug)]
#[must_use = "the network server may have to drop a downlink, and another may have to go"]
pub enum Withdrawn<T> {
    /// It had ended.
    Ended,
    /// It had not been given to the network server.
    Waiting,
    /// The network server has it, and may still send it. Another may go in its place.
    InFlight(Actions<T>),
    /// A concentrator has sent it. Another may go in its place.
    Transmitted(Actions<T>),
}

/// A downlink that goes now, and how long before the end of its window.
#[derive(Debug)]
struct Sent {
    downlink: Downlink,
    margin: Option<std::time::Duration>,
}
