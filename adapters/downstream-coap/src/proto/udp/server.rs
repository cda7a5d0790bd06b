//! One peer's requests.

use std::hash::Hash;
use std::time::Duration;

use super::context::Context;
use super::event::{
    EndReason, Event, ExchangeId, Incoming, ObservationId, RespondError, Responded,
};
use super::memory::{Print, Reply};
use super::outbox::{Letter, Purpose};
use super::peer::Peer;
use crate::proto::block::{BASE_MESSAGE_SIZE, Block, Found, Source, Taken, Wanted, unavailable};
use crate::proto::config::EchoPolicy;
use crate::proto::message::{Code, Datagram, Kind, Message, Token, option};

/// The values of Observe in a request (RFC 7641, section 2).
const REGISTER: u32 = 0;
const DEREGISTER: u32 = 1;

/// A request that waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    serial: u64,
    print: Print,
    pub(super) token: Token,
    is_confirmable: bool,
    /// So that its answer goes apart.
    is_acknowledged: bool,
    acknowledge_at: Duration,
    forget_at: Duration,
    /// Classes of responses that are not wanted, a bit each (RFC 7967).
    unwanted: u32,
    wants_observation: bool,
    pub(super) wanted: Wanted,
}

impl Pending {
    fn waits_for_acknowledgement(&self) -> bool {
        self.is_confirmable && !self.is_acknowledged
    }

    pub(super) fn due(&self) -> Duration {
        match self.waits_for_acknowledgement() {
            true => self.acknowledge_at.min(self.forget_at),
            false => self.forget_at,
        }
    }
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Plain,
    /// By what should arrive.
    Given,
    /// By the first state of an observation.
    Observed,
}

/// What is to be done about a request at once.
enum Verdict {
    Handle(Message),
    Answer(Message),
    /// A block of a body that was answered with before.
    Block(Found),
    Ignore,
}

impl Peer {
    pub(super) fn on_request<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        datagram: Datagram,
        print: Print,
    ) {
        let is_confirmable = datagram.kind == Kind::Confirmable;
        if self.is_duplicate(cx, print, is_confirmable) {
            return;
        }
        let message = datagram.message;
        let mut pending = Pending {
            serial: cx.serial(),
            print,
            token: message.token,
            is_confirmable,
            is_acknowledged: false,
            acknowledge_at: cx.now + cx.shared.config.transmission.ack_delay,
            forget_at: cx.forget_at(),
            unwanted: message.options.uint(option::NO_RESPONSE).unwrap_or(0),
            wants_observation: false,
            wanted: Wanted::default(),
        };
        let message = match self.examine(cx, message, &mut pending) {
            Verdict::Handle(message) => message,
            Verdict::Answer(answer) => {
                // Nothing was done, so it makes no difference if the peer is asked for Echo instead.
                return match self.answer(cx, &pending, answer, false) {
                    Responded::Sent | Responded::Apart | Responded::Unwanted => {}
                    Responded::Begun | Responded::Challenged => {}
                };
            }
            Verdict::Block(found) => return self.go_on(cx, &pending, found),
            Verdict::Ignore => return,
        };
        let exchange = ExchangeId {
            peer: cx.peer,
            serial: pending.serial,
        };
        let wants_observation = pending.wants_observation;
        self.pending.push(pending);
        self.account();
        cx.tell(Event::Request(Incoming {
            exchange,
            message_id: print.id,
            message,
            is_confirmable,
            wants_observation,
            room: (!self.is_proven).then_some(self.allowance),
        }));
    }

    /// Tells a duplicate what its first was told, if it is one.
    fn is_duplicate<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        print: Print,
        is_confirmable: bool,
    ) -> bool {
        let mut pending = self.pending.iter();
        let reply = match pending.find(|pending| pending.print == print) {
            Some(pending) if pending.is_acknowledged => Some(&Reply::Acknowledgement),
            Some(_) => Some(&Reply::Nothing),
            None => self.memory.find(print),
        };
        let Some(reply) = reply.cloned() else {
            return false;
        };
        match reply {
            _ if !is_confirmable => {}
            Reply::Nothing => {}
            Reply::Acknowledgement => self.acknowledge(cx, print.id),
            Reply::Datagram(bytes) => self.send(cx, bytes),
        }
        true
    }

    fn examine<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        mut message: Message,
        pending: &mut Pending,
    ) -> Verdict {
        if message.options.sieve().is_err() {
            return match pending.is_confirmable {
                true => Verdict::Answer(Message::new(Code::BAD_OPTION)),
                false => Verdict::Ignore,
            };
        }
        let options = &message.options;
        if options
            .get(option::ECHO)
            .is_some_and(|value| cx.is_echo(value))
        {
            self.is_proven = true;
        }
        let policy = cx.shared.config.echo;
        if !self.is_proven && policy == EchoPolicy::Always {
            return Verdict::Answer(challenge(cx));
        }
        if options.has(option::PROXY_URI) || options.has(option::PROXY_SCHEME) {
            return Verdict::Answer(Message::new(Code::PROXYING_NOT_SUPPORTED));
        }
        let blocks = [option::BLOCK1, option::BLOCK2].map(|number| Block::read(options, number));
        let is_many = |block: &Block| block.exponent == Block::MANY;
        if blocks.iter().flatten().any(is_many) {
            return Verdict::Answer(Message::new(Code::BAD_REQUEST));
        }
        // A flood from forged addresses must not take the room for the bodies of those who are there.
        if !self.is_proven && blocks[0].is_some() && cx.shared.block_bytes.is_scarce() {
            return Verdict::Answer(challenge(cx));
        }
        let shared = &mut *cx.shared;
        let config = &shared.config;
        pending.wanted = Wanted::of(&message, None, &shared.random);
        if blocks[0].is_none()
            && let Some(found) = self.bodies.find(&pending.wanted, cx.now, &config.blocks)
        {
            return Verdict::Block(found);
        }
        if !blocks[0].is_some_and(|block| block.more) {
            if self.unfinished() >= config.limits.max_pending_per_peer {
                let mut answer = unavailable(&config.limits);
                answer.code = Code::TOO_MANY_REQUESTS;
                return Verdict::Answer(answer);
            }
            if !self.pending_share.take(1) {
                return Verdict::Answer(unavailable(&config.limits));
            }
        }
        let settings = (&config.blocks, &config.limits);
        let tools = (&shared.block_bytes, &shared.random);
        let message = match self.assemblies.take(message, cx.now, settings, tools) {
            Taken::Whole(message, block1) => {
                pending.wanted.block1 = block1;
                message
            }
            Taken::Answer(answer) => {
                self.account_pending();
                return Verdict::Answer(answer);
            }
        };
        match message.options.uint(option::OBSERVE) {
            _ if !message.code.is_safe() => {}
            Some(REGISTER) if !self.is_proven => {
                self.account_pending();
                return Verdict::Answer(challenge(cx));
            }
            Some(REGISTER) => pending.wants_observation = true,
            Some(DEREGISTER) => {
                if let Some(observation) = self.observers.of_token(message.token) {
                    self.end(cx, observation, EndReason::Deregistered);
                }
            }
            _ => {}
        }
        Verdict::Handle(message)
    }

    pub(super) fn is_pending(&self, serial: u64) -> bool {
        self.pending.iter().any(|pending| pending.serial == serial)
    }

    /// Answers a request, and registers its observation if that is wanted on both sides.
    pub(super) fn respond<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        serial: u64,
        mut response: Message,
        manner: Manner,
    ) -> Result<(Responded, Option<u64>), RespondError> {
        let mut list = self.pending.iter();
        let at = list.position(|pending| pending.serial == serial);
        let mut pending = self.pending.remove(at.ok_or(RespondError::Gone)?);
        // One that needs no acknowledgement is as good as acknowledged.
        pending.is_acknowledged |= manner == Manner::Given && !pending.is_confirmable;
        response.options.remove(option::OBSERVE);
        let observes = manner == Manner::Observed && pending.wants_observation;
        let observation = match observes && response.code.is_success() {
            true => self.register(cx, &pending),
            false => None,
        };
        if observation.is_some() {
            let sequence = cx.sequence();
            response.options.set_uint(option::OBSERVE, sequence);
        }
        let shared = &mut *cx.shared;
        let tools = (&shared.block_bytes, &shared.random);
        let blocks = &shared.config.blocks;
        let blocks = blocks.within(BASE_MESSAGE_SIZE, &response.options);
        let bodies = &mut self.bodies;
        let wanted = (&pending.wanted, Some(Source::Exchange(serial)));
        let (answer, has_rest) = bodies.respond(response, wanted, cx.now, &blocks, tools);
        let responded = self.answer(cx, &pending, answer, has_rest);
        if has_rest && responded != Responded::Begun {
            // Who has not got the beginning does not ask for the rest.
            self.bodies.forget(&pending.wanted);
        }
        self.flush(cx);
        Ok((responded, observation))
    }

    /// Takes back an answer that goes apart, and says so.
    pub(super) fn withdraw_answer<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, serial: u64) {
        let Some(letter) = self.outbox.take_answer(serial) else {
            return;
        };
        if let Ok(Datagram { message, .. }) = Datagram::decode(&letter.bytes) {
            let (kind, id) = (Kind::NonConfirmable, self.fresh_id(cx));
            let message = Message::new(message.code).with_token(message.token);
            self.send(cx, Datagram { kind, id, message }.encode());
        }
        self.flush(cx);
    }

    /// Sends an answer in the way that the request allows, and remembers it for duplicates.
    fn answer<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        pending: &Pending,
        message: Message,
        has_rest: bool,
    ) -> Responded {
        let is_unwanted = pending.unwanted & 1 << (message.code.class() - 1) != 0;
        if is_unwanted {
            let reply = match pending.is_confirmable {
                true => Reply::Acknowledgement,
                false => Reply::Nothing,
            };
            self.remember(cx, pending.print, reply);
            if pending.waits_for_acknowledgement() {
                self.acknowledge(cx, pending.print.id);
            }
            return Responded::Unwanted;
        }
        let (kind, id) = match (pending.is_confirmable, pending.is_acknowledged) {
            (_, true) => (Kind::Confirmable, self.fresh_id(cx)),
            (true, false) => (Kind::Acknowledgement, pending.print.id),
            (false, false) => (Kind::NonConfirmable, self.fresh_id(cx)),
        };
        let write = |message: Message| {
            let message = message.with_token(pending.token);
            Datagram { kind, id, message }.encode()
        };
        let mut bytes = write(message);
        let mut responded = match kind {
            _ if has_rest => Responded::Begun,
            Kind::Confirmable => Responded::Apart,
            _ => Responded::Sent,
        };
        let takes_room = has_rest && cx.shared.block_bytes.is_scarce();
        if !self.is_proven && (takes_room || bytes.len() > self.allowance) {
            bytes = write(challenge(cx));
            responded = Responded::Challenged;
        }
        let reply = match kind {
            Kind::Acknowledgement => Reply::Datagram(bytes.clone()),
            Kind::Confirmable => Reply::Acknowledgement,
            _ => Reply::Nothing,
        };
        self.remember(cx, pending.print, reply);
        match kind {
            Kind::Confirmable => {
                let is_told = responded == Responded::Apart;
                let purpose = Purpose::Response(is_told.then_some(pending.serial));
                self.outbox.push(Letter { id, bytes, purpose });
            }
            _ => self.send(cx, bytes),
        }
        responded
    }

    /// Answers with a block, and tells what that says of the blocks before and of the whole.
    fn go_on<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, pending: &Pending, found: Found) {
        if let Some(Source::Observation(serial)) = found.source {
            self.on_continued(cx, serial);
        }
        let responded = self.answer(cx, pending, found.answer, false);
        if responded != Responded::Sent {
            return;
        }
        let peer = cx.peer;
        match self.bodies.sent(&pending.wanted, found.part) {
            Some(Source::Exchange(serial)) => cx.tell(Event::AnswerFetched {
                exchange: ExchangeId { peer, serial },
            }),
            Some(Source::Observation(serial)) => cx.tell(Event::NotificationFetched {
                observation: ObservationId { peer, serial },
            }),
            None => {}
        }
    }

    /// Requests that wait for an answer, and answers that wait for their acknowledgement: a device
    /// that acknowledges none must not pile them up.
    fn unfinished(&self) -> usize {
        self.pending.len() + self.outbox.responses()
    }

    pub(super) fn account_pending(&mut self) {
        self.pending_share.shrink_to(self.unfinished());
    }

    /// Acknowledges the requests that take long, and forgets those that nobody answers.
    pub(super) fn expire_requests<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>) {
        let now = cx.now;
        let mut late = Vec::new();
        for pending in &mut self.pending {
            if pending.waits_for_acknowledgement() && pending.acknowledge_at <= now {
                pending.is_acknowledged = true;
                late.push(pending.print.id);
            }
        }
        for id in late {
            self.acknowledge(cx, id);
        }
        self.pending.retain(|pending| pending.forget_at > now);
    }
}

/// Asks the peer to show that it receives at its address (RFC 9175, section 2.3).
fn challenge<P: Copy + Hash>(cx: &Context<'_, P>) -> Message {
    Message::new(Code::UNAUTHORIZED).with_option(option::ECHO, cx.echo())
}
