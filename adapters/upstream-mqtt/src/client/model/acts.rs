//! What may happen: to the client, and by the broker. Each number picks among what there is just then.

#[cfg(feature = "fuzzing")]
use arbitrary::Arbitrary;

#[derive(Debug, Clone)]
#[cfg_attr(feature = "fuzzing", derive(Arbitrary))]
pub(in crate::client) enum Act {
    // The client's side.
    /// How large.
    Publish(u8),
    /// How many at once: all or none.
    PublishAll(u8),
    /// To how many filters.
    Subscribe(u8),
    Unsubscribe(u8),
    /// Nobody waits for this answer any more.
    Cancel(u8),
    /// Which message of those that came.
    Acknowledge(u8),
    /// Lets one go.
    Forget(u8),
    /// Takes nothing new, and waits for what is open.
    Close,
    /// Polls all that were woken.
    Run,
    /// Writes what has gathered, which the broker reads.
    Write,
    /// Has the client read so many bytes; the most is all.
    Hear(u8),
    /// Has so many seconds pass.
    Pass(u8),
    // The broker's side.
    /// Answers one of the packets that it has read. Reason codes are those of version 5.
    Answer(u8, u8),
    /// Sends a message at least once, if its window has room.
    Deliver(u8),
    /// Sends a message at most once.
    Tell(u8),
    /// Sends one again that is not acknowledged, as brokers before version 5 may.
    Again(u8),
    Pong,
    /// Ends the connection with this reason, which only brokers of version 5 can.
    Goodbye(u8),
    // What no broker should do.
    Strange(Strange),
}

#[derive(Debug, Clone)]
#[cfg_attr(feature = "fuzzing", derive(Arbitrary))]
pub(in crate::client) enum Strange {
    /// Answers anything, in any way.
    Answer {
        kind: u8,
        id: u8,
        code: u8,
    },
    /// Sends a message whatever there is room for, under any identifier.
    Deliver {
        id: u8,
        duplicate: bool,
    },
    ConnAck,
    Goodbye(u8),
    Bytes(Vec<u8>),
}
