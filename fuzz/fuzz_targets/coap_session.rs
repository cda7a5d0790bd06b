//! CoAP over a stream: whatever comes and whatever is asked in any order, each request is answered
//! once, each observation and each request of ours has one end, a session that is over says nothing
//! more, what is said fits in what the peer takes, and bodies keep within their budget and give it
//! back in time.
//!
//! The input is steps of a byte that says what to do, a byte of length and so many bytes.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::BytesMut;
use gateway_downstream_coap::proto::message::{Code, Message, Token, option};
use gateway_downstream_coap::proto::tcp::{
    Event, FrameReader, RequestError, Session, StreamConfig, write_frame,
};
use gateway_downstream_coap::proto::{Budget, Seed};
use libfuzzer_sys::fuzz_target;

const MAX_BLOCK_BYTES: usize = 4096;
const MAX_PENDING: usize = 4;
const MAX_CALLS: usize = 4;
const BLOCK: usize = 64;
/// Beside the payload, in messages that are made here.
const HEAD: usize = 48;
/// In a message of settings: the largest message that the peer takes.
const MAX_MESSAGE_SIZE: u16 = 2;
/// What goes out in this step has as many options as the peer has room for.
const LONG: u8 = 16;

struct World {
    session: Session,
    bytes: Budget,
    input: BytesMut,
    /// The same bytes, for the peer's settings.
    shadow: BytesMut,
    takes: usize,
    now: Duration,
    exchanges: BTreeMap<u64, Token>,
    /// Answers and notifications of which the peer may fetch a rest.
    begun: BTreeSet<u64>,
    calls: BTreeSet<u64>,
    observations: BTreeSet<u64>,
    is_over: bool,
}

/// One of them, the same for the same input.
fn pick(set: &BTreeSet<u64>, number: usize) -> Option<u64> {
    set.iter().nth(number % set.len().max(1)).copied()
}

impl World {
    fn step(&mut self, what: u8, data: &[u8]) {
        let number = usize::from(data.first().copied().unwrap_or(0));
        let body = vec![7; number * 16];
        let response = self.message(Code::CONTENT, what, body.clone());
        let took = self.takes;
        // Frames that this step has to bring: of a response, and of a request of ours.
        let (mut answer, mut request) = (None, false);
        match what & 15 {
            0..=6 => {
                self.input.extend_from_slice(data);
                self.listen(data);
                let result = self.session.receive(self.now, &mut self.input);
                assert!(!self.is_over || result.is_err());
                self.hear();
                if result.is_err() && !self.is_over {
                    self.look(took);
                    self.is_over = true;
                }
            }
            7 | 8 => {
                let exchanges = self.exchanges.keys().copied().collect();
                let Some(exchange) = pick(&exchanges, number) else {
                    return;
                };
                answer = self.exchanges.remove(&exchange);
                if what & 15 == 7 {
                    let answered = self.session.respond(self.now, exchange, response.clone());
                    if !answered.expect("it waits") {
                        self.begun.insert(exchange);
                    }
                } else {
                    let observed = self.session.observe(self.now, exchange, response.clone());
                    self.hear();
                    self.observations.extend(observed.expect("it waits"));
                    self.begun.insert(exchange);
                }
                let again = self.session.respond(self.now, exchange, response);
                assert_eq!(again, Err(RequestError::Gone));
            }
            9 => {
                let Some(observation) = pick(&self.observations, number) else {
                    return;
                };
                let message = match number > 250 {
                    true => Message::new(Code::INTERNAL_ERROR),
                    false => response,
                };
                let is_last = !message.code.is_success();
                let before = self.session.unwritten();
                let notified = self.session.notify(self.now, observation, message);
                assert!(self.is_over || self.session.unwritten() > before);
                if !notified.expect("it is observed") {
                    self.begun.insert(observation);
                }
                if is_last {
                    self.observations.remove(&observation);
                    assert!(!self.session.end_observation(observation));
                }
            }
            10 => {
                request = self.call(self.message(Code::POST, what, body));
            }
            11 => {
                if let Some(call) = pick(&self.calls, number) {
                    self.calls.remove(&call);
                    self.session.cancel(call);
                }
            }
            12 => {
                if let Some(observation) = pick(&self.observations, number) {
                    self.end(observation);
                }
            }
            13 => drop(self.session.ping()),
            14 => self.session.release(),
            _ => self.now += Duration::from_secs(number as u64),
        }
        self.hear();
        let said = self.look(took);
        if !self.is_over {
            let is_answer = |one: &&Message| one.code.is_response() && Some(one.token) == answer;
            assert!(answer.is_none() || said.iter().filter(is_answer).count() == 1);
            assert!(!request || said.iter().filter(|one| one.code.is_request()).count() == 1);
        }
        self.wait();
    }

    fn message(&self, code: Code, what: u8, body: Vec<u8>) -> Message {
        let mut message = Message::new(code).with_payload(body);
        while what & LONG != 0 {
            let mut longer = message.clone();
            longer.options.add(option::LOCATION_QUERY, vec![b'x'; 50]);
            if longer.options.encoded_len() > self.session.options_room() {
                break;
            }
            message = longer;
        }
        message
    }

    /// Asks the peer for something, and tells whether that is on its way.
    fn call(&mut self, message: Message) -> bool {
        match self.session.request(message) {
            Ok(call) => assert!(self.calls.insert(call)),
            Err(_) => {
                assert_eq!(self.calls.len(), MAX_CALLS);
                return false;
            }
        }
        true
    }

    fn end(&mut self, observation: u64) {
        assert!(self.observations.remove(&observation));
        assert!(self.session.end_observation(observation));
        assert!(!self.session.end_observation(observation));
    }

    /// Forgets what has waited for too long. What holds bytes has its time.
    fn wait(&mut self) -> Option<Duration> {
        let due = self.session.on_timeout(self.now);
        assert!(due.is_none_or(|due| due > self.now));
        assert!(due.is_some() || self.bytes.used() == 0);
        due
    }

    /// Notes how much the peer takes at a time.
    fn listen(&mut self, data: &[u8]) {
        self.shadow.extend_from_slice(data);
        let reader = FrameReader::new(1 << 20);
        while let Ok(Some(message)) = reader.read(&mut self.shadow) {
            let size = message.options.uint(MAX_MESSAGE_SIZE);
            if let (Code::CSM, Some(size)) = (message.code, size) {
                self.takes = size as usize;
            }
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(self.session.has_settings());
            match event {
                Event::Request { exchange, message, .. } => {
                    assert_eq!(self.exchanges.insert(exchange, message.token), None);
                }
                Event::Response { call, .. } => assert!(self.calls.remove(&call)),
                Event::Ended { observation } => assert!(self.observations.remove(&observation)),
                Event::AnswerFetched { exchange: one }
                | Event::NotificationFetched { observation: one } => {
                    assert!(self.begun.remove(&one));
                }
                _ => {}
            }
        }
        assert_eq!(self.session.pending(), self.exchanges.len());
        assert!(self.exchanges.len() <= MAX_PENDING);
        assert!(self.bytes.used() <= MAX_BLOCK_BYTES);
    }

    /// What was said, to a peer that took so much before this step.
    fn look(&mut self, took: usize) -> Vec<Message> {
        let unwritten = self.session.unwritten();
        let mut output = self.session.take_output();
        assert_eq!((output.len(), self.session.unwritten()), (unwritten, 0));
        assert!(!self.is_over || output.is_empty());
        let reader = FrameReader::new(took.max(self.takes).max(BLOCK + HEAD));
        let said = std::iter::from_fn(|| reader.read(&mut output).expect("what the peer takes"));
        let said = said.collect();
        assert!(output.is_empty());
        said
    }

    /// Nothing is there that nobody knows of, and nothing stays for ever.
    fn finish(mut self) {
        let room = MAX_CALLS - self.calls.len();
        for _ in 0..room {
            assert!(self.call(Message::new(Code::GET)));
        }
        assert!(!self.call(Message::new(Code::GET)));
        for observation in self.observations.clone() {
            self.end(observation);
        }
        while let Some(due) = self.wait() {
            self.now = due;
        }
        assert_eq!(self.bytes.used(), 0);
    }
}

fuzz_target!(|input: (bool, &[u8])| {
    let (greets, input) = input;
    let mut config = StreamConfig::default();
    config.blocks.size = BLOCK;
    config.blocks.max_body = 2048;
    config.limits.max_pending_per_peer = MAX_PENDING;
    config.limits.max_calls_per_peer = MAX_CALLS;
    let bytes = Budget::new(MAX_BLOCK_BYTES);
    let mut world = World {
        session: Session::new(config, bytes.clone(), Seed([1, 2])),
        bytes,
        input: BytesMut::new(),
        shadow: BytesMut::new(),
        takes: 1152,
        now: Duration::from_secs(1),
        exchanges: BTreeMap::new(),
        begun: BTreeSet::new(),
        calls: BTreeSet::new(),
        observations: BTreeSet::new(),
        is_over: false,
    };
    if greets {
        write_frame(&Message::new(Code::CSM), &mut world.input);
    }
    let mut rest = input;
    while let [what, length, tail @ ..] = rest {
        let (data, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        world.step(*what, data);
        rest = tail;
    }
    world.finish();
});
