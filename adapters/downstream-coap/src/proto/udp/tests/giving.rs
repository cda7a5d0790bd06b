//! Answers that should arrive.

use super::rules::{bench, changed, post};
use super::*;
use crate::proto::udp::{AnswerError, Responded};

#[test]
fn what_is_given_to_a_request_that_is_not_confirmable_is_sent_again_until_it_is_acknowledged() {
    for is_acknowledged in [true, false] {
        let mut bench = bench();
        let request = non_confirmable(7, post(1));
        bench.hear(1, &request);
        let exchange = bench.request().exchange;
        bench.pass(seconds(2));
        let given = bench.endpoint.give(bench.now, exchange, changed());
        assert_eq!(given, Ok(Responded::Apart));
        let answer = bench.only();
        assert_eq!(answer.kind, Kind::Confirmable);
        assert_eq!(answer.message, changed().with_token(token(1)));
        assert_eq!(bench.endpoint.stats().pending, 1);
        bench.hear(1, &request);
        assert!(bench.said().is_empty() && bench.told().is_empty());
        bench.pass(seconds(3));
        assert_eq!(bench.only(), answer, "it is sent again");
        let result = match is_acknowledged {
            true => {
                bench.hear(1, &Datagram::empty(Kind::Acknowledgement, answer.id));
                Ok(())
            }
            false => {
                bench.pass(seconds(100));
                Err(AnswerError::TimedOut)
            }
        };
        assert_eq!(bench.told(), [Event::Answered { exchange, result }]);
        bench.said();
        bench.assert_nothing_stays();
    }
}

#[test]
fn what_is_given_to_a_confirmable_request_goes_with_its_acknowledgement_while_it_can() {
    for (delay, responded, kind) in [
        (millis(499), Responded::Sent, Kind::Acknowledgement),
        (millis(500), Responded::Apart, Kind::Confirmable),
    ] {
        let mut bench = bench();
        bench.hear(1, &confirmable(7, post(1)));
        let exchange = bench.request().exchange;
        bench.pass(delay);
        bench.said();
        let given = bench.endpoint.give(bench.now, exchange, changed());
        assert_eq!(given, Ok(responded));
        assert_eq!(bench.only().kind, kind);
    }
}

#[test]
fn an_answer_that_is_taken_back_holds_up_nothing_behind_it() {
    let mut bench = bench();
    let exchanges = [7, 8].map(|id| {
        bench.hear(1, &non_confirmable(id, post(id.into())));
        bench.request().exchange
    });
    for exchange in exchanges {
        let given = bench.endpoint.give(bench.now, exchange, changed());
        assert_eq!(given, Ok(Responded::Apart));
    }
    let [first, second] = exchanges;
    assert_eq!(bench.only().message.token, token(7));
    bench.endpoint.withdraw_answer(bench.now, first);
    let said = bench.said();
    let [end, next] = &said[..] else {
        panic!("{said:?}");
    };
    // Or its peer would wait for it on.
    assert_eq!(end.kind, Kind::NonConfirmable);
    let empty = Message::new(changed().code).with_token(token(7));
    assert_eq!(end.message, empty);
    assert_eq!(next.message.token, token(8));
    bench.hear(1, &Datagram::empty(Kind::Acknowledgement, next.id));
    let result = Ok(());
    assert_eq!(
        bench.told(),
        [Event::Answered {
            exchange: second,
            result
        }]
    );
    bench.assert_nothing_stays();
}
