//! The client fed with anything, for fuzz targets.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::codec::{Outgoing, Packet, ReadPackets};
use super::handle::{Inbox, Incoming, Receipt};
use super::ledger::{Bounds, Key, Kind, Outcome};
use super::options::{Publish, Version};
use super::shared::Shared;
use super::state::{State, Terms};
use crate::error::MqttError;

const MAX_PACKET: usize = 64 * 1024;

/// Acknowledges what has a topic of even length, and lets the rest go.
#[derive(Debug)]
struct Half;

impl Inbox for Half {
    fn on_publish(&self, incoming: Incoming) {
        if incoming.topic.len().is_multiple_of(2) {
            incoming.receipt.acknowledge();
        }
    }
}

/// Feeds a connection that has three messages, a subscription and its end on their way with bytes, in
/// pieces of `piece`; returns the bytes that it says to that.
///
/// # Panics
/// Panics if a packet is not settled once, or is settled without an answer to it.
#[must_use]
pub fn feed_client(input: &[u8], piece: usize, is_version_5: bool) -> usize {
    let version = match is_version_5 {
        true => Version::V5,
        false => Version::V4,
    };
    let shared = connected(version, !piece.is_multiple_of(2));
    let keys = submit(&shared, version);
    drop(shared.take_output(BytesMut::new()));
    let (mut buffer, mut said) = (BytesMut::new(), 0);
    let mut is_over = false;
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        is_over = shared.on_bytes(&mut buffer, &Half).is_err();
        said += shared.take_output(BytesMut::new()).len();
        if is_over {
            break;
        }
    }
    // What is not complete is all that is kept.
    assert!(is_over || buffer.len() <= MAX_PACKET);
    shared.conclude(MqttError::Down);
    for (kind, key) in keys {
        let told = shared.lock().poll(key, Waker::noop());
        match (kind, told) {
            (_, Poll::Ready(Outcome::Down))
            | (Kind::Publish, Poll::Ready(Outcome::Acknowledged(_)))
            | (Kind::Subscribe | Kind::Unsubscribe, Poll::Ready(Outcome::Answered(_))) => {}
            (kind, told) => panic!("{kind:?} came to {told:?}"),
        }
    }
    said
}

fn connected(version: Version, ordered_acks: bool) -> Arc<Shared> {
    let terms = Terms {
        version,
        bounds: Bounds {
            in_flight: 2,
            buffer: MAX_PACKET,
            queued: 10,
        },
        receive: 100,
        ordered_acks,
        max_incoming: MAX_PACKET,
        keep_alive: Duration::ZERO,
        answer_timeout: Duration::from_secs(30),
    };
    Arc::new(Shared::new(State::new(terms, Instant::now())))
}

/// A message that came at most once, without properties of version 5.
pub(crate) fn incoming(topic: &str, payload: Bytes, duplicate: bool) -> Incoming {
    Incoming {
        topic: topic.to_owned(),
        payload,
        retain: false,
        duplicate,
        properties: None,
        receipt: Receipt::new(&connected(Version::V4, false), None),
    }
}

fn submit(shared: &Shared, version: Version) -> Vec<(Kind, Key)> {
    let filters = ["a/#".to_owned()];
    let publish = |number: u8| {
        let publish = Publish {
            topic: "a/b".to_owned(),
            payload: vec![number].into(),
            ..Publish::default()
        };
        (Kind::Publish, Outgoing::publish(version, publish))
    };
    let packets = [
        publish(1),
        (Kind::Subscribe, Outgoing::subscribe(version, &filters)),
        publish(2),
        (Kind::Unsubscribe, Outgoing::unsubscribe(version, &filters)),
        // Waits for its turn.
        publish(3),
    ];
    let submitted = packets.into_iter().filter_map(|(kind, packet)| {
        let key = shared.with(|state| state.submit_one(kind, packet.ok()?, Instant::now()).ok())?;
        Some((kind, key))
    });
    let submitted: Vec<_> = submitted.collect();
    assert_eq!(submitted.len(), 5);
    submitted
}

/// Reads packets off bytes.
///
/// # Panics
/// Panics if they are others when the bytes come in pieces of `piece`, or one has more than came.
pub fn read_packets(input: &[u8], piece: usize, is_version_5: bool) {
    let version = match is_version_5 {
        true => Version::V5,
        false => Version::V4,
    };
    let whole = packets(input, input.len(), version);
    assert_eq!(packets(input, piece, version), whole);
}

/// All packets, then whether what follows is none.
fn packets(input: &[u8], piece: usize, version: Version) -> (Vec<Packet>, bool) {
    let (mut buffer, mut read, mut size) = (BytesMut::new(), Vec::new(), 0);
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        let before = buffer.len();
        let mut packets = ReadPackets::new(&mut buffer, version, MAX_PACKET);
        let ended = loop {
            match packets.next() {
                Ok(Some(packet)) => read.push(packet),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        drop(packets);
        size += before - buffer.len();
        if ended {
            return (read, true);
        }
    }
    // Each has two bytes at least.
    assert!(read.len() * 2 <= size);
    (read, false)
}
