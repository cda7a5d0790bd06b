//! One connection behind its CONNACK, without IO and without a clock: packets in, bytes out, the
//! time passed in.

use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::arrivals::{Arrival, Arrivals};
use super::codec::{self, Cut, Fault, Outgoing, Packet, ReadPackets, Received};
use super::ledger::{Bounds, Key, Kind, Ledger, Outcome};
use super::options::Version;
use super::wakers::Wakers;
use crate::error::MqttError;

/// Bytes that may wait to be written, beyond those that may gather, before a broker that sends and does
/// not read is given up.
const UNREAD: usize = 8 << 20;

/// How long a message that was let go may keep its place at the broker, where nobody means to have it
/// again soon. A minute apart, connections that are made anew for it cost little.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What was agreed on with CONNECT and CONNACK.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) version: Version,
    pub(super) bounds: Bounds,
    /// Messages that may wait for our acknowledgement. A broker of version 5 knows it; from any other
    /// nothing more is read meanwhile.
    pub(super) receive: u16,
    pub(super) ordered_acks: bool,
    /// Bytes of a packet that we take.
    pub(super) max_incoming: usize,
    /// Zero means that nobody asks for a sign of life.
    pub(super) keep_alive: Duration,
    pub(super) answer_timeout: Duration,
}

/// A message on its way to the inbox.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) received: Received,
    /// None if nobody is to acknowledge it.
    pub(super) arrival: Option<Arrival>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing new is taken.
    Closing,
    Ended,
}

#[derive(Debug)]
pub(super) struct State {
    terms: Terms,
    pub(super) out: BytesMut,
    pub(super) wake: Wakers,
    ledger: Ledger,
    arrivals: Arrivals,
    phase: Phase,
    /// Packets without an answer when the connection ended.
    left_open: usize,
    /// Waits for the last answer.
    drained: Option<Waker>,
    last_sent: Instant,
    last_received: Instant,
    /// When the last ping was put.
    last_pinged: Instant,
    /// When the sign of life was asked for that has not come.
    pinged: Option<Instant>,
    /// A message that is too large and has not come whole.
    cut: Option<Cut>,
    /// Nothing is read until messages have their verdict.
    is_paused: bool,
    /// When a message was first let go that keeps its place in the broker's window until the connection
    /// ends. Where order is kept, whoever let it go sees to that.
    forgotten: Option<Instant>,
    /// Waits to read on.
    reader: Option<Waker>,
    /// Since when the broker is listened to: nothing unheard before that is its fault.
    listening: Instant,
}

impl State {
    pub(super) fn new(terms: Terms, now: Instant) -> Self {
        Self {
            ledger: Ledger::new(terms.bounds),
            arrivals: Arrivals::new(terms.receive, terms.ordered_acks),
            terms,
            out: BytesMut::new(),
            wake: Wakers::default(),
            phase: Phase::Open,
            left_open: 0,
            drained: None,
            last_sent: now,
            last_received: now,
            last_pinged: now,
            pinged: None,
            cut: None,
            is_paused: false,
            forgotten: None,
            reader: None,
            listening: now,
        }
    }

    // --- What the holders of the connection ask for. ---

    /// Enters packets of one kind, all or none.
    pub(super) fn submit(
        &mut self,
        kind: Kind,
        packets: Vec<Outgoing>,
        now: Instant,
    ) -> Result<Vec<Key>, MqttError> {
        self.admit(packets.len())?;
        let submit = |packet| self.ledger.submit(kind, packet, now, &mut self.out);
        let keys = packets.into_iter().map(submit).collect();
        self.check_pause();
        Ok(keys)
    }

    /// Enters one packet.
    pub(super) fn submit_one(
        &mut self,
        kind: Kind,
        packet: Outgoing,
        now: Instant,
    ) -> Result<Key, MqttError> {
        self.admit(1)?;
        let key = self.ledger.submit(kind, packet, now, &mut self.out);
        self.check_pause();
        Ok(key)
    }

    fn admit(&self, packets: usize) -> Result<(), MqttError> {
        match self.phase {
            Phase::Ended => Err(MqttError::Down),
            Phase::Closing => Err(MqttError::Closed),
            Phase::Open if !self.ledger.has_room(packets) => Err(MqttError::Crowded),
            Phase::Open => Ok(()),
        }
    }

    pub(super) fn poll(&mut self, key: Key, waker: &Waker) -> Poll<Outcome> {
        self.ledger.poll(key, waker)
    }

    pub(super) fn drop_key(&mut self, key: Key) {
        self.ledger.drop_key(key);
        self.check_drained();
    }

    pub(super) fn acknowledge(&mut self, arrival: Arrival) {
        if self.phase != Phase::Ended {
            self.arrivals.acknowledge(arrival, &mut self.out);
            self.check_pause();
        }
    }

    /// Lets a message go; true if the broker has no way left to send another.
    pub(super) fn forget(&mut self, arrival: Arrival, now: Instant) -> bool {
        if self.phase == Phase::Ended {
            return false;
        }
        if !self.terms.ordered_acks {
            self.forgotten.get_or_insert(now);
        }
        self.arrivals.forget(arrival, &mut self.out);
        self.check_pause();
        self.arrivals.is_stuck()
    }

    /// Tells whether nothing more is to be read of a broker that cannot be told how much may wait for
    /// us. What we wait for ourselves, and a verdict perhaps with us, may be behind it: then twice as
    /// much is read.
    fn is_full(&self) -> bool {
        let times = if self.ledger.open() == 0 { 1 } else { 2 };
        self.arrivals.is_full(times)
    }

    fn check_pause(&mut self) {
        if self.is_paused && !self.is_full() {
            self.wake.add(self.reader.take());
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.ledger.in_flight()
    }

    /// Tells whether nothing was open when the connection ended.
    pub(super) fn was_idle(&self) -> bool {
        self.left_open == 0
    }

    /// Takes nothing new from now on.
    pub(super) fn close(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
    }

    /// Waits until nothing is open. For one task.
    pub(super) fn poll_drained(&mut self, waker: &Waker) -> Poll<()> {
        if self.ledger.open() == 0 || self.phase == Phase::Ended {
            return Poll::Ready(());
        }
        self.drained = Some(waker.clone());
        Poll::Pending
    }

    fn check_drained(&mut self) {
        if self.drained.is_some() && self.ledger.open() == 0 {
            self.wake.add(self.drained.take());
        }
    }

    // --- What the driver tells. ---

    /// Waits until messages have room.
    pub(super) fn poll_room(&mut self, waker: &Waker, now: Instant) -> Poll<()> {
        if self.is_paused && self.is_full() {
            self.reader = Some(waker.clone());
            return Poll::Pending;
        }
        if std::mem::take(&mut self.is_paused) {
            self.listening = now;
        }
        Poll::Ready(())
    }

    /// Takes every whole packet off what was read, as long as messages have room; tells whether they
    /// still have. An error is the end of the connection.
    pub(super) fn on_bytes(
        &mut self,
        buffer: &mut BytesMut,
        now: Instant,
        arrived: &mut Vec<Arrived>,
    ) -> Result<bool, MqttError> {
        self.last_received = now;
        self.pinged = None;
        let mut cut = self.cut.take();
        let packets = ReadPackets::new(buffer, self.terms.version, self.terms.max_incoming);
        let mut packets = packets.cutting(&mut cut);
        let is_told = self.terms.version == Version::V5;
        let worked = loop {
            if !is_told && self.is_full() {
                self.is_paused = true;
                break Ok(());
            }
            match packets.next() {
                Ok(Some(packet)) => {
                    if let Err(end) = self.on_packet(packet, arrived) {
                        break Err(end);
                    }
                }
                Ok(None) => break Ok(()),
                Err(fault) => break Err(End::Fault(fault)),
            }
        };
        drop(packets);
        self.cut = cut;
        self.ledger.pump(now, &mut self.out);
        self.check_drained();
        match worked {
            Err(End::Fault(fault)) => {
                // Version 3.1.1 knows only an end without a fault, which would take back the will.
                if self.terms.version == Version::V5 {
                    codec::disconnect(Version::V5, fault.code, &mut self.out);
                }
                Err(fault.into())
            }
            Err(End::Said(code, text)) => Err(MqttError::Ended { code, text }),
            Ok(()) if self.out.len() > self.terms.bounds.buffer + UNREAD => Err(
                MqttError::Protocol("the broker sends and does not read".into()),
            ),
            Ok(()) => Ok(!self.is_paused),
        }
    }

    fn on_packet(&mut self, packet: Packet, arrived: &mut Vec<Arrived>) -> Result<(), End> {
        let (id, kind, outcome) = match packet {
            Packet::Publish(received) => {
                let arrival = match received.id {
                    None => None,
                    Some(id) => {
                        let is_told = self.terms.version == Version::V5;
                        let arrival = self.arrivals.arrive(id, received.duplicate, is_told)?;
                        if arrival.is_none() {
                            return Ok(());
                        }
                        arrival
                    }
                };
                arrived.push(Arrived { received, arrival });
                return Ok(());
            }
            Packet::PubAck { id, code } => (id, Kind::Publish, Outcome::Acknowledged(code)),
            Packet::SubAck { id, codes } => (id, Kind::Subscribe, Outcome::Answered(codes)),
            Packet::UnsubAck { id, codes } => (id, Kind::Unsubscribe, Outcome::Answered(codes)),
            Packet::PingResp => return Ok(()),
            Packet::Disconnect { code, text } => return Err(End::Said(code, text)),
            Packet::ConnAck(_) => return Err(Fault::protocol("a second CONNACK").into()),
        };
        Ok(self.ledger.answer(id, kind, outcome, &mut self.wake)?)
    }

    /// Takes all that is to be written, and lets what waits for room follow.
    pub(super) fn take_output(&mut self, empty: BytesMut, now: Instant) -> BytesMut {
        let taken = std::mem::replace(&mut self.out, empty);
        if !taken.is_empty() {
            self.last_sent = now;
        }
        self.ledger.pump(now, &mut self.out);
        taken
    }

    /// When `on_time` next has something to do, whatever is submitted or comes until then.
    pub(super) fn next_deadline(&self, now: Instant) -> Instant {
        let patience = self.terms.answer_timeout;
        // What is submitted or let go from now on has all its time before it.
        let mut due = now + patience.min(FORGOTTEN);
        if let Some(since) = self.forgotten {
            due = due.min(since + FORGOTTEN);
        }
        if !self.is_paused {
            let asked = [self.ledger.oldest(), self.pinged];
            for since in asked.into_iter().flatten() {
                due = due.min(since.max(self.listening) + patience);
            }
        }
        self.silence_ends().map_or(due, |time| due.min(time))
    }

    /// When another ping is due: a quarter short of the keep-alive, since the broker counts until our
    /// ping has come.
    fn silence_ends(&self) -> Option<Instant> {
        let silence = self.terms.keep_alive * 3 / 4;
        // A ping counts as soon as it is put, whenever the broker reads it.
        let said = self.last_sent.max(self.last_pinged);
        let last = match self.is_paused || self.pinged.is_some() {
            // Nothing is heard, or not yet; the broker must hear us all the while.
            true => said,
            false => said.min(self.last_received),
        };
        (!silence.is_zero()).then(|| last + silence)
    }

    /// Does what has become due. An error is the end of the connection.
    pub(super) fn on_time(&mut self, now: Instant) -> Result<(), MqttError> {
        let patience = self.terms.answer_timeout;
        let is_due = |since: Option<Instant>| {
            !self.is_paused
                && since.is_some_and(|since| since.max(self.listening) + patience <= now)
        };
        if is_due(self.ledger.oldest()) {
            if let Some(before) = now.checked_sub(patience) {
                self.ledger.expire(before, &mut self.wake);
            }
            return Err(MqttError::Unanswered("a packet"));
        }
        if is_due(self.pinged) {
            return Err(MqttError::Unanswered("a ping"));
        }
        if self.forgotten.is_some_and(|since| since + FORGOTTEN <= now) {
            return Err(MqttError::Forgotten);
        }
        if self.silence_ends().is_some_and(|time| time <= now) {
            self.last_pinged = now;
            self.pinged.get_or_insert(now);
            codec::ping(&mut self.out);
        }
        Ok(())
    }

    /// Says that the connection ends.
    pub(super) fn put_disconnect(&mut self) {
        codec::disconnect(self.terms.version, 0, &mut self.out);
    }

    /// Fails everything that is on the connection.
    pub(super) fn fail(&mut self) {
        if self.phase != Phase::Ended {
            self.left_open = self.ledger.open();
        }
        self.phase = Phase::Ended;
        self.ledger.fail(&mut self.wake);
        self.wake.add(self.drained.take());
    }
}

/// Why a packet ends the connection.
#[derive(Debug)]
enum End {
    Fault(Fault),
    /// The broker said so.
    Said(u8, String),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl State {
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
