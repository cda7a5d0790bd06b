//! What a connection's devices see of it, without IO, for a fuzz target. Not part of the interface.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;

use super::layer::{StreamEvent, StreamLayer};
use crate::carrier::PeerKey;
use crate::layer::MessageLayer as _;
use crate::proto::message::Message;
use crate::proto::tcp::{Closed, Session};
use crate::proto::udp::{
    ExchangeId, NotificationOutcome, NotifyError, ObservationId, RespondError, Responded,
};

const PEER: PeerKey = PeerKey::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5683));

/// What happened, to which exchange or observation.
#[derive(Debug)]
pub enum Happened {
    /// A request waits for its answer.
    Request(u64, Message),
    /// A notification has ended.
    Notified(u64, NotificationOutcome),
    /// An answer that went apart has arrived.
    Answered(u64),
    /// The last block of an answer was asked for.
    AnswerFetched(u64),
    /// The last block of a notification was asked for.
    NotificationFetched(u64),
    /// An observation is over.
    Ended(u64),
    /// Something else.
    Other,
}

/// Is a `StreamLayer`; what it does is as its methods of the same names say.
#[derive(Debug)]
pub struct Stream(StreamLayer);

#[expect(missing_docs, clippy::missing_errors_doc, reason = "they only pass on")]
impl Stream {
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self(StreamLayer::new(session, PEER))
    }

    pub fn session(&mut self) -> &mut Session {
        self.0.session()
    }

    pub fn receive(&mut self, now: Duration, input: &mut BytesMut) -> Result<(), Closed> {
        self.0.receive(now, input)
    }

    pub fn poll_event(&mut self) -> Option<Happened> {
        Some(match self.0.poll_event()? {
            StreamEvent::Request(request) => {
                Happened::Request(request.exchange.serial, request.message)
            }
            StreamEvent::Notified {
                observation,
                outcome,
            } => Happened::Notified(observation.serial, outcome),
            StreamEvent::Answered { exchange } => Happened::Answered(exchange.serial),
            StreamEvent::AnswerFetched { exchange } => Happened::AnswerFetched(exchange.serial),
            StreamEvent::NotificationFetched { observation } => {
                Happened::NotificationFetched(observation.serial)
            }
            StreamEvent::Ended { observation, .. } => Happened::Ended(observation.serial),
            StreamEvent::Response { .. } | StreamEvent::Released => Happened::Other,
        })
    }

    pub fn ask(&mut self) {
        self.0.ask();
    }

    pub fn give(
        &mut self,
        now: Duration,
        exchange: u64,
        response: Message,
    ) -> Result<Responded, RespondError> {
        self.0.give(now, named(exchange), response)
    }

    pub fn forget_answer(&mut self, exchange: u64) {
        self.0.forget_answer(Duration::ZERO, named(exchange));
    }

    pub fn observe(
        &mut self,
        now: Duration,
        exchange: u64,
        response: Message,
    ) -> Result<Option<u64>, RespondError> {
        let observed = self.0.observe(now, named(exchange), response)?;
        Ok(observed.map(|observation| observation.serial))
    }

    pub fn notify(
        &mut self,
        now: Duration,
        observation: u64,
        message: Message,
    ) -> Result<(), NotifyError> {
        self.0.notify(now, observed(observation), message)
    }

    pub fn withdraw_notification(&mut self, now: Duration, observation: u64) {
        self.0.withdraw_notification(now, observed(observation));
    }

    pub fn end_observation(&mut self, now: Duration, observation: u64) {
        self.0.end_observation(now, observed(observation));
    }

    pub fn dismiss(&mut self, now: Duration, observation: u64, farewell: Message) {
        self.0.dismiss(now, observed(observation), farewell);
    }
}

fn named(serial: u64) -> ExchangeId<PeerKey> {
    ExchangeId { peer: PEER, serial }
}

fn observed(serial: u64) -> ObservationId<PeerKey> {
    ObservationId { peer: PEER, serial }
}
