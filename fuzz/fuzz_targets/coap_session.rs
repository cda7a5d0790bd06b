//! CoAP over a stream: whatever comes and whatever is asked in any order, each request is answered
//! once, each observation and each request of ours has one end, a session that is over says nothing
//! more, and bodies keep within their budget and give it back.
//!
//! The input is steps of a byte that says what to do, a byte of length and so many bytes.
#![no_main]

use std::collections::HashSet;
use std::time::Duration;

use bytes::BytesMut;
use gateway_downstream_coap::proto::message::{Code, Message};
use gateway_downstream_coap::proto::tcp::{
    Event, FrameReader, RequestError, Session, StreamConfig, write_frame,
};
use gateway_downstream_coap::proto::{Budget, Seed};
use libfuzzer_sys::fuzz_target;

const MAX_BLOCK_BYTES: usize = 4096;
const MAX_PENDING: usize = 4;
const MAX_CALLS: usize = 4;

struct World {
    session: Session,
    bytes: Budget,
    input: BytesMut,
    now: Duration,
    exchanges: HashSet<u64>,
    answered: HashSet<u64>,
    calls: HashSet<u64>,
    observations: HashSet<u64>,
    is_over: bool,
}

impl World {
    fn step(&mut self, what: u8, data: &[u8]) {
        let number = usize::from(data.first().copied().unwrap_or(0));
        let body = vec![7; number * 16];
        let response = Message::new(Code::CONTENT).with_payload(body.clone());
        match what & 15 {
            0..=6 => {
                self.input.extend_from_slice(data);
                let result = self.session.receive(self.now, &mut self.input);
                assert!(!self.is_over || result.is_err());
                self.hear();
                if result.is_err() && !self.is_over {
                    self.look();
                    self.is_over = true;
                }
            }
            7 | 8 => {
                let Some(exchange) = self.exchanges.iter().next().copied() else {
                    return;
                };
                self.exchanges.remove(&exchange);
                self.answered.insert(exchange);
                if what & 15 == 7 {
                    self.session.respond(self.now, exchange, response.clone()).expect("it waits");
                } else {
                    let observed = self.session.observe(self.now, exchange, response.clone());
                    self.hear();
                    self.observations.extend(observed.expect("it waits"));
                }
                let again = self.session.respond(self.now, exchange, response);
                assert_eq!(again, Err(RequestError::Gone));
            }
            9 => {
                let Some(observation) = self.observations.iter().next().copied() else {
                    return;
                };
                let message = match number > 250 {
                    true => Message::new(Code::INTERNAL_ERROR),
                    false => response,
                };
                let is_last = !message.code.is_success();
                self.session.notify(self.now, observation, message).expect("it is observed");
                if is_last {
                    self.observations.remove(&observation);
                }
            }
            10 => {
                let request = Message::new(Code::POST).with_path("x").with_payload(body);
                match self.session.request(request) {
                    Ok(call) => assert!(self.calls.insert(call)),
                    Err(_) => assert_eq!(self.calls.len(), MAX_CALLS),
                }
            }
            11 => {
                if let Some(call) = self.calls.iter().next().copied() {
                    self.calls.remove(&call);
                    self.session.cancel(call);
                }
            }
            12 => {
                if let Some(observation) = self.observations.iter().next().copied() {
                    self.observations.remove(&observation);
                    self.session.end_observation(observation);
                }
            }
            13 => drop(self.session.ping()),
            14 => self.session.release(),
            _ => {
                self.now += Duration::from_secs(number as u64);
                let due = self.session.on_timeout(self.now);
                assert!(due.is_none_or(|due| due > self.now));
            }
        }
        self.hear();
        self.look();
    }

    fn hear(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Request { exchange, .. } => assert!(self.exchanges.insert(exchange)),
                Event::Response { call, .. } => assert!(self.calls.remove(&call)),
                Event::Ended { observation } => assert!(self.observations.remove(&observation)),
                Event::AnswerFetched { exchange } => assert!(self.answered.contains(&exchange)),
                _ => {}
            }
        }
        assert_eq!(self.session.pending(), self.exchanges.len());
        assert!(self.exchanges.len() <= MAX_PENDING);
        assert!(self.bytes.used() <= MAX_BLOCK_BYTES);
    }

    fn look(&mut self) {
        let mut output = self.session.take_output();
        assert!(!self.is_over || output.is_empty());
        let reader = FrameReader::new(1 << 20);
        while reader.read(&mut output).expect("what goes out can be read").is_some() {}
        assert!(output.is_empty());
    }
}

fuzz_target!(|input: (bool, &[u8])| {
    let (greets, input) = input;
    let mut config = StreamConfig::default();
    config.blocks.size = 64;
    config.blocks.max_body = 2048;
    config.limits.max_pending_per_peer = MAX_PENDING;
    config.limits.max_calls_per_peer = MAX_CALLS;
    let bytes = Budget::new(MAX_BLOCK_BYTES);
    let mut world = World {
        session: Session::new(config, bytes.clone(), Seed([1, 2])),
        bytes: bytes.clone(),
        input: BytesMut::new(),
        now: Duration::from_secs(1),
        exchanges: HashSet::new(),
        answered: HashSet::new(),
        calls: HashSet::new(),
        observations: HashSet::new(),
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
    drop(world);
    assert_eq!(bytes.used(), 0);
});
