//! One rule at a time, with datagrams written by hand.

use super::*;
use crate::proto::block::Block;
use crate::proto::message::{Code, option};
use crate::proto::udp::{AnswerError, CallError, RespondError, Responded};

pub(super) fn bench() -> Bench {
    Bench::new(EndpointConfig::default())
}

pub(super) fn post(number: u32) -> Message {
    Message::new(Code::POST)
        .with_path("t")
        .with_token(token(number))
}

pub(super) fn changed() -> Message {
    Message::new(Code::CHANGED)
}

#[test]
fn an_answer_at_once_comes_with_the_acknowledgement_and_again_for_a_duplicate() {
    let mut bench = bench();
    let request = confirmable(7, post(1));
    bench.hear(1, &request);
    let incoming = bench.request();
    assert!(incoming.is_confirmable && incoming.room.is_none());
    let (now, exchange) = (bench.now, incoming.exchange);
    assert_eq!(
        bench.endpoint.respond(now, exchange, changed()),
        Ok(Responded::Sent)
    );
    assert_eq!(bench.endpoint.stats().pending, 0);
    let answer = bench.only();
    assert_eq!((answer.kind, answer.id), (Kind::Acknowledgement, 7));
    assert_eq!(answer.message, changed().with_token(token(1)));
    bench.pass(seconds(200));
    bench.hear(1, &request);
    assert_eq!(bench.only(), answer);
    assert!(bench.told().is_empty());
    let again = bench.endpoint.respond(bench.now, exchange, changed());
    assert_eq!(again, Err(RespondError::Gone));
    // Past the lifetime it is another request.
    bench.pass(seconds(50));
    bench.hear(1, &request);
    bench.request();
    bench.assert_nothing_stays();
}

#[test]
fn a_slow_answer_is_acknowledged_in_time_and_comes_apart_until_it_is_acknowledged() {
    let mut bench = bench();
    let request = confirmable(7, post(1));
    bench.hear(1, &request);
    let exchange = bench.request().exchange;
    bench.pass(millis(499));
    bench.hear(1, &request);
    assert!(bench.said().is_empty());
    bench.pass(millis(1));
    let acknowledgement = Datagram::empty(Kind::Acknowledgement, 7);
    assert_eq!(bench.only(), acknowledgement);
    bench.hear(1, &request);
    assert_eq!(bench.only(), acknowledgement);
    bench.pass(seconds(30));
    let responded = bench.endpoint.respond(bench.now, exchange, changed());
    assert_eq!(responded, Ok(Responded::Apart));
    let answer = bench.only();
    assert_eq!(answer.kind, Kind::Confirmable);
    assert_eq!(answer.message, changed().with_token(token(1)));
    bench.hear(1, &request);
    assert_eq!(bench.only(), acknowledgement);
    bench.pass(seconds(3));
    assert_eq!(bench.only(), answer, "it is sent again");
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, answer.id));
    bench.pass(seconds(60));
    assert!(bench.said().is_empty());
    bench.assert_nothing_stays();
}

#[test]
fn a_message_is_sent_five_times_with_twice_the_wait_each_time_and_then_given_up() {
    let mut bench = bench();
    let call = bench.endpoint.request(bench.now, 1, post(0), true).unwrap();
    let first = bench.only();
    let (start, mut last, mut waits) = (bench.now, bench.now, Vec::new());
    loop {
        bench.pass(millis(10));
        if let [again] = &bench.said()[..] {
            assert_eq!(*again, first);
            waits.push((bench.now - last).as_secs_f64());
            last = bench.now;
        }
        if let [
            Event::Response {
                call: ended,
                result,
            },
        ] = &bench.told()[..]
        {
            assert_eq!((*ended, result), (call, &Err(CallError::TimedOut)));
            break;
        }
    }
    assert_eq!(waits.len(), 4);
    assert!((2.0..=3.02).contains(&waits[0]), "{waits:?}");
    for pair in waits.windows(2) {
        assert!((pair[1] / pair[0] - 2.0).abs() < 0.02, "{waits:?}");
    }
    let whole = bench.now - start;
    assert!(whole >= seconds(62) && whole <= seconds(94), "{whole:?}");
    bench.assert_nothing_stays();
}

#[test]
fn a_separate_answer_tells_once_whether_the_device_has_it() {
    for end in 0..4 {
        let mut bench = bench();
        bench.hear(1, &confirmable(7, post(1)));
        let exchange = bench.request().exchange;
        bench.pass(seconds(1));
        bench.said();
        let responded = bench.endpoint.respond(bench.now, exchange, changed());
        assert_eq!(responded, Ok(Responded::Apart));
        let id = bench.only().id;
        let result = match end {
            0 => {
                bench.hear(1, &Datagram::empty(Kind::Acknowledgement, id));
                Ok(())
            }
            1 => {
                bench.hear(1, &Datagram::empty(Kind::Reset, id));
                Err(AnswerError::Reset)
            }
            2 => {
                bench.pass(seconds(100));
                Err(AnswerError::TimedOut)
            }
            _ => {
                bench.endpoint.forget(bench.now, 1);
                Err(AnswerError::Closed)
            }
        };
        assert_eq!(bench.told(), [Event::Answered { exchange, result }]);
        bench.hear(1, &Datagram::empty(Kind::Acknowledgement, id));
        assert!(bench.told().is_empty());
        bench.assert_nothing_stays();
    }
}

#[test]
fn options_take_from_the_room_of_a_block_and_the_message_fits_every_network() {
    for length in [0, 100, 250, 254] {
        let mut bench = bench();
        let part = vec![b'x'; length];
        let large = |code| {
            let mut message = Message::new(code).with_payload(vec![7; 3000]);
            for _ in 0..4 {
                message = message.with_option(option::LOCATION_QUERY, part.clone());
            }
            assert!(message.options.encoded_len() <= bench.endpoint.options_room());
            message
        };
        let (answer, request) = (large(Code::CONTENT), large(Code::POST));
        bench.hear(1, &confirmable(1, post(1)));
        let exchange = bench.request().exchange;
        bench.answer(exchange, answer);
        bench.endpoint.request(bench.now, 1, request, true).unwrap();
        let sizes: Vec<_> = bench.said_bytes().iter().map(Bytes::len).collect();
        assert_eq!(sizes.len(), 2);
        assert!(
            sizes.iter().all(|size| (800..=1152).contains(size)),
            "{sizes:?}"
        );
    }
}

#[test]
fn only_one_message_waits_for_its_acknowledgement_at_a_time() {
    let mut bench = bench();
    for _ in 0..3 {
        bench.endpoint.request(bench.now, 1, post(0), true).unwrap();
    }
    bench.endpoint.request(bench.now, 2, post(0), true).unwrap();
    let said = bench.said();
    assert_eq!(said.len(), 2, "one each");
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, said[0].id));
    assert_eq!(
        bench.said().len(),
        1,
        "the second may go while the first is worked on"
    );
    for _ in 0..5 {
        bench
            .endpoint
            .request(bench.now, 1, post(0), false)
            .unwrap();
    }
    let busy = bench.endpoint.request(bench.now, 1, post(0), true);
    assert_eq!(busy, Err(CallError::Busy));
    bench.endpoint.forget(bench.now, 1);
    let ends = bench.told();
    assert_eq!(ends.len(), 8);
    let is_closed = |event: &Event<u8>| {
        matches!(
            event,
            Event::Response {
                result: Err(CallError::Closed),
                ..
            }
        )
    };
    assert!(ends.iter().all(is_closed));
    bench.endpoint.forget(bench.now, 2);
    bench.assert_nothing_stays();
}

#[test]
fn a_response_is_taken_by_its_token_alone_and_acknowledged() {
    let mut bench = bench();
    let call = bench.endpoint.request(bench.now, 1, post(0), true).unwrap();
    let request = bench.only();
    let answer = |token| {
        Message::new(Code::CONTENT)
            .with_token(token)
            .with_payload("yes")
    };
    bench.hear(1, &confirmable(90, answer(token(5))));
    assert_eq!(
        bench.only(),
        Datagram::empty(Kind::Reset, 90),
        "nobody asked"
    );
    // Its acknowledgement was lost, or is late.
    let response = confirmable(91, answer(request.message.token));
    bench.hear(1, &response);
    assert_eq!(bench.only(), Datagram::empty(Kind::Acknowledgement, 91));
    match &bench.told()[..] {
        [
            Event::Response {
                call: ended,
                result: Ok(response),
            },
        ] => {
            assert_eq!((*ended, &response.payload[..]), (call, &b"yes"[..]));
        }
        other => panic!("{other:?}"),
    }
    bench.hear(1, &response);
    assert_eq!(bench.only(), Datagram::empty(Kind::Acknowledgement, 91));
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, request.id));
    assert!(bench.told().is_empty());
    bench.assert_nothing_stays();
}

#[test]
fn a_response_with_an_option_that_must_be_understood_and_is_not_is_no_response() {
    for is_apart in [true, false] {
        let mut bench = bench();
        let call = bench.endpoint.request(bench.now, 1, post(0), true).unwrap();
        let request = bench.only();
        let response = changed()
            .with_token(request.message.token)
            .with_option(65_001, "x");
        if is_apart {
            bench.hear(1, &confirmable(90, response));
            assert_eq!(bench.only(), Datagram::empty(Kind::Reset, 90));
        } else {
            let (kind, id) = (Kind::Acknowledgement, request.id);
            let message = response;
            bench.hear(1, &Datagram { kind, id, message });
        }
        let result = Err(CallError::Malformed);
        assert_eq!(bench.told(), [Event::Response { call, result }]);
        bench.assert_nothing_stays();
    }
}

#[test]
fn a_response_that_comes_apart_stands_for_the_acknowledgement_that_was_lost() {
    let mut bench = bench();
    let get = Message::new(Code::GET).with_path("large");
    bench.endpoint.request(bench.now, 1, get, true).unwrap();
    let request = bench.only().message;
    let mut first = Message::new(Code::CONTENT)
        .with_token(request.token)
        .with_payload(vec![0; 16]);
    Block::new(0, 0)
        .with_more(true)
        .write(&mut first.options, option::BLOCK2);
    bench.hear(1, &confirmable(90, first));
    let said = bench.said();
    assert_eq!(said[0], Datagram::empty(Kind::Acknowledgement, 90));
    // The next block is asked for at once, though one message only may be on its way.
    let next = Block::read(&said[1].message.options, option::BLOCK2);
    assert_eq!(next, Some(Block::new(1, 0)));
    assert_ne!(said[1].message.token, request.token);
}

#[test]
fn an_acknowledgement_of_something_else_answers_nothing() {
    let mut bench = bench();
    bench.endpoint.request(bench.now, 1, post(0), true).unwrap();
    let request = bench.only();
    let kind = Kind::Acknowledgement;
    let piggybacked = |id, token| Datagram {
        kind,
        id,
        message: changed().with_token(token),
    };
    let right = request.message.token;
    bench.hear(1, &piggybacked(request.id, token(0)));
    bench.hear(1, &piggybacked(request.id.wrapping_add(1), right));
    bench.hear(2, &piggybacked(request.id, right));
    assert!(bench.told().is_empty());
    bench.hear(1, &piggybacked(request.id, right));
    assert_eq!(bench.told().len(), 1);
    bench.assert_nothing_stays();
}

#[test]
fn a_reset_ends_a_request() {
    for is_confirmable in [true, false] {
        let mut bench = bench();
        bench
            .endpoint
            .request(bench.now, 1, post(0), is_confirmable)
            .unwrap();
        let id = bench.only().id;
        bench.hear(1, &Datagram::empty(Kind::Reset, id));
        let told = bench.told();
        let is_reset = matches!(
            told[..],
            [Event::Response {
                result: Err(CallError::Reset),
                ..
            }]
        );
        assert!(is_reset, "{told:?}");
        bench.assert_nothing_stays();
    }
}

#[test]
fn a_ping_is_answered_and_leaves_no_trace() {
    let mut bench = bench();
    bench.hear(1, &Datagram::empty(Kind::Confirmable, 9));
    assert_eq!(bench.only(), Datagram::empty(Kind::Reset, 9));
    assert_eq!(bench.endpoint.stats().peers, 0);
}

#[test]
fn what_must_be_understood_and_is_not_is_refused_or_passed_over() {
    let mut bench = bench();
    let strange = post(1).with_option(65_001, "x");
    bench.hear(1, &confirmable(1, strange.clone()));
    let refusal = bench.only();
    assert_eq!(
        refusal.message,
        Message::new(Code::BAD_OPTION).with_token(token(1))
    );
    bench.hear(1, &non_confirmable(2, strange));
    let proxied = post(2).with_option(option::PROXY_URI, "coap://elsewhere");
    bench.hear(1, &confirmable(3, proxied));
    assert_eq!(bench.only().message.code, Code::PROXYING_NOT_SUPPORTED);
    let mut many = post(3);
    Block::new(0, Block::MANY).write(&mut many.options, option::BLOCK1);
    bench.hear(1, &confirmable(4, many));
    assert_eq!(bench.only().message.code, Code::BAD_REQUEST);
    assert!(bench.told().is_empty());
    bench.assert_nothing_stays();
}

#[test]
fn an_id_that_comes_round_again_names_another_request() {
    let mut bench = bench();
    for number in 1..=3 {
        bench.hear(1, &confirmable(7, post(number)));
        let exchange = bench.request().exchange;
        bench.answer(exchange, changed());
        assert_eq!(bench.only().message.token, token(number));
    }
}

#[test]
fn a_non_confirmable_request_is_answered_once_and_its_duplicate_not_at_all() {
    let mut bench = bench();
    let request = non_confirmable(7, post(1));
    bench.hear(1, &request);
    let exchange = bench.request().exchange;
    bench.pass(seconds(2));
    bench.answer(exchange, changed());
    assert_eq!(bench.only().kind, Kind::NonConfirmable);
    bench.hear(1, &request);
    assert!(bench.said().is_empty() && bench.told().is_empty());
    bench.assert_nothing_stays();
}

#[test]
fn a_response_that_is_not_wanted_is_not_sent() {
    let mut bench = bench();
    let quiet = |id| post(id).with_uint(option::NO_RESPONSE, 2);
    bench.hear(1, &non_confirmable(1, quiet(1)));
    let exchange = bench.request().exchange;
    let responded = bench.endpoint.respond(bench.now, exchange, changed());
    assert_eq!(responded, Ok(Responded::Unwanted));
    assert!(bench.said().is_empty());
    bench.hear(1, &confirmable(2, quiet(2)));
    let exchange = bench.request().exchange;
    bench.answer(exchange, changed());
    assert_eq!(bench.only(), Datagram::empty(Kind::Acknowledgement, 2));
    bench.hear(1, &confirmable(3, quiet(3)));
    let exchange = bench.request().exchange;
    let refusal = Message::new(Code::BAD_REQUEST);
    bench.answer(exchange, refusal);
    assert_eq!(bench.only().message.code, Code::BAD_REQUEST);
}

#[test]
fn a_body_in_blocks_is_one_request_and_a_large_answer_is_fetched() {
    let mut bench = bench();
    let block = |number, more: bool, length: usize| {
        let mut message = post(1).with_payload(vec![number as u8; length]);
        let block = Block::new(number, 0).with_more(more);
        block.write(&mut message.options, option::BLOCK1);
        message
    };
    bench.hear(1, &confirmable(1, block(0, true, 16)));
    assert_eq!(bench.only().message.code, Code::CONTINUE);
    assert!(bench.told().is_empty());
    bench.hear(1, &confirmable(2, block(1, false, 5)));
    let incoming = bench.request();
    assert_eq!(incoming.message.payload.len(), 21);
    let large = changed().with_payload(vec![9; 1500]);
    bench.answer(incoming.exchange, large);
    let first = bench.only().message;
    assert_eq!(
        Block::read(&first.options, option::BLOCK1),
        Some(Block::new(1, 0))
    );
    assert_eq!(first.payload.len(), 1024);
    assert_eq!(first.options.uint(option::SIZE2), Some(1500));
    let mut rest = post(2);
    Block::new(1, 6).write(&mut rest.options, option::BLOCK2);
    bench.hear(1, &confirmable(3, rest));
    assert_eq!(bench.only().message.payload.len(), 476);
    let exchange = incoming.exchange;
    assert_eq!(bench.told(), [Event::AnswerFetched { exchange }]);
    assert!(bench.endpoint.stats().block_bytes > 0);
    bench.assert_nothing_stays();
}

#[test]
fn a_cancelled_request_tells_nothing_and_its_answer_is_reset() {
    let mut bench = bench();
    let call = bench.endpoint.request(bench.now, 1, post(0), true).unwrap();
    let request = bench.only();
    bench.endpoint.cancel(bench.now, call);
    let late = changed().with_token(request.message.token);
    bench.hear(1, &confirmable(5, late));
    assert_eq!(bench.only(), Datagram::empty(Kind::Reset, 5));
    assert!(bench.told().is_empty());
    bench.assert_nothing_stays();
}

#[test]
fn an_answer_in_blocks_says_when_its_last_one_was_asked_for() {
    let mut bench = bench();
    let get = |id, number| {
        let mut message = Message::new(Code::GET).with_path("c").with_token(token(1));
        if number > 0 {
            Block::new(number, 6).write(&mut message.options, option::BLOCK2);
        }
        confirmable(id, message)
    };
    bench.hear(1, &get(1, 0));
    let exchange = bench.request().exchange;
    let large = Message::new(Code::CONTENT).with_payload(vec![7; 2000]);
    let responded = bench.endpoint.respond(bench.now, exchange, large);
    assert_eq!(responded, Ok(Responded::Begun));
    bench.said();
    bench.hear(1, &get(2, 1));
    assert_eq!(bench.only().message.payload.len(), 976);
    assert_eq!(bench.told(), [Event::AnswerFetched { exchange }]);
    bench.hear(1, &get(2, 1));
    bench.only();
    assert!(bench.told().is_empty(), "a duplicate tells nothing");
    bench.assert_nothing_stays();
}
