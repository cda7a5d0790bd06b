//! Rules of sessions and links, each by itself.

use bytes::Bytes;
use fe2o3_amqp_types::definitions::{AmqpError, Error as WireError, Role};
use fe2o3_amqp_types::messaging::{DeliveryState, Rejected};
use fe2o3_amqp_types::performatives::{Close, Disposition, End, Flow, Performative, Transfer};

use super::hub::{
    APART, Hub, accepted, attach_answer, begin_answer, detach, link_flow, message, spec,
    window_flow,
};
use super::{Task, now};
use crate::client::error::ClientError;
use crate::client::handle::{Sender, Session};
use crate::client::link::FIRST;
use crate::client::session::{Census, Outcome, SessionEvent, Verdict};

const SMALL: Bytes = Bytes::from_static(b"message");

/// A message of four frames, when the largest is of 512 bytes.
fn large() -> Bytes {
    Bytes::from(vec![b'x'; 1800])
}

fn small(sender: Sender) -> Task<Result<(), ClientError>> {
    let mut sender = sender;
    let sending = async move { sender.send(SMALL, 0).await?.await.map(drop) };
    Task::start(sending).unwrap_err()
}

fn transfers(hub: &Hub) -> Vec<Transfer> {
    let transfers = hub.written().into_iter().map(|(_, written, _)| written);
    transfers
        .filter_map(|written| match written {
            Performative::Transfer(transfer) => Some(transfer),
            _ => None,
        })
        .collect()
}

#[test]
fn the_end_of_a_session_is_told_as_it_is_and_only_loses_what_was_on_it() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut sending = small(hub.sender(&session, 0, 10));
    let error = WireError::new(AmqpError::IllegalState, "not here".to_owned(), None);
    hub.say(APART, &End { error: Some(error) }).unwrap();
    assert_eq!(sending.step(), Some(Err(ClientError::Down)));
    let late = now(session.attach_sender(spec("late"))).map(drop);
    assert_eq!(late, Err(ClientError::Down));
    let why = ClientError::Refused {
        condition: "amqp:illegal-state".to_owned(),
        description: "not here".to_owned(),
    };
    assert_eq!(now(session.event()), SessionEvent::Ended(why));
}

#[test]
fn a_sender_that_gave_up_does_not_keep_the_window_from_the_next() {
    let hub = Hub::new();
    let session = hub.session(10);
    let (first, second) = (hub.sender(&session, 0, 10), hub.sender(&session, 1, 10));
    hub.say(APART, &window_flow(FIRST, 0)).unwrap();
    let mut first = small(first);
    assert!(first.poll().is_none(), "polled without a reason");
    let mut second = small(second);
    drop(first);
    hub.written();
    hub.say(APART, &window_flow(FIRST, 1)).unwrap();
    assert!(second.step().is_none());
    assert_eq!(transfers(&hub).len(), 1);
}

#[test]
fn polls_without_a_reason_leave_nothing_behind() {
    for (room, window) in [(64 * 1024, 0), (0, 10)] {
        let hub = Hub::with(room, 512, 10);
        let session = hub.session(10);
        let sender = hub.sender(&session, 0, 10);
        hub.say(APART, &window_flow(FIRST, window)).unwrap();
        let mut sending = small(sender);
        for _ in 0..100 {
            assert!(sending.poll().is_none());
        }
        assert!(hub.census().waiting <= 1);
    }
}

#[test]
fn all_the_window_and_all_the_credit_there_is_are_not_taken_for_none() {
    let hub = Hub::new();
    let session = hub.session(u32::MAX);
    let mut sender = hub.sender(&session, 0, u32::MAX);
    let most = Flow {
        incoming_window: u32::MAX,
        ..link_flow(0, FIRST, u32::MAX)
    };
    hub.say(APART, &most).unwrap();
    assert_eq!(session.credit(sender.id()), u32::MAX);
    now(async { drop(sender.send(SMALL, 0).await.unwrap()) });
    hub.say(APART, &most).unwrap();
    assert_eq!(session.credit(sender.id()), u32::MAX - 1);
    now(async { drop(sender.send(SMALL, 0).await.unwrap()) });
}

#[test]
fn less_window_and_less_credit_than_are_used_up_are_none() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut sender = hub.sender(&session, 0, 10);
    now(async { drop(sender.send(SMALL, 0).await.unwrap()) });
    now(async { drop(sender.send(SMALL, 0).await.unwrap()) });
    hub.say(APART, &link_flow(0, FIRST, 1)).unwrap();
    assert_eq!(session.credit(sender.id()), 0);
    hub.say(APART, &link_flow(0, FIRST, 3)).unwrap();
    hub.say(APART, &window_flow(FIRST, 1)).unwrap();
    let mut sending = small(sender);
    assert_eq!(transfers(&hub).len(), 2);
    hub.say(APART, &window_flow(FIRST, 3)).unwrap();
    assert!(sending.step().is_none());
    assert_eq!(transfers(&hub).len(), 1);
}

#[test]
fn what_is_taken_back_waits_for_the_window_too() {
    let hub = Hub::with(64 * 1024, 512, 10);
    let session = hub.session(2);
    let mut sender = hub.sender(&session, 0, 10);
    hub.say(APART, &window_flow(FIRST, 2)).unwrap();
    {
        let mut sending = std::pin::pin!(sender.send(large(), 0));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(sending.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(transfers(&hub).len(), 2);
    let mut sending = small(sender);
    assert!(transfers(&hub).is_empty(), "the window is shut");
    hub.say(APART, &window_flow(FIRST.wrapping_add(2), 1))
        .unwrap();
    assert!(sending.step().is_none());
    let [taken_back] = &transfers(&hub)[..] else {
        panic!("not one frame")
    };
    assert!(taken_back.aborted);
    hub.say(APART, &window_flow(FIRST.wrapping_add(3), 1))
        .unwrap();
    assert!(sending.step().is_none());
    let [next] = &transfers(&hub)[..] else {
        panic!("not one frame")
    };
    assert_eq!(next.delivery_id, Some(FIRST.wrapping_add(1)));
    let next = accepted(FIRST.wrapping_add(1), None, true);
    hub.say(APART, &next).unwrap();
    assert_eq!(sending.step(), Some(Ok(())));
}

#[test]
fn a_verdict_on_a_message_that_is_not_all_sent_yet_is_not_lost() {
    let hub = Hub::with(64 * 1024, 512, 10);
    let session = hub.session(2);
    let mut sender = hub.sender(&session, 0, 10);
    hub.say(APART, &window_flow(FIRST, 2)).unwrap();
    let sending = async move { sender.send(large(), 0).await?.await };
    let mut sending = Task::start(sending).unwrap_err();
    let rejected = Disposition {
        state: Some(DeliveryState::Rejected(Rejected { error: None })),
        ..accepted(FIRST, None, true)
    };
    hub.say(APART, &rejected).unwrap();
    hub.say(APART, &window_flow(FIRST.wrapping_add(2), 10))
        .unwrap();
    assert_eq!(sending.step(), Some(Ok(Outcome::Rejected(None))));
}

#[test]
fn a_close_ends_with_its_session() {
    let hub = Hub::new();
    let session = hub.session(10);
    let (sender, receiver) = (hub.sender(&session, 0, 1), hub.receiver(&session, 1, 1));
    let mut sender = Task::start(sender.close()).unwrap_err();
    let mut receiver = Task::start(receiver.close()).unwrap_err();
    hub.say(APART, &End { error: None }).unwrap();
    assert!(sender.step().is_some());
    assert!(receiver.step().is_some());
}

#[test]
fn nothing_is_said_on_a_session_after_its_end() {
    let hub = Hub::new();
    let session = hub.session(10);
    let (mut sender, receiver) = (hub.sender(&session, 0, 10), hub.receiver(&session, 1, 10));
    now(async { drop(sender.send(SMALL, 0).await.unwrap()) });
    drop((sender, receiver, session));
    let said = hub.written();
    assert!(matches!(said.last(), Some((0, Performative::End(_), _))));
    let asks = Flow {
        echo: true,
        ..window_flow(FIRST, 10)
    };
    hub.say(APART, &asks).unwrap();
    hub.say(APART, &accepted(FIRST, None, false)).unwrap();
    for delivery in 0..4096 {
        hub.transfer(APART, &message(1, delivery), b"m").unwrap();
    }
    assert!(hub.written().is_empty());
    hub.say(APART, &End { error: None }).unwrap();
    assert!(hub.written().is_empty());
    assert!(hub.census() == Census::default());
}

#[test]
fn nothing_is_said_of_a_link_after_its_detach() {
    let hub = Hub::new();
    let session = hub.session(10);
    drop((hub.sender(&session, 0, 10), hub.receiver(&session, 1, 10)));
    hub.written();
    for handle in [0, 1] {
        let asks = Flow {
            echo: true,
            drain: true,
            ..link_flow(handle, FIRST, 10)
        };
        hub.say(APART, &asks).unwrap();
    }
    for (_, said, _) in hub.written() {
        let Performative::Flow(flow) = said else {
            panic!("{said:?}")
        };
        assert_eq!(flow.handle, None);
    }
}

#[test]
fn nothing_is_said_after_the_close() {
    let hub = Hub::new();
    let session = hub.session(10);
    let (mut sender, receiver) = (hub.sender(&session, 0, 10), hub.receiver(&session, 1, 10));
    hub.transfer(APART, &message(1, 0), b"m").unwrap();
    hub.shared.with(super::super::state::State::close);
    let said = hub.written();
    assert!(matches!(said.last(), Some((_, Performative::Close(_), _))));
    let mut sending = Task::start(async move { sender.send(SMALL, 0).await.map(drop) }).err();
    receiver.settle(0, Verdict::Accept).unwrap();
    drop((receiver, session));
    assert!(hub.written().is_empty());
    hub.say(0, &Close { error: None }).unwrap_err();
    let sending = sending.as_mut().map(|sending| sending.step());
    assert!(matches!(sending, None | Some(Some(Err(_)))));
    assert!(hub.written().is_empty());
}

#[test]
fn a_range_that_runs_backwards_accepts_nothing() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut sender = hub.sender(&session, 0, 10);
    let delivery = now(sender.send(SMALL, 0)).unwrap();
    let mut delivery = Task::start(delivery).unwrap_err();
    let backwards = accepted(FIRST.wrapping_add(7), Some(FIRST.wrapping_add(6)), true);
    let error = hub.say(APART, &backwards).unwrap_err();
    assert!(matches!(error, ClientError::Malformed(_)));
    assert_eq!(delivery.step(), Some(Err(ClientError::Down)));
}

#[test]
fn a_handle_that_is_in_use_is_not_given_to_another_link() {
    let hub = Hub::new();
    let session = hub.session(10);
    let _sender = hub.sender(&session, 0, 10);
    let attach = async move { session.attach_sender(spec("other")).await.map(drop) };
    let mut attach = Task::start(attach).unwrap_err();
    let Some((_, Performative::Attach(asked), _)) = hub.written().pop() else {
        panic!("no attach");
    };
    let mut answer = attach_answer(asked);
    answer.handle.0 -= 1;
    let error = hub.say(APART, &answer).unwrap_err();
    assert!(matches!(error, ClientError::Malformed(_)));
    assert_eq!(attach.step(), Some(Err(ClientError::Down)));
}

#[test]
fn a_channel_that_is_in_use_is_not_given_to_another_session() {
    let hub = Hub::new();
    let _session = hub.session(10);
    let mut begin = Task::start(Session::begin(hub.shared.clone()))
        .map(drop)
        .unwrap_err();
    hub.say(APART, &begin_answer(1, 10)).unwrap_err();
    assert!(matches!(begin.step(), Some(Err(ClientError::Malformed(_)))));
}

#[test]
fn a_link_of_the_hubs_own_is_not_taken_for_an_answer() {
    let hub = Hub::new();
    let session = hub.session(10);
    let attach = async move { session.attach_sender(spec("name")).await };
    let mut attach = Task::start(attach).map(drop).unwrap_err();
    let Some((_, Performative::Attach(asked), _)) = hub.written().pop() else {
        panic!("no attach");
    };
    let mut own = attach_answer(asked.clone());
    own.role = Role::Sender;
    hub.say(APART, &own).unwrap();
    assert!(attach.step().is_none());
    hub.say(APART, &attach_answer(asked)).unwrap();
    assert!(attach.step().expect("attached").is_ok());
}

#[test]
fn messages_that_the_hub_takes_back_do_not_use_up_the_credit() {
    let hub = Hub::new();
    let session = hub.session(10);
    let _receiver = hub.receiver(&session, 0, 1);
    hub.written();
    let begun = Transfer {
        more: true,
        ..message(0, 0)
    };
    hub.transfer(APART, &begun, b"m").unwrap();
    let taken_back = Transfer {
        aborted: true,
        ..message(0, 0)
    };
    hub.transfer(APART, &taken_back, b"").unwrap();
    let credit = |hub: &Hub| match hub.written().pop() {
        Some((_, Performative::Flow(flow), _)) => (flow.delivery_count, flow.link_credit),
        other => panic!("{other:?}"),
    };
    assert_eq!(credit(&hub), (Some(1), Some(1)));
    // One that is taken back with its only frame.
    let never = Transfer {
        aborted: true,
        ..message(0, 1)
    };
    hub.transfer(APART, &never, b"").unwrap();
    assert_eq!(credit(&hub), (Some(2), Some(1)));
}

#[test]
fn a_message_is_not_completed_by_frames_of_another() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut receiver = hub.receiver(&session, 0, 5);
    let begun = Transfer {
        more: true,
        ..message(0, 0)
    };
    hub.transfer(APART, &begun, b"one").unwrap();
    hub.transfer(APART, &message(0, 1), b"two").unwrap();
    assert!(now(receiver.recv()).is_err());
}

#[test]
fn what_waits_to_be_received_keeps_no_more_memory_than_it_has() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut receiver = hub.receiver(&session, 0, 5);
    let mut read = bytes::BytesMut::with_capacity(1 << 16);
    let mut frame = bytes::BytesMut::new();
    crate::client::frame::put(&mut frame, APART, &message(0, 0));
    read.extend_from_slice(&frame);
    read.extend_from_slice(b"m");
    let size = (read.len() as u32).to_be_bytes();
    read[..4].copy_from_slice(&size);
    let taken = hub.shared.with(|state| state.on_bytes(&mut read));
    taken.unwrap();
    let message = now(receiver.recv()).unwrap();
    assert_eq!(&message.payload[..], b"m");
    // Nobody else holds what was read: it can be used again.
    assert!(read.try_reclaim(1 << 15));
}

#[test]
fn a_drained_sender_says_so() {
    let hub = Hub::new();
    let session = hub.session(10);
    let sender = hub.sender(&session, 0, 5);
    let drain = Flow {
        drain: true,
        ..link_flow(0, FIRST, 5)
    };
    hub.say(APART, &drain).unwrap();
    let Some((_, Performative::Flow(flow), _)) = hub.written().pop() else {
        panic!("no flow");
    };
    assert_eq!(flow.delivery_count, Some(FIRST.wrapping_add(5)));
    assert_eq!((flow.link_credit, flow.drain), (Some(0), true));
    assert_eq!(session.credit(sender.id()), 0);
}

#[test]
fn what_is_sent_settled_leaves_nothing_behind() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut sender = hub.sender(&session, 0, 5);
    now(sender.send_settled(SMALL)).unwrap();
    assert_eq!(transfers(&hub)[0].settled, Some(true));
    assert_eq!(hub.census().pending, 0);
    let delivery = now(sender.send(SMALL, 0)).unwrap();
    assert_eq!(transfers(&hub)[0].settled, Some(false));
    assert!(Task::start(delivery).is_err(), "it waits for the hub");
}

#[test]
fn a_link_refused_resolves_with_the_reason_and_frees_its_handle() {
    let hub = Hub::new();
    let session = hub.session(10);
    let held = session.clone();
    let attach = async move { held.attach_sender(spec("refused")).await.map(drop) };
    let mut attach = Task::start(attach).unwrap_err();
    let Some((_, Performative::Attach(asked), _)) = hub.written().pop() else {
        panic!("no attach");
    };
    let mut answer = attach_answer(asked);
    answer.target = None;
    hub.say(APART, &answer).unwrap();
    assert!(attach.step().is_none(), "the detach says why");
    hub.say(APART, &detach(0)).unwrap();
    assert_eq!(attach.step(), Some(Err(ClientError::Detached)));
    let said = hub.written();
    assert!(matches!(&said[..], [(0, Performative::Detach(_), _)]));
    assert_eq!(hub.census().links, 0);
}
