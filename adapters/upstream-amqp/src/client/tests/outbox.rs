//! What waits to be written: how much of it may be there, and who sees it.

use fe2o3_amqp_types::performatives::Transfer;

use super::hub::{APART, Hub, link_flow, message};
use super::now;
use crate::client::error::ClientError;
use crate::client::frame;
use crate::client::link::FIRST;

const MIB: usize = 1 << 20;

#[test]
fn what_waits_to_be_written_or_to_be_received_is_not_shown() {
    let hub = Hub::new();
    let session = hub.session(10);
    let mut sender = hub.sender(&session, 0, 10);
    let _receiver = hub.receiver(&session, 1, 5);
    drop(hub.written());
    let _sent = now(sender.send("a token", 0)).unwrap();
    hub.transfer(APART, &message(1, 0), b"a body").unwrap();
    let begun = Transfer {
        more: true,
        ..message(1, 1)
    };
    hub.transfer(APART, &begun, b"a part").unwrap();
    let shown = format!("{:?}", hub.shared);
    for secret in ["a token", "a body", "a part"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn a_hub_is_given_up_for_what_it_leaves_unread_beyond_what_may_gather() {
    let hub = Hub::with(16 * MIB, 65_536, 100);
    let session = hub.session(10_000);
    let mut sender = hub.sender(&session, 0, 100);
    for _ in 0..15 {
        drop(now(sender.send(vec![0; MIB], 0)).unwrap());
    }
    // It reads, only not within this moment.
    hub.say(APART, &link_flow(0, FIRST, 100)).unwrap();
    hub.shared.with(|state| {
        let more = frame::Transfer::Next { more: false };
        state.out.put_transfer(0, 0, more, &vec![0; 10 * MIB]);
    });
    let given_up = hub.say(APART, &link_flow(0, FIRST, 100));
    let why = ClientError::Malformed("the hub sends and does not read");
    assert_eq!(given_up, Err(why));
}
