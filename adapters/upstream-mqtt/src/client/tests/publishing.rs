//! Brokers that acknowledge late, out of order, with a refusal or not at all; subscriptions too.

use futures_util::future::join_all;

use super::peer::{Broker, Pair, Said, WELCOME_4};
use super::{BOTH, message, soon};
use crate::client::Version;
use crate::error::MqttError;

#[tokio::test]
async fn acknowledgements_in_any_order_settle_and_hold_nothing_up() {
    for version in BOTH {
        let Pair {
            client, mut peer, ..
        } = Pair::with_options(version, |options| options.limits.in_flight = 4).await;
        let publishing = join_all((0..100).map(|number| client.publish(message(number))));
        let acknowledging = async {
            // The first is acknowledged last of all: the others go on.
            let (first, _) = peer.next_publish().await;
            let mut open = Vec::new();
            for number in 1..100 {
                let (id, text) = peer.next_publish().await;
                assert_eq!(text, number.to_string());
                open.push(id);
                if open.len() == 3 {
                    while let Some(id) = open.pop() {
                        peer.puback(id, 0).await;
                    }
                }
            }
            for id in open {
                peer.puback(id, 0).await;
            }
            peer.puback(first, 0).await;
        };
        let (told, ()) = tokio::join!(soon(publishing), acknowledging);
        assert!(told.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn a_fresh_session_after_unacknowledged_messages_loses_none_in_silence() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V4);
    options.clean_start = false;
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, WELCOME_4).await;
    let cutting = async {
        peer.next_publish().await;
        peer.next_publish().await;
        drop(peer);
    };
    let (one, two) = (client.publish(message(1)), client.publish(message(2)));
    let (one, two, ()) = tokio::join!(soon(one), soon(two), cutting);
    assert!(matches!(one, Err(MqttError::Down)) && matches!(two, Err(MqttError::Down)));
    // Whether the session is there or not, the new connection begins with what it is given.
    for answer in [WELCOME_4, &[0x20, 2, 1, 0]] {
        let Pair {
            client, mut peer, ..
        } = Pair::with(&broker, &options, answer).await;
        assert_eq!(client.is_session_present(), answer[2] == 1);
        let (told, said) = tokio::join!(soon(client.publish(message(3))), async {
            let said = peer.next().await;
            peer.puback(1, 0).await;
            said
        });
        told.expect("it is acknowledged");
        let (id, duplicate, text) = (1, false, "3".to_owned());
        assert_eq!(
            said,
            Said::Publish {
                id,
                text,
                duplicate
            }
        );
    }
}

#[tokio::test]
async fn a_refusal_by_reason_code_fails_that_message_alone() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V5).await;
    let codes = [0, 0x10, 0x80, 0x87, 0x97, 0x99, 0xf0, 0];
    let publishing = join_all((0..codes.len()).map(|number| client.publish(message(number))));
    let answering = async {
        for code in codes {
            let (id, _) = peer.next_publish().await;
            peer.puback(id, code).await;
        }
    };
    let (told, ()) = tokio::join!(soon(publishing), answering);
    for (told, code) in told.into_iter().zip(codes) {
        match told {
            Ok(()) => assert!(code < 0x80),
            Err(MqttError::PublishRefused { code: refused }) => assert_eq!(refused, code),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!client.down().is_cancelled());
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_costs_nothing_else() {
    let broker = Broker::bind().await;
    let options = broker.options(Version::V5);
    // The broker takes packets of 64 bytes.
    let answer = [0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 64];
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, &answer).await;
    let mut large = message(1);
    large.payload = vec![b'x'; 100].into();
    let told = client.publish(large).await;
    assert!(matches!(told, Err(MqttError::TooLarge { limit: 64, .. })));
    let (told, text) = tokio::join!(soon(client.publish(message(2))), peer.take());
    told.expect("the next one goes");
    assert_eq!(text, "2");
}

#[tokio::test]
async fn a_broker_gets_no_more_at_once_than_it_asks_for() {
    let broker = Broker::bind().await;
    let options = broker.options(Version::V5);
    // A receive maximum of 2.
    let answer = [0x20, 6, 0, 0, 3, 0x21, 0, 2];
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, &answer).await;
    let publishing = client.publish_all((0..10).map(message).collect());
    let answering = async {
        let mut open = Vec::new();
        for number in 0..10 {
            let (id, text) = peer.next_publish().await;
            assert_eq!(text, number.to_string());
            open.push(id);
            assert!(open.len() <= 2 && client.in_flight() <= 2);
            if open.len() == 2 {
                peer.puback(open.remove(0), 0).await;
            }
        }
        peer.puback(open.remove(0), 0).await;
    };
    let (told, ()) = tokio::join!(soon(publishing), answering);
    told.expect("all are acknowledged");
}

#[tokio::test]
async fn a_cancelled_message_keeps_its_identifier_and_one_that_waits_is_not_sent() {
    let Pair {
        client, mut peer, ..
    } = Pair::with_options(Version::V4, |options| options.limits.in_flight = 1).await;
    let mut sent = Box::pin(client.publish(message(1)));
    let mut waiting = Box::pin(client.publish(message(2)));
    assert!(futures_util::poll!(&mut sent).is_pending());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    drop((sent, waiting));
    assert_eq!(client.in_flight(), 1);
    let acknowledging = async {
        let (first, text) = peer.next_publish().await;
        assert_eq!(text, "1");
        peer.puback(first, 0).await;
        let (second, text) = peer.next_publish().await;
        assert_eq!(text, "3");
        assert_ne!(first, second);
        peer.puback(second, 0).await;
    };
    let (told, ()) = tokio::join!(soon(client.publish(message(3))), acknowledging);
    told.expect("it is acknowledged");
}

#[tokio::test]
async fn what_is_younger_than_an_unanswered_message_is_down_with_it() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V4).await;
    let publishing = join_all((0..5).map(|number| client.publish(message(number))));
    let cutting = async {
        for _ in 0..5 {
            peer.next_publish().await;
        }
        drop(peer);
    };
    let (told, ()) = tokio::join!(soon(publishing), cutting);
    assert!(told.iter().all(|told| matches!(told, Err(MqttError::Down))));
    assert_eq!(client.in_flight(), 0);
}

#[tokio::test]
async fn an_answer_to_another_packet_than_was_asked_settles_nothing() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V4).await;
    let lying = async {
        let (id, _) = peer.next_publish().await;
        let [high, low] = id.to_be_bytes();
        peer.say(&[0xb0, 2, high, low]).await;
    };
    let (told, ()) = tokio::join!(soon(client.publish(message(1))), lying);
    assert!(matches!(told, Err(MqttError::Down)));
}

#[tokio::test]
async fn subscriptions_are_granted_at_least_once_or_not_at_all() {
    for (version, codes, refused) in [
        (Version::V4, [1, 1], None),
        (Version::V4, [2, 1], None),
        (Version::V4, [1, 0x80], Some(("b/+", 0x80))),
        (Version::V4, [0, 1], Some(("a/#", 0))),
        (Version::V5, [1, 0x87], Some(("b/+", 0x87))),
    ] {
        let Pair {
            client, mut peer, ..
        } = Pair::connect(version).await;
        let filters = ["a/#".to_owned(), "b/+".to_owned()];
        let answering = async {
            let Said::Subscribe(id, asked) = peer.next().await else {
                panic!("no SUBSCRIBE");
            };
            assert_eq!(asked, ["a/#", "b/+"]);
            let [high, low] = id.to_be_bytes();
            match version {
                Version::V4 => peer.say(&[0x90, 4, high, low, codes[0], codes[1]]).await,
                Version::V5 => {
                    peer.say(&[0x90, 5, high, low, 0, codes[0], codes[1]]).await;
                }
            }
        };
        let (told, ()) = tokio::join!(soon(client.subscribe(&filters)), answering);
        match (told, refused) {
            (Ok(()), None) => {}
            (Err(MqttError::SubscribeRefused { filter, code }), Some(refused)) => {
                assert_eq!((filter.as_str(), code), refused);
            }
            (told, _) => panic!("{told:?}"),
        }
    }
}
