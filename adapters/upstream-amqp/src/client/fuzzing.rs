//! The client played with by a fuzzer: as its model's tests do, and by bytes alone.

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};

use super::error::ClientError;
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
/// that it says to that.
///
/// # Panics
/// Panics if anybody waits when the connection is over.
#[must_use]
pub fn feed_client(input: &[u8], piece: usize) -> usize {
    let hub = Hub::new();
    let session = hub.session(4);
    let mut sender = hub.sender(&session, 0, 2);
    let mut receiver = hub.receiver(&session, 1, 2);
    let send = Task::start(async move {
        while let Ok(delivery) = sender.send(Bytes::from_static(b"message"), 0).await {
            drop(delivery.await);
        }
    });
    let receive = Task::start(async move {
        while let Ok(message) = receiver.recv().await {
            // It fails with the link, as the next message does.
            drop(receiver.settle(message.id, Verdict::Accept));
        }
    });
    let mut waiting = Vec::from_iter([send, receive].into_iter().filter_map(Result::err));
    let take_output = || {
        let output = hub.shared.with(|state| state.take_output(BytesMut::new()));
        output.len()
    };
    take_output();
    let (mut buffer, mut said) = (BytesMut::new(), 0);
    let mut ended = ClientError::Down;
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        let read = hub.shared.with(|state| state.on_bytes(&mut buffer));
        waiting.retain_mut(|task| task.step().is_none());
        said += take_output();
        if let Err(error) = read {
            ended = error;
            break;
        }
    }
    hub.shared.with(|state| state.fail(&ended));
    waiting.retain_mut(|task| task.step().is_none());
    assert!(waiting.is_empty(), "{} wait for ever", waiting.len());
    said
}
