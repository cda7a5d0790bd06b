//! What a hub leaves unanswered, and when its session or connection is to be given up for it.

use fe2o3_amqp_types::performatives::Performative;

use super::Task;
use super::hub::{APART, Hub, begin_answer, detach};
use crate::client::handle::Session;

#[test]
fn a_session_whose_handles_all_wait_for_a_detach_is_worn_out_until_the_hub_answers_one() {
    let hub = Hub::new();
    let session = hub.session(10);
    // As many handles as the hub allows.
    let mut senders: Vec<_> = (0..=1000).map(|n| hub.sender(&session, n, 1)).collect();
    assert!(!session.is_worn_out(), "it has all the links that it can");
    senders.truncate(1000);
    assert!(session.is_worn_out());
    hub.say(APART, &detach(1000)).unwrap();
    assert!(!session.is_worn_out());
}

#[test]
fn a_connection_is_worn_out_by_begins_given_up_unanswered_until_the_hub_answers_one() {
    let hub = Hub::new();
    let is_worn_out = || hub.shared.with(|state| state.is_worn_out());
    let held = Task::start(Session::begin(hub.shared.clone())).map(drop);
    for _ in 0..64 {
        assert!(!is_worn_out());
        drop(Task::start(Session::begin(hub.shared.clone())).map(drop));
    }
    assert!(is_worn_out());
    let begun = hub.written().into_iter();
    let (last, ..) = begun
        .filter(|(_, written, _)| matches!(written, Performative::Begin(_)))
        .last()
        .unwrap();
    hub.say(last + APART, &begin_answer(last, 10)).unwrap();
    assert!(!is_worn_out());
    assert!(held.is_err(), "somebody waits for this one");
}
