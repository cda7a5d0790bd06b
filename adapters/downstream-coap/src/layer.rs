//! What carries messages to devices and back, as the devices' logic sees it.

use std::fmt;
use std::time::Duration;

use crate::carrier::PeerKey;
use crate::listener::{Call, Exchange, Observation};
use crate::proto::message::Message;
use crate::proto::udp::{CallError, Endpoint, Incoming, NotifyError, RespondError, Responded};

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    /// Names it for its answer.
    pub(crate) exchange: Exchange,
    pub(crate) message: Message,
    /// The same when the device sends it again; a stream has no such thing.
    pub(crate) message_id: Option<u16>,
    pub(crate) wants_observation: bool,
}

impl From<Incoming<PeerKey>> for Request {
    fn from(incoming: Incoming<PeerKey>) -> Self {
        Self {
            exchange: incoming.exchange,
            message: incoming.message,
            message_id: Some(incoming.message_id),
            wants_observation: incoming.wants_observation,
        }
    }
}

/// Exchanges, observations and calls, whatever they are carried by. What it does is as
/// [`Endpoint`]'s methods of the same names say.
pub(crate) trait MessageLayer: fmt::Debug + Send {
    fn respond(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Responded, RespondError>;

    /// Answers with what should arrive: where no answer is acknowledged, as over a stream, something
    /// behind it is, and it goes [apart](Responded::Apart).
    fn give(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Responded, RespondError>;

    fn is_pending(&self, exchange: Exchange) -> bool;

    /// Nobody waits for the end of an answer that went apart any more.
    fn forget_answer(&mut self, now: Duration, exchange: Exchange);

    fn observe(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Option<Observation>, RespondError>;

    fn notify(
        &mut self,
        now: Duration,
        observation: Observation,
        message: Message,
    ) -> Result<(), NotifyError>;

    fn withdraw_notification(&mut self, now: Duration, observation: Observation);

    fn end_observation(&mut self, now: Duration, observation: Observation);

    fn dismiss(&mut self, now: Duration, observation: Observation, farewell: Message);

    fn request(
        &mut self,
        now: Duration,
        peer: PeerKey,
        request: Message,
    ) -> Result<Call, CallError>;

    fn cancel(&mut self, now: Duration, call: Call);

    fn options_room(&self) -> usize;
}

impl MessageLayer for Endpoint<PeerKey> {
    fn respond(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Responded, RespondError> {
        self.respond(now, exchange, response)
    }

    fn give(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Responded, RespondError> {
        self.give(now, exchange, response)
    }

    fn is_pending(&self, exchange: Exchange) -> bool {
        self.is_pending(exchange)
    }

    fn forget_answer(&mut self, now: Duration, exchange: Exchange) {
        self.withdraw_answer(now, exchange);
    }

    fn observe(
        &mut self,
        now: Duration,
        exchange: Exchange,
        response: Message,
    ) -> Result<Option<Observation>, RespondError> {
        self.observe(now, exchange, response)
    }

    fn notify(
        &mut self,
        now: Duration,
        observation: Observation,
        message: Message,
    ) -> Result<(), NotifyError> {
        self.notify(now, observation, message)
    }

    fn withdraw_notification(&mut self, now: Duration, observation: Observation) {
        self.withdraw_notification(now, observation);
    }

    fn end_observation(&mut self, now: Duration, observation: Observation) {
        self.end_observation(now, observation);
    }

    fn dismiss(&mut self, now: Duration, observation: Observation, farewell: Message) {
        self.dismiss(now, observation, farewell);
    }

    fn request(
        &mut self,
        now: Duration,
        peer: PeerKey,
        request: Message,
    ) -> Result<Call, CallError> {
        self.request(now, peer, request, true)
    }

    fn cancel(&mut self, now: Duration, call: Call) {
        self.cancel(now, call);
    }

    fn options_room(&self) -> usize {
        self.options_room()
    }
}
