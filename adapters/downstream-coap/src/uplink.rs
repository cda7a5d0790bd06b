//! Requests of devices: who asks, for whom, and what the hub says to it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use futures_util::FutureExt as _;
use gateway_core::{
    DeviceId, ErrorKind, MessageId, MethodReply, Settlement, TwinReply, TwinRequest, Uplink,
    UpstreamError,
};

use crate::carrier::Sender;
use crate::commands::Answered;
use crate::devices::{Devices, Done, Part};
use crate::downlink;
use crate::identity::{Proof, subject};
use crate::layer::{MessageLayer, Request};
use crate::listener::{Exchange, Poll, Topic};
use crate::proto::block::Block;
use crate::proto::message::{Code, Message, option};
use crate::proto::resource::{Query, Resource, content_of, failed, settled};
use crate::selection::Selection;

/// Formats that a JSON object comes in: JSON, JSON merge patch.
const JSON_FORMATS: [u32; 2] = [50, 52];

impl<L: MessageLayer> Devices<L> {
    /// Takes a request of a peer that is known by this much.
    pub(crate) fn on_request(&mut self, request: Request, sender: &Sender) {
        let exchange = request.exchange;
        match self.handle(request, sender) {
            Ok(Some(answer)) => self.answer(exchange, answer),
            // It comes later.
            Ok(None) => {}
            Err(code) => self.answer(exchange, Message::new(code)),
        }
    }

    fn handle(&mut self, incoming: Request, sender: &Sender) -> Result<Option<Message>, Code> {
        let (shared, exchange) = (self.shared.clone(), incoming.exchange);
        let message = &incoming.message;
        let path = message.path().ok_or(Code::BAD_REQUEST)?;
        let proof = Proof::read(message.query().ok_or(Code::BAD_REQUEST)?);
        let target = shared.routes.find(message.code, &path)?;
        if target.resource == Resource::WellKnown {
            return Ok(Some(shared.routes.links(&proof.rest)));
        }
        let speaker = proof.device(sender, &*shared.authenticator);
        let speaker = speaker.ok_or(Code::UNAUTHORIZED)?;
        let device = subject(&speaker, target.device, &*shared.authenticator)?;
        // An answer that somebody waits for is still welcome.
        if self.is_draining && target.resource != Resource::CommandResponse {
            return Ok(Some(failed(ErrorKind::Closed, None)));
        }
        let query = match Query::parse(shared.routes.profile(), &proof.rest) {
            Ok(query) => query,
            Err(error) => {
                let answer = Message::new(Code::BAD_REQUEST).with_payload(error.to_string());
                return Ok(Some(answer));
            }
        };
        let is_child = target.device.is_some();
        self.heard(&device, exchange.peer, is_child);
        match target.resource {
            Resource::Telemetry | Resource::Event => {
                let poll = self.poll(exchange, Code::CHANGED, is_child, &query);
                Ok(self.uplink(&incoming, &speaker, device, query, poll))
            }
            Resource::CommandResponse => {
                let request = target.request.ok_or(Code::NOT_FOUND)?;
                Ok(Some(
                    self.command_answered(&device, request, &query, message),
                ))
            }
            Resource::Command if incoming.wants_observation => {
                self.register(&device, exchange, Topic::Commands, is_child);
                Ok(None)
            }
            // The rest of a command that is gone; of another one it would have no more than the rest.
            Resource::Command if asks_for_rest(message) => Err(Code::BAD_REQUEST),
            Resource::Command => {
                let Some(poll) = self.poll(exchange, Code::CONTENT, is_child, &query) else {
                    return Ok(Some(Message::new(Code::CONTENT)));
                };
                self.listen_once(&device, poll);
                Ok(None)
            }
            // All of it is observed, or nothing.
            Resource::Desired if incoming.wants_observation && message.code == Code::GET => {
                self.register(&device, exchange, Topic::Desired, is_child);
                Ok(None)
            }
            Resource::Twin | Resource::Desired => {
                let selection = Selection::read(message)?;
                let part = match target.resource {
                    Resource::Twin => Part::Whole(selection),
                    _ => Part::Desired(selection),
                };
                self.ask_twin(exchange, device, part, TwinRequest::Get, None);
                Ok(None)
            }
            Resource::Reported => {
                let format = message.options.uint(option::CONTENT_FORMAT);
                if format.is_some_and(|format| !JSON_FORMATS.contains(&format)) {
                    return Err(Code::UNSUPPORTED_FORMAT);
                }
                let request = TwinRequest::PatchReported(message.payload.clone());
                self.ask_twin(exchange, device, Part::Reported, request, None);
                Ok(None)
            }
            _ => Err(Code::NOT_FOUND),
        }
    }

    /// Sends a message on its way to the hub.
    fn uplink(
        &mut self,
        incoming: &Request,
        speaker: &DeviceId,
        device: DeviceId,
        query: Query,
        poll: Option<Poll>,
    ) -> Option<Message> {
        let exchange = incoming.exchange;
        if query.is_empty {
            let Some(poll) = poll else {
                return Some(Message::new(Code::CHANGED));
            };
            self.listen_once(&device, poll);
            return None;
        }
        let Some(slot) = self.ingress.try_reserve() else {
            let after = self.shared.config.endpoint.limits.retry_after;
            return Some(failed(ErrorKind::Throttled, Some(after)));
        };
        let id = match query.id {
            Some(id) => id,
            None => stable_id(incoming, speaker),
        };
        let message = &incoming.message;
        let format = message.options.uint(option::CONTENT_FORMAT);
        let format = format.and_then(|number| content_of(u16::try_from(number).ok()?));
        let mut system = query.system;
        if let (Some(format), None) = (format, &system.content_type) {
            system.content_type = Some(format.media_type.to_owned());
            let encoding = format.encoding.map(str::to_owned);
            system.content_encoding = system.content_encoding.or(encoding);
        }
        let poll = poll.map(|poll| (device.clone(), poll));
        let uplink = Uplink::new(device, id, message.payload.clone())
            .with_properties(query.properties)
            .with_system(system);
        let job = async move {
            Done::Settled {
                exchange,
                settlement: slot.deliver(uplink).await,
                poll,
            }
        };
        self.jobs.push(job.boxed());
        None
    }

    /// The wait for a command that a query asks for.
    fn poll(&self, exchange: Exchange, code: Code, is_child: bool, query: &Query) -> Option<Poll> {
        let wait = query.wait?.min(self.shared.config.timeouts.wait);
        Some(Poll {
            exchange,
            code,
            is_child,
            since: self.now,
            deadline: self.now + wait,
        })
    }

    pub(crate) fn settled(
        &mut self,
        exchange: Exchange,
        settlement: Settlement,
        poll: Option<(DeviceId, Poll)>,
    ) {
        let is_taken = settlement == Settlement::Accepted && !self.is_draining;
        match poll.filter(|(device, poll)| is_taken && self.still_waits(device, poll)) {
            Some((device, poll)) => self.listen_once(&device, poll),
            None => self.answer(exchange, settled(settlement)),
        }
    }

    /// Tells whether a wait that begins late is one yet: somebody is there to be answered, has begun none
    /// by a later request, and has asked for nothing elsewhere since.
    fn still_waits(&mut self, device: &DeviceId, poll: &Poll) -> bool {
        let listener = self.listeners.get(device);
        let listener = listener.filter(|listener| !listener.claim.is_lost());
        let is_last = match listener {
            Some(listener) => listener.last_wait < Some(poll.exchange.serial),
            None => {
                let seat = self.shared.registry.find(device);
                !seat.is_some_and(|seat| seat.was_asked_since(poll.since))
            }
        };
        is_last && self.endpoint.is_pending(poll.exchange)
    }

    fn command_answered(
        &mut self,
        device: &DeviceId,
        request: &str,
        query: &Query,
        message: &Message,
    ) -> Message {
        let reply = MethodReply::new(query.status.unwrap_or(200), message.payload.clone());
        match self.shared.answers.answer(device, request, reply) {
            Answered::InTime => Message::new(Code::CHANGED),
            Answered::Late => {
                self.ingress.note_late_answer(device);
                Message::new(Code::NOT_FOUND)
            }
            Answered::Unasked => Message::new(Code::NOT_FOUND),
        }
    }

    /// Asks the hub about a twin, for an answer or for a registration.
    pub(crate) fn ask_twin(
        &mut self,
        exchange: Exchange,
        device: DeviceId,
        part: Part,
        request: TwinRequest,
        observer: Option<DeviceId>,
    ) {
        let ingress = self.ingress.clone();
        let job = async move {
            Done::Twin {
                exchange,
                part,
                result: ingress.twin(&device, request).await,
                observer,
            }
        };
        self.jobs.push(job.boxed());
    }

    pub(crate) fn twin_done(
        &mut self,
        exchange: Exchange,
        part: Part,
        result: Result<TwinReply, UpstreamError>,
        observer: Option<DeviceId>,
    ) {
        let answer = match result {
            Ok(reply) => match part {
                Part::Reported => Ok(Message::new(Code::CHANGED)),
                Part::Whole(selection) => downlink::twin(&reply, &selection),
                Part::Desired(selection) => downlink::desired_of(&reply, &selection),
            },
            Err(error) => Ok(failed(error.kind(), error.retry_after())),
        };
        let answer = answer.unwrap_or_else(|error| {
            tracing::warn!(error = %error, "The hub's twin makes no sense");
            failed(ErrorKind::Other, None)
        });
        match observer {
            Some(device) => {
                self.observe(&device, exchange, Topic::Desired, answer);
                self.reconcile(&device);
            }
            None => self.answer(exchange, answer),
        }
    }
}

/// The id of a message that brought none: the same when the device sends it again, to this process
/// or the next. Message ids come round, so that all that it says counts too. Where there are no
/// message ids nothing is known to be sent again, and each message is another.
fn stable_id(incoming: &Request, speaker: &DeviceId) -> MessageId {
    let (message, Some(message_id)) = (&incoming.message, incoming.message_id) else {
        return MessageId::random();
    };
    let mut hasher = DefaultHasher::new();
    speaker.hash(&mut hasher);
    let path: Vec<_> = message.options.all(option::URI_PATH).collect();
    // A proof is no part of what is said, and is a secret.
    let query = message.query().map(|query| Proof::read(query).rest);
    (path, query, &message.payload).hash(&mut hasher);
    let (token, hash) = (message.token, hasher.finish());
    let id = MessageId::new(format!("{message_id:04x}-{token:?}-{hash:016x}"));
    id.unwrap_or_else(|_| MessageId::random())
}

/// Tells whether a request is for a later block of an answer.
fn asks_for_rest(message: &Message) -> bool {
    let block = Block::read(&message.options, option::BLOCK2);
    block.is_some_and(|block| block.number > 0)
}
