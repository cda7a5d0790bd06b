//! What may happen: to the client, and by the hub. Each number picks among what there is just then.

use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Act {
    // The client's side.
    Begin,
    AttachSender(u8),
    AttachReceiver(u8, u32),
    /// On which link, and how large.
    Send(u8, u16),
    SendSettled(u8, u16),
    Receive(u8),
    /// Receives, and keeps the credit of what came settled until it is done.
    Hold(u8),
    Done(u8),
    Stop(u8),
    /// Which message of those received, and what of it.
    Settle(u8, u8),
    WatchSession(u8),
    CloseLink(u8),
    DropLink(u8),
    DropSession(u8),
    /// Drops a future that waits.
    Cancel(u8),
    /// Polls one that nobody woke.
    Poll(u8),
    /// Polls all that were woken.
    Run,
    Write,
    Close,
    // The hub's side.
    /// Has the client hear this many frames.
    Hear(u8),
    /// Answers all that is asked, begins with this window, and has the client hear and look.
    Serve(u32),
    AnswerBegin {
        which: u8,
        channel: u8,
        window: u32,
    },
    AnswerAttach {
        which: u8,
        handle: u8,
        refuse: bool,
    },
    AnswerDetach(u8),
    AnswerEnd(u8),
    AnswerEcho(u8),
    Window {
        session: u8,
        window: u32,
        echo: bool,
    },
    Credit {
        link: u8,
        credit: u32,
        lag: u8,
        drain: bool,
        echo: bool,
    },
    Message {
        link: u8,
        frames: u8,
        settled: bool,
        abort: bool,
    },
    Judge {
        session: u8,
        which: u8,
        span: u8,
        verdict: u8,
        settled: bool,
    },
    Detach {
        link: u8,
        error: bool,
    },
    End(u8),
    HubClose,
    // What no hub should do.
    Strange(Strange),
}

#[derive(Debug, Clone)]
pub(super) enum Strange {
    BeginTwice(u8, u8),
    Attach {
        link: u8,
        handle: u8,
        known: bool,
        own: bool,
    },
    Flow {
        session: u8,
        handle: u8,
        numbers: [u32; 3],
        known: bool,
    },
    Transfer {
        session: u8,
        handle: u8,
        id: Option<u32>,
        more: bool,
        aborted: bool,
    },
    Judge {
        session: u8,
        first: u32,
        span: u32,
    },
    Detach(u8, u8),
    End(u8),
    Bytes(Vec<u8>),
}

/// Credits and windows, of which small ones are the interesting ones.
pub(super) fn few() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..4_u32, 2 => 4..40_u32, 1 => (0..3_u32).prop_map(|less| u32::MAX - less)]
}

fn size() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(0), 2 => 500..2500_u16]
}

fn near_the_wrap() -> impl Strategy<Value = u32> {
    (0..24_u32).prop_map(|number| number.wrapping_sub(12))
}

pub(super) fn client() -> impl Strategy<Value = Act> {
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

pub(super) fn hub() -> impl Strategy<Value = Act> {
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

pub(super) fn last() -> impl Strategy<Value = Act> {
    prop_oneof![Just(Act::Close), Just(Act::HubClose)]
}

pub(super) fn strange() -> impl Strategy<Value = Act> {
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
