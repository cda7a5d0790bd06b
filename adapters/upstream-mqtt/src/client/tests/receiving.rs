//! What brokers send: in order, twice, more than they may, and garbage.

use super::peer::{Pair, Said};
use super::{BOTH, message, soon};
use crate::client::Version;
use crate::error::MqttError;

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
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with_options(Version::V5, |options| options.limits.receive = 3).await;
    for id in 1..=4 {
        peer.publish(id, "hello", false).await;
    }
    soon(client.down().cancelled()).await;
    assert_eq!(peer.next().await, Said::Disconnect(0x93));
    assert_eq!(kept.take().len(), 3);
}

#[tokio::test]
async fn a_flood_waits_at_the_side_of_a_broker_that_cannot_be_told() {
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with_options(Version::V4, |options| options.limits.receive = 3).await;
    let mut publishing = Box::pin(client.publish(message(7)));
    assert!(futures_util::poll!(&mut publishing).is_pending());
    let (open, _) = peer.next_publish().await;
    for id in 1..=10 {
        peer.publish(id, "hello", false).await;
    }
    peer.puback(open, 0).await;
    // Twice as many as may wait, since our own message waits too.
    let mut held = kept.wait_for(6).await;
    // However long it takes, no more are here.
    for id in 1..=10 {
        assert_eq!(held.len(), usize::from(6.min(11 - id)));
        held.remove(0).receipt.acknowledge();
        assert_eq!(peer.next().await, Said::PubAck(id));
        if id <= 4 {
            held.append(&mut kept.wait_for(1).await);
        }
    }
    soon(publishing).await.expect("it is heard in the end");
}

#[tokio::test]
async fn a_window_full_of_messages_that_were_let_go_ends_the_connection() {
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with_options(Version::V4, |options| options.limits.receive = 2).await;
    peer.publish(1, "hello", false).await;
    peer.publish(2, "there", false).await;
    drop(kept.wait_for(2).await);
    soon(client.down().cancelled()).await;
    let reason = client.reason().expect("it is down");
    assert!(matches!(*reason, MqttError::Forgotten), "{reason}");
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
async fn a_packet_that_is_too_large_is_refused_before_it_has_come() {
    for version in BOTH {
        let Pair {
            client, mut peer, ..
        } = Pair::with_options(version, |options| options.limits.max_packet = 1000).await;
        // A length of 2,000, and nothing behind it; of a message it is no fault in version 3.1.1.
        let first = if version == Version::V4 { 0x90 } else { 0x30 };
        peer.say(&[first, 0xd0, 0x0f]).await;
        soon(client.down().cancelled()).await;
        let last = peer.next().await;
        match version {
            Version::V4 => assert_eq!(last, Said::Nothing),
            Version::V5 => assert_eq!(last, Said::Disconnect(0x95)),
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_comes_without_its_payload_and_is_acknowledged_in_its_turn() {
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::with_options(Version::V4, |options| options.limits.max_packet = 100).await;
    peer.publish(1, "before", false).await;
    // A length of 2,000.
    peer.say(&[0x32, 0xd0, 0x0f, 0, 1, b't', 0, 2]).await;
    for _ in 0..5 {
        peer.say(&[b'.'; 399]).await;
    }
    peer.publish(3, "behind", false).await;
    let came = kept.wait_for(3).await;
    let told: Vec<_> = came
        .iter()
        .map(|one| (&one.payload[..], one.is_cut))
        .collect();
    assert_eq!(
        told,
        [(&b"before"[..], false), (b"", true), (b"behind", false)]
    );
    for one in came.into_iter().rev() {
        one.receipt.acknowledge();
    }
    for id in 1..=3 {
        assert_eq!(peer.next().await, Said::PubAck(id));
    }
    drop(client);
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
