//! Acts in any order, each as likely as it is interesting.

use proptest::prelude::*;
use proptest::sample::select;

use super::Run;
use super::acts::{Act, Strange};
use crate::client::options::Version;

/// How a run begins and ends, with a broker that may be strange.
pub(super) fn run(is_strange: bool) -> impl Strategy<Value = Run> {
    let keep_alive = || select(vec![None, Some(0), Some(10), Some(60)]);
    let terms = (
        select(vec![Version::V4, Version::V5]),
        any::<bool>(),
        [1..=5_u16, 1..=5],
        1..=4_u16,
        select(vec![1_usize, 25, 1000]),
        0..=8_usize,
    );
    let times = (
        [keep_alive(), keep_alive()],
        select(vec![5_u16, 30, 90]),
        any::<bool>(),
    );
    (terms, times).prop_map(move |(terms, (keep_alive, patience, is_cut))| {
        let (version, ordered_acks, in_flight, receive, buffer, queued) = terms;
        Run {
            version,
            ordered_acks,
            in_flight,
            receive,
            buffer,
            queued,
            keep_alive,
            patience,
            is_cut,
            is_strange,
        }
    })
}

/// What a broker does that keeps the rules, and its client.
pub(super) fn plausible() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![60 => client(), 40 => broker(), 1 => last()];
    proptest::collection::vec(act, 0..200)
}

/// What any broker does, and its client.
pub(super) fn hostile() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![60 => client(), 40 => broker(), 10 => strange(), 1 => last()];
    proptest::collection::vec(act, 0..200)
}

fn client() -> impl Strategy<Value = Act> {
    let n = any::<u8>;
    prop_oneof![
        8 => n().prop_map(Act::Publish),
        2 => n().prop_map(Act::PublishAll),
        1 => n().prop_map(Act::Subscribe),
        1 => n().prop_map(Act::Unsubscribe),
        2 => n().prop_map(Act::Cancel),
        5 => n().prop_map(Act::Acknowledge),
        1 => n().prop_map(Act::Forget),
        8 => Just(Act::Run),
        8 => Just(Act::Write),
        6 => Just(Act::Hear(u8::MAX)),
        4 => (1..20_u8).prop_map(Act::Hear),
        3 => (0..20_u8).prop_map(Act::Pass),
        1 => n().prop_map(Act::Pass),
    ]
}

fn broker() -> impl Strategy<Value = Act> {
    let n = any::<u8>;
    prop_oneof![
        8 => (n(), n()).prop_map(|(which, code)| Act::Answer(which, code)),
        6 => n().prop_map(Act::Deliver),
        1 => n().prop_map(Act::Tell),
        1 => n().prop_map(Act::Again),
        2 => Just(Act::Pong),
    ]
}

fn last() -> impl Strategy<Value = Act> {
    prop_oneof![3 => Just(Act::Close), 1 => any::<u8>().prop_map(Act::Goodbye)]
}

fn strange() -> impl Strategy<Value = Act> {
    let n = any::<u8>;
    let answer = (n(), n(), n()).prop_map(|(kind, id, code)| Strange::Answer { kind, id, code });
    let message = (n(), any::<bool>());
    let message = message.prop_map(|(id, duplicate)| Strange::Deliver { id, duplicate });
    let strange = prop_oneof![
        20 => answer,
        10 => message,
        1 => Just(Strange::ConnAck),
        1 => n().prop_map(Strange::Goodbye),
        1 => proptest::collection::vec(n(), 0..20).prop_map(Strange::Bytes),
    ];
    strange.prop_map(Act::Strange)
}
