use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::proto::message::{Code, option};
use crate::proto::tcp::{FrameReader, StreamConfig, write_frame};
use crate::proto::{Budget, Seed};

const NOW: Duration = Duration::from_secs(1);
const WHOLE: NotificationOutcome = NotificationOutcome::Acknowledged { is_whole: true };

/// A layer and what its peer says and hears.
struct Bench {
    layer: StreamLayer,
    observations: Vec<Observation>,
}

impl Bench {
    /// One whose peer observes so many resources.
    fn observing(count: u32) -> Self {
        let session = Session::new(StreamConfig::default(), Budget::new(1 << 20), Seed([1, 2]));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5683));
        let mut bench = Self {
            layer: StreamLayer::new(session, PeerKey::Address(address)),
            observations: Vec::new(),
        };
        bench.hear(&[Message::new(Code::CSM)]);
        for number in 0..count {
            let get = get(number).with_uint(option::OBSERVE, 0);
            bench.hear(&[get]);
            let exchange = bench.exchange();
            let content = Message::new(Code::CONTENT);
            let observed = bench.layer.observe(NOW, exchange, content).unwrap();
            bench.observations.push(observed.unwrap());
        }
        bench.said();
        bench
    }

    fn hear(&mut self, messages: &[Message]) {
        let mut bytes = BytesMut::new();
        messages
            .iter()
            .for_each(|message| write_frame(message, &mut bytes));
        self.layer.receive(NOW, &mut bytes).unwrap();
    }

    /// What the layer has said since the last look.
    fn said(&mut self) -> Vec<Message> {
        let (reader, mut bytes) = (
            FrameReader::new(1 << 20),
            self.layer.session().take_output(),
        );
        std::iter::from_fn(|| reader.read(&mut bytes).unwrap()).collect()
    }

    /// The pong to the ping that was said last.
    fn pong(&mut self) -> Message {
        let ping = self.said().pop().unwrap();
        assert_eq!(ping.code, Code::PING);
        Message::new(Code::PONG).with_token(ping.token)
    }

    fn exchange(&mut self) -> Exchange {
        match self.layer.poll_event() {
            Some(StreamEvent::Request(request)) => request.exchange,
            other => panic!("{other:?}"),
        }
    }

    fn notified(&mut self) -> Option<(Observation, NotificationOutcome)> {
        match self.layer.poll_event() {
            Some(StreamEvent::Notified {
                observation,
                outcome,
            }) => Some((observation, outcome)),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    /// Notifies of a body of so many bytes.
    fn notify(&mut self, which: usize, length: usize) -> Result<(), NotifyError> {
        let message = Message::new(Code::CONTENT).with_payload(vec![7; length]);
        self.layer.notify(NOW, self.observations[which], message)
    }
}

fn get(number: u32) -> Message {
    let get = Message::new(Code::GET).with_path(&number.to_string());
    get.with_token(Token::from(number))
}

/// Asks for a block of 1024 bytes.
fn get_block(number: u32, block: u32) -> Message {
    get(number).with_uint(option::BLOCK2, block << 4 | 6)
}

#[test]
fn a_pong_says_nothing_of_what_was_sent_behind_its_ping() {
    let mut bench = Bench::observing(2);
    bench.notify(0, 1).unwrap();
    let first = bench.pong();
    bench.notify(1, 1).unwrap();
    assert!(bench.said().iter().all(|one| one.code != Code::PING));
    bench.hear(&[first]);
    assert_eq!(bench.notified(), Some((bench.observations[0], WHOLE)));
    assert_eq!(bench.notified(), None);
    let second = bench.pong();
    bench.hear(&[second]);
    assert_eq!(bench.notified(), Some((bench.observations[1], WHOLE)));
}

#[test]
fn a_pong_that_nobody_asked_for_confirms_nothing_though_it_names_no_ping() {
    let mut bench = Bench::observing(2);
    bench.notify(0, 1).unwrap();
    bench.notify(1, 1).unwrap();
    let nameless = Message::new(Code::PONG);
    let other = nameless.clone().with_token(Token::from(9999));
    bench.hear(&[other]);
    assert_eq!(bench.notified(), None);
    bench.hear(&[nameless.clone(), nameless]);
    assert_eq!(bench.notified(), Some((bench.observations[0], WHOLE)));
    assert_eq!(bench.notified(), None);
}

#[test]
fn an_observation_is_busy_until_the_end_of_its_notification_is_told() {
    let mut bench = Bench::observing(2);
    bench.layer.ask();
    let idle = bench.pong();
    for which in [0, 1] {
        bench.notify(which, 1).unwrap();
    }
    bench.hear(&[idle]);
    assert_eq!(bench.notified(), None);
    let pong = bench.pong();
    bench.hear(&[pong]);
    // One pong is behind both; who hears of the first may want to send more by the second.
    assert_eq!(bench.notified(), Some((bench.observations[0], WHOLE)));
    assert_eq!(bench.notify(1, 1), Err(NotifyError::Busy));
    assert_eq!(bench.notified(), Some((bench.observations[1], WHOLE)));
    bench.notify(1, 1).unwrap();
    assert_eq!(bench.notified(), None);
}

#[test]
fn what_was_asked_before_a_notification_was_sent_is_no_sign_of_it() {
    let mut bench = Bench::observing(1);
    let observation = bench.observations[0];
    bench.notify(0, 2000).unwrap();
    let pong = bench.pong();
    bench.hear(&[pong]);
    let begun = NotificationOutcome::Acknowledged { is_whole: false };
    assert_eq!(bench.notified(), Some((observation, begun)));
    // Who hears of a request sends more before it hears of what was asked behind that.
    bench.hear(&[Message::new(Code::POST), get_block(0, 1)]);
    bench.exchange();
    bench.notify(0, 2000).unwrap();
    let fetched = bench.layer.poll_event();
    assert!(matches!(
        fetched,
        Some(StreamEvent::NotificationFetched { .. })
    ));
    assert_eq!(bench.notified(), None);
    assert_eq!(bench.notify(0, 1), Err(NotifyError::Busy));
}

#[test]
fn a_block_asked_for_before_the_pong_proves_nothing_until_there_is_one_behind_it() {
    let mut bench = Bench::observing(1);
    let observation = bench.observations[0];
    bench.notify(0, 2000).unwrap();
    let pong = bench.pong();
    bench.hear(&[pong]);
    assert!(bench.notified().is_some());
    bench.notify(0, 2000).unwrap();
    let pong = bench.pong();
    // Of the first one, for all that anybody knows; what it gets is the second one's.
    bench.hear(&[get_block(0, 1)]);
    assert_eq!(bench.notified(), None);
    assert_eq!(
        bench.said()[0].options.uint(option::BLOCK2),
        Some(1 << 4 | 6)
    );
    bench.hear(&[pong]);
    assert_eq!(bench.notified(), None);
    let behind = bench.pong();
    bench.hear(&[behind]);
    assert_eq!(bench.notified(), Some((observation, WHOLE)));
    assert_eq!(bench.notified(), None);
}

#[test]
fn a_block_asked_for_behind_the_pong_is_told_at_once() {
    let mut bench = Bench::observing(1);
    let observation = bench.observations[0];
    bench.notify(0, 2000).unwrap();
    let pong = bench.pong();
    bench.hear(&[pong, get_block(0, 1)]);
    let begun = NotificationOutcome::Acknowledged { is_whole: false };
    assert_eq!(bench.notified(), Some((observation, begun)));
    let fetched = bench.layer.poll_event();
    assert!(matches!(
        fetched,
        Some(StreamEvent::NotificationFetched { .. })
    ));
}

#[test]
fn an_observation_ends_once_whoever_ends_it() {
    let mut bench = Bench::observing(1);
    let observation = bench.observations[0];
    bench.notify(0, 1).unwrap();
    let pong = bench.pong();
    bench.hear(&[pong, get(0).with_uint(option::OBSERVE, 1)]);
    bench.layer.end_observation(NOW, observation);
    bench
        .layer
        .dismiss(NOW, observation, Message::new(Code::FORBIDDEN));
    // It has what it was sent before it took leave.
    assert_eq!(bench.notified(), Some((observation, WHOLE)));
    let ended = bench.layer.poll_event();
    assert!(matches!(ended, Some(StreamEvent::Ended { .. })));
    bench.exchange();
    assert_eq!(bench.notified(), None);
}
