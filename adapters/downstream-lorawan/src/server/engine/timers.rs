//! What is to be done when, in order. Nothing is taken back: who fires looks whether it still
//! matters.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::event::DevEui;

#[derive(Debug, Clone, Copy)]
pub(super) enum Timer {
    /// A device that was heard then waits for an answer, with or without a command.
    Answer(DevEui, Instant),
    /// A concentrator has said nothing of the frame with this token and number.
    Flight(u16, u64),
    /// A device of class C has not acknowledged its downlink of this number.
    Acknowledgement(DevEui, u64),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// The number keeps those of one moment apart.
    due: BTreeMap<(Instant, u64), Timer>,
    next: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        let number = self.number();
        self.due.insert((at, number), timer);
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
