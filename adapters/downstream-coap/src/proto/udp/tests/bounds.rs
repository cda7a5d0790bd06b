//! What one peer, or many, may have: of memory, of answers, of somebody else's network.

use super::rules::{bench, changed, post};
use super::*;
use crate::proto::block::Block;
use crate::proto::config::EchoPolicy;
use crate::proto::message::{Code, option};
use crate::proto::udp::Responded;

#[test]
fn who_asks_too_much_is_told_when_to_come_back_and_others_are_served() {
    let mut config = EndpointConfig::default();
    config.limits.max_pending_per_peer = 2;
    config.limits.max_pending = 3;
    let mut bench = Bench::new(config);
    for (peer, number, code) in [
        (1, 1, None),
        (1, 2, None),
        (1, 3, Some(Code::TOO_MANY_REQUESTS)),
        (2, 4, None),
        (3, 5, Some(Code::UNAVAILABLE)),
    ] {
        bench.hear(peer, &confirmable(number, post(number.into())));
        match code {
            None => drop(bench.request()),
            Some(code) => {
                let refusal = bench.only().message;
                assert_eq!(refusal.code, code);
                assert_eq!(refusal.options.uint(option::MAX_AGE), Some(5));
            }
        }
    }
    bench.assert_nothing_stays();
}

#[test]
fn a_flood_from_ever_new_addresses_is_bounded_and_does_not_stop_a_known_device() {
    let mut config = EndpointConfig::default();
    config.limits.max_remembered = 50;
    let mut bench = Bench::new(config);
    for number in 0..2000_u16 {
        let stranger = 2 + (number % 200) as u8;
        bench.hear(stranger, &confirmable(number, post(number.into())));
        let exchange = bench.request().exchange;
        bench.answer(exchange, changed());
        // Whoever came last is known, though there is room for a few only.
        bench.hear(stranger, &confirmable(number, post(number.into())));
        assert!(bench.told().is_empty());
        bench.hear(1, &confirmable(number, post(number.into())));
        let exchange = bench.request().exchange;
        bench.answer(exchange, changed());
        assert!(bench.endpoint.stats().remembered <= 51);
        assert!(bench.endpoint.stats().peers <= 50);
        bench.pass(millis(5));
    }
    bench.said();
    bench.assert_nothing_stays();
}

#[test]
fn who_cannot_be_forgotten_keeps_no_newcomer_out_and_who_is_forged_can() {
    let mut config = EndpointConfig::default();
    config.limits.max_remembered = 500;
    let mut endpoint = Endpoint::<u32>::new(config, Seed([3, 4]));
    let mut begun = post(1).with_payload(vec![0; 16]);
    let block = Block::new(0, 0).with_more(true);
    block.write(&mut begun.options, option::BLOCK1);
    let (begun, whole) = (
        confirmable(1, begun).encode(),
        confirmable(2, post(2)).encode(),
    );
    for peer in 0..200 {
        endpoint.receive(seconds(1000), peer, peer < 100, &begun);
    }
    for peer in 200..500 {
        // Each comes when the one before has been dealt with.
        let now = seconds(1000) + millis(600 * u64::from(peer - 200));
        endpoint.on_timeout(now);
        endpoint.receive(now, peer, false, &whole);
        let Some(Event::Request(incoming)) = endpoint.poll_event() else {
            panic!("{peer} was refused");
        };
        let responded = endpoint.respond(now, incoming.exchange, changed());
        assert_eq!(responded, Ok(Responded::Sent));
        while endpoint.poll_transmit().is_some() {}
        assert!(endpoint.stats().remembered <= 500);
    }
    // Those who have shown that they are there.
    assert_eq!(endpoint.stats().block_bytes, 100 * 16);
}

#[test]
fn an_unproven_source_gets_three_times_what_it_sent_until_it_brings_the_echo() {
    let mut bench = bench();
    let large = Message::new(Code::CONTENT).with_payload(vec![1; 500]);
    let get = Message::new(Code::GET)
        .with_path("twin")
        .with_token(token(1));
    let request = confirmable(1, get.clone());
    let size = request.encode().len();
    bench
        .endpoint
        .receive(bench.now, 1, false, &request.encode());
    let incoming = bench.request();
    assert_eq!(incoming.room, Some(3 * size));
    let responded = bench
        .endpoint
        .respond(bench.now, incoming.exchange, large.clone());
    assert_eq!(responded, Ok(Responded::Challenged));
    let challenge = bench.said_bytes().remove(0);
    assert!(challenge.len() <= 3 * size);
    let challenge = Datagram::decode(&challenge).unwrap().message;
    assert_eq!(challenge.code, Code::UNAUTHORIZED);
    let echo = challenge.options.get(option::ECHO).unwrap().clone();
    // Another address, or a later time, and it is worth nothing.
    let proof = get.with_option(option::ECHO, echo);
    let bytes = confirmable(2, proof).encode();
    bench.endpoint.receive(bench.now, 2, false, &bytes);
    assert!(bench.request().room.is_some());
    bench.endpoint.receive(bench.now, 1, false, &bytes);
    let incoming = bench.request();
    assert_eq!(incoming.room, None);
    let responded = bench.endpoint.respond(bench.now, incoming.exchange, large);
    assert_eq!(responded, Ok(Responded::Sent));
    assert_eq!(bench.only().message.payload.len(), 500);
    bench.pass(seconds(1000));
    bench.endpoint.receive(bench.now, 1, false, &bytes);
    assert!(bench.request().room.is_some());
    bench.assert_nothing_stays();
}

#[test]
fn an_echo_is_worth_something_for_a_minute_and_nothing_after_two() {
    for (age, is_taken) in [(60, true), (121, false)] {
        let mut bench = Bench::new(EndpointConfig {
            echo: EchoPolicy::Always,
            ..EndpointConfig::default()
        });
        let bytes = confirmable(1, post(1)).encode();
        bench.endpoint.receive(bench.now, 1, false, &bytes);
        let challenge = bench.only().message;
        let echo = challenge.options.get(option::ECHO).unwrap().clone();
        bench.pass(seconds(age));
        let bytes = confirmable(2, post(2).with_option(option::ECHO, echo)).encode();
        bench.endpoint.receive(bench.now, 1, false, &bytes);
        assert_eq!(bench.told().len(), usize::from(is_taken), "after {age} s");
    }
}

#[test]
fn neither_duplicates_nor_silence_draw_more_than_an_unproven_source_may_get() {
    let mut bench = bench();
    let mut room = 0;
    let mut spend = |bench: &mut Bench, came: usize| {
        room += 3 * came;
        let sent: usize = bench.said_bytes().iter().map(Bytes::len).sum();
        room = room.checked_sub(sent).expect("not more than three times");
        sent
    };
    // What it saves up by a long request is spent by the first answer.
    let long = post(1).with_payload(vec![0; 150]);
    let short = post(2);
    for (id, message) in [(1, long), (2, short.clone())] {
        let bytes = confirmable(id, message).encode();
        bench.endpoint.receive(bench.now, 1, false, &bytes);
        let exchange = bench.request().exchange;
        let large = changed().with_payload(vec![1; if id == 2 { 400 } else { 0 }]);
        let responded = bench.endpoint.respond(bench.now, exchange, large);
        assert_eq!(responded, Ok(Responded::Sent));
        spend(&mut bench, bytes.len());
    }
    let again = confirmable(2, short).encode();
    for _ in 0..40 {
        bench.endpoint.receive(bench.now, 1, false, &again);
        spend(&mut bench, again.len());
    }
    // A separate answer is sent again and again.
    let slow = confirmable(3, post(3).with_payload(vec![0; 100])).encode();
    bench.endpoint.receive(bench.now, 2, false, &slow);
    let exchange = bench.request().exchange;
    bench.pass(seconds(1));
    let large = changed().with_payload(vec![1; 200]);
    bench.answer(exchange, large);
    bench.pass(seconds(100));
    assert!(spend(&mut bench, slow.len()) > 200);
    bench.assert_nothing_stays();
}

#[test]
fn where_every_source_has_to_prove_itself_no_handler_runs_before() {
    let mut bench = Bench::new(EndpointConfig {
        echo: EchoPolicy::Always,
        ..EndpointConfig::default()
    });
    let bytes = confirmable(1, post(1)).encode();
    bench.endpoint.receive(bench.now, 1, false, &bytes);
    assert!(bench.told().is_empty());
    let challenge = bench.only().message;
    let echo = challenge.options.get(option::ECHO).unwrap().clone();
    let bytes = confirmable(2, post(2).with_option(option::ECHO, echo)).encode();
    bench.endpoint.receive(bench.now, 1, false, &bytes);
    bench.request();
}

#[test]
fn bytes_of_bodies_are_bounded_in_all() {
    let mut config = EndpointConfig::default();
    config.limits.max_block_bytes = 100;
    let mut bench = Bench::new(config);
    let mut refused = 0;
    for peer in 0..20 {
        let mut message = post(1).with_payload(vec![0; 16]);
        Block::new(0, 0)
            .with_more(true)
            .write(&mut message.options, option::BLOCK1);
        bench.hear(peer, &confirmable(1, message));
        let answer = bench.only().message;
        refused += usize::from(answer.code == Code::UNAVAILABLE);
    }
    assert_eq!(refused, 14);
    bench.assert_nothing_stays();
}

#[test]
fn where_room_for_bodies_is_scarce_who_is_forged_gets_none() {
    let mut config = EndpointConfig::default();
    config.limits.max_block_bytes = 100;
    let mut bench = Bench::new(config);
    let mut codes = Vec::new();
    for (peer, is_proven) in [
        (1, false),
        (2, false),
        (3, false),
        (4, false),
        (5, false),
        (6, true),
    ] {
        let mut message = post(1).with_payload(vec![0; 16]);
        let block = Block::new(0, 0).with_more(true);
        block.write(&mut message.options, option::BLOCK1);
        let bytes = confirmable(1, message).encode();
        bench.endpoint.receive(bench.now, peer, is_proven, &bytes);
        codes.push(bench.only().message.code);
    }
    let (go_on, prove) = (Code::CONTINUE, Code::UNAUTHORIZED);
    assert_eq!(codes, [go_on, go_on, go_on, go_on, prove, go_on]);
}

/// Asks for something in blocks of 16 bytes, or of 1024.
fn get(exponent: u8) -> Message {
    let mut message = Message::new(Code::GET).with_path(".well-known/core");
    Block::new(0, exponent).write(&mut message.options, option::BLOCK2);
    message
}

#[test]
fn where_room_for_bodies_is_scarce_no_rest_is_kept_for_who_is_forged() {
    let mut config = EndpointConfig::default();
    config.limits.max_block_bytes = 1000;
    let mut bench = Bench::new(config);
    for peer in 1..=20 {
        let is_proven = peer == 20;
        let bytes = confirmable(1, get(0)).encode();
        bench.endpoint.receive(bench.now, peer, is_proven, &bytes);
        let exchange = bench.request().exchange;
        let answer = Message::new(Code::CONTENT).with_payload(vec![0; 100]);
        let responded = bench.endpoint.respond(bench.now, exchange, answer);
        let expected = match peer <= 5 || is_proven {
            true => Responded::Begun,
            false => Responded::Challenged,
        };
        assert_eq!(responded, Ok(expected), "peer {peer}");
    }
    assert_eq!(bench.endpoint.stats().block_bytes, 600);
}

#[test]
fn of_an_answer_that_was_not_begun_no_rest_is_kept() {
    let mut bench = bench();
    let unwanted = get(6).with_uint(option::NO_RESPONSE, 2);
    for (peer, request, expected) in [
        (1, get(6), Responded::Challenged),
        (2, unwanted, Responded::Unwanted),
    ] {
        let bytes = confirmable(1, request).encode();
        bench.endpoint.receive(bench.now, peer, false, &bytes);
        let exchange = bench.request().exchange;
        let answer = Message::new(Code::CONTENT).with_payload(vec![0; 3000]);
        let responded = bench.endpoint.respond(bench.now, exchange, answer);
        assert_eq!(responded, Ok(expected));
        assert_eq!(bench.endpoint.stats().block_bytes, 0);
    }
}

#[test]
fn a_block_that_was_asked_for_and_not_sent_counts_as_fetched_when_it_is() {
    for is_unwanted in [false, true] {
        let mut bench = bench();
        // So long that there is room for the first block, and for no other.
        let first = get(2).with_payload(vec![0; 5]);
        let mut last = get(2);
        Block::new(1, 2).write(&mut last.options, option::BLOCK2);
        let bytes = confirmable(1, first).encode();
        bench.endpoint.receive(bench.now, 1, is_unwanted, &bytes);
        let exchange = bench.request().exchange;
        let answer = Message::new(Code::CONTENT).with_payload(vec![0; 128]);
        let responded = bench.endpoint.respond(bench.now, exchange, answer);
        assert_eq!(responded, Ok(Responded::Begun));
        bench.said();
        let ask = match is_unwanted {
            true => last.clone().with_uint(option::NO_RESPONSE, 2),
            false => last.clone(),
        };
        let bytes = confirmable(2, ask).encode();
        bench.endpoint.receive(bench.now, 1, false, &bytes);
        let refusal = bench.only().message;
        let echo = refusal.options.get(option::ECHO);
        assert_eq!(echo.is_none(), is_unwanted, "{refusal:?}");
        assert_eq!(bench.told(), []);
        if let Some(echo) = echo {
            last.options.add(option::ECHO, echo.clone());
        }
        let bytes = confirmable(3, last).encode();
        bench.endpoint.receive(bench.now, 1, false, &bytes);
        assert_eq!(bench.only().message.payload.len(), 64);
        assert_eq!(bench.told(), [Event::AnswerFetched { exchange }]);
    }
}

#[test]
fn who_acknowledges_no_answer_is_refused_before_they_pile_up() {
    let mut config = EndpointConfig::default();
    config.limits.max_pending_per_peer = 3;
    let mut bench = Bench::new(config);
    for number in 0..3 {
        bench.hear(1, &confirmable(number, post(number.into())));
        let exchange = bench.request().exchange;
        bench.pass(seconds(1));
        bench.answer(exchange, changed());
    }
    assert_eq!(bench.endpoint.stats().pending, 3);
    let answers = bench.said();
    bench.hear(1, &confirmable(9, post(9)));
    assert_eq!(bench.only().message.code, Code::TOO_MANY_REQUESTS);
    let is_answer = |datagram: &&Datagram| datagram.kind == Kind::Confirmable;
    let answer = answers.iter().find(is_answer).unwrap();
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, answer.id));
    bench.told();
    bench.hear(1, &confirmable(10, post(10)));
    bench.request();
    bench.assert_nothing_stays();
}
