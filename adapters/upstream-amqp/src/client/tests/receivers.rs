//! What receivers let the hub send.

use fe2o3_amqp_types::performatives::{Flow, Performative, Transfer};

use super::hub::{APART, Hub, link_flow, message};
use super::{Task, now};
use crate::client::session::Verdict;

/// The credits that the hub was told of.
fn credits(hub: &Hub) -> Vec<u32> {
    let flows = hub.written().into_iter();
    flows
        .filter_map(|(_, written, _)| match written {
            Performative::Flow(Flow { link_credit, .. }) => link_credit,
            _ => None,
        })
        .collect()
}

/// A message that came settled.
fn settled(handle: u32, delivery: u32) -> Transfer {
    Transfer {
        settled: Some(true),
        ..message(handle, delivery)
    }
}

#[test]
fn a_settled_message_that_is_held_keeps_its_credit_until_it_is_done() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut receiver = hub.receiver(&session, 0, 2);
    assert_eq!(credits(&hub), [2]);
    for delivery in 0..2 {
        hub.say(APART, &settled(0, delivery)).unwrap();
        assert!(now(receiver.recv_and_hold()).unwrap().settled);
    }
    assert!(credits(&hub).is_empty(), "the hub keeps what is beyond");
    receiver.done();
    assert_eq!(credits(&hub), [1]);
    hub.say(APART, &settled(0, 2)).unwrap();
    assert!(now(receiver.recv()).unwrap().settled);
    assert_eq!(credits(&hub), [1], "one that is not held gives it back");
}

#[test]
fn a_receiver_that_has_room_leaves_the_hub_some_credit() {
    let hub = Hub::new();
    let session = hub.session(20);
    let mut receiver = hub.receiver(&session, 0, 8);
    assert_eq!(credits(&hub), [8]);
    let mut come = |delivery| {
        hub.say(APART, &settled(0, delivery)).unwrap();
        now(receiver.recv_and_hold()).unwrap();
    };
    (0..8).for_each(&mut come);
    assert!(credits(&hub).is_empty(), "there is no room");
    for _ in 0..3 {
        receiver.done();
    }
    assert_eq!(credits(&hub), [1], "as soon as there is room for one");
    hub.say(APART, &settled(0, 8)).unwrap();
    assert_eq!(
        credits(&hub),
        [2],
        "and when that is used up, for the others"
    );
}

#[test]
fn a_receiver_that_is_stopped_takes_what_was_on_its_way_and_lets_nothing_more_come() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut receiver = hub.receiver(&session, 0, 5);
    hub.say(APART, &message(0, 0)).unwrap();
    let first = now(receiver.recv()).unwrap();
    hub.written();
    let mut stopping = Task::start(async move {
        let stopped = receiver.stop().await;
        (receiver, stopped)
    })
    .map(drop)
    .unwrap_err();
    assert_eq!(credits(&hub), [0]);
    // Sent before the hub heard of it.
    hub.say(APART, &message(0, 1)).unwrap();
    assert!(stopping.step().is_none());
    hub.say(APART, &link_flow(0, 2, 0)).unwrap();
    let (mut receiver, stopped) = stopping.step().expect("the hub has heard it");
    stopped.unwrap();
    let second = now(receiver.recv()).unwrap();
    for message in [first, second] {
        receiver.settle(message.id, Verdict::Release).unwrap();
    }
    assert!(credits(&hub).is_empty(), "it stays stopped");
}
