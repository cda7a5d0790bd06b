//! What `rumqttc`'s event loop does and this client must not, one test each; the codec's own traps are
//! beside the codec.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use futures_util::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::peer::{Pair, Said, WELCOME_4};
use super::{Kept, local, message, soon};
use crate::client::{Client, Publish, Version};
use crate::error::MqttError;

#[tokio::test]
async fn a_message_is_not_settled_before_its_acknowledgement() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V4).await;
    let mut publishing = Box::pin(client.publish(message(1)));
    assert!(futures_util::poll!(&mut publishing).is_pending());
    let (id, _) = peer.next_publish().await;
    // The broker has it, and has said other things since.
    peer.say(&[0xd0, 0]).await;
    peer.publish(9, "hello", false).await;
    tokio::task::yield_now().await;
    assert!(futures_util::poll!(&mut publishing).is_pending());
    assert_eq!(client.in_flight(), 1);
    peer.puback(id, 0).await;
    soon(publishing).await.expect("it is acknowledged");
}

#[tokio::test]
async fn a_lost_connection_drops_no_message_in_silence() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V4).await;
    let publishing = join_all((0..20).map(|number| client.publish(message(number))));
    let cutting = async {
        peer.take().await;
        peer.next_publish().await;
        drop(peer);
    };
    let (told, ()) = tokio::join!(soon(publishing), cutting);
    assert!(told[0].is_ok() || matches!(told[0], Err(MqttError::Down)));
    let down = |told: &Result<(), MqttError>| matches!(told, Err(MqttError::Down));
    assert!(told[1..].iter().all(down), "each is told");
}

#[tokio::test]
async fn a_closed_port_costs_one_try_a_call() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = closed.local_addr().expect("its address").port();
    drop(closed);
    let tasks = TaskTracker::new();
    let options = local(port, Version::V4);
    let told = soon(Client::connect(&options, Arc::<Kept>::default(), &tasks)).await;
    assert!(matches!(told, Err(MqttError::Connect(_))));
    assert!(tasks.is_empty(), "nothing goes on trying");
}

#[tokio::test]
async fn what_comes_is_not_acknowledged_before_its_receiver_says_so() {
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::connect(Version::V4).await;
    peer.publish(7, "hello", false).await;
    let incoming = kept.wait_for(1).await.remove(0);
    let (told, text) = tokio::join!(soon(client.publish(message(1))), peer.take());
    told.expect("it is acknowledged");
    assert_eq!(text, "1", "a message of ours came first");
    incoming.receipt.acknowledge();
    assert_eq!(peer.next().await, Said::PubAck(7));
}

#[tokio::test]
async fn packets_above_ten_kibibytes_pass_both_ways() {
    let Pair {
        client,
        mut peer,
        kept,
        ..
    } = Pair::connect(Version::V4).await;
    let payload = vec![b'x'; 300_000];
    let large = Publish {
        payload: payload.clone().into(),
        ..message(1)
    };
    let (told, text) = tokio::join!(soon(client.publish(large)), peer.take());
    told.expect("it is acknowledged");
    assert_eq!(text.len(), payload.len());
    // A length of 300,003 in three bytes.
    peer.say(&[0x30, 0xe3, 0xa7, 0x12, 0, 1, b't']).await;
    peer.say(&payload).await;
    assert_eq!(kept.wait_for(1).await[0].payload.len(), payload.len());
}

#[tokio::test]
async fn an_acknowledgement_out_of_turn_collides_with_nothing() {
    let Pair {
        client, mut peer, ..
    } = Pair::with_options(Version::V4, |options| options.limits.in_flight = 2).await;
    let publishing = join_all((0..4).map(|number| client.publish(message(number))));
    let acknowledging = async {
        let (first, _) = peer.next_publish().await;
        let (second, _) = peer.next_publish().await;
        peer.puback(second, 0).await;
        // Sent before the first is acknowledged, under an identifier of its own.
        let (third, _) = peer.next_publish().await;
        assert_ne!(third, first);
        peer.puback(third, 0).await;
        let (fourth, _) = peer.next_publish().await;
        assert_ne!(fourth, first);
        peer.puback(fourth, 0).await;
        peer.puback(first, 0).await;
    };
    let (told, ()) = tokio::join!(soon(publishing), acknowledging);
    assert!(told.iter().all(Result::is_ok));
}

#[tokio::test]
async fn an_acknowledgement_that_comes_twice_settles_nothing_else() {
    let Pair {
        client, mut peer, ..
    } = Pair::with_options(Version::V4, |options| options.limits.in_flight = 1).await;
    let (told, first) = tokio::join!(soon(client.publish(message(1))), async {
        let (id, _) = peer.next_publish().await;
        peer.puback(id, 0).await;
        id
    });
    told.expect("it is acknowledged");
    let mut publishing = Box::pin(client.publish(message(2)));
    assert!(futures_util::poll!(&mut publishing).is_pending());
    let (second, _) = peer.next_publish().await;
    peer.puback(first, 0).await;
    peer.publish(9, "hello", false).await;
    tokio::task::yield_now().await;
    assert!(futures_util::poll!(&mut publishing).is_pending());
    peer.puback(second, 0).await;
    soon(publishing).await.expect("it is acknowledged");
}

#[tokio::test]
async fn a_topic_that_mqtt_cannot_carry_never_leaves() {
    let Pair {
        client, mut peer, ..
    } = Pair::connect(Version::V5).await;
    for topic in ["", "a/+/b", "a/#", "a\0b", &"a".repeat(65_536)] {
        let told = client
            .publish(Publish {
                topic: topic.to_owned(),
                ..message(1)
            })
            .await;
        assert!(matches!(told, Err(MqttError::Unspeakable(_))), "{topic:.9}");
    }
    let (told, text) = tokio::join!(soon(client.publish(message(2))), peer.take());
    told.expect("the connection is unharmed");
    assert_eq!(text, "2");
}

/// Counts what would be system calls.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn packets_that_gather_leave_in_one_write() {
    const MESSAGES: usize = 500;
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        stream: ours,
        writes: writes.clone(),
    };
    theirs.write_all(WELCOME_4).await.expect("it is taken");
    let options = local(1883, Version::V4);
    let tasks = TaskTracker::new();
    let opening = Client::open(Box::new(counted), &options, Arc::<Kept>::default(), &tasks);
    let client = soon(opening).await.expect("the broker lets it in");
    let before = writes.load(Relaxed);
    let publishing = join_all((0..MESSAGES).map(|number| client.publish(message(number))));
    let acknowledging = async {
        let mut bytes = Vec::new();
        // CONNECT, and each message: a header of 9 bytes and its number.
        let numbers: usize = (0..MESSAGES).map(|number| number.to_string().len()).sum();
        let expected = 22 + MESSAGES * 9 + numbers;
        while bytes.len() < expected {
            theirs.read_buf(&mut bytes).await.expect("it writes");
        }
        for id in 1..=MESSAGES as u16 {
            let [high, low] = id.to_be_bytes();
            theirs
                .write_all(&[0x40, 2, high, low])
                .await
                .expect("it reads");
        }
    };
    let (told, ()) = tokio::join!(soon(publishing), soon(acknowledging));
    assert!(told.iter().all(Result::is_ok));
    assert_eq!(writes.load(Relaxed) - before, 1);
}
