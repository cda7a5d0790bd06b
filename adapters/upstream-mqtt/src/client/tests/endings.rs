//! Connections that end, of themselves, by silence or because somebody ends them.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::ErrorKind;

use super::peer::{Pair, Said};
use super::{BOTH, BRIEF, SOON, message, soon};
use crate::client::Version;
use crate::error::MqttError;

#[tokio::test]
async fn a_broker_that_never_acknowledges_is_given_up() {
    for version in BOTH {
        let Pair {
            client, mut peer, ..
        } = Pair::with_options(version, |options| options.limits.answer_timeout = BRIEF).await;
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
async fn a_frozen_broker_is_noticed() {
    let Pair {
        client, mut peer, ..
    } = Pair::with_options(Version::V4, |options| {
        options.limits.answer_timeout = BRIEF;
        options.keep_alive = Duration::from_secs(1)
    })
    .await;
    assert_eq!(peer.next().await, Said::Ping);
    soon(client.down().cancelled()).await;
    let reason = client.reason().expect("it is down");
    assert!(matches!(*reason, MqttError::Unanswered("a ping")));
    assert_eq!(peer.next().await, Said::Nothing);
}

#[tokio::test]
async fn a_broker_that_answers_pings_is_kept() {
    let Pair {
        client, mut peer, ..
    } = Pair::with_options(Version::V4, |options| {
        options.keep_alive = Duration::from_millis(40)
    })
    .await;
    for _ in 0..3 {
        assert_eq!(peer.next().await, Said::Ping);
        peer.say(&[0xd0, 0]).await;
    }
    assert!(!client.down().is_cancelled());
}

#[tokio::test]
async fn a_broker_that_never_reads_is_given_up() {
    let Pair { client, peer, .. } =
        Pair::with_options(Version::V4, |options| options.limits.answer_timeout = BRIEF).await;
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
async fn an_orderly_end_waits_for_what_is_open_and_says_goodbye() {
    let Pair {
        client,
        mut peer,
        tasks,
        ..
    } = Pair::connect(Version::V4).await;
    let mut open = Box::pin(client.publish(message(1)));
    assert!(futures_util::poll!(&mut open).is_pending());
    let mut ending = Box::pin(client.disconnect(SOON));
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
