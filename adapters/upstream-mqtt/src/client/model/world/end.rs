//! How a run ends, and what must be true then.

use super::World;
use crate::client::model::book::Fate;
use crate::client::state::State;
use crate::error::MqttError;

/// A run that is not over by then has no end.
const MOST_ROUNDS: usize = 4_000;

impl World {
    /// The connection is gone.
    pub(super) fn end(&mut self) {
        if self.book.is_over {
            return;
        }
        let is_idle = self.book.is_idle();
        self.shared.conclude(MqttError::Down);
        self.book.end();
        assert_eq!(self.shared.lock().was_idle(), is_idle);
        (self.room, self.clock.is_paused) = (None, false);
    }

    /// The connection breaks, unless it has.
    pub(in crate::client) fn cut(mut self) {
        self.end();
        self.run();
        self.check();
        assert!(self.tasks.is_empty() && self.drained.is_none());
        assert_eq!(self.shared.lock().ledger().held(), 0);
    }

    /// A good broker reads and answers all there is, and all that it sent has its verdict. Then the
    /// connection ends in order.
    pub(in crate::client) fn wind_up(mut self) {
        let mut rounds = 0..MOST_ROUNDS;
        while self.is_busy() {
            rounds.next().expect("it goes on for ever");
            self.run();
            while self.write() > 0 {}
            while self.broker.answer(0, 0) || self.broker.pong() {}
            self.hear(usize::MAX);
            while !self.held.is_empty() {
                self.decide(0, Fate::Acknowledged);
            }
            self.run();
            self.check();
        }
        if !self.book.is_over {
            let left = (self.book.open(), self.shared.lock().ledger().queue_len());
            assert_eq!(left, (0, 0));
            // Every acknowledgement has come.
            assert!(self.broker.unacknowledged() <= self.book.unacknowledged());
            self.book.expect_goodbye(0);
            self.shared.with(State::put_disconnect);
            self.read();
        }
        self.cut();
    }

    fn is_busy(&self) -> bool {
        let is_said = self.seen == 0 && self.broker.wire.is_empty() && self.buffer.is_empty();
        let is_quiet = self.tasks.is_empty() && self.held.is_empty() && self.room.is_none();
        let is_done = is_said && is_quiet && self.book.open() == 0;
        !(is_done || self.book.is_over)
    }

    /// What is open is what should be.
    pub(in crate::client) fn check(&mut self) {
        self.read();
        let state = self.shared.lock();
        assert_eq!(state.ledger().held(), self.book.held());
        assert_eq!(state.ledger().open(), self.book.open());
        assert_eq!(state.in_flight(), self.book.in_flight());
    }
}
