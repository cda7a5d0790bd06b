//! One frame that several concentrators heard is one frame.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::super::radio::Reception;

/// Collects what concentrators heard of the same frame, and hands it out once.
///
/// The first copy waits for others; a copy that comes later still is dropped, so that it is not
/// taken for the device's sending it again.
#[derive(Debug)]
pub struct Collector {
    hold: Duration,
    known: Duration,
    bound: usize,
    frames: HashMap<Bytes, Option<Collected>>,
    /// When each frame is handed out, in that order.
    due: VecDeque<(Duration, Bytes)>,
    /// When each frame is forgotten, in that order.
    forget: VecDeque<(Duration, Bytes)>,
}

/// Is a frame with all that heard it in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    /// The frame.
    pub frame: Bytes,
    /// Who heard it best: an answer goes through that concentrator.
    pub best: Reception,
    /// Who else heard it, 31 at most.
    pub others: Vec<Reception>,
}

/// Is what a copy of a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyKind {
    /// The first one.
    First,
    /// Another one, in time.
    Another,
    /// One that comes after the frame was handed out, and is dropped.
    Late,
    /// A first one that is dropped, since too many frames are held for copies.
    Overflow,
}

/// Concentrators that are remembered for a frame, beside the best.
const OTHERS: usize = 31;

impl Collected {
    /// Makes a frame that one concentrator heard.
    #[must_use]
    pub fn new(frame: Bytes, best: Reception) -> Self {
        Self {
            frame,
            best,
            others: Vec::new(),
        }
    }

    /// Adds who else heard it. A concentrator counts once: one that is close hears a frame on the
    /// channels beside, too.
    pub fn add(&mut self, mut reception: Reception) {
        let better = |a: &Reception, b: &Reception| {
            (a.snr.total_cmp(&b.snr))
                .then(a.rssi.total_cmp(&b.rssi))
                .is_gt()
        };
        let again = reception.gateway == self.best.gateway;
        if better(&reception, &self.best) {
            std::mem::swap(&mut self.best, &mut reception);
            self.others
                .retain(|other| other.gateway != self.best.gateway);
        }
        if again {
            return;
        }
        let known = self
            .others
            .iter_mut()
            .find(|other| other.gateway == reception.gateway);
        if let Some(known) = known {
            if better(&reception, known) {
                *known = reception;
            }
        } else if self.others.len() < OTHERS {
            self.others.push(reception);
        }
    }

    /// Returns how many concentrators heard it.
    #[must_use]
    pub fn gateways(&self) -> usize {
        1 + self.others.len()
    }
}

impl Collector {
    /// Makes a collector that holds a frame's first copy for a time (200 ms is usual: it must be
    /// well below the second after which the device listens), and from that copy on has known the
    /// frame for another: until its device's second window, before which no device sends again. It
    /// has so many frames at most; those that were handed out make room.
    #[must_use]
    pub fn new(hold: Duration, known: Duration, bound: usize) -> Self {
        Self {
            hold,
            known: known.max(hold),
            bound,
            frames: HashMap::new(),
            due: VecDeque::new(),
            forget: VecDeque::new(),
        }
    }

    /// Takes a copy of a frame. Time must not go back between calls.
    pub fn hear(&mut self, now: Duration, frame: Bytes, reception: Reception) -> CopyKind {
        self.forget(now);
        match self.frames.get_mut(&frame) {
            Some(Some(collected)) => {
                collected.add(reception);
                return CopyKind::Another;
            }
            Some(None) => return CopyKind::Late,
            None => {}
        }
        if self.frames.len() >= self.bound {
            let Some((_, oldest)) = self.forget.pop_front() else {
                return CopyKind::Overflow;
            };
            self.frames.remove(&oldest);
        }
        let collected = Collected::new(frame.clone(), reception);
        self.frames.insert(frame.clone(), Some(collected));
        self.due.push_back((now + self.hold, frame));
        CopyKind::First
    }

    /// Hands out the next frame whose time has come.
    pub fn next(&mut self, now: Duration) -> Option<Collected> {
        let (due, frame) = pop_due(&mut self.due, now)?;
        let collected = self.frames.get_mut(&frame).and_then(Option::take);
        self.forget.push_back((due + self.known - self.hold, frame));
        collected
    }

    /// Returns when the next frame is handed out.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.due.front().map(|(at, _)| *at)
    }

    fn forget(&mut self, now: Duration) {
        while let Some((_, frame)) = pop_due(&mut self.forget, now) {
            self.frames.remove(&frame);
        }
    }
}

fn pop_due(queue: &mut VecDeque<(Duration, Bytes)>, now: Duration) -> Option<(Duration, Bytes)> {
    let due = queue.front().is_some_and(|(at, _)| *at <= now);
    due.then(|| queue.pop_front()).flatten()
}
