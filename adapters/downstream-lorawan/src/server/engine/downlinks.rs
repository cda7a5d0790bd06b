//! What devices are sent.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::concentrators::tries_all_windows;
use super::super::orders::Order;
use super::super::teller::Outcome;
use super::timers::Timer;
use super::uplinks::Told;
use super::{Effect, Engine, Scope};
use crate::event::{
    DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, FailureReason, Timing, TransmitAck,
    TransmitError, TransmitResult,
};
use crate::proto::mac::{Message, SendError};
use crate::proto::{Eui64, Transmission};

/// How long after its last window opens a concentrator may take to say what became of a frame: a
/// station says so when it has been sent, which takes up to 3 s at the slowest data rate.
const WORD: Duration = Duration::from_secs(8);

/// A frame that goes to its concentrator.
#[derive(Debug)]
pub(super) struct Launch {
    transmission: Transmission,
    /// When the uplink was heard that it answers.
    heard_at: Option<Instant>,
    carried: Option<Carried>,
    /// Who waits to hear that a concentrator has it.
    taken: Option<Taken>,
}

/// Takes the word on whether a downlink is sent.
type Taken = oneshot::Sender<Result<(), FailureReason>>;

/// The downlink that a frame carries.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    id: DownlinkId,
    number: u64,
    counter: u32,
    confirmed: bool,
    /// From then on nobody waits for it.
    expires: Instant,
    /// It is for a device of class C, whose next uplink says nothing of when it answers.
    immediate: bool,
}

/// A frame that a concentrator was given.
#[derive(Debug)]
pub(super) struct Flight {
    transmission: Transmission,
    heard_at: Option<Instant>,
    carried: Option<Carried>,
    /// Tells this use of its token from others.
    number: u64,
}

/// A confirmed downlink that its device has not answered.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) number: u64,
    pub(super) downlink: DownlinkId,
    pub(super) counter: u32,
}

impl Engine {
    /// Takes a downlink, or says why not.
    pub(super) fn order(&mut self, order: Order) {
        let Order { downlink, taken } = order;
        if self.must_wait(&downlink) {
            accept(taken);
            self.held.insert(downlink.dev_eui, downlink);
        } else {
            self.dispatch(downlink, Some(taken));
        }
    }

    /// Tells whether the hub may still say in time that it has the uplink that opened the window:
    /// a device that hears a frame without that acknowledgement says its uplink again, and knows
    /// nothing of the frame by then. One of class C hears at any time, and has its window still.
    fn must_wait(&self, downlink: &Downlink) -> bool {
        let opening = self.openings.get(&downlink.dev_eui);
        downlink.timing != Timing::Immediate
            && self.network.is_unsettled(downlink.dev_eui)
            && opening.is_some_and(|opening| {
                Instant::now() < self.answer_at(opening.heard_at, opening.delay + 1)
            })
    }

    /// Lets the downlink go that waited for the hub, in this window if the hub has the uplink.
    pub(super) fn release(&mut self, dev_eui: DevEui, now: bool) {
        match self.held.remove(&dev_eui) {
            Some(downlink) if now => self.dispatch(downlink, None),
            Some(downlink) => self.late(dev_eui, downlink.id),
            None => {}
        }
    }

    /// Leaves a downlink to the next window, where it is the first to go.
    fn late(&mut self, dev_eui: DevEui, id: DownlinkId) {
        let late = TransmitAck::new(dev_eui, id, Err(TransmitError::TooLate));
        self.teller.outcome(Outcome::Transmit(late));
    }

    /// Says that a downlink is not sent, to whom waits for the word, or else to all: whoever waited
    /// may have given that up, and not the downlink.
    fn refuse(
        &mut self,
        dev_eui: DevEui,
        id: DownlinkId,
        taken: Option<Taken>,
        reason: FailureReason,
    ) {
        if taken.is_none_or(|taken| taken.send(Err(reason)).is_err()) {
            let failed = DownlinkFailed::new(dev_eui, id, reason);
            self.teller.outcome(Outcome::Failed(failed));
        }
    }

    /// Has a downlink sent, or says why not.
    fn dispatch(&mut self, downlink: Downlink, taken: Option<Taken>) {
        let (dev_eui, id) = (downlink.dev_eui, downlink.id.clone());
        if Instant::now() >= downlink.expires {
            return self.refuse(dev_eui, id, taken, FailureReason::Expired);
        }
        match self.frame(&downlink) {
            Ok((transmission, heard_at)) => {
                self.changed(dev_eui, Scope::Session);
                let sent = self.network.session(dev_eui);
                let next = sent.map_or(0, |session| session.next_f_cnt_down);
                let carried = Carried {
                    number: number(&id),
                    id,
                    counter: next.wrapping_sub(1),
                    confirmed: downlink.confirmed,
                    expires: downlink.expires,
                    immediate: downlink.timing == Timing::Immediate,
                };
                if carried.confirmed {
                    let awaited = Awaited {
                        number: carried.number,
                        downlink: carried.id.clone(),
                        counter: carried.counter,
                    };
                    self.awaited.insert(dev_eui, awaited);
                }
                self.effects.push(Effect::Launch(Launch {
                    transmission,
                    heard_at,
                    carried: Some(carried),
                    taken,
                }));
            }
            Err(None) => {
                if let Some(taken) = taken {
                    accept(taken);
                }
                self.late(dev_eui, id);
            }
            Err(Some(reason)) => self.refuse(dev_eui, id, taken, reason),
        }
    }

    /// Makes the frame of a downlink, with the windows that can still be reached; without a reason,
    /// there are none.
    fn frame(
        &mut self,
        downlink: &Downlink,
    ) -> Result<(Transmission, Option<Instant>), Option<FailureReason>> {
        let dev_eui = downlink.dev_eui;
        let message = Message::new(
            number(&downlink.id),
            downlink.port,
            downlink.payload.clone(),
        )
        .with_confirmed(downlink.confirmed);
        if downlink.timing == Timing::Immediate {
            let frame = self.network.send(dev_eui, &message);
            // It was not heard yet, so nobody knows which concentrator is near.
            let unheard = Some(FailureReason::NoGateway);
            let frame = frame.map_err(|error| reason(error).or(unheard))?;
            return Ok((frame, None));
        }
        let heard_at = self.openings.get(&dev_eui).ok_or(None)?.heard_at;
        let (earliest, more) = (self.reachable_from(heard_at), downlink.more_pending);
        let answer = self
            .network
            .answer_from(earliest, dev_eui, Some(&message), more);
        // With a message there is always a frame.
        let frame = answer.map_err(reason)?.ok_or(None)?;
        Ok((frame, Some(heard_at)))
    }

    /// Answers a device that waits for an answer, when no command has come that could carry it.
    pub(super) fn answer_without(&mut self, dev_eui: DevEui, heard_at: Instant) {
        let opening = self.openings.get(&dev_eui);
        if opening.is_none_or(|opening| opening.heard_at != heard_at) {
            return;
        }
        let delay = opening.map_or(0, |opening| opening.delay);
        let second = self.answer_at(heard_at, delay + 1);
        if self.network.is_unsettled(dev_eui) && Instant::now() < second {
            // The hub may take its uplink in time for the second window.
            self.timers.set(second, Timer::Answer(dev_eui, heard_at));
            return;
        }
        self.release(dev_eui, false);
        let earliest = self.reachable_from(heard_at);
        match self.network.answer_from(earliest, dev_eui, None, false) {
            Ok(Some(frame)) => {
                self.changed(dev_eui, Scope::Session);
                self.send(frame, Some(heard_at), None);
            }
            // It has its answer, or cannot have it any more.
            Ok(None) | Err(SendError::NoWindow(_)) => {}
            Err(error) => {
                tracing::debug!(device.id = %dev_eui, error = %error, "Uplink not answered");
            }
        }
    }

    pub(super) fn send(
        &mut self,
        transmission: Transmission,
        heard_at: Option<Instant>,
        carried: Option<Carried>,
    ) {
        self.effects.push(Effect::Launch(Launch {
            transmission,
            heard_at,
            carried,
            taken: None,
        }));
    }

    /// Gives a frame to its concentrator. Storing may have taken its time.
    pub(super) fn launch(&mut self, launch: Launch) {
        let is_late = |carried: &Carried| carried.expires <= Instant::now();
        if launch.carried.as_ref().is_some_and(is_late) {
            return self.undo(Effect::Launch(launch));
        }
        let Launch {
            mut transmission,
            heard_at,
            carried,
            taken,
        } = launch;
        let dev_eui = transmission.dev_eui;
        if let Some(heard_at) = heard_at {
            self.keep_reachable(&mut transmission, heard_at);
        }
        let given = match transmission.windows.is_empty() {
            true => Err(TransmitError::TooLate),
            false => Ok(self.give(transmission, heard_at, carried.clone())),
        };
        let result = match given {
            Ok(true) | Err(_) => Ok(()),
            Ok(false) => Err(FailureReason::NoGateway),
        };
        match (result, taken) {
            (Ok(()), Some(taken)) => accept(taken),
            (Ok(()), None) => {}
            (Err(reason), taken) => {
                self.unawait(dev_eui, carried.as_ref());
                tracing::debug!(device.id = %dev_eui, ?reason, "Frame has no concentrator to send it");
                if let Some(carried) = &carried {
                    self.refuse(dev_eui, carried.id.clone(), taken, reason);
                }
            }
        }
        if let Err(error) = given {
            self.end(dev_eui, carried, None, Err(error));
        }
    }

    /// Gives a frame to its concentrator, and tells whether that can be reached.
    fn give(
        &mut self,
        transmission: Transmission,
        heard_at: Option<Instant>,
        carried: Option<Carried>,
    ) -> bool {
        // All tokens are in use only if 65,536 frames are on their way within some seconds.
        let free = (0..=u16::MAX).find_map(|_| {
            let token = self.next_token;
            self.next_token = token.wrapping_add(1);
            (!self.flights.contains_key(&token)).then_some(token)
        });
        let Some(token) = free else { return false };
        if !self.concentrators.send(&transmission, token) {
            return false;
        }
        let now = Instant::now();
        let last = transmission.windows.last();
        let last = heard_at.zip(last).map(|(at, window)| at + window.delay);
        let number = self.timers.number();
        let timer = Timer::Flight(token, number);
        self.timers.set(last.unwrap_or(now).max(now) + WORD, timer);
        let flight = Flight {
            transmission,
            heard_at,
            carried,
            number,
        };
        self.flights.insert(token, flight);
        true
    }

    /// Takes a concentrator's word on a frame; one that was too late for its window may go in the
    /// next.
    pub(super) fn transmitted(&mut self, gateway: Eui64, token: u16, result: TransmitResult) {
        let is_its = |flight: &Flight| flight.transmission.gateway == gateway;
        if !self.flights.get(&token).is_some_and(is_its) {
            return;
        }
        let Some(flight) = self.flights.remove(&token) else {
            return;
        };
        let Flight {
            mut transmission,
            heard_at,
            carried,
            ..
        } = flight;
        let dev_eui = transmission.dev_eui;
        if let (Err(error), Some(heard_at)) = (result, heard_at)
            && !tries_all_windows(transmission.clock)
        {
            transmission.windows.remove(0);
            self.keep_reachable(&mut transmission, heard_at);
            if !transmission.windows.is_empty() {
                tracing::debug!(device.id = %dev_eui, %gateway, ?error, "Trying the second window");
                if self.give(transmission, Some(heard_at), carried.clone()) {
                    return;
                }
            }
        }
        self.end(dev_eui, carried, Some(gateway), result);
    }

    /// Gives up on a concentrator's word.
    pub(super) fn lost(&mut self, token: u16, number: u64) {
        let is_it = |flight: &Flight| flight.number == number;
        if self.flights.get(&token).is_some_and(is_it)
            && let Some(flight) = self.flights.remove(&token)
        {
            let Transmission {
                dev_eui, gateway, ..
            } = flight.transmission;
            tracing::debug!(device.id = %dev_eui, %gateway, "Concentrator said nothing of a frame");
            let silent = Err(TransmitError::Other);
            self.end(dev_eui, flight.carried, Some(gateway), silent);
        }
    }

    /// Tells what became of a frame's downlink.
    fn end(
        &mut self,
        dev_eui: DevEui,
        carried: Option<Carried>,
        gateway: Option<Eui64>,
        result: TransmitResult,
    ) {
        let Some(carried) = carried else {
            if let Err(error) = result {
                tracing::debug!(device.id = %dev_eui, ?error, "Answer not transmitted");
            }
            return;
        };
        match result {
            Ok(()) if carried.confirmed && carried.immediate => {
                let at = Instant::now() + self.timing.ack_timeout;
                let timer = Timer::Acknowledgement(dev_eui, carried.number);
                self.timers.set(at, timer);
            }
            Ok(()) => {}
            Err(_) => self.unawait(dev_eui, Some(&carried)),
        }
        let mut ack = TransmitAck::new(dev_eui, carried.id, result);
        ack.frame_counter = Some(carried.counter);
        ack.gateway = gateway.map(|gateway| gateway.to_string());
        self.teller.outcome(Outcome::Transmit(ack));
    }

    /// Waits no longer for a device of class C; one of class A decides by its next uplink.
    pub(super) fn unanswered(&mut self, dev_eui: DevEui, number: u64) {
        let is_it = |awaited: &Awaited| awaited.number == number;
        if !self.awaited.get(&dev_eui).is_some_and(is_it) {
            return;
        }
        self.network.give_up(dev_eui);
        if let Some(awaited) = self.awaited.remove(&dev_eui) {
            let mut ack = DeviceAck::new(dev_eui, awaited.downlink, false);
            ack.frame_counter = Some(awaited.counter);
            let outcome = Outcome::Device(ack);
            self.effects.push(Effect::Tell(Told::Outcome(outcome)));
        }
    }

    /// Takes back that a device is expected to confirm what it never heard.
    fn unawait(&mut self, dev_eui: DevEui, carried: Option<&Carried>) {
        let number = carried.map(|carried| carried.number);
        let awaited = self.awaited.get(&dev_eui).map(|awaited| awaited.number);
        if number.is_some() && awaited == number {
            self.awaited.remove(&dev_eui);
            self.network.give_up(dev_eui);
        }
    }

    /// Lets go of what could not be stored, or not in time.
    pub(super) fn undo(&mut self, effect: Effect) {
        match effect {
            Effect::Launch(launch) => {
                let dev_eui = launch.transmission.dev_eui;
                self.unawait(dev_eui, launch.carried.as_ref());
                if let Some(carried) = launch.carried {
                    self.refuse(dev_eui, carried.id, launch.taken, FailureReason::Other);
                }
            }
            // What became of a downlink is so, stored or not.
            Effect::Tell(Told::Outcome(outcome)) => self.teller.outcome(outcome),
            Effect::Tell(Told::Uplink { before, word, .. }) => {
                if let Some(before) = before {
                    self.teller.outcome(Outcome::Device(before));
                }
                if let Some(lost) = word {
                    self.settle(lost);
                }
            }
            Effect::Tell(Told::Report(_)) => {}
        }
    }

    /// How long after an uplink a window must open for a frame to reach its concentrator before it.
    fn reachable_from(&self, heard_at: Instant) -> Duration {
        (Instant::now() + self.timing.lead).saturating_duration_since(heard_at)
    }

    fn keep_reachable(&self, transmission: &mut Transmission, heard_at: Instant) {
        let earliest = self.reachable_from(heard_at);
        transmission
            .windows
            .retain(|window| window.delay >= earliest);
    }
}

/// Says that a downlink is taken; whoever asked may have given up waiting.
fn accept(taken: Taken) {
    taken.send(Ok(())).ok();
}

/// The number of a downlink for the network: the same when it is given again.
fn number(id: &DownlinkId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// Why a message is not sent; without one, its window has passed.
fn reason(error: SendError) -> Option<FailureReason> {
    Some(match error {
        SendError::NoWindow(_) => return None,
        SendError::NoSession(_) => FailureReason::UnknownDevice,
        SendError::NotClassC(_) => FailureReason::Refused,
        SendError::Port(_) => FailureReason::BadPort,
        SendError::TooLong { .. } => FailureReason::TooLong,
        SendError::Waiting(_) => FailureReason::Busy,
        SendError::Exhausted(_) => FailureReason::Other,
    })
}
