//! What may happen: to the client, and by the hub. Each number picks among what there is just then.

#[cfg(feature = "fuzzing")]
use arbitrary::{Arbitrary, Result, Unstructured};

#[derive(Debug, Clone)]
#[cfg_attr(feature = "fuzzing", derive(Arbitrary))]
pub(in crate::client) enum Act {
    // The client's side.
    Begin,
    AttachSender(u8),
    AttachReceiver(
        u8,
        #[cfg_attr(feature = "fuzzing", arbitrary(with = few))] u32,
    ),
    /// On which link, and how large.
    Send(
        u8,
        #[cfg_attr(feature = "fuzzing", arbitrary(with = size))] u16,
    ),
    SendSettled(
        u8,
        #[cfg_attr(feature = "fuzzing", arbitrary(with = size))] u16,
    ),
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
    Serve(#[cfg_attr(feature = "fuzzing", arbitrary(with = few))] u32),
    AnswerBegin {
        which: u8,
        channel: u8,
        #[cfg_attr(feature = "fuzzing", arbitrary(with = few))]
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
        #[cfg_attr(feature = "fuzzing", arbitrary(with = few))]
        window: u32,
        echo: bool,
    },
    Credit {
        link: u8,
        #[cfg_attr(feature = "fuzzing", arbitrary(with = few))]
        credit: u32,
        lag: u8,
        drain: bool,
        echo: bool,
    },
    Message {
        link: u8,
        #[cfg_attr(feature = "fuzzing", arbitrary(with = frames))]
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
#[cfg_attr(feature = "fuzzing", derive(Arbitrary))]
pub(in crate::client) enum Strange {
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

/// Small numbers mostly, and the largest: those of credits, windows and spans that are interesting.
#[cfg(feature = "fuzzing")]
pub(super) fn few(from: &mut Unstructured<'_>) -> Result<u32> {
    Ok(match from.arbitrary()? {
        less @ 250..=255_u8 => u32::MAX - u32::from(255 - less),
        number => u32::from(number % 40),
    })
}

/// Sizes of messages, up to a few frames.
#[cfg(feature = "fuzzing")]
fn size(from: &mut Unstructured<'_>) -> Result<u16> {
    let tenth: u8 = from.arbitrary()?;
    Ok(u16::from(tenth) * 10)
}

/// Frames of a message from the hub.
#[cfg(feature = "fuzzing")]
fn frames(from: &mut Unstructured<'_>) -> Result<u8> {
    from.int_in_range(1..=3)
}
