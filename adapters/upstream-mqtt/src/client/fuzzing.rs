//! The client played with by a fuzzer: as its model's tests do, and by bytes alone.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::Instant;

use super::codec::{ConnAck, Packet, ReadPackets};
use super::driver;
use super::handle::{Incoming, Receipt};
use super::model::{Act, Run, Task, World, welcome};
use super::options::{Options, Version};
use super::shared::Shared;
use super::state::State;
use super::transport::Wire;

/// Acts of a run, at most.
const MAX_ACTS: usize = 300;
/// Fewer bytes than an input has, so that packets are too large.
const MAX_PACKET: usize = 1024;

/// Has a client's holders, its broker and time act in the order that the input says, then ends it all.
///
/// # Panics
/// Panics if a packet is not settled once and by its answer, something is said in vain or not when it
/// has to be, or anything is left.
pub fn play_client(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let Ok(run) = Run::arbitrary(&mut input) else {
        return;
    };
    let acts = std::iter::from_fn(|| match input.is_empty() {
        true => None,
        false => Act::arbitrary(&mut input).ok(),
    });
    run.play(acts.take(MAX_ACTS));
}

/// Feeds a connection that has three messages, a subscription and its end on their way with bytes, in
/// pieces of `piece`; returns the bytes that it says to that. Bytes that begin as CONNACK begin with
/// the greeting. The last byte of a piece says what becomes of the messages that have come.
///
/// # Panics
/// Panics if a packet is not settled once and by its answer, or more is kept than has to be.
#[must_use]
pub fn feed_client(input: &[u8], piece: usize, is_version_5: bool) -> usize {
    let mut options = Options::new("broker", 1883, "client");
    options.version = version(is_version_5);
    options.ordered_acks = !piece.is_multiple_of(2);
    options.keep_alive = Duration::ZERO;
    options.limits.in_flight = 2;
    options.limits.receive = 3;
    options.limits.max_packet = MAX_PACKET;
    let greeted = match input {
        [0x20, ..] => greet(input, piece, &options),
        _ => Some((welcome(), input.to_vec())),
    };
    let Some((answer, input)) = greeted else {
        return 0;
    };
    let mut world = World::new(&options, &answer, true);
    // The last waits for its turn.
    let (subscribe, unsubscribe) = (Act::Subscribe(0), Act::Unsubscribe(0));
    let asked = [
        Act::Publish(1),
        subscribe,
        Act::Publish(2),
        unsubscribe,
        Act::Publish(3),
    ];
    asked.into_iter().for_each(|act| world.act(act));
    world.write();
    let mut said = 0;
    for part in input.chunks(piece.max(1)) {
        said += hear(&mut world, part);
        let word = part.last().copied().unwrap_or(0);
        for _ in 0..word % 4 {
            world.act(match word & 4 {
                0 => Act::Acknowledge(word >> 3),
                _ => Act::Forget(word >> 3),
            });
        }
    }
    // What has no room until others have their verdict.
    while world.is_behind() {
        world.act(Act::Acknowledge(0));
        said += hear(&mut world, &[]);
    }
    // What is not complete is all that is kept.
    assert!(world.unread() <= MAX_PACKET);
    world.cut();
    said
}

/// Has a client read, and write what it has to say.
fn hear(world: &mut World, bytes: &[u8]) -> usize {
    world.say(bytes);
    world.act(Act::Run);
    world.act(Act::Hear(u8::MAX));
    world.act(Act::Run);
    world.write()
}

/// Has a client greet a broker: what it is answered, and what comes behind that.
fn greet(input: &[u8], piece: usize, options: &Options) -> Option<(ConnAck, Vec<u8>)> {
    let (mut near, far) = duplex(4096);
    let mut wire: Wire = Box::new(far);
    let own = options.clone();
    let mut greeting = Task::new(async move { driver::greet(&mut wire, &own).await });
    let (mut parts, mut heard) = (input.chunks(piece.max(1)), 0);
    let greeted = loop {
        let greeted = greeting.step();
        // CONNECT is of no interest here.
        while let Some(Ok(1..)) = near.read(&mut [0; 64]).now_or_never() {}
        match (greeted, parts.next()) {
            (None, Some(part)) => {
                let written = near.write_all(part).now_or_never();
                assert!(matches!(written, Some(Ok(()))), "it does not read");
                heard += part.len();
            }
            (greeted, _) => break greeted,
        }
    };
    // A broker that falls silent is left by the clock, one that goes at once.
    drop(near);
    let greeted = greeted.or_else(|| greeting.step());
    let (answer, buffer) = greeted
        .expect("nobody waits for a broker that is gone")
        .ok()?;
    Some((answer, [&buffer, &input[heard..]].concat()))
}

/// A message that came at most once, without properties of version 5.
pub(crate) fn incoming(topic: &str, payload: Bytes, duplicate: bool) -> Incoming {
    let terms = driver::terms(&Options::new("broker", 1883, "client"), &welcome());
    let shared = Arc::new(Shared::new(State::new(terms, Instant::now())));
    Incoming {
        topic: topic.to_owned(),
        payload,
        retain: false,
        duplicate,
        properties: None,
        is_cut: false,
        receipt: Receipt::new(&shared, None),
    }
}

fn version(is_5: bool) -> Version {
    match is_5 {
        true => Version::V5,
        false => Version::V4,
    }
}

/// Reads packets off bytes.
///
/// # Panics
/// Panics if they are others when the bytes come in pieces of `piece`, or one has more than came.
pub fn read_packets(input: &[u8], piece: usize, is_version_5: bool) {
    let version = version(is_version_5);
    let whole = packets(input, input.len(), version);
    assert_eq!(packets(input, piece, version), whole);
}

/// All packets, then whether what follows is none.
fn packets(input: &[u8], piece: usize, version: Version) -> (Vec<Packet>, bool) {
    let (mut buffer, mut read, mut size) = (BytesMut::new(), Vec::new(), 0);
    let mut cut = None;
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        let before = buffer.len();
        let packets = ReadPackets::new(&mut buffer, version, MAX_PACKET);
        let mut packets = packets.cutting(&mut cut);
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
