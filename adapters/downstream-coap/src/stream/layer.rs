//! A connection's session, as the devices' logic sees it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;

use crate::carrier::PeerKey;
use crate::layer::{MessageLayer, Request};
use crate::listener::{Call, Exchange, Observation};
use crate::proto::block::Source;
use crate::proto::message::{Message, Token};
use crate::proto::tcp::{Closed, Event, Session};
use crate::proto::udp::{
    CallError, CallId, EndReason, ExchangeId, NotificationOutcome, NotifyError, ObservationId,
    RespondError, Responded,
};

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum StreamEvent {
    Request(Request),
    Response {
        call: Call,
        result: Result<Message, CallError>,
    },
    Notified {
        observation: Observation,
        outcome: NotificationOutcome,
    },
    /// The peer has an answer that was to arrive.
    Answered {
        exchange: Exchange,
    },
    /// The peer has asked for the last block of an answer.
    AnswerFetched {
        exchange: Exchange,
    },
    /// The peer has asked for the last block of a notification, behind the pong behind the first one.
    NotificationFetched {
        observation: Observation,
    },
    Ended {
        observation: Observation,
        reason: EndReason,
    },
    /// The peer wants the connection to end.
    Released,
}

/// An answer or a notification that waits for a pong.
#[derive(Debug)]
struct Unconfirmed {
    source: Source,
    /// Else the peer may fetch a rest.
    is_whole: bool,
    stage: Stage,
}

/// How far the peer was heard of what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sent,
    /// The ping went behind it.
    Asked,
    /// The pong came, and nobody was told yet.
    Confirmed,
}

impl Unconfirmed {
    /// How it ended, if nothing more is waited for.
    fn end(self, peer: PeerKey) -> StreamEvent {
        let is_whole = self.is_whole;
        match self.source {
            Source::Observation(serial) => StreamEvent::Notified {
                observation: ObservationId { peer, serial },
                outcome: match self.stage {
                    Stage::Confirmed => NotificationOutcome::Acknowledged { is_whole },
                    Stage::Sent | Stage::Asked => NotificationOutcome::Withdrawn,
                },
            },
            Source::Exchange(serial) => StreamEvent::Answered {
                exchange: ExchangeId { peer, serial },
            },
        }
    }
}

/// A session with one peer, whose pings confirm notifications, and answers that should arrive.
#[derive(Debug)]
pub(super) struct StreamLayer {
    session: Session,
    peer: PeerKey,
    /// The ping that is not answered. There is one at a time, since not every peer says which ping
    /// it answers: libcoap 4.3.1 leaves the token out.
    ping: Option<Token>,
    /// Oldest first; one for each observation, and for each answer that somebody waits for.
    unconfirmed: Vec<Unconfirmed>,
    events: VecDeque<StreamEvent>,
}

impl StreamLayer {
    pub(super) fn new(session: Session, peer: PeerKey) -> Self {
        Self {
            session,
            peer,
            ping: None,
            unconfirmed: Vec::new(),
            events: VecDeque::new(),
        }
    }

    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Takes every whole message off what was read. What they say is about what was sent before: it is
    /// noted of that before anybody acts on the first of them, and sends more.
    pub(super) fn receive(&mut self, now: Duration, input: &mut BytesMut) -> Result<(), Closed> {
        let received = self.session.receive(now, input);
        while let Some(event) = self.session.poll_event() {
            self.on_event(event);
        }
        let is_open = |one: &Unconfirmed| one.stage != Stage::Confirmed;
        if self.unconfirmed.iter().any(is_open) {
            self.ask();
        }
        received
    }

    pub(super) fn poll_event(&mut self) -> Option<StreamEvent> {
        loop {
            // One at a time: until its end is told, an observation is busy, or that end would pass
            // for the end of the next notification.
            let is_confirmed = |one: &Unconfirmed| one.stage == Stage::Confirmed;
            if let Some(at) = self.unconfirmed.iter().position(is_confirmed) {
                return Some(self.unconfirmed.remove(at).end(self.peer));
            }
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let event = self.session.poll_event()?;
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event) {
        let peer = self.peer;
        match event {
            Event::Request {
                exchange: serial,
                message,
                wants_observation,
            } => self.events.push_back(StreamEvent::Request(Request {
                exchange: ExchangeId { peer, serial },
                message,
                message_id: None,
                wants_observation,
            })),
            Event::Response {
                call: serial,
                response,
            } => self.events.push_back(StreamEvent::Response {
                call: CallId { peer, serial },
                result: response.ok_or(CallError::Malformed),
            }),
            Event::AnswerFetched { exchange: serial } => {
                let exchange = ExchangeId { peer, serial };
                self.events
                    .push_back(StreamEvent::AnswerFetched { exchange });
            }
            Event::NotificationFetched {
                observation: serial,
            } => self.fetched(serial),
            Event::Pong { token } => self.confirm(token),
            Event::Ended {
                observation: serial,
            } => self.ended(serial, EndReason::Deregistered),
            Event::Released => self.events.push_back(StreamEvent::Released),
        }
    }

    /// Asks the peer whether it is there, and has what was sent so far.
    pub(super) fn ask(&mut self) {
        if self.ping.is_none() {
            self.ping = Some(self.session.ping());
            self.advance(Stage::Sent, Stage::Asked);
        }
    }

    /// The peer has what was sent before the ping.
    fn confirm(&mut self, token: Token) {
        let is_answer = |ping: &mut Token| *ping == token || token == Token::EMPTY;
        if self.ping.take_if(is_answer).is_some() {
            self.advance(Stage::Asked, Stage::Confirmed);
        }
    }

    fn advance(&mut self, from: Stage, to: Stage) {
        for one in &mut self.unconfirmed {
            if one.stage == from {
                one.stage = to;
            }
        }
    }

    /// The peer has asked for the last block of a notification. Before the pong behind the first one
    /// that says nothing: it may have asked for a block of what it was sent before, and got this one.
    /// Then a pong behind the last one is waited for.
    fn fetched(&mut self, serial: u64) {
        let source = Source::Observation(serial);
        let mut open = self.unconfirmed.iter_mut();
        match open.find(|one| one.source == source && one.stage != Stage::Confirmed) {
            Some(one) => (one.is_whole, one.stage) = (true, Stage::Sent),
            None => {
                let peer = self.peer;
                let observation = ObservationId { peer, serial };
                self.events
                    .push_back(StreamEvent::NotificationFetched { observation });
            }
        }
    }

    fn ended(&mut self, serial: u64, reason: EndReason) {
        self.settle(serial);
        let peer = self.peer;
        let observation = ObservationId { peer, serial };
        self.events.push_back(StreamEvent::Ended {
            observation,
            reason,
        });
    }

    /// Waits for a pong behind what was sent last.
    fn expect(&mut self, source: Source, is_whole: bool) {
        self.unconfirmed.push(Unconfirmed {
            source,
            is_whole,
            stage: Stage::Sent,
        });
        self.ask();
    }

    /// Waits no more.
    fn forget(&mut self, source: Source) -> Option<Unconfirmed> {
        let at = self.unconfirmed.iter().position(|one| one.source == source);
        at.map(|at| self.unconfirmed.remove(at))
    }

    /// Ends the wait for a pong behind an observation's notification, if there is one.
    fn settle(&mut self, serial: u64) {
        if let Some(one) = self.forget(Source::Observation(serial)) {
            self.events.push_back(one.end(self.peer));
        }
    }
}

impl MessageLayer for StreamLayer {
    fn respond(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Responded, RespondError> {
        match self.session.respond(now, exchange.serial, response) {
            Ok(true) => Ok(Responded::Sent),
            Ok(false) => Ok(Responded::Begun),
            Err(_) => Err(RespondError::Gone),
        }
    }

    fn give(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Responded, RespondError> {
        let responded = self.respond(now, exchange, response)?;
        if responded != Responded::Sent {
            return Ok(responded);
        }
        self.expect(Source::Exchange(exchange.serial), true);
        Ok(Responded::Apart)
    }

    fn is_pending(&self, exchange: Exchange) -> bool {
        self.session.is_pending(exchange.serial)
    }

    fn forget_answer(&mut self, _now: Duration, exchange: Exchange) {
        self.forget(Source::Exchange(exchange.serial));
    }

    fn observe(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Option<Observation>, RespondError> {
        let observed = self.session.observe(now, exchange.serial, response);
        let serial = observed.map_err(|_| RespondError::Gone)?;
        let peer = self.peer;
        Ok(serial.map(|serial| ObservationId { peer, serial }))
    }

    fn notify(
        &mut self,
        now: Duration,
        observation: Observation,
        message: Message,
    ) -> Result<(), NotifyError> {
        let serial = observation.serial;
        let source = Source::Observation(serial);
        if self.unconfirmed.iter().any(|one| one.source == source) {
            return Err(NotifyError::Busy);
        }
        let notified = self.session.notify(now, serial, message);
        let is_whole = notified.map_err(|_| NotifyError::Gone)?;
        self.expect(source, is_whole);
        Ok(())
    }

    fn withdraw_notification(&mut self, _now: Duration, observation: Observation) {
        self.settle(observation.serial);
    }

    fn end_observation(&mut self, _now: Duration, observation: Observation) {
        // Of one that the peer has ended meanwhile the session tells.
        if self.session.end_observation(observation.serial) {
            self.ended(observation.serial, EndReason::Closed);
        }
    }

    fn dismiss(&mut self, now: Duration, observation: Observation, farewell: Message) {
        // Who has ended it meanwhile needs no word.
        let notified = self.session.notify(now, observation.serial, farewell);
        if notified.is_ok() {
            self.ended(observation.serial, EndReason::Failed);
        }
    }

    fn request(
        &mut self,
        _now: Duration,
        _peer: PeerKey,
        request: Message,
    ) -> Result<Call, CallError> {
        let peer = self.peer;
        let serial = self.session.request(request);
        let serial = serial.map_err(|_| CallError::Busy)?;
        Ok(CallId { peer, serial })
    }

    fn cancel(&mut self, _now: Duration, call: Call) {
        self.session.cancel(call.serial);
    }

    fn options_room(&self) -> usize {
        self.session.options_room()
    }
}

#[cfg(test)]
mod tests;
