//! The CoAP endpoint, as server and client: whatever comes and whatever is asked in any order, each
//! request of ours, each notification, each observation and each answer that goes apart has one end;
//! an answer that should arrive goes apart, unless it goes with an acknowledgement;
//! a notification is told to have arrived, or to be fetched, only where its own acknowledgement came
//! or what was asked for can be of no other; nobody who has not shown where it is gets more than
//! three times what it sent; and when its time has passed, nothing is left.
//!
//! The input is steps of a byte that says what to do, a byte of length and so many bytes.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use gateway_downstream_coap::proto::block::Block;
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use gateway_downstream_coap::proto::udp::{
    CallId, Endpoint, EndpointStats, Event, ExchangeId, NotificationOutcome, ObservationId,
    Responded, Transmit,
};
use gateway_downstream_coap::proto::{BlockConfig, EndpointConfig, Seed};
use libfuzzer_sys::fuzz_target;

const MAX_REMEMBERED: usize = 24;
const MAX_BLOCK_BYTES: usize = 4096;
const PEERS: u8 = 4;
/// The peer of this step has shown where it is, and may be sent anything from then on.
const PROVEN: u8 = 64;
const ANYTHING: usize = usize::MAX / 2;
/// What it sends refers to what it was sent last: by its Echo, its id, its token. Else, something is
/// done in its other way.
const REFERRING: u8 = 128;

/// What was made to be sent as one body, by its number. It is filled with that.
type Serial = u64;

/// A request that waits for its answer, and what it asks for.
struct Exchange {
    id: ExchangeId<u8>,
    path: Vec<Bytes>,
    is_confirmable: bool,
}

/// How a request is answered.
#[derive(PartialEq)]
enum Manner {
    Plain,
    Given,
    Observed,
}

struct Observation {
    id: ObservationId<u8>,
    path: Vec<Bytes>,
    /// The first body that was made for it.
    since: Serial,
}

/// The last notification of an observation.
struct Notice {
    serial: Serial,
    path: Vec<Bytes>,
    since: Serial,
    /// The id of its datagram, once that was sent.
    id: Option<u16>,
    has_rest: bool,
    /// No block of anything else can have been asked for since it was sent.
    is_alone: bool,
    is_acknowledged: bool,
    is_over: bool,
    is_fetched: bool,
}

/// What is known of a peer from outside.
#[derive(Default)]
struct Peer {
    /// Bytes that it may be sent.
    room: usize,
    echo: Option<Bytes>,
    /// What it may acknowledge or reset, and the request that it may answer.
    last_id: u16,
    call: Option<(u16, Token)>,
    /// The confirmable messages that it has not acknowledged, with their lengths.
    unacknowledged: HashMap<u16, usize>,
    /// Bodies of which it has a block and not the last.
    begun: HashSet<Serial>,
}

impl Peer {
    fn allow(&mut self, bytes: usize) {
        self.room = self.room.saturating_add(bytes);
    }
}

struct World {
    endpoint: Endpoint<u8>,
    now: Duration,
    peers: HashMap<u8, Peer>,
    /// When each body was made.
    bodies: Vec<Duration>,
    exchanges: Vec<Exchange>,
    /// Answers of which an end is promised, and those of which one may be told.
    apart: HashSet<ExchangeId<u8>>,
    perhaps: HashSet<ExchangeId<u8>>,
    calls: Vec<CallId<u8>>,
    observations: Vec<Observation>,
    notices: HashMap<ObservationId<u8>, Notice>,
    /// What came in this step, and the bodies of which the last block was sent in it.
    heard: Option<(u8, Datagram)>,
    ended: Vec<Serial>,
}

impl World {
    fn step(&mut self, what: u8, data: &[u8]) {
        let (peer, number) = (what >> 4 & 3, usize::from(data.first().copied().unwrap_or(0)));
        let is_other_way = what & REFERRING != 0;
        match what & 15 {
            0..=6 if is_other_way => self.receive(peer, what & PROVEN != 0, &self.referring(peer, data)),
            0..=6 => self.receive(peer, what & PROVEN != 0, data),
            7 | 8 if !self.exchanges.is_empty() => {
                let exchange = self.exchanges.swap_remove(number % self.exchanges.len());
                let manner = match (what & 15, is_other_way) {
                    (8, _) => Manner::Observed,
                    (_, true) => Manner::Given,
                    _ => Manner::Plain,
                };
                self.answer(exchange, number, &manner);
            }
            9 if is_other_way && !self.observations.is_empty() => {
                let observation = self.observations[number % self.observations.len()].id;
                self.endpoint.dismiss(self.now, observation, Message::new(Code::INTERNAL_ERROR));
                self.look();
                assert!(self.observations.iter().all(|one| one.id != observation));
            }
            9 if !self.observations.is_empty() => self.notify(number),
            10 => {
                let request = self.content(number);
                let request = Message { code: Code::POST, ..request }.with_path("x");
                let call = self.endpoint.request(self.now, peer, request, number.is_multiple_of(2));
                self.calls.extend(call.ok());
            }
            11 if !self.calls.is_empty() => {
                let call = self.calls.swap_remove(number % self.calls.len());
                self.endpoint.cancel(self.now, call);
            }
            12 => {
                self.endpoint.forget(self.now, peer);
                self.look();
                self.peers.remove(&peer);
            }
            13 if !self.observations.is_empty() => {
                let observation = self.observations[number % self.observations.len()].id;
                match what & PROVEN {
                    0 => self.endpoint.end_observation(self.now, observation),
                    _ => self.endpoint.withdraw_notification(self.now, observation),
                }
            }
            _ => self.pass(Duration::from_millis(number as u64 * 300)),
        }
        self.look();
    }

    fn receive(&mut self, peer: u8, is_proven: bool, data: &[u8]) {
        let known = self.peers.entry(peer).or_default();
        known.allow(if is_proven { ANYTHING } else { 3 * data.len() });
        if let Ok(datagram) = Datagram::decode(data) {
            let (message, id) = (&datagram.message, datagram.id);
            let echo = message.options.get(option::ECHO);
            if message.code.is_request() && echo.is_some() && echo == known.echo.as_ref() {
                known.allow(ANYTHING);
            }
            if datagram.kind == Kind::Acknowledgement && message.code == Code::EMPTY {
                let length = known.unacknowledged.remove(&id).unwrap_or(0);
                known.allow(3 * length);
                for (observation, notice) in &mut self.notices {
                    notice.is_acknowledged |= observation.peer == peer && notice.id == Some(id);
                }
            }
            self.heard = Some((peer, datagram));
        }
        self.endpoint.receive(self.now, peer, is_proven, data);
    }

    /// The same, as what answers the last that the peer was sent.
    fn referring(&self, peer: u8, data: &[u8]) -> Bytes {
        let (Some(known), Ok(mut datagram)) = (self.peers.get(&peer), Datagram::decode(data)) else {
            return Bytes::copy_from_slice(data);
        };
        let message = &mut datagram.message;
        if message.code.is_request() {
            message.options.remove(option::ECHO);
            if let Some(echo) = &known.echo {
                message.options.add(option::ECHO, echo.clone());
            }
        } else if message.code == Code::EMPTY {
            datagram.id = known.last_id;
        } else if let Some((id, token)) = known.call {
            message.token = token;
            if datagram.kind == Kind::Acknowledgement {
                datagram.id = id;
            }
        }
        datagram.encode()
    }

    fn answer(&mut self, exchange: Exchange, number: usize, manner: &Manner) {
        let Exchange { id, path, is_confirmable } = exchange;
        let since = self.bodies.len() as Serial;
        let response = self.content(number);
        if *manner != Manner::Observed {
            let is_given = *manner == Manner::Given;
            let responded = match is_given {
                true => self.endpoint.give(self.now, id, response),
                false => self.endpoint.respond(self.now, id, response),
            };
            match responded {
                Ok(Responded::Apart) => assert!(self.apart.insert(id)),
                Ok(Responded::Begun) => assert!(self.perhaps.insert(id)),
                Ok(Responded::Sent) => assert!(is_confirmable || !is_given, "nobody would confirm it"),
                _ => {}
            }
        } else if let Ok(observation) = self.endpoint.observe(self.now, id, response) {
            assert!(self.perhaps.insert(id));
            let observation = observation.map(|id| Observation { id, path, since });
            self.observations.extend(observation);
        }
    }

    fn notify(&mut self, number: usize) {
        let (message, serial) = (self.content(number), self.bodies.len() as Serial - 1);
        let observation = &self.observations[number % self.observations.len()];
        if self.endpoint.notify(self.now, observation.id, message).is_ok() {
            let notice = Notice {
                serial,
                path: observation.path.clone(),
                since: observation.since,
                id: None,
                has_rest: false,
                is_alone: false,
                is_acknowledged: false,
                is_over: false,
                is_fetched: false,
            };
            let before = self.notices.insert(observation.id, notice);
            assert!(before.is_none_or(|before| before.is_over));
        }
    }

    /// Makes the next body, of so many pieces of 16 bytes.
    fn content(&mut self, number: usize) -> Message {
        let serial = self.bodies.len() as Serial;
        self.bodies.push(self.now);
        Message::new(Code::CONTENT).with_payload(serial.to_be_bytes().repeat((number * 2).max(1)))
    }

    fn pass(&mut self, time: Duration) {
        let (end, mut rounds) = (self.now + time, 0);
        while let Some(due) = self.endpoint.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.endpoint.on_timeout(self.now);
            self.look();
            rounds += 1;
            assert!(rounds < 100_000, "time asks for more and more");
        }
        self.now = end;
    }

    fn look(&mut self) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.on_transmit(&transmit);
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(event);
        }
        (self.heard, self.ended) = (None, Vec::new());
        let stats = self.endpoint.stats();
        assert!(stats.block_bytes <= MAX_BLOCK_BYTES);
        assert!(stats.remembered <= MAX_REMEMBERED && stats.peers <= MAX_REMEMBERED);
        assert_eq!(stats.observations, self.observations.len());
    }

    fn on_transmit(&mut self, Transmit { peer, bytes }: &Transmit<u8>) {
        let Datagram { kind, id, message } = Datagram::decode(bytes).expect("what goes out can be read");
        assert!(bytes.len() <= 1152);
        let known = self.peers.entry(*peer).or_default();
        if kind == Kind::Confirmable {
            known.last_id = id;
            known.unacknowledged.insert(id, bytes.len());
        }
        if message.code.is_request() {
            // It is our own wish.
            (known.last_id, known.call) = (id, Some((id, message.token)));
            return;
        }
        known.room = known.room.checked_sub(bytes.len()).expect("not more than it may get");
        if let Some(echo) = message.options.get(option::ECHO).filter(|_| message.code == Code::UNAUTHORIZED) {
            assert!(bytes.len() < 64);
            known.echo = Some(echo.clone());
        }
        let Some(first) = message.payload.first_chunk().copied() else {
            return;
        };
        let serial = Serial::from_be_bytes(first);
        assert!(message.payload.chunks(8).all(|chunk| chunk == first), "of one body");
        let has_rest = Block::read(&message.options, option::BLOCK2).is_some_and(|block| block.more);
        let is_sent = |one: &&mut Notice| one.serial == serial && one.id.is_none();
        let mut notices = self.notices.values_mut().filter(|_| message.options.has(option::OBSERVE));
        if let Some(notice) = notices.find(is_sent) {
            let lifetime = BlockConfig::default().timeout;
            let is_over = |other: &Serial| self.bodies[*other as usize] + lifetime <= self.now;
            let mut begun = known.begun.iter().filter(|other| **other >= notice.since);
            (notice.id, notice.has_rest, notice.is_alone) = (Some(id), has_rest, begun.all(is_over));
        }
        match has_rest {
            true => drop(known.begun.insert(serial)),
            false => self.ended.push(serial),
        }
    }

    fn on_event(&mut self, event: Event<u8>) {
        match event {
            Event::Request(incoming) => {
                let (id, options) = (incoming.exchange, incoming.message.options);
                assert!(self.exchanges.iter().all(|one| one.id != id));
                let path = options.all(option::URI_PATH).cloned().collect();
                let is_confirmable = incoming.is_confirmable;
                self.exchanges.push(Exchange { id, path, is_confirmable });
            }
            Event::Response { call, .. } => {
                let at = self.calls.iter().position(|one| *one == call);
                self.calls.swap_remove(at.expect("it ends once"));
            }
            Event::Answered { exchange, .. } => {
                assert!(self.apart.remove(&exchange) || self.perhaps.remove(&exchange));
            }
            Event::AnswerFetched { exchange } => assert!(self.perhaps.remove(&exchange)),
            Event::Notified { observation, outcome } => {
                let notice = self.notices.get_mut(&observation).expect("a notification");
                assert!(!std::mem::replace(&mut notice.is_over, true), "it ends once");
                if let NotificationOutcome::Acknowledged { is_whole } = outcome {
                    let notice = &self.notices[&observation];
                    assert!(notice.is_acknowledged || self.is_asked_for(observation));
                    assert_eq!(is_whole, !notice.has_rest);
                }
            }
            Event::NotificationFetched { observation } => {
                let notice = &self.notices[&observation];
                assert!(notice.is_over && notice.has_rest && self.ended.contains(&notice.serial));
                assert!(notice.is_acknowledged || self.is_asked_for(observation));
                let notice = self.notices.get_mut(&observation).expect("a notification");
                assert!(!std::mem::replace(&mut notice.is_fetched, true), "it is told once");
            }
            Event::Ended { observation, .. } => {
                assert!(self.notices.get(&observation).is_none_or(|notice| notice.is_over));
                let at = self.observations.iter().position(|one| one.id == observation);
                self.observations.swap_remove(at.expect("it ends once"));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Tells whether what came asks for a later block of the last notification, and can ask for one of
    /// nothing else.
    fn is_asked_for(&self, observation: ObservationId<u8>) -> bool {
        let (notice, Some((peer, datagram))) = (&self.notices[&observation], &self.heard) else {
            return false;
        };
        let options = &datagram.message.options;
        let block = Block::read(options, option::BLOCK2);
        let is_it = *peer == observation.peer && options.all(option::URI_PATH).eq(&notice.path);
        is_it && notice.id.is_some() && notice.is_alone && block.is_some_and(|block| block.number > 0)
    }

    /// Lets everything have its end.
    fn finish(mut self) {
        self.pass(Duration::from_secs(1 << 32));
        assert!(self.calls.is_empty() && self.apart.is_empty());
        assert!(self.notices.values().all(|notice| notice.is_over));
        assert_eq!((self.endpoint.stats().pending, self.endpoint.next_timeout()), (0, None));
        for peer in 0..PEERS {
            self.endpoint.forget(self.now, peer);
        }
        self.look();
        assert!(self.observations.is_empty());
        assert_eq!(self.endpoint.stats(), EndpointStats::default());
    }
}

fuzz_target!(|input: &[u8]| {
    let mut config = EndpointConfig::default();
    config.blocks.size = 64;
    config.limits.max_remembered = MAX_REMEMBERED;
    config.limits.max_pending = 8;
    config.limits.max_block_bytes = MAX_BLOCK_BYTES;
    // What one input has come to know must be of no use to others, or they could forge an Echo.
    let mut secret = DefaultHasher::new();
    input.hash(&mut secret);
    let mut world = World {
        endpoint: Endpoint::new(config, Seed([secret.finish(), 2])),
        now: Duration::from_secs(1),
        peers: HashMap::new(),
        bodies: Vec::new(),
        exchanges: Vec::new(),
        apart: HashSet::new(),
        perhaps: HashSet::new(),
        calls: Vec::new(),
        observations: Vec::new(),
        notices: HashMap::new(),
        heard: None,
        ended: Vec::new(),
    };
    let mut rest = input;
    while let [what, length, tail @ ..] = rest {
        let (data, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        world.step(*what, data);
        rest = tail;
    }
    world.finish();
});
