//! The rest of large notifications, which devices fetch block by block.

use super::observing::{content, observed, outcomes, register};
use super::*;
use crate::proto::block::Block;
use crate::proto::message::{Code, option};
use crate::proto::udp::NotificationOutcome;

/// Asks for a block of what is observed under the path `c`.
fn block(number: u32) -> Message {
    let mut request = Message::new(Code::GET).with_path("c").with_token(token(6));
    Block::new(number, 6).write(&mut request.options, option::BLOCK2);
    request
}

fn large(length: usize) -> Message {
    Message::new(Code::CONTENT).with_payload(vec![7; length])
}

#[test]
fn a_large_notification_says_that_it_is_not_whole_and_when_its_rest_was_fetched() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observation = observed(&mut bench, 1, register(5, "c"));
    bench
        .endpoint
        .notify(bench.now, observation, large(2100))
        .unwrap();
    let first = bench.only();
    assert_eq!(first.message.payload.len(), 1024);
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, first.id));
    let part = NotificationOutcome::Acknowledged { is_whole: false };
    assert_eq!(outcomes(&mut bench), (vec![part], vec![]));
    // The last one alone is not all of it.
    for (id, number, length, is_all) in [(2, 2, 52, false), (3, 1, 1024, false), (4, 2, 52, true)] {
        bench.hear(1, &confirmable(id, block(number)));
        let answer = bench.only().message;
        assert_eq!(answer.payload.len(), length);
        assert_eq!(
            answer.options.get(option::ETAG),
            first.message.options.get(option::ETAG)
        );
        assert!(!answer.options.has(option::OBSERVE));
        let fetched = Event::NotificationFetched { observation };
        assert_eq!(bench.told(), if is_all { vec![fetched] } else { vec![] });
    }
    bench.hear(1, &confirmable(5, block(2)));
    assert!(bench.told().is_empty(), "it is told once");
}

#[test]
fn who_asks_for_the_second_block_of_a_notification_has_the_first() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observation = observed(&mut bench, 1, register(5, "c"));
    let result = bench.endpoint.notify(bench.now, observation, large(1100));
    assert_eq!(result, Ok(()));
    bench.said();
    bench.hear(1, &confirmable(2, block(1)));
    let outcome = NotificationOutcome::Acknowledged { is_whole: false };
    let expected = [
        Event::Notified {
            observation,
            outcome,
        },
        Event::NotificationFetched { observation },
    ];
    assert_eq!(bench.told(), expected);
    bench.said();
    bench.pass(seconds(10));
    assert!(bench.said().is_empty(), "it is not sent again");
}

#[test]
fn a_notification_is_not_taken_for_fetched_when_one_before_it_is() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observation = observed(&mut bench, 1, register(5, "c"));
    for message in [large(1100), content("small")] {
        let result = bench.endpoint.notify(bench.now, observation, message);
        assert_eq!(result, Ok(()));
        let id = bench.only().id;
        if bench.endpoint.stats().block_bytes > 0 {
            bench.hear(1, &Datagram::empty(Kind::Acknowledgement, id));
            bench.told();
        }
    }
    bench.hear(1, &confirmable(2, block(1)));
    let told = bench.told();
    assert!(matches!(told[..], [Event::Request(_)]), "{told:?}");
}

#[test]
fn a_block_asked_for_may_be_of_what_was_told_before_and_is_no_sign_of_a_later_notification() {
    let acknowledge = |bench: &mut Bench, id: u16| {
        bench.hear(1, &Datagram::empty(Kind::Acknowledgement, id));
        bench.told()
    };
    for (is_fetched, is_replaced) in [(false, false), (true, false), (false, true)] {
        let mut bench = Bench::new(EndpointConfig::default());
        let observation = observed(&mut bench, 1, register(5, "c"));
        let notify = |bench: &mut Bench, message: Message| {
            let notified = bench.endpoint.notify(bench.now, observation, message);
            assert_eq!(notified, Ok(()));
            bench.only()
        };
        let first = notify(&mut bench, large(1100));
        acknowledge(&mut bench, first.id);
        if is_fetched {
            bench.hear(1, &confirmable(2, block(1)));
            bench.said();
            bench.told();
        }
        if is_replaced {
            let small = notify(&mut bench, content("small"));
            acknowledge(&mut bench, small.id);
        }
        // It is lost, and whoever fetches the first one is given a block of it.
        let second = notify(&mut bench, large(1200));
        bench.hear(1, &confirmable(3, block(1)));
        assert_eq!(bench.only().message.payload.len(), 1200 - 1024);
        assert_eq!(bench.told(), []);
        bench.pass(seconds(3));
        assert_eq!(bench.only(), second, "it is sent again");
        let outcome = NotificationOutcome::Acknowledged { is_whole: false };
        let notified = Event::Notified {
            observation,
            outcome,
        };
        assert_eq!(acknowledge(&mut bench, second.id), [notified]);
        bench.hear(1, &confirmable(4, block(1)));
        let fetched = Event::NotificationFetched { observation };
        assert_eq!(bench.told(), [fetched]);
    }
}

#[test]
fn nobody_has_a_notification_that_waits_behind_something_else() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observation = observed(&mut bench, 1, register(5, "c"));
    let other = observed(&mut bench, 2, register(6, "twin/desired"));
    let farewell = Message::new(Code::UNAVAILABLE);
    bench.endpoint.dismiss(bench.now, other, farewell);
    let farewell = bench.only().id;
    let result = bench.endpoint.notify(bench.now, observation, large(1100));
    assert_eq!(result, Ok(()));
    bench.told();
    bench.hear(1, &confirmable(3, block(1)));
    assert_eq!(bench.only().kind, Kind::Acknowledgement);
    assert_eq!(bench.told(), []);
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, farewell));
    assert_eq!(bench.only().message.payload.len(), 1024);
}

#[test]
fn a_block_asked_for_is_of_the_notification_when_what_was_told_before_is_long_over() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observation = observed(&mut bench, 1, register(5, "c"));
    for _ in 0..2 {
        bench.pass(EndpointConfig::default().blocks.timeout);
        let result = bench.endpoint.notify(bench.now, observation, large(1100));
        assert_eq!(result, Ok(()));
        bench.said();
        let id = bench.now.as_secs() as u16;
        bench.hear(1, &confirmable(id, block(1)));
        assert_eq!(bench.told().len(), 2);
        bench.said();
    }
}
