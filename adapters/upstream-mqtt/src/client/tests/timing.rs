//! What is due when, by a clock in the test's hands.

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::message;
use crate::client::codec::Outgoing;
use crate::client::ledger::{Bounds, Kind, Outcome};
use crate::client::options::Version;
use crate::client::state::{State, Terms};
use crate::error::MqttError;

const KEEP_ALIVE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);
const PING: &[u8] = &[0xc0, 0];
const PONG: &[u8] = &[0xd0, 0];

struct Clocked {
    state: State,
    now: Instant,
}

impl Clocked {
    fn new(keep_alive: Duration) -> Self {
        Self::with_order(keep_alive, true)
    }

    fn with_order(keep_alive: Duration, ordered_acks: bool) -> Self {
        Self::with_patience(keep_alive, ordered_acks, PATIENCE)
    }

    fn with_patience(keep_alive: Duration, ordered_acks: bool, answer_timeout: Duration) -> Self {
        let terms = Terms {
            version: Version::V4,
            bounds: Bounds {
                in_flight: 2,
                buffer: 1000,
                queued: 10,
            },
            receive: 10,
            ordered_acks,
            max_incoming: 1000,
            keep_alive,
            answer_timeout,
        };
        let now = Instant::now();
        Self {
            state: State::new(terms, now),
            now,
        }
    }

    fn publish(&mut self) -> crate::client::ledger::Key {
        let packet = Outgoing::publish(Version::V4, message(1)).expect("a message");
        let submitted = self.state.submit_one(Kind::Publish, packet, self.now);
        submitted.expect("there is room")
    }

    fn hear(&mut self, bytes: &[u8]) {
        let mut buffer = BytesMut::from(bytes);
        let heard = self.state.on_bytes(&mut buffer, self.now, &mut Vec::new());
        heard.expect("nothing wrong is said");
    }

    fn output(&mut self) -> BytesMut {
        self.state.take_output(BytesMut::new(), self.now)
    }

    /// Lets time pass until something is to be done, as a driver does.
    fn pass(&mut self) -> (Duration, Result<(), MqttError>) {
        let begun = self.now;
        loop {
            self.now = self.state.next_deadline(self.now);
            let told = self.state.on_time(self.now);
            if told.is_err() || !self.state.out.is_empty() {
                return (self.now - begun, told);
            }
        }
    }
}

#[test]
fn silence_ends_with_a_ping_before_the_keep_alive_is_over() {
    let mut clocked = Clocked::new(KEEP_ALIVE);
    for _ in 0..3 {
        let (passed, told) = clocked.pass();
        told.expect("nothing is wrong");
        assert_eq!(passed, KEEP_ALIVE * 3 / 4);
        assert_eq!(clocked.output(), PING);
        clocked.hear(PONG);
    }
}

#[test]
fn a_ping_without_an_answer_ends_the_connection() {
    let mut clocked = Clocked::new(KEEP_ALIVE);
    clocked.pass().1.expect("nothing is wrong");
    assert_eq!(clocked.output(), PING);
    let (passed, told) = clocked.pass();
    assert_eq!(passed, PATIENCE);
    assert!(matches!(told, Err(MqttError::Unanswered("a ping"))));
}

#[test]
fn one_who_waits_for_an_answer_for_longer_than_a_silence_is_heard_all_the_while() {
    // A broker may end a connection on which it hears nothing for the keep-alive and half of it.
    let mut clocked = Clocked::with_patience(KEEP_ALIVE, true, PATIENCE * 3);
    for _ in 0..2 {
        let (passed, told) = clocked.pass();
        told.expect("nothing is wrong");
        assert_eq!(passed, KEEP_ALIVE * 3 / 4);
        assert_eq!(clocked.output(), PING);
    }
    let (passed, told) = clocked.pass();
    assert_eq!(passed, KEEP_ALIVE * 3 / 4, "the first has all its time");
    assert!(matches!(told, Err(MqttError::Unanswered("a ping"))));
}

#[test]
fn an_early_answer_to_a_ping_begins_another_silence() {
    // A silence shorter than the time for an answer.
    let keep_alive = PATIENCE / 2;
    let mut clocked = Clocked::new(keep_alive);
    for _ in 0..3 {
        clocked.pass().1.expect("nothing is wrong");
        assert_eq!(clocked.output(), PING);
        let deadline = clocked.state.next_deadline(clocked.now);
        clocked.hear(PONG);
        assert!(deadline - clocked.now <= keep_alive);
    }
}

#[test]
fn whatever_the_broker_says_is_a_sign_of_life() {
    let mut clocked = Clocked::new(KEEP_ALIVE);
    clocked.pass().1.expect("nothing is wrong");
    clocked.output();
    clocked.now += PATIENCE - Duration::from_secs(1);
    clocked.hear(&[0x30, 3, 0, 1, b't']);
    clocked.now += Duration::from_secs(1);
    clocked.state.on_time(clocked.now).expect("it lives");
}

#[test]
fn one_who_only_sends_or_only_hears_asks_for_a_sign_of_life_too() {
    let mut clocked = Clocked::new(KEEP_ALIVE);
    clocked.now += KEEP_ALIVE / 2;
    clocked.publish();
    clocked.output();
    clocked.now += KEEP_ALIVE / 4;
    clocked.state.on_time(clocked.now).expect("it lives");
    assert_eq!(clocked.output(), PING, "nothing was heard");

    let mut clocked = Clocked::new(KEEP_ALIVE);
    clocked.now += KEEP_ALIVE / 2;
    clocked.hear(&[0x30, 3, 0, 1, b't']);
    clocked.now += KEEP_ALIVE / 4;
    clocked.state.on_time(clocked.now).expect("it lives");
    assert_eq!(clocked.output(), PING, "nothing was said");
}

#[test]
fn without_keep_alive_nothing_is_due() {
    let mut clocked = Clocked::new(Duration::ZERO);
    for _ in 0..10 {
        clocked.now = clocked.state.next_deadline(clocked.now);
        clocked
            .state
            .on_time(clocked.now)
            .expect("nothing is wrong");
        assert!(clocked.output().is_empty());
    }
}

#[test]
fn the_time_for_an_answer_counts_from_the_sending() {
    let waker = std::task::Waker::noop();
    let mut clocked = Clocked::new(Duration::ZERO);
    let first = clocked.publish();
    clocked.now += Duration::from_secs(20);
    let second = clocked.publish();
    // Two are on their way; the third waits, which is no fault of the broker's.
    let third = clocked.publish();
    clocked.output();
    clocked.now += Duration::from_secs(9);
    clocked.hear(&[0x40, 2, 0, 1]);
    assert!(clocked.state.poll(first, waker) == std::task::Poll::Ready(Outcome::Acknowledged(0)));
    let (passed, told) = clocked.pass();
    assert_eq!(passed, PATIENCE - Duration::from_secs(9));
    assert!(matches!(told, Err(MqttError::Unanswered("a packet"))));
    clocked.state.fail();
    assert!(clocked.state.poll(second, waker) == std::task::Poll::Ready(Outcome::Unanswered));
    assert!(clocked.state.poll(third, waker) == std::task::Poll::Ready(Outcome::Down));
}

#[test]
fn a_connection_that_ends_for_want_of_an_answer_was_not_idle() {
    let mut clocked = Clocked::new(Duration::ZERO);
    clocked.publish();
    clocked.output();
    let (_, told) = clocked.pass();
    assert!(matches!(told, Err(MqttError::Unanswered("a packet"))));
    clocked.state.fail();
    assert!(!clocked.state.was_idle());
}

#[test]
fn an_answer_out_of_turn_does_not_cover_up_one_that_is_missing() {
    let mut clocked = Clocked::new(Duration::ZERO);
    clocked.publish();
    clocked.now += Duration::from_secs(10);
    clocked.publish();
    clocked.output();
    clocked.hear(&[0x40, 2, 0, 2]);
    let (passed, told) = clocked.pass();
    assert_eq!(passed, PATIENCE - Duration::from_secs(10));
    assert!(told.is_err());
}

#[test]
fn what_is_not_listened_to_is_not_the_brokers_fault() {
    let mut clocked = Clocked::new(KEEP_ALIVE);
    clocked.publish();
    clocked.output();
    let mut buffer = BytesMut::new();
    // A message of ours waits, so twice as many are taken as may wait.
    for id in 1..=21 {
        buffer.extend_from_slice(&[0x32, 5, 0, 1, b't', 0, id]);
    }
    buffer.extend_from_slice(&[0x40, 2, 0, 1]);
    let mut arrived = Vec::new();
    let (state, now) = (&mut clocked.state, clocked.now);
    let has_room = state.on_bytes(&mut buffer, now, &mut arrived);
    assert!(!has_room.expect("nothing is wrong") && arrived.len() == 20);
    // Ten times the patience, and the broker hears of us all the while.
    let mut pings = 0;
    while clocked.now < now + PATIENCE * 10 {
        clocked.now = clocked.state.next_deadline(clocked.now);
        clocked.state.on_time(clocked.now).expect("we are slow");
        pings += usize::from(clocked.output() == PING);
    }
    assert_eq!(pings, 6);
    // One who does not read either is not pinged at any other pace.
    let (passed, told) = clocked.pass();
    told.expect("we are slow");
    assert!(passed <= KEEP_ALIVE && clocked.state.next_deadline(clocked.now) > clocked.now);
    let waker = std::task::Waker::noop();
    assert!(clocked.state.poll_room(waker, clocked.now).is_pending());
    let first = arrived.remove(0).arrival.expect("at least once");
    clocked.state.acknowledge(first);
    assert!(clocked.state.poll_room(waker, clocked.now).is_ready());
    clocked.state.on_time(clocked.now).expect("it has its time");
    let (state, now) = (&mut clocked.state, clocked.now);
    let heard = state.on_bytes(&mut buffer, now, &mut arrived);
    heard.expect("nothing is wrong");
    assert_eq!(arrived.len(), 20);
}

#[test]
fn a_message_that_was_let_go_ends_its_connection_a_minute_later_unless_order_is_kept() {
    for ordered_acks in [true, false] {
        let mut clocked = Clocked::with_order(Duration::ZERO, ordered_acks);
        for id in [1, 2] {
            let mut arrived = Vec::new();
            let mut bytes = BytesMut::from(&[0x32, 5, 0, 1, b'a', 0, id][..]);
            let heard = clocked
                .state
                .on_bytes(&mut bytes, clocked.now, &mut arrived);
            heard.expect("nothing wrong is said");
            let arrival = arrived[0].arrival.expect("it is to be acknowledged");
            assert!(!clocked.state.forget(arrival, clocked.now));
            clocked.now += Duration::from_secs(20);
        }
        let mut told = Ok(());
        let mut passed = Duration::from_secs(40);
        while told.is_ok() && passed < Duration::from_secs(200) {
            let next = clocked.state.next_deadline(clocked.now);
            passed += next - clocked.now;
            clocked.now = next;
            told = clocked.state.on_time(next);
        }
        match ordered_acks {
            true => told.expect("whoever let it go sees to it"),
            false => {
                assert!(matches!(told, Err(MqttError::Forgotten)));
                assert_eq!(passed, Duration::from_secs(60));
            }
        }
    }
}

#[test]
fn a_message_that_is_let_go_has_no_more_than_its_minute_however_long_answers_may_take() {
    let mut clocked = Clocked::with_patience(Duration::ZERO, false, PATIENCE * 10);
    let begun = clocked.now;
    let due = clocked.state.next_deadline(begun);
    let mut arrived = Vec::new();
    let mut bytes = BytesMut::from(&[0x32, 5, 0, 1, b'a', 0, 1][..]);
    let heard = clocked.state.on_bytes(&mut bytes, begun, &mut arrived);
    heard.expect("nothing wrong is said");
    let arrival = arrived[0].arrival.expect("it is to be acknowledged");
    clocked.state.forget(arrival, begun);
    // The driver sleeps until then, whatever happens meanwhile.
    assert!(due <= begun + Duration::from_secs(60));
    assert!(matches!(
        clocked.state.on_time(due),
        Err(MqttError::Forgotten)
    ));
}
