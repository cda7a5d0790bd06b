//! Endpoints among themselves on a bad network, and against datagrams written by hand.

mod bounds;
mod fetching;
mod giving;
mod hostile;
mod model;
mod observing;
mod rules;
mod world;

use std::time::Duration;

use bytes::Bytes;

use super::{Endpoint, Event, Transmit};
use crate::proto::config::EndpointConfig;
use crate::proto::message::{Datagram, Kind, Message, Token};
use crate::proto::random::Seed;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An endpoint and what a test sees of it.
struct Bench {
    endpoint: Endpoint<u8>,
    now: Duration,
}

impl Bench {
    fn new(config: EndpointConfig) -> Self {
        config.validate().unwrap();
        let endpoint = Endpoint::new(config, Seed([3, 4]));
        let now = seconds(1000);
        Self { endpoint, now }
    }

    fn hear(&mut self, peer: u8, datagram: &Datagram) {
        self.hear_bytes(peer, &datagram.encode());
    }

    fn hear_bytes(&mut self, peer: u8, bytes: &[u8]) {
        self.endpoint.receive(self.now, peer, true, bytes);
    }

    /// What the endpoint has said since the last look.
    fn said(&mut self) -> Vec<Datagram> {
        let sent = std::iter::from_fn(|| self.endpoint.poll_transmit());
        sent.map(|Transmit { bytes, .. }| Datagram::decode(&bytes).unwrap())
            .collect()
    }

    fn said_bytes(&mut self) -> Vec<Bytes> {
        let sent = std::iter::from_fn(|| self.endpoint.poll_transmit());
        sent.map(|transmit| transmit.bytes).collect()
    }

    /// The one thing that it has said.
    fn only(&mut self) -> Datagram {
        let mut said = self.said();
        assert_eq!(said.len(), 1, "{said:?}");
        said.remove(0)
    }

    fn told(&mut self) -> Vec<Event<u8>> {
        std::iter::from_fn(|| self.endpoint.poll_event()).collect()
    }

    fn request(&mut self) -> super::Incoming<u8> {
        match &self.told()[..] {
            [Event::Request(incoming)] => incoming.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, exchange: super::ExchangeId<u8>, response: Message) {
        let responded = self.endpoint.respond(self.now, exchange, response);
        assert_ne!(responded.unwrap(), super::Responded::Challenged);
    }

    /// Lets time pass, with all that it asks for.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.endpoint.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.endpoint.on_timeout(self.now);
        }
        self.now = end;
    }

    /// Lets everything be forgotten.
    fn assert_nothing_stays(&mut self) {
        let mut rounds = 0;
        while let Some(due) = self.endpoint.next_timeout() {
            self.now = self.now.max(due);
            self.endpoint.on_timeout(self.now);
            rounds += 1;
            assert!(rounds < 100_000, "time asks for more and more");
        }
        assert_eq!(self.endpoint.stats(), super::EndpointStats::default());
    }
}

fn confirmable(id: u16, message: Message) -> Datagram {
    let kind = Kind::Confirmable;
    Datagram { kind, id, message }
}

fn non_confirmable(id: u16, message: Message) -> Datagram {
    let kind = Kind::NonConfirmable;
    Datagram { kind, id, message }
}

fn token(number: u32) -> Token {
    Token::from(number)
}
