//! What waits to be written: how much of it may be there, and who sees it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::{Kept, message};
use crate::client::codec::Outgoing;
use crate::client::ledger::{Bounds, Kind};
use crate::client::shared::Shared;
use crate::client::state::{State, Terms};
use crate::client::{Publish, Version};
use crate::error::MqttError;

const MIB: usize = 1 << 20;

/// A connection on which so many bytes may gather, and so many messages be on their way.
fn connected(buffer: usize, in_flight: usize) -> Arc<Shared> {
    let terms = Terms {
        version: Version::V4,
        bounds: Bounds {
            in_flight,
            buffer,
            queued: 100,
        },
        receive: 100,
        ordered_acks: true,
        max_incoming: MIB,
        keep_alive: Duration::ZERO,
        answer_timeout: Duration::from_secs(30),
    };
    Arc::new(Shared::new(State::new(terms, Instant::now())))
}

fn publish(shared: &Shared, payload: Vec<u8>) {
    let publish = Publish {
        payload: payload.into(),
        ..message(1)
    };
    let packet = Outgoing::publish(Version::V4, publish).expect("a good message");
    let submitted = shared.with(|state| state.submit_one(Kind::Publish, packet, Instant::now()));
    submitted.expect("there is room");
}

/// The broker says that it is there.
fn hear(shared: &Arc<Shared>) -> Result<bool, MqttError> {
    shared.on_bytes(&mut BytesMut::from(&[0xd0, 0][..]), &Kept::default())
}

#[test]
fn a_broker_is_given_up_for_what_it_leaves_unread_beyond_what_may_gather() {
    let shared = connected(16 * MIB, 100);
    for _ in 0..12 {
        publish(&shared, vec![0; MIB]);
    }
    // It reads, only not within this moment.
    hear(&shared).expect("it is well");
    shared.with(|state| state.out.extend_from_slice(&[0; 13 * MIB]));
    assert!(matches!(hear(&shared), Err(MqttError::Protocol(_))));
}

#[test]
fn what_waits_to_be_written_is_not_shown() {
    let shared = connected(MIB, 1);
    for secret in ["first secret", "second secret"] {
        publish(&shared, secret.into());
    }
    let shown = format!("{shared:?}");
    assert!(!shown.contains("secret"), "{shown}");
}
