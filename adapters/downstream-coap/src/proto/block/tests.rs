use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::proto::budget::Budget;
use crate::proto::config::{BlockConfig, LimitConfig};
use crate::proto::message::Code;
use crate::proto::random::Seed;

const NOW: Duration = Duration::from_secs(1);

struct Server {
    config: BlockConfig,
    limits: LimitConfig,
    bytes: Budget,
    random: Random,
    assemblies: Assemblies,
    bodies: Bodies,
    handled: usize,
    /// The body handled last.
    body: Bytes,
}

impl Server {
    fn new(size: usize, max_body: usize) -> Self {
        Self {
            config: BlockConfig {
                size,
                max_body,
                ..BlockConfig::default()
            },
            limits: LimitConfig::default(),
            bytes: Budget::new(1 << 20),
            random: Random::new(Seed([1, 2])),
            assemblies: Assemblies::default(),
            bodies: Bodies::default(),
            handled: 0,
            body: Bytes::new(),
        }
    }

    /// Answers as an endpoint does; the handler turns the body round.
    fn answer(&mut self, request: Message) -> Message {
        let mut wanted = Wanted::of(&request, None, &self.random);
        if !request.options.has(option::BLOCK1)
            && let Some(found) = self.bodies.find(&wanted, NOW, &self.config)
        {
            return found.answer;
        }
        let settings = (&self.config, &self.limits);
        let tools = (&self.bytes, &self.random);
        match self.assemblies.take(request, NOW, settings, tools) {
            Taken::Answer(answer) => answer,
            Taken::Whole(request, block1) => {
                self.handled += 1;
                wanted.block1 = block1;
                self.body = request.payload.clone();
                let mut body = request.payload.to_vec();
                body.reverse();
                let response = Message::new(Code::CHANGED).with_payload(body);
                let wanted = (&wanted, None);
                let answer = self
                    .bodies
                    .respond(response, wanted, NOW, &self.config, tools);
                answer.0
            }
        }
    }
}

fn body(length: usize) -> Bytes {
    (0..length).map(|at| (at * 7 % 251) as u8).collect()
}

fn exponent() -> impl Strategy<Value = u8> {
    0..=6_u8
}

proptest! {
    /// Whoever prefers which size, the body arrives and is handled once, and so does the answer.
    #[test]
    fn bodies_arrive_whole_both_ways_in_any_two_sizes(
        length in 0..3000_usize, client in exponent(), server in exponent(),
    ) {
        let size = |exponent| Block::new(0, exponent).size();
        let config = BlockConfig { size: size(client), ..BlockConfig::default() };
        let mut server = Server::new(size(server), 4096);
        let request = Message::new(Code::POST).with_path("t").with_payload(body(length));
        let mut transfer = Transfer::new(request, 7, &config, false);
        let mut message = transfer.message();
        let mut messages = 0;
        let response = loop {
            messages += 1;
            prop_assert!(message.payload.len() <= config.size);
            match transfer.on_response(server.answer(message)) {
                Step::Send(next) => message = next,
                Step::Done(response) => break response,
                Step::Failed => panic!("the two do not understand each other"),
            }
        };
        let mut expected = body(length).to_vec();
        expected.reverse();
        prop_assert_eq!(response.code, Code::CHANGED);
        prop_assert_eq!(&response.payload[..], &expected[..]);
        prop_assert_eq!(server.handled, 1);
        prop_assert!(messages <= 2 * length.div_ceil(16) + 2);
        let forever = NOW + Duration::from_secs(10_000);
        server.assemblies.expire(forever);
        server.bodies.expire(forever);
        prop_assert_eq!(server.bytes.used(), 0);
    }

    /// Blocks in any order, of any size and any claim: a body that is whole is of blocks that came in
    /// order and lay behind each other.
    #[test]
    fn no_body_is_put_together_from_blocks_that_do_not_join(
        blocks in proptest::collection::vec((0..6_u32, any::<bool>(), 0..3_u8, 0..70_usize), 1..40),
    ) {
        let mut server = Server::new(64, 200);
        let mut sent: Vec<(usize, usize)> = Vec::new();
        for (at, (number, more, exponent, length)) in blocks.into_iter().enumerate() {
            let block = Block { number, more, exponent };
            // Each block's bytes say which it is.
            let payload = vec![at as u8; if more { block.size() } else { length }];
            sent.push((block.offset(), payload.len()));
            let mut message = Message::new(Code::POST).with_payload(payload);
            block.write(&mut message.options, option::BLOCK1);
            let before = server.handled;
            server.answer(message);
            prop_assert!(server.bytes.used() <= 200 + 200);
            if server.handled == before {
                continue;
            }
            prop_assert!(!more);
            let (mut place, mut last) = (0, None);
            for run in server.body.chunk_by(|one, next| one == next) {
                let (offset, length) = sent[usize::from(run[0])];
                prop_assert_eq!((offset, length), (place, run.len()));
                prop_assert!(last < Some(run[0]));
                (place, last) = (place + length, Some(run[0]));
            }
        }
    }

    #[test]
    fn a_block_reads_as_it_is_written(number in 0..(1_u32 << 20), more: bool, exponent in 0..=7_u8) {
        let block = Block { number, more, exponent };
        let mut options = crate::proto::message::Options::new();
        block.write(&mut options, option::BLOCK2);
        prop_assert_eq!(Block::read(&options, option::BLOCK2), Some(block));
        prop_assert!(options.get(option::BLOCK2).unwrap().len() <= 3);
    }
}

fn upload(block: Block, payload: Bytes) -> Message {
    let mut message = Message::new(Code::POST)
        .with_path("t")
        .with_payload(payload);
    block.write(&mut message.options, option::BLOCK1);
    message
}

#[test]
fn a_gap_is_told_and_a_repeated_block_is_taken_once() {
    let mut server = Server::new(16, 200);
    let block = |number, more| Block::new(number, 0).with_more(more);
    let answers = [
        (block(1, true), Code::INCOMPLETE),
        (block(0, true), Code::CONTINUE),
        (block(2, true), Code::INCOMPLETE),
        (block(1, true), Code::CONTINUE),
        (block(1, true), Code::CONTINUE),
        (block(2, false), Code::CHANGED),
        (block(2, false), Code::INCOMPLETE),
    ];
    for (block, code) in answers {
        assert_eq!(
            server.answer(upload(block, body(16))).code,
            code,
            "{block:?}"
        );
    }
    assert_eq!(server.handled, 1);
    let unfit = upload(block(0, true), body(15));
    assert_eq!(server.answer(unfit).code, Code::BAD_REQUEST);
}

#[test]
fn a_body_that_is_too_large_is_refused_when_it_is_announced_or_when_it_shows() {
    let mut server = Server::new(16, 40);
    let block = |number, more| Block::new(number, 0).with_more(more);
    let announced = upload(block(0, true), body(16)).with_uint(option::SIZE1, 41);
    let refusal = server.answer(announced);
    assert_eq!(refusal.code, Code::TOO_LARGE);
    assert_eq!(refusal.options.uint(option::SIZE1), Some(40));
    for (number, code) in [
        (0, Code::CONTINUE),
        (1, Code::CONTINUE),
        (2, Code::TOO_LARGE),
    ] {
        let answer = server.answer(upload(block(number, true), body(16)));
        assert_eq!(answer.code, code);
    }
    assert_eq!(server.bytes.used(), 0);
}

#[test]
fn two_bodies_at_a_time_are_told_apart_by_their_tags() {
    let mut server = Server::new(16, 200);
    let tagged = |tag: &'static [u8], number, more, byte: u8| {
        let block = Block::new(number, 0).with_more(more);
        upload(block, vec![byte; 16].into()).with_option(option::REQUEST_TAG, tag)
    };
    assert_eq!(server.answer(tagged(b"1", 0, true, 1)).code, Code::CONTINUE);
    assert_eq!(server.answer(tagged(b"2", 0, true, 2)).code, Code::CONTINUE);
    let first = server.answer(tagged(b"1", 1, false, 1));
    assert_eq!(&first.payload[..], [1; 16]);
    assert_eq!(server.handled, 1);
    server.answer(tagged(b"2", 1, false, 2));
    assert_eq!(server.handled, 2);
}

#[test]
fn any_block_of_an_answer_can_be_asked_for_and_what_has_not_changed_is_not_sent_again() {
    let mut server = Server::new(16, 200);
    let random = Random::new(Seed([1, 2]));
    let get = |number: u32, exponent| {
        let mut message = Message::new(Code::GET).with_path("twin");
        Block::new(number, exponent).write(&mut message.options, option::BLOCK2);
        message
    };
    let mut ask = |request: Message| {
        let wanted = Wanted::of(&request, None, &random);
        if let Some(found) = server.bodies.find(&wanted, NOW, &server.config) {
            return found.answer;
        }
        let whole = Message::new(Code::CONTENT).with_payload(body(100));
        let tools = (&server.bytes, &random);
        let wanted = (&wanted, None);
        let bodies = &mut server.bodies;
        bodies.respond(whole, wanted, NOW, &server.config, tools).0
    };
    let first = ask(get(0, 6));
    let block = Block::read(&first.options, option::BLOCK2).unwrap();
    assert_eq!((block.exponent, block.more), (0, true), "the server's size");
    assert_eq!(first.options.uint(option::SIZE2), Some(100));
    let etag = first.options.get(option::ETAG).unwrap().clone();
    for (number, range, more) in [(6, 96..100, false), (2, 32..48, true)] {
        let answer = ask(get(number, 0));
        assert_eq!(answer.payload, body(100).slice(range));
        assert_eq!(answer.options.get(option::ETAG), Some(&etag));
        let block = Block::read(&answer.options, option::BLOCK2).unwrap();
        assert_eq!((block.number, block.more), (number, more));
    }
    assert_eq!(ask(get(7, 0)).code, Code::BAD_REQUEST);
    let known = Message::new(Code::GET)
        .with_path("twin")
        .with_option(option::ETAG, etag.clone());
    let wanted = Wanted::of(&known, None, &random);
    let same = Message::new(Code::CONTENT)
        .with_option(option::ETAG, etag)
        .with_payload(body(100));
    let tools = (&server.bytes, &random);
    let bodies = &mut server.bodies;
    let (answer, has_rest) = bodies.respond(same, (&wanted, None), NOW, &server.config, tools);
    assert!(!has_rest);
    assert_eq!(answer.code, Code::VALID);
    assert!(answer.payload.is_empty());
}

#[test]
fn an_answer_that_begins_with_a_later_block_is_whole_with_the_last_one_only() {
    // Whether there is room to keep the body or not.
    for budget in [0, 1000] {
        let (config, bytes) = (Server::new(16, 200).config, Budget::new(budget));
        let random = Random::new(Seed([1, 2]));
        for (number, expected) in [(0, true), (1, true), (2, false), (3, true)] {
            let mut get = Message::new(Code::GET).with_path("c");
            Block::new(number, 0).write(&mut get.options, option::BLOCK2);
            let wanted = Wanted::of(&get, None, &random);
            let whole = Message::new(Code::CONTENT).with_payload(body(48));
            let (mut bodies, source) = (Bodies::default(), Some(Source::Exchange(1)));
            let tools = (&bytes, &random);
            let (_, has_rest) = bodies.respond(whole, (&wanted, source), NOW, &config, tools);
            assert_eq!(has_rest, expected, "block {number}");
            if budget > 0 && number == 1 {
                Block::new(2, 0).write(&mut get.options, option::BLOCK2);
                let wanted = Wanted::of(&get, None, &random);
                let part = bodies.find(&wanted, NOW, &config).unwrap().part;
                assert_eq!(bodies.sent(&wanted, part), source);
            }
        }
    }
}

#[test]
fn the_state_that_an_observation_began_with_is_fetched_though_it_changes_meanwhile() {
    let mut server = Server::new(16, 200);
    let random = Random::new(Seed([1, 2]));
    let mut get = Message::new(Code::GET).with_path("twin/desired");
    let wanted = Wanted::of(&get, None, &random);
    let tools = (&server.bytes, &random);
    let first = Some(Source::Exchange(1));
    let whole = Message::new(Code::CONTENT).with_payload(body(40));
    let begun = server
        .bodies
        .respond(whole, (&wanted, first), NOW, &server.config, tools);
    assert!(begun.1);
    let change = Message::new(Code::CONTENT).with_payload(body(5));
    let told = (&wanted.for_notifications(), Some(Source::Observation(2)));
    let (_, has_rest) = server
        .bodies
        .respond(change, told, NOW, &server.config, tools);
    assert!(!has_rest);
    for number in [1, 2] {
        Block::new(number, 0).write(&mut get.options, option::BLOCK2);
        let wanted = Wanted::of(&get, None, &random);
        let found = server.bodies.find(&wanted, NOW, &server.config).unwrap();
        assert_eq!(found.source, first);
        let all = server.bodies.sent(&wanted, found.part);
        assert_eq!(all, first.filter(|_| number == 2));
        let etag = |message: &Message| message.options.get(option::ETAG).cloned();
        assert_eq!(etag(&found.answer), etag(&begun.0));
    }
}

#[test]
fn blocks_of_two_states_of_a_resource_make_no_body() {
    let config = BlockConfig::default();
    let part = |number, more, etag: &'static str| {
        let mut message = Message::new(Code::CONTENT)
            .with_option(option::ETAG, etag)
            .with_payload(body(16));
        let block = Block::new(number, 0).with_more(more);
        block.write(&mut message.options, option::BLOCK2);
        message
    };
    for (etag, is_whole) in [("one", true), ("two", false)] {
        let mut transfer = Transfer::new(Message::new(Code::GET), 7, &config, false);
        let first = transfer.on_response(part(0, true, "one"));
        assert!(matches!(first, Step::Send(_)));
        let second = transfer.on_response(part(1, false, etag));
        assert_eq!(matches!(second, Step::Done(_)), is_whole);
        assert_eq!(second == Step::Failed, !is_whole);
    }
}

#[test]
fn a_change_is_not_made_again_for_a_block_of_its_answer() {
    let mut server = Server::new(16, 200);
    let mut late = Message::new(Code::POST).with_path("t");
    Block::new(3, 0).write(&mut late.options, option::BLOCK2);
    assert_eq!(server.answer(late).code, Code::INCOMPLETE);
    assert_eq!(server.handled, 0);
}
