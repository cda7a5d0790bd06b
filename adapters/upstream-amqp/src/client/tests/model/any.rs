//! Acts in any order, each as likely as it is interesting.

use proptest::prelude::*;

use super::Run;
use super::acts::{Act, Strange};

/// How a run begins and ends, with a hub that may be strange.
pub(super) fn run(is_strange: bool) -> impl Strategy<Value = Run> {
    let room = prop_oneof![Just(1_usize), Just(600), Just(1 << 20)];
    let windows = proptest::collection::vec(few(), 1..=2);
    (room, windows, 0..6_usize, any::<bool>()).prop_map(move |(room, windows, links, is_cut)| Run {
        room,
        windows,
        links,
        is_cut,
        is_strange,
    })
}

/// What a hub does that keeps the rules, and its client.
pub(super) fn plausible() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        50 => client(),
        50 => hub(),
        1 => last(),
    ];
    proptest::collection::vec(act, 0..300)
}

/// What any hub does, and its client.
pub(super) fn hostile() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        50 => client(),
        50 => hub(),
        8 => strange(),
        1 => last(),
    ];
    proptest::collection::vec(act, 0..200)
}

/// Credits and windows, of which small ones are the interesting ones.
fn few() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..4_u32, 2 => 4..40_u32, 1 => (0..3_u32).prop_map(|less| u32::MAX - less)]
}

fn size() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0), 2 => 500..2500_u16]
}

fn near_the_wrap() -> impl Strategy<Value = u32> {
    (0..24_u32).prop_map(|number| number.wrapping_sub(12))
}

fn client() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => Just(Act::Begin),
        4 => any::<u8>().prop_map(Act::AttachSender),
        2 => (any::<u8>(), 0..5_u32).prop_map(|(session, credit)| Act::AttachReceiver(session, credit)),
        16 => (any::<u8>(), size()).prop_map(|(link, size)| Act::Send(link, size)),
        2 => (any::<u8>(), size()).prop_map(|(link, size)| Act::SendSettled(link, size)),
        4 => any::<u8>().prop_map(Act::Receive),
        2 => any::<u8>().prop_map(Act::Hold),
        2 => any::<u8>().prop_map(Act::Done),
        1 => any::<u8>().prop_map(Act::Stop),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(which, verdict)| Act::Settle(which, verdict)),
        1 => any::<u8>().prop_map(Act::WatchSession),
        1 => any::<u8>().prop_map(Act::CloseLink),
        2 => any::<u8>().prop_map(Act::DropLink),
        1 => any::<u8>().prop_map(Act::DropSession),
        3 => any::<u8>().prop_map(Act::Cancel),
        2 => any::<u8>().prop_map(Act::Poll),
        12 => Just(Act::Run),
        4 => Just(Act::Write),
    ]
}

fn hub() -> impl Strategy<Value = Act> {
    prop_oneof![
        16 => (0..6_u8).prop_map(Act::Hear),
        6 => few().prop_map(Act::Serve),
        5 => (any::<u8>(), any::<u8>(), few())
            .prop_map(|(which, channel, window)| Act::AnswerBegin { which, channel, window }),
        6 => (any::<u8>(), any::<u8>(), proptest::bool::weighted(0.15))
            .prop_map(|(which, handle, refuse)| Act::AnswerAttach { which, handle, refuse }),
        4 => any::<u8>().prop_map(Act::AnswerDetach),
        2 => any::<u8>().prop_map(Act::AnswerEnd),
        2 => any::<u8>().prop_map(Act::AnswerEcho),
        6 => (any::<u8>(), few(), any::<bool>())
            .prop_map(|(session, window, echo)| Act::Window { session, window, echo }),
        8 => (any::<u8>(), few(), 0..3_u8, proptest::bool::weighted(0.1), any::<bool>())
            .prop_map(|(link, credit, lag, drain, echo)| Act::Credit { link, credit, lag, drain, echo }),
        4 => (any::<u8>(), 1..4_u8, any::<bool>(), proptest::bool::weighted(0.2))
            .prop_map(|(link, frames, settled, abort)| Act::Message { link, frames, settled, abort }),
        8 => (any::<u8>(), any::<u8>(), 0..4_u8, any::<u8>(), any::<bool>())
            .prop_map(|(session, which, span, verdict, settled)| {
                Act::Judge { session, which, span, verdict, settled }
            }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(link, error)| Act::Detach { link, error }),
        1 => any::<u8>().prop_map(Act::End),
    ]
}

fn last() -> impl Strategy<Value = Act> {
    prop_oneof![Just(Act::Close), Just(Act::HubClose)]
}

fn strange() -> impl Strategy<Value = Act> {
    let strange = prop_oneof![
        (any::<u8>(), any::<u8>()).prop_map(|(one, other)| Strange::BeginTwice(one, other)),
        (any::<u8>(), any::<u8>(), any::<bool>(), any::<bool>()).prop_map(
            |(link, handle, known, own)| Strange::Attach {
                link,
                handle,
                known,
                own
            }
        ),
        (
            any::<u8>(),
            any::<u8>(),
            (near_the_wrap(), near_the_wrap(), any::<u32>()),
            any::<bool>()
        )
            .prop_map(|(session, handle, (seen, count, given), known)| {
                Strange::Flow {
                    session,
                    handle,
                    numbers: [seen, count, given],
                    known,
                }
            }),
        (
            any::<u8>(),
            any::<u8>(),
            proptest::option::of(near_the_wrap()),
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(|(session, handle, id, more, aborted)| {
                Strange::Transfer {
                    session,
                    handle,
                    id,
                    more,
                    aborted,
                }
            }),
        (
            any::<u8>(),
            near_the_wrap(),
            prop_oneof![0..30_u32, any::<u32>()]
        )
            .prop_map(|(session, first, span)| Strange::Judge {
                session,
                first,
                span
            }),
        (any::<u8>(), any::<u8>()).prop_map(|(session, handle)| Strange::Detach(session, handle)),
        any::<u8>().prop_map(Strange::End),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Strange::Bytes),
    ];
    strange.prop_map(Act::Strange)
}
