//! Bodies in blocks: whatever order, size and repetition blocks come in, by several devices and of
//! several bodies at a time, a request has only blocks of one body, from the first to the last
//! without a gap; and whatever block of an answer is asked for, it is a part of that answer.
//!
//! The input is steps of four bytes: what to do, the number of a block, its size, how much is in it.
#![no_main]

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_downstream_coap::proto::block::Block;
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use gateway_downstream_coap::proto::udp::{Endpoint, EndpointStats, Event, Responded};
use gateway_downstream_coap::proto::{EndpointConfig, Seed};
use libfuzzer_sys::fuzz_target;

const MAX_BODY: usize = 2048;
const MAX_BLOCK_BYTES: usize = 6000;
/// So many steps have a number of their own in a byte.
const MAX_STEPS: usize = 250;

/// Names a body on its way up: its device and its tag.
type Name = (u8, u8);

/// A block that was sent, filled with the number of its step.
#[derive(Clone, Copy)]
struct Sent {
    step: u8,
    offset: usize,
    length: usize,
}

struct World {
    endpoint: Endpoint<u8>,
    now: Duration,
    last_id: u16,
    /// The blocks of each body since its first one was sent last.
    sent: HashMap<Name, Vec<Sent>>,
    /// Every answer that was given in blocks, by its ETag.
    answers: HashMap<Bytes, Bytes>,
}

impl World {
    fn step(&mut self, step: u8, [what, number, size, amount]: [u8; 4]) {
        let peer = what >> 4 & 3;
        let block = Block::new(u32::from(number & 15), size & 7).with_more(size & 8 != 0);
        match what & 3 {
            0 | 1 => self.upload((peer, what & 1), step, block, amount),
            2 => self.fetch(peer, what >> 6, block, step, amount),
            _ => {
                let end = self.now + Duration::from_secs(u64::from(number) * 2);
                while let Some(due) = self.endpoint.next_timeout().filter(|due| *due <= end) {
                    self.now = self.now.max(due);
                    self.endpoint.on_timeout(self.now);
                }
                self.now = end;
            }
        }
        assert!(self.endpoint.stats().block_bytes <= MAX_BLOCK_BYTES);
    }

    fn send(&mut self, peer: u8, message: Message) {
        self.last_id += 1;
        let datagram = Datagram {
            kind: Kind::Confirmable,
            id: self.last_id,
            message: message.with_token(Token::from(u32::from(self.last_id))),
        };
        self.endpoint.receive(self.now, peer, true, &datagram.encode());
    }

    /// What the endpoint has to say to it.
    fn said(&mut self) -> Option<Message> {
        let said = self.endpoint.poll_transmit()?;
        assert!(self.endpoint.poll_transmit().is_none(), "one answer");
        Some(Datagram::decode(&said.bytes).expect("what goes out can be read").message)
    }

    fn upload(&mut self, name: Name, step: u8, block: Block, amount: u8) {
        // Mostly as long as it has to be.
        let length = match amount {
            0..128 => block.size(),
            _ => usize::from(amount - 128) * 8,
        };
        let mut request = Message::new(Code::POST)
            .with_path("up")
            .with_uint(option::REQUEST_TAG, u32::from(name.1) + 1)
            .with_payload(vec![step; length]);
        block.write(&mut request.options, option::BLOCK1);
        let offset = block.offset();
        let sent = self.sent.entry(name).or_default();
        // One of a wrong size begins nothing.
        let is_sound = match block.more {
            true => length == block.size(),
            false => length <= block.size(),
        };
        if offset == 0 && is_sound && block.exponent != Block::MANY {
            sent.clear();
        }
        sent.push(Sent { step, offset, length });
        self.send(name.0, request);
        while let Some(event) = self.endpoint.poll_event() {
            let Event::Request(incoming) = event else {
                panic!("{event:?}");
            };
            assert!(!block.more);
            let body = &incoming.message.payload;
            assert_eq!(body.len(), offset + length);
            assert!(body.len() <= MAX_BODY);
            self.check(name, body);
            let answer = Message::new(Code::CHANGED);
            let responded = self.endpoint.respond(self.now, incoming.exchange, answer);
            assert_eq!(responded, Ok(Responded::Sent));
        }
        let answer = self.said().expect("an answer");
        match answer.code {
            Code::CONTINUE => assert!(block.more),
            Code::CHANGED => assert!(!block.more),
            code => assert!(code.class() > 3, "{code:?}"),
        }
    }

    /// The body is blocks that were sent for it, each at its place and behind the one before.
    fn check(&self, name: Name, body: &[u8]) {
        let (mut at, mut last) = (0, None);
        while at < body.len() {
            let step = body[at];
            let mut sent = self.sent[&name].iter();
            let block = sent.find(|sent| sent.step == step).expect("a block of this body");
            assert_eq!(block.offset, at);
            assert!(last < Some(step), "{last:?} before {step}");
            let end = at + block.length;
            assert!(body[at..end].iter().all(|byte| *byte == step));
            (at, last) = (end, Some(step));
        }
    }

    fn fetch(&mut self, peer: u8, path: u8, block: Block, step: u8, amount: u8) {
        let mut request = Message::new(Code::GET).with_path(&format!("down/{path}"));
        if amount & 1 == 0 {
            block.with_more(false).write(&mut request.options, option::BLOCK2);
        }
        self.send(peer, request);
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Request(incoming) => {
                    let length = usize::from(amount) * 11;
                    let body: Vec<u8> = (0..length).map(|at| (at * 7) as u8 ^ step).collect();
                    let answer = Message::new(Code::CONTENT)
                        .with_option(option::ETAG, vec![step, peer])
                        .with_payload(body.clone());
                    self.answers.insert(vec![step, peer].into(), body.into());
                    let responded = self.endpoint.respond(self.now, incoming.exchange, answer);
                    assert!(responded.is_ok());
                }
                Event::AnswerFetched { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let answer = self.said().expect("an answer");
        if answer.code != Code::CONTENT {
            return assert!(answer.code.class() == 4, "{:?}", answer.code);
        }
        let whole = &self.answers[answer.options.get(option::ETAG).expect("an ETag")];
        let Some(said) = Block::read(&answer.options, option::BLOCK2) else {
            return assert_eq!(answer.payload, whole);
        };
        let end = said.offset() + answer.payload.len();
        assert_eq!(answer.payload, whole[said.offset()..end]);
        assert_eq!(said.more, end < whole.len());
        assert!(answer.payload.len() <= said.size());
    }
}

fuzz_target!(|input: &[u8]| {
    let mut config = EndpointConfig::default();
    config.blocks.size = 256;
    config.blocks.max_body = MAX_BODY;
    config.limits.max_block_bytes = MAX_BLOCK_BYTES;
    let mut world = World {
        endpoint: Endpoint::new(config, Seed([1, 2])),
        now: Duration::from_secs(1),
        last_id: 0,
        sent: HashMap::new(),
        answers: HashMap::new(),
    };
    for (step, bytes) in input.as_chunks().0.iter().take(MAX_STEPS).enumerate() {
        world.step(step as u8, *bytes);
    }
    while let Some(due) = world.endpoint.next_timeout() {
        world.now = world.now.max(due);
        world.endpoint.on_timeout(world.now);
    }
    assert_eq!(world.endpoint.stats(), EndpointStats::default());
});
