//! What a device has said before it stops to listen counts, however little before.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{attach_with, config, hub, upstream, with_key};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Disposition, Interest};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{C2d, C2dOutcome, HubSimulator};
use tokio::time::timeout;

/// Far less than the hub's lock, and than a method's time.
const PROMPT: Duration = Duration::from_secs(10);

async fn listen(
    upstream: &AmqpUpstream,
    hub: &HubSimulator,
    interest: Interest,
    callback: &RecordingCallback,
) {
    let identity = with_key(hub, "device").with_interest(interest);
    attach_with(upstream, &identity, callback).await;
}

async fn listener(hub: &HubSimulator) -> (Arc<AmqpUpstream>, RecordingCallback) {
    let (upstream, callback) = (upstream(config(hub)), RecordingCallback::new());
    listen(&upstream, hub, Interest::COMMANDS, &callback).await;
    hub.wait_messages("device").await;
    hub.wait_methods("device").await;
    callback.hold();
    (upstream, callback)
}

// One task at a time: nobody hears the device before it has stopped to listen.

#[tokio::test]
async fn a_message_is_settled_as_its_device_said_right_before_it_stopped_to_listen() {
    let hub = hub().await;
    let (upstream, callback) = listener(&hub).await;
    callback.settle_next([Disposition::Complete, Disposition::Reject]);
    let send = |text: &str| hub.send_c2d("device", C2d::new(text.to_owned()));
    let tickets = ["good", "bad"].map(|text| send(text).expect("queued"));
    callback.wait_for(|record| record.messages.len() == 2).await;
    callback.release();
    listen(&upstream, &hub, Interest::NONE, &callback).await;
    let expected = [C2dOutcome::Completed, C2dOutcome::Rejected];
    for (ticket, expected) in tickets.iter().zip(expected) {
        let outcome = timeout(PROMPT, ticket.outcome()).await;
        assert_eq!(outcome.expect("settled"), expected);
        assert_eq!(ticket.delivery_count(), 1);
    }
}

#[tokio::test]
async fn a_method_is_answered_as_its_device_said_right_before_it_stopped_to_listen() {
    let hub = hub().await;
    let (upstream, callback) = listener(&hub).await;
    let call = hub.call_method("device", "m", "1", PROMPT);
    let leave = async {
        callback.wait_for(|record| record.methods.len() == 1).await;
        callback.release();
        listen(&upstream, &hub, Interest::NONE, &callback).await;
    };
    let (answer, ()) = tokio::join!(call, leave);
    assert_eq!(answer.expect("answered").status, 200);
}
