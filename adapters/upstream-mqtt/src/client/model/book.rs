//! What was asked of a client and what its broker said, and what has to come of that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use crate::client::codec::{ConnAck, Cut, Packet, ReadPackets, Received};
use crate::client::ledger::{Kind, Outcome};
use crate::client::options::{Options, Version};
use crate::error::MqttError;

/// Packet identifiers: all but zero.
const IDS: u64 = u16::MAX as u64;

/// What is to become of a message that came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    Acknowledged,
    Forgotten,
}

/// Why what the broker says ends the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// With this reason, which a broker of version 5 is told.
    Fault(u8),
    /// The broker's own reason.
    Said(u8, String),
}

/// A packet without an answer.
#[derive(Debug)]
struct Open {
    number: usize,
    kind: Kind,
    /// How many were sent before it.
    turn: u64,
    since: Instant,
    is_dropped: bool,
}

/// Packets have the numbers in which they were submitted, messages those in which they came.
#[derive(Debug)]
pub(super) struct Book {
    version: Version,
    ordered_acks: bool,
    /// Messages without acknowledgement, in either direction.
    in_flight: usize,
    receive: usize,
    buffer: usize,
    queued: usize,
    max_incoming: usize,
    cut: Option<Cut>,
    /// Not sent yet, in order.
    waiting: VecDeque<(usize, Kind)>,
    /// Sent and not answered, by identifier.
    open: BTreeMap<u16, Open>,
    /// How many were sent.
    turns: u64,
    /// What those are to be told who wait for it.
    told: BTreeMap<usize, Outcome>,
    arrivals: u64,
    /// Messages without a verdict; where order is kept, those behind one too.
    ring: VecDeque<(u64, u16, Fate)>,
    unacknowledged: usize,
    /// What must be said.
    acks: VecDeque<u16>,
    pings: usize,
    goodbye: Option<u8>,
    is_closing: bool,
    /// An answer did not come in time.
    is_late: bool,
    pub(super) is_over: bool,
}

impl Book {
    pub(super) fn new(options: &Options, answer: &ConnAck) -> Self {
        let limits = &options.limits;
        Self {
            version: options.version,
            ordered_acks: options.ordered_acks,
            in_flight: limits.in_flight.min(answer.receive_maximum).into(),
            receive: limits.receive.into(),
            buffer: limits.buffer,
            queued: limits.queued,
            max_incoming: limits.max_packet,
            cut: None,
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
            turns: 0,
            told: BTreeMap::new(),
            arrivals: 0,
            ring: VecDeque::new(),
            unacknowledged: 0,
            acks: VecDeque::new(),
            pings: 0,
            goodbye: None,
            is_closing: false,
            is_late: false,
            is_over: false,
        }
    }

    // --- What the holders ask for. ---

    /// Why so many more packets are not taken.
    pub(super) fn refuses(&self, more: usize) -> Option<MqttError> {
        let is_crowded = !self.waiting.is_empty() && self.waiting.len() + more > self.queued;
        match (self.is_over, self.is_closing) {
            (true, _) => Some(MqttError::Down),
            (_, true) => Some(MqttError::Closed),
            _ => is_crowded.then_some(MqttError::Crowded),
        }
    }

    pub(super) fn enter(&mut self, number: usize, kind: Kind) {
        self.waiting.push_back((number, kind));
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancel(&mut self, number: usize) {
        self.waiting.retain(|(waiting, _)| *waiting != number);
        let mut open = self.open.values_mut();
        if let Some(open) = open.find(|open| open.number == number) {
            open.is_dropped = true;
        }
        self.told.remove(&number);
    }

    pub(super) fn close(&mut self) {
        self.is_closing = true;
    }

    /// A verdict, or that there is none.
    pub(super) fn decide(&mut self, number: u64, fate: Fate) {
        if self.is_over {
            return;
        }
        for message in &mut self.ring {
            if message.0 == number {
                message.2 = fate;
            }
        }
        let may_tell = |is_first: bool| is_first || !self.ordered_acks;
        let mut is_first = true;
        let mut kept = VecDeque::new();
        for message in std::mem::take(&mut self.ring) {
            if message.2 == Fate::Open || !may_tell(is_first) {
                is_first = false;
                kept.push_back(message);
            } else if message.2 == Fate::Acknowledged {
                self.acks.push_back(message.1);
                self.unacknowledged -= 1;
            }
        }
        self.ring = kept;
    }

    /// Tells whether the broker's window is taken up by messages that were let go.
    pub(super) fn is_stuck(&self) -> bool {
        !self.is_over && self.ring.is_empty() && self.unacknowledged >= self.receive
    }

    // --- What the client says. ---

    /// A packet goes out behind so many bytes.
    pub(super) fn sent(&mut self, id: u16, number: usize, kind: Kind, before: usize, now: Instant) {
        assert!(self.may_send(kind, before), "there is no room for {number}");
        // What was given up is not among these.
        let next = self.waiting.pop_front();
        assert_eq!(next, Some((number, kind)), "in order, each once");
        assert_eq!(u64::from(id), self.turns % IDS + 1, "identifiers go round");
        let open = Open {
            number,
            kind,
            turn: self.turns,
            since: now,
            is_dropped: false,
        };
        let before = self.open.insert(id, open);
        assert!(before.is_none(), "an identifier means one packet");
        self.turns += 1;
    }

    pub(super) fn acknowledged(&mut self, id: u16) {
        let next = self.acks.pop_front();
        assert_eq!(next, Some(id), "in order, each once");
    }

    pub(super) fn expect_ping(&mut self) {
        self.pings += 1;
    }

    pub(super) fn pinged(&mut self) {
        assert!(self.pings > 0, "a ping for no reason");
        self.pings -= 1;
    }

    pub(super) fn expect_goodbye(&mut self, code: u8) {
        self.goodbye = Some(code);
    }

    pub(super) fn said_goodbye(&mut self, code: u8) {
        let expected = self.goodbye.take();
        assert_eq!(expected, Some(code), "an end for no reason");
    }

    /// All that had to be said was.
    pub(super) fn check_said(&self) {
        let left = (self.acks.len(), self.pings, self.goodbye);
        assert_eq!(left, (0, 0, None), "it is not said");
    }

    /// Nothing waits that may go out behind so many bytes.
    pub(super) fn check_progress(&self, gathered: usize) {
        if let Some((number, kind)) = self.waiting.front() {
            let may_send = self.may_send(*kind, gathered);
            assert!(!may_send, "{kind:?} {number} waits for nothing");
        }
    }

    fn may_send(&self, kind: Kind, gathered: usize) -> bool {
        let first = self.open.values().map(|open| open.turn).min();
        let has_id = first.is_none_or(|first| self.turns - first < IDS);
        let has_window = kind != Kind::Publish || self.in_flight() < self.in_flight;
        has_id && has_window && gathered < self.buffer
    }

    // --- What the broker says. ---

    /// Tells whether a broker that knows of no window has to wait.
    pub(super) fn is_full(&self) -> bool {
        let times = if self.open() == 0 { 1 } else { 2 };
        self.version == Version::V4 && self.ring.len() >= times * self.receive
    }

    /// What the client reads now: the messages in it that it hands on, with their numbers if they
    /// are to be acknowledged, and whether it reads on. The buffer is left as it must be.
    #[expect(clippy::type_complexity, reason = "used once")]
    pub(super) fn hear(
        &mut self,
        buffer: &mut BytesMut,
    ) -> (Vec<(Received, Option<u64>)>, Result<bool, End>) {
        let mut cut = self.cut.take();
        let packets = ReadPackets::new(buffer, self.version, self.max_incoming);
        let mut packets = packets.cutting(&mut cut);
        let mut handed = Vec::new();
        let told = loop {
            if self.is_full() {
                break Ok(false);
            }
            match packets.next() {
                Ok(None) => break Ok(true),
                Err(fault) => break Err(End::Fault(fault.code)),
                Ok(Some(packet)) => match self.heard(packet) {
                    Ok(message) => handed.extend(message),
                    Err(end) => break Err(end),
                },
            }
        };
        drop(packets);
        self.cut = cut;
        if let (Err(End::Fault(code)), Version::V5) = (&told, self.version) {
            self.goodbye = Some(*code);
        }
        (handed, told)
    }

    fn heard(&mut self, packet: Packet) -> Result<Option<(Received, Option<u64>)>, End> {
        match packet {
            Packet::Publish(received) => return self.arrived(received),
            Packet::PubAck { id, code } => {
                self.answered(id, Kind::Publish, Outcome::Acknowledged(code))?;
            }
            Packet::SubAck { id, codes } => {
                self.answered(id, Kind::Subscribe, Outcome::Answered(codes))?;
            }
            Packet::UnsubAck { id, codes } => {
                self.answered(id, Kind::Unsubscribe, Outcome::Answered(codes))?;
            }
            Packet::PingResp => {}
            Packet::Disconnect { code, text } => return Err(End::Said(code, text)),
            Packet::ConnAck(_) => return Err(End::Fault(0x82)),
        }
        Ok(None)
    }

    fn arrived(&mut self, received: Received) -> Result<Option<(Received, Option<u64>)>, End> {
        let Some(id) = received.id else {
            return Ok(Some((received, None)));
        };
        let is_here = |message: &(u64, u16, Fate)| message.1 == id && message.2 != Fate::Forgotten;
        if received.duplicate && self.ring.iter().any(is_here) {
            return Ok(None);
        }
        if self.version == Version::V5 && self.unacknowledged >= self.receive {
            return Err(End::Fault(0x93));
        }
        let number = self.arrivals;
        self.arrivals += 1;
        self.unacknowledged += 1;
        self.ring.push_back((number, id, Fate::Open));
        Ok(Some((received, Some(number))))
    }

    /// An answer to what is not open is nothing.
    fn answered(&mut self, id: u16, kind: Kind, outcome: Outcome) -> Result<(), End> {
        match self.open.get(&id).map(|open| open.kind == kind) {
            None => Ok(()),
            Some(false) => Err(End::Fault(0x82)),
            Some(true) => {
                let open = self.open.remove(&id);
                self.tell(open, &outcome);
                Ok(())
            }
        }
    }

    // --- What comes of it. ---

    fn tell(&mut self, open: impl IntoIterator<Item = Open>, outcome: &Outcome) {
        let waits = open.into_iter().filter(|open| !open.is_dropped);
        let told = waits.map(|open| (open.number, outcome.clone()));
        self.told.extend(told);
    }

    /// What was sent so long ago has no answer in time.
    pub(super) fn expire(&mut self, patience: Duration, now: Instant) {
        self.is_late = true;
        let all = std::mem::take(&mut self.open).into_iter();
        let (late, open): (Vec<_>, _) = all.partition(|(_, open)| open.since + patience <= now);
        self.open = open.into_iter().collect();
        self.tell(late.into_iter().map(|(_, open)| open), &Outcome::Unanswered);
    }

    /// The connection is gone.
    pub(super) fn end(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.tell(open.into_values(), &Outcome::Down);
        let waiting = std::mem::take(&mut self.waiting);
        let told = waiting
            .into_iter()
            .map(|(number, _)| (number, Outcome::Down));
        self.told.extend(told);
        self.is_over = true;
    }

    /// What one who waits must be told now.
    pub(super) fn told(&mut self, number: usize) -> Option<Outcome> {
        self.told.remove(&number)
    }

    /// When that was sent which is open for longest.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.open.values().map(|open| open.since).min()
    }

    /// Messages without acknowledgement.
    pub(super) fn in_flight(&self) -> usize {
        let open = self.open.values();
        open.filter(|open| open.kind == Kind::Publish).count()
    }

    /// Packets without an answer.
    pub(super) fn open(&self) -> usize {
        self.open.len() + self.waiting.len()
    }

    /// Tells whether nothing waits for its turn.
    pub(super) fn has_turn(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tells whether nothing was left without an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.open() == 0 && !self.is_late
    }

    /// What the client has to remember.
    pub(super) fn held(&self) -> usize {
        self.open() + self.told.len()
    }

    /// Messages that the broker has no word of.
    pub(super) fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }
}
