//! The client played with by a fuzzer: as its model's tests do, and by bytes alone.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Fields;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::driver::{Connection, Options};
use super::error::ClientError;
use super::handle::{Receiver, Sender, Shared};
use super::link::LinkSpec;
use super::session::Verdict;
use super::tests::Task;
use super::tests::hub::Hub;
use super::tests::model::{Act, Run};

/// Acts of a run, at most.
const MAX_ACTS: usize = 300;

/// Has the holders of a client's sessions and links, and its hub, act in the order that the input
/// says, then ends it all.
///
/// # Panics
/// Panics if a message has no end or another one's, a rule of AMQP is broken, or anything is left.
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

/// Feeds a client that always sends and receives with bytes, in pieces of `piece`; returns the bytes
/// that it says to that. Bytes that begin with a protocol header begin with the greeting.
///
/// # Panics
/// Panics if anybody waits when the connection is over.
#[must_use]
pub fn feed_client(input: &[u8], piece: usize) -> usize {
    if input.starts_with(b"AMQP") {
        return greet_client(input, piece);
    }
    let hub = Hub::new();
    let session = hub.session(4);
    let sender = hub.sender(&session, 0, 2);
    let receiver = hub.receiver(&session, 1, 2);
    let tasks = [
        Task::start(keep_sending(sender)),
        Task::start(keep_receiving(receiver)),
    ];
    drop(hub.shared.with(|state| state.take_output(BytesMut::new())));
    feed(&hub.shared, tasks, input, piece)
}

/// Has a client greet a hub, and once it is let in begin a session and a link for each direction.
fn greet_client(input: &[u8], piece: usize) -> usize {
    let (mut near, far) = duplex(4096);
    let opening = Task::start(Connection::open(far, options())).map(drop);
    let mut opening = opening.expect_err("it has heard nothing");
    let (mut rest, mut said) = (input, BytesMut::new());
    // Byte by byte, so that nothing behind the greeting is taken for a part of it.
    let opened = loop {
        let opened = opening.step();
        while let Some(Ok(1..)) = near.read_buf(&mut said).now_or_never() {}
        match (opened, rest.split_first()) {
            (None, Some((byte, tail))) => {
                let written = near.write_all(&[*byte]).now_or_never();
                assert!(matches!(written, Some(Ok(()))), "it does not read");
                rest = tail;
            }
            (opened, _) => break opened,
        }
    };
    // A hub that falls silent is left by the clock, one that goes at once.
    drop(near);
    let opened = opened.or_else(|| opening.step());
    let Ok((connection, driver)) = opened.expect("nobody waits for a hub that is gone") else {
        return said.len();
    };
    let shared = connection.shared.clone();
    let talk = Task::start(async move {
        let session = connection.begin().await?;
        let sender = session.attach_sender(link("sender")).await?;
        let receiver = session.attach_receiver(link("receiver"), 2).await?;
        tokio::join!(keep_sending(sender), keep_receiving(receiver));
        Ok::<_, ClientError>(())
    });
    let said = said.len() + feed(&shared, [talk], rest, piece);
    drop(driver);
    said
}

fn options() -> Options {
    Options {
        container: "gateway".to_owned(),
        host: "hub".to_owned(),
        idle_timeout: Duration::from_secs(60),
        heartbeat: Duration::from_secs(20),
        buffer: 4096,
    }
}

fn link(name: &str) -> LinkSpec {
    LinkSpec {
        name: name.to_owned(),
        address: "node".to_owned(),
        settled: false,
        properties: Fields::new(),
    }
}

async fn keep_sending(mut sender: Sender) {
    while let Ok(delivery) = sender.send(Bytes::from_static(b"message"), 0).await {
        drop(delivery.await);
    }
}

async fn keep_receiving(mut receiver: Receiver) {
    while let Ok(message) = receiver.recv().await {
        // It fails with the link, as the next message does.
        drop(receiver.settle(message.id, Verdict::Accept));
    }
}

/// Has a connection read, and those on it go on as far as they can; then it is over.
fn feed<T, const N: usize>(
    shared: &Shared,
    tasks: [Result<T, Task<T>>; N],
    input: &[u8],
    piece: usize,
) -> usize {
    let mut waiting = Vec::from_iter(tasks.into_iter().filter_map(Result::err));
    let take_output = || {
        let output = shared.with(|state| state.take_output(BytesMut::new()));
        output.len()
    };
    let (mut buffer, mut said) = (BytesMut::new(), take_output());
    let mut ended = ClientError::Down;
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        let read = shared.with(|state| state.on_bytes(&mut buffer));
        waiting.retain_mut(|task| task.step().is_none());
        said += take_output();
        if let Err(error) = read {
            ended = error;
            break;
        }
    }
    shared.with(|state| state.fail(&ended));
    waiting.retain_mut(|task| task.step().is_none());
    assert!(waiting.is_empty(), "{} wait for ever", waiting.len());
    said
}
