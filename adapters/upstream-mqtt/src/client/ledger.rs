//! What was submitted and has no answer yet: one entry a packet, from the call to the broker's word.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use bytes::BytesMut;
use tokio::time::Instant;

use super::codec::{Fault, Outgoing};
use super::wakers::Wakers;

/// Packet identifiers: all but zero.
const IDS: u64 = u16::MAX as u64;
/// What the queue may hold of what nobody waits for, beside as much again.
const STALE: usize = 16;

/// Names an entry until its holder lets it go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    serial: u32,
}

/// Which answer a packet asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Publish,
    Subscribe,
    Unsubscribe,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// PUBACK with this reason.
    Acknowledged(u8),
    /// SUBACK or UNSUBACK with these.
    Answered(Vec<u8>),
    /// No answer came in time, which ended the connection.
    Unanswered,
    /// The connection is gone.
    Down,
}

#[derive(Debug)]
enum Stage {
    Free,
    /// Waits for an identifier or for room.
    Waiting,
    Sent,
    Done(Outcome),
}

#[derive(Debug)]
struct Entry {
    serial: u32,
    kind: Kind,
    stage: Stage,
    waker: Option<Waker>,
    /// Nobody waits for the answer any more.
    is_dropped: bool,
}

/// A packet with an identifier. Those that are answered stay until all before them are.
#[derive(Debug)]
struct Sent {
    /// None once it is answered.
    key: Option<Key>,
    since: Instant,
}

/// What may be on its way at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Messages without PUBACK.
    pub(super) in_flight: usize,
    /// Bytes that gather before packets wait.
    pub(super) buffer: usize,
    /// Packets that wait.
    pub(super) queued: usize,
}

#[derive(Debug)]
pub(super) struct Ledger {
    bounds: Bounds,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Packets that wait, in order; some may be cancelled.
    queue: VecDeque<(Key, Outgoing)>,
    /// Those in the queue that are not cancelled.
    waiting: usize,
    /// By identifier, which are given out in turn.
    sent: VecDeque<Sent>,
    /// The turn of the first in `sent`.
    first: u64,
    /// Messages without PUBACK.
    in_flight: usize,
    /// Packets without an answer.
    open: usize,
}

impl Ledger {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            entries: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            waiting: 0,
            sent: VecDeque::new(),
            first: 0,
            in_flight: 0,
            open: 0,
        }
    }

    /// Messages without PUBACK.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Packets without an answer, those that wait among them.
    pub(super) fn open(&self) -> usize {
        self.open + self.waiting
    }

    /// Tells whether so many more may come. One batch may, whatever its size, when nothing waits.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.waiting == 0 || self.waiting + more <= self.bounds.queued
    }

    /// Enters a packet and sends it if it is its turn.
    pub(super) fn submit(
        &mut self,
        kind: Kind,
        packet: Outgoing,
        now: Instant,
        out: &mut BytesMut,
    ) -> Key {
        let key = self.enter(kind);
        if self.waiting == 0 && self.may_send(kind, out) {
            self.send(key, packet, now, out);
        } else {
            self.queue.push_back((key, packet));
            self.waiting += 1;
        }
        key
    }

    fn enter(&mut self, kind: Kind) -> Key {
        let fresh = |serial| Entry {
            serial,
            kind,
            stage: Stage::Waiting,
            waker: None,
            is_dropped: false,
        };
        match self.free.pop() {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                *entry = fresh(entry.serial.wrapping_add(1));
                let serial = entry.serial;
                Key { index, serial }
            }
            None => {
                self.entries.push(fresh(0));
                let index = self.entries.len() as u32 - 1;
                Key { index, serial: 0 }
            }
        }
    }

    fn may_send(&self, kind: Kind, out: &BytesMut) -> bool {
        let has_window = kind != Kind::Publish || self.in_flight < self.bounds.in_flight;
        has_window && out.len() < self.bounds.buffer && (self.sent.len() as u64) < IDS
    }

    fn send(&mut self, key: Key, packet: Outgoing, now: Instant, out: &mut BytesMut) {
        let turn = self.first + self.sent.len() as u64;
        let entry = &mut self.entries[key.index as usize];
        entry.stage = Stage::Sent;
        self.in_flight += usize::from(entry.kind == Kind::Publish);
        self.open += 1;
        self.sent.push_back(Sent {
            key: Some(key),
            since: now,
        });
        packet.write((turn % IDS) as u16 + 1, out);
    }

    /// Sends what waits, as far as there are identifiers and room.
    pub(super) fn pump(&mut self, now: Instant, out: &mut BytesMut) {
        while let Some((key, _)) = self.queue.front() {
            let key = *key;
            let kind = self.get(key).map(|entry| entry.kind);
            if kind.is_some_and(|kind| !self.may_send(kind, out)) {
                return;
            }
            let Some((_, packet)) = self.queue.pop_front() else {
                return;
            };
            if kind.is_some() {
                self.waiting -= 1;
                self.send(key, packet, now, out);
            }
        }
    }

    fn get(&mut self, key: Key) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.serial == key.serial && !matches!(entry.stage, Stage::Free)).then_some(entry)
    }

    fn release(&mut self, key: Key) {
        self.entries[key.index as usize].stage = Stage::Free;
        self.free.push(key.index);
    }

    /// The broker's answer to a packet. One to no open packet is one that came twice, and nothing.
    ///
    /// # Errors
    /// It is no answer to what was asked.
    pub(super) fn answer(
        &mut self,
        id: u16,
        kind: Kind,
        outcome: Outcome,
        wake: &mut Wakers,
    ) -> Result<(), Fault> {
        let turn = u64::from(id).wrapping_sub(1);
        let at = (turn + IDS - self.first % IDS) % IDS;
        let Some(key) = self.sent.get(at as usize).and_then(|sent| sent.key) else {
            tracing::debug!(id, ?kind, "The broker answers what is not open");
            return Ok(());
        };
        if self.entries[key.index as usize].kind != kind {
            return Err(Fault::protocol(
                "an answer to another packet than was asked",
            ));
        }
        self.sent[at as usize].key = None;
        while self.sent.front().is_some_and(|sent| sent.key.is_none()) {
            self.sent.pop_front();
            self.first += 1;
        }
        self.in_flight -= usize::from(kind == Kind::Publish);
        self.open -= 1;
        self.conclude(key, outcome, wake);
        Ok(())
    }

    fn conclude(&mut self, key: Key, outcome: Outcome, wake: &mut Wakers) {
        let entry = &mut self.entries[key.index as usize];
        if entry.is_dropped {
            self.release(key);
        } else {
            entry.stage = Stage::Done(outcome);
            wake.add(entry.waker.take());
        }
    }

    /// What became of a packet. Once it is told, the entry is gone.
    pub(super) fn poll(&mut self, key: Key, waker: &Waker) -> Poll<Outcome> {
        let Some(entry) = self.get(key) else {
            return Poll::Ready(Outcome::Down);
        };
        if let Stage::Done(outcome) = &mut entry.stage {
            let outcome = std::mem::replace(outcome, Outcome::Down);
            self.release(key);
            return Poll::Ready(outcome);
        }
        match &mut entry.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Poll::Pending
    }

    /// Nobody waits for the answer any more: what waits is not sent, and what is sent keeps its
    /// identifier until it is answered.
    pub(super) fn drop_key(&mut self, key: Key) {
        let Some(entry) = self.get(key) else { return };
        match entry.stage {
            Stage::Sent => {
                entry.is_dropped = true;
                entry.waker = None;
            }
            Stage::Waiting => {
                self.release(key);
                self.waiting -= 1;
                if self.queue.len() > 2 * self.waiting + STALE {
                    let entries = &self.entries;
                    self.queue.retain(|(key, _)| {
                        let entry = &entries[key.index as usize];
                        entry.serial == key.serial && matches!(entry.stage, Stage::Waiting)
                    });
                }
            }
            Stage::Done(_) | Stage::Free => self.release(key),
        }
    }

    /// When the answer to the packet that waits longest was due at the latest, counted from its
    /// sending.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|sent| sent.since)
    }

    /// Fails the packets that were sent before this. They stay open, as the connection ends with it.
    pub(super) fn expire(&mut self, before: Instant, wake: &mut Wakers) {
        for at in 0..self.sent.len() {
            if self.sent[at].since > before {
                return;
            }
            if let Some(key) = self.sent[at].key.take() {
                self.conclude(key, Outcome::Unanswered, wake);
            }
        }
    }

    /// Fails all that is open: the connection is gone.
    pub(super) fn fail(&mut self, wake: &mut Wakers) {
        for sent in std::mem::take(&mut self.sent) {
            if let Some(key) = sent.key {
                self.conclude(key, Outcome::Down, wake);
            }
        }
        for (key, _) in std::mem::take(&mut self.queue) {
            if self.get(key).is_some() {
                self.conclude(key, Outcome::Down, wake);
            }
        }
        (self.in_flight, self.open, self.waiting) = (0, 0, 0);
    }
}

/// What the ledger holds, for tests of what it must not.
#[cfg(any(test, feature = "fuzzing"))]
impl Ledger {
    pub(super) fn held(&self) -> usize {
        let is_held = |entry: &&Entry| !matches!(entry.stage, Stage::Free);
        self.entries.iter().filter(is_held).count()
    }

    pub(super) fn queue_len(&self) -> usize {
        self.queue.len()
    }
}
