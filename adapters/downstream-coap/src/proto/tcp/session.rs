//! One connection: its settings, signals, requests and responses (RFC 8323, sections 4 and 5).

mod signals;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;

use super::event::{Closed, Event, RequestError};
use super::frame::{FrameError, FrameReader, MAX_HEADER, write_frame};
use crate::proto::block::{
    Assemblies, BASE_MESSAGE_SIZE, Bodies, Found, Source, Step, Taken, Transfer, Wanted,
    options_room, room,
};
use crate::proto::budget::Budget;
use crate::proto::config::{BlockConfig, LimitConfig};
use crate::proto::message::{Code, Message, Options, Token, option};
use crate::proto::random::{Random, Seed};

/// What options and header of a peer's message may take beside a body.
const OVERHEAD: usize = 1024;

/// Bounds of a connection.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct StreamConfig {
    /// How bodies are cut into blocks, where the peer takes only small messages.
    pub blocks: BlockConfig,
    /// Bounds of requests, both ways.
    pub limits: LimitConfig,
}

#[derive(Debug)]
struct Pending {
    exchange: u64,
    token: Token,
    wanted: Wanted,
    wants_observation: bool,
}

#[derive(Debug)]
struct Call {
    call: u64,
    token: Token,
    transfer: Transfer,
}

#[derive(Debug)]
struct Observer {
    observation: u64,
    token: Token,
    wanted: Wanted,
}

/// Is one connection. What it holds is bounded by its [`StreamConfig`], and output by who calls:
/// read nothing more while much waits to be written.
#[derive(Debug)]
pub struct Session {
    config: StreamConfig,
    reader: FrameReader,
    output: BytesMut,
    events: VecDeque<Event>,
    has_settings: bool,
    peer_message_size: usize,
    pending: Vec<Pending>,
    calls: Vec<Call>,
    observers: Vec<Observer>,
    assemblies: Assemblies,
    bodies: Bodies,
    block_bytes: Budget,
    random: Random,
    serials: u64,
    /// A ping whose pong is to say that all before it is processed: its token, and the newest
    /// exchange before it.
    custody: Option<(Token, u64)>,
    notifications: u32,
    closed: Option<Closed>,
}

impl Session {
    /// Makes a session and says our settings, which come first on a connection. Sessions share the
    /// budget for bytes of bodies in blocks.
    #[must_use]
    pub fn new(config: StreamConfig, block_bytes: Budget, seed: Seed) -> Self {
        let max_frame = config.blocks.max_body + OVERHEAD;
        let mut session = Self {
            reader: FrameReader::new(max_frame),
            config,
            output: BytesMut::new(),
            events: VecDeque::new(),
            has_settings: false,
            peer_message_size: BASE_MESSAGE_SIZE,
            pending: Vec::new(),
            calls: Vec::new(),
            observers: Vec::new(),
            assemblies: Assemblies::default(),
            bodies: Bodies::default(),
            block_bytes,
            random: Random::new(seed),
            serials: 0,
            custody: None,
            notifications: 0,
            closed: None,
        };
        session.greet(max_frame);
        session
    }

    /// Takes every whole message off what was read.
    ///
    /// # Errors
    /// The connection is over.
    pub fn receive(&mut self, now: Duration, input: &mut BytesMut) -> Result<(), Closed> {
        loop {
            if let Some(closed) = self.closed {
                return Err(closed);
            }
            match self.reader.read(input) {
                Ok(Some(message)) => self.on_message(now, message),
                Ok(None) => return Ok(()),
                Err(error) => self.abort(match error {
                    FrameError::TooLarge(_) => "a message is too large",
                    FrameError::Malformed => "a message is malformed",
                }),
            }
        }
    }

    /// Takes what is to be written.
    pub fn take_output(&mut self) -> BytesMut {
        std::mem::take(&mut self.output)
    }

    /// Bytes that [`take_output`](Self::take_output) would give.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.output.len()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Answers a request and tells whether that was all of it: else [`Event::AnswerFetched`] tells
    /// when the peer has fetched the rest.
    ///
    /// # Errors
    /// `Gone`: it was answered before.
    pub fn respond(
        &mut self,
        now: Duration,
        exchange: u64,
        response: Message,
    ) -> Result<bool, RequestError> {
        let answered = self.answer(now, exchange, response, false);
        answered.map(|(is_whole, _)| is_whole)
    }

    /// Answers a request and registers the observation that it wants; its number. `None` if it was
    /// only answered.
    ///
    /// # Errors
    /// `Gone`: it was answered before.
    pub fn observe(
        &mut self,
        now: Duration,
        exchange: u64,
        response: Message,
    ) -> Result<Option<u64>, RequestError> {
        let answered = self.answer(now, exchange, response, true);
        answered.map(|(_, observation)| observation)
    }

    /// Tells whether a request waits for its answer.
    #[must_use]
    pub fn is_pending(&self, exchange: u64) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|pending| pending.exchange == exchange)
    }

    /// Sends a notification and tells whether that was all of it: else
    /// [`Event::NotificationFetched`] tells when the peer has fetched the rest. Nothing acknowledges it; [`ping`](Self::ping) behind it does. An error ends the observation.
    ///
    /// # Errors
    /// `Gone`: the observation is over.
    pub fn notify(
        &mut self,
        now: Duration,
        observation: u64,
        mut message: Message,
    ) -> Result<bool, RequestError> {
        let mut observers = self.observers.iter();
        let at = observers.position(|observer| observer.observation == observation);
        let at = at.ok_or(RequestError::Gone)?;
        let (token, wanted) = {
            let observer = &self.observers[at];
            (observer.token, observer.wanted.clone())
        };
        if !message.code.is_success() {
            self.observers.remove(at);
        }
        self.count_notification(&mut message.options);
        let source = Source::Observation(observation);
        let (message, has_rest) = self.cut(now, message, (&wanted, source));
        self.reply(token, message);
        Ok(!has_rest)
    }

    /// Ends an observation without telling the peer; false if it was over.
    pub fn end_observation(&mut self, observation: u64) -> bool {
        let before = self.observers.len();
        let is_other = |observer: &Observer| observer.observation != observation;
        self.observers.retain(is_other);
        self.observers.len() < before
    }

    /// Sends a request; [`Event::Response`] brings the response, which may never come.
    ///
    /// # Errors
    /// `Busy`: too many are on their way.
    pub fn request(&mut self, request: Message) -> Result<u64, RequestError> {
        if self.calls.len() >= self.config.limits.max_calls_per_peer {
            return Err(RequestError::Busy);
        }
        let blocks = self.blocks(&request);
        let tag = self.random.next() as u32;
        let transfer = Transfer::new(request, tag, &blocks, true);
        let message = transfer.message();
        self.serials += 1;
        let call = self.serials;
        self.calls.push(Call {
            call,
            token: Token::EMPTY,
            transfer,
        });
        self.send_call(self.calls.len() - 1, message);
        Ok(call)
    }

    /// Bytes that the options of a message to the peer may take: where it takes large messages, as
    /// many as in a datagram.
    #[must_use]
    pub fn options_room(&self) -> usize {
        options_room(self.peer_message_size.min(BASE_MESSAGE_SIZE))
    }

    /// Gives up a request of ours.
    pub fn cancel(&mut self, call: u64) {
        self.calls.retain(|one| one.call != call);
    }

    /// Asks whether the peer is there, and has taken what was sent so far: [`Event::Pong`] brings
    /// the token back (section 5.4).
    pub fn ping(&mut self) -> Token {
        let token = self.next_token();
        self.write(&Message::new(Code::PING).with_token(token));
        token
    }

    /// Tells whether the peer has said its settings.
    #[must_use]
    pub fn has_settings(&self) -> bool {
        self.has_settings
    }

    /// Says that the connection is to end when what is open is done.
    pub fn release(&mut self) {
        self.write(&Message::new(Code::RELEASE));
    }

    /// Requests that wait for their answer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Forgets bodies that wait for too long; returns when to call it again.
    pub fn on_timeout(&mut self, now: Duration) -> Option<Duration> {
        self.assemblies.expire(now);
        self.bodies.expire(now);
        [self.assemblies.due(), self.bodies.due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_message(&mut self, now: Duration, message: Message) {
        let code = message.code;
        match code {
            Code::CSM => self.on_settings(&message.options),
            Code::ABORT => self.closed = Some(Closed::Aborted),
            _ if !self.has_settings => self.abort("the settings do not come first"),
            Code::EMPTY => {}
            _ if code.is_signal() => self.on_signal(message),
            _ if code.is_request() => self.on_request(now, message),
            _ if code.is_response() => self.on_response(message),
            _ => self.abort("a code of a reserved class"),
        }
    }

    fn on_request(&mut self, now: Duration, mut message: Message) {
        let token = message.token;
        if message.options.sieve().is_err() {
            return self.reply(token, Message::new(Code::BAD_OPTION));
        }
        let options = &message.options;
        if options.has(option::PROXY_URI) || options.has(option::PROXY_SCHEME) {
            return self.reply(token, Message::new(Code::PROXYING_NOT_SUPPORTED));
        }
        let (config, random) = (&self.config, &self.random);
        let mut wanted = Wanted::of(&message, None, random);
        if !options.has(option::BLOCK1)
            && let Some(found) = self.bodies.find(&wanted, now, &config.blocks)
        {
            return self.give(token, &wanted, found);
        }
        if self.pending.len() >= config.limits.max_pending_per_peer {
            let seconds = config.limits.retry_after.as_secs().max(1) as u32;
            let answer = Message::new(Code::TOO_MANY_REQUESTS).with_uint(option::MAX_AGE, seconds);
            return self.reply(token, answer);
        }
        let settings = (&config.blocks, &config.limits);
        let tools = (&self.block_bytes, random);
        let message = match self.assemblies.take(message, now, settings, tools) {
            Taken::Answer(answer) => return self.reply(token, answer),
            Taken::Whole(message, block1) => {
                wanted.block1 = block1;
                message
            }
        };
        let observe = message.options.uint(option::OBSERVE);
        let observe = observe.filter(|_| message.code.is_safe());
        if observe == Some(1) {
            self.end_same(token, &wanted);
        }
        self.serials += 1;
        let exchange = self.serials;
        self.pending.push(Pending {
            exchange,
            token,
            wanted,
            wants_observation: observe == Some(0),
        });
        self.events.push_back(Event::Request {
            exchange,
            message,
            wants_observation: observe == Some(0),
        });
    }

    fn on_response(&mut self, mut response: Message) {
        let mut calls = self.calls.iter();
        let Some(at) = calls.position(|call| call.token == response.token) else {
            return;
        };
        let step = match response.options.sieve() {
            Ok(()) => self.calls[at].transfer.on_response(response),
            Err(_) => Step::Failed,
        };
        let response = match step {
            Step::Send(message) if self.fits(&message) => return self.send_call(at, message),
            Step::Done(response) => Some(response),
            Step::Failed | Step::Send(_) => None,
        };
        let call = self.calls.remove(at).call;
        self.events.push_back(Event::Response { call, response });
    }

    /// Tells whether the peer takes such a message, which may have become less since it was cut.
    fn fits(&self, message: &Message) -> bool {
        let beside = MAX_HEADER + message.options.encoded_len();
        beside + message.payload.len() <= self.peer_message_size
    }

    fn send_call(&mut self, at: usize, message: Message) {
        let token = self.next_token();
        self.calls[at].token = token;
        self.write(&message.with_token(token));
    }

    /// A token of our own. A stream's peer is who it is: a count is as good as a random number.
    fn next_token(&mut self) -> Token {
        self.serials += 1;
        Token::from(self.serials as u32)
    }

    /// Ends the observation that a registration or deregistration means: that of its token, or of
    /// the same resource, as of a device that has lost its token.
    fn end_same(&mut self, token: Token, wanted: &Wanted) {
        let (observers, events) = (&mut self.observers, &mut self.events);
        observers.retain(|observer| {
            let is_meant = observer.token == token || observer.wanted.is_same(wanted);
            if is_meant {
                let observation = observer.observation;
                events.push_back(Event::Ended { observation });
            }
            !is_meant
        });
    }

    fn answer(
        &mut self,
        now: Duration,
        exchange: u64,
        mut response: Message,
        observe: bool,
    ) -> Result<(bool, Option<u64>), RequestError> {
        let mut list = self.pending.iter();
        let at = list.position(|pending| pending.exchange == exchange);
        let pending = self.pending.remove(at.ok_or(RequestError::Gone)?);
        let registers = observe && pending.wants_observation && response.code.is_success();
        if registers {
            self.end_same(pending.token, &pending.wanted);
        }
        let has_room = self.observers.len() < self.config.limits.max_observations_per_peer;
        response.options.remove(option::OBSERVE);
        let mut observation = None;
        if registers && has_room {
            self.count_notification(&mut response.options);
            self.observers.push(Observer {
                observation: exchange,
                token: pending.token,
                wanted: pending.wanted.for_notifications(),
            });
            observation = Some(exchange);
        }
        let source = Source::Exchange(exchange);
        let (response, has_rest) = self.cut(now, response, (&pending.wanted, source));
        self.reply(pending.token, response);
        self.grant_custody();
        Ok((!has_rest, observation))
    }

    /// Sets the number of a notification. The stream keeps their order, and it may be anything
    /// (section 7.1).
    fn count_notification(&mut self, options: &mut Options) {
        self.notifications = (self.notifications + 1) & 0xff_ffff;
        options.set_uint(option::OBSERVE, self.notifications);
    }

    /// Gives the peer a later block.
    fn give(&mut self, token: Token, wanted: &Wanted, found: Found) {
        self.reply(token, found.answer);
        let event = match self.bodies.sent(wanted, found.part) {
            Some(Source::Exchange(exchange)) => Event::AnswerFetched { exchange },
            Some(Source::Observation(observation)) => Event::NotificationFetched { observation },
            None => return,
        };
        self.events.push_back(event);
    }

    /// Cuts a response that is larger than what the peer takes, and tells whether there is a rest.
    fn cut(
        &mut self,
        now: Duration,
        response: Message,
        (wanted, source): (&Wanted, Source),
    ) -> (Message, bool) {
        let blocks = self.blocks(&response);
        let tools = (&self.block_bytes, &self.random);
        let wanted = (wanted, Some(source));
        self.bodies.respond(response, wanted, now, &blocks, tools)
    }

    /// How a message's body goes: at once if it fits in what the peer takes.
    fn blocks(&self, message: &Message) -> BlockConfig {
        let (size, body) = (self.peer_message_size, message.payload.len());
        let mut blocks = self.config.blocks.within(size, &message.options);
        if body <= room(size, &message.options) {
            blocks.size = blocks.size.max(body);
        }
        blocks
    }

    fn reply(&mut self, token: Token, message: Message) {
        self.write(&message.with_token(token));
    }

    fn write(&mut self, message: &Message) {
        if self.closed.is_none() {
            write_frame(message, &mut self.output);
        }
    }
}
