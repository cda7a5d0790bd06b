//! What is due when.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::client::codec::ConnAck;
use crate::client::options::Options;

/// How long a message that was let go may keep its place, where order is not kept.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What has to happen at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A packet has no answer in time.
    Packet,
    /// A ping has none.
    Ping,
    /// A message that was let go is to come again.
    Forgotten,
    /// A sign of life is asked for.
    Sign,
    Nothing,
}

#[derive(Debug)]
pub(super) struct Clock {
    /// Seen by futures that look at the clock.
    pub(super) now: Rc<Cell<Instant>>,
    pub(super) patience: Duration,
    /// How long it may last; zero is for ever.
    silence: Duration,
    ordered_acks: bool,
    said: Instant,
    heard: Instant,
    /// The last ping, and the first without any answer.
    asked: Instant,
    pinged: Option<Instant>,
    forgotten: Option<Instant>,
    /// Nothing is read.
    pub(super) is_paused: bool,
    listening: Instant,
    /// When the client wants to look at the clock again.
    pub(super) due: Instant,
}

impl Clock {
    pub(super) fn new(options: &Options, answer: &ConnAck, now: Instant) -> Self {
        let asked = answer.server_keep_alive;
        let asked = asked.map(|seconds| Duration::from_secs(seconds.into()));
        Self {
            now: Rc::new(Cell::new(now)),
            patience: options.limits.answer_timeout,
            silence: asked.unwrap_or(options.keep_alive) * 3 / 4,
            ordered_acks: options.ordered_acks,
            said: now,
            heard: now,
            asked: now,
            pinged: None,
            forgotten: None,
            is_paused: false,
            listening: now,
            due: now,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Something is written.
    pub(super) fn said(&mut self) {
        self.said = self.now();
    }

    /// Something is read.
    pub(super) fn heard(&mut self) {
        self.heard = self.now();
        self.pinged = None;
    }

    pub(super) fn pinged(&mut self) {
        self.asked = self.now();
        self.pinged.get_or_insert(self.asked);
    }

    /// Where order is kept, whoever lets a message go sees to that.
    pub(super) fn forgot(&mut self) {
        if !self.ordered_acks {
            self.forgotten.get_or_insert(self.now.get());
        }
    }

    /// Reads again: nothing unheard before that is the broker's fault.
    pub(super) fn listen(&mut self) {
        self.is_paused = false;
        self.listening = self.now();
    }

    /// What has to happen now, if the packet that is open for longest was sent then.
    pub(super) fn due(&self, oldest: Option<Instant>) -> Due {
        let now = self.now();
        let is_late = |since: Option<Instant>| {
            let since = since.map(|since| since.max(self.listening));
            !self.is_paused && since.is_some_and(|since| since + self.patience <= now)
        };
        // One who does not read or has no answer does not know whether the broker lives, but must be heard.
        let is_deaf = self.is_paused || self.pinged.is_some();
        let said = self.said.max(self.asked);
        let last = if is_deaf { said } else { said.min(self.heard) };
        match () {
            () if is_late(oldest) => Due::Packet,
            () if is_late(self.pinged) => Due::Ping,
            () if self.forgotten.is_some_and(|since| since + FORGOTTEN <= now) => Due::Forgotten,
            () if !self.silence.is_zero() && last + self.silence <= now => Due::Sign,
            () => Due::Nothing,
        }
    }
}
