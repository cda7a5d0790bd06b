//! Observations, with a device that acknowledges, resets and falls silent as it likes.

use proptest::prelude::*;

use super::*;
use crate::proto::message::{Code, option};
use crate::proto::udp::{EndReason, NotificationOutcome, NotifyError, ObservationId};

pub(super) fn register(number: u32, path: &str) -> Message {
    Message::new(Code::GET)
        .with_path(path)
        .with_uint(option::OBSERVE, 0)
        .with_token(token(number))
}

pub(super) fn content(text: &'static str) -> Message {
    Message::new(Code::CONTENT).with_payload(text)
}

pub(super) fn observed(bench: &mut Bench, id: u16, request: Message) -> ObservationId<u8> {
    bench.hear(1, &confirmable(id, request));
    let told = bench.told();
    let Some(Event::Request(incoming)) = told.last() else {
        panic!("{told:?}");
    };
    assert!(incoming.wants_observation);
    let observation = bench
        .endpoint
        .observe(bench.now, incoming.exchange, content("first"))
        .unwrap()
        .expect("an observation");
    assert!(bench.only().message.options.has(option::OBSERVE));
    observation
}

pub(super) fn outcomes(bench: &mut Bench) -> (Vec<NotificationOutcome>, Vec<EndReason>) {
    let (mut outcomes, mut reasons) = (Vec::new(), Vec::new());
    for event in bench.told() {
        match event {
            Event::Notified { outcome, .. } => outcomes.push(outcome),
            Event::Ended { reason, .. } => reasons.push(reason),
            other => panic!("{other:?}"),
        }
    }
    (outcomes, reasons)
}

const WHOLE: NotificationOutcome = NotificationOutcome::Acknowledged { is_whole: true };

#[test]
fn a_notification_is_done_when_the_device_acknowledges_it_and_there_is_one_at_a_time() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observation = observed(&mut bench, 1, register(5, "c"));
    assert_eq!(
        bench.endpoint.notify(bench.now, observation, content("on")),
        Ok(())
    );
    let first = bench.only();
    assert_eq!(first.kind, Kind::Confirmable);
    assert_eq!(first.message.token, token(5));
    let busy = bench
        .endpoint
        .notify(bench.now, observation, content("off"));
    assert_eq!(busy, Err(NotifyError::Busy));
    bench.pass(seconds(3));
    assert_eq!(bench.only(), first);
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, first.id));
    assert_eq!(outcomes(&mut bench), (vec![WHOLE], vec![]));
    assert_eq!(
        bench
            .endpoint
            .notify(bench.now, observation, content("off")),
        Ok(())
    );
    let second = bench.only();
    let sequence = |datagram: &Datagram| datagram.message.options.uint(option::OBSERVE).unwrap();
    assert!(sequence(&second) > sequence(&first));
    assert_ne!(second.id, first.id);
}

#[test]
fn a_reset_or_silence_ends_the_observation() {
    for is_reset in [true, false] {
        let mut bench = Bench::new(EndpointConfig::default());
        let observation = observed(&mut bench, 1, register(5, "c"));
        bench
            .endpoint
            .notify(bench.now, observation, content("on"))
            .unwrap();
        let id = bench.only().id;
        let expected = match is_reset {
            true => {
                bench.hear(1, &Datagram::empty(Kind::Reset, id));
                (vec![NotificationOutcome::Reset], vec![EndReason::Reset])
            }
            false => {
                bench.pass(seconds(100));
                (
                    vec![NotificationOutcome::TimedOut],
                    vec![EndReason::TimedOut],
                )
            }
        };
        assert_eq!(outcomes(&mut bench), expected);
        let gone = bench
            .endpoint
            .notify(bench.now, observation, content("off"));
        assert_eq!(gone, Err(NotifyError::Gone));
        bench.assert_nothing_stays();
    }
}

#[test]
fn a_device_deregisters_registers_anew_and_is_told_an_error_last() {
    let mut bench = Bench::new(EndpointConfig::default());
    let first = observed(&mut bench, 1, register(5, "c"));
    bench
        .endpoint
        .notify(bench.now, first, content("on"))
        .unwrap();
    bench.said();
    // It has restarted and lost its token; what was on its way is not known to have arrived.
    bench.hear(1, &confirmable(2, register(6, "c")));
    let told = bench.told();
    let [Event::Request(incoming)] = &told[..] else {
        panic!("{told:?}");
    };
    let second = bench
        .endpoint
        .observe(bench.now, incoming.exchange, content("anew"))
        .unwrap()
        .unwrap();
    assert_eq!(
        outcomes(&mut bench),
        (
            vec![NotificationOutcome::Withdrawn],
            vec![EndReason::Replaced]
        )
    );
    assert_ne!(first, second);
    bench.said();
    let goodbye = register(6, "c").with_uint(option::OBSERVE, 1);
    bench.hear(1, &confirmable(3, goodbye));
    let told = bench.told();
    let is_deregistered = matches!(
        told[..],
        [
            Event::Ended {
                reason: EndReason::Deregistered,
                ..
            },
            Event::Request(_)
        ]
    );
    assert!(is_deregistered, "{told:?}");
    let third = observed(&mut bench, 4, register(7, "twin/desired"));
    let error = Message::new(Code::UNAVAILABLE);
    bench.endpoint.dismiss(bench.now, third, error);
    let farewell = bench.only();
    assert_eq!(farewell.message.code, Code::UNAVAILABLE);
    assert_eq!(farewell.message.token, token(7));
    let gone = bench.endpoint.notify(bench.now, third, content("more"));
    assert_eq!(gone, Err(NotifyError::Gone));
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, farewell.id));
    assert_eq!(outcomes(&mut bench), (vec![], vec![EndReason::Failed]));
    bench.assert_nothing_stays();
}

#[test]
fn each_observation_hears_of_its_end_whatever_is_on_its_way() {
    let mut bench = Bench::new(EndpointConfig::default());
    let observations = [1, 2, 3].map(|number| {
        let path = format!("p/{number}");
        observed(&mut bench, number as u16, register(number, &path))
    });
    let [first, second, third] = observations;
    let notified = bench.endpoint.notify(bench.now, third, content("on"));
    assert_eq!(notified, Ok(()));
    for observation in [first, second] {
        let farewell = Message::new(Code::FORBIDDEN);
        bench.endpoint.dismiss(bench.now, observation, farewell);
    }
    assert_eq!(bench.endpoint.stats().observations, 1);
    for (number, code) in [
        (3, Code::CONTENT),
        (1, Code::FORBIDDEN),
        (2, Code::FORBIDDEN),
    ] {
        let Datagram { kind, id, message } = bench.only();
        assert_eq!(kind, Kind::Confirmable);
        assert_eq!((message.token, message.code), (token(number), code));
        bench.hear(1, &Datagram::empty(Kind::Acknowledgement, id));
    }
    bench.told();
    bench.endpoint.forget(bench.now, 1);
    bench.assert_nothing_stays();
}

#[test]
fn an_error_registers_nobody_and_beyond_the_bound_it_is_a_plain_request() {
    let mut config = EndpointConfig::default();
    config.limits.max_observations_per_peer = 1;
    let mut bench = Bench::new(config);
    bench.hear(1, &confirmable(1, register(1, "c")));
    let exchange = bench.request().exchange;
    let refusal = Message::new(Code::NOT_FOUND);
    assert_eq!(
        bench.endpoint.observe(bench.now, exchange, refusal),
        Ok(None)
    );
    assert!(!bench.only().message.options.has(option::OBSERVE));
    observed(&mut bench, 2, register(2, "c"));
    bench.hear(1, &confirmable(3, register(3, "twin/desired")));
    let exchange = bench.request().exchange;
    assert_eq!(
        bench.endpoint.observe(bench.now, exchange, content("x")),
        Ok(None)
    );
    assert!(!bench.only().message.options.has(option::OBSERVE));
    assert_eq!(bench.endpoint.stats().observations, 1);
}

#[test]
fn who_does_not_ask_for_it_observes_nothing() {
    let mut bench = Bench::new(EndpointConfig::default());
    let plain = Message::new(Code::GET).with_path("c").with_token(token(1));
    let mut post = register(2, "c");
    post.code = Code::POST;
    for (id, request) in [(1, plain), (2, post)] {
        bench.hear(1, &confirmable(id, request));
        let incoming = bench.request();
        assert!(!incoming.wants_observation);
        let answer = bench
            .endpoint
            .observe(bench.now, incoming.exchange, content("x"));
        assert_eq!(answer, Ok(None));
        assert!(!bench.only().message.options.has(option::OBSERVE));
    }
    assert_eq!(bench.endpoint.stats().observations, 0);
}

#[test]
fn who_has_not_proved_its_address_observes_nothing() {
    let mut bench = Bench::new(EndpointConfig::default());
    let bytes = confirmable(1, register(1, "c")).encode();
    bench.endpoint.receive(bench.now, 1, false, &bytes);
    assert!(bench.told().is_empty());
    let challenge = bench.only().message;
    assert_eq!(challenge.code, Code::UNAUTHORIZED);
    assert!(challenge.options.has(option::ECHO));
    bench.assert_nothing_stays();
}

#[derive(Debug, Clone)]
enum Act {
    Register { number: u32, path: u8 },
    Deregister { number: u32 },
    Notify { which: usize },
    Dismiss { which: usize },
    Acknowledge,
    Reset,
    Wait(u64),
    End { which: usize },
    Withdraw { which: usize },
    Forget,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..4_u32, 0..3_u8).prop_map(|(number, path)| Act::Register { number, path }),
        1 => (0..4_u32).prop_map(|number| Act::Deregister { number }),
        7 => any::<usize>().prop_map(|which| Act::Notify { which }),
        1 => any::<usize>().prop_map(|which| Act::Dismiss { which }),
        6 => Just(Act::Acknowledge),
        1 => Just(Act::Reset),
        3 => (0..40_u64).prop_map(Act::Wait),
        1 => any::<usize>().prop_map(|which| Act::End { which }),
        1 => any::<usize>().prop_map(|which| Act::Withdraw { which }),
        1 => Just(Act::Forget),
    ];
    proptest::collection::vec(act, 0..80)
}

/// What a test knows of an endpoint's observations, from outside.
#[derive(Default)]
struct Book {
    alive: Vec<ObservationId<u8>>,
    on_its_way: Option<ObservationId<u8>>,
    last_sequence: u32,
    last_id: Option<u16>,
}

impl Book {
    fn read(&mut self, bench: &mut Bench) {
        for event in bench.told() {
            match event {
                Event::Notified { observation, .. } => {
                    assert_eq!(self.on_its_way.take(), Some(observation));
                }
                Event::Ended { observation, .. } => {
                    assert_ne!(self.on_its_way, Some(observation), "its end comes first");
                    let at = self.alive.iter().position(|one| *one == observation);
                    self.alive.remove(at.expect("it ends once"));
                }
                Event::Request(incoming) => {
                    let exchange = incoming.exchange;
                    let observation = bench
                        .endpoint
                        .observe(bench.now, exchange, content("state"))
                        .unwrap();
                    self.read(bench);
                    self.alive.extend(observation);
                }
                other => panic!("{other:?}"),
            }
        }
        for datagram in bench.said() {
            if datagram.kind != Kind::Confirmable {
                continue;
            }
            let sequence = datagram.message.options.uint(option::OBSERVE).unwrap();
            if self.last_id != Some(datagram.id) {
                assert!(sequence > self.last_sequence);
                self.last_sequence = sequence;
            }
            self.last_id = Some(datagram.id);
        }
    }
}

proptest! {
    #[test]
    fn whatever_a_device_does_each_notification_and_each_observation_has_one_end(acts in acts()) {
        let mut bench = Bench::new(EndpointConfig::default());
        let (mut book, mut id) = (Book::default(), 0);
        for act in acts {
            id += 1;
            match act {
                Act::Register { number, path } => {
                    let request = register(number, &format!("p/{path}"));
                    bench.hear(1, &confirmable(id, request));
                }
                Act::Deregister { number } => {
                    let request = register(number, "p/0").with_uint(option::OBSERVE, 1);
                    bench.hear(1, &confirmable(id, request));
                }
                Act::Dismiss { which } if !book.alive.is_empty() => {
                    let observation = book.alive[which % book.alive.len()];
                    let farewell = Message::new(Code::INTERNAL_ERROR);
                    bench.endpoint.dismiss(bench.now, observation, farewell);
                }
                Act::Notify { which } if !book.alive.is_empty() => {
                    let observation = book.alive[which % book.alive.len()];
                    let result = bench.endpoint.notify(bench.now, observation, content("news"));
                    match result {
                        Ok(()) => prop_assert_eq!(book.on_its_way.replace(observation), None),
                        Err(_) => prop_assert!(book.on_its_way.is_some()),
                    }
                }
                Act::Acknowledge => {
                    if let Some(id) = book.last_id {
                        bench.hear(1, &Datagram::empty(Kind::Acknowledgement, id));
                    }
                }
                Act::Reset => {
                    if let Some(id) = book.last_id {
                        bench.hear(1, &Datagram::empty(Kind::Reset, id));
                    }
                }
                Act::Wait(time) => bench.pass(seconds(time)),
                Act::End { which } if !book.alive.is_empty() => {
                    let observation = book.alive[which % book.alive.len()];
                    bench.endpoint.end_observation(bench.now, observation);
                }
                Act::Withdraw { which } if !book.alive.is_empty() => {
                    let observation = book.alive[which % book.alive.len()];
                    bench.endpoint.withdraw_notification(bench.now, observation);
                    if book.on_its_way == Some(observation) {
                        book.read(&mut bench);
                        prop_assert_eq!(book.on_its_way, None);
                    }
                }
                Act::Forget => bench.endpoint.forget(bench.now, 1),
                Act::Notify { .. } | Act::Dismiss { .. } => {}
                Act::End { .. } | Act::Withdraw { .. } => {}
            }
            book.read(&mut bench);
            prop_assert_eq!(bench.endpoint.stats().observations, book.alive.len());
        }
        // As long as it takes until each of the answers that may wait is given up.
        bench.pass(seconds(17 * 100));
        book.read(&mut bench);
        prop_assert!(book.on_its_way.is_none());
        bench.endpoint.forget(bench.now, 1);
        book.read(&mut bench);
        prop_assert!(book.alive.is_empty());
        bench.assert_nothing_stays();
    }
}
