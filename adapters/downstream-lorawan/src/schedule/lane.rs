//! One device's commands and windows.

use std::collections::VecDeque;
use std::num::NonZeroU8;
use std::time::Duration;

use tokio::time::Instant;

use super::orphans::{Found, Orphans, UPLINKS};
use super::{Actions, Class, Command, Completion, Failure, Outcome, QueueMode, Sent};
use crate::event::{Downlink, DownlinkId, FailureReason, Timing, TransmitError, TransmitResult};

/// How many windows' worth the mean time between uplinks remembers.
const RHYTHM: u32 = 8;

/// A command and what its sender gets back.
#[derive(Debug)]
struct Entry<T> {
    command: Command,
    ticket: T,
    /// What the network server knows it by, if that is the command that it is again.
    sent_as: Option<DownlinkId>,
    /// It has taken the window that is open, which no other had taken.
    has_window: bool,
    /// A concentrator has sent it.
    transmitted: bool,
    /// Uplinks since then, or else since the network server was given it.
    uplinks: u8,
}

impl<T> Entry<T> {
    /// What the network server knows it by.
    fn downlink(&self) -> &DownlinkId {
        self.sent_as.as_ref().unwrap_or(&self.command.id)
    }

    /// How many uplinks end it, if anything was to be told of it before.
    fn max_uplinks(&self) -> Option<u8> {
        match self.transmitted {
            true => Some(UPLINKS),
            false => self.command.untold.map(NonZeroU8::get),
        }
    }
}

/// Where a command was that was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Waiting,
    InFlight,
    Transmitted,
}

/// The time after an uplink in which a downlink can be taken for its receive windows.
#[derive(Debug)]
struct Window {
    closes: Instant,
    /// It takes one downlink.
    is_taken: bool,
}

#[derive(Debug)]
pub(super) struct Lane<T> {
    class: Class,
    /// By priority, then by age.
    waiting: VecDeque<Box<Entry<T>>>,
    /// Boxed: of most devices there is none.
    in_flight: Option<Box<Entry<T>>>,
    orphans: Orphans,
    window: Option<Window>,
    /// The network server is to drop what it holds before the next downlink.
    flush: bool,
    last_uplink: Option<Instant>,
    /// When a command was last given to the network server, or on air. What the device said before
    /// says nothing of it.
    last_sent: Option<Instant>,
    /// The mean time between uplinks.
    interval: Option<Duration>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            class: Class::A,
            waiting: VecDeque::new(),
            in_flight: None,
            orphans: Orphans::default(),
            window: None,
            flush: false,
            last_uplink: None,
            last_sent: None,
            interval: None,
        }
    }
}

impl<T> Lane<T> {
    pub(super) fn open(&mut self, heard: Instant, closes: Instant, actions: &mut Actions<T>) {
        if let Some(last) = self.last_uplink.replace(heard) {
            let passed = heard.saturating_duration_since(last);
            let mean = self.interval.unwrap_or(passed);
            self.interval = Some((mean * (RHYTHM - 1) + passed) / RHYTHM);
        }
        if self.last_sent.is_none_or(|sent| sent <= heard) {
            self.count(actions);
        }
        if let Some(entry) = &mut self.in_flight {
            entry.has_window = false;
        }
        self.window = Some(Window {
            closes,
            is_taken: false,
        });
    }

    /// Counts an uplink for what was sent before it.
    fn count(&mut self, actions: &mut Actions<T>) {
        self.orphans.uplink();
        // Nothing must wait for ever behind a word that does not come.
        let is_over = |entry: &mut Box<Entry<T>>| {
            entry.uplinks = entry.uplinks.saturating_add(1);
            entry
                .max_uplinks()
                .is_some_and(|most| entry.uplinks >= most)
        };
        if let Some(entry) = self.in_flight.take_if(is_over) {
            let failure = match entry.transmitted {
                true => Failure::NotAcknowledged,
                false => {
                    actions.withdraw = Some((entry.command.dev_eui, entry.downlink().clone()));
                    Failure::Untold
                }
            };
            actions.end(entry.ticket, Err(failure));
        }
    }

    /// Queues a command. Gives how long the device's last window has been closed, if it has.
    pub(super) fn push(
        &mut self,
        command: Command,
        ticket: T,
        class: Class,
        max_queued: usize,
        now: Instant,
        actions: &mut Actions<T>,
    ) -> Option<Duration> {
        self.class = class;
        match self.orphans.claim(&command) {
            Some(Found::Ended(outcome)) => {
                actions.end(ticket, Ok(outcome));
                return None;
            }
            // Its device may confirm it yet; meanwhile nothing else goes.
            Some(Found::Open(downlink)) if self.in_flight.is_none() => {
                self.in_flight = Some(Box::new(Entry {
                    command,
                    ticket,
                    sent_as: Some(downlink),
                    has_window: false,
                    transmitted: true,
                    uplinks: 0,
                }));
                return None;
            }
            Some(Found::Open(_)) | None => {}
        }
        let gives_way = |other: &Command| match command.mode {
            QueueMode::Append => false,
            QueueMode::Replace => other.port == command.port,
            QueueMode::Flush => true,
        };
        for entry in std::mem::take(&mut self.waiting) {
            match gives_way(&entry.command) {
                true => actions.end(entry.ticket, Err(Failure::Replaced)),
                false => self.waiting.push_back(entry),
            }
        }
        if self.waiting.len() >= max_queued {
            actions.end(ticket, Err(Failure::QueueFull));
            return None;
        }
        self.flush |= command.mode == QueueMode::Flush;
        let waiting = &mut self.waiting;
        let at = waiting.partition_point(|entry| entry.command.priority >= command.priority);
        let entry = Entry {
            command,
            ticket,
            sent_as: None,
            has_window: false,
            transmitted: false,
            uplinks: 0,
        };
        waiting.insert(at, Box::new(entry));
        let closed = self.window.as_ref()?.closes;
        (class == Class::A && closed <= now).then(|| now - closed)
    }

    /// Takes what goes now, if anything does; ends what is too old.
    pub(super) fn next(&mut self, now: Instant, actions: &mut Actions<T>) -> Option<Sent> {
        // A device of class A confirms what was transmitted with its next uplink, whenever that is.
        let class = self.class;
        let is_old = |entry: &mut Box<Entry<T>>| {
            entry.command.expires <= now && (class == Class::C || !entry.transmitted)
        };
        if let Some(entry) = self.in_flight.take_if(is_old) {
            if !entry.transmitted {
                actions.withdraw = Some((entry.command.dev_eui, entry.downlink().clone()));
            }
            actions.end(entry.ticket, Err(Failure::Expired));
        }
        if self.in_flight.is_some() {
            return None;
        }
        let (timing, margin) = match (self.class, &self.window) {
            (Class::C, _) => (Timing::Immediate, None),
            (Class::A, Some(window)) if !window.is_taken && now < window.closes => {
                let closes = window.closes;
                (Timing::Window { closes }, Some(closes - now))
            }
            (Class::A, _) => return None,
        };
        let mut entry = loop {
            let entry = self.waiting.pop_front()?;
            if now < entry.command.expires {
                break entry;
            }
            actions.end(entry.ticket, Err(Failure::Expired));
        };
        if let Some(window) = &mut self.window {
            entry.has_window = !std::mem::replace(&mut window.is_taken, true);
        }
        let Command {
            id,
            dev_eui,
            port,
            payload,
            confirmed,
            priority,
            expires,
            ..
        } = entry.command.clone();
        let downlink = Downlink {
            id,
            dev_eui,
            port,
            payload,
            confirmed,
            priority,
            timing,
            expires,
            more_pending: !self.waiting.is_empty(),
            flush: std::mem::take(&mut self.flush),
        };
        entry.uplinks = 0;
        self.in_flight = Some(entry);
        self.last_sent = Some(now);
        Some(Sent { downlink, margin })
    }

    pub(super) fn transmitted(
        &mut self,
        id: &DownlinkId,
        result: TransmitResult,
        now: Instant,
        actions: &mut Actions<T>,
    ) {
        match result {
            Ok(()) => {
                self.last_sent = Some(now);
                let completes = |entry: &mut Box<Entry<T>>| {
                    let is_it = entry.downlink() == id;
                    if is_it && !std::mem::replace(&mut entry.transmitted, true) {
                        entry.uplinks = 0;
                    }
                    is_it && entry.command.completion == Completion::Transmitted
                };
                if let Some(entry) = self.in_flight.take_if(completes) {
                    actions.end(entry.ticket, Ok(Outcome::Transmitted));
                }
            }
            // It is the first to go in the next window. A device of class C has none: whoever sent
            // the command knows better when to try again.
            Err(error) if self.class == Class::A && is_passing(error) => {
                let entry = self.in_flight.take_if(|entry| entry.downlink() == id);
                if let Some(entry) = entry {
                    self.waiting.push_front(entry);
                }
            }
            Err(error) => self.end(id, Err(Failure::NotTransmitted(error)), actions),
        }
    }

    pub(super) fn end(
        &mut self,
        id: &DownlinkId,
        outcome: Result<Outcome, Failure>,
        actions: &mut Actions<T>,
    ) {
        if let Some((entry, _)) = self.take(|entry| entry.downlink() == id) {
            actions.end(entry.ticket, outcome);
        }
    }

    /// Ends what a device has confirmed, or has not.
    pub(super) fn acknowledged(
        &mut self,
        id: &DownlinkId,
        outcome: Result<Outcome, Failure>,
        actions: &mut Actions<T>,
    ) {
        self.orphans.acknowledged(id, outcome.is_ok());
        self.end(id, outcome, actions);
    }

    /// Ends what the network server gave up; if it was not on air, another may go in its window.
    pub(super) fn give_up(
        &mut self,
        id: &DownlinkId,
        reason: FailureReason,
        actions: &mut Actions<T>,
    ) {
        if let Some((entry, place)) = self.take(|entry| entry.downlink() == id) {
            actions.end(entry.ticket, Err(Failure::Network(reason)));
            if let (Some(window), Place::InFlight) = (&mut self.window, place) {
                window.is_taken &= !entry.has_window;
            }
        }
    }

    /// Takes a command back, and tells where it was; one that was transmitted is remembered.
    pub(super) fn withdraw(&mut self, id: &DownlinkId) -> Option<Place> {
        let (entry, place) = self.take(|entry| entry.command.id == *id)?;
        if place == Place::Transmitted {
            let downlink = entry.downlink().clone();
            self.orphans.add(downlink, entry.command);
        }
        Some(place)
    }

    fn take(&mut self, is_it: impl Fn(&Entry<T>) -> bool) -> Option<(Box<Entry<T>>, Place)> {
        if let Some(entry) = self.in_flight.take_if(|entry| is_it(entry)) {
            let place = match entry.transmitted {
                true => Place::Transmitted,
                false => Place::InFlight,
            };
            return Some((entry, place));
        }
        let mut waiting = self.waiting.iter();
        let at = waiting.position(|entry| is_it(entry))?;
        Some((self.waiting.remove(at)?, Place::Waiting))
    }

    /// Ends everything.
    pub(super) fn abandon(self, actions: &mut Actions<T>) {
        for entry in self.in_flight.into_iter().chain(self.waiting) {
            actions.end(entry.ticket, Err(Failure::Flushed));
        }
    }

    pub(super) fn expected(&self) -> Option<Instant> {
        Some(self.last_uplink? + self.interval?)
    }

    pub(super) fn is_awake(&self, now: Instant) -> bool {
        let is_open = |window: &Window| !window.is_taken && now < window.closes;
        self.class == Class::C || self.window.as_ref().is_some_and(is_open)
    }

    pub(super) fn in_flight(&self) -> Option<&T> {
        self.in_flight.as_ref().map(|entry| &entry.ticket)
    }

    pub(super) fn pending(&self) -> usize {
        self.waiting.len() + usize::from(self.in_flight.is_some())
    }
}

/// Tells whether a later window may well do.
fn is_passing(error: TransmitError) -> bool {
    use TransmitError::*;
    match error {
        TooLate | TooEarly | CollisionPacket | CollisionBeacon | GpsUnlocked | QueueFull
        | DutyCycle => true,
        Frequency | Power | Other => false,
    }
}
