//! Brokers that refuse, answer wrongly, or change what was asked for.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::ErrorKind;
use tokio_util::task::TaskTracker;

use super::peer::{Broker, Pair, Said, refusal};
use super::{BOTH, Kept, soon};
use crate::client::{Client, Version};
use crate::error::MqttError;

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
