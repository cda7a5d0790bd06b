//! Confirmable messages of ours to one peer: some on their way, the others behind them (RFC 7252,
//! sections 4.2 and 4.7).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::proto::config::TransmissionConfig;
use crate::proto::random::Random;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A separate answer; with the serial of its exchange where its end is told.
    Response(Option<u64>),
    /// A request of ours, by its serial.
    Call(u64),
    /// A notification, by the serial of its observation.
    Notification { observation: u64, is_whole: bool },
}

#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) id: u16,
    pub(super) bytes: Bytes,
    pub(super) purpose: Purpose,
}

#[derive(Debug)]
struct Flight {
    letter: Letter,
    /// When it is sent again or given up, and how long that was from the last time.
    due: Duration,
    wait: Duration,
    left: u32,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    flights: Vec<Flight>,
    waiting: VecDeque<Letter>,
}

/// What a passed time asks for.
#[derive(Debug)]
pub(super) enum Due {
    Again(Letter),
    GivenUp(Letter),
}

impl Outbox {
    pub(super) fn push(&mut self, letter: Letter) {
        self.waiting.push_back(letter);
    }

    /// The next letter that may be sent now, and is on its way then.
    pub(super) fn next(
        &mut self,
        now: Duration,
        config: &TransmissionConfig,
        random: &mut Random,
    ) -> Option<Letter> {
        if self.flights.len() >= config.nstart {
            return None;
        }
        let letter = self.waiting.pop_front()?;
        let part = random.next() as f64 / u64::MAX as f64;
        let factor = 1.0 + part * (config.ack_random_factor - 1.0);
        let wait = config.ack_timeout.mul_f64(factor);
        self.flights.push(Flight {
            letter: letter.clone(),
            due: now + wait,
            wait,
            left: config.max_retransmit,
        });
        Some(letter)
    }

    /// Takes the letter of this id off its way: it was acknowledged, or reset.
    pub(super) fn settle(&mut self, id: u16) -> Option<Letter> {
        let mut flights = self.flights.iter();
        let at = flights.position(|flight| flight.letter.id == id)?;
        Some(self.flights.remove(at).letter)
    }

    /// The letter of this id, on its way.
    pub(super) fn find(&self, id: u16) -> Option<&Letter> {
        let mut letters = self.flights.iter().map(|flight| &flight.letter);
        letters.find(|letter| letter.id == id)
    }

    /// Takes back the answer of this exchange, sent or not.
    pub(super) fn take_answer(&mut self, exchange: u64) -> Option<Letter> {
        let is_meant = |letter: &Letter| letter.purpose == Purpose::Response(Some(exchange));
        let mut flights = self.flights.iter();
        if let Some(at) = flights.position(|flight| is_meant(&flight.letter)) {
            return Some(self.flights.remove(at).letter);
        }
        let at = self.waiting.iter().position(is_meant)?;
        self.waiting.remove(at)
    }

    /// Takes back what has this purpose, sent or not.
    pub(super) fn withdraw(&mut self, is_meant: impl Fn(Purpose) -> bool) {
        self.flights
            .retain(|flight| !is_meant(flight.letter.purpose));
        self.waiting.retain(|letter| !is_meant(letter.purpose));
    }

    /// What the time asks for next; call it until there is nothing.
    pub(super) fn due_now(&mut self, now: Duration) -> Option<Due> {
        let at = self.flights.iter().position(|flight| flight.due <= now)?;
        let flight = &mut self.flights[at];
        if flight.left == 0 {
            return Some(Due::GivenUp(self.flights.remove(at).letter));
        }
        flight.left -= 1;
        flight.wait *= 2;
        flight.due = now + flight.wait;
        Some(Due::Again(flight.letter.clone()))
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.flights.iter().map(|flight| flight.due).min()
    }

    /// Answers that nobody has acknowledged yet.
    pub(super) fn responses(&self) -> usize {
        let is_response = |letter: &&Letter| matches!(letter.purpose, Purpose::Response(_));
        self.letters().filter(is_response).count()
    }

    /// The exchanges of such answers whose end is told.
    pub(super) fn answered(&self) -> Vec<u64> {
        let exchange = |letter: &Letter| match letter.purpose {
            Purpose::Response(exchange) => exchange,
            _ => None,
        };
        self.letters().filter_map(exchange).collect()
    }

    fn letters(&self) -> impl Iterator<Item = &Letter> {
        let flights = self.flights.iter().map(|flight| &flight.letter);
        flights.chain(&self.waiting)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty() && self.waiting.is_empty()
    }
}
