use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::proto::block::Block;
use crate::proto::message::tests::messages;
use crate::proto::message::{Code, Message, Token, option};
use crate::proto::{Budget, Seed};

const NOW: Duration = Duration::from_secs(1);

fn session() -> Session {
    session_with(StreamConfig::default())
}

fn session_with(config: StreamConfig) -> Session {
    Session::new(config, Budget::new(1 << 20), Seed([1, 2]))
}

fn read(bytes: &BytesMut) -> Vec<Message> {
    let (reader, mut bytes) = (FrameReader::new(1 << 20), bytes.clone());
    let read = std::iter::from_fn(|| reader.read(&mut bytes).unwrap());
    read.collect()
}

/// What the session has said since the last look.
fn said(session: &mut Session) -> Vec<Message> {
    read(&session.take_output())
}

fn hear(session: &mut Session, messages: &[Message]) -> Result<(), Closed> {
    let mut bytes = BytesMut::new();
    messages
        .iter()
        .for_each(|message| write_frame(message, &mut bytes));
    let result = session.receive(NOW, &mut bytes);
    assert!(result.is_err() || bytes.is_empty());
    result
}

/// A session past the greeting.
fn greeted() -> Session {
    let mut session = session();
    said(&mut session);
    hear(&mut session, &[Message::new(Code::CSM)]).unwrap();
    session
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_the_messages_are_the_same(
        messages in proptest::collection::vec(messages(), 0..6), piece in 1..50_usize,
    ) {
        let mut bytes = BytesMut::new();
        messages.iter().for_each(|message| write_frame(message, &mut bytes));
        let reader = FrameReader::new(1 << 16);
        let (mut input, mut found) = (BytesMut::new(), Vec::new());
        for part in bytes.chunks(piece) {
            input.extend_from_slice(part);
            while let Some(message) = reader.read(&mut input).unwrap() {
                found.push(message);
            }
        }
        prop_assert_eq!(found, messages);
        prop_assert!(input.is_empty());
    }

    #[test]
    fn a_frame_of_any_length_is_read_as_it_was_written(length in prop_oneof![
        0..20_usize, 250..290_usize, 65_780..65_830_usize,
    ]) {
        let message = Message::new(Code::POST).with_payload(vec![7; length]);
        let mut bytes = BytesMut::new();
        write_frame(&message, &mut bytes);
        prop_assert_eq!(read(&bytes), vec![message]);
    }

    #[test]
    fn whatever_comes_a_session_ends_or_goes_on(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), is_greeted: bool,
    ) {
        let mut session = if is_greeted { greeted() } else { session() };
        let mut input = BytesMut::from(&bytes[..]);
        let result = session.receive(NOW, &mut input);
        prop_assert_eq!(session.receive(NOW, &mut input).is_err(), result.is_err());
        let answers = said(&mut session);
        prop_assert!(answers.len() <= bytes.len() + 1);
    }

    /// Two sessions, whatever their block sizes and whatever they take.
    #[test]
    fn a_body_goes_both_ways_through_peers_that_take_little(
        length in 0..9000_usize, small in 0..3_usize, other in 0..3_usize,
    ) {
        let config = |which: usize| {
            let mut config = StreamConfig::default();
            config.blocks.size = [16, 512, 1024][which];
            config.blocks.max_body = 9000;
            config
        };
        let (mut client, mut server) = (session_with(config(small)), session_with(config(other)));
        let body: Vec<u8> = (0..length).map(|at| at as u8).collect();
        // What the client says comes before it knows what the server takes.
        let request = Message::new(Code::POST).with_path("t").with_payload(body.clone());
        let call = client.request(request).unwrap();
        let mut handled = 0;
        let response = loop {
            let mut bytes = client.take_output();
            server.receive(NOW, &mut bytes).unwrap();
            for event in events(&mut server) {
                let Event::Request { exchange, message, .. } = event else {
                    panic!("{event:?}");
                };
                handled += 1;
                let echo = Message::new(Code::CHANGED).with_payload(message.payload);
                server.respond(NOW, exchange, echo).unwrap();
            }
            let mut bytes = server.take_output();
            prop_assert!(!bytes.is_empty(), "they wait for each other");
            client.receive(NOW, &mut bytes).unwrap();
            if let Some(event) = events(&mut client).pop() {
                let Event::Response { call: ended, response } = event else {
                    panic!("{event:?}");
                };
                prop_assert_eq!(ended, call);
                break response;
            }
        };
        prop_assert_eq!(&response.unwrap().payload[..], &body[..]);
        prop_assert_eq!(handled, 1);
    }
}

#[test]
fn the_settings_come_first_and_must_come_first() {
    let mut session = session();
    let settings = said(&mut session).remove(0);
    assert_eq!(settings.code, Code::CSM);
    assert_eq!(settings.options.uint(2), Some(64 * 1024 + 1024));
    let early = hear(&mut session, &[Message::new(Code::GET)]);
    assert!(matches!(early, Err(Closed::Protocol(_))));
    assert_eq!(said(&mut session)[0].code, Code::ABORT);
    assert!(events(&mut session).is_empty());
}

#[test]
fn a_setting_that_must_be_understood_ends_the_connection_and_others_do_not() {
    let mut session = session();
    said(&mut session);
    let elective = Message::new(Code::CSM).with_uint(6, 1);
    hear(&mut session, &[elective]).unwrap();
    let critical = Message::new(Code::CSM).with_uint(7, 1);
    assert!(hear(&mut session, &[critical]).is_err());
    let abort = said(&mut session).remove(0);
    assert_eq!((abort.code, abort.options.uint(2)), (Code::ABORT, Some(7)));
}

#[test]
fn a_ping_gets_a_pong_of_its_token_and_a_release_is_told() {
    let mut session = greeted();
    let token = Token::from(9);
    let ping = Message::new(Code::PING).with_token(token);
    let empty = Message::new(Code::EMPTY);
    hear(&mut session, &[empty, ping, Message::new(Code::RELEASE)]).unwrap();
    let pong = Message::new(Code::PONG).with_token(token);
    assert_eq!(said(&mut session), vec![pong]);
    assert_eq!(events(&mut session), vec![Event::Released]);
    let aborted = hear(&mut session, &[Message::new(Code::ABORT)]);
    assert_eq!(aborted, Err(Closed::Aborted));
}

#[test]
fn a_pong_grants_custody_when_all_before_its_ping_is_answered_and_not_before() {
    let mut session = greeted();
    let post = |number| Message::new(Code::POST).with_token(Token::from(number));
    let ping = |number| {
        Message::new(Code::PING)
            .with_token(Token::from(number))
            .with_option(2, Vec::new())
    };
    let messages = [post(1), post(2), ping(3), post(4), ping(5)];
    hear(&mut session, &messages).unwrap();
    // While one waits the other is told that somebody is here, and no more.
    let plain = Message::new(Code::PONG).with_token(Token::from(5));
    assert_eq!(said(&mut session), [plain]);
    let exchanges: Vec<_> = events(&mut session)
        .into_iter()
        .map(|event| match event {
            Event::Request { exchange, .. } => exchange,
            other => panic!("{other:?}"),
        })
        .collect();
    let answer = || Message::new(Code::CHANGED);
    session.respond(NOW, exchanges[1], answer()).unwrap();
    assert_eq!(said(&mut session).len(), 1);
    session.respond(NOW, exchanges[0], answer()).unwrap();
    let words = said(&mut session);
    assert_eq!(words[0], answer().with_token(Token::from(1)));
    let pong = Message::new(Code::PONG).with_token(Token::from(3));
    assert_eq!(words[1], pong.with_option(2, Vec::new()));
    session.respond(NOW, exchanges[2], answer()).unwrap();
    assert_eq!(said(&mut session).len(), 1);
    hear(&mut session, &[ping(6)]).unwrap();
    assert!(said(&mut session)[0].options.has(2));
}

#[test]
fn requests_are_answered_in_any_order_by_their_tokens() {
    let mut session = greeted();
    let request = |number| {
        Message::new(Code::POST)
            .with_path("t")
            .with_token(Token::from(number))
    };
    hear(&mut session, &[request(1), request(2)]).unwrap();
    let exchanges: Vec<_> = events(&mut session)
        .into_iter()
        .map(|event| match event {
            Event::Request { exchange, .. } => exchange,
            other => panic!("{other:?}"),
        })
        .collect();
    for (exchange, number) in [(exchanges[1], 2), (exchanges[0], 1)] {
        session
            .respond(NOW, exchange, Message::new(Code::CHANGED))
            .unwrap();
        assert_eq!(said(&mut session)[0].token, Token::from(number));
    }
    let again = session.respond(NOW, exchanges[0], Message::new(Code::CHANGED));
    assert_eq!(again, Err(RequestError::Gone));
    assert_eq!(session.pending(), 0);
}

#[test]
fn a_peer_gets_no_message_larger_than_it_takes() {
    for (takes, size) in [
        (None, 1024),
        (Some(2000), 1024),
        (Some(9000), 3000),
        (Some(500), 256),
        (Some(1), 16),
    ] {
        let mut session = session();
        said(&mut session);
        let settings = match takes {
            Some(size) => Message::new(Code::CSM).with_uint(2, size),
            None => Message::new(Code::CSM),
        };
        hear(&mut session, &[settings, Message::new(Code::GET)]).unwrap();
        let Some(Event::Request { exchange, .. }) = session.poll_event() else {
            panic!("no request");
        };
        let large = Message::new(Code::CONTENT).with_payload(vec![0; 3000]);
        session.respond(NOW, exchange, large.clone()).unwrap();
        session
            .request(Message {
                code: Code::POST,
                ..large
            })
            .unwrap();
        let bytes = session.take_output();
        let sizes: Vec<_> = read(&bytes).iter().map(|one| one.payload.len()).collect();
        assert_eq!(sizes, [size, size], "{takes:?}");
    }
}

#[test]
fn options_take_from_the_room_of_a_block_in_what_a_peer_takes() {
    for takes in [500, 1152, 2000, 3400] {
        let mut session = session();
        said(&mut session);
        let settings = Message::new(Code::CSM).with_uint(2, takes);
        hear(&mut session, &[settings, Message::new(Code::GET)]).unwrap();
        let Some(Event::Request { exchange, .. }) = session.poll_event() else {
            panic!("no request");
        };
        let mut large = Message::new(Code::CONTENT).with_payload(vec![0; 3000]);
        for _ in 0..2 {
            large = large.with_option(option::LOCATION_QUERY, vec![b'x'; 150]);
        }
        assert!(large.options.encoded_len() <= session.options_room());
        session.respond(NOW, exchange, large.clone()).unwrap();
        large.code = Code::POST;
        session.request(large).unwrap();
        let (reader, mut bytes) = (FrameReader::new(takes as usize), session.take_output());
        for _ in 0..2 {
            let frame = reader.read(&mut bytes).expect("not larger than it takes");
            assert!(frame.is_some());
        }
    }
}

/// A session with a peer that takes messages of 500 bytes, has asked for such blocks, and was given the
/// first; and the answer, of 1,200 bytes beside 250 of options.
fn in_blocks(exponent: u8) -> (Session, Message) {
    let mut session = greeted();
    let settings = Message::new(Code::CSM).with_uint(2, 500);
    hear(&mut session, &[settings, get_block(0, exponent)]).unwrap();
    let Some(Event::Request { exchange, .. }) = session.poll_event() else {
        panic!("no request");
    };
    let query = vec![b'x'; 250];
    let answer = Message::new(Code::CONTENT).with_option(option::LOCATION_QUERY, query);
    let answer = answer.with_payload(vec![0; 1200]);
    session.respond(NOW, exchange, answer.clone()).unwrap();
    (session, answer)
}

fn get_block(number: u32, exponent: u8) -> Message {
    let mut get = Message::new(Code::GET).with_path("t");
    Block::new(number, exponent).write(&mut get.options, option::BLOCK2);
    get
}

#[test]
fn a_later_block_fits_in_what_a_peer_takes_whatever_size_it_is_asked_for_in() {
    let (mut session, _) = in_blocks(5);
    hear(&mut session, &[get_block(1, 5)]).unwrap();
    let (reader, mut bytes) = (FrameReader::new(500), session.take_output());
    let mut next = || reader.read(&mut bytes).expect("not larger than it takes");
    assert_eq!(next().unwrap().payload.len(), 128);
    let later = next().unwrap();
    let block = Block::read(&later.options, option::BLOCK2).unwrap();
    assert_eq!((later.payload.len(), block.offset()), (128, 512));
}

#[test]
fn a_peer_that_takes_less_from_now_on_is_sent_nothing_that_was_cut_for_more() {
    let (mut session, mut large) = in_blocks(3);
    large.code = Code::POST;
    let call = session.request(large).unwrap();
    let token = said(&mut session).pop().unwrap().token;
    let settings = Message::new(Code::CSM).with_uint(2, 300);
    let more = Message::new(Code::CONTINUE).with_uint(option::BLOCK1, 8 | 3);
    let heard = [settings, get_block(1, 3), more.with_token(token)];
    hear(&mut session, &heard).unwrap();
    let events = events(&mut session);
    assert!(matches!(events[0], Event::Request { .. }), "{events:?}");
    let failed = Event::Response {
        call,
        response: None,
    };
    assert_eq!(events[1], failed);
    assert!(said(&mut session).is_empty());
}

#[test]
fn who_asks_too_much_at_a_time_is_told_when_to_come_back() {
    let mut session = greeted();
    let request = Message::new(Code::POST).with_path("t");
    hear(&mut session, &vec![request; 17]).unwrap();
    assert_eq!(session.pending(), 16);
    let refusal = said(&mut session).remove(0);
    assert_eq!(refusal.code, Code::TOO_MANY_REQUESTS);
    assert!(refusal.options.has(option::MAX_AGE));
}

#[test]
fn an_observation_lasts_until_the_device_ends_it_or_an_error_does() {
    let mut session = greeted();
    let get = |observe| {
        Message::new(Code::GET)
            .with_path("c")
            .with_uint(option::OBSERVE, observe)
    };
    let observe = |session: &mut Session| {
        hear(session, &[get(0)]).unwrap();
        let Some(Event::Request { exchange, .. }) = events(session).pop() else {
            panic!("no request");
        };
        let content = Message::new(Code::CONTENT);
        session.observe(NOW, exchange, content).unwrap().unwrap()
    };
    let first = observe(&mut session);
    session
        .notify(NOW, first, Message::new(Code::CONTENT))
        .unwrap();
    assert_eq!(said(&mut session).len(), 2);
    hear(&mut session, &[get(1)]).unwrap();
    let ended = Event::Ended { observation: first };
    assert_eq!(session.poll_event(), Some(ended));
    let news = || Message::new(Code::CONTENT);
    assert_eq!(session.notify(NOW, first, news()), Err(RequestError::Gone));
    events(&mut session);
    let second = observe(&mut session);
    let error = Message::new(Code::UNAVAILABLE);
    session.notify(NOW, second, error).unwrap();
    assert_eq!(session.notify(NOW, second, news()), Err(RequestError::Gone));
}

#[test]
fn a_message_that_is_too_large_ends_the_connection_before_it_has_come() {
    let mut session = greeted();
    // The length alone says 16 MiB.
    let mut input = BytesMut::from(&[0xf0, 1, 0, 0, 0][..]);
    assert!(session.receive(NOW, &mut input).is_err());
    assert_eq!(said(&mut session)[0].code, Code::ABORT);
}

#[test]
fn a_pong_brings_the_token_of_its_ping() {
    let mut session = greeted();
    let tokens = [session.ping(), session.ping()];
    assert_ne!(tokens[0], tokens[1]);
    for (ping, token) in said(&mut session).into_iter().zip(tokens) {
        assert_eq!((ping.code, ping.token), (Code::PING, token));
        hear(&mut session, &[Message::new(Code::PONG).with_token(token)]).unwrap();
        assert_eq!(events(&mut session), vec![Event::Pong { token }]);
    }
}

#[test]
fn a_registration_for_the_same_under_another_token_replaces_the_one_before() {
    let mut session = greeted();
    let mut observations = Vec::new();
    for number in [1, 2] {
        let get = Message::new(Code::GET).with_path("c");
        let get = get
            .with_uint(option::OBSERVE, 0)
            .with_token(Token::from(number));
        hear(&mut session, &[get]).unwrap();
        let Some(Event::Request { exchange, .. }) = events(&mut session).pop() else {
            panic!("no request");
        };
        let content = Message::new(Code::CONTENT);
        let observation = session.observe(NOW, exchange, content).unwrap();
        observations.push(observation.unwrap());
    }
    let observation = observations[0];
    assert_eq!(events(&mut session), vec![Event::Ended { observation }]);
    let mut notify = |which| session.notify(NOW, which, Message::new(Code::CONTENT));
    assert_eq!(notify(observation), Err(RequestError::Gone));
    assert_eq!(notify(observations[1]), Ok(true));
}
