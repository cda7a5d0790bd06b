//! Brokers that misbehave, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::ErrorKind;
use tokio_util::task::TaskTracker;

use super::peer::{Broker, Pair, Said, WELCOME_4, WELCOME_5, refusal, welcome};
use super::{Kept, message, soon};
use crate::client::{Client, Options, Version};
use crate::error::MqttError;

const BOTH: [Version; 2] = [Version::V4, Version::V5];
/// For what must never come.
const BRIEF: Duration = Duration::from_millis(200);

#[tokio::test]
async fn wrong_credentials_are_told_from_other_refusals() {
    for (version, answer, code, kind) in [
        (
            Version::V4,
            &[0x20, 2, 0, 4][..],
            4,
            ErrorKind::Unauthorized,
        ),
        (Version::V4, &[0x20, 2, 0, 5], 5, ErrorKind::Unauthorized),
        (Version::V4, &[0x20, 2, 0, 3], 3, ErrorKind::Disconnected),
        (
            Version::V5,
            &[0x20, 3, 0, 0x86, 0],
            0x86,
            ErrorKind::Unauthorized,
        ),
        (
            Version::V5,
            &[0x20, 3, 0, 0x89, 0],
            0x89,
            ErrorKind::Throttled,
        ),
        // In the words of version 3.1.1, from a broker that knows no other.
        (Version::V5, &[0x20, 2, 0, 1], 1, ErrorKind::Unsupported),
        // A code that nobody knows is a refusal all the same.
        (
            Version::V5,
            &[0x20, 3, 0, 0xf0, 0],
            0xf0,
            ErrorKind::Disconnected,
        ),
    ] {
        let error = refusal(version, answer).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(matches!(error, MqttError::Refused { code: told, .. } if told == code));
    }
}

#[tokio::test]
async fn a_broker_says_why_it_refuses() {
    let answer = b"\x20\x0d\x00\x87\x0a\x1f\x00\x07go away";
    let error = refusal(Version::V5, answer).await;
    assert!(error.to_string().contains("go away"), "{error}");
}

#[tokio::test]
async fn a_broker_that_closes_instead_of_an_answer_has_left() {
    for version in BOTH {
        let error = refusal(version, &[]).await;
        assert!(matches!(error, MqttError::Left), "{error}");
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_refused() {
    for (version, answer) in [
        (Version::V4, &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        (Version::V4, &[0xd0, 0]),
        (Version::V4, &[0x20, 2, 2, 0]),
        (Version::V5, &[0x20, 2, 0, 0]),
        // A receive maximum of zero.
        (Version::V5, &[0x20, 6, 0, 0, 3, 0x21, 0, 0]),
    ] {
        let error = refusal(version, answer).await;
        assert!(matches!(error, MqttError::Protocol(_)), "{error}");
    }
}

#[tokio::test]
async fn a_broker_without_at_least_once_is_of_no_use() {
    let error = refusal(Version::V5, &[0x20, 5, 0, 0, 2, 0x24, 0]).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_broker_that_never_answers_connect_is_given_up() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V4);
    options.limits.connect_timeout = Duration::from_secs(1);
    let tasks = TaskTracker::new();
    let connecting = Client::connect(&options, Arc::<Kept>::default(), &tasks);
    let (mut peer, client) = tokio::join!(broker.accept(Version::V4), soon(connecting));
    assert!(matches!(client, Err(MqttError::Unanswered("CONNECT"))));
    assert_eq!(peer.next().await, Said::Connect);
    assert_eq!(peer.next().await, Said::Nothing, "it is left alone");
    assert!(tasks.is_empty());
}

fn brief(mut options: Options) -> Options {
    options.limits.answer_timeout = BRIEF;
    options
}

#[tokio::test]
async fn a_broker_that_never_acknowledges_is_given_up() {
    for version in BOTH {
        let broker = Broker::bind().await;
        let options = brief(broker.options(version));
        let Pair {
            client, mut peer, ..
        } = Pair::with(&broker, &options, welcome(version)).await;
        let reading = async { while peer.next().await != Said::Nothing {} };
        let (told, ()) = tokio::join!(soon(client.publish(message(1))), reading);
        assert!(matches!(told, Err(MqttError::Unanswered(_))), "{told:?}");
        soon(client.down().cancelled()).await;
        let reason = client.reason().expect("it is down");
        assert_eq!(reason.kind(), ErrorKind::TimedOut);
        assert!(matches!(
            client.publish(message(2)).await,
            Err(MqttError::Down)
        ));
    }
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
async fn garbage_ends_the_connection_and_fails_what_is_open() {
    let properties_beyond_the_packet = &[0x32, 7, 0, 1, b'a', 0, 1, 50, 0][..];
    for (version, garbage) in [
        (Version::V4, &[0xff; 40][..]),
        (Version::V4, &[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        (Version::V4, &[0x40, 3, 0, 1, 0]),
        (Version::V4, &[0x40, 2, 0, 0]),
        (Version::V4, &[0x20, 2, 0, 0]),
        (Version::V4, &[0x90, 3, 0, 1, 0]),
        (Version::V4, &[0xe0, 0]),
        (Version::V4, &[0x82, 6, 0, 1, 0, 1, b'a', 0]),
        (Version::V5, properties_beyond_the_packet),
        (Version::V5, &[0x40, 4, 0, 1, 0, 9]),
        (Version::V5, &[0xf0, 0]),
    ] {
        let Pair {
            client, mut peer, ..
        } = Pair::connect(version).await;
        let spoiling = async {
            peer.next_publish().await;
            peer.say(garbage).await;
            let last = peer.next().await;
            match version {
                Version::V4 => assert_eq!(last, Said::Nothing),
                Version::V5 => assert!(matches!(last, Said::Disconnect(0x81 | 0x82)), "{last:?}"),
            }
        };
        let (told, ()) = tokio::join!(soon(client.publish(message(1))), spoiling);
        assert!(matches!(told, Err(MqttError::Down)), "{garbage:x?}");
        soon(client.down().cancelled()).await;
        let reason = client.reason().expect("it is down");
        assert!(matches!(*reason, MqttError::Protocol(_)), "{garbage:x?}");
    }
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_refused_before_it_has_come() {
    for version in BOTH {
        let broker = Broker::bind().await;
        let mut options = broker.options(version);
        options.limits.max_packet = 1000;
        let Pair {
            client, mut peer, ..
        } = Pair::with(&broker, &options, welcome(version)).await;
        // A length of 2,000, and nothing behind it.
        peer.say(&[0x30, 0xd0, 0x0f]).await;
        soon(client.down().cancelled()).await;
        let last = peer.next().await;
        match version {
            Version::V4 => assert_eq!(last, Said::Nothing),
            Version::V5 => assert_eq!(last, Said::Disconnect(0x95)),
        }
    }
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
async fn acknowledgements_in_any_order_settle_and_hold_nothing_up() {
    for version in BOTH {
        let broker = Broker::bind().await;
        let mut options = broker.options(version);
        options.limits.in_flight = 4;
        let Pair {
            client, mut peer, ..
        } = Pair::with(&broker, &options, welcome(version)).await;
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
async fn a_broker_of_version_5_that_leaves_says_why() {
    for (bytes, code) in [
        (&[0xe0, 0][..], 0),
        (&[0xe0, 1, 0x8e], 0x8e),
        (&[0xe0, 2, 0x8b, 0], 0x8b),
        (b"\xe0\x07\x89\x05\x1f\x00\x02hi", 0x89),
    ] {
        let Pair {
            client, mut peer, ..
        } = Pair::connect(Version::V5).await;
        peer.say(bytes).await;
        soon(client.down().cancelled()).await;
        let reason = client.reason().expect("it is down");
        assert!(
            matches!(*reason, MqttError::Ended { code: told, .. } if told == code),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_message_exactly_once_is_refused_with_the_reason() {
    for version in BOTH {
        let Pair {
            client,
            mut peer,
            kept,
            ..
        } = Pair::connect(version).await;
        peer.say(&[0x34, 6, 0, 1, b't', 0, 1, 0]).await;
        soon(client.down().cancelled()).await;
        let last = peer.next().await;
        match version {
            Version::V4 => assert_eq!(last, Said::Nothing),
            Version::V5 => assert_eq!(last, Said::Disconnect(0x9b)),
        }
        assert!(kept.take().is_empty());
    }
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
async fn a_broker_may_assign_the_identifier_and_the_keep_alive() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V5);
    options.keep_alive = Duration::ZERO;
    // "id" is assigned, and a keep-alive of one second.
    let answer = b"\x20\x0b\x00\x00\x08\x12\x00\x02id\x13\x00\x01";
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, answer).await;
    assert_eq!(client.client_id(), "id");
    assert_eq!(peer.next().await, Said::Ping);
}

#[tokio::test]
async fn a_frozen_broker_is_noticed() {
    let broker = Broker::bind().await;
    let mut options = brief(broker.options(Version::V4));
    options.keep_alive = Duration::from_secs(1);
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, WELCOME_4).await;
    assert_eq!(peer.next().await, Said::Ping);
    soon(client.down().cancelled()).await;
    let reason = client.reason().expect("it is down");
    assert!(matches!(*reason, MqttError::Unanswered("a ping")));
    assert_eq!(peer.next().await, Said::Nothing);
}

#[tokio::test]
async fn a_broker_that_answers_pings_is_kept() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V4);
    options.keep_alive = Duration::from_millis(40);
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, WELCOME_4).await;
    for _ in 0..3 {
        assert_eq!(peer.next().await, Said::Ping);
        peer.say(&[0xd0, 0]).await;
    }
    assert!(!client.down().is_cancelled());
}

#[tokio::test]
async fn a_broker_that_never_reads_is_given_up() {
    let broker = Broker::bind().await;
    let options = brief(broker.options(Version::V4));
    let Pair { client, peer, .. } = Pair::with(&broker, &options, WELCOME_4).await;
    let large = |number| {
        let mut message = message(number);
        message.payload = vec![b'x'; 500_000].into();
        message
    };
    let told = soon(join_all(
        (0..60).map(|number| client.publish(large(number))),
    ))
    .await;
    assert!(told.iter().all(Result::is_err));
    soon(client.down().cancelled()).await;
    drop(peer);
}

#[tokio::test]
async fn a_cancelled_message_keeps_its_identifier_and_one_that_waits_is_not_sent() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V4);
    options.limits.in_flight = 1;
    let Pair {
        client, mut peer, ..
    } = Pair::with(&broker, &options, WELCOME_4).await;
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
async fn messages_are_acknowledged_when_their_receiver_says_so_in_the_order_of_arrival() {
    for version in BOTH {
        let Pair {
            client,
            mut peer,
            kept,
            ..
        } = Pair::connect(version).await;
        for id in 11..=14 {
            peer.publish(id, "hello", id == 14).await;
        }
        let mut incoming = kept.wait_for(4).await.into_iter().map(|one| one.receipt);
        let mut next = || incoming.next().expect("four have come");
        let (first, second, third, fourth) = (next(), next(), next(), next());
        third.acknowledge();
        fourth.acknowledge();
        // Nothing is said of these: a message of ours comes first.
        let (told, text) = tokio::join!(soon(client.publish(message(7))), peer.take());
        told.expect("it is acknowledged");
        assert_eq!(text, "7");
        drop(second);
        first.acknowledge();
        for id in [11, 13, 14] {
            assert_eq!(peer.next().await, Said::PubAck(id));
        }
    }
}

#[tokio::test]
async fn a_second_try_of_a_message_that_is_here_is_not_a_second_message() {
    let Pair {
        mut peer,
        kept,
        client,
        ..
    } = Pair::connect(Version::V4).await;
    peer.publish(5, "hello", false).await;
    peer.publish(5, "hello", true).await;
    peer.publish(6, "there", false).await;
    let incoming = kept.wait_for(2).await;
    assert_eq!(&incoming[1].payload[..], b"there");
    for one in incoming {
        one.receipt.acknowledge();
    }
    assert_eq!(peer.next().await, Said::PubAck(5));
    assert_eq!(peer.next().await, Said::PubAck(6));
    drop(client);
}

#[tokio::test]
async fn a_broker_that_sends_more_than_it_may_is_left() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V5);
    options.limits.receive = 3;
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with(&broker, &options, WELCOME_5).await;
    for id in 1..=4 {
        peer.publish(id, "hello", false).await;
    }
    soon(client.down().cancelled()).await;
    assert_eq!(peer.next().await, Said::Disconnect(0x93));
    assert_eq!(kept.take().len(), 3);
}

#[tokio::test]
async fn a_flood_waits_at_the_side_of_a_broker_that_cannot_be_told() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V4);
    options.limits.receive = 3;
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with(&broker, &options, WELCOME_4).await;
    let mut publishing = Box::pin(client.publish(message(7)));
    assert!(futures_util::poll!(&mut publishing).is_pending());
    let (open, _) = peer.next_publish().await;
    for id in 1..=10 {
        peer.publish(id, "hello", false).await;
    }
    peer.puback(open, 0).await;
    let mut held = kept.wait_for(3).await;
    // However long it takes, no more than three are here.
    for id in 1..=10 {
        assert_eq!(held.len(), usize::from(3.min(11 - id)));
        held.remove(0).receipt.acknowledge();
        assert_eq!(peer.next().await, Said::PubAck(id));
        if id <= 7 {
            held.append(&mut kept.wait_for(1).await);
        }
    }
    soon(publishing).await.expect("it is heard in the end");
}

#[tokio::test]
async fn a_window_full_of_messages_that_were_let_go_ends_the_connection() {
    let broker = Broker::bind().await;
    let mut options = broker.options(Version::V4);
    options.limits.receive = 2;
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with(&broker, &options, WELCOME_4).await;
    peer.publish(1, "hello", false).await;
    peer.publish(2, "there", false).await;
    drop(kept.wait_for(2).await);
    soon(client.down().cancelled()).await;
    let reason = client.reason().expect("it is down");
    assert!(matches!(*reason, MqttError::Forgotten), "{reason}");
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
async fn an_orderly_end_waits_for_what_is_open_and_says_goodbye() {
    let Pair {
        client,
        mut peer,
        tasks,
        ..
    } = Pair::connect(Version::V4).await;
    let mut open = Box::pin(client.publish(message(1)));
    assert!(futures_util::poll!(&mut open).is_pending());
    let mut ending = Box::pin(client.disconnect(super::SOON));
    assert!(futures_util::poll!(&mut ending).is_pending());
    let late = client.publish(message(2)).await;
    assert!(matches!(late, Err(MqttError::Closed)));
    let (told, (), said) = tokio::join!(soon(open), soon(ending), async {
        assert_eq!(peer.take().await, "1");
        (peer.next().await, peer.next().await)
    });
    told.expect("it was acknowledged before the end");
    assert_eq!(said, (Said::Disconnect(0), Said::Nothing));
    let reason = client.reason().expect("it is down");
    assert!(matches!(*reason, MqttError::Closed));
    tasks.close();
    soon(tasks.wait()).await;
}

#[tokio::test]
async fn an_end_does_not_wait_beyond_its_grace() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V4).await;
    let open = client.publish(message(1));
    let (told, (), said) = tokio::join!(soon(open), soon(client.disconnect(BRIEF)), async {
        peer.next_publish().await;
        peer.next().await
    });
    assert!(matches!(told, Err(MqttError::Down)));
    assert_eq!(said, Said::Disconnect(0));
}

#[tokio::test]
async fn an_aborted_connection_ends_without_a_word() {
    let Pair {
        client,
        mut peer,
        tasks,
        ..
    } = Pair::connect(Version::V5).await;
    client.abort();
    assert_eq!(peer.next().await, Said::Nothing);
    soon(client.down().cancelled()).await;
    tasks.close();
    soon(tasks.wait()).await;
}

#[tokio::test]
async fn a_connection_that_nobody_holds_ends() {
    let Pair {
        client,
        mut peer,
        tasks,
        ..
    } = Pair::connect(Version::V4).await;
    let other = client.clone();
    drop(client);
    let (told, text) = tokio::join!(soon(other.publish(message(1))), peer.take());
    told.expect("it is held");
    assert_eq!(text, "1");
    drop(other);
    assert_eq!(peer.next().await, Said::Nothing);
    tasks.close();
    soon(tasks.wait()).await;
}
